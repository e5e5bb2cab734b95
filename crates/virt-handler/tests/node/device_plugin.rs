//! Device plugins against a kubelet that behaves as the real one does when plugins come and go.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::fake::{Dir, Process};
use handler_launcher_com::deviceplugin::device_plugin_client::DevicePluginClient;
use handler_launcher_com::deviceplugin::registration_server::{Registration, RegistrationServer};
use handler_launcher_com::deviceplugin::{AllocateRequest, ContainerAllocateRequest, Empty, RegisterRequest};
use handler_launcher_com::socket::{bind, connect, incoming};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use virt_handler::device::kind::{DeviceKind, PluginState, Reason};
use virt_handler::device::register::{self, Handle, Places};

/// A device that every machine has.
const NULL: DeviceKind = DeviceKind { name: "null", resource: "devices.kubevirt.io/null", path: "null" };
const ABSENT: DeviceKind =
    DeviceKind { name: "absent", resource: "devices.kubevirt.io/absent", path: "absent" };

struct Kubelet {
    registered: mpsc::UnboundedSender<RegisterRequest>,
}

#[tonic::async_trait]
impl Registration for Kubelet {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        self.registered.send(request.into_inner()).unwrap();
        Ok(Response::new(Empty {}))
    }
}

fn kubelet(dir: &Path) -> (mpsc::UnboundedReceiver<RegisterRequest>, JoinHandle<()>) {
    let listener = bind(&dir.join("kubelet.sock")).unwrap();
    let (registered, requests) = mpsc::unbounded_channel();
    let server =
        tonic::transport::Server::builder().add_service(RegistrationServer::new(Kubelet { registered }));
    let task = tokio::spawn(async move { server.serve_with_incoming(incoming(listener)).await.unwrap() });
    (requests, task)
}

struct Plugin {
    handle: Handle,
    draining: CancellationToken,
}

fn plugin(kind: DeviceKind, dir: &Path, pod: &str) -> Plugin {
    let draining = CancellationToken::new();
    let places = Places { plugins: dir.to_owned(), host_dev: PathBuf::from("/dev"), max_devices: 3 };
    let handle = register::run(kind, places, pod, draining.clone(), CancellationToken::new());
    Plugin { handle, draining }
}

async fn next(requests: &mut mpsc::UnboundedReceiver<RegisterRequest>) -> String {
    let request =
        tokio::time::timeout(Duration::from_secs(10), requests.recv()).await.expect("in time").unwrap();
    assert_eq!((request.version.as_str(), request.resource_name.as_str()), ("v1beta1", NULL.resource));
    request.endpoint
}

#[tokio::test]
async fn the_kubelet_is_told_of_devices_and_allocates_them() {
    let dir = Dir::new();
    let (mut requests, _kubelet) = kubelet(&dir.0);
    let mut plugin = plugin(NULL, &dir.0, "a");
    let endpoint = next(&mut requests).await;
    plugin.handle.state.wait_for(|s| *s == PluginState::Registered).await.unwrap();
    let mut client = DevicePluginClient::new(connect(&dir.0.join(endpoint)).await.unwrap());
    let mut devices = client.list_and_watch(Empty {}).await.unwrap().into_inner();
    let devices = devices.message().await.unwrap().unwrap().devices;
    assert_eq!(devices.iter().filter(|d| d.health == "Healthy").count(), 3);
    let ask = AllocateRequest {
        container_requests: vec![ContainerAllocateRequest { devices_ids: vec!["null0".into()] }],
    };
    let allocated = client.allocate(ask).await.unwrap().into_inner();
    assert_eq!(allocated.container_responses[0].devices[0].host_path, "/dev/null");
}

#[tokio::test]
async fn a_node_without_the_device_is_told_apart_from_one_that_is_not_ready() {
    let dir = Dir::new();
    let (_requests, _kubelet) = kubelet(&dir.0);
    let mut plugin = plugin(ABSENT, &dir.0, "a");
    plugin.handle.state.wait_for(|s| *s == PluginState::Absent).await.unwrap();
}

#[tokio::test]
async fn a_kubelet_that_drops_us_or_starts_again_is_told_again() {
    let dir = Dir::new();
    let (mut requests, first) = kubelet(&dir.0);
    let _plugin = plugin(NULL, &dir.0, "a");
    let endpoint = next(&mut requests).await;
    let mut client = DevicePluginClient::new(connect(&dir.0.join(&endpoint)).await.unwrap());
    let mut devices = client.list_and_watch(Empty {}).await.unwrap().into_inner();
    devices.message().await.unwrap().unwrap();
    drop((devices, client));
    assert_eq!(next(&mut requests).await, endpoint, "dropped");
    // A kubelet removes every socket when it starts.
    first.abort();
    std::fs::remove_file(dir.0.join(&endpoint)).unwrap();
    let (mut requests, _second) = kubelet(&dir.0);
    let endpoint = next(&mut requests).await;
    connect(&dir.0.join(endpoint)).await.unwrap();
}

#[tokio::test]
async fn of_two_handlers_the_newer_registers_last_and_whoever_stays_covers_for_the_other() {
    let dir = Dir::new();
    let (mut requests, _kubelet) = kubelet(&dir.0);
    let old_process = Process::new();
    let old = {
        let _inside = old_process.enter();
        plugin(NULL, &dir.0, "old")
    };
    let old_socket = next(&mut requests).await;
    let new = plugin(NULL, &dir.0, "new");
    let new_socket = next(&mut requests).await;
    assert_ne!(old_socket, new_socket);
    // Both answer: an allocation finds one whoever the kubelet asks.
    connect(&dir.0.join(&old_socket)).await.unwrap();
    // The old one drains, and at last goes: the kubelet writes off the resource, so the new one says it again.
    old.draining.cancel();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(old_process);
    for _ in 0..2 {
        assert_eq!(next(&mut requests).await, new_socket);
    }
    // One that drains never registers again.
    new.draining.cancel();
    new.handle.again.send(Reason::NodeSaysNone).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(requests.try_recv().is_err());
}

/// After a kill of the old handler its successor loses a peer and takes over the node within milliseconds. A kubelet
/// that notices the end after both words is told a third time.
#[tokio::test]
async fn a_peers_end_is_told_again_a_look_later_whatever_else_comes_up() {
    let gone = Reason::PeerGone(PathBuf::from("/old.sock"));
    for order in [[gone.clone(), Reason::TookOver], [Reason::TookOver, gone]] {
        let dir = Dir::new();
        let (mut requests, _kubelet) = kubelet(&dir.0);
        let plugin = plugin(NULL, &dir.0, "new");
        let socket = next(&mut requests).await;
        let before = Instant::now();
        for reason in &order {
            plugin.handle.again.send(reason.clone()).unwrap();
        }
        for _ in 0..3 {
            assert_eq!(next(&mut requests).await, socket, "{order:?}");
        }
        assert!(before.elapsed() >= Duration::from_secs(1), "in the same breath: {order:?}");
    }
}
