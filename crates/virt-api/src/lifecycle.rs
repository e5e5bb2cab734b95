//! What start, stop and restart change, given the VM and its instance: pure.
//!
//! Which state allows what, and the words of a refusal, are KubeVirt's. The patches test what was
//! read, so that a change in between is seen.

use std::collections::BTreeMap;

use json_patch::Patch;
use kubevirt_types::vm::{RunStrategy, START_PAUSED, StateChangeAction, StateChangeRequest};
use kubevirt_types::vmi::MAX_GRACE_SECONDS;
use kubevirt_types::{VirtualMachine, VirtualMachineInstance, VmiPhase};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::refusal::{Refusal, Subject};

/// What is asked of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    Start,
    Stop,
    Restart,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 3] = [Action::Start, Action::Stop, Action::Restart];

    /// The subresource.
    pub fn name(self) -> &'static str {
        match self {
            Action::Start => "start",
            Action::Stop => "stop",
            Action::Restart => "restart",
        }
    }
}

/// Options of a request: those of start, stop, restart and migrate together, and of pause and unpause.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Options {
    /// For a start: the guest waits to be unpaused.
    #[serde(default)]
    paused: bool,
    /// For a stop: another grace period.
    grace_period: Option<i64>,
    /// For a restart: another grace period.
    grace_period_seconds: Option<i64>,
    /// For a migration: labels that the target's node must have.
    #[serde(default)]
    added_node_selector: BTreeMap<String, String>,
    /// `All`: change nothing.
    #[serde(default)]
    dry_run: Vec<String>,
}

impl Options {
    /// Reads a request's body; an empty one has no options.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let options: Option<Self> = serde_json::from_slice(body).map_err(|error| {
            Refusal::bad_request(format!("Can not unmarshal Request body to struct, error: {error}"))
        })?;
        let options = options.unwrap_or_default();
        match options.dry_run.iter().find(|value| *value != "All") {
            Some(other) => Err(Refusal::bad_request(format!(
                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))),
            None => Ok(options),
        }
    }

    /// Whether the guest is to wait until it is unpaused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Labels that a migration's target must have beyond what the instance asks for.
    pub fn added_node_selector(&self) -> &BTreeMap<String, String> {
        &self.added_node_selector
    }

    /// Whether nothing may be changed.
    pub fn is_dry_run(&self) -> bool {
        !self.dry_run.is_empty()
    }
}

/// What a patch goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Target {
    Vm,
    VmStatus,
    Vmi,
}

/// One patch; steps are taken in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What it goes to.
    pub target: Target,
    /// What it changes.
    pub patch: Patch,
    /// What takes it back when a later step fails.
    pub undo: Option<Patch>,
}

impl Step {
    fn new(target: Target, operations: Value) -> Self {
        Self { target, patch: patch(operations), undo: None }
    }
}

fn patch(operations: Value) -> Patch {
    serde_json::from_value(operations).expect("operations written here are operations")
}

/// What has to be changed so that an action is carried out.
pub fn decide(
    action: Action,
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
    options: &Options,
) -> Result<Vec<Step>, Refusal> {
    match action {
        Action::Start => start(vm, vmi, options),
        Action::Stop => stop(vm, vmi, options),
        Action::Restart => restart(vm, vmi, options),
    }
}

