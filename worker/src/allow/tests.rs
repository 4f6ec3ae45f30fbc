use super::*;
use crate::data::{MediaReader, Problem};
use clap::{Args as _, Command, FromArgMatches as _};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;

/// A directory with `in`, which is allowed, and `out`, which is not; each has a file `data.csv`.
fn place() -> (tempfile::TempDir, Allowed) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["in/deep", "out", "in-2"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    for file in [
        "in/data.csv",
        "in/deep/data.csv",
        "out/data.csv",
        "in-2/data.csv",
    ] {
        fs::write(dir.path().join(file), "text,label\na,b\n").unwrap();
    }
    let allowed = flags(&["--allow-path", dir.path().join("in").to_str().unwrap()]).unwrap();
    (dir, allowed)
}

fn flags(flags: &[&str]) -> Result<Allowed, String> {
    let command = Allowed::augment_args(Command::new("worker").no_binary_name(true));
    let matches = command
        .try_get_matches_from(flags)
        .map_err(|error| error.to_string())?;
    Allowed::from_arg_matches(&matches).map_err(|error| error.to_string())
}

/// A job all of whose paths are `good`, but for that at `pointer`.
fn job(good: &str, pointer: &str, path: &str) -> JobSpec {
    let mut spec = json!({
        "name": "job",
        "backbone": {"path": good},
        "tasks": [{
            "name": "task", "head": "single_label",
            "data": {"train": [good, good], "validation": good, "test": good},
            "zero_shot": {"descriptions": good, "vectors": good},
        }],
        "output": good,
        "checkpoint": {"upload": format!("file://{good}")},
    });
    if !pointer.is_empty() {
        *spec.pointer_mut(pointer).unwrap() = Value::from(path);
    }
    serde_json::from_value(spec).unwrap()
}

fn train(allowed: &Allowed, path: &str) -> Result<(), Forbidden> {
    let good = allowed.paths.first().map(|root| root.join("deep"));
    let good = good.map_or("/".to_owned(), |good| good.display().to_string());
    allowed.check(&job(&good, "/tasks/0/data/train/1", path))
}

// Promise: no way of writing a path leads out: `..`, links of files and directories, links in a model's
// directory, absolute paths, names that only begin alike, escapes of URLs, what is not there yet. The error
// names the field and what is allowed.
#[test]
fn nothing_leads_out() {
    let (dir, allowed) = place();
    let at = |path: &str| dir.path().join(path).display().to_string();
    symlink(at("out/data.csv"), at("in/file-link.csv")).unwrap();
    symlink(at("out"), at("in/dir-link")).unwrap();
    symlink("dir-link", at("in/link-of-link")).unwrap();
    symlink(at("nowhere"), at("in/dangling")).unwrap();
    for escape in [
        at("out/data.csv"),
        at("in/../out/data.csv"),
        at("in/deep/../../out/data.csv"),
        at("in-2/data.csv"),
        at("in/file-link.csv"),
        at("in/dir-link/data.csv"),
        at("in/dir-link/../out/data.csv"),
        at("in/link-of-link/data.csv"),
        at("in/dangling"),
        at("in/missing/../../out/data.csv"),
        at("out/not-there.csv"),
        "/etc/passwd".to_owned(),
        "data.csv".to_owned(),
        format!("file://{}", at("in/%2e%2e/out/data.csv")),
    ] {
        let error = train(&allowed, &escape).unwrap_err().to_string();
        assert!(error.starts_with("tasks[0].data.train[1]: "), "{error}");
        assert!(error.contains("--allow-path"), "{escape}: {error}");
    }
    // A model's directory with a link in it.
    let model = at("in");
    let error = allowed.check(&job(&at("in/deep"), "/backbone/path", &model));
    let error = error.unwrap_err();
    assert_eq!(error.field, "backbone.path");
    assert_eq!(error.failure().code, "not_allowed");
    assert!(!error.failure().retryable);
}

// Promise: what lies inside is allowed however it is written, links that stay inside and an output that is
// not there yet too; without flags everything is.
#[test]
fn what_lies_inside_is_allowed() {
    let (dir, allowed) = place();
    let at = |path: &str| dir.path().join(path).display().to_string();
    symlink(at("in/deep"), at("in/inner")).unwrap();
    symlink(at("in"), at("way-in")).unwrap();
    for inside in [
        at("in/data.csv"),
        at("in/deep/../data.csv"),
        at("in/inner/data.csv"),
        at("way-in/data.csv"),
        at("out/../in/data.csv"),
        at("in/new/one.csv"),
        format!("file://{}", at("in/data.csv")),
    ] {
        assert_eq!(train(&allowed, &inside), Ok(()), "{inside}");
    }
    let output = job(&at("in"), "/output", &at("in/exports/new"));
    assert_eq!(allowed.check(&output), Ok(()));
    assert_eq!(train(&Allowed::default(), &at("out/data.csv")), Ok(()));
}

