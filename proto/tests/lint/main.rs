//! Promise: the protos keep to the rules of the house, and nothing that clients depend on changes
//! unnoticed.
#![allow(clippy::unwrap_used)] // a test that can't go on fails here

mod baseline;
mod descriptors;
mod reference;

use descriptors::{PACKAGE, Place, below, comments, enums, files, messages, short, type_of};
use prost_types::{DescriptorProto, FileDescriptorProto};
use std::collections::BTreeSet;

const TIMESTAMP: &str = "google.protobuf.Timestamp";

fn is_pascal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric())
}

fn is_snake(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.contains("__")
        && !name.ends_with('_')
}

fn is_upper(name: &str) -> bool {
    is_snake(&name.to_ascii_lowercase()) && !name.contains(|c: char| c.is_ascii_lowercase())
}

/// `OnNonFinite` as `ON_NON_FINITE`.
fn upper(name: &str) -> String {
    let mut result = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !result.is_empty() {
            result.push('_');
        }
        result.push(c.to_ascii_uppercase());
    }
    result
}

/// Where a file is not as the rules of the house want it.
fn faults(file: &FileDescriptorProto) -> Vec<String> {
    let mut found = Vec::new();
    let mut rule = |holds: bool, name: &str, wanted: &str| {
        if !holds {
            found.push(format!("{}: {name} {wanted}", file.name()));
        }
    };
    let comments = comments(file);
    let commented = |path: &[i32]| comments.get(path).is_some_and(|c| c.ends_with('.'));
    let sentences = "has no comment of whole sentences before it";

    let directory = format!("{}/", PACKAGE.replace('.', "/"));
    let base = file.name().strip_prefix(&directory).unwrap_or_default();
    let base = base.strip_suffix(".proto").unwrap_or_default();
    rule(is_snake(base), "the file", "is not in its package's folder");
    rule(file.syntax() == "proto3", "the file", "is not of proto3");

    for (index, service) in (0..).zip(&file.service) {
        let name = service.name();
        let service_like = is_pascal(name) && name.ends_with("Service");
        rule(service_like, name, "is not named like SomethingService");
        rule(commented(&[6, index]), name, sentences);
        for (number, method) in (0..).zip(&service.method) {
            let (verb, asked) = (method.name(), short(method.input_type()));
            let answered = short(method.output_type());
            let name = format!("{name}.{verb}");
            rule(is_pascal(verb), &name, "is not in PascalCase");
            rule(commented(&[6, index, 2, number]), &name, sentences);
            // A stream both ways carries messages of many kinds.
            let both = method.client_streaming() && method.server_streaming();
            let request = if both {
                asked.ends_with("Message")
            } else {
                asked == format!("{verb}Request")
            };
            rule(request, &name, "takes another message than its own request");
            // Its own response, or the thing that the call is about.
            let response = answered == format!("{verb}Response") || !answered.ends_with("Response");
            rule(response, &name, "answers with another call's response");
        }
    }
    for Place { path, name, item } in messages(file) {
        rule(is_pascal(item.name()), &name, "is not in PascalCase");
        // What a request is for is said at its rpc.
        let said = name.ends_with("Request") || name.ends_with("Response");
        rule(said || commented(&path), &name, sentences);
        let mut numbers = BTreeSet::new();
        let mut fields = BTreeSet::new();
        for (index, field) in (0..).zip(&item.field) {
            let place = format!("{name}.{}", field.name());
            rule(is_snake(field.name()), &place, "is not in lower_snake_case");
            rule(commented(&below(&path, 2, index)), &place, sentences);
            let fresh = numbers.insert(field.number())
                && item
                    .reserved_range
                    .iter()
                    .all(|range| field.number() < range.start() || field.number() >= range.end());
            rule(fresh, &place, "has a number that is taken or reserved");
            let time = field.name() == "time" || field.name().ends_with("_time");
            let is_time = type_of(item, field) == TIMESTAMP;
            rule(time == is_time, &place, "is a time by name or type alone");
            fields.insert(field.name());
        }
        for oneof in &item.oneof_decl {
            // Those that stand for `optional` have names of the compiler's.
            let fine = oneof.name().starts_with('_') || is_snake(oneof.name());
            rule(fine, &name, "has a oneof that is not in lower_snake_case");
        }
        if name.starts_with("List") {
            let wanted: &[&str] = if name.ends_with("Request") {
                &["page_size", "page_token"]
            } else {
                &["next_page_token"]
            };
            let pages = wanted.iter().all(|field| fields.contains(field));
            rule(pages, &name, "does not come in pages");
        }
    }
    for Place { path, name, item } in enums(file) {
        rule(is_pascal(item.name()), &name, "is not in PascalCase");
        rule(commented(&path), &name, sentences);
        let zero = format!("{}_UNSPECIFIED", upper(item.name()));
        let starts = item.value.first();
        let unspecified = starts.is_some_and(|v| v.number() == 0 && v.name() == zero);
        rule(
            unspecified,
            &name,
            &format!("has no {zero} = 0 as its first"),
        );
        let mut numbers = BTreeSet::new();
        for (index, value) in (0..).zip(&item.value) {
            let place = format!("{name}.{}", value.name());
            rule(is_upper(value.name()), &place, "is not in UPPER_SNAKE_CASE");
            rule(commented(&below(&path, 2, index)), &place, sentences);
            let fresh = numbers.insert(value.number())
                && item
                    .reserved_range
                    .iter()
                    .all(|range| value.number() < range.start() || value.number() > range.end());
            rule(fresh, &place, "has a number that is taken or reserved");
        }
    }
    found
}

