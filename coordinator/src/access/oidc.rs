//! Callers that an OpenID Connect issuer vouches for.

use super::jwks::Jwks;
use super::jwt::{self, Claims, JwtError};
use super::{AccessError, Method, Principal, Role, unauthenticated};
use crate::config::AccessArgs;
use espalier_proto::{ApiError, ErrorKind};
use serde_json::Value;
use std::sync::Arc;

/// Reason of the error of a token whose key has to be fetched first.
pub(super) const KEYS_AWAY: &str = "KEYS_AWAY";

/// How far clocks may be apart, in seconds.
const LEEWAY: f64 = 60.0;

/// An issuer, and what its claims mean here.
#[derive(Debug)]
pub(super) struct Oidc {
    issuer: String,
    audience: String,
    name_claim: String,
    roles_claim: String,
    /// What values of the claim mean; empty: the roles' own names.
    roles: Vec<(String, Role)>,
    namespaces_claim: Option<String>,
    keys: Arc<Jwks>,
}

impl Oidc {
    /// The issuer that the settings name.
    ///
    /// # Errors
    ///
    /// A file that they name can't be used.
    pub(super) fn new(args: &AccessArgs) -> Result<Option<Self>, AccessError> {
        let (Some(issuer), Some(audience)) = (&args.oidc_issuer, &args.oidc_audience) else {
            return Ok(None);
        };
        let keys = Jwks::new(issuer, args.oidc_jwks.as_deref(), args.oidc_ca.as_deref())?;
        let role = |given: &String| {
            let (value, role) = given.rsplit_once('=')?;
            Some((value.to_owned(), Role::parse(role)?))
        };
        Ok(Some(Self {
            issuer: issuer.clone(),
            audience: audience.clone(),
            name_claim: args.oidc_name_claim.clone(),
            roles_claim: args.oidc_roles_claim.clone(),
            roles: args.oidc_roles.iter().filter_map(role).collect(),
            namespaces_claim: args.oidc_namespaces_claim.clone(),
            keys: Arc::new(keys),
        }))
    }

    /// Fetches the issuer's keys, unless that was tried a moment ago.
    pub(super) async fn refresh(&self) {
        self.keys.refresh().await;
    }

    /// Whose token this is.
    ///
    /// # Errors
    ///
    /// `UNAUTHENTICATED`, or `UNAVAILABLE` with the reason [`KEYS_AWAY`].
    pub(super) fn authenticate(&self, token: &str, now: u64) -> Result<Principal, ApiError> {
        if self.keys.old()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let keys = self.keys.clone();
            runtime.spawn(async move { keys.refresh().await });
        }
        let keys = self.keys.get();
        let claims = match jwt::verified(token, &keys) {
            Ok(claims) => claims,
            // Without any key nothing is known of the token.
            Err(JwtError::UnknownKey) if keys.is_empty() || self.keys.may_refresh() => {
                return Err(ApiError::new(
                    ErrorKind::Unavailable,
                    KEYS_AWAY,
                    "the signing keys of the token's issuer are not here, and are fetched; try again",
                ));
            }
            Err(error) => {
                return Err(unauthenticated(
                    "TOKEN_INVALID",
                    format!("the token {error}; log in again at {}", self.issuer),
                ));
            }
        };
        self.check(&claims, now)?;
        self.principal(&claims)
    }

    /// Whether the token is for us, and for now.
    fn check(&self, claims: &Claims, now: u64) -> Result<(), ApiError> {
        let now = now as f64 / 1000.0;
        let number = |name: &str| {
            claims
                .get(name)
                .map(|value| value.as_f64().unwrap_or(f64::NAN))
        };
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        if text("iss") != Some(self.issuer.as_str()) {
            return Err(unauthenticated(
                "TOKEN_FOREIGN",
                format!("the token is not of the issuer {}", self.issuer),
            ));
        }
        let audience = Value::from(self.audience.as_str());
        let for_us = match claims.get("aud") {
            Some(Value::Array(several)) => several.contains(&audience),
            one => one == Some(&audience),
        };
        if !for_us {
            return Err(unauthenticated(
                "TOKEN_FOREIGN",
                format!(
                    "the token was made for somebody else; its audience must name {}",
                    self.audience
                ),
            ));
        }
        // A claim that is no number makes every comparison false, so each is asked for what is good.
        let lasts = number("exp").is_some_and(|end| now < end + LEEWAY);
        if !lasts {
            return Err(unauthenticated(
                "TOKEN_EXPIRED",
                format!(
                    "the token has expired, or does not say when it does; log in again at {}",
                    self.issuer
                ),
            ));
        }
        let begun = |claim: &str| number(claim).is_none_or(|start| now > start - LEEWAY);
        if !begun("nbf") || !begun("iat") {
            return Err(unauthenticated(
                "TOKEN_EARLY",
                "the token is not valid yet; look whether the clocks of the issuer and of the \
                 coordinator agree",
            ));
        }
        Ok(())
    }

    fn principal(&self, claims: &Claims) -> Result<Principal, ApiError> {
        let name = claim(claims, &self.name_claim).and_then(Value::as_str);
        let name = name.filter(|name| !name.is_empty()).ok_or_else(|| {
            let message = format!("the token does not say who it is in `{}`", self.name_claim);
            unauthenticated("TOKEN_INVALID", message)
        })?;
        let roles = texts(claim(claims, &self.roles_claim));
        let role = roles.iter().filter_map(|value| self.role(value));
        let namespaces = match &self.namespaces_claim {
            None => Vec::new(),
            Some(wanted) => texts(claim(claims, wanted)),
        };
        // An empty list would mean all of them.
        let role = match self.namespaces_claim.is_some() && namespaces.is_empty() {
            true => Role::None,
            false => role.max_by_key(|role| role.rank()).unwrap_or_default(),
        };
        Ok(Principal {
            name: name.to_owned(),
            role,
            namespaces,
            method: Method::Oidc,
        })
    }

    /// What a value of the claim means. Workers are not known this way: a token names no worker.
    fn role(&self, value: &str) -> Option<Role> {
        if self.roles.is_empty() {
            return Role::parse(value).filter(|role| *role != Role::Worker);
        }
        let known = self.roles.iter().find(|(own, _)| own == value);
        known.map(|(_, role)| *role)
    }
}

