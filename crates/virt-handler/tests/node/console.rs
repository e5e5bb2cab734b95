//! Streams and pausing as virt-api asks for them: the launcher's answer comes first.

use std::sync::Arc;

use crate::fake::{Dir, FakeLauncher, NODE, POD};
use axum::Extension;
use axum::body::Body;
use futures::{SinkExt, StreamExt};
use handler_launcher_com::launcher::{DomainPhase, MigrationPhase, MigrationRole};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use kubevirt_runtime::serve::StreamTracker;
use kubevirt_stream::attach::{AttachReply, OFFSET_HEADER, RECEIVED_HEADER, accept, reply};
use kubevirt_stream::relay::{RelayEnd, relay};
use kubevirt_stream::websocket::{DialError, WebSocket, dial};
use kubevirt_types::Release;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use virt_handler::console::{Consoles, router};
use virt_handler::launcher::link::Links;
use virt_handler::launcher::socket;

const AT: &str = "/v1/namespaces/default/virtualmachineinstances";

fn routes(dir: &Dir) -> (axum::Router, Links) {
    let links = Links::new(&dir.0, mpsc::unbounded_channel().0);
    let lookup = Arc::new(|namespace: &str, name: &str| {
        (namespace == "default" && name == "tick").then(|| POD.to_owned())
    });
    let consoles = Consoles { lookup, links: links.clone(), node: NODE.to_owned() };
    (router(consoles, &Release::V0_18_0).layer(Extension(StreamTracker::default())), links)
}

fn listen(dir: &Dir, name: &str) -> UnixListener {
    let directory = socket::directory(&dir.0, POD);
    std::fs::create_dir_all(&directory).unwrap();
    UnixListener::bind(directory.join(name)).unwrap()
}

async fn open(dir: &Dir, path: &str) -> Result<(WebSocket, http::HeaderMap), DialError> {
    open_at(routes(dir).0, path).await
}

async fn open_at(routes: axum::Router, path: &str) -> Result<(WebSocket, http::HeaderMap), DialError> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let service = TowerToHyperService::new(routes);
    tokio::spawn(async move {
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
        connection.with_upgrades().await.unwrap();
    });
    dial(ours, Request::get(format!("{AT}/{path}")).body(()).unwrap()).await
}

