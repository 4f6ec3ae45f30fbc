//! Promise: docs/api.md, which `make docs` writes, says what the protos say.

use crate::descriptors::{Place, comments, enums, files, messages};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Number of the field of a message's descriptor that holds its oneofs.
const ONEOF: i32 = 8;

/// As the reference writes a comment: one line a paragraph.
fn lines(comment: &str) -> Vec<String> {
    let paragraphs = comment.split("\n\n").map(|paragraph| {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        words.join(" ").replace('|', "\\|")
    });
    paragraphs.collect()
}

#[test]
fn says_what_the_protos_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
    let reference = fs::read_to_string(path).unwrap();
    let mut wanted = BTreeSet::new();
    let mut rows = Vec::new();
    for file in files() {
        for (path, comment) in comments(&file) {
            // What a oneof is for is not told: its fields are.
            if path.len() % 2 == 0 && path[path.len() - 2] != ONEOF {
                wanted.extend(lines(comment));
            }
        }
        for service in &file.service {
            wanted.insert(format!("### {}", service.name()));
            let calls = service.method.iter();
            wanted.extend(calls.map(|method| format!("| {} | ", method.name())));
        }
        for Place { name, item, .. } in messages(&file) {
            wanted.insert(format!("### {name}"));
            rows.extend(item.field.iter().map(|f| (f.name().to_owned(), f.number())));
        }
        for Place { name, item, .. } in enums(&file) {
            wanted.insert(format!("### {name}"));
            rows.extend(item.value.iter().map(|v| (v.name().to_owned(), v.number())));
        }
    }
    let written = reference.lines().filter(|line| line.starts_with("| `"));
    assert_eq!(
        written.count(),
        rows.len(),
        "rows of docs/api.md: run 'make docs'"
    );
    wanted.extend(
        rows.iter()
            .map(|(name, number)| format!("| `{name}` | {number} |")),
    );
    let missing: Vec<&String> = wanted
        .iter()
        .filter(|text| !reference.contains(text.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "run 'make docs', docs/api.md lacks {missing:#?}"
    );
}
