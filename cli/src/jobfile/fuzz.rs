//! Promise: any text is a job or is refused at a line, without a panic; what passes all rules passes them again once it
//! has travelled to the coordinator.

#[path = "../../../fuzz/src/job_file.rs"]
mod job_file;
#[path = "../../../fuzz/src/mutate.rs"]
mod mutate;

use super::JobFile;

const TOKENS: [&[u8]; 16] = [
    b"tasks:",
    b"\n  - name: ",
    b"head: causal_lm",
    b"null",
    b"-1",
    b"1e400",
    b".nan",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!binary ",
    b"|\n",
    b"{}",
    b"[]",
    b"\xC3\xA4",
    b"---\n",
];

fn seeds() -> Vec<Vec<u8>> {
    let recipes = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
    let names = [
        "digits/digit.yaml",
        "debian-packages/job.yaml",
        "digits/parity.yaml",
    ];
    let read = |name| std::fs::read(recipes.join(name)).expect("a recipe of this repository");
    names.into_iter().map(read).collect()
}

#[test]
fn any_text_is_read_or_refused() {
    mutate::run(&seeds(), &TOKENS, 10_000, job_file::target);
}

#[test]
fn any_text_is_read_or_refused_with_its_place() {
    let shown = |bytes: &[u8]| {
        let file = JobFile::new("job.yaml".to_owned(), "/jobs".into(), bytes.to_vec());
        if let Err(error) = file.and_then(|file| file.spec(&[])) {
            assert!(!error.to_string().is_empty());
        }
    };
    mutate::run(&seeds(), &TOKENS, 10_000, shown);
}
