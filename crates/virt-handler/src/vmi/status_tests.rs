//! Statuses and patches as they go to the API server.

use kubevirt_types::VmiPhase;
use serde_json::json;

use super::decide::PodFacts;
use super::decide_tests::{NODE, now, vmi};
use super::knowledge::{Domain, DomainInterface, DomainState};
use super::status;

fn pod() -> PodFacts {
    PodFacts { ips: vec!["10.0.0.7".into(), "fd00::7".into()], deleting: false }
}

#[test]
fn running_writes_what_people_look_for_and_nothing_else() {
    let vmi = vmi(VmiPhase::Scheduled);
    let wanted = status::running(&vmi, NODE, &Domain::in_state(DomainState::Running), Some(&pod()), now());
    insta::assert_yaml_snapshot!(status::patch(&vmi, &wanted).unwrap());
}

#[test]
fn what_is_so_is_not_written() {
    let mut vmi = vmi(VmiPhase::Scheduled);
    let domain = Domain::in_state(DomainState::Running);
    vmi.status = Some(status::running(&vmi, NODE, &domain, Some(&pod()), now()));
    let later = now() + jiff::SignedDuration::from_hours(1);
    let wanted = status::running(&vmi, NODE, &domain, Some(&pod()), later);
    assert_eq!(status::patch(&vmi, &wanted), None);
}

#[test]
fn paused_comes_and_goes() {
    let mut vmi = vmi(VmiPhase::Running);
    let paused = status::running(&vmi, NODE, &Domain::in_state(DomainState::Paused), Some(&pod()), now());
    let conditions: Vec<_> =
        paused.conditions.iter().map(|c| (c.type_.as_str(), format!("{:?}", c.status))).collect();
    let said = |type_, status: &str| (type_, status.to_owned());
    assert_eq!(conditions, [said("LiveMigratable", "False"), said("Paused", "True"), said("Ready", "False")]);
    vmi.status = Some(paused);
    let again = status::running(&vmi, NODE, &Domain::in_state(DomainState::Running), Some(&pod()), now());
    assert!(again.conditions.iter().all(|c| c.type_ != "Paused"));
    assert!(kubevirt_types::condition::is_true(&again.conditions, "Ready"));
}

#[test]
fn the_macs_are_the_launchers_and_interfaces_outlive_an_unseen_pod() {
    let mut vmi = vmi(VmiPhase::Running);
    let mut domain = Domain::in_state(DomainState::Running);
    domain.interfaces = vec![DomainInterface { name: "default".into(), mac: "02:aa".into() }];
    vmi.status = Some(status::running(&vmi, NODE, &domain, Some(&pod()), now()));
    let unseen = status::running(&vmi, NODE, &domain, None, now());
    assert_eq!(unseen.interfaces[0].mac.as_deref(), Some("02:aa"));
    assert_eq!(unseen.interfaces[0].ip_addresses, ["10.0.0.7", "fd00::7"]);
}

#[test]
fn a_failed_sync_is_said_until_it_runs() {
    let mut vmi = vmi(VmiPhase::Scheduled);
    vmi.status = Some(status::sync_failed(&vmi, "no such machine type", now()));
    assert_eq!(vmi.status.as_ref().unwrap().conditions[0].message.as_deref(), Some("no such machine type"));
    let running = status::running(&vmi, NODE, &Domain::in_state(DomainState::Running), Some(&pod()), now());
    assert!(running.conditions.iter().all(|c| c.type_ != "Synchronized"));
}

#[test]
fn the_end_keeps_what_others_wrote_and_a_patch_names_its_version() {
    let mut vmi = vmi(VmiPhase::Running);
    vmi.status.as_mut().unwrap().qos_class = Some("Burstable".into());
    let wanted = status::ended(&vmi, VmiPhase::Failed, "QemuExited", now());
    assert_eq!(wanted.qos_class.as_deref(), Some("Burstable"));
    let patch = status::patch(&vmi, &wanted).unwrap();
    assert_eq!(patch["metadata"], json!({"resourceVersion": "7", "uid": "u-1"}));
    assert_eq!(patch["status"]["reason"], "QemuExited");
    assert!(patch["status"].get("qosClass").is_none() && patch.get("spec").is_none());
}

#[test]
fn whether_it_can_be_moved_and_what_machine_it_is_are_the_launchers_to_say() {
    let vmi = vmi(VmiPhase::Running);
    for (can_move, why_not, expected) in [
        (false, "", ("False", Some("LauncherNotLiveMigratable"))),
        (true, "", ("True", None)),
        (true, "volume data is an emptyDisk", ("False", Some("DisksNotLiveMigratable"))),
    ] {
        let mut domain = Domain::in_state(DomainState::Running);
        (domain.can_move, domain.not_migratable) = (can_move, why_not.into());
        domain.machine_type = "pc-q35-7.2".into();
        let status = status::running(&vmi, NODE, &domain, Some(&pod()), now());
        let said = status.conditions.iter().find(|c| c.type_ == "LiveMigratable").unwrap();
        assert_eq!((format!("{:?}", said.status).as_str(), said.reason.as_deref()), expected);
        assert!(!can_move || said.message.as_deref().unwrap_or_default() == why_not);
        assert_eq!(status.machine.unwrap().type_.as_deref(), Some("pc-q35-7.2"));
    }
}
