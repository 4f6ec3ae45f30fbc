//! Encryption of what goes over one connection, once both sides have proved that they know the
//! generation's secret.
//!
//! ```text
//! secret, SHA-256 of all that both have said ── HKDF-SHA-256 ──┬─ key of each side's proof (HMAC)
//!                                                              └─ key of each direction ── key of an epoch
//! record: length (u32) | AES-256-GCM of up to 64 KiB | tag (16)     nonce: number of the record
//! ```
//!
//! Both sides count records and send no numbers: one that was left out, repeated, moved, changed, or
//! sealed for another connection does not open. The two sides put fresh random bytes into what they
//! say, so that no two connections have a key in common.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::{digest, hmac};

use crate::flight::Flight;
use crate::secret::Secret;

/// Most bytes in a record: a whole one stays in the L2 cache while it is sealed or opened.
pub(crate) const RECORD: usize = 64 * 1024;
/// Bytes of a record's length.
pub(crate) const LENGTH: usize = 4;
/// Bytes of a record's tag.
const TAG: usize = 16;
/// Bytes of the longest record as it travels.
pub(crate) const LONGEST: usize = LENGTH + RECORD + TAG;
/// Records that are sealed with one key: 64 GiB, far below what AES-GCM allows.
const EPOCH: u64 = 1 << 20;
/// Bytes of a proof.
pub(crate) const PROOF: usize = 32;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Caller,
    Called,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Caller => Side::Called,
            Side::Called => Side::Caller,
        }
    }

    fn proves(self) -> &'static [u8] {
        match self {
            Side::Caller => b"espalier ranks: proof of the caller",
            Side::Called => b"espalier ranks: proof of the called",
        }
    }

    fn seals(self) -> &'static [u8] {
        match self {
            Side::Caller => b"espalier ranks: records of the caller",
            Side::Called => b"espalier ranks: records of the called",
        }
    }
}

/// The keys of one connection.
pub(crate) struct Schedule {
    root: Prk,
    transcript: digest::Digest,
}

/// Both directions of one connection, as one side sees them.
#[derive(Debug)]
pub(crate) struct Seals {
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
}

/// Makes records.
#[derive(Debug)]
pub(crate) struct Sealer(Keys);

/// Opens records.
#[derive(Debug)]
pub(crate) struct Opener {
    keys: Keys,
    /// Counts what did not open.
    flight: Flight,
}

/// One direction's keys.
#[derive(Debug)]
struct Keys {
    root: Prk,
    now: LessSafeKey,
    /// Number of the next record.
    next: u64,
}

impl Schedule {
    /// For a connection on which both sides have said `transcript`.
    pub(crate) fn new(secret: &Secret, transcript: &[u8]) -> Schedule {
        let transcript = digest::digest(&digest::SHA256, transcript);
        Schedule {
            root: Salt::new(HKDF_SHA256, transcript.as_ref()).extract(secret.bytes()),
            transcript,
        }
    }

    fn prover(&self, side: Side) -> hmac::Key {
        let info = [side.proves()];
        let key = self.root.expand(&info, hmac::HMAC_SHA256);
        // Fails for lengths beyond 255 digests alone.
        hmac::Key::from(key.expect("32 bytes are not too many for HKDF"))
    }

    /// What shows that `side` knows the secret.
    pub(crate) fn proof(&self, side: Side) -> [u8; PROOF] {
        let tag = hmac::sign(&self.prover(side), self.transcript.as_ref());
        let mut proof = [0; PROOF];
        proof.copy_from_slice(tag.as_ref());
        proof
    }

    /// Whether `side` knows the secret; takes as long whatever is wrong with the proof.
    pub(crate) fn proved(&self, side: Side, proof: &[u8; PROOF]) -> bool {
        hmac::verify(&self.prover(side), self.transcript.as_ref(), proof).is_ok()
    }

    /// How `me` seals and opens; what does not open is counted in `flight`.
    pub(crate) fn seals(&self, me: Side, flight: Flight) -> Seals {
        Seals {
            sealer: Sealer(Keys::new(&self.root, me)),
            opener: Opener {
                keys: Keys::new(&self.root, me.other()),
                flight,
            },
        }
    }
}