// Promise: there is no field of a job that is not looked at.
#[test]
fn every_field_is_looked_at() {
    let (dir, allowed) = place();
    let good = dir.path().join("in/deep").display().to_string();
    let out = dir.path().join("out").display().to_string();
    let url = format!("file://{out}");
    for (pointer, path, field) in [
        ("/backbone/path", &out, "backbone.path"),
        ("/tasks/0/data/train/0", &out, "tasks[0].data.train[0]"),
        ("/tasks/0/data/validation", &out, "tasks[0].data.validation"),
        ("/tasks/0/data/test", &out, "tasks[0].data.test"),
        (
            "/tasks/0/zero_shot/descriptions",
            &out,
            "tasks[0].zero_shot.descriptions",
        ),
        (
            "/tasks/0/zero_shot/vectors",
            &out,
            "tasks[0].zero_shot.vectors",
        ),
        ("/output", &out, "output"),
        ("/checkpoint/upload", &url, "checkpoint.upload"),
    ] {
        assert_eq!(allowed.check(&job(&good, "", "")), Ok(()));
        let error = allowed.check(&job(&good, pointer, path)).unwrap_err();
        assert_eq!(error.field, field, "{error}");
    }
}

// Promise: a sample's file is looked at when it is read, and one that lies elsewhere is no bad sample that
// is left out, but the end of the job.
#[test]
fn files_of_samples_stay_inside() {
    let (dir, allowed) = place();
    let at = |path: &str| dir.path().join(path).display().to_string();
    let cache = dir.path().join("in-2");
    let reader = MediaReader::plain([1, 1, 1]).within(allowed.of_samples(&cache));
    symlink(at("out/data.csv"), at("in/picture.png")).unwrap();
    for escape in [
        at("out/data.csv"),
        at("in/picture.png"),
        at("in/../out/data.csv"),
    ] {
        let problem = reader.file(&escape).unwrap_err();
        assert!(matches!(problem, Problem::Outside(..)), "{problem}");
        assert!(!problem.is_bad_sample());
        assert!(problem.to_string().contains("--allow-path"), "{problem}");
    }
    // No images, but read: the second one was fetched.
    for inside in [at("in/data.csv"), at("in-2/data.csv")] {
        let problem = reader.file(&inside).unwrap_err();
        assert!(matches!(problem, Problem::Undecodable { .. }), "{problem}");
    }
    let anywhere = MediaReader::plain([1, 1, 1]).within(Allowed::default().of_samples(&cache));
    let problem = anywhere.file(&at("out/data.csv")).unwrap_err();
    assert!(matches!(problem, Problem::Undecodable { .. }), "{problem}");
}

// Promise: where jobs may name only some files they bring no programs, unless that is asked for.
#[test]
fn modules_are_programs() {
    let (dir, allowed) = place();
    assert!(!allowed.modules() && Allowed::default().modules());
    assert!(!flags(&["--allow-url", "s3://bucket"]).unwrap().modules());
    let inside = dir.path().join("in").display().to_string();
    let both = flags(&["--allow-path", &inside, "--allow-modules"]);
    assert!(both.unwrap().modules());
}

// Promise: a URL is allowed below a prefix alone, whatever it looks like; what is secret in it isn't shown.
#[test]
fn urls_stay_below_their_prefix() {
    let allowed = flags(&[
        "--allow-url",
        "s3://bucket/team/,https://data.example/sets",
        "--allow-url",
        "http://127.0.0.1:9000",
    ])
    .unwrap();
    for inside in [
        "s3://bucket/team/a.csv",
        "S3://bucket/team/deep/a.csv",
        "https://data.example/sets/a.csv?signature=1/../2",
        "http://127.0.0.1:9000/any/a.csv",
    ] {
        assert_eq!(allowed.url(inside), Ok(()), "{inside}");
    }
    for escape in [
        "s3://bucket/team-2/a.csv",
        "s3://bucket/other/a.csv",
        "s3://bucket-2/team/a.csv",
        "s3://bucket/team/../other/a.csv",
        "http://data.example/sets/a.csv",
        "https://data.example.evil/sets/a.csv",
        "https://data.example@evil/sets/a.csv",
        "https://data.example:444/sets/a.csv",
        "https://data.example/sets/../secret.csv",
        "https://data.example/sets/%2E%2e/secret.csv",
        "https://data.example/sets/..%2fsecret.csv",
        "https://data.example/sets/..\\secret.csv",
        "https://data.example?/sets/a.csv",
        "http://127.0.0.1:90001/a.csv",
    ] {
        let error = allowed.url(escape).unwrap_err();
        assert!(error.contains("--allow-url"), "{escape}: {error}");
    }
    let signed = allowed.url("https://evil/a?token=secret").unwrap_err();
    assert!(!signed.contains("secret"), "{signed}");
    let error = allowed.check(&job(
        "s3://bucket/team/x",
        "/backbone/path",
        "s3://evil/model",
    ));
    assert_eq!(error.unwrap_err().field, "backbone.path");
    assert_eq!(Allowed::default().url("s3://any/thing"), Ok(()));
}

// Promise: a flag that would allow something else than was meant is refused.
#[test]
fn flags_that_mean_nothing() {
    for bad in ["/not/there", "/etc/passwd", ""] {
        let error = flags(&["--allow-path", bad]).unwrap_err();
        assert!(error.contains("--allow-path"), "{bad}: {error}");
    }
    for bad in [
        "bucket",
        "s3://",
        "ftp://host/a",
        "file:///data",
        "https://user@host/a",
        "https://host/a/../b",
        "https://host/a?b=c",
    ] {
        let error = flags(&["--allow-url", bad]).unwrap_err();
        assert!(error.contains("--allow-url"), "{bad}: {error}");
    }
}
