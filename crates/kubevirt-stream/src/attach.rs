//! The attach protocol of a launcher's console and screen sockets: one line of JSON each way, then raw bytes.
//!
//! Neither side reads a byte behind the line: what follows it belongs to the stream.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest line that is read: a request is a hundred bytes, an error message a few hundred.
const LINE_LIMIT: usize = 4096;

/// Header of a websocket's upgrade response that tells the offset of the first byte that follows, so that the next
/// hop can resume.
pub const OFFSET_HEADER: &str = "kubevirt-stream-offset";
/// Header of a websocket's upgrade response that tells how many bytes of the client's session have been taken before
/// this connection: [`Attached::received`].
pub const RECEIVED_HEADER: &str = "kubevirt-stream-received";

/// What a client of a launcher's socket asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachRequest {
    /// Who attaches; the same id again is the same session coming back.
    pub session: String,
    /// Offset of the first byte that is wanted; none for what comes from now on.
    #[serde(default)]
    pub resume_from: Option<u64>,
    /// Don't take the place of a session that there is.
    #[serde(default)]
    pub preserve_session: bool,
}

/// What the launcher answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", untagged)]
pub enum AttachReply {
    /// Attached.
    Attached {
        /// Offset of the next byte from the guest.
        offset: u64,
        /// [`Attached::received`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        received: Option<u64>,
    },
    /// Not attached.
    Refused {
        /// Why.
        error: String,
    },
}

/// Where an attached stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// Offset of the next byte from the guest.
    pub offset: u64,
    /// How many bytes of the session have been taken from all its connections before this one, which can't bring any
    /// more. None from launchers that don't count, and for a session that isn't known any more.
    pub received: Option<u64>,
}

/// The handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The other side is gone.
    #[error("the attach handshake was cut")]
    Io(#[from] std::io::Error),
    /// The other side says no.
    #[error("{reason}")]
    Refused {
        /// Why, in the launcher's words.
        reason: String,
    },
    /// What came is no line of this protocol.
    #[error("not an attach line: {line:?}")]
    Malformed {
        /// Its beginning.
        line: String,
        #[allow(missing_docs)]
        source: serde_json::Error,
    },
    /// What came has no end.
    #[error("the attach line is longer than {LINE_LIMIT} bytes")]
    TooLong,
}

/// The client's side: asks, and returns where the stream begins. It is raw from there.
pub async fn attach<S>(stream: &mut S, request: &AttachRequest) -> Result<Attached, AttachError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    write_line(stream, request).await?;
    match read_line(stream).await? {
        AttachReply::Attached { offset, received } => Ok(Attached { offset, received }),
        AttachReply::Refused { error } => Err(AttachError::Refused { reason: error }),
    }
}

/// The launcher's side: reads what is asked for. Answer with [`reply`]; the stream is raw behind an
/// [`AttachReply::Attached`].
pub async fn accept<S: AsyncRead + Unpin>(stream: &mut S) -> Result<AttachRequest, AttachError> {
    read_line(stream).await
}

/// The launcher's side: answers.
pub async fn reply<S: AsyncWrite + Unpin>(stream: &mut S, reply: &AttachReply) -> Result<(), AttachError> {
    write_line(stream, reply).await
}

async fn write_line<S: AsyncWrite + Unpin, T: Serialize>(
    stream: &mut S,
    value: &T,
) -> Result<(), AttachError> {
    let mut line = serde_json::to_vec(value).expect("plain structs with string keys serialise");
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await?;
    Ok(())
}

/// Byte by byte, so that nothing behind the line is taken; the line is short and comes once.
async fn read_line<S: AsyncRead + Unpin, T: DeserializeOwned>(stream: &mut S) -> Result<T, AttachError> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            _ if line.len() == LINE_LIMIT => return Err(AttachError::TooLong),
            byte => line.push(byte),
        }
    }
    serde_json::from_slice(&line).map_err(|source| AttachError::Malformed {
        line: String::from_utf8_lossy(&line).chars().take(80).collect(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_behind_the_lines_are_the_streams() {
        let (mut client, mut launcher) = tokio::io::duplex(4096);
        let request = AttachRequest { session: "s-1".into(), resume_from: Some(7), preserve_session: true };
        let asked = request.clone();
        let launcher = tokio::spawn(async move {
            let request = accept(&mut launcher).await.unwrap();
            // In one write, as a launcher with bytes at hand does.
            launcher.write_all(b"{\"offset\":9}\nRFB 003.008\n").await.unwrap();
            let mut typed = [0; 2];
            launcher.read_exact(&mut typed).await.unwrap();
            (request, typed)
        });
        // As launchers before v0.18.0 answer.
        assert_eq!(attach(&mut client, &request).await.unwrap(), Attached { offset: 9, received: None });
        let mut greeting = [0; 12];
        client.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"RFB 003.008\n");
        client.write_all(b"ls").await.unwrap();
        assert_eq!(launcher.await.unwrap(), (asked, *b"ls"));
    }

    #[test]
    fn lines_are_as_the_architecture_writes_them() {
        let request = AttachRequest { session: "a".into(), ..AttachRequest::default() };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"session":"a","resumeFrom":null,"preserveSession":false}"#
        );
        assert_eq!(serde_json::from_str::<AttachRequest>(r#"{"session":"a"}"#).unwrap(), request);
        // As a virt-handler says it that takes its pictures here.
        let shared = r#"{"session":"a","resumeFrom":null,"preserveSession":true,"shared":true}"#;
        let preserving = AttachRequest { preserve_session: true, ..request };
        assert_eq!(serde_json::from_str::<AttachRequest>(shared).unwrap(), preserving);
        for (received, line) in [(None, r#"{"offset":3}"#), (Some(0), r#"{"offset":3,"received":0}"#)] {
            let attached = AttachReply::Attached { offset: 3, received };
            assert_eq!(serde_json::to_string(&attached).unwrap(), line);
            assert_eq!(serde_json::from_str::<AttachReply>(line).unwrap(), attached);
        }
        let refused = AttachReply::Refused { error: "no".into() };
        assert_eq!(serde_json::to_string(&refused).unwrap(), r#"{"error":"no"}"#);
    }

    #[tokio::test]
    async fn a_refusal_keeps_the_launchers_words() {
        let (mut client, mut launcher) = tokio::io::duplex(4096);
        let words = "Active VNC connection. Request denied.";
        let refusal = AttachReply::Refused { error: words.into() };
        reply(&mut launcher, &refusal).await.unwrap();
        let error = attach(&mut client, &AttachRequest::default()).await.unwrap_err();
        assert_eq!(error.to_string(), words);
    }

    #[tokio::test]
    async fn lines_without_end_or_meaning_are_refused() {
        let endless = vec![b'x'; LINE_LIMIT + 1];
        assert!(matches!(accept(&mut endless.as_slice()).await, Err(AttachError::TooLong)));
        assert!(matches!(accept(&mut &b"GET /\n"[..]).await, Err(AttachError::Malformed { .. })));
        assert!(matches!(accept(&mut &b"{}"[..]).await, Err(AttachError::Io(_))));
    }
}
