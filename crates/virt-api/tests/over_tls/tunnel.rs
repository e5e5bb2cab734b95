//! A port of a guest through virt-api, over real TLS: bytes both ways, who gets a tunnel, and what is said to those
//! who don't.

use std::time::Duration;

use crate::world::World;
use futures::{SinkExt, StreamExt};
use http::{Method, StatusCode};
use kubevirt_stream::relay::HALF_CLOSE_HEADER;
use kubevirt_stream::websocket::{DialError, WebSocket};
use kubevirt_types::Release;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio_tungstenite::tungstenite::Message;

const BASE: &str = "/apis/subresources.kubevirt.io/v1/namespaces/ns";
const LIMIT: Duration = Duration::from_secs(20);

/// Reads until there are `count` bytes, or the peer says goodbye. Returns the close code.
async fn read(tunnel: &mut WebSocket, into: &mut Vec<u8>, count: usize) -> Option<u16> {
    let read = async {
        while into.len() < count {
            match tunnel.next().await.expect("a close frame comes before the end").unwrap() {
                Message::Binary(data) => into.extend_from_slice(&data),
                Message::Close(frame) => return Some(frame.map_or(1005, |frame| frame.code.into())),
                Message::Ping(_) | Message::Pong(_) | Message::Text(_) | Message::Frame(_) => {}
            }
        }
        None
    };
    tokio::time::timeout(LIMIT, read).await.expect("bytes come in time")
}