#[test]
fn rules_of_the_house() {
    let found: Vec<String> = files().iter().flat_map(faults).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

// Promise: each rule finds what it is for.
#[test]
fn rules_find_faults() {
    type Spoil = fn(&mut FileDescriptorProto);
    fn message<'a>(file: &'a mut FileDescriptorProto, name: &str) -> &'a mut DescriptorProto {
        let mut all = file.message_type.iter_mut();
        all.find(|message| message.name() == name).unwrap()
    }
    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }
    let cases: [(&str, Spoil); 12] = [
        ("logLine is not in PascalCase", |file| {
            message(file, "LogLine").name = text("logLine");
        }),
        ("LogLine.logLevel is not in lower", |file| {
            message(file, "LogLine").field[1].name = text("logLevel");
        }),
        ("LogLine.when is a time by", |file| {
            message(file, "LogLine").field[0].name = text("when");
        }),
        ("LogLine.level has a number that is taken", |file| {
            message(file, "LogLine").field[1].number = Some(1);
        }),
        ("ListJobsRequest does not come in pages", |file| {
            message(file, "ListJobsRequest").field[1].name = text("token");
        }),
        ("Job.State has no STATE_UNSPECIFIED", |file| {
            message(file, "Job").enum_type[0].value.remove(0);
        }),
        ("Job.State.Queued is not in UPPER", |file| {
            message(file, "Job").enum_type[0].value[1].name = text("Queued");
        }),
        ("Job.State.RUNNING has a number that", |file| {
            message(file, "Job").enum_type[0].value[3].number = Some(1);
        }),
        ("LogLine has no comment", |file| {
            file.source_code_info = None;
        }),
        ("CreateJob takes another message", |file| {
            file.service[0].method[0].input_type = text(".espalier.v1.GetJobRequest");
        }),
        ("CreateJob answers with another", |file| {
            file.service[0].method[0].output_type = text(".espalier.v1.ListJobsResponse");
        }),
        ("Jobs is not named like", |file| {
            file.service[0].name = text("Jobs");
        }),
    ];
    let mut all = files().into_iter();
    let file = all.find(|f| f.name().ends_with("/job.proto")).unwrap();
    for (expected, spoil) in cases {
        let mut spoilt = file.clone();
        spoil(&mut spoilt);
        let found = faults(&spoilt);
        assert!(
            found.iter().any(|fault| fault.contains(expected)),
            "{expected}: not among {found:?}"
        );
    }
}
