//! The rules of the house, as tests.
#![allow(clippy::unwrap_used)] // a test that can't go on fails here

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file.
const LINES: usize = 500;

/// Who may use whom; the walls of ARCHITECTURE.md. Whoever is not listed may use nobody.
const ARROWS: [(&str, &[&str]); 13] = [
    ("proto/spec", &[]),
    ("proto/tls", &[]),
    ("proto/telemetry", &[]),
    ("proto", &["espalier-spec"]),
    ("coordinator/core", &["espalier-spec"]),
    (
        "coordinator",
        &[
            "espalier-spec",
            "espalier-proto",
            "espalier-core",
            "espalier-tls",
            "espalier-telemetry",
        ],
    ),
    ("worker/comm", &[]),
    ("worker/balance", &["espalier-spec"]),
    (
        "worker",
        &[
            "espalier-spec",
            "espalier-proto",
            "espalier-comm",
            "espalier-balance",
            "espalier-tls",
            "espalier-telemetry",
        ],
    ),
    (
        "cli",
        &[
            "espalier-spec",
            "espalier-proto",
            "espalier-balance",
            "espalier-tls",
        ],
    ),
    (
        "deploy/operator",
        &[
            "espalier-spec",
            "espalier-proto",
            "espalier-tls",
            "espalier-telemetry",
        ],
    ),
    ("tests", &["espalier-proto"]),
    ("tests/sim", &["espalier-spec", "espalier-core"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// All files of the workspace below `dir` with one of these endings.
fn files(dir: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "__pycache__" {
                files(&path, endings, found);
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

fn sources(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&root(), endings, &mut found);
    assert!(!found.is_empty());
    found
}

/// Names of the workspace's crates among the dependencies that are no `dev-dependencies`.
fn own_dependencies(manifest: &str) -> BTreeSet<String> {
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let counts = section.contains("dependencies") && !section.contains("dev-dependencies");
        let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
        if counts && name.starts_with("espalier-") {
            found.insert(name.to_owned());
        }
    }
    found
}

// Promise: crates depend on each other only along the arrows of ARCHITECTURE.md.
#[test]
fn arrows() {
    for (path, allowed) in ARROWS {
        let manifest = fs::read_to_string(root().join(path).join("Cargo.toml")).unwrap();
        for name in own_dependencies(&manifest) {
            assert!(
                allowed.contains(&name.as_str()),
                "{path}/Cargo.toml depends on {name}; ARCHITECTURE.md allows {allowed:?}"
            );
        }
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.split("members = [").nth(1).unwrap();
    let members = members.split(']').next().unwrap();
    for member in members.split(',').map(|m| m.trim().trim_matches('"')) {
        assert!(
            member.is_empty() || ARROWS.iter().any(|(path, _)| *path == member),
            "crate {member} is not in the list of arrows here"
        );
    }
}

// Promise: torch stays behind the worker's wall; the core and the vocabulary do no IO.
#[test]
fn walls() {
    let banned: [(&str, &[&str]); 6] = [
        ("cli", &["tch", "safetensors"]),
        ("coordinator", &["tch", "safetensors"]),
        ("worker/comm", &["tch"]),
        ("worker/balance", &["tokio", "rand", "tch", "tonic"]),
        ("coordinator/core", &["tokio", "rand", "tch", "tonic"]),
        ("proto/spec", &["tokio", "rand", "tch", "tonic"]),
    ];
    for (path, names) in banned {
        let manifest = fs::read_to_string(root().join(path).join("Cargo.toml")).unwrap();
        let normal = manifest.split("[dev-dependencies]").next().unwrap();
        for line in normal.lines() {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            assert!(
                !names.contains(&name),
                "{path}/Cargo.toml depends on {name}"
            );
        }
    }
}

// Promise: a file stays short enough to be read at once.
#[test]
fn file_length() {
    let long: Vec<String> = sources(&[".rs"])
        .iter()
        .map(|path| (path, fs::read_to_string(path).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > LINES)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(
        long.is_empty(),
        "longer than {LINES} lines; split by noun:\n{}",
        long.join("\n")
    );
}

// Promise: nothing is left for later, and the project speaks of itself alone: no paths of the
// machine that it was written on.
#[test]
fn words() {
    // Put together here so that this file does not find itself.
    let mut banned = vec![format!("{}!(", "todo"), format!("{}!(", "unimplemented")];
    banned.extend(["cache", "main", "wt", "shared"].map(|dir| format!("/{}/{dir}", "work")));
    let endings = [
        ".rs", ".proto", ".py", ".md", ".toml", ".yaml", ".yml", ".sh", "Makefile",
    ];
    let mut found = Vec::new();
    for path in sources(&endings) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            for word in banned.iter().filter(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
