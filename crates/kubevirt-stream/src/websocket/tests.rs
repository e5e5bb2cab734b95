//! Both sides of the handshake over a pipe in memory, with hyper as the server.

use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::{DialError, NotAWebsocket, PLAIN, Upgrade, dial};

/// Serves one connection: upgrades, greets, and echoes.
fn serve(stream: DuplexStream) {
    let service = service_fn(async |mut request: Request<Incoming>| {
        let upgrade = match Upgrade::from_request(&mut request) {
            Ok(upgrade) => upgrade,
            Err(error) => {
                let body = Full::<Bytes>::from(error.to_string().into_bytes());
                return Ok::<_, hyper::Error>(Response::builder().status(400).body(body).unwrap());
            }
        };
        let mut response = upgrade.response();
        response.headers_mut().insert(crate::attach::OFFSET_HEADER, 7.into());
        tokio::spawn(async move {
            let mut websocket = upgrade.websocket().await.unwrap();
            websocket.send(Message::binary(b"RFB 003.008\n".to_vec())).await.unwrap();
            while let Some(Ok(Message::Binary(data))) = websocket.next().await {
                websocket.send(Message::Binary(data)).await.unwrap();
            }
        });
        Ok(response)
    });
    tokio::spawn(
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades(),
    );
}

#[tokio::test]
async fn dials_and_echoes() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    serve(far);
    let request = Request::get("/v1/console").body(()).unwrap();
    let (mut websocket, headers) = dial(near, request).await.unwrap();
    assert_eq!(headers["sec-websocket-protocol"], PLAIN);
    assert_eq!(headers[crate::attach::OFFSET_HEADER], "7");
    assert_eq!(websocket.next().await.unwrap().unwrap(), Message::binary(b"RFB 003.008\n".to_vec()));
    websocket.send(Message::binary(vec![7; 200_000])).await.unwrap();
    assert_eq!(websocket.next().await.unwrap().unwrap().into_data().len(), 200_000);
}

#[tokio::test]
async fn bytes_that_come_with_the_response_are_not_lost() {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let server = async move {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(far.read_u8().await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        let key = request.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        );
        // Response and first frame in one write.
        far.write_all(&[head.as_bytes(), b"\x82\x0cRFB 003.008\n"].concat()).await.unwrap();
        far
    };
    let (dialled, _far) = tokio::join!(dial(near, Request::get("/").body(()).unwrap()), server);
    let (mut websocket, _) = dialled.unwrap();
    assert_eq!(websocket.next().await.unwrap().unwrap(), Message::binary(b"RFB 003.008\n".to_vec()));
}

#[tokio::test]
async fn a_refusal_keeps_status_and_words() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    serve(far);
    let request = Request::post("/").body(()).unwrap();
    match dial(near, request).await {
        Err(DialError::Refused { status, body, .. }) => {
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert_eq!(body, b"websocket: request method is not GET");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_wrong_accept_key_is_no_websocket() {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                sec-websocket-accept: bm9wZQ==\r\n\r\n";
    let server = async move {
        let mut asked = [0; 1024];
        assert!(far.read(&mut asked).await.unwrap() > 0);
        far.write_all(head.as_bytes()).await.unwrap();
        far
    };
    let (dialled, _far) = tokio::join!(dial(near, Request::get("/").body(()).unwrap()), server);
    let error = dialled.unwrap_err();
    assert!(matches!(error, DialError::BadAccept), "{error:?}");
}

/// A request as hyper hands it over, with `changes` to a good one; an empty value takes a header away.
async fn check(changes: &[(&'static str, &str)]) -> Result<HeaderMap, NotAWebsocket> {
    let mut request = Request::get("/").body(Empty::<&[u8]>::new()).unwrap();
    let good = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (name, value) in good.iter().chain(changes) {
        if value.is_empty() {
            request.headers_mut().remove(*name);
        } else {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
    }
    // Only hyper can make a connection that upgrades, so a request goes through it.
    let (near, far) = tokio::io::duplex(4096);
    let (answer, answered) = tokio::sync::oneshot::channel();
    let answer = std::sync::Arc::new(std::sync::Mutex::new(Some(answer)));
    let service = service_fn(move |mut request: Request<Incoming>| {
        let upgrade = Upgrade::from_request(&mut request);
        let checked = upgrade.map(|upgrade| upgrade.response::<()>().headers().clone());
        answer.lock().unwrap().take().unwrap().send(checked).unwrap();
        async { Ok::<_, hyper::Error>(Response::new(Empty::<&[u8]>::new())) }
    });
    let server = hyper::server::conn::http1::Builder::new();
    tokio::spawn(server.serve_connection(TokioIo::new(far), service).with_upgrades());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap();
    answered.await.unwrap()
}

#[tokio::test]
async fn subprotocols() {
    const NAME: &str = "sec-websocket-protocol";
    let cases = [
        ("", None),
        (PLAIN, Some(PLAIN)),
        ("base64url.bearer.authorization.k8s.io.dG9rZW4, plain.kubevirt.io", Some(PLAIN)),
        ("base64url.bearer.authorization.k8s.io.dG9rZW4", None),
        ("v5.channel.k8s.io", None),
    ];
    for (offered, echoed) in cases {
        let headers = check(&[(NAME, offered)]).await.unwrap();
        assert_eq!(headers.get(NAME).map(|value| value.to_str().unwrap()), echoed, "{offered}");
        assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_named() {
    let connection = NotAWebsocket::Token { header: "upgrade", name: "Connection" };
    let cases = [
        (("connection", "close"), connection),
        (("connection", ""), connection),
        (("upgrade", "h2c"), NotAWebsocket::Token { header: "websocket", name: "Upgrade" }),
        (("sec-websocket-version", "8"), NotAWebsocket::Version),
        (("sec-websocket-key", ""), NotAWebsocket::Key),
    ];
    for (change, expected) in cases {
        assert_eq!(check(&[change]).await.unwrap_err(), expected, "{change:?}");
    }
}
