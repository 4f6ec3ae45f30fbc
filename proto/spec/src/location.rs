//! Where a file of a job is: a path, or a URL that workers bring it from.

/// Where a file or a directory of a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A path on the machines of the workers; also what a `file://` URL means.
    Path(String),
    /// An object of an S3 store, or all whose key begins with `key` and a slash.
    S3 {
        /// The bucket.
        bucket: String,
        /// The key, as it is: nothing in it is percent-encoded.
        key: String,
    },
    /// What an HTTP server gives for this URL.
    Http(String),
}

impl Location {
    /// Whether a text is meant as a URL: letters, digits, `+`, `-` or `.` and then `://`.
    #[must_use]
    pub fn is_url(text: &str) -> bool {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| {
            let mut letters = scheme.chars();
            letters.next().is_some_and(|c| c.is_ascii_alphabetic())
                && letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        })
    }

    /// Reads a path or a URL; looks at nothing but the text.
    ///
    /// # Errors
    /// What is wrong with the URL and what was expected, in words that follow the URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !Self::is_url(text) {
            return Ok(Self::Path(text.to_owned()));
        }
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        match scheme.to_ascii_lowercase().as_str() {
            "file" => file(rest).map(Self::Path),
            "s3" => s3(rest),
            "http" | "https" => http(text, rest),
            other => Err(format!(
                "has the scheme `{other}`, which no worker knows; expected a path, or a URL that \
                 begins with file://, s3://, http:// or https://"
            )),
        }
    }

    /// Name of the file: what stands behind the last slash.
    #[must_use]
    pub fn name(&self) -> &str {
        let path = match self {
            Self::Path(path) => path.as_str(),
            Self::S3 { key, .. } => key,
            Self::Http(url) => without_query(url),
        };
        path.rsplit(['/', '\\']).next().unwrap_or(path)
    }
}

/// A path or URL as people are shown it: without what stands behind `?`, where signed URLs carry a
/// secret, and without a user and password.
#[must_use]
pub fn shown(text: &str) -> String {
    if !Location::is_url(text) {
        return text.to_owned();
    }
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let is_http = scheme.to_ascii_lowercase().starts_with("http");
    let rest = if is_http { without_query(rest) } else { rest };
    let (host, path) = halves(rest);
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

/// What stands before the first slash, and the rest with that slash.
fn halves(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

fn file(rest: &str) -> Result<String, String> {
    let (host, path) = halves(rest);
    if !host.is_empty() && host != "localhost" {
        return Err(format!(
            "names the host `{host}`; expected file:/// and an absolute path on the workers' machines"
        ));
    }
    if path.len() < 2 {
        return Err("names no file; expected file:/// and an absolute path".to_owned());
    }
    unescaped(path)
}

/// Turns `%20` and its like into what they stand for.
fn unescaped(path: &str) -> Result<String, String> {
    let wrong =
        || "has a % that no two hexadecimal digits of UTF-8 follow; write %25 for %".to_owned();
    let mut bytes = Vec::with_capacity(path.len());
    let mut parts = path.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or_else(wrong)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn s3(rest: &str) -> Result<Location, String> {
    let (bucket, key) = halves(rest);
    let key = key.trim_matches('/');
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if bucket.is_empty() || !bucket.chars().all(is_name) {
        return Err(
            "names no bucket; expected s3://BUCKET/KEY, and access keys in the environment of the \
             workers only"
                .to_owned(),
        );
    }
    let is_bad = |part: &str| part.is_empty() || part == "." || part == "..";
    if key.is_empty() || key.split('/').any(is_bad) || key.chars().any(char::is_control) {
        return Err(
            "names no key; expected s3://BUCKET/KEY, where no part of the key between slashes is \
             empty, `.` or `..`"
                .to_owned(),
        );
    }
    Ok(Location::S3 {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
    })
}

fn http(text: &str, rest: &str) -> Result<Location, String> {
    let (host, _) = halves(without_query(rest));
    if host.contains('@') {
        return Err(
            "names a user or a password, which everybody who sees the job would see; leave them out"
                .to_owned(),
        );
    }
    if host.is_empty() || host.starts_with(':') {
        return Err("names no host; expected something like https://host/file.parquet".to_owned());
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("has a blank in it; write %20 for it".to_owned());
    }
    Ok(Location::Http(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, part: &str) {
        let message = Location::parse(text).expect_err(text);
        assert!(message.contains(part), "{text}: {message}");
    }

    #[test]
    fn urls_are_read() {
        // Each kind of URL means what it says, and everything else is a path.
        let path = |path: &str| Ok::<_, String>(Location::Path(path.to_owned()));
        assert_eq!(Location::parse("a/b.csv"), path("a/b.csv"));
        assert_eq!(Location::parse("a: b://c.csv"), path("a: b://c.csv"));
        assert_eq!(
            Location::parse("file:///a%20b/%c3%a4.csv"),
            path("/a b/ä.csv")
        );
        assert_eq!(Location::parse("file://localhost/a"), path("/a"));
        let s3 = Location::parse("s3://my.bucket/a b/%20.parquet").expect("an object");
        assert_eq!(s3.name(), "%20.parquet");
        let (bucket, key) = ("my.bucket".to_owned(), "a b/%20.parquet".to_owned());
        assert_eq!(s3, Location::S3 { bucket, key });
        let http = Location::parse("https://host:1/x/t.csv?a=/b.json#c").expect("a URL");
        assert_eq!(http.name(), "t.csv");
    }

    #[test]
    fn wrong_urls_are_refused() {
        // A URL that nobody can bring is told before anything runs, with what was expected.
        said("gs://a/b.csv", "`gs`");
        said("file://host/a.csv", "`host`");
        said("file:///a%2.csv", "%25");
        said("file:///", "no file");
        said("s3:///key", "no bucket");
        said("s3://key:secret@bucket/a", "environment");
        said("s3://bucket", "no key");
        said("s3://bucket/a/../b", "no key");
        said("http://u:p@host/a.csv", "password");
        said("http:///a.csv", "no host");
        said("http://host/a b.csv", "%20");
    }

    #[test]
    fn secrets_are_not_shown() {
        // What is shown of a URL holds no signature and no password.
        assert_eq!(
            shown("https://h/a.csv?X-Amz-Signature=1"),
            "https://h/a.csv"
        );
        assert_eq!(shown("http://u:p@h/a.csv"), "http://h/a.csv");
        assert_eq!(shown("s3://id:secret@b/k?1"), "s3://b/k?1");
        assert_eq!(shown("a?b.csv"), "a?b.csv");
    }
}
