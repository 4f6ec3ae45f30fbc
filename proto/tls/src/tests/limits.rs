//! What strangers can't do.

use super::{Place, Server, client, echo, soon};
use crate::limits::reason;
use crate::{Ca, Kind, Limits};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = soon("the end", stream.read_to_end(&mut rest)).await;
}

// Promise: clients that begin a handshake and never finish it hold nobody up, and are cut off and
// counted when their time is over; likewise those that say nothing at all.
#[tokio::test]
async fn half_open_handshakes() {
    let (place, ca) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let limits = Limits {
        handshake_time: Duration::from_millis(300),
        ..Limits::default()
    };
    let mut server = Server::tls(&place.server(&ca), limits).await;
    let own = place.put("own", &ca.issue(Kind::User, "ada", &[], 1).unwrap());
    let mut silent = Vec::new();
    for place in 0..20 {
        let mut stream = server.connect().await;
        if place % 2 == 0 {
            // The head of a handshake's record.
            stream.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
        }
        silent.push(stream);
    }
    let mut open = server.call(&client(&own)).await.unwrap();
    for stream in &mut silent {
        closed(stream).await;
        assert_eq!(server.refusal().await, reason::SLOW);
    }
    // Once through, a connection may be silent.
    echo(&mut open).await.unwrap();
}

// Promise: in plain text, too, nobody holds a place without a word.
#[tokio::test]
async fn silence_in_plain_text() {
    let limits = Limits {
        handshake_time: Duration::from_millis(100),
        ..Limits::default()
    };
    let mut server = Server::plain(limits).await;
    let mut silent = server.connect().await;
    let mut talks = server.connect().await;
    echo(&mut talks).await.unwrap();
    closed(&mut silent).await;
    assert_eq!(server.refusal().await, reason::SLOW);
    echo(&mut talks).await.unwrap();
}

// Promise: beyond the limit of handshakes the oldest ends, so that the newest client comes in.
#[tokio::test]
async fn too_many_handshakes() {
    let (place, ca) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let limits = Limits {
        handshakes: 3,
        handshake_time: super::PATIENCE,
        ..Limits::default()
    };
    let mut server = Server::tls(&place.server(&ca), limits).await;
    let own = place.put("own", &ca.issue(Kind::User, "ada", &[], 1).unwrap());
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(server.connect().await);
    }
    server.call(&client(&own)).await.unwrap();
    assert_eq!(server.refusal().await, reason::HANDSHAKES);
    closed(&mut silent[0]).await;
}

// Promise: beyond the limit of connections one more is closed at once and counted, and a place that
// becomes free can be had.
#[tokio::test]
async fn too_many_connections() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let mut server = Server::plain(limits).await;
    let mut first = server.connect().await;
    echo(&mut first).await.unwrap();
    let mut second = server.connect().await;
    closed(&mut second).await;
    assert_eq!(server.refusal().await, reason::CONNECTIONS);
    drop(first);
    let free = async {
        loop {
            let mut stream = server.connect().await;
            if echo(&mut stream).await.is_ok() {
                break;
            }
        }
    };
    soon("a free place", free).await;
}

// Promise: plain text to a port of TLS is told so in its own words, and counted.
#[tokio::test]
async fn plain_text_to_tls() {
    let (place, ca) = (Place::new(), Ca::create("espalier", 1).unwrap());
    let mut server = Server::tls(&place.server(&ca), Limits::default()).await;
    // What every HTTP/2 server begins with, settings; then a good-bye.
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
    for (said, start) in [
        (
            &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
            &b"HTTP/1.1 400"[..],
        ),
        (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings[..]),
    ] {
        let mut stream = server.connect().await;
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        soon("an answer", stream.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(answer.starts_with(start), "{answer:?}");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("use https://"), "{text}");
        drop(stream);
        assert_eq!(server.refusal().await, reason::PLAIN_TEXT);
    }
}
