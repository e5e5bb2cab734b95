//! A client's stream through virt-api: carried to its end, whatever becomes of the virt-handler behind it.
//!
//! A console whose virt-handler is lost goes on through the next one, from the byte behind the last that the
//! client was sent: the launcher keeps them. A screen can't be cut in the middle of a message, so it
//! ends with a code that tells the client to come again.

use std::sync::Arc;
use std::time::Duration;

use kubevirt_stream::relay::{Close, Leg, LegEnd, WebsocketsEnd, goodbye, pump, relay_websockets};
use kubevirt_stream::websocket::WebSocket;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::handler::{HandlerError, Opened, StreamRequest};
use crate::instance::{self, Stream};
use crate::metrics::{self, OpenStream, Resume};
use crate::refusal::{Refusal, Subject};

/// A new stream waits so long for a virt-handler: longer than one needs to give way to its successor.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// A stream that was carried waits longer: nobody has to notice.
const RESUME_LIMIT: Duration = Duration::from_secs(60);
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
/// stands in the API, and may change in between.
async fn find(
    app: &App,
    request: &StreamRequest,
    uid: Option<&str>,
    limit: Duration,
) -> Result<Found, OpenError> {
    let give_up = Instant::now() + limit;
    loop {
        let vmi = app.cluster.vmi(&request.namespace, &request.name).await;
        let failed = match vmi {
            Ok(None) if uid.is_some() => return Err(OpenError::Ended),
            Ok(None) => return Err(Refusal::not_found(Subject::vmi(&request.name)).into()),
            Ok(Some(vmi)) if uid.is_some_and(|uid| uid != vmi.uid()) => return Err(OpenError::Ended),
            Ok(Some(vmi)) => {
                let node = instance::stream_node(&vmi, request.stream)?;
                match app.handlers.open(&node, &app.view.handlers(&node), request).await {
                    Ok(opened) => return Ok(Found { opened, uid: vmi.uid().to_owned() }),
                    Err(error) if error.may_pass() => OpenError::from(error),
                    // The stream was there before: it comes back.
                    Err(error) if uid.is_some() && error.is_unready() => OpenError::from(error),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => Refusal::internal(error.to_string()).into(),
        };
        if Instant::now() >= give_up {
            return Err(failed);
        }
        // For virt-handler's successor to be up, or the API server to answer again.
        sleep(RETRY).await;
    }
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
        Stream::Console => carry_console(&app, request.clone(), client, found, &stop).await,
        Stream::Vnc => {
            let end = relay_websockets(client, found.opened.websocket, &stop).await;
            tracing::debug!(namespace, name, stream, ?end, "relay ended");
        }
    }
    tracing::info!(namespace, name, stream, "stream ends");
}

async fn carry_console(
    app: &App,
    mut request: StreamRequest,
    mut client: WebSocket,
    found: Found,
    stop: &CancellationToken,
) {
    let Found { mut opened, uid } = found;
    loop {
        let mut delivered = 0;
        let end = pump(&mut client, &mut opened.websocket, &mut delivered, stop).await;
        let position = opened.offset.map(|offset| offset + delivered);
        let position = match after(&end, position) {
            After::Resume(position) => position,
            After::Goodbye { client: to_client, server: to_server } => {
                tokio::join!(goodbye(&mut client, to_client), goodbye(&mut opened.websocket, to_server));
                return;
            }
        };
        let (namespace, name, lost) = (&request.namespace, &request.name, &opened.handler);
        tracing::info!(namespace, name, handler = lost, ?end, position, "virt-handler lost, resuming");
        request.resume_from = Some(position);
        let again = tokio::select! {
            again = find(app, &request, Some(&uid), RESUME_LIMIT) => again,
            () = stop.cancelled() => return goodbye(&mut client, Close::going_away()).await,
        };
        match again {
            Ok(found) => {
                opened = found.opened;
                let outcome =
                    if opened.offset == Some(position) { Resume::Seamless } else { Resume::WithGap };
                metrics::count_resume(request.stream, outcome);
                tracing::info!(handler = opened.handler, offset = opened.offset, ?outcome, "stream resumed");
            }
            Err(error) => {
                metrics::count_resume(request.stream, Resume::Ended);
                tracing::info!(%error, "stream not resumed");
                return goodbye(&mut client, farewell(&error)).await;
            }
        }
    }
}

/// What follows when a leg has ended.
#[derive(Debug, PartialEq, Eq)]
enum After {
    /// Go on from this offset through another virt-handler.
    Resume(u64),
    /// End both legs.
    Goodbye { client: Close, server: Close },
}

/// `position` is the offset behind the last byte that the client was sent, where it is known.
fn after(end: &WebsocketsEnd, position: Option<u64>) -> After {
    let both = |close: &Close| After::Goodbye { client: close.clone(), server: close.clone() };
    match end {
        WebsocketsEnd::Stopped => both(&Close::going_away()),
        WebsocketsEnd::Leg(Leg::Client, LegEnd::Closed(close)) => both(close),
        WebsocketsEnd::Leg(Leg::Client, LegEnd::Lost(_)) => both(&Close::going_away()),
        // The guest's stream came to its end, or its launcher said no more.
        WebsocketsEnd::Leg(Leg::Server, LegEnd::Closed(close)) if !is_of_the_server(close.code) => {
            both(close)
        }
        WebsocketsEnd::Leg(Leg::Server, LegEnd::Closed(_) | LegEnd::Lost(_)) => match position {
            Some(position) => After::Resume(position),
            None => {
                both(&Close::internal_error("virt-handler was lost and did not tell where the stream was"))
            }
        },
    }
}

/// Whether a close code speaks of the server that sends it, not of what it carried: 1001 going
/// away, 1006 nothing said, 1011 internal error, 1012 restart, 1013 try again, 1014 bad gateway.
fn is_of_the_server(code: u16) -> bool {
    matches!(code, 1001 | 1006 | 1011..=1014)
}

/// What the client of a stream that can't be resumed is told.
fn farewell(error: &OpenError) -> Close {
    match error {
        OpenError::Ended => Close::normal(),
        // It was running when the stream was opened.
        OpenError::Refused(refusal) if refusal.code.is_client_error() => Close::normal(),
        OpenError::Refused(_) | OpenError::Handler(_) => Close::internal_error(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_stream::relay::{Leg, LegEnd};

    #[test]
    fn only_a_lost_server_is_replaced() {
        let closed =
            |leg, code| WebsocketsEnd::Leg(leg, LegEnd::Closed(Close { code, reason: String::new() }));
        let both = |code| {
            let close = Close { code, reason: String::new() };
            After::Goodbye { client: close.clone(), server: close }
        };
        for (end, position, expected) in [
            (closed(Leg::Server, 1000), Some(7), both(1000)),
            (closed(Leg::Server, 1005), Some(7), both(1005)),
            (closed(Leg::Server, 1008), Some(7), both(1008)),
            (closed(Leg::Server, 1001), Some(7), After::Resume(7)),
            (closed(Leg::Server, 1011), Some(7), After::Resume(7)),
            (closed(Leg::Client, 1000), Some(7), both(1000)),
            (closed(Leg::Client, 1001), Some(7), both(1001)),
        ] {
            assert_eq!(after(&end, position), expected, "{end:?}");
        }
        assert!(matches!(
            after(&closed(Leg::Server, 1001), None),
            After::Goodbye { client: Close { code: 1011, .. }, .. }
        ));
        assert!(matches!(after(&WebsocketsEnd::Stopped, Some(1)), After::Goodbye { .. }));
    }

    #[test]
    fn an_instance_that_is_over_is_a_normal_end() {
        assert_eq!(farewell(&OpenError::Ended).code, 1000);
        assert_eq!(farewell(&Refusal::bad_request("VMI is not running").into()).code, 1000);
        let none = HandlerError::None { node: "n".into() };
        assert_eq!(farewell(&none.into()).code, 1011);
        assert_eq!(farewell(&Refusal::internal("x").into()).code, 1011);
    }
}
