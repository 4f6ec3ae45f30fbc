//! One URL and the store behind it.

use super::{Error, What};
use crate::model::{PREFIX_DIR, PROMPT_DIR};
use espalier_spec::Location;
use espalier_spec::location::shown;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{
    ClientOptions, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig,
};
use std::sync::Arc;
use std::time::Duration;

/// How long a server may say nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Longest part of a store's own words in an error.
const MOST_WORDS: usize = 300;
/// What errors hold that may be over soon: the store's own, too many requests, a connection that breaks off.
const PASSING: [&str; 7] = [
    "status: 5",
    "status: 429",
    "ConnectionReset",
    "ConnectionAborted",
    "BrokenPipe",
    "UnexpectedEof",
    "IncompleteMessage",
];
/// Endings of files in a model's directory that are the same weights for other programs.
const OF_OTHERS: [&str; 5] = [".bin", ".h5", ".msgpack", ".onnx", ".gguf"];
/// Folders of a model's directory without which it is another model.
const FOLDERS: [&str; 2] = [PROMPT_DIR, PREFIX_DIR];

/// The variables of the environment that say how S3 is reached.
pub(super) struct Variables(Vec<(String, String)>);

impl Variables {
    pub(super) fn from_environment() -> Self {
        let all = std::env::vars_os();
        Self::of(all.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }))
    }

    pub(super) fn of(all: impl Iterator<Item = (String, String)>) -> Self {
        let counts = |name: &str, value: &str| name.starts_with("AWS_") && !value.is_empty();
        Self(all.filter(|(name, value)| counts(name, value)).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    fn has(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.get(name).is_some())
    }

    /// Values that no message may hold.
    fn secrets(&self) -> Vec<String> {
        const SECRET: [&str; 3] = ["SECRET", "TOKEN", "KEY"];
        let is_secret = |name: &str| SECRET.iter().any(|part| name.contains(part));
        let secrets = self.0.iter().filter(|(name, _)| is_secret(name));
        secrets.map(|(_, value)| value.clone()).collect()
    }
}

/// An object of a store.
pub(super) struct Object {
    /// Name of the file that it becomes, with its folder if it lies in one.
    pub(super) name: String,
    pub(super) meta: ObjectMeta,
}

impl Object {
    /// Whether what the store says of it changes when its bytes do.
    pub(super) fn is_steady(&self) -> bool {
        self.meta.e_tag.is_some() || self.meta.last_modified.timestamp_millis() > 0
    }
}

/// One URL and the store behind it.
pub(super) struct Remote {
    /// The URL as it is shown.
    pub(super) url: String,
    /// Everything that says which object is meant: the URL and the server.
    pub(super) identity: String,
    /// Name of the file.
    name: String,
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// The server, where the URL does not name it.
    at: String,
    is_s3: bool,
    secrets: Vec<String>,
}

