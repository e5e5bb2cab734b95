//! A launcher and an API server.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt};
use handler_launcher_com::launcher::launcher_server::{Launcher, LauncherServer};
use handler_launcher_com::launcher::{
    CancelMigrationRequest, CancelMigrationResponse, DomainPhase, DomainState, GetDomainRequest, InfoRequest,
    InfoResponse, KillVirtualMachineRequest, KillVirtualMachineResponse, MigrateVirtualMachineRequest,
    MigrateVirtualMachineResponse, MigrationPhase, MigrationRole, MigrationState, PauseVirtualMachineRequest,
    PauseVirtualMachineResponse, PrepareMigrationSourceRequest, PrepareMigrationSourceResponse,
    PrepareMigrationTargetRequest, PrepareMigrationTargetResponse, ResolveMigrationRequest,
    ResolveMigrationResponse, ScreenshotRequest, ScreenshotResponse, ShutdownVirtualMachineRequest,
    ShutdownVirtualMachineResponse, SoftRebootVirtualMachineRequest, SoftRebootVirtualMachineResponse,
    SyncVirtualMachineRequest, SyncVirtualMachineResponse, UnpauseVirtualMachineRequest,
    UnpauseVirtualMachineResponse, WatchDomainRequest,
};
use handler_launcher_com::socket::{bind, incoming};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::client::Body;
use kube::runtime::reflector::{self, store::Writer};
use kube::runtime::watcher;
use kubevirt_types::vmi::VirtualMachineInstanceStatus;
use kubevirt_types::{VirtualMachineInstance, VmiPhase};
use serde_json::{Value, json};
use tokio::runtime::{EnterGuard, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::{Request as Ask, Response as Answer, Status};
use virt_handler::cluster::{Pods, Vmis, Wake};
use virt_handler::control::Control;
use virt_handler::launcher::link::Links;
use virt_handler::launcher::socket;

pub const NODE: &str = "worker-1";
pub const POD: &str = "pod-1";

/// A directory that goes with the test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vh-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// What a process is to its peers: all of its connections end with it.
pub struct Process(Option<Runtime>);

impl Process {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self(Some(runtime.unwrap()))
    }

    /// What is spawned while the guard lives is the process's.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.0.as_ref().unwrap().enter()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

/// A launcher whose guest does what the test says.
#[derive(Clone)]
pub struct FakeLauncher {
    pub domain: Arc<watch::Sender<DomainState>>,
    pub calls: Arc<Mutex<Vec<String>>>,
    pub capabilities: Vec<String>,
    /// What is to be seen; nothing if there is no screen.
    pub screen: Option<Vec<u8>>,
}

impl FakeLauncher {
    pub fn new(phase: DomainPhase) -> Self {
        let domain = DomainState { phase: phase.into(), ..Default::default() };
        Self {
            domain: Arc::new(watch::channel(domain).0),
            calls: Arc::default(),
            capabilities: vec!["pause".into(), "screenshot".into()],
            screen: None,
        }
    }

    pub fn set(&self, phase: DomainPhase) {
        self.domain.send_modify(|domain| {
            domain.phase = phase.into();
            domain.generation += 1;
        });
    }

    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    /// Serves until it is dropped.
    pub fn serve(&self, pods: &Path) -> Process {
        let directory = socket::directory(pods, POD);
        std::fs::create_dir_all(&directory).unwrap();
        let process = Process::new();
        let inside = process.enter();
        let listener = bind(&directory.join(socket::LAUNCHER)).unwrap();
        let service = LauncherServer::new(self.clone());
        tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming(listener)).await.unwrap();
        });
        drop(inside);
        process
    }

    /// A migration has come so far.
    pub fn come(&self, uid: &str, role: MigrationRole, phase: MigrationPhase) {
        self.domain.send_modify(|domain| {
            domain.migration = Some(MigrationState {
                uid: uid.into(),
                role: role.into(),
                phase: phase.into(),
                started_unix_ms: 1_764_000_000_000,
                ..Default::default()
            });
            domain.generation += 1;
        });
    }

    fn take_part(
        &self,
        call: &str,
        uid: &str,
        role: MigrationRole,
        phase: MigrationPhase,
    ) -> Result<Option<DomainState>, Status> {
        if !self.capabilities.iter().any(|can| can == "live-migration") {
            return Err(stays());
        }
        self.calls.lock().unwrap().push(call.to_owned());
        self.come(uid, role, phase);
        Ok(Some(self.domain.borrow().clone()))
    }

    fn note(&self, call: &str, phase: DomainPhase) -> Option<DomainState> {
        self.calls.lock().unwrap().push(call.to_owned());
        self.set(phase);
        Some(self.domain.borrow().clone())
    }
}

