//! Pages of lists: their size, and the token that the next one begins with.
//!
//! A token holds what it was made for, so that one of another list or filter is refused instead of
//! answered with something odd. Clients must not look into it.

use espalier_proto::ApiError;

const DEFAULT_SIZE: usize = 50;
const MAX_SIZE: usize = 500;

/// First byte of a token; another layout gets another one.
const VERSION: u8 = 1;

/// Items of a page, from the request's `page_size`.
pub(super) fn size(asked: i32) -> Result<usize, ApiError> {
    match usize::try_from(asked) {
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(size) => Ok(size.min(MAX_SIZE)),
        Err(_) => Err(ApiError::field(
            "page_size",
            format!("is {asked}, expected 0 or more"),
        )),
    }
}

/// A token that goes on after `position` in the list that `filter` describes.
pub(super) fn token(filter: &str, position: &str) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&(filter.len() as u64).to_be_bytes());
    bytes.extend_from_slice(filter.as_bytes());
    bytes.extend_from_slice(position.as_bytes());
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum.to_be_bytes());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The position of a token that was made for `filter`; none for an empty one: the first page.
pub(super) fn position(filter: &str, token: &str) -> Result<Option<String>, ApiError> {
    if token.is_empty() {
        return Ok(None);
    }
    let bad = |what: &str| ApiError::field("page_token", what);
    let broken = || bad("is no token of this coordinator; begin with an empty one");
    let bytes = unhex(token).ok_or_else(broken)?;
    let (body, sum) = bytes.split_last_chunk::<8>().ok_or_else(broken)?;
    if checksum(body) != u64::from_be_bytes(*sum) {
        return Err(broken());
    }
    let body = body.strip_prefix(&[VERSION]).ok_or_else(broken)?;
    let (length, body) = body.split_first_chunk::<8>().ok_or_else(broken)?;
    let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|_| broken())?;
    let (made_for, position) = body.split_at_checked(length).ok_or_else(broken)?;
    if made_for != filter.as_bytes() {
        return Err(bad(
            "belongs to another request; keep all other fields as they were",
        ));
    }
    String::from_utf8(position.to_vec())
        .map(Some)
        .map_err(|_| broken())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

/// FNV-1a: against mistakes, not against intent; a token opens nothing that a request could not.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: a token leads back to its position, and only with the filter that it was made for.
    #[test]
    fn tokens_are_bound_to_their_filter() {
        let made = token("jobs 1,2", "17");
        assert_eq!(position("jobs 1,2", &made).unwrap().as_deref(), Some("17"));
        assert_eq!(position("jobs 1,2", "").unwrap(), None);
        let other = position("jobs", &made).unwrap_err();
        assert!(
            other.message.contains("belongs to another request"),
            "{other}"
        );
    }

    // Promise: no text makes the server panic or guess.
    #[test]
    fn odd_tokens_are_refused() {
        let made = token("jobs", "17");
        let changed = made.replace('1', "2");
        for text in [
            "x",
            "0",
            "00",
            "é",
            "zz",
            &made[2..],
            &made[..made.len() - 2],
            &changed,
        ] {
            let error = position("jobs", text).unwrap_err();
            assert_eq!(error.violations[0].field, "page_token", "{text}");
        }
    }

    // Promise: page sizes follow the documented limits.
    #[test]
    fn sizes() {
        assert_eq!(size(0).unwrap(), 50);
        assert_eq!(size(7).unwrap(), 7);
        assert_eq!(size(i32::MAX).unwrap(), 500);
        assert_eq!(size(-1).unwrap_err().violations[0].field, "page_size");
    }
}
