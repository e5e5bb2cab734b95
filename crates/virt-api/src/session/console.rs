//! A console, carried on through the next virt-handler when one is lost.
//!
//! The launcher keeps what the guest says; what the user types is kept here until the launcher's socket has it, and is sent
//! again from where the launcher says that it has taken it.

use kubevirt_stream::relay::{Close, Leg, LegEnd, Typing, WebsocketsEnd, goodbye, hold, pump_resending};
use kubevirt_stream::websocket::WebSocket;
use tokio_util::sync::CancellationToken;

use super::{Found, OpenError, RESUME_LIMIT, find};
use crate::app::App;
use crate::handler::{Opened, StreamRequest};
use crate::metrics::{self, Resume};

/// Carries a console to its end.
pub(super) async fn carry(
    app: &App,
    mut request: StreamRequest,
    mut client: WebSocket,
    found: Found,
    stop: &CancellationToken,
) {
    let Found { mut opened, uid } = found;
    let mut typing = Typing::new(opened.received, request.comes_back);
    loop {
        let mut delivered = 0;
        let end = pump_resending(&mut client, &mut opened.websocket, &mut delivered, &mut typing, stop).await;
        if typing.is_over() {
            let close = Close::normal();
            tokio::join!(goodbye(&mut client, close.clone()), goodbye(&mut opened.websocket, close));
            return;
        }
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
        // Who comes back never takes the place of somebody newer.
        request.preserve_session = true;
        let again = tokio::select! {
            again = find(app, &request, Some(&uid), RESUME_LIMIT) => again,
            () = hold(&mut client, &mut typing) => return goodbye(&mut client, Close::normal()).await,
            () = stop.cancelled() => return goodbye(&mut client, Close::going_away()).await,
        };
        match again {
            Ok(found) => {
                opened = found.opened;
                let lost = typing.resume(opened.received);
                let outcome = outcome(&opened, position, lost);
                metrics::count_resume(request.stream, outcome);
                let Opened { handler, offset, received, .. } = &opened;
                tracing::info!(handler, offset, received, lost, ?outcome, "virt-handler found");
                if outcome == Resume::Ended {
                    let close = Close::too_slow();
                    tokio::join!(goodbye(&mut client, close.clone()), goodbye(&mut opened.websocket, close));
                    return;
                }
            }
            Err(error) => {
                metrics::count_resume(request.stream, Resume::Ended);
                tracing::info!(%error, "stream not resumed");
                return goodbye(&mut client, farewell(&error)).await;
            }
        }
    }
}

/// How a console goes on behind the byte at `position`, where so much that was typed is lost. Not at all where output is: a client
/// that counts would count wrong from there on, and another would never hear of it.
fn outcome(opened: &Opened, position: u64, typed_lost: u64) -> Resume {
    match opened.offset {
        Some(offset) if offset > position => Resume::Ended,
        Some(offset) if offset == position && typed_lost == 0 => Resume::Seamless,
        Some(_) | None => Resume::WithGap,
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
pub(super) fn is_of_the_server(code: u16) -> bool {
    matches!(code, 1001 | 1006 | 1011..=1014)
}

/// What the client of a stream that can't be resumed is told.
pub(super) fn farewell(error: &OpenError) -> Close {
    match error {
        OpenError::Ended => Close::normal(),
        // It was running when the stream was opened.
        OpenError::Refused(refusal) if refusal.code.is_client_error() => Close::normal(),
        // A newer session has it.
        OpenError::Handler(error) if error.is_taken() => Close::normal(),
        OpenError::Refused(_) | OpenError::Handler(_) => Close::internal_error(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::HandlerError;
    use crate::refusal::Refusal;

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
        let taken = HandlerError::Refused {
            handler: "h".into(),
            status: http::StatusCode::SERVICE_UNAVAILABLE,
            message: "Active VNC connection. Request denied.".into(),
        };
        assert!(!taken.is_unready());
        assert_eq!(farewell(&taken.into()).code, 1000);
        assert_eq!(farewell(&Refusal::internal("x").into()).code, 1011);
    }
}
