//! The protos as descriptors, and what they say of themselves.

use espalier_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::field_descriptor_proto::Label;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet,
};
use std::collections::BTreeMap;

pub const PACKAGE: &str = "espalier.v1";

/// The files of our package; what they import is not ours.
pub fn files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let ours = set.file.into_iter().filter(|f| f.package() == PACKAGE);
    let files: Vec<FileDescriptorProto> = ours.collect();
    assert!(!files.is_empty(), "no file of package {PACKAGE}");
    files
}

/// A message or an enum, and where in its file it is described.
pub struct Place<'a, T> {
    pub path: Vec<i32>,
    /// With the names of those it is nested in.
    pub name: String,
    pub item: &'a T,
}

/// Every message but the entries of maps, nested ones after their parents.
pub fn messages(file: &FileDescriptorProto) -> Vec<Place<'_, DescriptorProto>> {
    let mut found = Vec::new();
    for (index, message) in (0..).zip(&file.message_type) {
        let name = message.name().to_owned();
        walk(message, vec![4, index], name, &mut found);
    }
    found
}

fn walk<'a>(
    message: &'a DescriptorProto,
    path: Vec<i32>,
    name: String,
    found: &mut Vec<Place<'a, DescriptorProto>>,
) {
    found.push(Place {
        path: path.clone(),
        name: name.clone(),
        item: message,
    });
    for (index, inner) in (0..).zip(&message.nested_type) {
        if !is_entry(inner) {
            let inner_name = format!("{name}.{}", inner.name());
            walk(inner, below(&path, 3, index), inner_name, found);
        }
    }
}

pub fn enums(file: &FileDescriptorProto) -> Vec<Place<'_, EnumDescriptorProto>> {
    let mut found = Vec::new();
    for (index, item) in (0..).zip(&file.enum_type) {
        found.push(Place {
            path: vec![5, index],
            name: item.name().to_owned(),
            item,
        });
    }
    for message in messages(file) {
        for (index, item) in (0..).zip(&message.item.enum_type) {
            found.push(Place {
                path: below(&message.path, 4, index),
                name: format!("{}.{}", message.name, item.name()),
                item,
            });
        }
    }
    found
}

pub fn below(path: &[i32], field: i32, index: i32) -> Vec<i32> {
    let mut longer = path.to_vec();
    longer.extend([field, index]);
    longer
}

/// Whether protobuf made this message up, for a map.
fn is_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|o| o.map_entry())
}

fn entry_of<'a>(
    message: &'a DescriptorProto,
    field: &FieldDescriptorProto,
) -> Option<&'a DescriptorProto> {
    message.nested_type.iter().find(|inner| {
        let ending = format!(".{}.{}", message.name(), inner.name());
        is_entry(inner) && field.type_name().ends_with(&ending)
    })
}

/// `.espalier.v1.Job.State` as `Job.State`; names of others in full.
pub fn short(name: &str) -> &str {
    let full = name.trim_start_matches('.');
    full.strip_prefix(PACKAGE)
        .and_then(|rest| rest.strip_prefix('.'))
        .unwrap_or(full)
}

/// A field's type as a proto file writes it.
pub fn type_of(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    if let Some(entry) = entry_of(message, field) {
        let types: Vec<String> = entry.field.iter().map(|f| type_of(entry, f)).collect();
        return format!("map<{}>", types.join(", "));
    }
    match field.type_name() {
        "" => {
            let name = field.r#type().as_str_name();
            name.trim_start_matches("TYPE_").to_lowercase()
        }
        name => short(name).to_owned(),
    }
}

/// singular, optional, repeated, map, or the oneof that it is in.
pub fn label_of(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let label = if entry_of(message, field).is_some() {
        "map"
    } else if field.label() == Label::Repeated {
        "repeated"
    } else if field.proto3_optional() {
        "optional"
    } else if let Some(index) = field.oneof_index {
        let oneof = &message.oneof_decl[usize::try_from(index).unwrap()];
        return format!("oneof:{}", oneof.name());
    } else {
        "singular"
    };
    label.to_owned()
}

/// Leading comments by the path of what they describe.
pub fn comments(file: &FileDescriptorProto) -> BTreeMap<Vec<i32>, &str> {
    let info = file.source_code_info.iter().flat_map(|i| &i.location);
    info.map(|l| (l.path.clone(), l.leading_comments().trim()))
        .filter(|(_, comment)| !comment.is_empty())
        .collect()
}
