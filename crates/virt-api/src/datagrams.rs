//! A UDP socket as a byte stream: what is read at once is one datagram, what is written at once becomes one.
//!
//! A relay sends each read as one message and writes each message at once, so datagrams keep their bounds.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UdpSocket;

/// A connected socket.
pub struct Datagrams(pub UdpSocket);

impl AsyncRead for Datagrams {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            ready!(self.0.poll_recv(cx, buf))?;
            // Nothing read is the end of a stream, and an empty datagram is none.
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Datagrams {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_send(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn datagrams_keep_their_bounds_and_empty_ones_are_no_end() {
        let there = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let here = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        here.connect(there.local_addr().unwrap()).await.unwrap();
        there.connect(here.local_addr().unwrap()).await.unwrap();
        let mut stream = Datagrams(here);
        stream.write_all(b"one").await.unwrap();
        stream.write_all(b"two").await.unwrap();
        let mut buffer = [0; 64];
        for expected in [b"one", b"two"] {
            let n = there.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..n], expected);
        }
        for datagram in [&b""[..], b"three", b"four"] {
            there.send(datagram).await.unwrap();
        }
        for expected in [&b"three"[..], b"four"] {
            let n = stream.read(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..n], expected);
        }
    }
}