/// What a launcher of v0.17.0 says.
fn stays() -> Status {
    Status::unimplemented("this launcher can't move its guest")
}

#[tonic::async_trait]
impl Launcher for FakeLauncher {
    type WatchDomainStream = Pin<Box<dyn Stream<Item = Result<DomainState, Status>> + Send>>;

    async fn info(&self, _: Ask<InfoRequest>) -> Result<Answer<InfoResponse>, Status> {
        let capabilities = self.capabilities.clone();
        Ok(Answer::new(InfoResponse { protocol_versions: vec![1], capabilities, release: "v0.17.0".into() }))
    }
    async fn sync_virtual_machine(
        &self,
        ask: Ask<SyncVirtualMachineRequest>,
    ) -> Result<Answer<SyncVirtualMachineResponse>, Status> {
        let vmi: VirtualMachineInstance = serde_json::from_slice(&ask.get_ref().vmi_json).unwrap();
        let emulation = ask.get_ref().options.unwrap().allow_emulation;
        let domain = self.note(&format!("sync {} emulation={emulation}", vmi.name()), DomainPhase::Running);
        Ok(Answer::new(SyncVirtualMachineResponse { domain }))
    }
    async fn shutdown_virtual_machine(
        &self,
        _: Ask<ShutdownVirtualMachineRequest>,
    ) -> Result<Answer<ShutdownVirtualMachineResponse>, Status> {
        let domain = self.note("shutdown", DomainPhase::ShuttingDown);
        Ok(Answer::new(ShutdownVirtualMachineResponse { domain }))
    }
    async fn kill_virtual_machine(
        &self,
        _: Ask<KillVirtualMachineRequest>,
    ) -> Result<Answer<KillVirtualMachineResponse>, Status> {
        Ok(Answer::new(KillVirtualMachineResponse { domain: self.note("kill", DomainPhase::Shutoff) }))
    }
    async fn pause_virtual_machine(
        &self,
        _: Ask<PauseVirtualMachineRequest>,
    ) -> Result<Answer<PauseVirtualMachineResponse>, Status> {
        Ok(Answer::new(PauseVirtualMachineResponse { domain: self.note("pause", DomainPhase::Paused) }))
    }
    async fn unpause_virtual_machine(
        &self,
        _: Ask<UnpauseVirtualMachineRequest>,
    ) -> Result<Answer<UnpauseVirtualMachineResponse>, Status> {
        Ok(Answer::new(UnpauseVirtualMachineResponse { domain: self.note("unpause", DomainPhase::Running) }))
    }
    async fn soft_reboot_virtual_machine(
        &self,
        _: Ask<SoftRebootVirtualMachineRequest>,
    ) -> Result<Answer<SoftRebootVirtualMachineResponse>, Status> {
        let domain = self.note("soft reboot", DomainPhase::Running);
        Ok(Answer::new(SoftRebootVirtualMachineResponse { domain }))
    }
    async fn screenshot(&self, ask: Ask<ScreenshotRequest>) -> Result<Answer<ScreenshotResponse>, Status> {
        let call = format!("screenshot move_cursor={}", ask.into_inner().move_cursor);
        self.calls.lock().unwrap().push(call);
        let png = self.screen.clone().ok_or_else(|| Status::failed_precondition("it has no screen"))?;
        Ok(Answer::new(ScreenshotResponse { png }))
    }
    async fn get_domain(&self, _: Ask<GetDomainRequest>) -> Result<Answer<DomainState>, Status> {
        Ok(Answer::new(self.domain.borrow().clone()))
    }
    async fn prepare_migration_source(
        &self,
        ask: Ask<PrepareMigrationSourceRequest>,
    ) -> Result<Answer<PrepareMigrationSourceResponse>, Status> {
        let uid = ask.into_inner().migration_uid;
        let domain =
            self.take_part("prepare source", &uid, MigrationRole::Source, MigrationPhase::Prepared)?;
        Ok(Answer::new(PrepareMigrationSourceResponse { certificate_sha256: "aa".into(), domain }))
    }
    async fn prepare_migration_target(
        &self,
        ask: Ask<PrepareMigrationTargetRequest>,
    ) -> Result<Answer<PrepareMigrationTargetResponse>, Status> {
        let ask = ask.into_inner();
        let vmi: VirtualMachineInstance = serde_json::from_slice(&ask.vmi_json).unwrap();
        let machine = vmi.status.unwrap().machine.unwrap().type_.unwrap();
        let call = format!("prepare target {machine} for {}", ask.source_certificate_sha256);
        let (role, phase) = (MigrationRole::Target, MigrationPhase::Prepared);
        let domain = self.take_part(&call, &ask.migration_uid, role, phase)?;
        self.set(DomainPhase::Starting);
        Ok(Answer::new(PrepareMigrationTargetResponse {
            port: 4444,
            certificate_sha256: "bb".into(),
            domain,
        }))
    }
    async fn migrate_virtual_machine(
        &self,
        ask: Ask<MigrateVirtualMachineRequest>,
    ) -> Result<Answer<MigrateVirtualMachineResponse>, Status> {
        let ask = ask.into_inner();
        let to = (&ask.target_address, ask.target_port, &ask.target_certificate_sha256);
        let call = format!("migrate to {to:?} with {}", ask.options.unwrap().bandwidth_bytes_per_second);
        let (role, phase) = (MigrationRole::Source, MigrationPhase::PreCopy);
        let domain = self.take_part(&call, &ask.migration_uid, role, phase)?;
        Ok(Answer::new(MigrateVirtualMachineResponse { domain }))
    }
    async fn cancel_migration(
        &self,
        ask: Ask<CancelMigrationRequest>,
    ) -> Result<Answer<CancelMigrationResponse>, Status> {
        let uid = ask.into_inner().migration_uid;
        let domain = self.take_part("cancel", &uid, MigrationRole::Source, MigrationPhase::Cancelled)?;
        Ok(Answer::new(CancelMigrationResponse { domain }))
    }
    async fn resolve_migration(
        &self,
        _: Ask<ResolveMigrationRequest>,
    ) -> Result<Answer<ResolveMigrationResponse>, Status> {
        Err(stays())
    }
    async fn watch_domain(
        &self,
        _: Ask<WatchDomainRequest>,
    ) -> Result<Answer<Self::WatchDomainStream>, Status> {
        let mut domain = self.domain.subscribe();
        domain.mark_changed();
        let states = futures::stream::unfold(domain, async |mut domain| {
            domain.changed().await.ok()?;
            let now = domain.borrow_and_update().clone();
            Some((Ok(now), domain))
        });
        Ok(Answer::new(states.boxed()))
    }
}

