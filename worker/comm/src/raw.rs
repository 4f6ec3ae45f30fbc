//! What this crate makes of a peer's bytes, for fuzzing alone: no part of the interface.

use crate::abort::AbortHandle;
use crate::handshake::{Gate, Hello, Reply, receive_offer};
use crate::header::{HEADER_BYTES, Header};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Reads bytes as everything that a peer may say first, and as the header of an operation.
pub fn check(bytes: &[u8]) {
    let Ok(abort) = AbortHandle::new() else {
        return;
    };
    let over = AtomicBool::new(false);
    let gate = Gate {
        deadline: Instant::now() + Duration::from_secs(5),
        abort: &abort,
        over: &over,
    };
    let mut stream = bytes;
    if let Ok(hello) = Hello::receive(&mut stream, gate) {
        // Whoever it is, it gets an answer.
        let _ = hello.judge(&hello);
    }
    let mut stream = bytes;
    let _ = Reply::receive(&mut stream, gate);
    let mut stream = bytes;
    let _ = receive_offer(&mut stream, gate);
    let header = bytes.get(..HEADER_BYTES).and_then(Header::decode);
    if let Some(header) = header {
        let again = Header::decode(&header.encode());
        assert_eq!(again, Some(header), "{header}");
        assert!(header.agrees(&header));
    }
}
