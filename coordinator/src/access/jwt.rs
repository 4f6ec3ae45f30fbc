//! JSON Web Tokens: what is signed, by which key, and whether the signature holds.
//!
//! Signatures of a public key alone (RSA, ECDSA on P-256 and P-384, Ed25519), checked by ring. Which
//! algorithm is used follows from the key, not from what the token says: `none` and shared secrets
//! (HS256 and its like) are no algorithms here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    self, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Longest token that is looked at.
const LONGEST: usize = 16 << 10;

/// What a token says, once its signature holds.
pub(super) type Claims = Map<String, Value>;

/// Why a token is none, or is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum JwtError {
    /// It does not look like one.
    #[error("is no JSON Web Token")]
    Malformed,
    /// Its algorithm is not accepted.
    #[error("is signed with an algorithm that is not accepted here")]
    Algorithm,
    /// No key of this name is known.
    #[error("is signed with a key that the issuer does not publish")]
    UnknownKey,
    /// The signature is wrong.
    #[error("has a wrong signature")]
    Signature,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Names what a reader must understand; we understand none of it.
    crit: Option<Value>,
}

/// One signing key of an issuer.
#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    /// The one algorithm that it is for, where the issuer says so.
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// A key as an issuer publishes it (RFC 7517).
#[derive(Deserialize)]
struct Published {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// Whether a token may be one of these.
pub(super) fn looks_like_one(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// The signing keys of a published set; those of other kinds are passed over.
pub(super) fn keys(text: &str) -> Result<Vec<Key>, String> {
    let set: KeySet = serde_json::from_str(text)
        .map_err(|error| format!("is no set of JSON Web Keys: {error}"))?;
    let read = |key: Value| key_of(serde_json::from_value(key).ok()?);
    let keys: Vec<Key> = set.keys.into_iter().filter_map(read).collect();
    if keys.is_empty() {
        return Err("holds no key that signs (RSA, EC P-256 or P-384, Ed25519)".to_owned());
    }
    Ok(keys)
}

fn key_of(published: Published) -> Option<Key> {
    if published
        .purpose
        .as_deref()
        .is_some_and(|purpose| purpose != "sig")
    {
        return None;
    }
    let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
    // The point, uncompressed.
    let point = |size: usize| {
        let (x, y) = (bytes(&published.x)?, bytes(&published.y)?);
        let mut point = vec![4];
        point.extend(&x);
        point.extend(&y);
        (x.len() == size && y.len() == size).then_some(point)
    };
    let material = match (published.kty.as_str(), published.crv.as_deref()) {
        ("RSA", _) => Material::Rsa {
            n: without_zeros(bytes(&published.n)?),
            e: without_zeros(bytes(&published.e)?),
        },
        ("EC", Some("P-256")) => Material::P256(point(32)?),
        ("EC", Some("P-384")) => Material::P384(point(48)?),
        ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(&published.x)?),
        _ => return None,
    };
    Some(Key {
        id: published.kid,
        algorithm: published.alg,
        material,
    })
}

fn without_zeros(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().skip_while(|byte| *byte == 0).collect()
}

/// Reads a token that one of these keys has signed. What it claims is not looked at.
///
/// # Errors
///
/// It is none, or is not believed.
pub(super) fn verified(token: &str, keys: &[Key]) -> Result<Claims, JwtError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(JwtError::Malformed)?;
    if token.len() > LONGEST || claims.contains('.') {
        return Err(JwtError::Malformed);
    }
    let part = |text: &str| {
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| JwtError::Malformed)
    };
    let header: Header = serde_json::from_slice(&part(header)?).map_err(|_| JwtError::Malformed)?;
    if header.crit.is_some() || !ALGORITHMS.contains(&header.alg.as_str()) {
        return Err(JwtError::Algorithm);
    }
    let signature = part(signature)?;
    let named = |key: &&Key| header.kid.is_none() || key.id == header.kid;
    let mut candidates = keys.iter().filter(named).peekable();
    if candidates.peek().is_none() {
        return Err(JwtError::UnknownKey);
    }
    let good = |key: &Key| key.signed(&header.alg, signed.as_bytes(), &signature);
    if !candidates.any(good) {
        return Err(JwtError::Signature);
    }
    serde_json::from_slice(&part(claims)?).map_err(|_| JwtError::Malformed)
}

/// What is accepted.
const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];

impl Key {
    /// Whether this key signed the text with the algorithm.
    fn signed(&self, algorithm: &str, text: &[u8], signature: &[u8]) -> bool {
        if self
            .algorithm
            .as_deref()
            .is_some_and(|own| own != algorithm)
        {
            return false;
        }
        let plain = |checked_by: &'static dyn VerificationAlgorithm, key: &[u8]| {
            let key = UnparsedPublicKey::new(checked_by, key);
            key.verify(text, signature).is_ok()
        };
        match (&self.material, algorithm) {
            (Material::P256(point), "ES256") => plain(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Material::P384(point), "ES384") => plain(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Material::Ed25519(key), "EdDSA") => plain(&signature::ED25519, key),
            (Material::Rsa { n, e }, _) => {
                let parameters: &RsaParameters = match algorithm {
                    "RS256" => &RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &RSA_PSS_2048_8192_SHA256,
                    "PS384" => &RSA_PSS_2048_8192_SHA384,
                    "PS512" => &RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, text, signature).is_ok()
            }
            _ => false,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    };
    use serde_json::json;

