//! What a peer says on a connection between ranks: introductions, answers, offers, headers of operations.

/// Any bytes are read or refused.
pub fn target(bytes: &[u8]) {
    espalier_comm::raw::check(bytes);
}
