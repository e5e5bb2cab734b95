//! A viewer's screen through virt-api: its virt-handlers come and go behind it, and so do, where the instance moves, its launchers.

use std::time::Duration;

use futures::StreamExt;
use kubevirt_stream::relay::{
    Close, LegEnd, ScreenEnd, Server, Servers, Typing, WebsocketsEnd, carry_screen, goodbye, pump_resending,
};
use kubevirt_stream::rfb::Unfollowed;
use kubevirt_stream::websocket::{Connection, WebSocket};
use tokio_util::sync::CancellationToken;

use super::console::{farewell, is_of_the_server};
use super::{Found, RESUME_LIMIT, find};
use crate::app::App;
use crate::handler::{Opened, StreamRequest};
use crate::metrics::{self, Resume};

/// Carries a viewer's screen to its end.
pub(super) async fn carry(
    app: &App,
    request: StreamRequest,
    client: WebSocket,
    found: Found,
    stop: &CancellationToken,
) {
    let counted = found.received(&request).is_some();
    let Found { opened, uid } = found;
    if counted {
        return pass_on(&request, client, opened, stop).await;
    }
    // Who comes back never takes the place of somebody newer. A screen has no offsets: that one is named says that the session was
    // there before, so that a launcher which doesn't know it doesn't count from nothing.
    let again = StreamRequest { preserve_session: true, resume_from: Some(0), ..request };
    let mut handlers = Handlers { app, again, uid, handler: opened.handler.clone(), followed: true };
    let end = carry_screen(client.split(), server(opened), &mut handlers, stop).await;
    if !handlers.followed && matches!(&end, ScreenEnd::Told(close) if *close == Close::going_away()) {
        metrics::count_resume(handlers.again.stream, Resume::Ended);
    }
    let StreamRequest { namespace, name, .. } = &handlers.again;
    tracing::debug!(namespace, name, ?end, "screen ended");
}

/// Passes on what comes, both ways, until one of them ends: what the launcher counts is then what the client has sent, who goes on
/// exactly where a virt-api or a virt-handler was lost.
async fn pass_on(request: &StreamRequest, mut client: WebSocket, opened: Opened, stop: &CancellationToken) {
    let Opened { mut websocket, handler, .. } = opened;
    let (mut delivered, mut typing) = (0, Typing::default());
    let end = pump_resending(&mut client, &mut websocket, &mut delivered, &mut typing, stop).await;
    let StreamRequest { namespace, name, .. } = request;
    tracing::debug!(namespace, name, handler, ?end, "screen ended");
    let close = last_word(end);
    tokio::join!(goodbye(&mut client, close.clone()), goodbye(&mut websocket, close));
}

/// What both are told of an end: what one of them said, and that he may come again where nobody said anything.
fn last_word(end: WebsocketsEnd) -> Close {
    match end {
        WebsocketsEnd::Leg(_, LegEnd::Closed(close)) => close,
        WebsocketsEnd::Leg(_, LegEnd::Lost(_)) | WebsocketsEnd::Stopped => Close::going_away(),
    }
}

fn server(Opened { websocket, received, .. }: Opened) -> Server<Connection> {
    Server { websocket, received }
}

/// The virt-handlers through which a screen is to be had.
struct Handlers<'a> {
    app: &'a App,
    again: StreamRequest,
    uid: String,
    /// The one that has it.
    handler: String,
    followed: bool,
}

impl Servers for Handlers<'_> {
    type Io = Connection;

    fn verdict(&mut self, end: &LegEnd) -> Option<Close> {
        match end {
            // The guest's screen came to its end, or its launcher said no more.
            LegEnd::Closed(close) if !is_of_the_server(close.code) => Some(close.clone()),
            LegEnd::Closed(_) | LegEnd::Lost(_) => {
                let StreamRequest { namespace, name, .. } = &self.again;
                tracing::info!(
                    namespace,
                    name,
                    handler = self.handler,
                    ?end,
                    "virt-handler lost under a screen"
                );
                None
            }
        }
    }

    async fn find(&mut self, lost_for: Duration) -> Result<Server<Connection>, Close> {
        let limit = RESUME_LIMIT.saturating_sub(lost_for);
        match find(self.app, &self.again, Some(&self.uid), limit).await {
            Ok(found) => {
                self.handler.clone_from(&found.opened.handler);
                Ok(server(found.opened))
            }
            Err(error) => {
                metrics::count_resume(self.again.stream, Resume::Ended);
                tracing::info!(%error, "screen not resumed");
                Err(farewell(&error))
            }
        }
    }

    fn resumed(&mut self) {
        metrics::count_resume(self.again.stream, Resume::Seamless);
        tracing::info!(handler = self.handler, "screen resumed");
    }

    fn unfollowed(&mut self, why: &Unfollowed) {
        self.followed = false;
        metrics::count_unfollowed();
        let StreamRequest { namespace, name, .. } = &self.again;
        tracing::warn!(namespace, name, %why, "screen can't be followed: it will end with its virt-handler");
    }
}

#[cfg(test)]
mod tests {
    use kubevirt_stream::relay::Leg;
    use tokio_tungstenite::tungstenite::Error;

    use super::*;

    #[test]
    fn who_counts_hears_why_and_comes_again_where_nobody_says_it() {
        let ended = |leg, close| WebsocketsEnd::Leg(leg, LegEnd::Closed(close));
        let lost = |leg| WebsocketsEnd::Leg(leg, LegEnd::Lost(Error::ConnectionClosed));
        for (end, told) in [
            // Or virtctl would hold keys down that the guest's new QEMU never saw pressed.
            (ended(Leg::Server, Close::moved()), Close::moved()),
            (ended(Leg::Server, Close::normal()), Close::normal()),
            (ended(Leg::Client, Close::normal()), Close::normal()),
            (lost(Leg::Server), Close::going_away()),
            (lost(Leg::Client), Close::going_away()),
            (WebsocketsEnd::Stopped, Close::going_away()),
        ] {
            let said = format!("{end:?}");
            assert_eq!(last_word(end), told, "{said}");
        }
    }
}
