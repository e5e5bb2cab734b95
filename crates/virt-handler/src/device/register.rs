//! Makes one plugin known to the kubelet, and known again whenever the kubelet may have lost it.
//!
//! A handler that drains goes on serving its socket, so that an allocation always finds a
//! plugin, but never registers again: the newest registration is the successor's.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use handler_launcher_com::deviceplugin::registration_client::RegistrationClient;
use handler_launcher_com::deviceplugin::{DevicePluginOptions, RegisterRequest};
use handler_launcher_com::socket::{self, SocketError};
use rustix::fs::{Mode, OFlags};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::kind::{DeviceKind, PluginState, Reason, is_connected, is_usable};
use super::peers::Peers;
use super::server::Plugin;
use super::wanted::Wanted;

/// How often the kubelet's socket, the other plugins' and the device are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Longer than the kubelet's own limit for connecting back to a plugin.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(15);

/// Where things are on this node, and how many devices there are of each kind.
#[derive(Debug, Clone)]
pub struct Places {
    /// The kubelet's directory for device plugins.
    pub plugins: PathBuf,
    /// The host's `/dev`.
    pub host_dev: PathBuf,
    /// Devices of each kind that pods may use at a time.
    pub max_devices: u32,
}

/// A plugin that doesn't get known.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The plugin's own socket, or the kubelet's.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The kubelet refused.
    #[error("the kubelet refused {resource}: {message}")]
    Refused {
        /// The resource.
        resource: &'static str,
        /// Its words.
        message: String,
    },
    /// The kubelet doesn't answer.
    #[error("the kubelet does not answer about {resource}")]
    Silent {
        /// The resource.
        resource: &'static str,
    },
}

/// A plugin's two ends for the rest of the process.
#[derive(Debug, Clone)]
pub struct Handle {
    /// What is known of it.
    pub state: watch::Receiver<PluginState>,
    /// Makes it register again.
    pub again: mpsc::UnboundedSender<Reason>,
}

/// Runs the plugin of one device. `draining` ends registrations, `ended` the rest.
pub fn run(
    kind: DeviceKind,
    places: Places,
    pod: &str,
    draining: CancellationToken,
    ended: CancellationToken,
) -> Handle {
    let (again, reasons) = mpsc::unbounded_channel();
    let (tell, state) = watch::channel(PluginState::Starting);
    let own = kind.socket_name(pod);
    let (usable, usable_seen) = watch::channel(false);
    let mut registrar = Registrar {
        plugin: Plugin::new(kind, places.max_devices, usable_seen, again.clone()),
        peers: Peers::new(kind, &places.plugins, &own, again.clone()),
        kubelet: places.plugins.join("kubelet.sock"),
        socket: places.plugins.join(own),
        device: kind.seen_at(&places.host_dev),
        kind,
        usable,
        state: tell,
        serving: None,
        replaced: None,
        draining,
    };
    tokio::spawn(async move {
        tokio::select! {
            () = registrar.run(reasons) => {}
            () = ended.cancelled() => {}
        }
        registrar.leave();
    });
    Handle { state, again }
}

struct Registrar {
    kind: DeviceKind,
    plugin: Plugin,
    peers: Peers,
    kubelet: PathBuf,
    socket: PathBuf,
    device: PathBuf,
    usable: watch::Sender<bool>,
    state: watch::Sender<PluginState>,
    /// Ends the newest server.
    serving: Option<CancellationToken>,
    /// Ends the server that the newest took the socket's name from, once the kubelet has been told.
    replaced: Option<CancellationToken>,
    draining: CancellationToken,
}

