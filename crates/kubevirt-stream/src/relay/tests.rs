//! Relays over pipes in memory, on a paused clock.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use super::{
    Close, Leg, LegEnd, RelayEnd, Typing, WebsocketsEnd, goodbye, hold, pump_resending, relay,
    relay_half_closed, relay_half_closing,
};
use crate::resend::{payload, position};
use crate::websocket::config;

type Socket = WebSocketStream<DuplexStream>;

/// A client and a server that are connected; the pipe holds `capacity` bytes each way.
async fn sockets(capacity: usize) -> (Socket, Socket) {
    let (near, far) = tokio::io::duplex(capacity);
    (
        WebSocketStream::from_raw_socket(near, Role::Client, Some(config())).await,
        WebSocketStream::from_raw_socket(far, Role::Server, Some(config())).await,
    )
}

/// Bytes that tell their place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

/// Reads binary frames up to the close frame.
async fn read_to_close(socket: &mut Socket) -> (Vec<u8>, Option<Close>) {
    let mut data = Vec::new();
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(frame))) => data.extend_from_slice(&frame),
            Some(Ok(Message::Close(frame))) => {
                let close = Close::from_frame(frame);
                let flushed = socket.next().await;
                assert!(!matches!(flushed, Some(Ok(_))), "{flushed:?}");
                return (data, Some(close));
            }
            Some(Ok(_)) => (),
            Some(Err(_)) | None => return (data, None),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn everything_arrives_once_and_the_end_is_1000() {
    let (mut client, server) = sockets(8 * 1024).await;
    let (near, mut guest) = tokio::io::duplex(4 * 1024);
    let stop = CancellationToken::new();
    let relaying = tokio::spawn(async move { relay(server, near, &stop).await });
    let sent = pattern(3 * 1024 * 1024);
    let said = sent.clone();
    let guest = tokio::spawn(async move {
        guest.write_all(&said).await.unwrap();
        let mut typed = [0; 3];
        guest.read_exact(&mut typed).await.unwrap();
        typed
    });
    client.send(Message::text("no data")).await.unwrap();
    client.send(Message::binary(b"ls\r".to_vec())).await.unwrap();
    let (received, close) = read_to_close(&mut client).await;
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    assert_eq!(close, Some(Close::normal()));
    assert_eq!(&guest.await.unwrap(), b"ls\r");
    assert!(matches!(relaying.await.unwrap(), RelayEnd::StreamEnded));
}