/// The claim of this name; where there is none, dots lead into objects.
fn claim<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let mut parts = name.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

/// A text, or the texts of a list.
fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => {
            let texts = items.iter().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::jwt::tests::Issuer;
    use super::*;
    use crate::config::Config;
    use clap::Parser;
    use serde_json::json;

    const NOW: u64 = 1_800_000_000_000;

    struct Fixture {
        issuer: Issuer,
        oidc: Oidc,
        _directory: tempfile::TempDir,
    }

    impl Fixture {
        fn new(more: &[&str]) -> Self {
            let issuer = Issuer::new();
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("keys.json");
            std::fs::write(&path, issuer.published("a")).unwrap();
            let flags = [
                "espalier-coordinator",
                "--oidc-issuer",
                "https://id.example",
                "--oidc-audience",
                "espalier",
                "--oidc-jwks",
                path.to_str().unwrap(),
            ];
            let flags = flags.iter().chain(more);
            let config = Config::try_parse_from(flags).unwrap();
            config.validate().unwrap();
            let oidc = Oidc::new(&config.access).unwrap().unwrap();
            Self {
                issuer,
                oidc,
                _directory: directory,
            }
        }

        /// What a token with these claims on top of good ones gets.
        fn ask(&self, more: Value) -> Result<Principal, String> {
            let mut claims = json!({
                "iss": "https://id.example", "aud": "espalier", "sub": "alice",
                "exp": NOW / 1000 + 300, "espalier_roles": "viewer",
            });
            for (name, value) in more.as_object().unwrap() {
                claims[name.as_str()] = value.clone();
            }
            let header = json!({"alg": "ES256", "kid": "a-ec"});
            let token = self.issuer.sign(&header, &claims);
            self.oidc
                .authenticate(&token, NOW)
                .map_err(|error| error.reason)
        }
    }

    // Promise: tokens of others, for others, of yesterday and of tomorrow let nobody in; clocks may be a
    // minute apart.
    #[test]
    fn claims_are_checked() {
        let fixture = Fixture::new(&[]);
        let reason = |more: Value| fixture.ask(more).unwrap_err();
        let now = NOW / 1000;
        let alice = fixture.ask(json!({})).unwrap();
        assert_eq!((alice.name.as_str(), alice.role), ("alice", Role::Viewer));
        assert_eq!(
            reason(json!({"iss": "https://id.example/"})),
            "TOKEN_FOREIGN"
        );
        assert_eq!(reason(json!({"aud": "other"})), "TOKEN_FOREIGN");
        assert_eq!(reason(json!({"aud": ["other"]})), "TOKEN_FOREIGN");
        assert_eq!(reason(json!({"aud": null})), "TOKEN_FOREIGN");
        assert!(fixture.ask(json!({"aud": ["other", "espalier"]})).is_ok());
        assert!(fixture.ask(json!({"exp": now - 59})).is_ok());
        assert_eq!(reason(json!({"exp": now - 60})), "TOKEN_EXPIRED");
        assert_eq!(reason(json!({"exp": "never"})), "TOKEN_EXPIRED");
        assert_eq!(reason(json!({"exp": null})), "TOKEN_EXPIRED");
        assert!(fixture.ask(json!({"nbf": now + 59})).is_ok());
        assert_eq!(reason(json!({"nbf": now + 61})), "TOKEN_EARLY");
        assert_eq!(reason(json!({"iat": now + 3600})), "TOKEN_EARLY");
        assert_eq!(reason(json!({"sub": ""})), "TOKEN_INVALID");
    }

    // Promise: roles are what the operator said that values mean, the highest counts, and nobody becomes
    // a worker or sees all namespaces by a claim that is missing.
    #[test]
    fn roles_and_namespaces() {
        let role = |fixture: &Fixture, roles: Value| {
            let claims = json!({"espalier_roles": roles});
            fixture.ask(claims).unwrap().role
        };
        let plain = Fixture::new(&[]);
        assert_eq!(role(&plain, json!(["viewer", "admin"])), Role::Admin);
        assert_eq!(role(&plain, json!("worker")), Role::None);
        assert_eq!(role(&plain, json!(null)), Role::None);
        let flags = [
            "--oidc-roles-claim",
            "realm.roles",
            "--oidc-role",
            "ml=submitter",
            "--oidc-namespaces-claim",
            "teams",
        ];
        let mapped = Fixture::new(&flags);
        let found = mapped.ask(json!({"realm": {"roles": ["ml", "admin"]}, "teams": ["a"]}));
        let found = found.unwrap();
        assert_eq!(found.role, Role::Submitter, "only what was mapped counts");
        assert_eq!(found.namespaces, ["a"]);
        let bare = mapped.ask(json!({"realm": {"roles": ["ml"]}})).unwrap();
        assert_eq!(bare.role, Role::None);
    }
}
