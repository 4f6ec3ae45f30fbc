//! What a client proves with who it is: a token, sent with every call.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// A token as a flag or the environment gives it. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Where a client has its token from.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The token itself.
    pub token: Option<Secret>,
    /// A file that holds nothing else; read again at every connection.
    pub file: Option<PathBuf>,
}

impl Credentials {
    /// The token, else that of the file, else none.
    ///
    /// # Errors
    ///
    /// The file can't be read, or what was given is no token.
    pub fn read(&self) -> Result<Bearer, BearerError> {
        match (&self.token, &self.file) {
            (Some(Secret(token)), _) if !token.is_empty() => {
                Bearer::parse(token, "--token (or ESPALIER_TOKEN)".to_owned())
            }
            (_, Some(file)) => Bearer::load(file),
            _ => Ok(Bearer::default()),
        }
    }
}

/// Adds a token to every call, if there is one. It is never printed.
#[derive(Clone, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

/// Why a token can't be sent. What was given is not said: it may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum BearerError {
    /// The file can't be read.
    #[error("the token file {path} can't be read: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no token.
    #[error("{from} holds no token; expected one line without blanks")]
    Malformed {
        /// Where it came from.
        from: String,
    },
}

impl Bearer {
    fn load(file: &Path) -> Result<Self, BearerError> {
        let path = file.display().to_string();
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text, format!("the token file {path}")),
            Err(source) => Err(BearerError::File { path, source }),
        }
    }

    /// Whether there is a token.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    fn parse(text: &str, from: String) -> Result<Self, BearerError> {
        let token = text.trim();
        // Blanks would end it, and what is not ASCII can't travel.
        let plain = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let value = MetadataValue::try_from(format!("Bearer {token}"));
        match value {
            Ok(mut value) if plain => {
                value.set_sensitive(true);
                Ok(Self(Some(value)))
            }
            _ => Err(BearerError::Malformed { from }),
        }
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.is_some() {
            true => "Bearer(…)",
            false => "Bearer(none)",
        })
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(token: Option<&str>, file: Option<&Path>) -> Credentials {
        Credentials {
            token: token.map(|token| token.parse().unwrap()),
            file: file.map(Path::to_owned),
        }
    }

    // Promise: a token goes out with every call and into nothing that is printed.
    #[test]
    fn tokens_are_sent_and_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "esp_file\n").unwrap();
        let sent = |token: Option<&str>, file: Option<&Path>| {
            let from = credentials(token, file);
            let mut bearer = from.read().unwrap();
            assert!(!format!("{from:?}").contains("esp_"));
            assert!(!format!("{bearer:?}").contains("esp_"));
            let request = bearer.call(Request::new(())).unwrap();
            assert!(!format!("{request:?}").contains("esp_"), "{request:?}");
            let value = request.metadata().get("authorization")?;
            Some(value.to_str().unwrap().to_owned())
        };
        assert_eq!(sent(None, None), None);
        assert_eq!(sent(Some(""), None), None);
        assert_eq!(
            sent(Some("esp_flag"), Some(&path)).unwrap(),
            "Bearer esp_flag"
        );
        assert_eq!(sent(None, Some(&path)).unwrap(), "Bearer esp_file");
    }

    // Promise: what is no token is refused without being repeated.
    #[test]
    fn odd_tokens_are_refused() {
        for odd in ["esp_a b", "esp_ä", "esp_a\nb", " "] {
            let error = credentials(Some(odd), None).read().unwrap_err().to_string();
            assert!(error.contains("--token"), "{error}");
            assert!(!error.contains("esp_a"), "{error}");
        }
        let missing = credentials(None, Some(Path::new("/nonexistent/token")));
        assert!(
            missing
                .read()
                .unwrap_err()
                .to_string()
                .contains("/nonexistent")
        );
    }
}
