//! What `espalier validate` says to bad job files.

use crate::run::{Run, run};

const GOOD: &str = "\
name: packages
backbone: {path: minilm}
tasks:
  - name: section
    head: single_label
    data:
      train: [a.parquet, b.csv]
      labels: [1, yes, games]
sampler: {temperature: 2.0}
tuning: {last_blocks: 2}
";

fn validate(text: &str, flags: &[&str]) -> Run {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("job.yaml"), text).expect("written");
    let args: Vec<&str> = ["validate", "job.yaml"]
        .iter()
        .chain(flags)
        .copied()
        .collect();
    run(folder.path(), &args)
}

/// Asserts exit code 1, empty standard output and exactly this on standard error.
fn refused(text: &str, expected: &str) {
    let run = validate(text, &[]);
    assert_eq!(run.stderr, expected, "{text}");
    assert_eq!(run.code, 1, "{text}");
    assert_eq!(run.stdout, "", "{text}");
}

#[test]
fn a_good_file_is_valid() {
    // A valid file says so on standard output; labels need no quotes; missing files are warnings.
    let run = validate(GOOD, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(
        run.stdout,
        "job.yaml: job packages with 1 task is valid: section\n"
    );
    assert_eq!(run.stderr.matches("warning: ").count(), 3, "{}", run.stderr);
    let run = validate(GOOD, &["-o", "yaml"]);
    assert!(
        run.stdout.contains("labels:\n    - \"1\"\n    - \"yes\"\n"),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout.contains("tuning:\n  last_blocks: 2\n"),
        "{}",
        run.stdout
    );
}

#[test]
fn syntax_is_located() {
    // YAML that can't be read is located by line and column.
    refused(
        "name: x\ntasks:\n  - name: [a\n",
        "error: job.yaml:3:11: unclosed bracket '['\n  3 |   - name: [a\n    |           ^\n",
    );
}

#[test]
fn an_unknown_field_gets_a_suggestion() {
    // A slip in a field's name is answered with the name that was meant.
    refused(
        &GOOD.replace("train:", "trian:"),
        "error: job.yaml:7:7: tasks[0].data: unknown field `trian`
  7 |       trian: [a.parquet, b.csv]
    |       ^

hint: did you mean `train`? Known fields here: `train`, `validation`, `test`, `columns`, `labels`, `max_train_samples`, `samples_per_class`, `join`, `on_bad_sample`, `too_long`, `on_missing_label`, `augment`
",
    );
}

#[test]
fn an_unknown_word_gets_a_suggestion() {
    // A slip in one of the words of a choice, too.
    refused(
        &GOOD.replace("single_label", "single-label"),
        "error: job.yaml:5:11: tasks[0].head: unknown value `single-label`
  5 |     head: single-label
    |           ^

hint: did you mean `single_label`? Known values here: `single_label`, `multi_label`, `regression`, `tags`, `ordinal`, `label_embedding`, `causal_lm`, `ctc`, `entailment`, `segmentation`, `span`, `ranking`
",
    );
}

#[test]
fn a_slip_in_a_balancer_is_located() {
    // Both forms of a balancer, and its parameters, are answered with line and suggestion.
    for (yaml, column, field) in [
        ("balancer: upgrd", 1, "balancer"),
        ("balancer: {method: upgrd}", 20, "balancer.method"),
    ] {
        let run = validate(&format!("{GOOD}{yaml}\n"), &[]);
        let head = format!("error: job.yaml:11:{column}: {field}: unknown value `upgrd`\n");
        assert!(run.stderr.starts_with(&head), "{}", run.stderr);
        assert!(
            run.stderr.contains("did you mean `upgrad`?"),
            "{}",
            run.stderr
        );
        assert_eq!(run.code, 1);
    }
    let two = GOOD.replace(
        "sampler:",
        "  - {name: size, head: regression, data: {train: s.csv}}\nsampler:",
    );
    refused(
        &format!("{two}balancer: {{method: dwa, params: {{temprature: 2}}}}\n"),
        "error: job.yaml:12:34: balancer.params.temprature: `dwa` has no such parameter; did you mean `temperature`? It has temperature, window
  12 | balancer: {method: dwa, params: {temprature: 2}}
     |                                  ^
",
    );
    refused(
        &format!("{two}balancer: {{metod: dwa}}\n"),
        "error: job.yaml:12:12: balancer: unknown field `metod`
  12 | balancer: {metod: dwa}
     |            ^

hint: did you mean `method`? Known fields here: `method`, `params`, `scale`, `log_losses`, `normalize`, `smoothing`, `update_every`, `balance_heads`, `on_non_finite`
",
    );
    let run = validate(
        &format!("{two}balancer: upgrad\n"),
        &["--set", "balancer.scale=0.5"],
    );
    assert_eq!(run.code, 0, "{}", run.stderr);
    let run = validate(&two, &["--set", "balancer=upgrd"]);
    assert!(
        run.stderr.contains("did you mean `upgrad`?"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_wrong_type_names_what_was_found() {
    // A value of the wrong type is quoted, with what was expected.
    refused(
        &format!("{GOOD}training: {{steps: many}}\n"),
        "error: job.yaml:11:19: training.steps: found `many`, expected a whole number of at least 0
  11 | training: {steps: many}
     |                   ^
",
    );
    refused(
        &format!("{GOOD}training: 7\n"),
        "error: job.yaml:11:11: training: expected a mapping (`field: value`)
  11 | training: 7
     |           ^
",
    );
    refused(
        &GOOD.replace("[a.parquet, b.csv]", "{a: b}"),
        "error: job.yaml:7:14: tasks[0].data.train: expected a path or a list of paths
  7 |       train: {a: b}
    |              ^
",
    );
}

#[test]
fn a_task_without_data_is_refused() {
    // The task that lacks data is named by its line.
    refused(
        "name: x\nbackbone: {path: m}\ntasks:\n  - name: a\n    head: regression\n",
        "error: job.yaml:5:5: tasks[0]: field `data` is missing
  5 |     head: regression
    |     ^

hint: add `data: ...` here; see `espalier schema` for what it holds
",
    );
}

#[test]
fn a_key_twice_and_a_second_document_are_refused() {
    // Nothing that was written is silently ignored.
    refused(
        &format!("{GOOD}name: y\n"),
        "error: job.yaml:11:1: `name` is there twice
  11 | name: y
     | ^

hint: remove one of the two
",
    );
    refused(
        &format!("{GOOD}---\nname: y\n"),
        "error: job.yaml:12:1: holds a second YAML document; expected one job per file
  12 | name: y
     | ^

hint: split the file at the line `---`
",
    );
}

#[test]
fn an_empty_file_is_refused() {
    // Empty files and files of comments say what a job needs.
    for text in ["", "# nothing\n", "\n\n", "---\n"] {
        let run = validate(text, &[]);
        assert_eq!(run.code, 1, "{text:?}");
        assert!(
            run.stderr.contains("is empty; expected a job"),
            "{text:?}: {}",
            run.stderr
        );
        assert!(
            run.stderr.contains("`name`, `backbone` and `tasks`"),
            "{text:?}"
        );
    }
}

#[test]
fn broken_rules_come_all_at_once() {
    // All violations of rules are told in one go, each at its line.
    refused(
        &format!("{GOOD}training: {{batch_size: 0, clip_norm: .nan}}\noutput: ''\n"),
        "error: 3 problems in job.yaml

job.yaml:11:12: training.batch_size: is 0; expected at least 1
  11 | training: {batch_size: 0, clip_norm: .nan}
     |            ^

job.yaml:11:27: training.clip_norm: is NaN; expected a finite number of at least 0 (0 turns clipping off)
  11 | training: {batch_size: 0, clip_norm: .nan}
     |                           ^

job.yaml:12:1: output: is empty; expected a directory, or leave it out
  12 | output: ''
     | ^
",
    );
}

#[test]
fn a_missing_or_unreadable_file_is_refused() {
    // No file, a directory, and bytes that are no text are three different answers.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = run(folder.path(), &["validate", "none.yaml"]);
    assert_eq!(missing.code, 3);
    assert!(
        missing
            .stderr
            .starts_with("error: no job file at none.yaml\n\nhint: ")
    );
    let directory = run(folder.path(), &["validate", "."]);
    assert_eq!(directory.code, 1);
    assert!(
        directory.stderr.contains(". is a directory"),
        "{}",
        directory.stderr
    );
    std::fs::write(folder.path().join("job.yaml"), b"name: x\nseed: \xff\n").expect("written");
    let bytes = run(folder.path(), &["validate", "job.yaml"]);
    assert!(
        bytes
            .stderr
            .contains("job.yaml:2: is not UTF-8 text (byte 14)"),
        "{}",
        bytes.stderr
    );
}

#[test]
fn set_overrides_a_field() {
    // `--set` reaches any field, tasks by name too, and takes YAML values.
    let flags = [
        "--set",
        "training.steps=10",
        "--set",
        "tasks.section.weight=2",
        "--set",
        "tuning=heads",
        "--set",
        "tasks[0].data.labels=[a, b]",
        "-o",
        "json",
    ];
    let run = validate(GOOD, &flags);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let spec: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(spec["training"]["steps"], 10);
    assert_eq!(spec["tasks"][0]["weight"], 2.0);
    assert_eq!(spec["tuning"], "heads");
    assert_eq!(
        spec["tasks"][0]["data"]["labels"],
        serde_json::json!(["a", "b"])
    );
}

#[test]
fn a_bad_set_is_a_usage_error() {
    // A slip in `--set` is a usage error that names the slip.
    for (set, words) in [
        ("training.step=10", "did you mean `steps`?"),
        ("training.steps", "has no `=`"),
        ("training.steps=many", "training.steps: invalid type"),
        ("tasks.sektion.weight=2", "there are: section"),
        ("tasks[3].weight=2", "there is no entry 3"),
        ("=2", "names no field"),
    ] {
        let run = validate(GOOD, &["--set", set]);
        assert_eq!(run.code, 2, "{set}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{set}: {}", run.stderr);
    }
}

#[test]
fn a_yaml_bomb_is_refused() {
    // Aliases can't be used to blow up memory or time.
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    let run = validate(&format!("name: [*a11]\n{text}"), &[]);
    assert_eq!(run.code, 1);
    let deep = format!("tasks: {}", "[".repeat(100_000));
    assert_eq!(validate(&deep, &[]).code, 1);
}
