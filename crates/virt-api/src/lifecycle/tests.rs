//! Start, stop and restart, for every run strategy and state.

use super::*;

fn vm(spec: Value, status: Value) -> VirtualMachine {
    let mut vm = json!({"metadata": {"name": "a"}, "spec": {"template": {}}});
    json_patch::merge(&mut vm["spec"], &spec);
    if !status.is_null() {
        vm["status"] = status;
    }
    serde_json::from_value(vm).unwrap()
}

fn vmi(phase: &str) -> VirtualMachineInstance {
    serde_json::from_value(json!({"metadata": {"name": "a", "uid": "u1"},
        "spec": {"domain": {}, "terminationGracePeriodSeconds": 30}, "status": {"phase": phase}}))
    .unwrap()
}

/// What comes out: the refusal, or each step as target and patch.
fn outcome(
    action: Action,
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
    options: Value,
) -> Vec<String> {
    let options = Options::parse(options.to_string().as_bytes()).unwrap();
    match decide(action, vm, vmi, &options) {
        Ok(steps) => steps
            .iter()
            .map(|s| format!("{:?} {}", s.target, serde_json::to_string(&s.patch).unwrap()))
            .collect(),
        Err(refusal) => vec![format!("{} {}", refusal.code.as_u16(), refusal.message)],
    }
}

fn conflicts(why: &str) -> Vec<String> {
    vec![format!("409 Operation cannot be fulfilled on virtualmachine.kubevirt.io \"a\": {why}")]
}

fn always() -> Value {
    json!({"runStrategy": "Always"})
}
fn halted() -> Value {
    json!({"runStrategy": "Halted"})
}
fn manual() -> Value {
    json!({"runStrategy": "Manual"})
}
fn rerun() -> Value {
    json!({"runStrategy": "RerunOnFailure"})
}
fn once() -> Value {
    json!({"runStrategy": "Once"})
}

const START: &str = r#"{"action":"Start"}"#;
const START_PAUSED: &str = r#"{"action":"Start","data":{"paused":"true"}}"#;
const STOP: &str = r#"{"action":"Stop","uid":"u1"}"#;

fn requested(requests: &[&str]) -> Vec<String> {
    vec![format!(
        r#"VmStatus [{{"op":"test","path":"/status/stateChangeRequests","value":null}},{{"op":"add","path":"/status/stateChangeRequests","value":[{}]}}]"#,
        requests.join(",")
    )]
}

fn set(field: &str, from: &str, to: &str) -> Vec<String> {
    vec![format!(
        r#"Vm [{{"op":"test","path":"/spec/{field}","value":{from}}},{{"op":"add","path":"/spec/{field}","value":{to}}}]"#
    )]
}

