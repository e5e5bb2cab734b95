//! What admission fills in because it must not change later: another release, or another replica
//! of a controller, might choose differently.
//!
//! Works on JSON, as the object isn't checked against its schema yet. What has the wrong type is
//! left for that check to name.

use serde_json::{Map, Value, json};

/// QEMU machine type of a guest that names none, where the KubeVirt object names none either.
pub const MACHINE_TYPE: &str = "q35";
/// How long a guest has to shut down.
const GRACE_PERIOD_SECONDS: i64 = 30;
/// Name of the interface and network of a guest that names none.
const POD_NETWORK: &str = "default";

/// Fills in an instance's spec. `old` is the spec before a change: what it had and the new one has
/// lost (a `kubectl replace` does that) comes back instead of being drawn again. `draw` gives random bytes.
pub fn fill(spec: &mut Value, old: &Value, machine_type: &str, draw: &mut dyn FnMut(&mut [u8])) {
    let Some(spec) = spec.as_object_mut() else { return };
    set_missing(spec, "terminationGracePeriodSeconds", || {
        let kept = old.get("terminationGracePeriodSeconds").cloned();
        kept.unwrap_or_else(|| json!(GRACE_PERIOD_SECONDS))
    });
    let networks_named = is_named(spec.get("networks"));
    let Some(domain) = object(spec, "domain") else { return };
    if let Some(machine) = object(domain, "machine") {
        set_missing(machine, "type", || {
            kept(old, "/domain/machine/type").unwrap_or_else(|| json!(machine_type))
        });
    }
    if let Some(firmware) = object(domain, "firmware") {
        set_missing(firmware, "uuid", || {
            kept(old, "/domain/firmware/uuid").unwrap_or_else(|| json!(uuid_v4(draw)))
        });
    }
    let Some(devices) = object(domain, "devices") else { return };
    let autoattach = devices.get("autoattachPodInterface") != Some(&Value::Bool(false));
    let add_default = autoattach && !networks_named && !is_named(devices.get("interfaces"));
    if add_default {
        devices.insert("interfaces".into(), json!([{"name": POD_NETWORK, "masquerade": {}}]));
    }
    let old_interfaces = old.pointer("/domain/devices/interfaces").and_then(Value::as_array);
    for interface in devices.get_mut("interfaces").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(interface) = interface.as_object_mut() else { continue };
        let name = interface.get("name").cloned();
        let before = old_interfaces.into_iter().flatten().find(|i| i.get("name") == name.as_ref());
        set_missing(interface, "macAddress", || {
            before.and_then(|i| i.get("macAddress").cloned()).unwrap_or_else(|| json!(mac_address(draw)))
        });
    }
    if add_default {
        spec.insert("networks".into(), json!([{"name": POD_NETWORK, "pod": {}}]));
    }
}

fn kept(old: &Value, pointer: &str) -> Option<Value> {
    old.pointer(pointer).filter(|value| !is_blank(value)).cloned()
}

fn is_blank(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

fn is_named(list: Option<&Value>) -> bool {
    list.is_some_and(|list| !list.is_null() && list.as_array().is_none_or(|items| !items.is_empty()))
}

fn set_missing(map: &mut Map<String, Value>, key: &str, value: impl FnOnce() -> Value) {
    if map.get(key).is_none_or(is_blank) {
        map.insert(key.into(), value());
    }
}

/// The object at `key`, made where it is missing; none where something else stands.
fn object<'a>(map: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.into(), json!({}));
    }
    map.get_mut(key).and_then(Value::as_object_mut)
}

fn uuid_v4(draw: &mut dyn FnMut(&mut [u8])) -> String {
    let mut b = [0u8; 16];
    draw(&mut b);
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Random, unicast, locally administered.
fn mac_address(draw: &mut dyn FnMut(&mut [u8])) -> String {
    let mut b = [0u8; 6];
    draw(&mut b);
    b[0] = b[0] & 0xfc | 0x02;
    b.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(mut spec: Value, old: Value) -> Value {
        let mut next = 0xf0u8;
        fill(&mut spec, &old, MACHINE_TYPE, &mut |bytes| {
            for byte in bytes {
                *byte = next;
                next = next.wrapping_add(1);
            }
        });
        spec
    }

    #[test]
    fn an_empty_spec_gets_everything() {
        assert_eq!(
            filled(json!({}), Value::Null),
            json!({
                "terminationGracePeriodSeconds": 30,
                "domain": {
                    "machine": {"type": "q35"},
                    "firmware": {"uuid": "f0f1f2f3-f4f5-46f7-b8f9-fafbfcfdfeff"},
                    "devices": {"interfaces": [
                        {"name": "default", "masquerade": {}, "macAddress": "02:01:02:03:04:05"}]},
                },
                "networks": [{"name": "default", "pod": {}}],
            })
        );
    }

    #[test]
    fn filling_twice_changes_nothing_more() {
        let once = filled(json!({"domain": {"machine": {"type": ""}}}), Value::Null);
        assert_eq!(filled(once.clone(), Value::Null), once);
    }

    #[test]
    fn what_was_said_stays() {
        let said = json!({
            "terminationGracePeriodSeconds": 0,
            "domain": {
                "machine": {"type": "pc"}, "firmware": {"uuid": "u"},
                "devices": {"interfaces": [{"name": "a", "macAddress": "m"}]}},
            "networks": [{"name": "a", "pod": {}}],
        });
        assert_eq!(filled(said.clone(), Value::Null), said);
    }

    #[test]
    fn what_a_replace_lost_comes_back() {
        let before = filled(json!({}), Value::Null);
        let after = filled(json!({"domain": {"cpu": {"cores": 2}}}), before.clone());
        for pointer in
            ["/domain/firmware/uuid", "/domain/devices/interfaces/0/macAddress", "/domain/machine/type"]
        {
            assert_eq!(after.pointer(pointer), before.pointer(pointer), "{pointer}");
        }
    }

    #[test]
    fn no_interface_where_none_is_wanted_or_networks_are_named() {
        let none = filled(json!({"domain": {"devices": {"autoattachPodInterface": false}}}), Value::Null);
        assert_eq!(none.get("networks"), None);
        let named = filled(json!({"networks": [{"name": "x", "pod": {}}]}), Value::Null);
        assert_eq!(named.pointer("/domain/devices/interfaces"), None);
    }

    #[test]
    fn wrong_types_are_left_for_the_schema_to_name() {
        assert_eq!(filled(json!("x"), Value::Null), json!("x"));
        let odd = filled(json!({"domain": {"machine": 1, "devices": {"interfaces": [7]}}}), Value::Null);
        assert_eq!(odd.pointer("/domain/machine"), Some(&json!(1)));
    }
}
