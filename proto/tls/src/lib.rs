//! Certificates of a cluster: who is who, servers and clients that take up new files, a CA of one's own.
//!
//! ```text
//!  files ─> ServerTls ─> Incoming ─> Connection { Caller { identity } } ─> tonic
//!  files ─> ClientTls ─> Endpoint
//!  Ca ─> files
//! ```
//!
//! Every certificate names its holder in a URI ([`Identity`]). A server ([`ServerTls`], or [`plain`] without
//! encryption) accepts connections, does their handshakes beside each other within [`Limits`], and says of
//! each who calls ([`Caller`]). A client ([`ClientTls`]) reads its files anew for every connection, a server
//! looks at them again every few seconds: new certificates need no restart, and connections of those that hold
//! no longer end ([`Standing`]). [`Ca`] makes certificates for
//! those who have nothing else that does; [`inspect`] says what one holds.

mod authority;
mod client;
mod connection;
mod error;
mod explain;
mod flags;
mod folder;
mod identity;
mod incoming;
mod keys;
mod limits;
mod pem;
mod server;
mod show;
mod standing;
#[cfg(test)]
mod tests;
mod turned_away;

pub use authority::{Ca, Validity};
pub use client::{ClientFiles, ClientTls};
pub use connection::{Caller, Connection};
pub use error::TlsError;
pub use explain::explain;
pub use flags::ClientFlags;
pub use folder::Issued;
pub use identity::{Identity, Kind, TRUST_DOMAIN};
pub use incoming::{Incoming, plain};
pub use limits::{Limits, Refused, reason};
pub use server::{ServerFiles, ServerTls};
pub use show::{Details, inspect};
pub use standing::Standing;
