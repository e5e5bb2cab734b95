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
    let registrar = Registrar {
        plugin: Plugin::new(kind, places.max_devices, usable_seen, again.clone()),
        peers: Peers::new(kind, &places.plugins, &own, again.clone()),
        kubelet: places.plugins.join("kubelet.sock"),
        socket: places.plugins.join(own),
        device: kind.seen_at(&places.host_dev),
        kind,
        usable,
        state: tell,
        serving: None,
        draining,
    };
    tokio::spawn(async move {
        tokio::select! {
            () = registrar.run(reasons) => {}
            () = ended.cancelled() => {}
        }
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
    serving: Option<CancellationToken>,
    draining: CancellationToken,
}

impl Registrar {
    async fn run(mut self, mut reasons: mpsc::UnboundedReceiver<Reason>) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known_to = None;
        let mut wanted = Some(Reason::First);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                reason = reasons.recv() => wanted = wanted.or(reason),
            }
            self.peers.look();
            let usable = self.look_at_device();
            let kubelet = inode(&self.kubelet);
            if kubelet.is_some() && known_to.is_some() && kubelet != known_to {
                wanted = Some(Reason::KubeletRestarted);
            }
            if !usable {
                self.say(PluginState::Absent);
            } else if known_to.is_some() && wanted.is_none() {
                self.say(PluginState::Registered);
            }
            let Some(reason) = &wanted else { continue };
            // A device that was never there is no resource of this node.
            if self.draining.is_cancelled() || kubelet.is_none() || (!usable && known_to.is_none()) {
                continue;
            }
            match self.register(reason).await {
                Ok(()) => {
                    tracing::info!(resource = self.kind.resource, ?reason, "device plugin registered");
                    known_to = kubelet;
                    wanted = reason.followed_by();
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
        let fresh = reason.needs_socket() || !self.socket.exists();
        let replaced = if fresh { self.serve()? } else { None };
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
        if let Some(replaced) = replaced {
            replaced.cancel();
        }
        Ok(())
    }

    /// Serves on a new socket; returns what ends the server of the one before.
    fn serve(&mut self) -> Result<Option<CancellationToken>, RegisterError> {
        let listener = socket::bind(&self.socket)?;
        let stop = CancellationToken::new();
        tokio::spawn(self.plugin.clone().serve(listener, stop.clone()));
        Ok(self.serving.replace(stop))
    }

    fn say(&self, state: PluginState) {
        self.state.send_if_modified(|known| std::mem::replace(known, state) != state);
    }

    fn look_at_device(&self) -> bool {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let usable = is_usable(rustix::fs::open(&self.device, flags, Mode::empty()).map(drop));
        if usable && let Err(error) = open_to_all(&self.device) {
            tracing::debug!(device = %self.device.display(), %error, "can't open the device to launchers");
        }
        self.usable.send_if_modified(|was| std::mem::replace(was, usable) != usable);
        usable
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        // Only the name: a successor's socket has another, and the kubelet's connection lives on.
        if self.serving.is_some()
            && let Err(error) = std::fs::remove_file(&self.socket)
        {
            tracing::debug!(%error, "the plugin's socket was gone already");
        }
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