fn path(resource: &str, name: &str, port: &str) -> String {
    format!("{BASE}/{resource}/{name}/portforward/{port}")
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_through_several_tunnels_at_once() {
    let world = World::start(Release::V0_18_0, 1).await;
    let guest = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = guest.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = guest.accept().await.unwrap();
            // It answers with what it heard, once it has heard it all: nothing may be held back on the way.
            tokio::spawn(async move {
                let mut heard = vec![0; 2 << 20];
                connection.read_exact(&mut heard).await.unwrap();
                connection.write_all(&heard).await.unwrap();
            });
        }
    });
    let paths = ["virtualmachineinstances", "virtualmachines", "virtualmachineinstances"]
        .iter()
        .zip([format!("{port}"), format!("{port}/tcp"), format!("{port}/tcp")])
        .map(|(resource, port)| path(resource, "reachable", &port));
    let tunnels = paths.enumerate().map(|(number, path)| {
        let world = &world;
        async move {
            let (mut tunnel, _) = world.dial("jane", &path).await.unwrap();
            let sent: Vec<u8> = (0..2_u32 << 20)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 ^ number as u8)
                .collect();
            for part in sent.chunks(50_000) {
                tunnel.send(Message::binary(part.to_vec())).await.unwrap();
            }
            let mut got = Vec::new();
            assert_eq!(read(&mut tunnel, &mut got, sent.len()).await, None);
            assert!(got == sent, "tunnel {number} changed what it carried");
            // The guest hangs up after its answer.
            assert_eq!(read(&mut tunnel, &mut got, usize::MAX).await, Some(1000));
        }
    });
    futures::future::join_all(tunnels).await;
    world.shutdown.start();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_is_the_guests_end_of_file_and_a_drain_leaves_a_tunnel_time() {
    let world = World::start(Release::V0_18_0, 1).await;
    let guest = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let path = path("virtualmachineinstances", "reachable", &guest.local_addr().unwrap().port().to_string());
    let (mut tunnel, _) = world.dial("jane", &path).await.unwrap();
    let (mut connection, _) = guest.accept().await.unwrap();
    tunnel.send(Message::binary(b"bye".to_vec())).await.unwrap();
    tunnel.close(None).await.unwrap();
    let mut heard = String::new();
    tokio::time::timeout(LIMIT, connection.read_to_string(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard, "bye");

    let (mut tunnel, headers) = world.dial("jane", &path).await.unwrap();
    let (mut connection, _) = guest.accept().await.unwrap();
    assert_eq!(headers[HALF_CLOSE_HEADER], "true");
    tunnel.send(Message::binary(b"what time is it".to_vec())).await.unwrap();
    tunnel.send(Message::text("end of input")).await.unwrap();
    let mut heard = String::new();
    tokio::time::timeout(LIMIT, connection.read_to_string(&mut heard)).await.unwrap().unwrap();
    connection.write_all(b"noon").await.unwrap();
    drop(connection);
    let mut got = Vec::new();
    assert_eq!(read(&mut tunnel, &mut got, usize::MAX).await, Some(1000));
    assert_eq!((heard.as_str(), got.as_slice()), ("what time is it", &b"noon"[..]));

    let (mut tunnel, _) = world.dial("jane", &path).await.unwrap();
    let (mut connection, _) = guest.accept().await.unwrap();
    world.shutdown.start();
    let mut got = Vec::new();
    for word in ["still", "there"] {
        connection.write_all(word.as_bytes()).await.unwrap();
        let wanted = got.len() + word.len();
        assert_eq!(read(&mut tunnel, &mut got, wanted).await, None, "{word}");
    }
    assert_eq!(read(&mut tunnel, &mut got, usize::MAX).await, Some(1001));
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_keep_their_bounds() {
    let world = World::start(Release::V0_18_0, 1).await;
    let guest = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = format!("{}/udp", guest.local_addr().unwrap().port());
    let (mut tunnel, _) =
        world.dial("jane", &path("virtualmachineinstances", "reachable", &port)).await.unwrap();
    let mut buffer = [0; 64];
    for word in ["one", "two"] {
        tunnel.send(Message::binary(word.as_bytes().to_vec())).await.unwrap();
        let (n, from) = tokio::time::timeout(LIMIT, guest.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..n], word.as_bytes());
        guest.send_to(&buffer[..n], from).await.unwrap();
        let mut got = Vec::new();
        assert_eq!(read(&mut tunnel, &mut got, n).await, None);
        assert_eq!(got, word.as_bytes());
    }
    world.shutdown.start();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_and_what_can_not_be_reached_is_refused_in_words() {
    let world = World::start(Release::V0_18_0, 1).await;
    // A port that was free a moment ago.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port().to_string();
    let (vms, vmis) = ("virtualmachines", "virtualmachineinstances");
    for (user, resource, name, port, code, words) in [
        ("joe", vmis, "reachable", "80", 403, "cannot get resource \"virtualmachineinstances/portforward\""),
        ("joe", vms, "reachable", "80/tcp", 403, "cannot get resource \"virtualmachines/portforward\""),
        ("jane", vmis, "missing", "80", 404, "virtualmachineinstance.kubevirt.io \"missing\" not found"),
        ("jane", vms, "missing", "80", 404, "virtualmachine.kubevirt.io \"missing\" not found"),
        ("jane", vms, "stopped", "80", 409, "VMI is not started."),
        ("jane", vms, "starting", "80", 400, "no network interfaces are present"),
        ("jane", vmis, "paused", "80", 409, "VMI is paused"),
        ("jane", vmis, "reachable", "http", 400, "port: Invalid value: \"http\""),
        ("jane", vmis, "reachable", "80/sctp", 400, "protocol: Invalid value: \"sctp\": must be tcp or udp"),
        ("jane", vmis, "reachable", &closed, 500, "dialing VM: Connection refused"),
        ("jane", vmis, "reachable", &closed, 500, "isn't listed in spec.domain.devices.interfaces[].ports"),
    ] {
        match world.dial(user, &path(resource, name, port)).await.unwrap_err() {
            DialError::Refused { status, body, .. } => {
                let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let message = body["message"].as_str().unwrap();
                assert_eq!(status.as_u16(), code, "{message}");
                assert!(message.contains(words), "{message}");
            }
            other => panic!("{other}"),
        }
    }
    let plain = path(vmis, "reachable", "80");
    let (status, _, body) = world.ask("jane", Method::GET, &plain, "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body:?}");
    let older = World::start(Release::V0_17_0, 1).await;
    let (status, _, _) = older.ask("jane", Method::GET, &plain, "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