impl Remote {
    /// # Errors
    /// If the URL or the environment leave something open; nothing is asked for yet.
    pub(super) fn open(
        text: &str,
        location: &Location,
        variables: &Variables,
    ) -> Result<Self, Error> {
        // Fails where another part of the process chose one before: as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = shown(text);
        let wrong = |message: String| Error::Url {
            url: url.clone(),
            message,
        };
        let name = location.name().to_owned();
        if matches!(name.as_str(), "" | "." | "..") {
            return Err(wrong("names no file".to_owned()));
        }
        let mut remote = Self {
            url: url.clone(),
            identity: text.to_owned(),
            name,
            store: Arc::new(object_store::memory::InMemory::new()),
            path: Path::default(),
            at: String::new(),
            is_s3: false,
            secrets: variables.secrets(),
        };
        match location {
            // Nobody asks for one.
            Location::Path(_) => return Err(wrong("is a path".to_owned())),
            Location::Http(whole) => {
                let whole = whole.split('#').next().unwrap_or(whole);
                let store = HttpBuilder::new()
                    .with_url(whole)
                    .with_client_options(options().with_allow_http(true))
                    .with_retry(retry())
                    .build();
                remote.store = Arc::new(store.map_err(|cause| remote.error(cause))?);
            }
            Location::S3 { bucket, key } => {
                let endpoint = ["AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
                let endpoint = endpoint.iter().find_map(|name| variables.get(name));
                remote.is_s3 = true;
                remote.at = endpoint.map_or_else(String::new, |at| format!(" at {}", shown(at)));
                remote.identity = format!("{} {text}", endpoint.unwrap_or_default());
                remote.path = Path::parse(key)
                    .map_err(|_| wrong("has characters that no key may have".to_owned()))?;
                remote.store = Arc::new(s3(&remote, bucket, endpoint, variables)?);
            }
        }
        Ok(remote)
    }

    #[cfg(test)]
    pub(super) fn of(store: Arc<dyn ObjectStore>, path: &str) -> Self {
        Self {
            url: format!("memory://{path}"),
            identity: path.to_owned(),
            name: path.rsplit('/').next().unwrap_or(path).to_owned(),
            store,
            path: Path::from(path),
            at: String::new(),
            is_s3: false,
            secrets: Vec::new(),
        }
    }

    /// The store, for what lies below the URL.
    pub(super) fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    /// The key of what lies below the URL.
    ///
    /// # Errors
    /// If no key may have this name.
    pub(super) fn key(&self, name: &str) -> Result<Path, Error> {
        let key = Path::parse(format!("{}/{name}", self.path));
        key.map_err(|_| Error::Url {
            url: self.url.clone(),
            message: format!("can hold nothing of the name {name:?}"),
        })
    }

    /// What has to be fetched.
    ///
    /// # Errors
    /// If it isn't there or nobody answers.
    pub(super) async fn objects(&self, what: What) -> Result<Vec<Object>, Error> {
        if what == What::File {
            let meta = self.meta().await?;
            let name = self.name.clone();
            return Ok(vec![Object { name, meta }]);
        }
        let listed = self.store.list_with_delimiter(Some(&self.path));
        let listed = self.within(listed).await?;
        let mut objects = below(&self.path, "", listed.objects);
        for folder in &listed.common_prefixes {
            let name = folder.filename().unwrap_or_default();
            if FOLDERS.contains(&name) {
                let own = self.store.list_with_delimiter(Some(folder));
                let own = self.within(own).await?.objects;
                objects.extend(below(folder, &format!("{name}/"), own));
            }
        }
        if !objects.iter().any(|object| object.name == "config.json") {
            return Err(Error::NotFound {
                url: self.url.clone(),
                at: self.at.clone(),
                what: "that the bucket and the prefix are right and that a config.json stands \
                       right below it"
                    .to_owned(),
            });
        }
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    /// What the store says of the file of this URL.
    async fn meta(&self) -> Result<ObjectMeta, Error> {
        let head = self.store.head(&self.path);
        match tokio::time::timeout(PATIENCE, head).await {
            // A signed URL is signed for one method, and some servers know no HEAD. What comes after the
            // head of this answer is not read.
            Ok(Err(cause)) if !self.is_s3 && refuses_method(&cause) => {
                let got = self.within(self.store.get(&self.path)).await?;
                Ok(got.meta)
            }
            Ok(answer) => answer.map_err(|cause| self.error(cause)),
            Err(_) => Err(self.silent()),
        }
    }

    /// Begins to fetch an object.
    ///
    /// # Errors
    /// If it isn't there any more, is another one by now, or nobody answers.
    pub(super) async fn get(&self, meta: &ObjectMeta) -> Result<GetResult, Error> {
        let got = self.within(self.store.get(&meta.location)).await?;
        if !is_same(&got.meta, meta) {
            return Err(Error::Changed {
                url: self.url.clone(),
            });
        }
        Ok(got)
    }

    async fn within<T>(
        &self,
        answer: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => answer.map_err(|cause| self.error(cause)),
            Err(_) => Err(self.silent()),
        }
    }

    /// The server said nothing for too long.
    pub(super) fn silent(&self) -> Error {
        self.unreachable("the server does not answer")
    }

    fn unreachable(&self, why: &'static str) -> Error {
        Error::Unreachable {
            url: self.url.clone(),
            why,
            at: self.at.clone(),
            hint: match self.is_s3 {
                true => ", AWS_ENDPOINT_URL and AWS_REGION",
                false => "",
            },
        }
    }

    /// What a store's error means to a person.
    pub(super) fn error(&self, cause: object_store::Error) -> Error {
        let (url, at) = (self.url.clone(), self.at.clone());
        match &cause {
            object_store::Error::NotFound { .. } => Error::NotFound {
                url,
                at,
                what: match self.is_s3 {
                    true => "that the bucket and the key exist and are spelt right".to_owned(),
                    false => "the address".to_owned(),
                },
            },
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. } => Error::Denied {
                url,
                at,
                what: match self.is_s3 {
                    true => {
                        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, and that the \
                         keys may read the bucket"
                    }
                    false => "that the URL needs no login and has not expired",
                },
            },
            other => {
                // The causes below the first are in no other text; nobody is shown this one.
                let all = format!("{other:?}");
                let has = |part: &str| all.contains(part);
                if has("ConnectionRefused") || has("onnection refused") {
                    self.unreachable("the connection was refused")
                } else if has("dns error") || has("lookup address") {
                    self.unreachable("the name of the server is not known")
                } else if has("TimedOut") || has("kind: Timeout") {
                    self.silent()
                } else {
                    let message = self.words(&other.to_string());
                    let passes = PASSING.iter().any(|part| has(part));
                    Error::Failed {
                        url,
                        message,
                        passes,
                    }
                }
            }
        }
    }

