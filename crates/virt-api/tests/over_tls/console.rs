//! A console through virt-api, over real TLS and real websockets: who gets one, and what becomes of
//! it when virt-handler is killed behind it.

use std::time::Duration;

use crate::world::guest::Guest;
use crate::world::handler::Handler;
use crate::world::{HANDLERS, World};
use futures::{SinkExt, StreamExt};
use http::StatusCode;
use kubevirt_stream::attach::{OFFSET_HEADER, RECEIVED_HEADER};
use kubevirt_stream::websocket::{DialError, WebSocket};
use kubevirt_types::Release;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::tungstenite::Message;

const CONSOLE: &str = "/apis/subresources.kubevirt.io/v1/namespaces/ns/virtualmachineinstances/a/console";
const LIMIT: Duration = Duration::from_secs(20);

/// Reads until `last` is in `text`, or the peer says goodbye. Returns the close code.
async fn read_until(console: &mut WebSocket, text: &mut String, last: &str) -> Option<u16> {
    let read = async {
        while !text.contains(last) {
            match console.next().await.expect("a close frame comes before the end").unwrap() {
                Message::Binary(data) => text.push_str(std::str::from_utf8(&data).unwrap()),
                Message::Close(frame) => return Some(frame.map_or(1005, |frame| frame.code.into())),
                Message::Ping(_) | Message::Pong(_) | Message::Text(_) | Message::Frame(_) => {}
            }
        }
        None
    };
    tokio::time::timeout(LIMIT, read).await.unwrap_or_else(|_| panic!("no {last:?} in time"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_outlives_its_virt_handler_without_losing_a_byte() {
    let port = std::net::TcpListener::bind((HANDLERS[0], 0)).unwrap().local_addr().unwrap().port();
    let world = World::start(Release::V0_18_0, port).await;
    let guest = Guest::new();
    let older = Handler::start(HANDLERS[0], port, &world.own_ca, guest.clone()).await;
    let newer = Handler::start(HANDLERS[1], older.port, &world.own_ca, guest.clone()).await;
    guest.say("booting, which nobody sees\n");

    let (mut console, headers) = world.dial("jane", CONSOLE).await.unwrap();
    assert_eq!(headers[OFFSET_HEADER], "27");
    let mut seen = String::new();
    let mut expected = String::new();
    let mut tick = |n: u32| {
        let line = format!("tick {n}\n");
        guest.say(&line);
        expected.push_str(&line);
    };
    (0..20_000).for_each(&mut tick);
    assert_eq!(read_until(&mut console, &mut seen, "tick 50\n").await, None);
    // The newest virt-handler carries it. Nobody says goodbye.
    newer.kill();
    (20_000..25_000).for_each(&mut tick);
    assert_eq!(read_until(&mut console, &mut seen, "tick 24999\n").await, None);
    assert_eq!(seen, expected);

    console.send(Message::binary(b"ls\n".to_vec())).await.unwrap();
    guest.say("$ ");
    assert_eq!(read_until(&mut console, &mut seen, "$ ").await, None);
    let typed = async {
        while guest.typed() != b"ls\n" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, typed).await.unwrap();

    guest.say("power off\n");
    guest.power_off();
    assert_eq!(read_until(&mut console, &mut seen, "never").await, Some(1000));
    assert!(seen.ends_with("power off\n"));
    older.kill();
}

/// Waits until an address that a virt-handler had is free again.
async fn freed(address: std::net::IpAddr, port: u16) {
    let bound = async {
        while std::net::TcpListener::bind((address, port)).is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, bound).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_while_virt_handlers_die_arrives_once_and_in_order() {
    let port = std::net::TcpListener::bind((HANDLERS[0], 0)).unwrap().local_addr().unwrap().port();
    let world = World::start(Release::V0_18_0, port).await;
    let guest = Guest::new();
    let mut handler = Handler::start(HANDLERS[0], port, &world.own_ca, guest.clone()).await;
    let (console, headers) = world.dial("jane", &format!("{CONSOLE}?session=s-1")).await.unwrap();
    assert_eq!(headers[RECEIVED_HEADER], "0");
    let (mut sink, mut source) = console.split();
    let listener = guest.clone();
    let told = tokio::spawn(async move {
        let mut told = 0;
        while let Some(Ok(message)) = source.next().await {
            if let Message::Pong(data) = message {
                let taken = kubevirt_stream::resend::position(&data).unwrap();
                assert!(taken >= told, "{taken} after {told}");
                told = taken;
            }
        }
        (told, listener.typed().len())
    });
    let mut typed: Vec<u8> = Vec::new();
    for cut in 0..16_u32 {
        // More than the sockets behind virt-api hold, so that virt-handler dies with much on its way.
        let deaf = cut % 4 == 1;
        guest.set_deaf(deaf);
        for message in 0..if deaf { 300 } else { cut * 5 % 23 } {
            let length = (cut * 7919 + message * 104_729) % 3000 + 1;
            let from = u32::try_from(typed.len()).unwrap();
            let bytes: Vec<u8> = (from..from + length).map(|at| (at % 251) as u8).collect();
            sink.send(Message::binary(bytes.clone())).await.unwrap();
            typed.extend(bytes);
        }
        tokio::time::sleep(Duration::from_micros(u64::from(cut * 523 % 3000))).await;
        handler.kill();
        let next = HANDLERS[(cut as usize + 1) % 2];
        freed(next, port).await;
        handler = Handler::start(next, port, &world.own_ca, guest.clone()).await;
    }
    // Said last, and gone: it is still typed.
    sink.send(Message::binary(b"exit".to_vec())).await.unwrap();
    typed.extend_from_slice(b"exit");
    handler.kill();
    sink.send(Message::Close(None)).await.unwrap();
    freed(HANDLERS[1], port).await;
    let last = Handler::start(HANDLERS[1], port, &world.own_ca, guest.clone()).await;
    let (told, _) = tokio::time::timeout(LIMIT, told).await.unwrap().unwrap();
    assert!(told <= typed.len() as u64);
    let arrived = async {
        while guest.typed().len() < typed.len() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let arrived = tokio::time::timeout(LIMIT, arrived).await;
    assert!(arrived.is_ok(), "{} of {} bytes", guest.typed().len(), typed.len());
    assert!(guest.typed() == typed, "in order, and nothing twice");
    last.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_lost_while_there_is_no_virt_handler_ends_a_console_in_words() {
    let port = std::net::TcpListener::bind((HANDLERS[0], 0)).unwrap().local_addr().unwrap().port();
    let world = World::start(Release::V0_18_0, port).await;
    let guest = Guest::new();
    let handler = Handler::start(HANDLERS[0], port, &world.own_ca, guest.clone()).await;
    let (mut console, _) = world.dial("jane", CONSOLE).await.unwrap();
    guest.say("tick 1\n");
    let mut seen = String::new();
    assert_eq!(read_until(&mut console, &mut seen, "tick 1\n").await, None);
    handler.kill();
    // More than a launcher keeps.
    guest.say(&"x".repeat(2 << 20));
    freed(HANDLERS[0], port).await;
    let handler = Handler::start(HANDLERS[0], port, &world.own_ca, guest.clone()).await;
    assert_eq!(read_until(&mut console, &mut seen, "never").await, Some(1008));
    assert_eq!(seen, "tick 1\n", "nothing behind the gap");
    handler.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_does_not_drive_out_who_came_in_between() {
    let port = std::net::TcpListener::bind((HANDLERS[0], 0)).unwrap().local_addr().unwrap().port();
    let world = World::start(Release::V0_18_0, port).await;
    let guest = Guest::new();
    let handler = Handler::start(HANDLERS[0], port, &world.own_ca, guest.clone()).await;
    let (mut console, _) = world.dial("jane", CONSOLE).await.unwrap();
    handler.kill();
    freed(HANDLERS[0], port).await;
    // Through another virt-api, a moment earlier.
    let newer = guest.attach("somebody-else", None).await;
    let handler = Handler::start(HANDLERS[0], port, &world.own_ca, guest.clone()).await;
    let mut seen = String::new();
    assert_eq!(read_until(&mut console, &mut seen, "never").await, Some(1000));
    guest.say("$ ");
    let mut newer = tokio::net::UnixStream::from_std(newer.stream).unwrap();
    let mut said = [0; 2];
    tokio::time::timeout(LIMIT, newer.read_exact(&mut said)).await.unwrap().unwrap();
    assert_eq!(&said, b"$ ");

    // What sits there for a moment only is no reason to go.
    drop(newer);
    let (mut console, _) = world.dial("jane", CONSOLE).await.unwrap();
    handler.kill();
    freed(HANDLERS[0], port).await;
    let probe = guest.attach("virt-handler-1", None).await;
    let handler = Handler::start(HANDLERS[0], port, &world.own_ca, guest.clone()).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    drop(probe);
    guest.say("still here");
    assert_eq!(read_until(&mut console, &mut seen, "still here").await, None);
    handler.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_and_what_does_not_run_is_refused_in_words() {
    let world = World::start(Release::V0_17_0, 1).await;
    let refused = |user: &'static str, path: String| {
        let world = &world;
        async move {
            match world.dial(user, &path).await.unwrap_err() {
                DialError::Refused { status, body, .. } => {
                    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    (status, body["message"].as_str().unwrap().to_owned())
                }
                other => panic!("{other}"),
            }
        }
    };
    let (status, message) = refused("joe", CONSOLE.into()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(
        message,
        "virtualmachineinstances.subresources.kubevirt.io \"a\" is forbidden: User \"joe\" cannot get resource \"virtualmachineinstances/console\" in API group \"subresources.kubevirt.io\" in the namespace \"ns\": the story says so"
    );
    let (status, message) = refused("jane", CONSOLE.replace("/a/", "/starting/")).await;
    assert_eq!((status, message.as_str()), (StatusCode::BAD_REQUEST, "VMI is not running"));
    let (status, message) = refused("jane", CONSOLE.replace("/a/", "/missing/")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(message, "virtualmachineinstance.kubevirt.io \"missing\" not found");
    let (status, _) = refused("jane", CONSOLE.replace("console", "pause")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, message) = refused("jane", format!("{CONSOLE}?session=a%20b")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{message}");
    let (status, message) = refused("jane", CONSOLE.to_owned()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{message}");
    assert!(world.lets_nobody_in().await);
    world.shutdown.start();
}