impl Registrar {
    async fn run(&mut self, mut reasons: mpsc::UnboundedReceiver<Reason>) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known_to = None;
        let mut wanted = Wanted::default();
        loop {
            tokio::select! {
                _ = look.tick() => wanted.look(),
                Some(reason) = reasons.recv() => wanted.hear(reason),
            }
            self.peers.look();
            let usable = self.look_at_device();
            let kubelet = inode(&self.kubelet);
            if kubelet.is_some() && known_to.is_some() && kubelet != known_to {
                wanted.hear(Reason::KubeletRestarted);
            }
            if !usable {
                self.say(PluginState::Absent);
            } else if known_to.is_some() && wanted.now().is_none() {
                self.say(PluginState::Registered);
            }
            let Some(reason) = wanted.now() else { continue };
            // A device that was never there is no resource of this node.
            if self.draining.is_cancelled() || kubelet.is_none() || (!usable && known_to.is_none()) {
                continue;
            }
            match self.register(reason).await {
                Ok(()) => {
                    tracing::info!(resource = self.kind.resource, ?reason, "device plugin registered");
                    known_to = kubelet;
                    if wanted.told() {
                        // The next look is a whole one away, not what is left of this one.
                        look.reset();
                    }
                    if usable {
                        self.say(PluginState::Registered);
                    }
                }
                Err(error) => tracing::warn!(%error, "can't register a device plugin"),
            }
        }
    }

    /// Binds the socket if it isn't, and introduces it to the kubelet.
    async fn register(&mut self, reason: &Reason) -> Result<(), RegisterError> {
        if reason.needs_socket() || !self.socket.exists() {
            self.serve()?;
        }
        let request = RegisterRequest {
            version: "v1beta1".to_owned(),
            endpoint: file_name(&self.socket),
            resource_name: self.kind.resource.to_owned(),
            options: Some(DevicePluginOptions::default()),
        };
        let mut kubelet = RegistrationClient::new(socket::connect(&self.kubelet).await?);
        let answer = tokio::time::timeout(REGISTER_TIMEOUT, kubelet.register(request)).await;
        let answer = answer.map_err(|_| RegisterError::Silent { resource: self.kind.resource })?;
        match answer {
            Ok(_) => {}
            // It is ours that it uses: that is all we want.
            Err(status) if is_connected(status.message(), &file_name(&self.socket)) => {}
            Err(status) => {
                let (resource, message) = (self.kind.resource, status.message().to_owned());
                return Err(RegisterError::Refused { resource, message });
            }
        }
        if let Some(replaced) = self.replaced.take() {
            replaced.cancel();
        }
        Ok(())
    }

    /// Serves on a new socket. A kubelet that doesn't answer makes us come here at every look: only the newest server
    /// stays, and the one that the kubelet may know.
    fn serve(&mut self) -> Result<(), RegisterError> {
        let listener = socket::bind(&self.socket)?;
        let stop = CancellationToken::new();
        tokio::spawn(self.plugin.clone().serve(listener, stop.clone()));
        let before = self.serving.replace(stop);
        if self.replaced.is_none() {
            self.replaced = before;
        } else if let Some(untold) = before {
            untold.cancel();
        }
        Ok(())
    }

    /// Takes the socket's name away, and nothing else: a successor's socket has another, and the kubelet's connection
    /// lives on. Only an orderly end does that: what a crash leaves tells others that the kubelet has lost a plugin.
    fn leave(&self) {
        if self.serving.is_some()
            && let Err(error) = std::fs::remove_file(&self.socket)
        {
            tracing::debug!(%error, "the plugin's socket was gone already");
        }
    }

    fn say(&self, state: PluginState) {
        self.state.send_if_modified(|known| std::mem::replace(known, state) != state);
    }

    fn look_at_device(&self) -> bool {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&self.device, flags, Mode::empty()).map(drop);
        let usable = is_usable(opened).unwrap_or(*self.usable.borrow());
        if usable && let Err(error) = open_to_all(&self.device) {
            tracing::debug!(device = %self.device.display(), %error, "can't open the device to launchers");
        }
        self.usable.send_if_modified(|was| std::mem::replace(was, usable) != usable);
        usable
    }
}

/// Containers get the device with the host's owner and mode, and a launcher is neither root nor
/// in the host's kvm group.
fn open_to_all(device: &Path) -> io::Result<()> {
    let mut permissions = std::fs::metadata(device)?.permissions();
    if permissions.mode() & 0o006 == 0o006 {
        return Ok(());
    }
    permissions.set_mode(permissions.mode() | 0o006);
    std::fs::set_permissions(device, permissions)
}

/// Which incarnation of a socket this is; none when there is no socket.
fn inode(path: &Path) -> Option<(u64, i64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.ctime_nsec()))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
