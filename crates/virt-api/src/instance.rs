//! What an instance's state allows: console, vnc, pause, unpause and soft reboot. Pure; the words are KubeVirt's.

use kubevirt_types::vmi::VirtualMachineInstanceStatus;
use kubevirt_types::{VirtualMachineInstance, VmiPhase, condition};

use crate::refusal::{Refusal, Subject};

/// A stream of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Stream {
    Console,
    Vnc,
}

impl Stream {
    /// The subresource.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Console => "console",
            Stream::Vnc => "vnc",
        }
    }
}

/// What is done to a running instance by its virt-handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    Pause,
    Unpause,
    SoftReboot,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 3] = [Action::Pause, Action::Unpause, Action::SoftReboot];

    /// The subresource.
    pub fn name(self) -> &'static str {
        match self {
            Action::Pause => "pause",
            Action::Unpause => "unpause",
            Action::SoftReboot => "softreboot",
        }
    }
}

fn status(vmi: &VirtualMachineInstance) -> VirtualMachineInstanceStatus {
    vmi.status.clone().unwrap_or_default()
}

/// The node on which an instance's stream is to be had.
///
/// `VMI is not running` must be a 400: it is the one code on which `virtctl console` waits.
pub fn stream_node(vmi: &VirtualMachineInstance, stream: Stream) -> Result<String, Refusal> {
    let devices = &vmi.spec.domain.devices;
    let phase = status(vmi).phase;
    match stream {
        Stream::Console if devices.autoattach_serial_console == Some(false) => {
            return Err(Refusal::bad_request("No serial consoles are present."));
        }
        Stream::Vnc if devices.autoattach_graphics_device == Some(false) => {
            return Err(Refusal::bad_request("No graphics devices are present."));
        }
        Stream::Console if phase == VmiPhase::Failed => {
            return Err(Refusal::conflict(Subject::vmi(vmi.name()), "VMI is in failed status"));
        }
        Stream::Console | Stream::Vnc => {}
    }
    if phase != VmiPhase::Running {
        return Err(Refusal::bad_request("VMI is not running"));
    }
    node(vmi)
}

/// The node on which something is to be done to an instance.
pub fn action_node(vmi: &VirtualMachineInstance, action: Action) -> Result<String, Refusal> {
    let status = status(vmi);
    let conflict = |why: &str| Err(Refusal::conflict(Subject::vmi(vmi.name()), why));
    if status.phase != VmiPhase::Running {
        return conflict("VM is not running");
    }
    match (action, condition::is_true(&status.conditions, "Paused")) {
        (Action::Pause, true) => conflict("VMI is already paused"),
        (Action::Unpause, false) => conflict("VMI is not paused"),
        (Action::SoftReboot, true) => conflict("VMI is paused"),
        (Action::Pause | Action::SoftReboot, false) | (Action::Unpause, true) => node(vmi),
    }
}

fn node(vmi: &VirtualMachineInstance) -> Result<String, Refusal> {
    let node = status(vmi).node_name.filter(|node| !node.is_empty());
    node.ok_or_else(|| {
        Refusal::bad_request("Unable to connect to VirtualMachineInstance: it has no node yet")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn vmi(devices: Value, status: Value) -> VirtualMachineInstance {
        serde_json::from_value(json!({"metadata": {"name": "a"},
            "spec": {"domain": {"devices": devices}}, "status": status}))
        .unwrap()
    }

    fn said(result: Result<String, Refusal>) -> String {
        result.unwrap_or_else(|refusal| format!("{} {}", refusal.code.as_u16(), refusal.message))
    }

    #[test]
    fn streams() {
        let running = json!({"phase": "Running", "nodeName": "n"});
        let failed = json!({"phase": "Failed", "nodeName": "n"});
        let conflict = r#"409 Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io "a": VMI is in failed status"#;
        for (stream, devices, status, expected) in [
            (Stream::Console, json!({}), running.clone(), "n"),
            (Stream::Vnc, json!({}), running.clone(), "n"),
            (
                Stream::Console,
                json!({"autoattachSerialConsole": false}),
                running.clone(),
                "400 No serial consoles are present.",
            ),
            (
                Stream::Vnc,
                json!({"autoattachGraphicsDevice": false}),
                running.clone(),
                "400 No graphics devices are present.",
            ),
            (Stream::Vnc, json!({"autoattachSerialConsole": false}), running, "n"),
            (Stream::Console, json!({}), failed.clone(), conflict),
            (Stream::Vnc, json!({}), failed, "400 VMI is not running"),
            (Stream::Console, json!({}), json!({"phase": "Scheduled"}), "400 VMI is not running"),
            (Stream::Console, json!({}), json!({}), "400 VMI is not running"),
            (
                Stream::Console,
                json!({}),
                json!({"phase": "Running"}),
                "400 Unable to connect to VirtualMachineInstance: it has no node yet",
            ),
        ] {
            assert_eq!(
                said(stream_node(&vmi(devices.clone(), status.clone()), stream)),
                expected,
                "{devices} {status}"
            );
        }
    }

    #[test]
    fn actions() {
        let of = |phase: &str, paused: &str| {
            vmi(
                json!({}),
                json!({"phase": phase, "nodeName": "n", "conditions": [{"type": "Paused", "status": paused}]}),
            )
        };
        let conflict = |why: &str| {
            format!(r#"409 Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io "a": {why}"#)
        };
        for (action, phase, paused, expected) in [
            (Action::Pause, "Running", "False", "n".to_owned()),
            (Action::Pause, "Running", "True", conflict("VMI is already paused")),
            (Action::Pause, "Scheduled", "False", conflict("VM is not running")),
            (Action::Unpause, "Running", "True", "n".to_owned()),
            (Action::Unpause, "Running", "False", conflict("VMI is not paused")),
            (Action::SoftReboot, "Running", "False", "n".to_owned()),
            (Action::SoftReboot, "Running", "True", conflict("VMI is paused")),
            (Action::SoftReboot, "Succeeded", "False", conflict("VM is not running")),
        ] {
            assert_eq!(
                said(action_node(&of(phase, paused), action)),
                expected,
                "{action:?} {phase} {paused}"
            );
        }
    }
}