fn phase(vmi: &VirtualMachineInstance) -> VmiPhase {
    vmi.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

fn conflict(vm: &VirtualMachine, why: impl AsRef<str>) -> Refusal {
    Refusal::conflict(Subject::vm(vm.name()), why)
}

/// Whether there is a guest that could move. It is the VM that was asked to.
pub fn movable(vm: &VirtualMachine, vmi: &VirtualMachineInstance) -> Result<(), Refusal> {
    match phase(vmi) {
        VmiPhase::Running => Ok(()),
        VmiPhase::Unset
        | VmiPhase::Pending
        | VmiPhase::Scheduling
        | VmiPhase::Scheduled
        | VmiPhase::Unknown
        | VmiPhase::Succeeded
        | VmiPhase::Failed => Err(conflict(vm, "VM is not running")),
    }
}

fn start(
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
    options: &Options,
) -> Result<Vec<Step>, Refusal> {
    let runs = |vmi: &VirtualMachineInstance| match phase(vmi) {
        VmiPhase::Pending | VmiPhase::Scheduling | VmiPhase::Scheduled | VmiPhase::Running => true,
        VmiPhase::Unset | VmiPhase::Unknown | VmiPhase::Succeeded | VmiPhase::Failed => false,
    };
    if vmi.is_some_and(runs) {
        return Err(conflict(vm, "VM is already running"));
    }
    let strategy = vm.spec.effective_run_strategy();
    let ended = vmi.filter(|vmi| phase(vmi).is_final());
    let start = start_request(options.paused);
    match (strategy, ended) {
        // That it begins paused is said of this one start, and the spec can't say so.
        (RunStrategy::Halted, _) if options.paused => Ok(vec![request(vm, vec![start])?]),
        (RunStrategy::Halted, _) => Ok(vec![run(vm, true)]),
        (RunStrategy::RerunOnFailure, Some(vmi)) if phase(vmi) == VmiPhase::Failed => {
            Err(conflict(vm, "RerunOnFailure does not support starting VM from failed state"))
        }
        (RunStrategy::Manual | RunStrategy::RerunOnFailure, Some(vmi)) => {
            Ok(vec![request(vm, vec![stop_request(vmi), start])?])
        }
        (RunStrategy::Manual | RunStrategy::RerunOnFailure, None) => Ok(vec![request(vm, vec![start])?]),
        (RunStrategy::Always | RunStrategy::Once, _) => {
            Err(conflict(vm, format!("{strategy:?} does not support manual start requests")))
        }
    }
}

fn stop(
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
    options: &Options,
) -> Result<Vec<Step>, Refusal> {
    if options.grace_period.is_some_and(|seconds| seconds < 0) {
        return Err(Refusal::bad_request("gracePeriod has to be greater or equal to 0"));
    }
    if options.grace_period.is_some_and(|seconds| seconds > MAX_GRACE_SECONDS) {
        return Err(Refusal::bad_request(format!("gracePeriod has to be at most {MAX_GRACE_SECONDS}")));
    }
    let running = vmi.filter(|vmi| !phase(vmi).is_final());
    let mut steps: Vec<Step> =
        running.zip(options.grace_period).map(|(vmi, seconds)| grace(vmi, seconds)).into_iter().collect();
    match (vm.spec.effective_run_strategy(), running) {
        (RunStrategy::Always | RunStrategy::Once, _) => steps.push(run(vm, false)),
        (RunStrategy::Halted | RunStrategy::Manual | RunStrategy::RerunOnFailure, None) => {
            return Err(conflict(vm, "VM is not running"));
        }
        (RunStrategy::Halted, Some(vmi)) => {
            let shorter = options.grace_period.is_some_and(|seconds| {
                vmi.spec.termination_grace_period_seconds.is_none_or(|current| seconds < current)
            });
            if !shorter {
                let why = "Halted only supports manual stop requests with a shorter graceperiod";
                return Err(conflict(vm, why));
            }
        }
        (RunStrategy::Manual | RunStrategy::RerunOnFailure, Some(vmi)) => {
            steps.push(request(vm, vec![stop_request(vmi)])?);
        }
    }
    Ok(steps)
}

fn restart(
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
    options: &Options,
) -> Result<Vec<Step>, Refusal> {
    match options.grace_period_seconds {
        Some(1..) => {
            let why = "For force restart, only gracePeriod=0 is supported for now";
            return Err(Refusal::bad_request(why));
        }
        Some(..0) => return Err(Refusal::bad_request("gracePeriod has to be greater or equal to 0")),
        Some(0) | None => {}
    }
    match (vm.spec.effective_run_strategy(), vmi) {
        (strategy @ (RunStrategy::Halted | RunStrategy::Once), _) => {
            // The spelling is KubeVirt's.
            Err(conflict(vm, format!("RunStategy {strategy:?} does not support manual restart requests")))
        }
        (RunStrategy::Always | RunStrategy::Manual | RunStrategy::RerunOnFailure, None) => {
            Err(conflict(vm, "VM is not running: Halted"))
        }
        (RunStrategy::Always | RunStrategy::Manual | RunStrategy::RerunOnFailure, Some(vmi)) => {
            let mut steps: Vec<Step> =
                options.grace_period_seconds.map(|seconds| grace(vmi, seconds)).into_iter().collect();
            steps.push(request(vm, vec![stop_request(vmi), start_request(false)])?);
            Ok(steps)
        }
    }
}

/// Turns a VM on or off in the field in which its user does.
fn run(vm: &VirtualMachine, on: bool) -> Step {
    let strategy = if on { RunStrategy::Always } else { RunStrategy::Halted };
    let (field, current, wanted) = match (vm.spec.run_strategy, vm.spec.running) {
        (None, Some(running)) => ("running", json!(running), json!(on)),
        (current, _) => ("runStrategy", json!(current), json!(strategy)),
    };
    let path = format!("/spec/{field}");
    let operations = json!([
        {"op": "test", "path": path, "value": current},
        {"op": "add", "path": path, "value": wanted},
    ]);
    Step::new(Target::Vm, operations)
}

fn start_request(paused: bool) -> StateChangeRequest {
    let data = paused.then(|| [(START_PAUSED.to_owned(), "true".to_owned())].into());
    StateChangeRequest { action: StateChangeAction::Start, uid: None, data }
}

fn stop_request(vmi: &VirtualMachineInstance) -> StateChangeRequest {
    StateChangeRequest { action: StateChangeAction::Stop, uid: Some(vmi.uid().to_owned()), data: None }
}

/// Leaves requests for virt-controller. A lone stop takes the place of what is asked for already;
/// anything else waits its turn.
fn request(vm: &VirtualMachine, requests: Vec<StateChangeRequest>) -> Result<Step, Refusal> {
    let Some(status) = &vm.status else {
        let operations = json!([
            {"op": "test", "path": "/status", "value": null},
            {"op": "add", "path": "/status", "value": {"stateChangeRequests": requests}},
        ]);
        return Ok(Step::new(Target::VmStatus, operations));
    };
    let lone_stop = matches!(requests.as_slice(), [only] if only.action == StateChangeAction::Stop);
    let pending = &status.state_change_requests;
    if !pending.is_empty() && !lone_stop {
        // KubeVirt answers 500 here; it is a conflict, and clients may try again.
        return Err(conflict(vm, "unable to complete request: stop/start already underway"));
    }
    let path = "/status/stateChangeRequests";
    let current = if pending.is_empty() { Value::Null } else { json!(pending) };
    let mut operations = vec![
        json!({"op": "test", "path": path, "value": current}),
        json!({"op": "add", "path": path, "value": requests}),
    ];
    if status.start_failure.is_some() {
        operations.push(json!({"op": "remove", "path": "/status/startFailure"}));
    }
    Ok(Step::new(Target::VmStatus, Value::Array(operations)))
}

/// Gives a running instance another grace period.
fn grace(vmi: &VirtualMachineInstance, seconds: i64) -> Step {
    let path = "/spec/terminationGracePeriodSeconds";
    let current = vmi.spec.termination_grace_period_seconds;
    let undo = match current {
        Some(current) => json!([{"op": "add", "path": path, "value": current}]),
        None => json!([{"op": "remove", "path": path}]),
    };
    let operations = json!([
        {"op": "test", "path": path, "value": current},
        {"op": "add", "path": path, "value": seconds},
    ]);
    Step { undo: Some(patch(undo)), ..Step::new(Target::Vmi, operations) }
}

#[cfg(test)]
mod tests;
