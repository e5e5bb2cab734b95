//! `console`: the serial console of an instance on this terminal, or in a script's pipe.
//!
//! A console that is cut on its way is opened again where it was cut, if the server knows how; the user sees a
//! line about it, loses no output, and nothing that he types is lost or typed twice.

mod talk;

use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use crate::cluster::Cluster;
use crate::stream::{OpenError, Opened, open};
use crate::terminal::Raw;
use talk::{End, Keys, talk};

/// An instance that doesn't run yet, or a server that is away, is asked for again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// A cut console that can't be opened again for so long is given up.
const RESUME_LIMIT: Duration = Duration::from_secs(60);
/// virt-handler may sit in a console's seat for a moment. Who sits there for longer is somebody.
const TAKEN_LIMIT: Duration = Duration::from_secs(3);
/// For so long an API server that starts may refuse whom it will let in.
const API_SERVER_START: Duration = Duration::from_secs(15);

/// A console that can't be opened, or was cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    #[error(transparent)]
    Open(OpenError),
    #[error("Timeout trying to connect to the virtual machine instance")]
    Timeout,
    #[error("can't set the terminal up")]
    Terminal(#[from] rustix::io::Errno),
    #[error("can't write what the console says")]
    Output(#[source] std::io::Error),
    #[error(
        "\nYou were disconnected from the console. This could be caused by one of the following:\n \
         - the target VM was powered off\n - another user connected to the console of the target VM\n \
         - network issues\n{0}"
    )]
    Disconnected(String),
}

pub(crate) async fn run(cluster: &Cluster, name: &str, timeout_minutes: u64) -> Result<(), ConsoleError> {
    let path = format!("console?session={}", session_id());
    let limit = Duration::from_secs(timeout_minutes.saturating_mul(60));
    let mut opened = connect(cluster, name, &path, limit).await?;
    eprint!("Successfully connected to {name} console. Press Ctrl+] or Ctrl+5 to exit console.\r\n");
    let _terminal = Raw::enter()?;
    let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
    let mut keys = Keys::new(opened.received);
    loop {
        let mut received = 0;
        let end = talk(opened.websocket, &mut input, &mut output, &mut received, &mut keys).await;
        let cause = match end.map_err(ConsoleError::Output)? {
            End::Over => return Ok(()),
            End::Cut(cause) => cause,
        };
        let Some(offset) = opened.offset else { return Err(ConsoleError::Disconnected(cause)) };
        let wanted = offset + received;
        eprint!("\r\nThe connection was cut ({cause}), resuming...\r\n");
        // Who comes back never takes the place of somebody newer.
        opened = resume(cluster, name, &format!("{path}&resumeFrom={wanted}&preserveSession=true"))
            .await
            .ok_or(ConsoleError::Disconnected(cause))?;
        let lost = opened.offset.unwrap_or(wanted).saturating_sub(wanted);
        if lost > 0 {
            eprint!("{lost} bytes of output are lost.\r\n");
        }
        let lost = keys.resume(opened.received);
        if lost > 0 {
            eprint!("{lost} bytes that were typed may be lost.\r\n");
        }
    }
}

/// 400 is what virt-api answers for an instance that doesn't run (yet). All else is final.
async fn connect(cluster: &Cluster, name: &str, path: &str, limit: Duration) -> Result<Opened, ConsoleError> {
    let deadline = Instant::now() + limit;
    loop {
        match open(cluster, name, path).await {
            Ok(opened) => return Ok(opened),
            Err(OpenError::Refused { status: StatusCode::BAD_REQUEST, .. }) => (),
            Err(error) => return Err(ConsoleError::Open(error)),
        }
        if Instant::now() + RETRY > deadline {
            return Err(ConsoleError::Timeout);
        }
        sleep(RETRY).await;
    }
}

/// Opens a cut console again. None when the instance is gone, somebody else has the console, or nobody answers for too long.
async fn resume(cluster: &Cluster, name: &str, path: &str) -> Option<Opened> {
    let begun = Instant::now();
    let mut taken = None;
    while begun.elapsed() < RESUME_LIMIT {
        match open(cluster, name, path).await {
            Ok(opened) => return Some(opened),
            Err(error) if error.is_taken() => {
                if taken.get_or_insert_with(Instant::now).elapsed() >= TAKEN_LIMIT {
                    return None;
                }
                sleep(RETRY).await;
            }
            Err(error) if is_final(&error, begun.elapsed()) => return None,
            Err(_) => sleep(RETRY).await,
        }
    }
    None
}

/// Whether asking again can't help who was let in before: the instance doesn't run or isn't there any more, or he has been
/// refused for a while; an API server that has just started knows neither its users nor their rights for a moment.
pub(crate) fn is_final(error: &OpenError, asked_for: Duration) -> bool {
    match error {
        error if error.is_unattended() => false,
        OpenError::Refused { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. } => {
            asked_for >= API_SERVER_START
        }
        OpenError::Refused { status, .. } => {
            status.is_client_error() && *status != StatusCode::TOO_MANY_REQUESTS
        }
        OpenError::Name(_) => true,
        OpenError::Request(_) | OpenError::Dial(_) => false,
    }
}

/// Random, and safe in a URL.
pub(crate) fn session_id() -> String {
    generate_key().replace('+', "-").replace('/', "_").replace('=', "")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn only_what_may_pass_is_asked_for_again() {
        let refused =
            |code| OpenError::Refused { status: StatusCode::from_u16(code).unwrap(), message: String::new() };
        for (code, final_) in
            [(400, true), (401, false), (403, false), (404, true), (429, false), (500, false), (503, false)]
        {
            assert_eq!(is_final(&refused(code), Duration::ZERO), final_, "{code}");
        }
    }

    #[test]
    fn who_is_refused_for_long_is_refused() {
        for code in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
            let refused = OpenError::Refused { status: code, message: String::new() };
            assert!(is_final(&refused, API_SERVER_START), "{code}");
        }
    }

    #[test]
    fn a_node_gets_its_virt_handler_back() {
        for code in [400, 503] {
            let status = StatusCode::from_u16(code).unwrap();
            let error = OpenError::Refused { status, message: "no virt-handler on node n".into() };
            assert!(!is_final(&error, Duration::from_secs(59)), "{code}");
        }
    }

    /// An API server that always says the same, and what it is asked for.
    fn server(code: u16, message: &str) -> (Cluster, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let body = serde_json::json!({"kind": "Status", "message": message}).to_string();
        let uris = asked.clone();
        let client = kube::Client::new(
            tower::service_fn(move |request: http::Request<kube::client::Body>| {
                uris.lock().unwrap().push(request.uri().to_string());
                let response = http::Response::builder().status(code).body(body.clone());
                async { Ok::<_, std::convert::Infallible>(response.unwrap()) }
            }),
            "ns",
        );
        (Cluster { client, namespace: "ns".into() }, asked)
    }

    #[tokio::test]
    async fn a_console_that_somebody_else_has_is_left_to_him() {
        let taken = "Internal error occurred: Can't connect to websocket (503): Active console connection. Request denied.";
        let (cluster, asked) = server(500, taken);
        assert!(resume(&cluster, "a", "console?session=s").await.is_none());
        // Not at once: it may have been virt-handler's look.
        assert_eq!(asked.lock().unwrap().len(), 4);
    }

    #[test]
    fn session_ids_differ_and_need_no_escaping() {
        let id = session_id();
        assert_ne!(id, session_id());
        assert!(id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_'), "{id}");
    }
}
