//! What this crate makes of a peer's bytes, for fuzzing alone: no part of the interface.

use crate::abort::AbortHandle;
use crate::flight::Flight;
use crate::handshake::{Gate, Hello, Reply, receive_offer};
use crate::header::{HEADER_BYTES, Header};
use crate::seal::{Schedule, Side};
use crate::secret::Secret;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Reads bytes as everything that a peer may say first, as a sealed record, and as the header of an operation.
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
    let schedule = Schedule::new(&Secret::new([7; 32]), b"said");
    let mut opener = schedule.seals(Side::Called, Flight::new()).opener;
    let mut sealed = bytes.to_vec();
    if let Some(length) = bytes.first_chunk()
        && let Ok(whole) = opener.length(*length)
        && let Some(record) = sealed.get_mut(..whole)
    {
        assert!(opener.open(record).is_err(), "nobody has sealed this");
    }
    let header = bytes.get(..HEADER_BYTES).and_then(Header::decode);
    if let Some(header) = header {
        let again = Header::decode(&header.encode());
        assert_eq!(again, Some(header), "{header}");
        assert!(header.agrees(&header));
    }
}
