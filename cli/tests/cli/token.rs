//! Making tokens.

use crate::run::run;
use std::os::unix::fs::PermissionsExt;

#[test]
fn the_entry_is_data_and_the_token_is_not_in_it() {
    // Standard output can be added to the coordinator's file; the token goes elsewhere, once.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let args = ["token", "create", "--name", "alice", "--role", "submitter"];
    let made = run(folder.path(), &[&args[..], &["-n", "vision"]].concat());
    assert_eq!(made.code, 0, "{}", made.stderr);
    for part in ["- name: alice", "role: submitter", "vision", "expires: "] {
        assert!(made.stdout.contains(part), "{}", made.stdout);
    }
    assert!(!made.stdout.contains("esp_"), "{}", made.stdout);
    assert_eq!(made.stderr.matches("esp_").count(), 1, "{}", made.stderr);
    let again = run(folder.path(), &args);
    assert_ne!(again.stderr, made.stderr, "tokens are random");
}

#[test]
fn a_file_of_a_token_is_the_owners() {
    // `--out` writes what --token-file reads, for one's own eyes, and never over another file.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let args = ["token", "create", "--name", "w-*", "--role", "worker"];
    let args = [&args[..], &["--days", "0", "--out", "w.token"]].concat();
    let made = run(folder.path(), &args);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(!made.stderr.contains("esp_") && !made.stdout.contains("expires"));
    let path = folder.path().join("w.token");
    let token = std::fs::read_to_string(&path).expect("the token");
    assert_eq!(token.trim().len(), 4 + 64);
    let mode = std::fs::metadata(&path).expect("a file").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    assert_eq!(run(folder.path(), &args).code, 1);
    assert_eq!(std::fs::read_to_string(&path).expect("the token"), token);
}

#[test]
fn odd_tokens_are_told_and_not_shown() {
    // A token that can't be sent is a usage error that does not repeat it.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let odd = run(folder.path(), &["whoami", "--token", "esp_ a"]);
    assert_eq!(odd.code, 2, "{}", odd.stderr);
    assert!(odd.stderr.contains("--token") && !odd.stderr.contains("esp_"));
}
