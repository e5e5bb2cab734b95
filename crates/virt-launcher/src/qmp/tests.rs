//! The client against a QEMU that these tests play.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf};

use super::*;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": []}}"#;

struct Fake {
    commands: Lines<BufReader<ReadHalf<DuplexStream>>>,
    output: WriteHalf<DuplexStream>,
}

impl Fake {
    async fn say(&mut self, line: &str) {
        self.output.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    async fn asked(&mut self) -> (u64, String) {
        let line = self.commands.next_line().await.unwrap().unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        (value["id"].as_u64().unwrap(), value["execute"].as_str().unwrap().to_owned())
    }

    async fn answer(&mut self, id: u64, result: &str) {
        self.say(&format!(r#"{{"return": {result}, "id": {id}}}"#)).await;
    }
}

async fn opened() -> (Qmp, mpsc::UnboundedReceiver<Event>, Fake) {
    let (ours, theirs) = tokio::io::duplex(4096);
    let (read, output) = tokio::io::split(theirs);
    let mut fake = Fake { commands: BufReader::new(read).lines(), output };
    let open = tokio::spawn(Qmp::open(ours));
    fake.say(GREETING).await;
    let (id, name) = fake.asked().await;
    assert_eq!(name, "qmp_capabilities");
    fake.answer(id, "{}").await;
    let (qmp, events) = open.await.unwrap().unwrap();
    (qmp, events, fake)
}

#[tokio::test]
async fn answers_find_their_commands_in_any_order() {
    let (qmp, _events, mut fake) = opened().await;
    let (status, stop) = (qmp.clone(), qmp);
    let status = tokio::spawn(async move { status.runs().await });
    let (first, name) = fake.asked().await;
    assert_eq!(name, "query-status");
    let stop = tokio::spawn(async move { stop.execute("stop").await });
    let (second, name) = fake.asked().await;
    assert_eq!(name, "stop");
    fake.answer(second, "{}").await;
    fake.answer(first, r#"{"running": true}"#).await;
    assert!(status.await.unwrap().unwrap());
    assert!(stop.await.unwrap().is_ok());
}

#[tokio::test]
async fn events_come_in_order_and_end_with_the_connection() {
    let (qmp, mut events, mut fake) = opened().await;
    fake.say(r#"{"event": "STOP"}"#).await;
    fake.say("noise").await;
    fake.say(r#"{"event": "RESUME"}"#).await;
    assert_eq!(events.recv().await, Some(Event::Stop));
    assert_eq!(events.recv().await, Some(Event::Resume));
    let waiting = tokio::spawn({
        let qmp = qmp.clone();
        async move { qmp.execute("cont").await }
    });
    fake.asked().await;
    drop(fake);
    assert!(matches!(waiting.await.unwrap(), Err(QmpError::Closed)));
    assert_eq!(events.recv().await, None);
    assert!(matches!(qmp.execute("cont").await, Err(QmpError::Closed)));
}

#[tokio::test]
async fn refusals_and_wrong_greetings_are_told() {
    let (qmp, _events, mut fake) = opened().await;
    let refused = tokio::spawn(async move { qmp.execute("cont").await });
    let (id, _) = fake.asked().await;
    fake.say(&format!(r#"{{"error": {{"class": "GenericError", "desc": "no"}}, "id": {id}}}"#)).await;
    let refused = refused.await.unwrap().unwrap_err();
    assert_eq!(refused.to_string(), "QEMU refused cont: GenericError: no");

    let (ours, mut theirs) = tokio::io::duplex(64);
    theirs.write_all(b"RFB 003.008\n").await.unwrap();
    assert!(matches!(Qmp::open(ours).await, Err(QmpError::Greeting(_))));
}
