//! What the ranks of one generation know and nobody else does.

use std::fmt;

use zeroize::Zeroize;

/// Bytes of a secret.
const BYTES: usize = 32;

/// The secret of a generation: ranks that have the same one know each other by it and encrypt what
/// they send. Never shown, and wiped from memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; BYTES]);

impl Secret {
    /// A secret of these bytes; they should be random, and others in every generation.
    pub fn new(bytes: [u8; BYTES]) -> Secret {
        Secret(bytes)
    }

    /// The same from a slice; None if it has not 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Secret> {
        Some(Secret(bytes.try_into().ok()?))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        // Promise: no log or error that shows a value with a secret inside shows the secret.
        let secret = Secret::new([171; BYTES]);
        assert_eq!(format!("{:?}", Some(&secret)), "Some(Secret(..))");
        assert_eq!(Secret::from_slice(&[171; BYTES]), Some(secret));
        assert_eq!(Secret::from_slice(&[171; 31]), None);
    }
}
