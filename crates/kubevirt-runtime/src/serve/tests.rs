//! Over real sockets and real TLS on the loopback.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::Extension;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, body::Body};
use http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::{Drain, Server, StreamTracker};
use crate::shutdown::Shutdown;
use crate::tls::{ClientAuth, ClientTls, PeerCertificate, Peers, ServerTls};

const SERVER_NAME: &str = "kubevirt.io:system:node:virt-handler";
const CLIENT_NAME: &str = "kubevirt.io:system:client:virt-handler";
const LIMIT: Duration = Duration::from_secs(10);

/// A CA and what it issues.
struct Authority {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "test-ca");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self { issuer: rcgen::CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    fn ca(&self) -> Vec<u8> {
        self.issuer.pem().into_bytes()
    }

    fn issue(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let mut params = rcgen::CertificateParams::new(vec!["virt-api.kubevirt.svc".into()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }

    fn server(&self, clients: ClientAuth) -> ServerTls {
        let tls = ServerTls::new(clients);
        let (cert, key) = self.issue(SERVER_NAME);
        tls.set_identity(&cert, &key).unwrap();
        tls
    }

    fn client(&self, name: &str, expect: &str) -> ClientTls {
        let tls = ClientTls::new(expect);
        let (cert, key) = self.issue(name);
        tls.set(&cert, &key, &self.ca()).unwrap();
        tls
    }

    fn required(&self) -> ClientAuth {
        ClientAuth::Required(Peers { ca_pem: self.ca(), common_names: vec![CLIENT_NAME.into()] })
    }
}

/// One request over one connection; the connection's fate is not looked at.
async fn ask(
    tls: &ClientTls,
    server: &Running,
    path: &str,
) -> Result<Response<hyper::body::Incoming>, String> {
    let stream = tls.connect(server.address).await.map_err(|error| format!("{error:?}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(path).header("upgrade", "echo").header("connection", "upgrade");
    sender.send_request(request.body(Body::empty()).unwrap()).await.map_err(|e| e.to_string())
}

/// A server that runs.
struct Running {
    address: std::net::SocketAddr,
    shutdown: Shutdown,
    served: tokio::task::JoinHandle<()>,
}

async fn start(tls: ServerTls, drain: Drain, router: Router) -> Running {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), tls).await.unwrap().with_drain(drain);
    let address = server.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    let served = tokio::spawn(async move { server.serve(router, &stop).await });
    Running { address, shutdown, served }
}

/// Upgrades, and echoes until the peer ends.
async fn echo(Extension(streams): Extension<StreamTracker>, mut request: axum::extract::Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    streams.spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut buffer = [0; 64];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..n]).await.unwrap();
        }
    });
    let headers = [("upgrade", "echo"), ("connection", "upgrade")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn who(peer: Option<Extension<PeerCertificate>>) -> String {
    peer.map_or("nobody".into(), |Extension(peer)| peer.common_name)
}

async fn text(response: Response<hyper::body::Incoming>) -> String {
    use http_body_util::BodyExt;
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_drain_keeps_what_is_in_flight_and_refuses_what_is_new() {
    let authority = Authority::new();
    let client = authority.client(CLIENT_NAME, SERVER_NAME);
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (entered, go) = (entered.clone(), go.clone());
        async move || {
            entered.notify_one();
            go.notified().await;
            "slow"
        }
    };
    let router = Router::new().route("/echo", get(echo)).route("/slow", get(slow)).route("/who", get(who));
    let linger = Duration::from_millis(500);
    let server =
        start(authority.server(authority.required()), Drain { linger, streams: LIMIT }, router).await;

    let upgraded = ask(&client, &server, "/echo").await.unwrap();
    assert_eq!(upgraded.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(upgraded).await.unwrap());
    let before = ask(&client, &server, "/who").await.unwrap();
    assert!(!before.headers().contains_key("connection"));

    let in_flight = async {
        let response = ask(&client, &server, "/slow").await.unwrap();
        (response.headers()["connection"].clone(), text(response).await)
    };
    let drained = async {
        entered.notified().await;
        server.shutdown.start();
        // Still accepting: endpoints haven't forgotten us. The answer says that we go.
        let lingering = ask(&client, &server, "/who").await.unwrap();
        assert_eq!(lingering.headers()["connection"], "close");
        assert_eq!(text(lingering).await, CLIENT_NAME);
        tokio::time::timeout(LIMIT, async {
            while TcpStream::connect(server.address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the listener is closed after it has lingered");
        go.notify_one();
    };
    let ((connection, body), ()) = tokio::join!(in_flight, drained);
    assert_eq!((connection.to_str().unwrap(), body.as_str()), ("close", "slow"));

    stream.write_all(b"still here").await.unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"still here");
    assert!(!server.served.is_finished());
    drop(stream);
    tokio::time::timeout(LIMIT, server.served).await.expect("ends with the last stream").unwrap();
}

#[tokio::test]
async fn the_drain_limit_ends_streams() {
    let authority = Authority::new();
    let router = Router::new().route(
        "/stay",
        get(async |Extension(streams): Extension<StreamTracker>| {
            let stop = streams.stop().clone();
            streams.spawn(async move { stop.cancelled().await });
        }),
    );
    let drain = Drain { linger: Duration::ZERO, streams: Duration::from_millis(100) };
    let server = start(authority.server(ClientAuth::None), drain, router).await;
    let client = authority.client(CLIENT_NAME, SERVER_NAME);
    ask(&client, &server, "/stay").await.unwrap();
    let started = Instant::now();
    server.shutdown.start();
    tokio::time::timeout(LIMIT, server.served).await.unwrap().unwrap();
    assert!(started.elapsed() >= drain.streams);
}

#[tokio::test]
async fn certificates_change_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let tls = old.server(old.required());
    let server = start(tls.clone(), Drain::default(), Router::new().route("/who", get(who))).await;
    let (old_client, new_client) =
        (old.client(CLIENT_NAME, SERVER_NAME), new.client(CLIENT_NAME, SERVER_NAME));
    assert!(ask(&old_client, &server, "/who").await.is_ok());
    assert!(ask(&new_client, &server, "/who").await.is_err());

    let (cert, key) = new.issue(SERVER_NAME);
    tls.set_identity(&cert, &key).unwrap();
    tls.set_client_auth(new.required()).unwrap();
    assert!(ask(&old_client, &server, "/who").await.is_err());
    assert!(ask(&new_client, &server, "/who").await.is_ok());

    // A key that doesn't fit changes nothing.
    let (_, other_key) = new.issue(SERVER_NAME);
    assert!(tls.set_identity(&cert, &other_key).is_err());
    assert!(ask(&new_client, &server, "/who").await.is_ok());
}

#[tokio::test]
async fn files_are_followed_and_may_come_later() {
    let authority = Authority::new();
    let dir = std::env::temp_dir().join(format!("kubevirt-tls-{}", std::process::id()));
    let tls = ServerTls::from_files(&dir, crate::tls::ClientAuthFiles::None);
    assert!(tls.config().is_none());
    std::fs::create_dir_all(&dir).unwrap();
    let (cert, key) = authority.issue(SERVER_NAME);
    std::fs::write(dir.join("tls.crt"), cert).unwrap();
    std::fs::write(dir.join("tls.key"), key).unwrap();
    tokio::time::timeout(LIMIT, tls.ready()).await.expect("found at the next look");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn peers_of_another_name_are_refused() {
    let authority = Authority::new();
    let router = || Router::new().route("/who", get(who));
    let server = start(authority.server(authority.required()), Drain::default(), router()).await;
    let imposter = authority.client("kubevirt.io:system:client:other", SERVER_NAME);
    assert!(ask(&imposter, &server, "/who").await.is_err(), "a client of another name");
    let picky = authority.client(CLIENT_NAME, "kubevirt.io:system:node:other");
    assert!(ask(&picky, &server, "/who").await.is_err(), "a server of another name");
    let good = authority.client(CLIENT_NAME, SERVER_NAME);
    assert_eq!(text(ask(&good, &server, "/who").await.unwrap()).await, CLIENT_NAME);

    let peers = Peers { ca_pem: authority.ca(), common_names: vec!["front-proxy-client".into()] };
    let server = start(authority.server(ClientAuth::IfGiven(peers)), Drain::default(), router()).await;
    assert!(ask(&good, &server, "/who").await.is_err(), "a certificate that is given must be good");
    let anonymous = anonymous(&authority, &server).await;
    assert!(anonymous.ends_with("nobody"), "{anonymous}");
}

/// A request without a client certificate.
async fn anonymous(authority: &Authority, server: &Running) -> String {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.issuer.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("virt-api.kubevirt.svc").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
