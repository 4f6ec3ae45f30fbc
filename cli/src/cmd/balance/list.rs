//! The methods with class, paper and parameters.

use super::input;
use crate::Outcome;
use crate::error::Code;
use crate::output::{Cell, Context, Table};
use espalier_spec::balancer::{METHODS, MethodInfo};
use serde::Serialize;

#[derive(Serialize)]
struct Method {
    name: &'static str,
    class: &'static str,
    paper: &'static str,
    min_tasks: usize,
    params: Vec<Param>,
}

#[derive(Serialize)]
struct Param {
    name: &'static str,
    default: f64,
    expected: String,
    meaning: &'static str,
    source: &'static str,
}

fn method(info: &MethodInfo) -> Method {
    Method {
        name: info.name,
        class: info.class.as_str(),
        paper: info.paper,
        min_tasks: info.min_tasks,
        params: info
            .params
            .iter()
            .map(|param| Param {
                name: param.name,
                default: param.default,
                expected: param.range.to_string(),
                meaning: param.meaning,
                source: param.source,
            })
            .collect(),
    }
}

/// Prints all methods, or one.
pub(super) fn run(only: Option<&str>, context: &Context) -> Outcome {
    let methods: Vec<Method> = match only {
        Some(name) => vec![method(input::method(name)?.info())],
        None => METHODS.iter().map(method).collect(),
    };
    context.answer(&methods, |screen| {
        let mut table = Table::new(["METHOD", "CLASS", "PARAMETERS", "PAPER"]);
        for method in &methods {
            let params: Vec<String> = method
                .params
                .iter()
                .map(|param| format!("{}={}", param.name, param.default))
                .collect();
            table.row([
                Cell::from(method.name),
                Cell::from(method.class),
                Cell::from(params.join(" ")),
                Cell::from(method.paper),
            ]);
        }
        let mut out = table.render(screen, 0);
        if only.is_some() {
            let mut table =
                Table::new(["PARAMETER", "DEFAULT", "EXPECTED", "MEANING", "DEFAULT OF"]);
            for param in methods.iter().flat_map(|method| &method.params) {
                table.row([
                    Cell::from(param.name),
                    Cell::right(param.default.to_string()),
                    Cell::from(param.expected.as_str()),
                    Cell::from(param.meaning),
                    Cell::from(param.source),
                ]);
            }
            out.push('\n');
            out.push_str(&table.render(screen, 0));
        }
        out
    })?;
    Ok(Code::Ok)
}
