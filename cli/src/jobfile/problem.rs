//! One thing that is wrong with a job file, told with its line.

use super::place::{Node, Place};
use crate::error::nearest;
use espalier_spec::Violation;
use serde_saphyr::Error as Yaml;

const EMPTY: &str = "is empty; expected a job";
const NEEDED: &str = "a job needs at least `name`, `backbone` and `tasks`";

/// One thing that is wrong.
pub(crate) struct Problem {
    place: Option<Place>,
    /// Field path; empty if it is about the file as a whole.
    field: String,
    message: String,
    hint: Option<String>,
}

impl Problem {
    /// A broken rule.
    pub(super) fn of_violation(violation: Violation, places: &Node) -> Self {
        Self {
            place: places.find(&violation.field),
            field: violation.field,
            message: violation.message,
            hint: None,
        }
    }

    /// A file without anything in it.
    pub(super) fn of_empty_file() -> Self {
        Self {
            place: None,
            field: String::new(),
            message: EMPTY.to_owned(),
            hint: Some(NEEDED.to_owned()),
        }
    }

    /// What the YAML reader said while it was at `path`.
    pub(super) fn of_yaml(path: &str, error: &Yaml, text: &str) -> Self {
        let error = error.without_snippet();
        let place = error.location().and_then(Place::of);
        // `.` is the whole file, `?` a key that was not read to its end.
        let field = path.trim_end_matches('?').trim_end_matches('.').to_owned();
        let (field, mut message, hint) = explain(field, error);
        if let (Yaml::InvalidScalar { .. }, Some(found)) =
            (error, place.and_then(|at| scalar(text, at)))
        {
            message = format!("found `{found}`, {message}");
        }
        Self {
            place,
            field,
            message,
            hint,
        }
    }

    /// What can be done about it, if that is not in the message.
    pub(super) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// `file:line:column: field: message`, and the line itself.
    pub(super) fn render(&self, file: &str, text: &str) -> String {
        let mut shown = file.to_owned();
        if let Some(place) = self.place {
            shown.push_str(&format!(":{}:{}", place.line, place.column));
        }
        if !self.field.is_empty() {
            shown.push_str(&format!(": {}", self.field));
        }
        shown.push_str(&format!(": {}", self.message));
        let Some(place) = self.place else {
            return shown;
        };
        let Some(line) = text.lines().nth(place.line - 1) else {
            return shown;
        };
        let number = place.line.to_string();
        let margin = " ".repeat(number.len());
        let indent = " ".repeat(place.column - 1);
        // Very long lines are cut: the column is in the first line of the message.
        let line: String = line.chars().take(160).collect();
        shown.push_str(&format!("\n  {number} | {line}"));
        if place.column <= 160 {
            shown.push_str(&format!("\n  {margin} | {indent}^"));
        }
        shown
    }
}

/// Field, message and hint for an error of the YAML reader.
fn explain(field: String, error: &Yaml) -> (String, String, Option<String>) {
    match error {
        Yaml::SerdeUnknownField {
            field: name,
            expected,
            ..
        } => {
            // The path may or may not end with the unknown field itself.
            let parent = field.strip_suffix(name.as_str()).unwrap_or(&field);
            let parent = parent.trim_end_matches('.').to_owned();
            (
                parent,
                format!("unknown field `{name}`"),
                Some(did_you_mean(name, expected, "fields")),
            )
        }
        Yaml::SerdeUnknownVariant {
            variant, expected, ..
        } => {
            let hint = did_you_mean(variant, expected, "values");
            (field, format!("unknown value `{variant}`"), Some(hint))
        }
        Yaml::SerdeMissingField { field: name, .. } => {
            let hint = format!("add `{name}: ...` here; see `espalier schema` for what it holds");
            (field, format!("field `{name}` is missing"), Some(hint))
        }
        Yaml::DuplicateMappingKey { key, .. } => {
            let name = key.as_deref().unwrap_or("this key");
            (
                field,
                format!("`{name}` is there twice"),
                Some("remove one of the two".to_owned()),
            )
        }
        Yaml::MultipleDocuments { .. } => (
            String::new(),
            "holds a second YAML document; expected one job per file".to_owned(),
            Some("split the file at the line `---`".to_owned()),
        ),
        Yaml::Eof { .. } => (String::new(), EMPTY.to_owned(), Some(NEEDED.to_owned())),
        Yaml::SerdeInvalidType {
            unexpected,
            expected,
            ..
        }
        | Yaml::SerdeInvalidValue {
            unexpected,
            expected,
            ..
        } => (
            field,
            format!("found {unexpected}, expected {expected}"),
            None,
        ),
        Yaml::SerdeInvalidLength { len, expected, .. } => (
            field,
            format!("has {len} entries, expected {expected}"),
            None,
        ),
        Yaml::InvalidScalar { ty, .. } => (field, format!("expected {}", plain_type(ty)), None),
        Yaml::Unexpected { expected, .. } => (field, unexpected(expected), None),
        Yaml::NullIntoString { .. } => (field, "is empty; expected text".to_owned(), None),
        Yaml::ExpectedMappingEndAfterEnumVariantValue { .. } => (
            field,
            "has a second key; expected a mapping with one".to_owned(),
            None,
        ),
        Yaml::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => (
            field,
            "expected a word or a mapping with one key".to_owned(),
            None,
        ),
        other => {
            let message = bare(other);
            if message.contains("untagged enum Files") {
                return (field, "expected a path or a list of paths".to_owned(), None);
            }
            (field, message, None)
        }
    }
}

/// The message without the location that the library appends to it.
fn bare(error: &Yaml) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let cut = first.rfind(" at line ").map_or(first, |end| &first[..end]);
    cut.trim_end_matches(['.', ',', ':']).to_owned()
}

/// The plain scalar that starts at a place.
fn scalar(text: &str, place: Place) -> Option<String> {
    let line = text.lines().nth(place.line - 1)?;
    let rest: String = line.chars().skip(place.column - 1).take(60).collect();
    let end = rest.find([',', '}', ']', '#']).unwrap_or(rest.len());
    let word = rest[..end].trim();
    (!word.is_empty()).then(|| word.to_owned())
}

/// What was expected and what was found instead, in the words of a job file.
fn unexpected(expected: &str) -> String {
    match expected {
        "mapping start" => "expected a mapping (`field: value`)".to_owned(),
        "sequence start" => "expected a list".to_owned(),
        "string scalar" | "scalar" => {
            "expected a single value, found a mapping or a list".to_owned()
        }
        other => format!("expected {other}"),
    }
}

fn plain_type(ty: &str) -> String {
    match ty {
        "bool" | "boolean" => "`true` or `false`".to_owned(),
        "f64" | "f32" | "float" | "floating point" => "a number".to_owned(),
        _ if ty.starts_with('u') => "a whole number of at least 0".to_owned(),
        _ if ty.starts_with('i') => "a whole number".to_owned(),
        other => format!("a {other}"),
    }
}

fn did_you_mean(word: &str, known: &[&str], noun: &str) -> String {
    let list = known
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? Known {noun} here: {list}"),
        None => format!("known {noun} here: {list}"),
    }
}