/// One VMI in a cluster: merge patches of its status come true if they name the right version.
#[derive(Clone)]
pub struct FakeCluster {
    vmi: Arc<Mutex<(VirtualMachineInstance, Writer<VirtualMachineInstance>)>>,
    patches: watch::Sender<Vec<Value>>,
    events: Arc<Mutex<Vec<String>>>,
    wake: mpsc::UnboundedSender<Wake>,
    pub vmis: Vmis,
    pub pods: Pods,
}

impl FakeCluster {
    pub fn new(vmi: VirtualMachineInstance) -> (Self, mpsc::UnboundedReceiver<Wake>) {
        let (vmis, mut writer) = reflector::store();
        writer.apply_watcher_event(&watcher::Event::Init);
        writer.apply_watcher_event(&watcher::Event::InitApply(vmi.clone()));
        writer.apply_watcher_event(&watcher::Event::InitDone);
        let (pods, mut pod_writer) = reflector::store();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "virt-launcher-tick", "namespace": "default", "uid": POD},
            "status": {"podIP": "10.0.0.7"},
        }))
        .unwrap();
        pod_writer.apply_watcher_event(&watcher::Event::Apply(pod));
        let (wake, wakes) = mpsc::unbounded_channel();
        let cluster = Self {
            vmi: Arc::new(Mutex::new((vmi, writer))),
            patches: watch::channel(Vec::new()).0,
            events: Arc::default(),
            wake,
            vmis: Vmis { store: vmis },
            pods: Pods { store: pods },
        };
        (cluster, wakes)
    }

    pub fn phase(&self) -> VmiPhase {
        self.status().phase
    }

    pub fn status(&self) -> VirtualMachineInstanceStatus {
        self.vmi.lock().unwrap().0.status.clone().unwrap()
    }

    pub fn patches(&self) -> Vec<Value> {
        self.patches.borrow().clone()
    }

    pub fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }

    /// Waits until the VMI is in this phase.
    pub async fn until(&self, phase: VmiPhase) {
        self.until_status(|status| status.phase == phase).await;
    }

    /// Waits until the VMI's status is as it should be.
    pub async fn until_status(&self, is: impl Fn(&VirtualMachineInstanceStatus) -> bool) {
        let mut patches = self.patches.subscribe();
        let reached = patches.wait_for(|_| is(&self.status()));
        tokio::time::timeout(std::time::Duration::from_secs(20), reached).await.expect("in time").unwrap();
    }

    /// Changes the VMI as somebody else would.
    pub fn edit(&self, edit: impl FnOnce(&mut VirtualMachineInstance)) {
        let mut guard = self.vmi.lock().unwrap();
        edit(&mut guard.0);
        self.publish(&mut guard);
    }

    fn publish(&self, stored: &mut (VirtualMachineInstance, Writer<VirtualMachineInstance>)) {
        let version: u64 = stored.0.metadata.resource_version.as_ref().unwrap().parse().unwrap();
        stored.0.metadata.resource_version = Some((version + 1).to_string());
        stored.1.apply_watcher_event(&watcher::Event::Apply(stored.0.clone()));
        drop(self.wake.send(Wake::Vmi(reflector::ObjectRef::from_obj(&stored.0))));
    }

    pub fn client(&self) -> Client {
        let cluster = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let cluster = cluster.clone();
            async move { Ok::<_, std::convert::Infallible>(cluster.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        if parts.uri.path().contains("/events") {
            let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
            self.events.lock().unwrap().push(text("reason"));
            return respond(200, &body);
        }
        let path = "/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances/tick/status";
        assert_eq!((parts.method, parts.uri.path()), (Method::PATCH, path));
        assert_eq!(parts.headers["content-type"], "application/merge-patch+json");
        assert!(body.get("spec").is_none(), "virt-handler never writes a spec");
        let mut stored = self.vmi.lock().unwrap();
        if body["metadata"]["resourceVersion"].as_str() != stored.0.metadata.resource_version.as_deref() {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "reason": "Conflict", "message": "changed", "code": 409});
            return respond(409, &status);
        }
        let mut object = serde_json::to_value(&stored.0).unwrap();
        json_patch::merge(&mut object["status"], &body["status"]);
        stored.0 = serde_json::from_value(object.clone()).unwrap();
        self.publish(&mut stored);
        drop(stored);
        self.patches.send_modify(|patches| patches.push(body));
        respond(200, &object)
    }
}

