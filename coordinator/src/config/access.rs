//! Settings of who may do what: how callers prove who they are, what one of them may take up, what is
//! written down of it.

use super::{ConfigError, range};
use std::path::PathBuf;

/// Calls in a second that a caller may make for long.
const RATE: u32 = 100;
/// Calls of one caller that may be answered at the same time.
const CALLS: u32 = 128;
/// Watches and log tails of one caller.
const WATCHES: u32 = 64;
/// Bytes of a job.
const JOB_BYTES: usize = 1 << 20;
/// Jobs that have ended and are still shown.
const ENDED_JOBS: usize = 10_000;

/// Authentication, limits and the audit log.
#[derive(Clone, Debug, clap::Args)]
pub struct AccessArgs {
    /// File of the tokens that are let in and what their bearers may do, see `espalier token create`;
    /// changes are taken up at once
    #[arg(long, env = "ESPALIER_TOKENS", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// File that says what users with a certificate may do; changes are taken up at once. Whom it does not
    /// name may do nothing; admins have certificates of their own kind, see `espalier certs admin`
    #[arg(long, env = "ESPALIER_CERTIFICATE_ROLES", value_name = "FILE")]
    pub certificate_roles: Option<PathBuf>,
    /// Let in bearers of JSON Web Tokens of this OpenID Connect issuer
    #[arg(
        long,
        env = "ESPALIER_OIDC_ISSUER",
        value_name = "URL",
        requires = "oidc_audience"
    )]
    pub oidc_issuer: Option<String>,
    /// Audience that such a token must name
    #[arg(
        long,
        env = "ESPALIER_OIDC_AUDIENCE",
        value_name = "NAME",
        requires = "oidc_issuer"
    )]
    pub oidc_audience: Option<String>,
    /// The issuer's signing keys, a file or a URL; default: where the issuer's
    /// /.well-known/openid-configuration says
    #[arg(
        long,
        env = "ESPALIER_OIDC_JWKS",
        value_name = "FILE|URL",
        requires = "oidc_issuer"
    )]
    pub oidc_jwks: Option<String>,
    /// Certificates (PEM) of who may vouch for the issuer's server; default: those of the system
    #[arg(
        long,
        env = "ESPALIER_OIDC_CA",
        value_name = "FILE",
        requires = "oidc_issuer"
    )]
    pub oidc_ca: Option<PathBuf>,
    /// Claim that names the caller
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    pub oidc_name_claim: String,
    /// Claim that holds roles, a text or a list; dots lead into objects
    #[arg(long, value_name = "CLAIM", default_value = "espalier_roles")]
    pub oidc_roles_claim: String,
    /// What a value of that claim means, such as ml-team=submitter; may be repeated. Default: the names
    /// of the roles mean themselves
    #[arg(
        long = "oidc-role",
        value_name = "VALUE=ROLE",
        requires = "oidc_issuer"
    )]
    pub oidc_roles: Vec<String>,
    /// Claim that holds the namespaces a caller is limited to; a token without it is then refused
    #[arg(long, value_name = "CLAIM", requires = "oidc_issuer")]
    pub oidc_namespaces_claim: Option<String>,
    /// Calls in a second that one caller may make for long (twice as many at once); 0: any number.
    /// Limits of one caller apply where callers are known, to all but workers; an operator (by its
    /// certificate) may take up ten times as much
    #[arg(long, value_name = "N", default_value_t = RATE)]
    pub max_rate: u32,
    /// Calls of one caller that may be under way at once
    #[arg(long, value_name = "N", default_value_t = CALLS)]
    pub max_calls: u32,
    /// Watches and log tails that one caller may have open at once
    #[arg(long, value_name = "N", default_value_t = WATCHES)]
    pub max_caller_watches: u32,
    /// Largest job that is accepted, in bytes as it travels
    #[arg(long, value_name = "BYTES", default_value_t = JOB_BYTES)]
    pub max_job_bytes: usize,
    /// Jobs that have ended and are kept; the oldest beyond them are forgotten, their files are not
    #[arg(long, value_name = "N", default_value_t = ENDED_JOBS)]
    pub max_ended_jobs: usize,
    /// How long a connection of HTTP/1 may take to send a request, and any to begin
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub request_timeout: super::Period,
    /// File that a line of JSON is added to for every call that changes something or is refused
    #[arg(long, env = "ESPALIER_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Write down calls that only read, too
    #[arg(long, requires = "audit_log")]
    pub audit_reads: bool,
}

