//! QMP's messages. Pure.

use serde_json::{Value, json};
use thiserror::Error;

/// What QEMU says that isn't an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The machine is going down.
    Shutdown {
        /// The guest did it.
        guest: bool,
        /// QEMU's word for why.
        reason: String,
    },
    /// The machine was reset.
    Reset,
    /// The virtual CPUs stand.
    Stop,
    /// The virtual CPUs run.
    Resume,
    /// The guest was asked to power down.
    Powerdown,
    /// The guest's kernel has given up.
    GuestPanicked,
    /// A migration has come to another stage.
    Migration,
    /// Another event.
    Other(String),
}

/// A command's refusal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{class}: {text}")]
pub struct Refusal {
    /// QEMU's class of errors.
    pub class: String,
    /// QEMU's words.
    pub text: String,
}

/// One line of QEMU's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first one.
    Greeting,
    /// To a command.
    Answer {
        /// The command's number.
        id: u64,
        /// What came of it.
        result: Result<Value, Refusal>,
    },
    /// An event.
    Event(Event),
}

/// A line that is none of them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a QMP message: {line:?}")]
pub struct NotQmp {
    /// Its beginning.
    pub line: String,
}

/// Reads a line.
pub fn parse(line: &str) -> Result<Message, NotQmp> {
    let not_qmp = || NotQmp { line: line.chars().take(200).collect() };
    let value: Value = serde_json::from_str(line).map_err(|_| not_qmp())?;
    if value.get("QMP").is_some() {
        return Ok(Message::Greeting);
    }
    if let Some(name) = value.get("event").and_then(Value::as_str) {
        return Ok(Message::Event(event(name, &value["data"])));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // An error in the command's own syntax has no id; ours have none.
    let id = value.get("id").and_then(Value::as_u64).ok_or_else(not_qmp)?;
    let result = match (value.get("return"), value.get("error")) {
        (Some(result), _) => Ok(result.clone()),
        (None, Some(error)) => Err(Refusal { class: text(&error["class"]), text: text(&error["desc"]) }),
        (None, None) => return Err(not_qmp()),
    };
    Ok(Message::Answer { id, result })
}

fn event(name: &str, data: &Value) -> Event {
    match name {
        "SHUTDOWN" => Event::Shutdown {
            guest: data["guest"].as_bool().unwrap_or_default(),
            reason: data["reason"].as_str().unwrap_or("unknown").to_owned(),
        },
        "RESET" => Event::Reset,
        "STOP" => Event::Stop,
        "RESUME" => Event::Resume,
        "POWERDOWN" => Event::Powerdown,
        "GUEST_PANICKED" => Event::GuestPanicked,
        "MIGRATION" => Event::Migration,
        other => Event::Other(other.to_owned()),
    }
}

/// Writes a command; `null` for one without arguments.
pub fn command(id: u64, name: &str, arguments: &Value) -> String {
    let mut command = json!({ "execute": name, "id": id });
    if !arguments.is_null() {
        command["arguments"] = arguments.clone();
    }
    format!("{command}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_qemu_7_2_writes_them() {
        let answer = |id, result| Message::Answer { id, result };
        for (line, want) in [
            (
                r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#,
                Message::Greeting,
            ),
            (r#"{"return": {}, "id": 1}"#, answer(1, Ok(json!({})))),
            (
                r#"{"return": {"status": "running", "singlestep": false, "running": true}, "id": 2}"#,
                answer(2, Ok(json!({"status": "running", "singlestep": false, "running": true}))),
            ),
            (
                r#"{"id": 3, "error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}"#,
                answer(
                    3,
                    Err(Refusal {
                        class: "CommandNotFound".into(),
                        text: "The command x has not been found".into(),
                    }),
                ),
            ),
            (
                r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#,
                Message::Event(Event::Shutdown { guest: true, reason: "guest-shutdown".into() }),
            ),
            (
                r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#,
                Message::Event(Event::Stop),
            ),
            (r#"{"event": "RESUME"}"#, Message::Event(Event::Resume)),
            (
                r#"{"event": "RESET", "data": {"guest": true, "reason": "guest-reset"}}"#,
                Message::Event(Event::Reset),
            ),
            (r#"{"event": "POWERDOWN"}"#, Message::Event(Event::Powerdown)),
            (
                r#"{"event": "GUEST_PANICKED", "data": {"action": "pause"}}"#,
                Message::Event(Event::GuestPanicked),
            ),
            (
                r#"{"event": "MIGRATION", "data": {"status": "pre-switchover"}}"#,
                Message::Event(Event::Migration),
            ),
            (
                r#"{"event": "NIC_RX_FILTER_CHANGED"}"#,
                Message::Event(Event::Other("NIC_RX_FILTER_CHANGED".into())),
            ),
        ] {
            assert_eq!(parse(line), Ok(want), "{line}");
        }
        for line in ["", "hello", r#"{"id": 1}"#, r#"{"return": {}}"#] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn commands_carry_their_number() {
        assert_eq!(command(7, "cont", &Value::Null), "{\"execute\":\"cont\",\"id\":7}\n");
        let with = command(8, "migrate", &json!({"uri": "unix:/m"}));
        assert_eq!(with, "{\"execute\":\"migrate\",\"id\":8,\"arguments\":{\"uri\":\"unix:/m\"}}\n");
    }
}
