//! Conditions, as every kind of ours carries them, and how they change.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `True`, `False` or `Unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    #[allow(missing_docs)]
    True,
    #[allow(missing_docs)]
    False,
    #[allow(missing_docs)]
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(yes: bool) -> Self {
        if yes { Self::True } else { Self::False }
    }
}

/// One condition of an object's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the condition is about, such as `Available`.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// When it was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::DateTime>")]
    pub last_probe_time: Option<Timestamp>,
    /// When the status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::DateTime>")]
    pub last_transition_time: Option<Timestamp>,
    /// One word in CamelCase, for machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Condition {
    /// A condition without times; [`set`] fills them in.
    pub fn new(
        type_: impl Into<String>,
        status: impl Into<ConditionStatus>,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            type_: type_.into(),
            status: status.into(),
            last_probe_time: None,
            last_transition_time: None,
            reason: Some(reason.into()).filter(|r| !r.is_empty()),
            message: Some(message.into()).filter(|m| !m.is_empty()),
        }
    }
}

/// Sets `wanted` among `conditions`. Times move only when something changed: the transition
/// time when the status did, the probe time when anything did. Returns whether anything did.
pub fn set(conditions: &mut Vec<Condition>, wanted: Condition, now: Timestamp) -> bool {
    let Some(current) = conditions.iter_mut().find(|c| c.type_ == wanted.type_) else {
        conditions.push(Condition { last_probe_time: Some(now), last_transition_time: Some(now), ..wanted });
        return true;
    };
    if (current.status, &current.reason, &current.message) == (wanted.status, &wanted.reason, &wanted.message)
    {
        return false;
    }
    if current.status != wanted.status {
        current.last_transition_time = Some(now);
    }
    current.last_probe_time = Some(now);
    current.status = wanted.status;
    current.reason = wanted.reason;
    current.message = wanted.message;
    true
}

/// Removes the condition of this type. Returns whether there was one.
pub fn remove(conditions: &mut Vec<Condition>, type_: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|c| c.type_ != type_);
    conditions.len() != before
}

/// Whether a condition of this type is there and `True`.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == ConditionStatus::True)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut conditions = Vec::new();
        assert!(set(&mut conditions, Condition::new("Available", true, "A", "a"), at(1)));
        assert!(!set(&mut conditions, Condition::new("Available", true, "A", "a"), at(2)));
        assert!(set(&mut conditions, Condition::new("Available", true, "B", "b"), at(3)));
        assert_eq!(conditions[0].last_transition_time, Some(at(1)));
        assert_eq!(conditions[0].last_probe_time, Some(at(3)));
        assert!(set(&mut conditions, Condition::new("Available", false, "B", "b"), at(4)));
        assert_eq!(conditions[0].last_transition_time, Some(at(4)));
    }
}
