//! Texts that come with what they are ranked with.

use super::*;

/// Each text is tokenised by itself, and all count for the cost; labels there are none.
#[test]
fn texts_come_with_their_partners() {
    let rows = "{\"text\": \"a\", \"positive\": \"b c\", \"negative\": \"a b c d\"}\n\
                {\"text\": \"d\", \"positive\": \"e\", \"negative\": \"b\"}\n";
    let columns = json!({"columns": {"negative": "negative"}});
    let data = text_task("ranking", &[("a.jsonl", rows)], columns).unwrap();
    assert!(data.labels.is_empty() && data.brings_more());
    let ids = |input: &Input| input.ids().unwrap().to_vec();
    let input = data.train.input(1).unwrap();
    assert_eq!((ids(&input), input.second()), (vec![1, 7, 2], None));
    let partners = |index| -> Vec<Vec<u32>> {
        let partners = data.train.partners(index).unwrap();
        partners.iter().map(ids).collect()
    };
    assert_eq!(partners(0), [vec![1, 5, 6, 2], vec![1, 4, 5, 6, 2]]);
    assert_eq!(partners(1), [[1, 8, 2], [1, 5, 2]]);
    assert_eq!(data.train.cut(), 1);
    assert_eq!(
        (
            data.train.cost(0).unwrap(),
            data.train.partner_cost(0).unwrap()
        ),
        (3, 9)
    );
    assert!((data.sample_cost - 10.5).abs() < 1e-12);

    let csv = "id,text,positive\n1,a,b\n2,c,d e\n";
    let data = text_task("ranking", &[("a.csv", csv)], json!({})).unwrap();
    let partners = data.train.partners(1).unwrap();
    assert_eq!(partners.iter().map(ids).collect::<Vec<_>>(), [[1, 7, 8, 2]]);
}

/// What lacks a text is told with its column and row; one that says nothing may be left out.
#[test]
fn lacking_partners_are_told() {
    let error = refused("ranking", ("a.csv", "text,label\na,b\n"), json!({}));
    assert!(error.contains("positive"), "{error}");
    let rows = "{\"text\": \"a\", \"positive\": \"b\"}\n{\"text\": \"c\", \"positive\": null}\n";
    let error = refused("ranking", ("a.jsonl", rows), json!({}));
    assert!(
        error.contains("row 2") && error.contains("positive"),
        "{error}"
    );
    let rows = "text,positive\na,b\nc, \nd,e\n";
    let error = refused("ranking", ("a.csv", rows), json!({}));
    assert!(
        error.contains("row 2") && error.contains("no tokens"),
        "{error}"
    );
    let skip = json!({"on_bad_sample": "skip"});
    let data = text_task("ranking", &[("a.csv", rows)], skip).unwrap();
    assert_eq!((data.train.len(), data.train.skipped()), (2, 1));
    let partners = data.train.partners(1).unwrap();
    assert_eq!(partners[0].ids().unwrap()[..], [1, 8, 2]);
    assert_eq!(data.train.place(1).unwrap().row, 3);
}
