//! Who may do what.
//!
//! ```text
//!  request ─> layer: who is it? (certificate, token)  ─> may it? (table) ─> not too much? (limits)
//!                    └─ refused: code, reason, counted                       │
//!  handler: sees the namespace? is it this worker? <── Principal ────────────┘ ─> audit
//!  guard: asks the same again and again while the call is open ─> the answer ends
//! ```
//!
//! One tower layer stands before everything that is served: gRPC, the page, its gateway, metrics.
//! `table` says which role a path needs at least; a path that is not in it needs [`Role::Admin`].
//! Handlers ask the [`Principal`] for what lies in a message: namespaces of jobs, names of workers.

mod audit;
mod certificates;
mod guard;
mod jwks;
mod jwt;
mod layer;
mod limits;
mod oidc;
mod patience;
mod principal;
mod refusal;
mod reload;
mod table;
mod tokens;

pub use guard::Cut;
pub use layer::AccessLayer;
pub(crate) use layer::has_bearer;
pub use patience::Patient;
pub use principal::{Method, Principal, Role};

use crate::config::AccessArgs;
use crate::metrics::Metrics;
use audit::Audit;
use certificates::Certificates;
use espalier_proto::{ApiError, ErrorKind};
use limits::Limits;
use oidc::Oidc;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};
use tokens::Tokens;

/// Why nobody can be told apart.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file can't be read or makes no sense.
    #[error("--{flag} {path}: {message}")]
    File {
        /// The flag that named it.
        flag: &'static str,
        /// The file.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// The client of the issuer's server can't be built.
    #[error("--oidc-issuer: no connection can be made to its server: {0}")]
    Client(String),
}

impl AccessError {
    fn file(flag: &'static str, path: &Path, message: impl ToString) -> Self {
        Self::File {
            flag,
            path: path.display().to_string(),
            message: message.to_string(),
        }
    }
}

/// What a call is about, told by its handler for the audit log.
#[derive(Clone, Debug, Default)]
pub struct Object(Arc<OnceLock<String>>);

impl Object {
    /// Says what the call of these extensions is about; only the first word counts.
    pub fn tell(extensions: &http::Extensions, object: &str) {
        if let Some(slot) = extensions.get::<Self>() {
            // Told before: stays.
            let _ = slot.0.set(object.to_owned());
        }
    }

    fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// Tells callers apart and knows what each may do.
#[derive(Debug)]
pub struct Access {
    tokens: Option<Tokens>,
    oidc: Option<Arc<Oidc>>,
    certificates: Option<Certificates>,
    /// Whether anybody is asked who they are.
    enabled: bool,
    limits: Arc<Limits>,
    audit: Option<Audit>,
    metrics: Arc<Metrics>,
}

impl Access {
    /// Reads what the settings name. `by_certificate`: clients prove who they are with certificates.
    ///
    /// # Errors
    ///
    /// A file can't be read or makes no sense.
    pub fn new(
        args: &AccessArgs,
        by_certificate: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, AccessError> {
        let tokens = args.token_file.as_deref().map(Tokens::open).transpose()?;
        let roles = args.certificate_roles.as_deref();
        let certificates = roles.map(Certificates::open).transpose()?;
        let audit = match &args.audit_log {
            Some(path) => Some(Audit::open(path, args.audit_reads)?),
            None => None,
        };
        Ok(Arc::new(Self {
            tokens,
            oidc: Oidc::new(args)?.map(Arc::new),
            certificates,
            enabled: by_certificate || args.knows_tokens(),
            limits: Arc::new(Limits::new(args)),
            audit,
            metrics,
        }))
    }

    /// Whether callers are asked who they are.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.enabled
    }

    /// The layer that stands before everything that is served.
    #[must_use]
    pub fn layer(self: &Arc<Self>) -> AccessLayer {
        AccessLayer::new(self.clone())
    }

    /// Whose token this is.
    ///
    /// # Errors
    ///
    /// `UNAUTHENTICATED`: nobody's, or no longer. `UNAVAILABLE`: its issuer's keys are being fetched.
    pub fn authenticate(&self, token: &str) -> Result<Principal, ApiError> {
        if !self.enabled {
            return Ok(Principal::anonymous());
        }
        if let Some(tokens) = &self.tokens
            && let Some(found) = tokens.find(token, now())
        {
            return found;
        }
        match &self.oidc {
            Some(oidc) if jwt::looks_like_one(token) => oidc.authenticate(token, now()),
            _ => Err(unauthenticated(
                "TOKEN_UNKNOWN",
                "the token is not known here; ask whoever runs this cluster for one",
            )),
        }
    }

    /// As [`Access::authenticate`]; waits for keys that are being fetched.
    pub(crate) async fn authenticate_patiently(&self, token: &str) -> Result<Principal, ApiError> {
        match (self.authenticate(token), &self.oidc) {
            (Err(error), Some(oidc)) if error.reason == oidc::KEYS_AWAY => {
                oidc.refresh().await;
                self.authenticate(token)
            }
            (result, _) => result,
        }
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn unauthenticated(reason: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::Unauthenticated, reason, message)
}

fn denied(reason: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::PermissionDenied, reason, message)
}
