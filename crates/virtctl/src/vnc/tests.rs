//! A viewer whose virt-api dies: a local socket here, and an API server in memory whose screens break.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use futures::{SinkExt, StreamExt};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use kubevirt_stream::attach::RECEIVED_HEADER;
use kubevirt_stream::relay::Close;
use kubevirt_stream::websocket::{Upgrade, WebSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::*;

const HELLO: &[u8] =
    b"RFB 003.008\n\x01\x01\0\0\0\0\0\x02\0\x01\x20\x18\0\x01\0\xff\0\xff\0\xff\x10\x08\0\0\0\0\0\0\0\x00";
const REQUEST: &[u8] = b"\x03\x01\0\0\0\0\0\x02\0\x01";

/// Serves a screen of two pixels to whoever asks. The first connection breaks in the middle of its first update, the last is
/// closed with 1000 once it has heard a key.
///
/// Where it passes on what it is sent, it says how much of that was `taken`: all but the second key on the first connection, which breaks there,
/// and all on the last, which is closed with 1000 behind the third.
async fn server(taken: Option<Arc<Mutex<Vec<u8>>>>) -> (Cluster, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let queries = asked.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (queries, taken) = (queries.clone(), taken.clone());
            let service =
                hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                    let first = queries.lock().unwrap().is_empty();
                    queries.lock().unwrap().push(request.uri().query().unwrap().to_owned());
                    let upgrade = Upgrade::from_request(&mut request).unwrap();
                    let mut response: http::Response<String> = upgrade.response();
                    if let Some(taken) = taken.clone() {
                        let received = taken.lock().unwrap().len();
                        response.headers_mut().insert(RECEIVED_HEADER, received.into());
                        tokio::spawn(take(upgrade, first, taken));
                    } else {
                        tokio::spawn(serve(upgrade, first));
                    }
                    async move { Ok::<_, Infallible>(response) }
                });
            tokio::spawn(
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades(),
            );
        }
    });
    let config = kube::Config::new(url);
    (Cluster { client: kube::Client::try_from(config).unwrap(), namespace: "ns".into() }, asked)
}

async fn serve(upgrade: Upgrade, breaks: bool) {
    let mut websocket = upgrade.websocket().await.unwrap();
    let mut update = b"\0\0\0\x01\0\0\0\0\0\x02\0\x01\0\0\0\0".to_vec();
    update.extend([if breaks { 1 } else { 2 }; 8]);
    websocket.send(Message::binary(HELLO.to_vec())).await.unwrap();
    let mut heard = Vec::new();
    while let Some(Ok(message)) = websocket.next().await {
        let Message::Binary(data) = message else { continue };
        heard.extend_from_slice(&data);
        if heard.ends_with(&press(b'a')) {
            end(&mut websocket).await;
        } else if heard.ends_with(&REQUEST[2..]) {
            let count = if breaks { 20 } else { update.len() };
            websocket.send(Message::binary(update[..count].to_vec())).await.unwrap();
            if breaks {
                return;
            }
        }
    }
}

async fn take(upgrade: Upgrade, breaks: bool, taken: Arc<Mutex<Vec<u8>>>) {
    let mut websocket = upgrade.websocket().await.unwrap();
    websocket.send(Message::binary(HELLO.to_vec())).await.unwrap();
    while let Some(Ok(message)) = websocket.next().await {
        let Message::Binary(data) = message else { continue };
        if breaks && data.ends_with(&press(b'b')) {
            return;
        }
        taken.lock().unwrap().extend_from_slice(&data);
        if data.ends_with(&press(b'c')) {
            end(&mut websocket).await;
        }
    }
}

async fn end(websocket: &mut WebSocket) {
    let frame = CloseFrame { code: NORMAL.into(), reason: "".into() };
    websocket.close(Some(frame)).await.unwrap();
}

fn press(key: u8) -> [u8; 8] {
    [4, 1, 0, 0, 0, 0, 0, key]
}

/// A viewer that shakes hands with a new session, does something, and stays until its server has said that all is over.
async fn watch(cluster: &Cluster, act: impl AsyncFnOnce(&mut DuplexStream)) {
    let session = Session::new(cluster, "a");
    let opened = session.open(false).await.unwrap();
    let (near, mut far) = tokio::io::duplex(1024);
    let viewer = async {
        let mut hello = vec![0; HELLO.len()];
        far.write_all(b"RFB 003.008\n\x01\x01").await.unwrap();
        far.read_exact(&mut hello).await.unwrap();
        assert_eq!(hello, HELLO);
        act(&mut far).await;
        assert_eq!(far.read(&mut hello).await.unwrap(), 0);
        drop(far);
    };
    tokio::join!(async { view(session, opened, near).await.unwrap() }, viewer);
}

#[tokio::test]
async fn a_viewer_outlives_its_virt_api() {
    let (cluster, asked) = server(None).await;
    watch(&cluster, async |far| {
        far.write_all(REQUEST).await.unwrap();
        let mut update = [0; 24];
        far.read_exact(&mut update).await.unwrap();
        assert_eq!((&update[..4], &update[16..]), (&[0, 0, 0, 1][..], &[2; 8][..]), "the second server's");
        far.write_all(&press(b'a')).await.unwrap();
    })
    .await;
    let asked = asked.lock().unwrap().clone();
    let [first, second] = asked.as_slice() else { panic!("{asked:?}") };
    assert!(first.ends_with("&counts=true&preserveSession=false"), "{first}");
    assert!(second.ends_with("&counts=true&preserveSession=true&resumeFrom=0"), "{second}");
    assert_eq!(first.split('&').next(), second.split('&').next(), "it is the same session");
}

#[tokio::test]
async fn what_was_taken_before_virt_api_died_is_not_done_again_and_the_rest_is() {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (cluster, asked) = server(Some(taken.clone())).await;
    watch(&cluster, async |far| {
        for key in *b"abc" {
            far.write_all(&press(key)).await.unwrap();
        }
    })
    .await;
    assert_eq!(asked.lock().unwrap().len(), 2);
    let taken = taken.lock().unwrap();
    let keys: Vec<u8> =
        taken.windows(8).filter(|bytes| bytes[..7] == press(0)[..7]).map(|bytes| bytes[7]).collect();
    assert_eq!(keys, b"abc");
}

#[test]
fn ends_are_good_or_have_a_cause() {
    assert!(outcome(ScreenEnd::Told(Close::normal())).is_ok());
    let error = outcome(ScreenEnd::Told(Close::internal_error("gone"))).unwrap_err();
    assert_eq!(error.to_string(), "error encountered: websocket: close 1011 gone");
}
