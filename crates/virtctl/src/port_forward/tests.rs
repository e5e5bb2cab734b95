//! Whole forwards: local sockets here, and an API server in memory that upgrades to websockets which echo.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{SinkExt, StreamExt};
use http::{Response, StatusCode};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use kubevirt_stream::websocket::Upgrade;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::*;

/// Says no to port 7, and says back everything that comes to the others.
async fn server() -> (Cluster, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let count = count.clone();
            let service = hyper::service::service_fn(
                move |mut request: http::Request<hyper::body::Incoming>| {
                    let count = count.clone();
                    async move {
                        let path = request.uri().path().to_owned();
                        let expected = "/apis/subresources.kubevirt.io/v1/namespaces/other/virtualmachines/a/portforward/";
                        assert!(path.starts_with(expected), "{path}");
                        if path.ends_with("/7/tcp") {
                            let status = serde_json::json!({"message": "VMI is not started.", "code": 409})
                                .to_string();
                            let mut response = Response::new(status);
                            *response.status_mut() = StatusCode::CONFLICT;
                            return Ok::<_, std::convert::Infallible>(response);
                        }
                        count.fetch_add(1, Ordering::SeqCst);
                        let upgrade = Upgrade::from_request(&mut request).unwrap();
                        let response = upgrade.response();
                        tokio::spawn(async move {
                            let mut websocket = upgrade.websocket().await.unwrap();
                            while let Some(Ok(message)) = websocket.next().await {
                                if let Message::Binary(data) = message {
                                    websocket.send(Message::Binary(data)).await.unwrap();
                                }
                            }
                        });
                        Ok(response)
                    }
                },
            );
            tokio::spawn(
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades(),
            );
        }
    });
    let mut config = kube::Config::new(url);
    config.default_namespace = "ns".into();
    (Cluster { client: kube::Client::try_from(config).unwrap(), namespace: "ns".into() }, opened)
}

async fn forward(cluster: &Cluster, port: &str) -> std::net::SocketAddr {
    let guest = Guest::of(cluster, &"vm/a/other".parse().unwrap());
    let forwarder = Forwarder::listen("127.0.0.1", port.parse().unwrap()).await.unwrap();
    let local = forwarder.local;
    tokio::spawn(forwarder.forward(guest));
    local
}

#[tokio::test(flavor = "multi_thread")]
async fn each_connection_has_a_websocket_of_its_own_and_a_refused_one_ends_alone() {
    let (cluster, opened) = server().await;
    let local = forward(&cluster, ":80").await;
    let echoes = (0..4_u8).map(|number| async move {
        let (mut reader, mut writer) = TcpStream::connect(local).await.unwrap().into_split();
        let sent = vec![number; 300_000];
        let mut heard = vec![0; sent.len()];
        let (written, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut heard));
        written.unwrap();
        read.unwrap();
        assert!(heard == sent, "connection {number}");
    });
    futures::future::join_all(echoes).await;
    assert_eq!(opened.load(Ordering::SeqCst), 4);

    let closed = forward(&cluster, "0:7").await;
    for _ in 0..2 {
        let mut heard = Vec::new();
        let read = TcpStream::connect(closed).await.unwrap().read_to_end(&mut heard).await;
        assert!(read.is_err() || heard.is_empty(), "{heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sender_of_datagrams_gets_its_own_answers() {
    let (cluster, opened) = server().await;
    let local = forward(&cluster, "udp/:53").await;
    let senders =
        [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap()];
    for round in 0..2_u8 {
        for (number, socket) in senders.iter().enumerate() {
            socket.send_to(&[round, number as u8], local).await.unwrap();
            let mut buffer = [0; 16];
            let n = socket.recv(&mut buffer).await.unwrap();
            assert_eq!(buffer[..n], [round, number as u8]);
        }
    }
    assert_eq!(opened.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_can_not_be_forwarded_is_said_in_one_line() {
    let (cluster, _) = server().await;
    let options = |ports: &[&str], address: &str, stdio| PortForwardOptions {
        target: "vm/a/other".parse().unwrap(),
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        address: address.into(),
        stdio,
    };
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let in_use = format!("{port}:80");
    for (options, expected) in [
        (
            options(&["22", "80"], "127.0.0.1", true),
            "only one port supported when forwarding to stdout".to_owned(),
        ),
        (
            options(&["udp/53"], "127.0.0.1", true),
            "only TCP is supported when forwarding to stdout".to_owned(),
        ),
        (
            options(&["7"], "127.0.0.1", true),
            "Can't access virtualmachines a: VMI is not started.".to_owned(),
        ),
        (
            options(&[&in_use], "127.0.0.1", false),
            format!("can't listen on 127.0.0.1:{port}: Address already in use (os error 98)"),
        ),
    ] {
        let error = run(&cluster, &options).await.unwrap_err();
        assert_eq!(chain(&error), expected);
    }
}