#[tokio::test(start_paused = true)]
async fn who_has_no_more_to_say_still_hears_the_answer() {
    let (client, server) = sockets(8 * 1024).await;
    let (mut here, near) = tokio::io::duplex(4 * 1024);
    let (far, mut guest) = tokio::io::duplex(4 * 1024);
    let stop = CancellationToken::new();
    let ending = stop.clone();
    let closing = tokio::spawn(async move { relay_half_closing(client, near, &ending).await });
    let closed = tokio::spawn(async move { relay_half_closed(server, far, &stop).await });
    // It answers when it has heard the end, long after; then it hangs up.
    let answering = tokio::spawn(async move {
        let mut heard = Vec::new();
        guest.read_to_end(&mut heard).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        heard.reverse();
        guest.write_all(&heard).await.unwrap();
    });
    let sent = pattern(300_000);
    here.write_all(&sent).await.unwrap();
    here.shutdown().await.unwrap();
    let mut answer = Vec::new();
    here.read_to_end(&mut answer).await.unwrap();
    answer.reverse();
    assert!(answer == sent, "{} of {} bytes", answer.len(), sent.len());
    answering.await.unwrap();
    assert!(matches!(closed.await.unwrap(), RelayEnd::StreamEnded));
    assert!(matches!(closing.await.unwrap(), RelayEnd::PeerClosed(close) if close == Close::normal()));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_stops_the_writer_instead_of_filling_memory() {
    let (mut client, server) = sockets(1024).await;
    let (near, mut guest) = tokio::io::duplex(1024);
    let stop = CancellationToken::new();
    tokio::spawn(async move { relay(server, near, &stop).await });
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = taken.clone();
    let sent = pattern(1024 * 1024);
    let said = sent.clone();
    tokio::spawn(async move {
        for chunk in said.chunks(1024) {
            guest.write_all(chunk).await.unwrap();
            counter.fetch_add(chunk.len(), std::sync::atomic::Ordering::SeqCst);
        }
    });
    sleep(Duration::from_secs(60)).await;
    let taken = taken.load(std::sync::atomic::Ordering::SeqCst);
    assert!(taken < 128 * 1024, "{taken} bytes were taken while nobody read");
    let (received, close) = read_to_close(&mut client).await;
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    assert_eq!(close, Some(Close::normal()));
}

#[tokio::test(start_paused = true)]
async fn an_idle_peer_is_pinged_every_ten_seconds() {
    let (mut client, server) = sockets(1024).await;
    let (near, _guest) = tokio::io::duplex(1024);
    let stop = CancellationToken::new();
    tokio::spawn(async move { relay(server, near, &stop).await });
    let started = Instant::now();
    for tick in 1..4 {
        assert!(matches!(client.next().await, Some(Ok(Message::Ping(_)))));
        assert_eq!(started.elapsed().as_secs(), tick * 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_ends_the_stream() {
    let (mut client, server) = sockets(1024).await;
    let (near, mut guest) = tokio::io::duplex(1024);
    let stop = CancellationToken::new();
    let relaying = tokio::spawn(async move { relay(server, near, &stop).await });
    client.send(Message::binary(b"exit\r".to_vec())).await.unwrap();
    client.close(None).await.unwrap();
    let mut typed = Vec::new();
    guest.read_to_end(&mut typed).await.unwrap();
    assert_eq!(typed, b"exit\r");
    assert_eq!(read_to_close(&mut client).await.0, b"");
    assert!(matches!(relaying.await.unwrap(), RelayEnd::PeerClosed(Close { code: 1005, .. })));
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_said_before_it_went_is_delivered() {
    let (mut client, server) = sockets(64 * 1024).await;
    let (near, mut guest) = tokio::io::duplex(64 * 1024);
    guest.write_all(b"power down").await.unwrap();
    drop(guest);
    // Keys go nowhere any more.
    client.send(Message::binary(b"ls".to_vec())).await.unwrap();
    let stop = CancellationToken::new();
    let relaying = tokio::spawn(async move { relay(server, near, &stop).await });
    assert_eq!(read_to_close(&mut client).await, (b"power down".to_vec(), Some(Close::normal())));
    assert!(matches!(relaying.await.unwrap(), RelayEnd::StreamEnded));
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_said_with_1001() {
    let (mut client, server) = sockets(1024).await;
    let (near, _guest) = tokio::io::duplex(1024);
    let stop = CancellationToken::new();
    let token = stop.clone();
    let relaying = tokio::spawn(async move { relay(server, near, &token).await });
    stop.cancel();
    assert_eq!(read_to_close(&mut client).await.1, Some(Close::going_away()));
    assert!(matches!(relaying.await.unwrap(), RelayEnd::Stopped));
}

#[tokio::test(start_paused = true)]
async fn two_websockets_carry_data_once_and_close_codes_through() {
    let (mut person, mut client) = sockets(2 * 1024).await;
    let (mut server, mut machine) = sockets(2 * 1024).await;
    let stop = CancellationToken::new();
    let relaying = tokio::spawn(async move {
        let end =
            pump_resending(&mut client, &mut server, &mut 0, &mut Typing::new(None, false), &stop).await;
        if let WebsocketsEnd::Leg(Leg::Server, LegEnd::Closed(close)) = &end {
            tokio::join!(goodbye(&mut client, close.clone()), goodbye(&mut server, close.clone()));
        }
        end
    });
    let sent = pattern(512 * 1024);
    let said = sent.clone();
    let machine = tokio::spawn(async move {
        assert_eq!(machine.next().await.unwrap().unwrap(), Message::binary(b"ls".to_vec()));
        for chunk in said.chunks(10_000) {
            machine.send(Message::binary(chunk.to_vec())).await.unwrap();
        }
        let bye = Close { code: 1011, reason: "the guest is gone".into() };
        machine.send(Message::Close(bye.into_frame())).await.unwrap();
        read_to_close(&mut machine).await
    });
    person.send(Message::binary(b"ls".to_vec())).await.unwrap();
    let (received, close) = read_to_close(&mut person).await;
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    assert_eq!(close, Some(Close { code: 1011, reason: "the guest is gone".into() }));
    machine.await.unwrap();
    let end = relaying.await.unwrap();
    assert!(
        matches!(end, WebsocketsEnd::Leg(Leg::Server, LegEnd::Closed(Close { code: 1011, .. }))),
        "{end:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn each_leg_is_pinged_and_its_pings_end_with_it() {
    let (mut person, mut client) = sockets(1024).await;
    let (mut server, mut machine) = sockets(1024).await;
    let stop = CancellationToken::new();
    tokio::spawn(async move {
        pump_resending(&mut client, &mut server, &mut 0, &mut Typing::new(None, false), &stop).await
    });
    person.send(Message::Ping(b"mine".as_slice().into())).await.unwrap();
    assert_eq!(person.next().await.unwrap().unwrap(), Message::Pong(b"mine".as_slice().into()));
    let (one, two) = tokio::join!(person.next(), machine.next());
    assert!(matches!(&one, Some(Ok(Message::Ping(data))) if data.as_ref() == b"keep alive"), "{one:?}");
    // What keeps the server's leg alive also asks it how far it is.
    assert!(matches!(&two, Some(Ok(Message::Ping(data))) if position(data) == Some(0)), "{two:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_goes_on_with_another_server_where_the_first_was_lost() {
    let (mut person, mut client) = sockets(64 * 1024).await;
    let (mut first, mut first_machine) = sockets(64 * 1024).await;
    let stop = CancellationToken::new();
    let (mut delivered, mut typing) = (0, Typing::new(None, false));
    first_machine.send(Message::binary(b"tick 1\n".to_vec())).await.unwrap();
    drop(first_machine);
    let end = pump_resending(&mut client, &mut first, &mut delivered, &mut typing, &stop).await;
    assert!(matches!(end, WebsocketsEnd::Leg(Leg::Server, LegEnd::Lost(_))), "{end:?}");
    assert_eq!(delivered, 7);
    let (mut second, mut second_machine) = sockets(64 * 1024).await;
    second_machine.send(Message::binary(b"tick 2\n".to_vec())).await.unwrap();
    second_machine.send(Message::Close(Close::normal().into_frame())).await.unwrap();
    pump_resending(&mut client, &mut second, &mut delivered, &mut typing, &stop).await;
    assert_eq!(delivered, 14);
    super::send_close(&mut client, Close::normal()).await;
    drop(client);
    assert_eq!(read_to_close(&mut person).await, (b"tick 1\ntick 2\n".to_vec(), Some(Close::normal())));
}

#[test]
fn reasons_are_cut_where_a_character_ends() {
    let frame = Close::internal_error("ü".repeat(100)).into_frame().unwrap();
    assert_eq!(frame.reason.as_str(), "ü".repeat(61));
    assert_eq!(Close { code: 1005, reason: String::new() }.into_frame(), None);
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_when_all_before_it_is_written() {
    let (mut client, server) = sockets(64 * 1024).await;
    let (near, mut guest) = tokio::io::duplex(16);
    let stop = CancellationToken::new();
    tokio::spawn(async move { relay(server, near, &stop).await });
    for n in 0..8_u8 {
        client.send(Message::binary(vec![n; 64])).await.unwrap();
        client.send(Message::Ping(payload(u64::from(n + 1) * 64).into())).await.unwrap();
    }
    let mut read = 0;
    let mut told = 0;
    while told < 8 * 64 {
        // Long enough for everything that can be said.
        while let Ok(said) = timeout(Duration::from_secs(1), client.next()).await {
            if let Message::Pong(data) = said.unwrap().unwrap() {
                let taken = position(&data).unwrap();
                assert!(told < taken && taken <= read + 16, "{taken} is said with {read} read");
                told = taken;
            }
        }
        let mut some = [0; 7];
        read += guest.read(&mut some).await.unwrap() as u64;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_to_nobody_who_takes_it_is_not_read_for_ever() {
    let (mut person, mut client) = sockets(1024).await;
    let (mut server, _machine) = sockets(1024).await;
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        while let Ok(Ok(())) =
            timeout(Duration::from_secs(30), person.send(Message::binary(vec![7; 1000]))).await
        {
            sent += 1000;
        }
        (sent, person)
    });
    let (mut typing, stop, mut delivered) = (Typing::new(None, false), CancellationToken::new(), 0);
    let pumping = pump_resending(&mut client, &mut server, &mut delivered, &mut typing, &stop);
    let sent = tokio::select! {
        end = pumping => panic!("{end:?}"),
        sent = sending => sent.unwrap().0,
    };
    assert!(sent < crate::resend::WINDOW + 128 * 1024, "{sent} bytes");
}

/// A pump whose client reads nothing while its server says this, and is gone: how it ends, how much counts as delivered, and what
/// the client has when it reads again.
async fn paused_reader(said: Vec<u8>, close: Option<Close>) -> (WebsocketsEnd, u64, Vec<u8>) {
    let (mut person, mut client) = sockets(1024).await;
    let (mut server, mut machine) = sockets(256 * 1024).await;
    machine.send(Message::binary(said)).await.unwrap();
    if let Some(close) = close {
        machine.send(Message::Close(close.into_frame())).await.unwrap();
    }
    drop(machine);
    let pumping = tokio::spawn(async move {
        let (mut delivered, mut typing, stop) = (0, Typing::new(None, false), CancellationToken::new());
        let end = pump_resending(&mut client, &mut server, &mut delivered, &mut typing, &stop).await;
        super::send_close(&mut client, Close::going_away()).await;
        (end, delivered)
    });
    // A key finds out that nobody takes it.
    sleep(Duration::from_secs(1)).await;
    person.send(Message::binary(b"q".to_vec())).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    let read = read_to_close(&mut person).await.0;
    let (end, delivered) = pumping.await.unwrap();
    (end, delivered, read)
}

#[tokio::test(start_paused = true)]
async fn what_a_paused_reader_gets_is_what_it_was_sent_when_its_server_dies_meanwhile() {
    let said = pattern(32 * 1024);
    let (end, delivered, read) = paused_reader(said.clone(), None).await;
    assert!(matches!(end, WebsocketsEnd::Leg(Leg::Server, LegEnd::Lost(_))), "{end:?}");
    assert_eq!((delivered, read.len()), (said.len() as u64, said.len()));
    assert!(read == said);
}

#[tokio::test(start_paused = true)]
async fn a_close_frame_behind_what_a_paused_reader_has_to_read_is_heard() {
    let (end, ..) = paused_reader(pattern(32 * 1024), Some(Close::normal())).await;
    assert!(
        matches!(&end, WebsocketsEnd::Leg(Leg::Server, LegEnd::Closed(close)) if *close == Close::normal()),
        "{end:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn last_words_that_a_dead_server_does_not_take_are_another_servers() {
    let (mut person, mut client) = sockets(64 * 1024).await;
    let (near, far) = tokio::io::duplex(1024);
    // What is sent fails, and nothing is said.
    let near = tokio::io::join(Silent, near);
    let mut server = WebSocketStream::from_raw_socket(near, Role::Client, Some(config())).await;
    drop(far);
    person.send(Message::binary(b"exit".to_vec())).await.unwrap();
    person.send(Message::Close(None)).await.unwrap();
    let (mut delivered, mut typing, stop) = (0, Typing::new(Some(0), true), CancellationToken::new());
    let end = pump_resending(&mut client, &mut server, &mut delivered, &mut typing, &stop).await;
    assert!(matches!(end, WebsocketsEnd::Leg(Leg::Server, LegEnd::Lost(_))), "{end:?}");
    assert!(!typing.is_over());
    typing.resume(Some(0));
    let (mut next, mut machine) = sockets(1024).await;
    let taking = tokio::spawn(async move {
        let said = machine.next().await.unwrap().unwrap();
        // An echo for a client that has gone.
        machine.send(said.clone()).await.unwrap();
        while machine.next().await.is_some_and(|read| read.is_ok()) {}
        said
    });
    let end = pump_resending(&mut client, &mut next, &mut delivered, &mut typing, &stop).await;
    assert!(matches!(end, WebsocketsEnd::Leg(Leg::Client, LegEnd::Closed(_))), "{end:?}");
    drop(next);
    assert_eq!(taking.await.unwrap(), Message::binary(b"exit".to_vec()));
}

/// Never says anything.
struct Silent;

impl tokio::io::AsyncRead for Silent {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_silent_is_lost_and_one_that_pings_is_not() {
    let (_person, mut client) = sockets(64 * 1024).await;
    let (mut server, mut machine) = sockets(64 * 1024).await;
    let begun = Instant::now();
    let pinging = tokio::spawn(async move {
        for _ in 0..12 {
            sleep(Duration::from_secs(10)).await;
            machine.send(super::ping()).await.unwrap();
        }
        // Its node has lost its power: it says nothing, and its connection stays.
        machine
    });
    let (mut delivered, mut typing, stop) = (0, Typing::new(None, false), CancellationToken::new());
    let end = pump_resending(&mut client, &mut server, &mut delivered, &mut typing, &stop).await;
    assert_eq!(begun.elapsed().as_secs(), 155);
    assert!(
        matches!(&end, WebsocketsEnd::Leg(Leg::Server, LegEnd::Lost(error)) if error.to_string().contains("35 s")),
        "{end:?}"
    );
    drop(pinging);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_a_server_is_pinged() {
    let (mut person, mut client) = sockets(1024).await;
    let holding = tokio::spawn(async move { hold(&mut client, &mut Typing::new(None, false)).await });
    let begun = Instant::now();
    for tick in 1..4 {
        assert!(matches!(person.next().await, Some(Ok(Message::Ping(_)))));
        assert_eq!(begun.elapsed().as_secs(), tick * 10);
    }
    person.send(Message::Close(None)).await.unwrap();
    holding.await.unwrap();
}
