//! A client's stream through virt-api: carried to its end, whatever becomes of the virt-handler behind it.
//!
//! A console whose virt-handler is lost goes on through the next one, from the byte behind the last that the
//! client was sent: the launcher keeps them. A screen goes on with a full picture; one whose client counts, as virtctl does, ends,
//! and its client goes on behind the next virt-api.

mod console;
mod screen;

use std::sync::Arc;
use std::time::Duration;

use kubevirt_stream::websocket::WebSocket;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::handler::{HandlerError, Opened, StreamRequest};
use crate::instance::{self, Stream};
use crate::metrics::{self, OpenStream};
use crate::refusal::{Refusal, Subject};

/// A new stream waits so long for a virt-handler: longer than one needs to give way to its successor.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// A stream that was carried waits longer: nobody has to notice.
const RESUME_LIMIT: Duration = Duration::from_secs(60);
/// virt-handler may sit in a console's seat for a moment, to see whether output is lost. Who sits there for longer is somebody.
const TAKEN_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks for a virt-handler that can be reached.
const RETRY: Duration = Duration::from_millis(250);

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The instance's state doesn't allow it.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// No virt-handler did it.
    #[error(transparent)]
    Handler(#[from] HandlerError),
    /// The instance of this name is another one now.
    #[error("the instance has ended")]
    Ended,
}

impl From<Refusal> for OpenError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// A stream that virt-handler has opened, and the uid of its instance.
pub struct Found {
    /// The stream.
    pub opened: Opened,
    uid: String,
}

impl Found {
    /// How many bytes of the client's session were taken before, if they are the client's that are counted: of a screen only
    /// where they are passed on as they come.
    pub fn received(&self, request: &StreamRequest) -> Option<u64> {
        match request.stream {
            Stream::Console => self.opened.received,
            Stream::Vnc => self.opened.received.filter(|_| request.counts),
        }
    }
}

/// Whether there is a stream to be had at all, before anybody's session is disturbed for it.
pub async fn check(app: &App, request: &StreamRequest) -> Result<(), Refusal> {
    let vmi = app.vmi(&request.namespace, &request.name).await?;
    instance::stream_node(&vmi, request.stream).map(drop)
}

/// Opens a stream for a client that waits for an answer.
pub async fn open(app: &App, request: &StreamRequest) -> Result<Found, OpenError> {
    find(app, request, None, OPEN_LIMIT).await
}

/// Looks for a virt-handler that opens the stream until `limit` is over. Where the instance is
/// stands in the API, and may change in between. A stream that was there before, of the instance with this `uid`, has had
/// none for as long as its limit is shorter than all that it has.
async fn find(
    app: &App,
    request: &StreamRequest,
    uid: Option<&str>,
    limit: Duration,
) -> Result<Found, OpenError> {
    let begun = Instant::now();
    let mut taken = None;
    loop {
        let vmi = app.cluster.vmi(&request.namespace, &request.name).await;
        let failed = match vmi {
            Ok(None) if uid.is_some() => return Err(OpenError::Ended),
            Ok(None) => return Err(Refusal::not_found(Subject::vmi(&request.name)).into()),
            Ok(Some(vmi)) if uid.is_some_and(|uid| uid != vmi.uid()) => return Err(OpenError::Ended),
            Ok(Some(vmi)) => {
                let node = instance::stream_node(&vmi, request.stream)?;
                match app.handlers.open(&node, &app.view.handlers(&node), request).await {
                    Ok(opened) => {
                        if uid.is_some() {
                            let lost_before = RESUME_LIMIT.saturating_sub(limit);
                            metrics::count_gap(request.stream, lost_before + begun.elapsed());
                        }
                        return Ok(Found { opened, uid: vmi.uid().to_owned() });
                    }
                    Err(error) if error.may_pass() => OpenError::from(error),
                    // The stream was there before: it comes back.
                    Err(error) if uid.is_some() && error.is_unready() => OpenError::from(error),
                    Err(error) if uid.is_some() && error.is_taken() && is_new(&mut taken) => {
                        OpenError::from(error)
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => Refusal::internal(error.to_string()).into(),
        };
        if begun.elapsed() >= limit {
            return Err(failed);
        }
        // For virt-handler's successor to be up, or the API server to answer again.
        sleep(RETRY).await;
    }
}

/// Whether it isn't long since a stream was first seen to be somebody else's.
fn is_new(taken: &mut Option<Instant>) -> bool {
    taken.get_or_insert_with(Instant::now).elapsed() < TAKEN_LIMIT
}

/// Carries a stream to its end.
pub async fn carry(
    app: Arc<App>,
    request: StreamRequest,
    client: WebSocket,
    found: Found,
    stop: CancellationToken,
) {
    let _open = OpenStream::new(request.stream, &request.namespace, &request.name);
    let (namespace, name, stream) = (&request.namespace, &request.name, request.stream.name());
    tracing::info!(namespace, name, stream, handler = found.opened.handler, "stream begins");
    match request.stream {
        Stream::Console => console::carry(&app, request.clone(), client, found, &stop).await,
        Stream::Vnc => screen::carry(&app, request.clone(), client, found, &stop).await,
    }
    tracing::info!(namespace, name, stream, "stream ends");
}
