//! Answers to those who are not let through, so that they learn why.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// First byte of every TLS handshake.
pub(crate) const HANDSHAKE: u8 = 0x16;
/// What a client that speaks plain text to a port of TLS is told.
pub(crate) const SPEAK_TLS: &str = "this port speaks TLS: use https://";
/// How long a peer has to take note of the end.
const LINGER: Duration = Duration::from_secs(1);
/// How HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2";

/// Tells a client that it must speak TLS.
pub(crate) async fn wants_tls(mut stream: TcpStream) -> io::Result<()> {
    let mut start = [0; 1024];
    let read = stream.read(&mut start).await?;
    let answer = match start[..read].starts_with(PREFACE) {
        true => goaway(),
        false => format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{SPEAK_TLS}\n",
            SPEAK_TLS.len() + 1
        )
        .into_bytes(),
    };
    stream.write_all(&answer).await?;
    linger(stream).await
}

/// Ends a connection so that what was said last arrives: a socket that is closed with bytes unread resets
/// the connection, and its peer may lose what it has not read yet.
pub(crate) async fn linger(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let rest = async {
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // A peer that does not go away by then does not listen.
    timeout(LINGER, rest).await.unwrap_or(Ok(()))
}

/// HTTP/2's settings and good-bye: no stream was looked at, the security is inadequate, and why.
fn goaway() -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const INADEQUATE_SECURITY: u8 = 0xc;
    let why = SPEAK_TLS.as_bytes();
    let mut frames = SETTINGS.to_vec();
    // Shorter than 256 bytes: the lowest byte holds the length.
    frames.extend([0, 0, (8 + why.len()) as u8, 7, 0, 0, 0, 0, 0]);
    frames.extend([0, 0, 0, 0, 0, 0, 0, INADEQUATE_SECURITY]);
    frames.extend(why);
    frames
}
