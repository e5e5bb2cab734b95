//! What is refused, in which words, and that what is admitted is used as it is.

use kubevirt_types::Release;
use serde_json::{Value, json};

use super::*;
use crate::admission::{validate_create, validate_update};
use crate::observed::Operator;
use crate::stage::certificates::validity::Validity;

fn object(self_signed: Value) -> KubeVirt {
    serde_json::from_value(json!({
        "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
        "spec": {"certificateRotateStrategy": {"selfSigned": self_signed}},
    }))
    .unwrap()
}

fn empty() -> KubeVirt {
    serde_json::from_value(json!({"metadata": {"name": "kubevirt", "namespace": "kubevirt"}, "spec": {}}))
        .unwrap()
}

fn operator() -> Operator {
    Operator { release: Release::V0_18_0, registry: "registry".into(), namespace: "kubevirt".into() }
}

fn said(kubevirt: &KubeVirt) -> Vec<String> {
    let prefix = "spec.certificateRotateStrategy.selfSigned.";
    let errors = validate_create(kubevirt, false, &operator());
    errors.iter().map(|error| error.to_string().strip_prefix(prefix).unwrap().to_owned()).collect()
}

#[test]
fn refusals_name_the_field_the_value_and_what_is_allowed() {
    let unreadable =
        "expected a duration of hours, minutes and whole seconds, more than zero, such as 24h0m0s";
    let minutes = "a new certificate takes minutes to be in use everywhere";
    let table = [
        (json!({"ca": {"duration": "1 day"}}), vec![format!(r#"ca.duration: Invalid value: "1 day": {unreadable}"#)]),
        (
            json!({"ca": {"duration": "90m500ms"}, "server": {"duration": "30m", "renewBefore": "500ms"}}),
            vec![
                format!(r#"ca.duration: Invalid value: "90m500ms": {unreadable}"#),
                format!(r#"server.renewBefore: Invalid value: "500ms": {unreadable}"#),
            ],
        ),
        (
            json!({"server": {"duration": "1h", "renewBefore": "2h"}}),
            vec![r#"server.renewBefore: Invalid value: "2h0m0s": Cert RenewBefore cannot exceed Duration (1h0m0s)"#.into()],
        ),
        (
            json!({"ca": {"duration": "48h", "renewBefore": "49h"}}),
            vec![r#"ca.renewBefore: Invalid value: "49h0m0s": CA RenewBefore cannot exceed Duration (48h0m0s)"#.into()],
        ),
        (
            json!({"server": {"duration": "2h", "renewBefore": "2h"}}),
            vec![format!(
                r#"server.renewBefore: Invalid value: "2h0m0s": expected between 5m0s and 1h55m0s (5m0s less than the duration): {minutes}"#
            )],
        ),
        (
            json!({"ca": {"renewBefore": "167h55m1s"}}),
            vec![format!(
                r#"ca.renewBefore: Invalid value: "167h55m1s": expected between 5m0s and 167h55m0s (5m0s less than the duration): {minutes}"#
            )],
        ),
        (
            json!({"ca": {"duration": "24h", "renewBefore": "2m30s"}}),
            vec![format!(
                r#"ca.renewBefore: Invalid value: "2m30s": expected between 5m0s and 23h55m0s (5m0s less than the duration): {minutes}"#
            )],
        ),
        (
            json!({"ca": {"duration": "9m59s"}, "server": {"duration": "9m"}}),
            vec![
                format!(r#"ca.duration: Invalid value: "9m59s": expected between 10m0s and 876000h0m0s: {minutes}"#),
                format!(r#"server.duration: Invalid value: "9m0s": expected between 10m0s and 876000h0m0s: {minutes}"#),
            ],
        ),
        (
            json!({"ca": {"duration": "876000h1s"}}),
            vec![format!(
                r#"ca.duration: Invalid value: "876000h0m1s": expected between 10m0s and 876000h0m0s: {minutes}"#
            )],
        ),
        (
            json!({"ca": {"duration": "1h"}}),
            vec![r#"server.duration: Invalid value: "24h0m0s": Certificate duration cannot exceed CA (1h0m0s)"#.into()],
        ),
        // what is fine
        (json!({}), vec![]),
        (json!({"ca": {"duration": "24h"}}), vec![]),
        (json!({"ca": {"duration": "150h0m0s"}, "server": {"duration": "23h0m0s"}}), vec![]),
        (json!({"ca": {"duration": "140h0m0s"}, "server": {"duration": "22h0m0s"}}), vec![]),
        (json!({"ca": null, "server": null}), vec![]),
        (json!({"ca": {"duration": "12m"}, "server": {"duration": "10m"}}), vec![]),
        (json!({"server": {"duration": "2h", "renewBefore": "5m"}}), vec![]),
        (json!({"server": {"duration": "2h", "renewBefore": "1h55m"}}), vec![]),
        (json!({"server": {"duration": "7200000ms"}}), vec![]),
        (json!({"ca": {"duration": "876000h"}, "server": {"duration": "876000h"}}), vec![]),
    ];
    for (self_signed, want) in table {
        let kubevirt = object(self_signed);
        assert_eq!(said(&kubevirt), want, "{kubevirt:?}");
        let errors = validate_update(&empty(), &kubevirt, &operator());
        assert_eq!(errors, validate_create(&kubevirt, false, &operator()));
        let path = "spec.certificateRotateStrategy.selfSigned.";
        assert!(errors.iter().all(|error| error.field().starts_with(path)));
    }
}

#[test]
fn what_is_admitted_is_used_as_it_is() {
    let mut admitted = 0;
    let texts = [
        None,
        Some("1s"),
        Some("299s"),
        Some("300s"),
        Some("10m"),
        Some("599s"),
        Some("11m"),
        Some("1h"),
        Some("90m500ms"),
    ];
    for duration in texts {
        for renew_before in texts {
            let config = CertConfig {
                duration: duration.map(str::to_owned),
                renew_before: renew_before.map(str::to_owned),
            };
            let kubevirt = object(json!({"server": config}));
            if !said(&kubevirt).is_empty() {
                continue;
            }
            admitted += 1;
            let used = Validity::of(Some(&config), LEAF_DURATION);
            assert_eq!(used.duration, duration.map_or(LEAF_DURATION, |text| duration::parse(text).unwrap()));
            if let Some(text) = renew_before {
                assert_eq!(Some(used.renew_before), duration::parse(text));
            }
        }
    }
    assert!(admitted > 10, "{admitted}");
}

#[test]
fn what_was_stored_before_it_was_refused_keeps_nobody_from_an_update() {
    let old = object(json!({"server": {"duration": "2h", "renewBefore": "2h"}}));
    let mut new = old.clone();
    new.spec.image_tag = Some("v0.17.0".into());
    assert!(validate_update(&old, &new, &operator()).is_empty());
    new.spec.certificate_rotate_strategy =
        object(json!({"server": {"duration": "3h", "renewBefore": "3h"}})).spec.certificate_rotate_strategy;
    assert_eq!(validate_update(&old, &new, &operator()).len(), 1, "what is changed is judged");
}
