use super::*;
use parquet_file::{Column, write};
use proptest::prelude::*;
use std::fs;

pub(crate) mod parquet_file;

const WANTED: Wanted<'_> = Wanted {
    input: "text",
    pair: None,
    label: "label",
};

fn rows(path: &Path) -> Result<Vec<(u64, Cell, Cell)>, Error> {
    let mut rows = Vec::new();
    read(path, WANTED, &mut |row| {
        rows.push((row.place.row, row.input, row.label));
        Ok(true)
    })?;
    Ok(rows)
}

/// Writes `content` to a file `name` and returns the error of reading it, without its directory.
fn error(name: &str, content: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    let text = rows(&path).unwrap_err().to_string();
    text.replace(&format!("{}/", dir.path().display()), "")
}

fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

fn raw(text: &str) -> Cell {
    Cell::Raw(text.to_owned())
}

/// JSON Lines: any order of fields, blank lines, a byte order mark, a last line without an end.
#[test]
fn reads_json_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let content = "\u{feff}{\"label\": 1, \"text\": \"ä\\n\"}\n\n{\"text\":\"b\",\"x\":{},\"label\":[\"p\",\"q\"]}";
    fs::write(&path, content).unwrap();
    let list = Cell::List(vec![text("p"), text("q")]);
    assert_eq!(
        rows(&path).unwrap(),
        [(1, text("ä\n"), Cell::Int(1)), (2, text("b"), list)]
    );
}

/// A second text comes from its own column, in every format; where it is missing, that is said.
#[test]
fn reads_the_second_text_of_a_pair() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = Wanted {
        pair: Some("other"),
        ..WANTED
    };
    let seen = |name: &str| {
        let mut pairs = Vec::new();
        let done = read(&dir.path().join(name), wanted, &mut |row| {
            pairs.push((row.input, row.pair));
            Ok(true)
        });
        done.map(|()| pairs).map_err(|error| error.to_string())
    };
    fs::write(dir.path().join("a.csv"), "label,other,text\nx,b,a\n").unwrap();
    assert_eq!(seen("a.csv").unwrap(), [(raw("a"), Some(raw("b")))]);
    let line = "{\"label\": 1, \"text\": \"a\", \"other\": \"b\"}";
    fs::write(dir.path().join("a.jsonl"), line).unwrap();
    assert_eq!(seen("a.jsonl").unwrap(), [(text("a"), Some(text("b")))]);
    let columns = [("other", "b"), ("text", "a"), ("label", "x")];
    let columns = columns.map(|(name, value)| (name, Column::Texts(vec![Some(value)])));
    write(&dir.path().join("a.parquet"), &columns, "SNAPPY", None);
    assert_eq!(seen("a.parquet").unwrap(), [(text("a"), Some(text("b")))]);
    fs::write(dir.path().join("b.csv"), "label,oter,text\nx,b,a\n").unwrap();
    let missing = seen("b.csv").unwrap_err();
    assert!(
        missing.contains("other") && missing.contains("oter"),
        "{missing}"
    );
}

/// CSV: quoted commas, quotes and line breaks; CRLF; columns in any order.
#[test]
fn reads_csv() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    fs::write(
        &path,
        "label,id,text\r\nx,1,\"a, \"\"b\"\"\r\nc\"\r\n3.5,2,\r\n",
    )
    .unwrap();
    let expected = [
        (1, raw("a, \"b\"\r\nc"), raw("x")),
        (2, raw(""), raw("3.5")),
    ];
    assert_eq!(rows(&path).unwrap(), expected);
}

/// Parquet: nulls, lists, every codec that is built in; only the wanted columns are decoded.
#[test]
fn reads_parquet() {
    let dir = tempfile::tempdir().unwrap();
    for codec in [
        "UNCOMPRESSED",
        "SNAPPY",
        "GZIP(6)",
        "ZSTD(1)",
        "LZ4_RAW",
        "BROTLI(1)",
    ] {
        let path = dir.path().join("a.parquet");
        let columns = [
            ("id", Column::Ints(vec![7, 8])),
            ("label", Column::Lists(vec![vec!["p", "q"], vec![]])),
            ("text", Column::Texts(vec![Some("ä"), None])),
        ];
        write(&path, &columns, codec, None);
        let lists = [Cell::List(vec![text("p"), text("q")]), Cell::List(vec![])];
        let [full, empty] = lists;
        assert_eq!(
            rows(&path).unwrap(),
            [(1, text("ä"), full), (2, Cell::Null, empty)],
            "{codec}"
        );
    }
}