impl Keys {
    fn new(root: &Prk, side: Side) -> Keys {
        let info = [side.seals()];
        // Fails for lengths beyond 255 digests alone.
        let root = root.expand(&info, HKDF_SHA256);
        let root = Prk::from(root.expect("32 bytes are not too many for HKDF"));
        let now = epoch(&root, 0);
        Keys { root, now, next: 0 }
    }

    /// The key and the nonce of the next record.
    fn next(&mut self) -> (&LessSafeKey, Nonce) {
        let number = self.next;
        if number > 0 && number.is_multiple_of(EPOCH) {
            self.now = epoch(&self.root, number / EPOCH);
        }
        self.next += 1;
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&number.to_le_bytes());
        (&self.now, Nonce::assume_unique_for_key(nonce))
    }
}

fn epoch(root: &Prk, number: u64) -> LessSafeKey {
    let number = number.to_le_bytes();
    let info: [&[u8]; 2] = [b"epoch", &number];
    // Fails for lengths beyond 255 digests alone.
    let key = root.expand(&info, &AES_256_GCM);
    LessSafeKey::new(UnboundKey::from(
        key.expect("32 bytes are not too many for HKDF"),
    ))
}

impl Sealer {
    /// Appends a record of two parts, together 1 to [`RECORD`] bytes, to `out`.
    pub(crate) fn seal(&mut self, parts: [&[u8]; 2], out: &mut Vec<u8>) {
        let plain = parts[0].len() + parts[1].len();
        debug_assert!((1..=RECORD).contains(&plain), "{plain} bytes in a record");
        let length = ((plain + TAG) as u32).to_le_bytes();
        out.extend_from_slice(&length);
        let from = out.len();
        out.extend_from_slice(parts[0]);
        out.extend_from_slice(parts[1]);
        let (key, nonce) = self.0.next();
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(length), &mut out[from..]);
        // Fails beyond 64 GiB alone.
        out.extend_from_slice(tag.expect("a record is short").as_ref());
    }
}

impl Opener {
    /// Bytes of the record that begins with these, its length included.
    ///
    /// # Errors
    ///
    /// It can't be one that the peer has sealed.
    pub(crate) fn length(&self, length: [u8; LENGTH]) -> Result<usize, String> {
        let sealed = u32::from_le_bytes(length) as usize;
        if sealed <= TAG || sealed > RECORD + TAG {
            self.flight.reject();
            return Err(format!(
                "what came from it is not what it sent: a record of {sealed} bytes, expected {} to {}; \
                 somebody writes into the connection",
                TAG + 1,
                RECORD + TAG
            ));
        }
        Ok(LENGTH + sealed)
    }

    /// Opens a whole record in place; what was in it follows its length.
    ///
    /// # Errors
    ///
    /// It is not the one that the peer has sealed as its next.
    pub(crate) fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<&'a [u8], String> {
        let number = self.keys.next;
        let (key, nonce) = self.keys.next();
        let opened = record
            .split_first_chunk_mut::<LENGTH>()
            .and_then(|(length, sealed)| key.open_in_place(nonce, Aad::from(*length), sealed).ok());
        match opened {
            Some(plain) => Ok(plain),
            None => {
                self.flight.reject();
                Err(format!(
                    "what came from it is not what it sent: record {number} was changed, repeated, left out, or \
                     sealed for another connection; somebody writes into the connection"
                ))
            }
        }
    }
}