fn respond(code: u16, body: &Value) -> Response<Body> {
    let bytes = serde_json::to_vec(body).unwrap();
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(Body::from(bytes))
        .unwrap()
}

/// The VMI of the tests, in a phase.
pub fn vmi(phase: VmiPhase) -> VirtualMachineInstance {
    serde_json::from_value(json!({
        "metadata": {
            "name": "tick", "namespace": "default", "uid": "u-1", "resourceVersion": "7",
            "labels": {"kubevirt.io/nodeName": NODE},
        },
        "spec": {"domain": {"devices": {}}},
        "status": {"phase": phase, "nodeName": NODE, "activePods": {POD: NODE}},
    }))
    .unwrap()
}

/// A virt-handler's control, as `handler` puts it together, until it is dropped.
pub struct Handler {
    pub links: Links,
    task: JoinHandle<()>,
}

impl Handler {
    pub fn start(cluster: &FakeCluster, pods: &Path, mut wakes: mpsc::UnboundedReceiver<Wake>) -> Self {
        let (changed, mut told) = mpsc::unbounded_channel();
        let links = Links::new(pods, changed);
        let wake = cluster.wake.clone();
        tokio::spawn(async move {
            while let Some(uid) = told.recv().await {
                drop(wake.send(Wake::Pod(uid)));
            }
        });
        let parts = (cluster.vmis.clone(), cluster.pods.clone(), links.clone());
        let emulation = watch::channel(Some(true)).1;
        let control = Control::new(cluster.client(), NODE, "virt-handler-x", parts, emulation);
        let task = tokio::spawn(async move { Arc::new(control).run(&mut wakes).await });
        Self { links, task }
    }

    /// As `kill -9`: nothing is said, nothing is written.
    pub fn kill(self) {
        self.task.abort();
    }
}

impl FakeCluster {
    /// What a handler that is started later hears.
    pub fn reconnect(&mut self) -> mpsc::UnboundedReceiver<Wake> {
        let (wake, wakes) = mpsc::unbounded_channel();
        self.wake = wake;
        wakes
    }
}
