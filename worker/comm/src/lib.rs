//! Espalier's communicators: collectives between ranks over shared memory and TCP.
