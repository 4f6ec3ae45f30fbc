//! Vectors of classes: what a class is, in numbers, such as its attributes or the embedding of its name.

use super::inputs::{flatten, mismatch, number};
use super::source::{self, Numbers, Row, Wanted};
use super::{Cell, Error, Place, Problem};
use std::collections::BTreeMap;
use std::path::Path;

/// Columns of the formats that have lists.
const COLUMNS: Wanted<'_> = Wanted {
    input: "vector",
    pair: None,
    label: "label",
};

/// Vectors of the classes of a file, each divided by its length; all are of one width. A `.csv` has a class in
/// its first column and a number in each other, a `.jsonl` or `.parquet` the columns `label` and `vector`, a
/// list of numbers.
///
/// # Errors
/// What is wrong with the file; a class that is there twice or has no name; a vector of another width than
/// the first, without numbers, or whose length is 0.
pub fn read(path: &Path) -> Result<BTreeMap<String, Vec<f32>>, Error> {
    let mut found = Found::default();
    if source::is_table(path) {
        source::table(path, &mut |row: Numbers<'_>| {
            let mut vector = Vec::with_capacity(row.cells.len());
            for (column, cell) in &row.cells {
                vector.push(number(cell, column).map_err(|problem| row.place.error(problem))?);
            }
            found.push(row.name, vector, &row.place)
        })?;
    } else {
        source::read(path, COLUMNS, &mut |row: Row| {
            let name = match row.label {
                Cell::Text(name) => name,
                Cell::Int(number) => number.to_string(),
                other => return Err(row.place.error(mismatch(COLUMNS.label, "a text", &other))),
            };
            let mut vector = Vec::new();
            flatten(&row.input, COLUMNS.input, &mut vector)
                .map_err(|problem| row.place.error(problem))?;
            found.push(name, vector, &row.place)?;
            Ok(true)
        })?;
    }
    Ok(found.vectors)
}

/// What was read so far.
#[derive(Default)]
struct Found {
    vectors: BTreeMap<String, Vec<f32>>,
    width: Option<usize>,
}

impl Found {
    fn push(&mut self, name: String, vector: Vec<f32>, place: &Place) -> Result<(), Error> {
        let wrong = |column: &str, expected: String, found: String| {
            let column = column.to_owned();
            place.error(Problem::Type {
                column,
                expected,
                found,
            })
        };
        if name.trim().is_empty() || self.vectors.contains_key(&name) {
            let expected = "the name of a class that no other row has".to_owned();
            return Err(wrong(COLUMNS.label, expected, format!("{name:?}")));
        }
        let count = |numbers: usize| format!("{numbers} numbers");
        let width = *self.width.get_or_insert(vector.len());
        if vector.len() != width || width == 0 {
            let expected = format!(
                "{} for each class, as in the first row",
                count(width.max(1))
            );
            return Err(wrong(COLUMNS.input, expected, count(vector.len())));
        }
        let square: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let length = square.sqrt();
        if length <= 0.0 {
            let expected = "a number other than 0: cosines need a direction".to_owned();
            return Err(wrong(COLUMNS.input, expected, "zeros".to_owned()));
        }
        #[expect(clippy::cast_possible_truncation, reason = "vectors are 32-bit")]
        let unit = vector.iter().map(|x| (f64::from(*x) / length) as f32);
        self.vectors.insert(name, unit.collect());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    // Promise: both kinds of files give the same vectors, at length 1.
    #[test]
    fn tables_and_lists_say_the_same() {
        let (_table, table) = file("a.csv", "class,wings,legs\nbird,3,4\nsnail,0,-2\n");
        let (_lists, lists) = file(
            "a.jsonl",
            "{\"label\": \"bird\", \"vector\": [3, 4]}\n{\"label\": \"snail\", \"vector\": [0, -2.0]}\n",
        );
        let found = read(&table).unwrap();
        assert_eq!(found["bird"], [0.6, 0.8]);
        assert_eq!(found["snail"], [0.0, -1.0]);
        assert_eq!(found, read(&lists).unwrap());
    }

    // Promise: what cannot be compared is refused with its row and column.
    #[test]
    fn vectors_that_are_none_are_named() {
        let cases = [
            (
                "a.csv",
                "class,x,y\na,1,2\na,2,1\n",
                "row 2",
                "no other row has",
            ),
            ("a.csv", "class,x,y\na,1,no\n", "row 1", "`y`"),
            (
                "a.csv",
                "class,x,y\na,0,0\n",
                "row 1",
                "cosines need a direction",
            ),
            ("a.csv", "class,x\na,inf\n", "row 1", "finite"),
            ("a.csv", "class\na\n", "row 1", "found 0 numbers"),
            (
                "a.jsonl",
                "{\"label\": \"a\", \"vector\": [1, 2]}\n{\"label\": \"b\", \"vector\": [1]}\n",
                "row 2",
                "expected 2 numbers for each class",
            ),
            (
                "a.jsonl",
                "{\"label\": \"a\", \"vector\": \"far\"}\n",
                "row 1",
                "`vector`",
            ),
        ];
        for (name, text, row, part) in cases {
            let (_folder, path) = file(name, text);
            let said = read(&path).unwrap_err().to_string();
            assert!(said.contains(row) && said.contains(part), "{said}");
        }
    }
}