fn refusal(error: DialError) -> (StatusCode, Value) {
    match error {
        DialError::Refused { status, body, .. } => (status, serde_json::from_slice(&body).unwrap()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_stream_is_resumed_where_the_caller_left_it() {
    let dir = Dir::new();
    let console = listen(&dir, socket::CONSOLE);
    let launcher = tokio::spawn(async move {
        let (mut stream, _) = console.accept().await.unwrap();
        let asked = accept(&mut stream).await.unwrap();
        reply(&mut stream, &AttachReply::Attached { offset: 41, received: Some(5) }).await.unwrap();
        stream.write_all(b"tick 42\n").await.unwrap();
        let mut typed = [0; 4];
        stream.read_exact(&mut typed).await.unwrap();
        (asked, typed)
    });
    let (mut websocket, headers) = open(&dir, "tick/console?session=s-1&resumeFrom=41").await.unwrap();
    assert_eq!(
        (&headers[OFFSET_HEADER], &headers[RECEIVED_HEADER]),
        (&"41".parse().unwrap(), &"5".parse().unwrap())
    );
    assert_eq!(websocket.next().await.unwrap().unwrap().into_data().as_ref(), b"tick 42\n");
    websocket.send(b"root".to_vec().into()).await.unwrap();
    let (asked, typed) = launcher.await.unwrap();
    assert_eq!((asked.session.as_str(), asked.resume_from, asked.preserve_session), ("s-1", Some(41), false));
    assert_eq!(&typed, b"root");
}

#[tokio::test]
async fn a_launcher_that_says_no_is_heard_before_the_upgrade() {
    let dir = Dir::new();
    let vnc = listen(&dir, socket::VNC);
    tokio::spawn(async move {
        let (mut stream, _) = vnc.accept().await.unwrap();
        assert!(accept(&mut stream).await.unwrap().preserve_session);
        let error = "Active VNC connection. Request denied.".to_owned();
        reply(&mut stream, &AttachReply::Refused { error }).await.unwrap();
    });
    let (code, status) = refusal(open(&dir, "tick/vnc?preserveSession=true").await.unwrap_err());
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status["message"], "Active VNC connection. Request denied.");
    assert_eq!(status["kind"], "Status");
}

#[tokio::test]
async fn refusals() {
    let dir = Dir::new();
    for (path, code) in [
        ("other/console", StatusCode::NOT_FOUND),
        ("tick/vnc", StatusCode::SERVICE_UNAVAILABLE),
        ("tick/console?resumeFrom=x", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(refusal(open(&dir, path).await.unwrap_err()).0, code, "{path}");
    }
}

#[tokio::test]
async fn an_old_release_cannot_pause() {
    let links = Links::new(std::path::Path::new("/nonexistent"), mpsc::unbounded_channel().0);
    let consoles = Consoles { lookup: Arc::new(|_, _| None), links, node: NODE.to_owned() };
    let request = Request::put(format!("{AT}/tick/pause")).body(Body::empty()).unwrap();
    let response = router(consoles, &Release::V0_17_0).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty(), "there is no such route");
}

#[tokio::test]
async fn pausing_reaches_the_launcher_if_it_can() {
    let dir = Dir::new();
    let launcher = FakeLauncher::new(DomainPhase::Running);
    let _server = launcher.serve(&dir.0);
    let (routes, links) = routes(&dir);
    let put = async |what: &str| {
        let request = Request::put(format!("{AT}/tick/{what}")).body(Body::empty()).unwrap();
        routes.clone().oneshot(request).await.unwrap()
    };
    assert_eq!(put("pause").await.status(), StatusCode::SERVICE_UNAVAILABLE, "it has not been dialled");
    links.adopt(std::time::Duration::from_secs(10)).await;
    assert_eq!(put("pause").await.status(), StatusCode::ACCEPTED);
    assert_eq!(put("unpause").await.status(), StatusCode::ACCEPTED);
    assert_eq!(launcher.calls(), ["pause", "unpause"]);
}

#[tokio::test]
async fn an_old_launcher_that_cannot_pause_is_named() {
    let dir = Dir::new();
    let launcher = FakeLauncher { capabilities: Vec::new(), ..FakeLauncher::new(DomainPhase::Running) };
    let _server = launcher.serve(&dir.0);
    let (routes, links) = routes(&dir);
    links.adopt(std::time::Duration::from_secs(10)).await;
    let request = Request::put(format!("{AT}/tick/pause")).body(Body::empty()).unwrap();
    let response = routes.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let status: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status["message"], "the launcher (release v0.17.0) can't pause");
}

/// What comes of a screenshot: the code, and a refusal's message or what kind of picture there is, and how large.
async fn look(launcher: &FakeLauncher, query: &str) -> (StatusCode, String) {
    let dir = Dir::new();
    let _server = launcher.serve(&dir.0);
    let (routes, links) = routes(&dir);
    links.adopt(std::time::Duration::from_secs(10)).await;
    let request = Request::get(format!("{AT}/tick/vnc/screenshot{query}")).body(Body::empty()).unwrap();
    let response = routes.oneshot(request).await.unwrap();
    let (code, kind) = (response.status(), response.headers()["content-type"].to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let said = match serde_json::from_slice::<Value>(&body) {
        Ok(status) => status["message"].as_str().unwrap().to_owned(),
        Err(_) => format!("{kind} {}", body.len()),
    };
    (code, said)
}

#[tokio::test]
async fn a_picture_is_the_launchers_however_large() {
    let largest = FakeLauncher {
        screen: Some(vec![0x89; handler_launcher_com::MAX_SCREENSHOT]),
        ..FakeLauncher::new(DomainPhase::Running)
    };
    assert_eq!(look(&largest, "").await, (StatusCode::OK, "image/png 16777216".to_owned()));
    assert_eq!(look(&largest, "?moveCursor=true").await.0, StatusCode::OK);
    assert_eq!(largest.calls(), ["screenshot move_cursor=false", "screenshot move_cursor=true"]);
}

#[tokio::test]
async fn who_gets_no_picture_is_told_why() {
    let fake = || FakeLauncher::new(DomainPhase::Running);
    let leaving = fake();
    leaving.come("m-1", MigrationRole::Source, MigrationPhase::HandedOverUnconfirmed);
    let too_large =
        FakeLauncher { screen: Some(vec![0; handler_launcher_com::MAX_SCREENSHOT_MESSAGE]), ..fake() };
    let old = FakeLauncher { capabilities: Vec::new(), ..fake() };
    for (launcher, query, code, words) in [
        (&fake(), "", StatusCode::CONFLICT, "it has no screen"),
        (&old, "", StatusCode::BAD_REQUEST, "the launcher (release v0.17.0) can't take a screenshot"),
        (&leaving, "", StatusCode::NOT_FOUND, "moves away from node"),
        (&too_large, "", StatusCode::INTERNAL_SERVER_ERROR, "message length too large"),
        (&fake(), "?moveCursor=maybe", StatusCode::BAD_REQUEST, "provided string was not"),
    ] {
        let (got, said) = look(launcher, query).await;
        assert_eq!(got, code, "{said}");
        assert!(said.contains(words), "{said}");
    }
    assert!(old.calls().is_empty());
}

/// The close code at the end of a launcher's stream, when this has become of the guest meanwhile.
async fn close_code(meanwhile: impl FnOnce(&FakeLauncher)) -> u16 {
    let dir = Dir::new();
    let fake = FakeLauncher::new(DomainPhase::Running);
    let _server = fake.serve(&dir.0);
    let console = listen(&dir, socket::CONSOLE);
    let (routes, links) = routes(&dir);
    links.adopt(std::time::Duration::from_secs(10)).await;
    let launcher = tokio::spawn(async move {
        let (mut stream, _) = console.accept().await.unwrap();
        accept(&mut stream).await.unwrap();
        reply(&mut stream, &AttachReply::Attached { offset: 0, received: None }).await.unwrap();
        stream
    });
    let (websocket, _) = open_at(routes, "tick/console").await.unwrap();
    let stream = launcher.await.unwrap();
    meanwhile(&fake);
    drop(stream);
    let (_client, ours) = tokio::io::duplex(64);
    match relay(websocket, ours, &CancellationToken::new()).await {
        RelayEnd::PeerClosed(close) => close.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stream_whose_guest_moves_away_is_to_be_had_again_elsewhere() {
    assert_eq!(close_code(|_| {}).await, 1000, "somebody newer has it");
    assert_eq!(close_code(|fake| fake.set(DomainPhase::Shutoff)).await, 1000);
    let source = |phase| move |fake: &FakeLauncher| fake.come("m-1", MigrationRole::Source, phase);
    assert_eq!(close_code(source(MigrationPhase::PreCopy)).await, 1000);
    assert_eq!(close_code(source(MigrationPhase::HandedOverUnconfirmed)).await, 1001);
    assert_eq!(close_code(source(MigrationPhase::Completed)).await, 1001);
    let migrated = |fake: &FakeLauncher| {
        fake.domain.send_modify(|domain| "Migrated".clone_into(&mut domain.reason));
        fake.set(DomainPhase::Shutoff);
    };
    assert_eq!(close_code(migrated).await, 1001);
}

#[tokio::test]
async fn a_stream_whose_launcher_does_not_answer_is_asked_for_again() {
    let dir = Dir::new();
    let console = listen(&dir, socket::CONSOLE);
    let launcher = tokio::spawn(async move {
        let (mut stream, _) = console.accept().await.unwrap();
        accept(&mut stream).await.unwrap();
        reply(&mut stream, &AttachReply::Attached { offset: 0, received: None }).await.unwrap();
    });
    let (websocket, _) = open(&dir, "tick/console").await.unwrap();
    launcher.await.unwrap();
    let (_client, ours) = tokio::io::duplex(64);
    let end = relay(websocket, ours, &CancellationToken::new()).await;
    assert!(matches!(&end, RelayEnd::PeerClosed(close) if close.code == 1001), "{end:?}");
}

#[tokio::test]
async fn a_reader_who_was_too_slow_is_told_that_output_is_lost() {
    let busy = AttachReply::Refused { error: "Active console connection. Request denied.".into() };
    let at = |offset| AttachReply::Attached { offset, received: None };
    // Somebody newer has it, or the guest has ended.
    for (answer, code) in [(at(12), 1008), (at(10), 1000), (busy, 1000)] {
        let dir = Dir::new();
        let fake = FakeLauncher::new(DomainPhase::Running);
        let _server = fake.serve(&dir.0);
        let console = listen(&dir, socket::CONSOLE);
        let (routes, links) = routes(&dir);
        links.adopt(std::time::Duration::from_secs(10)).await;
        let launcher = tokio::spawn(async move {
            let (mut stream, _) = console.accept().await.unwrap();
            accept(&mut stream).await.unwrap();
            reply(&mut stream, &AttachReply::Attached { offset: 7, received: None }).await.unwrap();
            stream.write_all(b"abc").await.unwrap();
            drop(stream);
            let (mut stream, _) = console.accept().await.unwrap();
            let asked = accept(&mut stream).await.unwrap();
            reply(&mut stream, &answer).await.unwrap();
            asked
        });
        let (websocket, _) = open_at(routes, "tick/console?session=s-1").await.unwrap();
        let (_client, ours) = tokio::io::duplex(64);
        let end = relay(websocket, ours, &CancellationToken::new()).await;
        assert!(matches!(&end, RelayEnd::PeerClosed(close) if close.code == code), "{code}: {end:?}");
        let asked = launcher.await.unwrap();
        assert_eq!((asked.resume_from, asked.preserve_session), (Some(10), true));
        assert_ne!(asked.session, "s-1", "it would replace itself");
    }
}

#[tokio::test]
async fn a_guest_that_was_given_away_is_to_be_asked_for_again() {
    let dir = Dir::new();
    let fake = FakeLauncher::new(DomainPhase::Running);
    fake.come("m-1", MigrationRole::Source, MigrationPhase::Completed);
    let _server = fake.serve(&dir.0);
    let (routes, links) = routes(&dir);
    links.adopt(std::time::Duration::from_secs(10)).await;
    let (code, status) = refusal(open_at(routes, "tick/console?resumeFrom=7").await.unwrap_err());
    assert_eq!(code, StatusCode::NOT_FOUND, "the one refusal on which virt-api tries again");
    assert!(status["message"].as_str().unwrap().contains("moves away"), "{status}");
}

#[tokio::test]
async fn a_launcher_that_ends_because_its_guest_moves_refuses_nobody() {
    let dir = Dir::new();
    let fake = FakeLauncher::new(DomainPhase::Running);
    let _server = fake.serve(&dir.0);
    let console = listen(&dir, socket::CONSOLE);
    let (routes, links) = routes(&dir);
    links.adopt(std::time::Duration::from_secs(10)).await;
    tokio::spawn(async move {
        let (mut stream, _) = console.accept().await.unwrap();
        accept(&mut stream).await.unwrap();
        fake.come("m-1", MigrationRole::Source, MigrationPhase::Completed);
    });
    let (code, _) = refusal(open_at(routes, "tick/console").await.unwrap_err());
    assert_eq!(code, StatusCode::NOT_FOUND);
}