#[test]
fn start() {
    let (ended, failed, running, unset) = (vmi("Succeeded"), vmi("Failed"), vmi("Running"), vmi(""));
    let cases = [
        (halted(), None, set("runStrategy", r#""Halted""#, r#""Always""#)),
        (json!({"running": false}), None, set("running", "false", "true")),
        (halted(), Some(&unset), set("runStrategy", r#""Halted""#, r#""Always""#)),
        (halted(), Some(&running), conflicts("VM is already running")),
        (always(), Some(&running), conflicts("VM is already running")),
        (always(), None, conflicts("Always does not support manual start requests")),
        (json!({"running": true}), None, conflicts("Always does not support manual start requests")),
        (once(), None, conflicts("Once does not support manual start requests")),
        (once(), Some(&ended), conflicts("Once does not support manual start requests")),
        (once(), Some(&running), conflicts("VM is already running")),
        (manual(), None, requested(&[START])),
        (manual(), Some(&failed), requested(&[STOP, START])),
        (manual(), Some(&ended), requested(&[STOP, START])),
        (rerun(), None, requested(&[START])),
        (rerun(), Some(&ended), requested(&[STOP, START])),
        (rerun(), Some(&failed), conflicts("RerunOnFailure does not support starting VM from failed state")),
    ];
    for (spec, instance, expected) in cases {
        let vm = vm(spec.clone(), json!({"created": false}));
        assert_eq!(outcome(Action::Start, &vm, instance, json!({})), expected, "{spec}");
    }
}

#[test]
fn start_paused() {
    let (ended, running) = (vmi("Succeeded"), vmi("Running"));
    let cases = [
        (halted(), None, requested(&[START_PAUSED])),
        (json!({"running": false}), None, requested(&[START_PAUSED])),
        (halted(), Some(&running), conflicts("VM is already running")),
        (always(), None, conflicts("Always does not support manual start requests")),
        (manual(), None, requested(&[START_PAUSED])),
        (manual(), Some(&ended), requested(&[STOP, START_PAUSED])),
        (rerun(), None, requested(&[START_PAUSED])),
    ];
    for (spec, instance, expected) in cases {
        let vm = vm(spec.clone(), json!({"created": false}));
        assert_eq!(outcome(Action::Start, &vm, instance, json!({"paused": true})), expected, "{spec}");
    }
}

#[test]
fn stop() {
    let (ended, running) = (vmi("Succeeded"), vmi("Running"));
    let off = set("runStrategy", r#""Always""#, r#""Halted""#);
    let shorter = |seconds: u32| {
        format!(
            r#"Vmi [{{"op":"test","path":"/spec/terminationGracePeriodSeconds","value":30}},{{"op":"add","path":"/spec/terminationGracePeriodSeconds","value":{seconds}}}]"#
        )
    };
    let only_shorter = conflicts("Halted only supports manual stop requests with a shorter graceperiod");
    let cases = [
        (always(), Some(&running), json!({}), off.clone()),
        (always(), None, json!({}), off.clone()),
        (always(), Some(&running), json!({"gracePeriod": 0}), [vec![shorter(0)], off].concat()),
        (json!({"running": true}), Some(&running), json!({}), set("running", "true", "false")),
        (once(), Some(&running), json!({}), set("runStrategy", r#""Once""#, r#""Halted""#)),
        (once(), None, json!({}), set("runStrategy", r#""Once""#, r#""Halted""#)),
        (halted(), None, json!({}), conflicts("VM is not running")),
        (halted(), Some(&ended), json!({}), conflicts("VM is not running")),
        (halted(), Some(&running), json!({}), only_shorter.clone()),
        (halted(), Some(&running), json!({"gracePeriod": 30}), only_shorter),
        (halted(), Some(&running), json!({"gracePeriod": 5}), vec![shorter(5)]),
        (manual(), Some(&running), json!({}), requested(&[STOP])),
        (manual(), Some(&ended), json!({}), conflicts("VM is not running")),
        (rerun(), None, json!({}), conflicts("VM is not running")),
    ];
    for (spec, instance, options, expected) in cases {
        let vm = vm(spec.clone(), json!({"created": true}));
        assert_eq!(outcome(Action::Stop, &vm, instance, options.clone()), expected, "{spec} {options}");
    }
}

#[test]
fn restart() {
    let running = vmi("Running");
    let unsupported = conflicts("RunStategy Halted does not support manual restart requests");
    let only_zero = vec!["400 For force restart, only gracePeriod=0 is supported for now".to_owned()];
    let below = vec!["400 gracePeriod has to be greater or equal to 0".to_owned()];
    let cases = [
        (always(), Some(&running), json!({}), requested(&[STOP, START])),
        (manual(), Some(&running), json!({}), requested(&[STOP, START])),
        (always(), None, json!({}), conflicts("VM is not running: Halted")),
        (halted(), Some(&running), json!({}), unsupported),
        (
            once(),
            Some(&running),
            json!({}),
            conflicts("RunStategy Once does not support manual restart requests"),
        ),
        (always(), Some(&running), json!({"gracePeriodSeconds": 5}), only_zero),
        (always(), Some(&running), json!({"gracePeriodSeconds": -1}), below),
    ];
    for (spec, instance, options, expected) in cases {
        let vm = vm(spec.clone(), json!({"created": true}));
        assert_eq!(outcome(Action::Restart, &vm, instance, options.clone()), expected, "{spec} {options}");
    }
    let forced =
        outcome(Action::Restart, &vm(always(), json!({})), Some(&running), json!({"gracePeriodSeconds": 0}));
    assert_eq!(forced.len(), 2);
    assert!(forced[0].starts_with("Vmi "), "{forced:?}");
}

#[test]
fn requests_wait_their_turn_but_a_stop_goes_first() {
    let running = vmi("Running");
    let busy = vm(manual(), json!({"stateChangeRequests": [{"action": "Start"}], "startFailure": {}}));
    assert_eq!(
        outcome(Action::Restart, &busy, Some(&running), json!({})),
        conflicts("unable to complete request: stop/start already underway")
    );
    assert_eq!(
        outcome(Action::Stop, &busy, Some(&running), json!({})),
        [
            r#"VmStatus [{"op":"test","path":"/status/stateChangeRequests","value":[{"action":"Start"}]},{"op":"add","path":"/status/stateChangeRequests","value":[{"action":"Stop","uid":"u1"}]},{"op":"remove","path":"/status/startFailure"}]"#
        ]
    );
}

#[test]
fn a_vm_without_status_gets_one() {
    let steps = outcome(Action::Start, &vm(manual(), Value::Null), None, json!({}));
    assert_eq!(
        steps,
        [
            r#"VmStatus [{"op":"test","path":"/status","value":null},{"op":"add","path":"/status","value":{"stateChangeRequests":[{"action":"Start"}]}}]"#
        ]
    );
}

#[test]
fn only_what_runs_can_move() {
    let vm = vm(manual(), Value::Null);
    for (phase, runs) in [("Running", true), ("Scheduled", false), ("Succeeded", false), ("", false)] {
        let refusal = movable(&vm, &vmi(phase)).err();
        let said = refusal.map(|refusal| vec![format!("{} {}", refusal.code.as_u16(), refusal.message)]);
        assert_eq!(said, (!runs).then(|| conflicts("VM is not running")), "{phase}");
    }
    let options = Options::parse(br#"{"addedNodeSelector": {"zone": "b"}}"#).unwrap();
    assert_eq!(options.added_node_selector()["zone"], "b");
}

#[test]
fn options() {
    for (body, expected) in [
        ("", None),
        ("null", None),
        ("{}", None),
        (r#"{"dryRun": ["All"], "kind": "StartOptions"}"#, None),
        (r#"{"dryRun": ["Some"]}"#, Some(r#"dryRun: Unsupported value: "Some": supported values: "All""#)),
        ("x", Some("Can not unmarshal Request body to struct, error: expected value at line 1 column 1")),
    ] {
        let refusal = Options::parse(body.as_bytes()).err().map(|refusal| refusal.message);
        assert_eq!(refusal.as_deref(), expected, "{body}");
    }
    assert!(Options::parse(br#"{"dryRun": ["All"]}"#).unwrap().is_dry_run());
}
