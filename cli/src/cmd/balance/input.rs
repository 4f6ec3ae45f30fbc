//! What is given on the command line, read and checked.

use crate::error::{Code, Error, Result, nearest};
use espalier_balance::Gram;
use espalier_spec::balancer::{BalancerSpec, METHODS, Method};
use espalier_spec::check;

fn usage(message: impl Into<String>) -> Error {
    Error::new(Code::Usage, message)
}

/// The Gram matrix of `--gram`.
///
/// # Errors
/// It is no JSON, not square, not symmetric, or no gradients have such products.
pub(super) fn gram(given: &str) -> Result<Gram> {
    let text = match given.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| {
            let code = match error.kind() {
                std::io::ErrorKind::NotFound => Code::NotFound,
                _ => Code::Failure,
            };
            Error::new(code, format!("--gram: can't read {path}: {error}"))
        })?,
        None => given.to_owned(),
    };
    let rows: Vec<Vec<f64>> = serde_json::from_str(&text).map_err(|error| {
        usage(format!("--gram is no list of lists of numbers: {error}"))
            .hint("write it as JSON, such as '[[18, -22], [-22, 38]]'")
    })?;
    let k = rows.len();
    if let Some((index, row)) = rows.iter().enumerate().find(|(_, row)| row.len() != k) {
        return Err(usage(format!(
            "--gram is not square: it has {k} rows, but row {index} has {} numbers",
            row.len()
        )));
    }
    let gram = Gram::new(rows.concat()).map_err(|error| usage(format!("--gram: {error}")))?;
    for i in 0..k {
        for j in 0..=i {
            let possible = gram.norm(i) * gram.norm(j);
            if gram.get(i, i) < 0.0 || gram.get(i, j).abs() > possible * (1.0 + 1e-9) {
                return Err(usage(format!(
                    "--gram: no gradients have the product {} at ({i}, {j}) with {} and {} on the \
                     diagonal",
                    gram.get(i, j),
                    gram.get(i, i),
                    gram.get(j, j)
                ))
                .hint("entry (i, j) is the scalar product of the gradients of tasks i and j"));
            }
        }
    }
    Ok(gram)
}

/// The losses of `--losses`.
pub(super) fn losses(given: &str, k: usize) -> Result<Vec<f64>> {
    let losses: Vec<f64> = serde_json::from_str(given).map_err(|error| {
        usage(format!("--losses is no list of numbers: {error}"))
            .hint("write it as JSON, such as '[0.5, 2]'")
    })?;
    if losses.len() == k {
        Ok(losses)
    } else {
        Err(usage(format!(
            "--losses has {} numbers, the Gram matrix is of {k} tasks",
            losses.len()
        )))
    }
}

/// The names of `--tasks`, or numbers.
pub(super) fn tasks(given: &[String], k: usize) -> Result<Vec<String>> {
    if given.is_empty() {
        return Ok((0..k).map(|index| index.to_string()).collect());
    }
    if given.len() == k {
        Ok(given.to_vec())
    } else {
        Err(usage(format!(
            "--tasks has {} names, the Gram matrix is of {k} tasks",
            given.len()
        )))
    }
}

/// The method of a name.
pub(super) fn method(name: &str) -> Result<Method> {
    Method::of_name(name).ok_or_else(|| {
        let error = usage(format!("there is no method {name:?}"));
        match nearest(name, METHODS.iter().map(|info| info.name)) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`espalier balance --list` tells them all"),
        }
    })
}

/// The balancer of a name and parameters.
pub(super) fn spec(name: &str, params: &[String], k: usize) -> Result<BalancerSpec> {
    let mut spec = BalancerSpec::of(method(name)?);
    for given in params {
        let Some((name, value)) = given.split_once('=') else {
            return Err(usage(format!("--param {given}: has no `=`"))
                .hint("write it as NAME=VALUE, such as --param c=0.4"));
        };
        let number = value
            .trim()
            .parse()
            .map_err(|_| usage(format!("--param {given}: {value:?} is no number")))?;
        spec.params.insert(name.trim().to_owned(), number);
    }
    if let Some(violation) = check::balancer(&spec, Some(k)).into_iter().next() {
        let field = violation.field.replacen("balancer.params.", "--param ", 1);
        let field = if field == "balancer" {
            "--method".to_owned()
        } else {
            field
        };
        return Err(usage(format!("{field}: {}", violation.message)));
    }
    Ok(spec)
}