impl AccessArgs {
    /// Whether bearers of tokens are told apart.
    #[must_use]
    pub fn knows_tokens(&self) -> bool {
        self.token_file.is_some() || self.oidc_issuer.is_some()
    }

    /// Checks the rules of this group.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (flag, value) in [
            ("max-calls", self.max_calls),
            ("max-caller-watches", self.max_caller_watches),
        ] {
            if value == 0 {
                return Err(range(flag, &value, "at least 1".into()));
            }
        }
        if self.max_job_bytes < 4096 {
            let expected = "at least 4096".into();
            return Err(range("max-job-bytes", &self.max_job_bytes, expected));
        }
        if self.request_timeout.0.is_zero() {
            let expected = "more than 0s".into();
            return Err(range("request-timeout", &self.request_timeout, expected));
        }
        for (flag, url) in [
            ("oidc-issuer", self.oidc_issuer.as_deref()),
            ("oidc-jwks", self.oidc_jwks.as_deref()),
        ] {
            // Whoever can change keys on their way can let in anybody. A file is no URL; other spellings of a
            // scheme are the client's to read, not ours.
            if let Some(url) = url.filter(|url| url.contains("://"))
                && !url.starts_with("https://")
                && !(url.starts_with("http://") && is_loopback(url))
            {
                let expected = "https:// (or http:// on this host)".into();
                return Err(range(flag, &url, expected));
            }
        }
        if let Some(issuer) = &self.oidc_issuer
            && !issuer.starts_with("https://")
            && !issuer.starts_with("http://")
        {
            let expected = "a URL that begins with https://".into();
            return Err(range("oidc-issuer", issuer, expected));
        }
        for given in &self.oidc_roles {
            let role = given.rsplit_once('=').map(|(_, role)| role);
            let known = role.is_some_and(|role| matches!(role, "admin" | "submitter" | "viewer"));
            if !known {
                let expected = "VALUE=ROLE, where ROLE is admin, submitter or viewer".into();
                return Err(range("oidc-role", given, expected));
            }
        }
        Ok(())
    }
}

/// Whether a URL leads to this host.
pub(super) fn is_loopback(url: &str) -> bool {
    let rest = url.trim_start_matches("http://");
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // Of `user@host` the host counts: everything before it could be made to look like another one.
    let host = host.rsplit('@').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::Config;
    use clap::Parser;

    fn check(flags: &[&str]) -> Result<(), String> {
        let flags = ["espalier-coordinator"]
            .into_iter()
            .chain(flags.iter().copied());
        let config = Config::try_parse_from(flags).map_err(|error| error.to_string())?;
        config.validate().map_err(|error| error.to_string())
    }

    // Promise: settings that would let in the wrong ones, or nobody, are refused by name.
    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let issuer = [
            "--oidc-issuer",
            "https://id.example",
            "--oidc-audience",
            "e",
        ];
        let with = |more: &[&str]| check(&[&issuer[..], more].concat());
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(with(&[]), Ok(()));
        assert_eq!(with(&["--oidc-jwks", "/etc/keys.json"]), Ok(()));
        assert_eq!(with(&["--oidc-jwks", "http://[::1]:80/keys"]), Ok(()));
        assert_eq!(with(&["--oidc-role", "a=b=viewer"]), Ok(()));
        for (flags, word) in [
            ("--oidc-jwks http://id.example/keys", "oidc-jwks"),
            ("--oidc-jwks http://localhost@evil/keys", "oidc-jwks"),
            ("--oidc-jwks HTTP://id.example/keys", "oidc-jwks"),
            ("--oidc-role team=worker", "oidc-role"),
            ("--max-calls 0", "max-calls"),
            ("--max-job-bytes 1", "max-job-bytes"),
            ("--max-job-bytes 4194305", "max-message-bytes"),
            ("--request-timeout 0ms", "request-timeout"),
        ] {
            let flags: Vec<&str> = flags.split(' ').collect();
            let error = with(&flags).unwrap_err();
            assert!(error.contains(word), "{flags:?}: {error}");
        }
        // An audience is not optional: a token that was made for somebody else lets nobody in.
        assert!(check(&["--oidc-issuer", "https://id.example"]).is_err());
    }
}