    /// An issuer with one key of each curve.
    pub(crate) struct Issuer {
        curve: EcdsaKeyPair,
        edwards: Ed25519KeyPair,
    }

    impl Issuer {
        pub(crate) fn new() -> Self {
            let random = SystemRandom::new();
            let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            let curve = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
            let edwards = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
            Self { curve, edwards }
        }

        /// What it publishes: the names of its keys are `PREFIX-ec` and `PREFIX-ed`.
        pub(crate) fn published(&self, prefix: &str) -> String {
            let point = self.curve.public_key().as_ref();
            json!({"keys": [
                {"kty": "EC", "crv": "P-256", "kid": format!("{prefix}-ec"), "use": "sig",
                 "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])},
                {"kty": "OKP", "crv": "Ed25519", "kid": format!("{prefix}-ed"), "alg": "EdDSA",
                 "x": URL_SAFE_NO_PAD.encode(self.edwards.public_key())},
                {"kty": "oct", "kid": format!("{prefix}-hs"), "k": "c2VjcmV0"},
            ]})
            .to_string()
        }

        pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let text = format!("{}.{}", part(header), part(claims));
            let signature = match header["alg"].as_str() {
                Some("EdDSA") => self.edwards.sign(text.as_bytes()).as_ref().to_vec(),
                _ => {
                    let random = SystemRandom::new();
                    let signature = self.curve.sign(&random, text.as_bytes()).unwrap();
                    signature.as_ref().to_vec()
                }
            };
            format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    // Promise: what a published key signed is believed, and only as it was signed.
    #[test]
    fn signatures_are_checked() {
        let issuer = Issuer::new();
        let keys = keys(&issuer.published("a")).unwrap();
        assert_eq!(keys.len(), 2, "a shared secret is no signing key");
        let claims = json!({"sub": "alice"});
        for header in [
            json!({"alg": "ES256", "kid": "a-ec"}),
            json!({"alg": "EdDSA", "kid": "a-ed"}),
            json!({"alg": "EdDSA"}),
        ] {
            let token = issuer.sign(&header, &claims);
            assert_eq!(verified(&token, &keys).unwrap()["sub"], "alice");
            // One bit of the claims less or more.
            let (head, rest) = token.split_once('.').unwrap();
            let (_, signature) = rest.split_once('.').unwrap();
            let other = URL_SAFE_NO_PAD.encode(json!({"sub": "root"}).to_string());
            let forged = format!("{head}.{other}.{signature}");
            assert_eq!(verified(&forged, &keys), Err(JwtError::Signature));
        }
        let stranger = Issuer::new().sign(&json!({"alg": "ES256", "kid": "a-ec"}), &claims);
        assert_eq!(verified(&stranger, &keys), Err(JwtError::Signature));
    }

    // Promise: the classical tricks with headers open nothing.
    #[test]
    fn tricks_with_headers() {
        let issuer = Issuer::new();
        let keys = keys(&issuer.published("a")).unwrap();
        let claims = json!({"sub": "alice"});
        let check = |header: Value| verified(&issuer.sign(&header, &claims), &keys).unwrap_err();
        assert_eq!(check(json!({"alg": "none"})), JwtError::Algorithm);
        assert_eq!(check(json!({"alg": "NONE"})), JwtError::Algorithm);
        assert_eq!(
            check(json!({"alg": "HS256", "kid": "a-hs"})),
            JwtError::Algorithm
        );
        assert_eq!(
            check(json!({"alg": "ES256", "kid": "b-ec"})),
            JwtError::UnknownKey
        );
        // A key is used as it is, not as the token would like.
        assert_eq!(
            check(json!({"alg": "ES256", "kid": "a-ed"})),
            JwtError::Signature
        );
        assert_eq!(
            check(json!({"alg": "RS256", "kid": "a-ec"})),
            JwtError::Signature
        );
        let critical = json!({"alg": "ES256", "kid": "a-ec", "crit": ["b64"], "b64": false});
        assert_eq!(check(critical), JwtError::Algorithm);
        let good = issuer.sign(&json!({"alg": "ES256", "kid": "a-ec"}), &claims);
        let unsigned = format!("{}.", good.rsplit_once('.').unwrap().0);
        assert_eq!(verified(&unsigned, &keys), Err(JwtError::Signature));
        for odd in [
            "",
            ".",
            "..",
            "a.b.c",
            "....",
            &format!("{good}.x"),
            &"a.".repeat(20_000),
        ] {
            assert_eq!(verified(odd, &keys), Err(JwtError::Malformed), "{odd:.40}");
        }
    }
}