/// Files that can't be read at all are named, with what to do.
#[test]
fn unreadable_files() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.csv");
    assert_eq!(
        rows(&missing).unwrap_err().to_string(),
        format!(
            "{}: no such file on this machine; check the path, or put the file where all workers see it",
            missing.display()
        )
    );
    let folder = dir.path().join("folder.csv");
    fs::create_dir(&folder).unwrap();
    assert!(
        rows(&folder)
            .unwrap_err()
            .to_string()
            .contains("it is a directory")
    );
    assert_eq!(
        error("a.txt", b"x"),
        "a.txt: unknown data format; expected a name that ends in .parquet, .jsonl, .json or .csv"
    );
    for name in ["a.csv", "a.jsonl", "a.parquet"] {
        assert_eq!(
            error(name, b""),
            format!("{name}: empty data: the file holds no rows")
        );
    }
    assert_eq!(
        error("a.csv", b"text,label\n"),
        "a.csv: empty data: the file holds no rows"
    );
    assert_eq!(
        error("a.jsonl", b"\n \n"),
        "a.jsonl: empty data: the file holds no rows"
    );
    let path = dir.path().join("a.parquet");
    write(
        &path,
        &[
            ("text", Column::Ints(vec![])),
            ("label", Column::Ints(vec![])),
        ],
        "SNAPPY",
        None,
    );
    assert!(
        rows(&path)
            .unwrap_err()
            .to_string()
            .ends_with("a.parquet: empty data: the file holds no rows")
    );
}

/// A missing column is named with the columns there and the nearest of them, in every format.
#[test]
fn missing_columns() {
    assert_eq!(
        error("a.csv", b"id,Texts,label\n1,a,b\n"),
        "a.csv: no column `text` (did you mean `Texts`?); columns here: id, Texts, label"
    );
    assert_eq!(
        error("a.jsonl", b"{\"text\": \"a\", \"labels\": 1}\n"),
        "a.jsonl: no column `label` (did you mean `labels`?); columns here: text, labels"
    );
    // The first row has the columns; a later one that lacks some has no value there.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    fs::write(
        &path,
        "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\"}\n",
    )
    .unwrap();
    let second = (2, text("b"), Cell::Null);
    assert_eq!(rows(&path).unwrap()[1], second);
    let path = dir.path().join("a.parquet");
    write(
        &path,
        &[
            ("y", Column::Ints(vec![1])),
            ("text", Column::Texts(vec![None])),
        ],
        "SNAPPY",
        None,
    );
    assert!(
        rows(&path)
            .unwrap_err()
            .to_string()
            .ends_with("a.parquet: no column `label`; columns here: y, text")
    );
}

/// Rows that can't be decoded are named by row and line.
#[test]
fn undecodable_rows() {
    let good = "{\"text\": \"a\", \"label\": 1}\n\n";
    assert_eq!(
        error(
            "a.jsonl",
            format!("{good}{{\"text\": \"a\", \"lab\n").as_bytes()
        ),
        "a.jsonl, row 2 (line 3): not a JSON object on one line: EOF while parsing a string at column 18"
    );
    assert_eq!(
        error("a.json", b"[\n{\"text\": 1}]"),
        "a.json, row 1 (line 1): not a JSON object on one line: found the start of a list; write one object a line instead of one list"
    );
    assert_eq!(
        error("a.json", b"[{\"text\": 1}]"),
        "a.json, row 1 (line 1): not a JSON object on one line: found a list; write one object a line instead of one list"
    );
    assert_eq!(
        error("a.jsonl", b"{\"text\": \"\xff\", \"label\": 1}"),
        "a.jsonl, row 1 (line 1): not valid UTF-8; save the file in UTF-8"
    );
    assert_eq!(
        error("a.csv", b"text,label\na,b\n\"c\nd\",\xff\n"),
        "a.csv, row 2 (line 3): not valid UTF-8; save the file in UTF-8"
    );
    assert_eq!(
        error("a.csv", b"text,label\na,b\nc,d,e\n"),
        "a.csv, row 2 (line 3): 3 fields, but the header has 2; quote fields that hold commas or line breaks"
    );
    let open = "a quote that is opened in this row is never closed: the rest of the file was taken into one field";
    assert_eq!(
        error("a.csv", b"text,label\na,b\n\"c,d\ne,f\n"),
        format!("a.csv, row 2 (line 3): {open}")
    );
    assert_eq!(
        error("a.csv", b"label,text\na,b\nc,\"d\ne,f\n"),
        format!("a.csv, row 2 (line 3): {open}")
    );
}

