//! Where in a YAML text the value of a field path is.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;

/// A line and a column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    /// The place of a YAML location; none if it is unknown.
    pub(super) fn of(location: serde_saphyr::Location) -> Option<Self> {
        let line = usize::try_from(location.line())
            .ok()
            .filter(|line| *line > 0)?;
        let column = usize::try_from(location.column()).ok()?.max(1);
        Some(Self { line, column })
    }
}

/// A YAML value without its scalars: only where things are.
pub(super) struct Node {
    place: Option<Place>,
    kind: Kind,
}

enum Kind {
    Empty,
    Scalar,
    List(Vec<Node>),
    /// Keys with their own place, and what they lead to.
    Map(Vec<(String, Option<Place>, Node)>),
}

impl Node {
    /// Reads the layout of a text. Errors: it is not one valid YAML document.
    pub(super) fn parse(text: &str) -> Result<Self, serde_saphyr::Error> {
        let options = serde_saphyr::options! {
            non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        };
        let root: Spanned<Kind> = serde_saphyr::from_str_with_options(text, options)?;
        Ok(Self::of(root))
    }

    /// Whether there is nothing in the text.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.kind, Kind::Empty)
    }

    fn of(spanned: Spanned<Kind>) -> Self {
        Self {
            place: Place::of(spanned.referenced),
            kind: spanned.value,
        }
    }

    /// The place of a path such as `tasks[2].data.train`: that of its key, or of the nearest
    /// parent that is in the text.
    pub(super) fn find(&self, path: &str) -> Option<Place> {
        let mut node = self;
        let mut place = self.place;
        for step in steps(path) {
            let next = match (&node.kind, &step) {
                (Kind::Map(entries), Step::Key(key)) => entries
                    .iter()
                    .find(|(name, _, _)| name == key)
                    .map(|(_, at, value)| (at.or(value.place), value)),
                (Kind::List(items), Step::Index(index)) => {
                    items.get(*index).map(|item| (item.place, item))
                }
                _ => None,
            };
            let Some((at, value)) = next else { break };
            place = at.or(place);
            node = value;
        }
        place
    }
}

/// One step of a field path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The steps of a path such as `tasks[2].data.train`.
pub(super) fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (key, indices) = match part.find('[') {
            Some(bracket) if part.ends_with(']') => part.split_at(bracket),
            _ => (part, ""),
        };
        if !key.is_empty() {
            steps.push(Step::Key(key.to_owned()));
        }
        for index in indices.split(['[', ']']).filter(|index| !index.is_empty()) {
            match index.parse() {
                Ok(index) => steps.push(Step::Index(index)),
                Err(_) => steps.push(Step::Key(index.to_owned())),
            }
        }
    }
    steps
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Empty)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Empty)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        Kind::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element::<Spanned<Kind>>()? {
            items.push(Node::of(item));
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let value = access.next_value::<Spanned<Kind>>()?;
            entries.push((key.value, Place::of(key.referenced), Node::of(value)));
            if entries.len() > 1_000_000 {
                return Err(A::Error::custom("too many entries"));
            }
        }
        Ok(Kind::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::{Node, Place, Step, steps};

    #[test]
    fn a_path_is_found_at_its_key() {
        // Violations of rules point at the line of the field they speak of.
        let text = "name: x\ntasks:\n  - name: a\n    data: {train: [a.csv, b.csv]}\n  - name: b\n";
        let node = Node::parse(text).expect("valid YAML");
        let at = |line, column| Some(Place { line, column });
        assert_eq!(node.find("name"), at(1, 1));
        assert_eq!(node.find("tasks[1].name"), at(5, 5));
        assert_eq!(node.find("tasks[0].data.train"), at(4, 12));
        assert_eq!(node.find("tasks[0].data.train[1]"), at(4, 27));
        // Not in the text: the nearest parent.
        assert_eq!(node.find("tasks[0].data.labels"), at(4, 5));
        assert_eq!(node.find("tasks[7]"), at(2, 1));
    }

    #[test]
    fn paths_split_into_steps() {
        // Indices and keys are told apart, and odd paths are no trouble.
        let key = |key: &str| Step::Key(key.to_owned());
        assert_eq!(
            steps("tasks[2].a"),
            [key("tasks"), Step::Index(2), key("a")]
        );
        assert_eq!(steps("a[0][1]"), [key("a"), Step::Index(0), Step::Index(1)]);
        assert_eq!(steps("..a["), [key("a[")]);
        assert_eq!(steps(""), []);
    }
}
