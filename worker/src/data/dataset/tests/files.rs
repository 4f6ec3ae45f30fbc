//! Which of a task's files a sample is of.

use super::*;

/// Every sample knows its file, whatever rows were left out before it, and where not all samples are kept.
#[test]
fn samples_know_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let paths = [
        ("a.csv", "text,label\na,\na,x\nb,y\nc,\n"),
        ("b.csv", "text,label\na,\n"),
        ("c.csv", "text,label\nd,\ne,x\na,y\nb,x\n"),
    ]
    .map(|(name, rows)| {
        let path = dir.path().join(name);
        fs::write(&path, rows).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let skip = json!({"on_missing_label": "skip"});
    let mut spec = task(dir.path(), "single_label", "a.csv", skip);
    spec.data.train = Files::Many(paths.to_vec());
    let tokenizer = Arc::new(tokenizer(dir.path(), 5).unwrap());
    let mut data = load(&spec, &Modality::Text(tokenizer)).unwrap();
    let files = |data: &TaskData| -> Vec<usize> {
        let numbers = (0..data.train.len()).map(|index| {
            let number = data.train.file(index);
            let place = data.train.place(index).unwrap();
            assert_eq!(place.file.to_str(), Some(paths[number].as_str()));
            number
        });
        numbers.collect()
    };
    assert_eq!(files(&data), [0, 0, 2, 2, 2]);
    data.thin(1, 7);
    assert_eq!(files(&data).len(), 2);
}
