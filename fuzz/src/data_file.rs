//! Data files: Parquet, JSON Lines and CSV to rows.

use super::source::{Wanted, class_names, read};

/// The first byte says which format (0 JSON Lines, 1 CSV, 2 Parquet) and whether pairs are wanted (0x40), the rest
/// is the file. Any of it is read or refused.
pub fn target(bytes: &[u8]) {
    let Some((kind, content)) = bytes.split_first() else {
        return;
    };
    let name = ["a.jsonl", "a.csv", "a.parquet"][usize::from(kind & 3) % 3];
    let Ok(folder) = tempfile::tempdir() else {
        return;
    };
    let path = folder.path().join(name);
    if std::fs::write(&path, content).is_err() {
        return;
    }
    let pair = (kind & 0x40 != 0).then_some("pair");
    let wanted = Wanted {
        input: "text",
        pair,
        label: "label",
    };
    let mut rows = 0_u32;
    let _ = read(&path, wanted, &mut |_| {
        rows += 1;
        // A small file may say that it holds billions of rows.
        Ok(rows < 1000)
    });
    let _ = class_names(&path, "label");
}
