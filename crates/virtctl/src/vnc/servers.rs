//! The virt-apis through which a screen is to be had: one after the other, each with a full picture.

use std::time::Duration;

use http::StatusCode;
use kubevirt_stream::relay::{Close, LegEnd, Server, Servers};
use kubevirt_stream::rfb::Unfollowed;
use kubevirt_stream::websocket::Connection;
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, chain};
use crate::console::{is_final, session_id};
use crate::stream::{OpenError, Opened, open};

/// A screen that can't be had again for so long is given up.
const RESUME_LIMIT: Duration = Duration::from_secs(60);
/// A server that is away is asked again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// A close frame that says that all is well.
const NORMAL: u16 = 1000;

/// One viewer's session.
pub(super) struct Session<'a> {
    cluster: &'a Cluster,
    name: &'a str,
    id: String,
}

impl<'a> Session<'a> {
    pub(super) fn new(cluster: &'a Cluster, name: &'a str) -> Self {
        Self { cluster, name, id: session_id() }
    }

    /// Opens the screen. `preserve` where somebody else's session must not end for it.
    pub(super) async fn open(&self, preserve: bool) -> Result<Opened, OpenError> {
        open(self.cluster, self.name, &self.path(preserve)).await
    }

    /// Opens it again. Who comes back never takes the place of somebody newer. A screen has no offsets: that one is named says that
    /// the session was there before, so that a launcher which doesn't know it doesn't count from nothing.
    async fn open_again(&self) -> Result<Opened, OpenError> {
        let path = format!("{}&resumeFrom=0", self.path(true));
        open(self.cluster, self.name, &path).await
    }

    fn path(&self, preserve: bool) -> String {
        format!("vnc?session={}&counts=true&preserveSession={preserve}", self.id)
    }
}

/// How an end is reported, in gorilla's words, which scripts know.
pub(super) fn cause(end: &LegEnd) -> String {
    match end {
        LegEnd::Closed(close) => {
            format!("websocket: close {} {}", close.code, close.reason).trim().to_owned()
        }
        LegEnd::Lost(error) => format!("websocket: close 1006 (abnormal closure): {error}"),
    }
}

impl Servers for Session<'_> {
    type Io = Connection;

    fn verdict(&mut self, end: &LegEnd) -> Option<Close> {
        match end {
            LegEnd::Closed(close) if close.code == NORMAL => Some(close.clone()),
            // Nothing was cut.
            LegEnd::Closed(close) if *close == Close::moved() => None,
            LegEnd::Closed(_) | LegEnd::Lost(_) => {
                eprintln!("The connection to the screen was cut ({}), resuming...", cause(end));
                None
            }
        }
    }

    async fn find(&mut self, lost_for: Duration) -> Result<Server<Connection>, Close> {
        let begun = Instant::now();
        let deadline = begun + RESUME_LIMIT.saturating_sub(lost_for);
        loop {
            match self.open_again().await {
                Ok(opened) => return Ok(server(opened)),
                Err(error) if has_ended(&error) => return Err(Close::normal()),
                Err(error)
                    if is_final(&error, begun.elapsed())
                        || error.is_taken()
                        || Instant::now() >= deadline =>
                {
                    return Err(Close::internal_error(chain(&error)));
                }
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// The viewer shows it.
    fn resumed(&mut self) {}

    /// It ends with its connection, and that is when it is said.
    fn unfollowed(&mut self, _why: &Unfollowed) {}
}

/// How much was taken is said only by a virt-api that passes on what it is sent as it comes.
pub(super) fn server(Opened { websocket, received, .. }: Opened) -> Server<Connection> {
    Server { websocket, received }
}

/// Whether the instance whose screen it was doesn't run any more.
fn has_ended(error: &OpenError) -> bool {
    !error.is_unattended()
        && matches!(error, OpenError::Refused { status: StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND, .. })
}