    /// A store's own words, cut, without signatures and keys.
    fn words(&self, text: &str) -> String {
        let public = |word: &str| match word.contains("://") {
            true => word.split('?').next().unwrap_or_default().to_owned(),
            false => word.to_owned(),
        };
        let words: Vec<String> = text.split_whitespace().map(public).collect();
        let mut text = words.join(" ");
        for secret in &self.secrets {
            text = text.replace(secret, "***");
        }
        text.chars().take(MOST_WORDS).collect()
    }
}

/// Whether a server may do for GET what it doesn't do for HEAD: it answered 403 or 405.
fn refuses_method(cause: &object_store::Error) -> bool {
    match cause {
        object_store::Error::PermissionDenied { .. } => true,
        // So is 405 called, too, and nothing but its text says that it is none.
        object_store::Error::NotFound { .. } => format!("{cause:?}").contains("status: 405"),
        _ => false,
    }
}

/// Whether two answers of a store are about the same bytes. The time of change counts where no ETag says it
/// better, and in whole seconds: lists of objects may have it more precisely than answers about one.
fn is_same(one: &ObjectMeta, other: &ObjectMeta) -> bool {
    let is_same_time = one.last_modified.timestamp() == other.last_modified.timestamp();
    one.size == other.size && one.e_tag == other.e_tag && (one.e_tag.is_some() || is_same_time)
}

/// What is listed right below `prefix`, by names that begin with `folder`, without weights for other programs.
fn below(prefix: &Path, folder: &str, listed: Vec<ObjectMeta>) -> Vec<Object> {
    let mut objects = Vec::new();
    for meta in listed {
        // The prefix itself is an object of some stores.
        let is_below = meta.location != *prefix;
        let name = meta.location.filename().filter(|_| is_below);
        let name = name.unwrap_or_default();
        let is_other = OF_OTHERS.iter().any(|ending| name.ends_with(ending));
        if !name.is_empty() && !is_other {
            let name = format!("{folder}{name}");
            objects.push(Object { name, meta });
        }
    }
    objects
}

/// How a server is spoken to: a large file may take its time, so only silence is limited.
fn options() -> ClientOptions {
    ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(10))
}

/// A job that waits for a server that is not there should say so soon.
fn retry() -> RetryConfig {
    RetryConfig {
        max_retries: 3,
        retry_timeout: Duration::from_secs(30),
        ..RetryConfig::default()
    }
}

fn s3(
    remote: &Remote,
    bucket: &str,
    endpoint: Option<&str>,
    variables: &Variables,
) -> Result<AmazonS3, Error> {
    // Without any of them the library would ask a cloud machine's metadata service, which elsewhere
    // takes long to fail, and says little then.
    let ways: [&[&str]; 6] = [
        &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        &["AWS_WEB_IDENTITY_TOKEN_FILE"],
        &["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"],
        &["AWS_CONTAINER_CREDENTIALS_FULL_URI"],
        &["AWS_METADATA_ENDPOINT"],
        &["AWS_SKIP_SIGNATURE"],
    ];
    let url = remote.url.clone();
    if !ways.iter().any(|names| variables.has(names)) {
        return Err(Error::NoCredentials { url });
    }
    if let Some(endpoint) = endpoint
        && endpoint.starts_with("http://")
        && !variables.has(&["AWS_ALLOW_HTTP"])
    {
        let endpoint = shown(endpoint);
        return Err(Error::PlainHttp { url, endpoint });
    }
    let mut builder = AmazonS3Builder::new()
        .with_client_options(options())
        .with_retry(retry());
    for (name, value) in &variables.0 {
        // There are variables with this beginning that mean nothing to a store.
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value.as_str());
        }
    }
    let built = builder.with_bucket_name(bucket).build();
    built.map_err(|cause| remote.error(cause))
}
