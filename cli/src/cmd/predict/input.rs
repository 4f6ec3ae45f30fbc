//! The inputs of `espalier predict`: lines of a file or of standard input, as the worker reads them.

use crate::error::{Code, Error, Result};
use serde_json::Value;
use std::path::Path;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::ChildStdin;

/// Sends all inputs, of a file or else of standard input; answers their number.
///
/// # Errors
/// They can't be read, or a line is no input.
pub(super) async fn feed_all(file: Option<&Path>, to: ChildStdin) -> Result<usize> {
    match file {
        Some(path) => {
            let file = tokio::fs::File::open(path)
                .await
                .map_err(|error| unreadable(path, &error))?;
            feed(BufReader::new(file), to, &path.display().to_string()).await
        }
        None => feed(BufReader::new(tokio::io::stdin()), to, "standard input").await,
    }
}

/// Sends each line as a JSON value; answers their number.
async fn feed(input: impl AsyncBufRead + Unpin, mut to: ChildStdin, name: &str) -> Result<usize> {
    let mut lines = input.lines();
    let mut count = 0;
    let mut number = 0;
    loop {
        let line = lines.next_line().await.map_err(|error| {
            Error::failure(format!("can't read line {} of {name}: {error}", number + 1))
        })?;
        number += 1;
        let Some(line) = line else { break };
        if line.trim().is_empty() {
            // The worker passes over it too, and counts it: its errors name the same lines.
            if to.write_all(b"\n").await.is_err() {
                break;
            }
            continue;
        }
        let question = question(&line).map_err(|message| {
            Error::failure(format!("line {number} of {name} {message}"))
                .hint("expected plain text, or JSON Lines with a field `text`, `question`, `image` or `audio`")
        })?;
        let mut message = question.to_string();
        message.push('\n');
        if to.write_all(message.as_bytes()).await.is_err() {
            // The worker has ended: its exit code tells more than a broken pipe.
            break;
        }
        count += 1;
    }
    let _ = to.shutdown().await;
    Ok(count)
}

/// What a line asks the worker: the field `text`, `question`, `image` or `audio` of a JSON object, else the
/// line itself as text.
fn question(line: &str) -> Result<Value, String> {
    let fields = match serde_json::from_str::<Value>(line) {
        Ok(Value::Object(fields)) => fields,
        // A text may well begin with a brace.
        _ => return Ok(serde_json::json!({ "text": line })),
    };
    let known = ["text", "image", "audio"];
    let is_question = !known.iter().any(|name| fields.contains_key(*name));
    if let Some(question) = fields.get("question").filter(|_| is_question) {
        return match (question, fields.get("context")) {
            (Value::String(question), Some(Value::String(context))) => {
                Ok(serde_json::json!({ "text": question, "pair": context }))
            }
            (Value::String(_), None) => Err("has a `question` without its `context`".to_owned()),
            _ => Err("has a `question` or a `context` that is no string".to_owned()),
        };
    }
    let mut found = known
        .into_iter()
        .filter_map(|name| Some((name, fields.get(name)?)));
    match (found.next(), found.next()) {
        (Some((one, _)), Some((other, _))) => Err(format!("has both `{one}` and `{other}`")),
        (Some(("text", text @ Value::String(_))), None) => match fields.get("pair") {
            None => Ok(serde_json::json!({ "text": text })),
            Some(pair @ Value::String(_)) => Ok(serde_json::json!({ "text": text, "pair": pair })),
            Some(_) => Err("has a `pair` that is no string".to_owned()),
        },
        (Some((name, value)), None) => match (name, value) {
            (_, Value::String(_)) | ("image", Value::Array(_)) => {
                Ok(serde_json::json!({ name: value }))
            }
            ("text", _) => Err("has a `text` that is no string".to_owned()),
            ("image", _) => Err("has an `image` that is no path and no list".to_owned()),
            (name, _) => Err(format!("has an `{name}` that is no path")),
        },
        (None, _) => {
            Err("is JSON without a field `text`, `question`, `image` or `audio`".to_owned())
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => Code::NotFound,
        _ => Code::Failure,
    };
    Error::new(code, format!("can't read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::question;
    use serde_json::json;

    #[test]
    fn lines_are_texts_or_json() {
        // Plain lines, JSON Lines of both kinds and texts that begin with a brace are all read.
        assert_eq!(question("a text"), Ok(json!({"text": "a text"})));
        assert_eq!(
            question(r#"{"text": "x", "id": 3}"#),
            Ok(json!({"text": "x"}))
        );
        assert_eq!(
            question(r#"{"image": [0, 1.5]}"#),
            Ok(json!({"image": [0, 1.5]}))
        );
        assert_eq!(
            question("{braces} are text"),
            Ok(json!({"text": "{braces} are text"}))
        );
        let pair = r#"{"text":"a","pair":"b"}"#;
        for path in [r#"{"image":"a.png"}"#, r#"{"audio":"a.wav"}"#, pair] {
            assert_eq!(question(path).map(|q| q.to_string()), Ok(path.to_owned()));
        }
        assert_eq!(
            question(r#"{"question": "who?", "context": "me", "id": "7"}"#),
            Ok(json!({"text": "who?", "pair": "me"}))
        );
        for bad in [
            r#"{"txt": "x"}"#,
            r#"{"question": "x"}"#,
            r#"{"question": "x", "context": 3}"#,
            r#"{"text": 3}"#,
            r#"{"image": 3}"#,
            r#"{"audio": [1]}"#,
            r#"{"text": "x", "audio": "a.wav"}"#,
            r#"{"text": "x", "pair": 3}"#,
        ] {
            assert!(question(bad).is_err(), "{bad}");
        }
    }
}
