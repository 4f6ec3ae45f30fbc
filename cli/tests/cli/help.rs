//! Usage, completions, version.

use crate::run::run;
use std::path::Path;

#[test]
fn usage_errors_end_with_two() {
    // A command line that makes no sense ends with exit code 2 and leaves standard output empty.
    for args in [
        &["frobnicate"][..],
        &["validate"],
        &["validate", "x", "--colour"],
        &[],
    ] {
        let run = run(Path::new("."), args);
        assert_eq!(run.code, 2, "{args:?}");
        assert_eq!(run.stdout, "", "{args:?}");
        assert!(!run.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn help_documents_exit_codes() {
    // `--help` promises the exit codes, so scripts may rely on them.
    let run = run(Path::new("."), &["--help"]);
    assert_eq!(run.code, 0);
    for line in [
        "3    no job",
        "4    the coordinator",
        "5    the job was cancelled",
        "7    the accounts of samples",
    ] {
        assert!(run.stdout.contains(line), "{line}");
    }
}

#[test]
fn completions_name_the_verbs() {
    // The completion script of each shell knows the verbs.
    for shell in ["bash", "zsh", "fish"] {
        let run = run(Path::new("."), &["completions", shell]);
        assert_eq!(run.code, 0, "{shell}");
        assert!(run.stdout.contains("validate"), "{shell}");
    }
}

#[test]
fn version_is_data() {
    // `version -o json` is one JSON value on standard output.
    let run = run(Path::new("."), &["version", "-o", "json"]);
    let version: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(version["client"], env!("CARGO_PKG_VERSION"));
}