/// A cut-off Parquet file is told from a damaged one and from a file of another kind.
#[test]
fn cut_off_and_damaged_parquet() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("whole.parquet");
    let texts: Vec<Option<&str>> = vec![Some("some text that is long enough"); 500];
    let columns = [
        ("text", Column::Texts(texts)),
        ("label", Column::Ints((0..500).collect())),
    ];
    write(&path, &columns, "SNAPPY", None);
    let whole = fs::read(&path).unwrap();
    assert_eq!(
        error("a.parquet", &whole[..whole.len() / 2]),
        "a.parquet: not a whole Parquet file: footer missing; the file was probably cut off: copy it again"
    );
    assert_eq!(
        error("a.parquet", &whole[..7]),
        "a.parquet: not a whole Parquet file: too short to hold a footer; the file was probably cut off: copy it again"
    );
    let mut long = whole.clone();
    let at = long.len() - 6;
    long[at] = 0x7f;
    assert!(error("a.parquet", &long).contains("footer longer than the file"));
    assert_eq!(
        error("a.parquet", b"text,label\na,b\nc,d\n"),
        "a.parquet: damaged Parquet file: it does not start with PAR1: not Parquet at all; write or copy it again"
    );
    let not_text = [
        ("text", Column::Bytes(vec![b"a", b"\xff\xfe"])),
        ("label", Column::Ints(vec![1, 2])),
    ];
    write(&path, &not_text, "SNAPPY", None);
    let found = error("a.parquet", &fs::read(&path).unwrap());
    assert_eq!(
        found,
        "a.parquet, row 2: not valid UTF-8; save the file in UTF-8"
    );
}

/// The class names that Hugging Face `datasets` writes into Parquet are found, for classes and for
/// lists of classes in all three ways of writing them.
#[test]
fn class_names_of_hugging_face() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let class = r#"{"names": ["neg", "pos"], "_type": "ClassLabel"}"#;
    let list = format!(r#"{{"feature": {class}, "_type": "List"}}"#);
    for feature in [class.to_owned(), list, format!("[{class}]")] {
        let meta = format!(r#"{{"info": {{"features": {{"label": {feature}}}}}}}"#);
        write(
            &path,
            &[("label", Column::Ints(vec![0]))],
            "SNAPPY",
            Some(&meta),
        );
        let names = class_names(&path, "label").unwrap().unwrap();
        assert_eq!(names, ["neg", "pos"]);
        assert_eq!(class_names(&path, "other").unwrap(), None);
    }
    write(
        &path,
        &[("label", Column::Ints(vec![0]))],
        "SNAPPY",
        Some("not json"),
    );
    assert_eq!(class_names(&path, "label").unwrap(), None);
}

proptest! {
    /// No bytes make a reader panic or hang: neither damage in the middle of good files nor noise.
    #[test]
    fn damage_never_panics(at in 0_usize..2000, byte: u8, cut in 0_usize..4000, kind in 0_usize..3) {
        let dir = tempfile::tempdir().unwrap();
        let name = ["a.parquet", "a.jsonl", "a.csv"][kind];
        let path = dir.path().join(name);
        match kind {
            0 => write(&path, &[
                ("text", Column::Texts((0..40).map(|i| (i % 3 > 0).then_some("some text")).collect())),
                ("label", Column::Lists((0..40).map(|i| vec!["p", "q"][..i % 3 % 2].to_vec()).collect())),
            ], "SNAPPY", None),
            1 => fs::write(&path, "{\"text\": \"a\", \"label\": [1]}\n".repeat(60)).unwrap(),
            _ => fs::write(&path, format!("text,label\n{}", "\"a,b\",c\n".repeat(200))).unwrap(),
        }
        let mut bytes = fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(3000)));
        fs::write(&path, bytes).unwrap();
        // Either answer will do; what counts is that one comes.
        let _ = rows(&path);
    }
}
