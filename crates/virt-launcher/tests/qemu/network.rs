//! Ports of guests.

use handler_launcher_com::launcher::DomainPhase;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::launcher::{Launcher, tick};

fn spec(ports: Value) -> Value {
    tick(json!({"interfaces": [{"name": "default", "masquerade": {}, "ports": ports}]}), json!([]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
async fn its_ports_are_open_and_one_that_is_taken_is_named() {
    let free = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut first =
        Launcher::start_for("p0", &spec(json!([{"port": port}, {"port": port, "protocol": "UDP"}]))).await;
    first.boot().await;
    TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    std::net::UdpSocket::bind(("0.0.0.0", port)).unwrap_err();

    for (protocol, word) in [("TCP", "tcp"), ("UDP", "udp")] {
        let ports = json!([{"port": port, "protocol": protocol}]);
        let mut second = Launcher::start_for("p1", &spec(ports)).await;
        second.sync().await;
        let state = second.until(|state| state.phase() == DomainPhase::Crashed).await;
        assert_eq!(state.reason, "StartFailed");
        let rule = format!("Could not set up host forwarding rule '{word}::{port}-10.0.2.2:{port}'");
        assert!(state.exit_detail.contains(&rule), "{state:?}");
    }
    first.kill().await;
}
