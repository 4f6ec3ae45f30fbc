//! The documentation's table of tests is what the tests say themselves.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// What a promise begins with.
const PROMISE: &str = "// Promise: ";

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// Name and promise of every test in a file; a promise is the comment right above its test.
fn tests(text: &str) -> Vec<(String, String)> {
    let (mut found, mut promise, mut is_test) = (Vec::new(), String::new(), false);
    for line in text.lines().map(str::trim) {
        if let Some(begin) = line.strip_prefix(PROMISE) {
            begin.clone_into(&mut promise);
        } else if let Some(more) = line.strip_prefix("// ")
            && !promise.is_empty()
        {
            promise.push(' ');
            promise.push_str(more);
        } else if line == "#[test]" || line.starts_with("#[tokio::test") {
            is_test = true;
        } else {
            let name = line.strip_prefix("async ").unwrap_or(line);
            let name = name
                .strip_prefix("fn ")
                .and_then(|rest| rest.split('(').next());
            if let Some(name) = name.filter(|_| is_test) {
                found.push((name.to_owned(), std::mem::take(&mut promise)));
            }
            promise.clear();
            is_test = false;
        }
    }
    found
}

fn table() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests/operator"] {
        sources(&root.join(folder), &mut files);
    }
    let mut table = String::from("| test | proves |\n| --- | --- |\n");
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let place = path.strip_prefix(root).unwrap().display().to_string();
        let place = place.trim_end_matches(".rs").trim_end_matches("/tests");
        let place = place
            .trim_start_matches("src/")
            .trim_start_matches("tests/");
        for (name, promise) in tests(&text) {
            assert!(!promise.is_empty(), "{place}: {name} promises nothing");
            let proves = promise.trim_end_matches('.').replace('|', "\\|");
            writeln!(table, "| `{place}`: `{name}` | {proves} |").unwrap();
        }
    }
    table
}

// Promise: every test of the operator says what it proves, and the documentation lists them all.
#[test]
fn every_test_is_listed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kubernetes-operator.md");
    let text = fs::read_to_string(&path).unwrap();
    let (table, path) = (table(), path.display());
    assert!(table.lines().count() > 50, "{table}");
    assert!(text.contains(&table), "{path} needs this table:\n{table}");
}

// Promise: a test without a promise is noticed, and comments of other things are nobody's promise.
#[test]
fn promises_are_read() {
    // Written so that this file is not taken for having these tests.
    let text = "
        ~ Promise: one thing,
        ~ and another.
        @[test]
        fn first() {
        ~ Promise: nobody's.
        let x = 1;
        @[tokio::test]
        async fn second() {
    ";
    let text = text.replace('~', "//").replace('@', "#");
    let found = tests(&text);
    let first = ("first".to_owned(), "one thing, and another.".to_owned());
    assert_eq!(found, [first, ("second".to_owned(), String::new())]);
}
