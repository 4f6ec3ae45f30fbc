//! What `espalier balance` answers.

use crate::run::{Run, run};
use serde_json::Value;
use std::path::Path;

const GRAM: &str = "[[18, -22], [-22, 38]]";

fn balance(args: &[&str]) -> Run {
    let all: Vec<&str> = ["balance"].iter().chain(args).copied().collect();
    run(Path::new("."), &all)
}

fn refused(args: &[&str], words: &str) {
    let run = balance(args);
    assert_eq!(run.code, 2, "{args:?}: {}", run.stderr);
    assert_eq!(run.stdout, "", "{args:?}");
    assert!(run.stderr.contains(words), "{args:?}: {}", run.stderr);
}

#[test]
fn one_method_task_by_task() {
    // Weights, gains, norms and cosines of the tasks, by name.
    let run = balance(&[
        "--method",
        "upgrad",
        "--gram",
        GRAM,
        "--tasks",
        "topic,tone",
    ]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(
        run.stdout,
        "\
TASK    WEIGHT     GAIN     NORM     LOSS   cos topic   cos tone
topic   2.2218   5.2582   4.2426   1.0000       1.000     -0.841
tone    1.5789    11.12   6.1644   1.0000      -0.841      1.000

upgrad: update of norm 5.4068
"
    );
}

#[test]
fn answers_are_data() {
    // JSON and YAML hold the same numbers unrounded; parameters and losses count.
    let args = ["--method", "cagrad", "--param", "rescale=0", "--gram", GRAM];
    let run = balance(&[&args[..], &["-o", "json"]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let answer: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(answer["method"], "cagrad");
    assert_eq!(answer["class"], "gram");
    assert_eq!(answer["tasks"][1], "1");
    let number = |value: &Value| value.as_f64().expect("a number");
    assert!((number(&answer["weights"][0]) - 2.0 * 0.7041).abs() < 1e-3);
    assert!((number(&answer["cosines"][0][1]) + 0.8412).abs() < 1e-4);
    assert!(
        balance(&[&args[..], &["-o", "yaml"]].concat())
            .stdout
            .starts_with("method: cagrad\n")
    );
    let args = [
        "--method", "si", "--losses", "[0.5, 2]", "--gram", GRAM, "-o", "json",
    ];
    let answer: Value = serde_json::from_str(&balance(&args).stdout).expect("JSON");
    assert_eq!(answer["weights"], serde_json::json!([2.0, 0.5]));
}

#[test]
fn all_methods_side_by_side() {
    // Without a method there is a row for each that products and losses are enough for, and a word
    // on the others; one without a solution is marked.
    let run = balance(&["--gram", "[[1, -1], [-1, 1]]"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    for start in [
        "mean ",
        "mgda ",
        "nash_mtl * ",
        "db_mtl ",
        "grad_drop: needs the gradients",
    ] {
        assert!(
            run.stdout.lines().any(|line| line.starts_with(start)),
            "{start}: {}",
            run.stdout
        );
    }
    assert!(
        run.stdout
            .contains("* equal weights: the method has no solution here")
    );
}

#[test]
fn methods_are_listed() {
    // The list names every method with class, parameters and paper; one alone also their meaning.
    let run = balance(&["--list"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stdout.lines().count(), 33);
    assert!(run.stdout.contains("arXiv 2406.16232"));
    let run = balance(&["--list", "--method", "cagrad"]);
    assert!(run.stdout.contains("radius of the ball"), "{}", run.stdout);
    let run = balance(&["--list", "-o", "json"]);
    let list: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(list[20]["params"][0]["name"], "reg");
}

#[test]
fn mistakes_are_explained() {
    // Every slip of the command line is answered with what was expected.
    refused(&[], "--gram");
    refused(
        &["--gram", "[[1, 2], [3]]"],
        "not square: it has 2 rows, but row 1 has 1 numbers",
    );
    refused(
        &["--gram", "[[1, 0.5], [0.4, 1]]"],
        "expected a symmetric matrix, found 0.4 at (1, 0)",
    );
    refused(
        &["--gram", "[[1, 2], [2, 1]]"],
        "no gradients have the product 2 at (1, 0)",
    );
    refused(&["--gram", "[[-1]]"], "no gradients have the product -1");
    refused(&["--gram", "[]"], "found 0 numbers");
    refused(&["--gram", "1, 2"], "write it as JSON");
    refused(
        &["--gram", GRAM, "--method", "upgrd"],
        "did you mean `upgrad`?",
    );
    refused(
        &["--gram", GRAM, "--losses", "[1]"],
        "--losses has 1 numbers, the Gram matrix is of 2",
    );
    refused(&["--gram", GRAM, "--tasks", "a"], "--tasks has 1 names");
    refused(&["--gram", GRAM, "--param", "c=1"], "--method");
    let cagrad = ["--gram", GRAM, "--method", "cagrad", "--param"];
    let with = |param| [&cagrad[..], &[param]].concat();
    refused(&with("c"), "has no `=`");
    refused(&with("c=x"), "is no number");
    refused(
        &with("c=-1"),
        "--param c: is -1; expected a number of at least 0 and at most 10",
    );
    refused(&with("rescal=1"), "did you mean `rescale`?");
    refused(
        &["--gram", "[[1]]", "--method", "mgda"],
        "--method: `mgda` needs at least 2 tasks",
    );
    let run = balance(&["--gram", "@nowhere.json"]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    let run = balance(&["--gram", GRAM, "--method", "modo"]);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains("products between two batches"),
        "{}",
        run.stderr
    );
}