/// Random bytes that are said once.
pub(crate) fn fresh() -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let random = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&random, &mut bytes)
        .map_err(|_| std::io::Error::other("the system gives no random bytes"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(secret: u8, transcript: &[u8]) -> (Seals, Seals, Flight) {
        let flight = Flight::new();
        let schedule = Schedule::new(&Secret::new([secret; 32]), transcript);
        let caller = schedule.seals(Side::Caller, Flight::new());
        (caller, schedule.seals(Side::Called, flight.clone()), flight)
    }

    fn record(sealer: &mut Sealer, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        sealer.seal([&text[..1], &text[1..]], &mut out);
        out
    }

    #[test]
    fn records_open_in_their_order_and_no_other() {
        // Promise: what is sealed opens to the same bytes on the other side, and is nowhere to be
        // seen on the way; a record that was changed in any byte, repeated, left out, sent back or
        // sealed for another connection does not open and is counted.
        let text = b"gradient of block 3";
        let (mut caller, mut called, flight) = pair(1, b"hello");
        let mut sealed = record(&mut caller.sealer, text);
        assert!(!sealed.windows(8).any(|window| text.starts_with(window)));
        assert_eq!(called.opener.length([sealed[0], 0, 0, 0]), Ok(sealed.len()));
        assert_eq!(called.opener.open(&mut sealed), Ok(&text[..]));
        assert_eq!(flight.rejected(), 0);

        let fresh = || {
            let (mut caller, called, flight) = pair(1, b"hello");
            (record(&mut caller.sealer, text), caller, called, flight)
        };
        for at in 0..fresh().0.len() {
            let (mut sealed, _, mut called, flight) = fresh();
            sealed[at] ^= 1;
            let error = called.opener.open(&mut sealed).expect_err("changed");
            assert!(error.contains("record 0 was changed"), "{error}");
            assert_eq!(flight.rejected(), 1, "byte {at}");
        }
        let (sealed, mut caller, mut called, flight) = fresh();
        called.opener.open(&mut sealed.clone()).expect("the first");
        called.opener.open(&mut sealed.clone()).expect_err("again");
        let (_, mut skipped, mut other, _) = fresh();
        let mut second = record(&mut skipped.sealer, text);
        other
            .opener
            .open(&mut second)
            .expect_err("the first is missing");
        caller
            .opener
            .open(&mut sealed.clone())
            .expect_err("sent back");
        assert_eq!(flight.rejected(), 1);
        for (secret, transcript) in [(2, &b"hello"[..]), (1, &b"hullo"[..])] {
            let (_, mut stranger, _) = pair(secret, transcript);
            stranger
                .opener
                .open(&mut sealed.clone())
                .expect_err("another");
        }
    }

    #[test]
    fn keys_change_long_before_they_must() {
        // Promise: both sides change to the next key at the same record, and it is another one.
        let (mut caller, mut called, _) = pair(1, b"hello");
        (caller.sealer.0.next, called.opener.keys.next) = (EPOCH - 1, EPOCH - 1);
        for _ in 0..3 {
            let mut sealed = record(&mut caller.sealer, b"bytes");
            assert_eq!(called.opener.open(&mut sealed), Ok(&b"bytes"[..]));
        }
        let (_, mut behind, _) = pair(1, b"hello");
        (caller.sealer.0.next, behind.opener.keys.next) = (EPOCH + 7, EPOCH + 7);
        let mut sealed = record(&mut caller.sealer, b"bytes");
        behind.opener.open(&mut sealed).expect_err("an old key");
    }

    #[test]
    fn nonsense_lengths_are_refused() {
        // Promise: a length that no record has makes nobody wait or take memory for it.
        let (_, called, flight) = pair(1, b"hello");
        for odd in [0, TAG as u32, (RECORD + TAG + 1) as u32, u32::MAX] {
            called.opener.length(odd.to_le_bytes()).expect_err("odd");
        }
        assert_eq!(flight.rejected(), 4);
        let longest = ((RECORD + TAG) as u32).to_le_bytes();
        assert_eq!(called.opener.length(longest), Ok(LONGEST));
    }

    #[test]
    fn a_proof_is_of_one_side_one_secret_and_one_conversation() {
        // Promise: a proof that was heard can't be given by anybody else, nor to anybody else.
        let of = |secret: u8, said: &[u8]| Schedule::new(&Secret::new([secret; 32]), said);
        let here = of(1, b"said");
        let proof = here.proof(Side::Caller);
        assert!(of(1, b"said").proved(Side::Caller, &proof));
        assert!(!here.proved(Side::Called, &proof));
        assert!(!of(2, b"said").proved(Side::Caller, &proof));
        assert!(!of(1, b"sad").proved(Side::Caller, &proof));
    }
}
