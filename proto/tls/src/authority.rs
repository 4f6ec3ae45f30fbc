//! A CA of one's own, for those who have nothing else that makes certificates.

use crate::folder::{CERT, KEY};
use crate::{Identity, Issued, Kind, TRUST_DOMAIN, TlsError, identity, pem};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

/// Clocks differ: certificates are valid from this long before they are made.
const SKEW: Duration = Duration::from_secs(300);
/// Days that a certificate is valid at most.
const LONGEST: u32 = 36_500;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// When a certificate may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub from: SystemTime,
    /// Last moment.
    pub until: SystemTime,
}

impl Validity {
    /// So many days from now on, a hundred years at most.
    #[must_use]
    pub fn days(days: u32) -> Self {
        let now = SystemTime::now();
        Self {
            from: now - SKEW,
            until: now + DAY * days.min(LONGEST),
        }
    }
}

/// A CA.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    domain: String,
}

impl Ca {
    /// A new CA for identities of this trust domain.
    ///
    /// # Errors
    ///
    /// The domain is none, or the system has no randomness.
    pub fn create(domain: &str, days: u32) -> Result<Self, TlsError> {
        check_domain(domain)?;
        let key = KeyPair::generate()?;
        // A name of its own: among CAs of one name, who is not trusted looks like who signed badly.
        let end = key.public_key_raw().iter().rev().take(4);
        let end: String = end.map(|byte| format!("{byte:02x}")).collect();
        let mut params = params(&format!("CA {end} of {domain}"), Validity::days(days));
        // It signs holders' certificates and no other CAs.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
            domain: domain.to_owned(),
        })
    }

    /// The CA of a directory, which [`Ca::save`] wrote or a secret of cert-manager was put into; for
    /// identities of [`TRUST_DOMAIN`].
    ///
    /// # Errors
    ///
    /// A file can't be read or holds something else, or the CA's time is over.
    pub fn load(directory: &Path) -> Result<Self, TlsError> {
        let (cert, key) = (directory.join(CERT), directory.join(KEY));
        let content = pem::read(&cert)?;
        let wrong = |path: &Path, detail: String, expected| TlsError::Content {
            path: path.to_owned(),
            detail,
            expected,
        };
        let chain = pem::certificates(&cert, &content)?;
        // There is at least one.
        let der = chain.first().ok_or_else(|| {
            wrong(
                &cert,
                "it holds no certificate".into(),
                "a CA's certificate",
            )
        })?;
        pem::in_force(&cert, der)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| wrong(&cert, error.to_string(), "a CA's certificate"))?;
        if !parsed.is_ca() {
            let detail = "its certificate is no CA's".to_owned();
            return Err(wrong(&cert, detail, "a CA's certificate"));
        }
        let secret = pem::read_secret(&key)?;
        let unread = || {
            let detail = "it holds no private key that this program can sign with".to_owned();
            wrong(&key, detail, "an elliptic-curve or Ed25519 key (PKCS #8)")
        };
        let text = std::str::from_utf8(&secret).map_err(|_| unread())?;
        let pair = KeyPair::from_pem(text).map_err(|_| unread())?;
        if pair.public_key_raw() != &*parsed.public_key().subject_public_key.data {
            return Err(TlsError::Pair {
                cert,
                key,
                detail: "the certificate is for another key".into(),
            });
        }
        let issuer = Issuer::from_ca_cert_der(der, pair)?;
        Ok(Self {
            issuer,
            pem: String::from_utf8_lossy(&content).into_owned(),
            domain: TRUST_DOMAIN.to_owned(),
        })
    }

    /// Makes identities of another trust domain from now on.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn trust_domain(mut self, domain: &str) -> Result<Self, TlsError> {
        check_domain(domain)?;
        domain.clone_into(&mut self.domain);
        Ok(self)
    }

    /// Writes the CA, its key too, into a directory that holds none.
    ///
    /// # Errors
    ///
    /// There is a CA, or a file can't be written.
    pub fn save(&self, directory: &Path) -> Result<(), TlsError> {
        for name in [CERT, KEY] {
            let path = directory.join(name);
            if path.exists() {
                return Err(TlsError::Exists { path });
            }
        }
        let own = Issued {
            cert: self.pem.clone(),
            key: Zeroizing::new(self.issuer.key().serialize_pem()),
            ca: self.pem.clone(),
        };
        own.save(directory)
    }

    /// The CA's certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for somebody; `hosts` are DNS names and IP addresses under which a coordinator serves.
    ///
    /// # Errors
    ///
    /// The name is none, or a host is none.
    pub fn issue(
        &self,
        kind: Kind,
        name: &str,
        hosts: &[&str],
        days: u32,
    ) -> Result<Issued, TlsError> {
        let identity = Identity::new(kind, name).ok_or_else(|| no_name(name))?;
        self.sign(Some(&identity), hosts, Validity::days(days))
    }

    /// One certificate for all workers whose name starts with `PREFIX-`.
    ///
    /// # Errors
    ///
    /// The prefix can't begin a name.
    pub fn issue_shared(&self, prefix: &str, days: u32) -> Result<Issued, TlsError> {
        let identity = Identity::shared(prefix).ok_or_else(|| no_name(prefix))?;
        self.sign(Some(&identity), &[], Validity::days(days))
    }

    /// A certificate for a server that is nobody in this cluster, such as an etcd.
    ///
    /// # Errors
    ///
    /// A host is none.
    pub fn issue_server(&self, hosts: &[&str], days: u32) -> Result<Issued, TlsError> {
        self.sign(None, hosts, Validity::days(days))
    }

    /// A certificate for an identity or none, valid when one likes.
    ///
    /// # Errors
    ///
    /// A host is none.
    pub fn sign(
        &self,
        identity: Option<&Identity>,
        hosts: &[&str],
        valid: Validity,
    ) -> Result<Issued, TlsError> {
        let first = hosts.first().copied().unwrap_or("server");
        let name = identity.map_or(first, |identity| identity.name.as_str());
        let mut params = params(name, valid);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        // Servers are clients of each other: members of an etcd, for instance.
        if identity.is_none_or(|identity| identity.kind == Kind::Coordinator) {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        for host in hosts {
            params.subject_alt_names.push(alternative_name(host)?);
        }
        if let Some(identity) = identity {
            let uri = identity.uri(&self.domain);
            let uri = SanType::URI(uri.as_str().try_into()?);
            params.subject_alt_names.push(uri);
        }
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            cert: cert.pem(),
            key: Zeroizing::new(key.serialize_pem()),
            ca: self.pem.clone(),
        })
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its key is nobody's business.
        f.debug_struct("Ca")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

fn params(name: &str, valid: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = valid.from.into();
    params.not_after = valid.until.into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // A common name holds 64 characters at most; who it is stands among the alternative names.
    let short: String = name.chars().take(64).collect();
    params
        .distinguished_name
        .push(DnType::CommonName, short.as_str());
    params
}

fn alternative_name(host: &str) -> Result<SanType, TlsError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let plain = host.strip_prefix("*.").unwrap_or(host);
    if !identity::is_name(plain) {
        return Err(TlsError::Name {
            found: host.to_owned(),
            what: "host",
            expected: "a DNS name or an IP address, without a port",
        });
    }
    Ok(SanType::DnsName(host.try_into()?))
}

fn check_domain(domain: &str) -> Result<(), TlsError> {
    match identity::is_name(domain) {
        true => Ok(()),
        false => Err(TlsError::Name {
            found: domain.to_owned(),
            what: "trust domain",
            expected: "letters, digits, `-`, `_` and `.`",
        }),
    }
}

fn no_name(name: &str) -> TlsError {
    TlsError::Name {
        found: name.to_owned(),
        what: "name for a certificate",
        expected: "letters, digits, `-`, `_` and `.`",
    }
}
