//! Promise: what clients depend on is listed in proto/baseline.txt and stays as it is.

use crate::descriptors::{Place, enums, files, label_of, messages, short, type_of};
use prost_types::FileDescriptorProto;
use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs};

/// The shape of the API, one line for each thing that a client may depend on; as
/// deploy/docs/baseline.py writes it.
fn listing(files: &[FileDescriptorProto]) -> BTreeSet<String> {
    let stream = |streams| if streams { "stream " } else { "" };
    let mut lines = BTreeSet::new();
    for file in files {
        for service in &file.service {
            for method in &service.method {
                lines.insert(format!(
                    "rpc {}.{} ({}{}) ({}{})",
                    service.name(),
                    method.name(),
                    stream(method.client_streaming()),
                    short(method.input_type()),
                    stream(method.server_streaming()),
                    short(method.output_type()),
                ));
            }
        }
        for Place { name, item, .. } in messages(file) {
            lines.insert(format!("message {name}"));
            for field in &item.field {
                let (kind, label) = (type_of(item, field), label_of(item, field));
                let (field, number) = (field.name(), field.number());
                lines.insert(format!("field {name}.{field} {number} {kind} {label}"));
            }
            for range in &item.reserved_range {
                let numbers = range.start()..range.end();
                lines.extend(numbers.map(|number| format!("reserved {name}.{number}")));
            }
        }
        for Place { name, item, .. } in enums(file) {
            for value in &item.value {
                lines.insert(format!("enum {name}.{} {}", value.name(), value.number()));
            }
            for range in &item.reserved_range {
                let numbers = range.start()..=range.end();
                lines.extend(numbers.map(|number| format!("reserved {name}.{number}")));
            }
        }
    }
    lines
}

/// What a client that was built by `known` finds changed, each with what is there now.
fn breaks(known: &BTreeSet<String>, now: &BTreeSet<String>) -> Vec<String> {
    let gone = known.difference(now);
    gone.map(|line| {
        let by_name = now.iter().find(|other| named(other) == named(line));
        let by_number = || now.iter().find(|other| numbered(other) == numbered(line));
        let found = match numbered(line) {
            Some(_) => by_name.or_else(by_number),
            None => by_name,
        };
        match found {
            Some(other) => format!("{line}\n      is now: {other}"),
            None => format!("{line}\n      is gone"),
        }
    })
    .collect()
}

/// Kind and name of a line of the listing.
fn named(line: &str) -> (Option<&str>, Option<&str>) {
    let mut words = line.split(' ');
    (words.next(), words.next())
}

/// Kind, message or enum, and number of a line that has a number.
fn numbered(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.split(' ');
    let kind = words
        .next()
        .filter(|kind| ["field", "enum"].contains(kind))?;
    let (parent, _) = words.next()?.rsplit_once('.')?;
    Some((kind, parent, words.next()?))
}

#[test]
fn stays() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline.txt");
    let text = fs::read_to_string(&path).unwrap();
    let (head, known): (Vec<&str>, Vec<&str>) = text.lines().partition(|l| l.starts_with('#'));
    let known: BTreeSet<String> = known.into_iter().map(str::to_owned).collect();
    let now = listing(&files());
    let broken = breaks(&known, &now);
    assert!(
        broken.is_empty(),
        "clients built before this change would break:\n  {}\nput it back; if it has to go, \
         reserve its number and delete its line in proto/baseline.txt",
        broken.join("\n  ")
    );
    if env::var_os("UPDATE_BASELINE").is_some() {
        let lines = head.into_iter().chain(now.iter().map(String::as_str));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        fs::write(&path, text).unwrap();
        return;
    }
    let added: Vec<&str> = now.difference(&known).map(String::as_str).collect();
    assert!(
        added.is_empty(),
        "not in proto/baseline.txt yet:\n  {}\n\
         run UPDATE_BASELINE=1 cargo test -p espalier-proto --test lint",
        added.join("\n  ")
    );
}

// Promise: every kind of change that breaks a client is named, with what became of the thing.
#[test]
fn breaks_are_named() {
    let set = |lines: &[&str]| -> BTreeSet<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    };
    let known = [
        "enum Job.State.QUEUED 1",
        "field Job.name 1 string singular",
        "message Job",
        "reserved Job.7",
        "rpc JobService.GetJob (GetJobRequest) (Job)",
    ];
    // (what a line becomes, what is said of it); "" is nothing.
    let cases = [
        (
            0,
            "enum Job.State.QUEUED 2",
            "is now: enum Job.State.QUEUED 2",
        ),
        (
            0,
            "enum Job.State.WAITS 1",
            "is now: enum Job.State.WAITS 1",
        ),
        (
            1,
            "field Job.name 2 string singular",
            "is now: field Job.name 2",
        ),
        (
            1,
            "field Job.name 1 bytes singular",
            "is now: field Job.name 1 bytes",
        ),
        (1, "field Job.name 1 string repeated", "string repeated"),
        (
            1,
            "field Job.title 1 string singular",
            "is now: field Job.title 1",
        ),
        (1, "", "field Job.name 1 string singular\n      is gone"),
        (2, "", "message Job\n      is gone"),
        (3, "", "reserved Job.7\n      is gone"),
        (
            4,
            "rpc JobService.GetJob (GetJobRequest) (stream Job)",
            "(stream Job)",
        ),
        (4, "", "is gone"),
    ];
    for (index, becomes, said) in cases {
        let mut now = known.to_vec();
        now.remove(index);
        now.extend(Some(becomes).filter(|line| !line.is_empty()));
        let found = breaks(&set(&known), &set(&now));
        assert_eq!(found.len(), 1, "{becomes}: {found:?}");
        assert!(found[0].starts_with(known[index]), "{found:?}");
        assert!(found[0].contains(said), "{said}: {found:?}");
    }
    let more = [&known[..], &["field Job.uid 2 string singular"]].concat();
    assert!(breaks(&set(&known), &set(&more)).is_empty());
}
