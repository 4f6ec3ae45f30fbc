//! Metrics of classes. Both sides have the same number of samples, at least one.

/// Share of samples whose class is right.
#[must_use]
pub fn accuracy(truth: &[u32], predicted: &[u32]) -> f64 {
    ratio(
        truth.iter().zip(predicted).filter(|(t, p)| t == p).count(),
        truth.len(),
    )
}

/// F1 per class, averaged over the classes that appear in `truth` or in `predicted`; a class that
/// appears in neither doesn't count (scikit-learn's `f1_score(average="macro")` without `labels`).
#[must_use]
pub fn macro_f1(classes: usize, truth: &[u32], predicted: &[u32]) -> f64 {
    let mut tables = vec![Table::default(); classes];
    let mut count = |class: &u32, add: fn(&mut Table)| {
        if let Some(table) = tables.get_mut(*class as usize) {
            add(table);
        }
    };
    for (t, p) in truth.iter().zip(predicted) {
        if t == p {
            count(t, |table| table.both += 1);
        } else {
            count(t, |table| table.only_truth += 1);
            count(p, |table| table.only_predicted += 1);
        }
    }
    mean(tables.iter().filter(|table| table.seen()).map(Table::f1))
}

/// Share of samples with every label right (scikit-learn's subset accuracy).
#[must_use]
pub fn multi_accuracy(classes: usize, truth: &[bool], predicted: &[bool]) -> f64 {
    let width = classes.max(1);
    let right = truth.chunks_exact(width).zip(predicted.chunks_exact(width));
    ratio(right.filter(|(t, p)| t == p).count(), truth.len() / width)
}

/// F1 per class, averaged over **all** classes; one that appears neither in `truth` nor in
/// `predicted` counts as 0 (scikit-learn's `f1_score(average="macro")` on indicator matrices, with
/// its default `zero_division`).
#[must_use]
pub fn multi_macro_f1(classes: usize, truth: &[bool], predicted: &[bool]) -> f64 {
    let mut tables = vec![Table::default(); classes];
    for (row_t, row_p) in truth
        .chunks_exact(classes.max(1))
        .zip(predicted.chunks_exact(classes.max(1)))
    {
        for ((table, t), p) in tables.iter_mut().zip(row_t).zip(row_p) {
            match (t, p) {
                (true, true) => table.both += 1,
                (true, false) => table.only_truth += 1,
                (false, true) => table.only_predicted += 1,
                (false, false) => {}
            }
        }
    }
    mean(tables.iter().map(Table::f1))
}

/// How often a class was in the truth, in the predictions, in both.
#[derive(Clone, Copy, Default)]
struct Table {
    both: u64,
    only_truth: u64,
    only_predicted: u64,
}

impl Table {
    fn seen(&self) -> bool {
        self.both + self.only_truth + self.only_predicted > 0
    }

    fn f1(&self) -> f64 {
        if self.both == 0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of samples")]
        let (both, either) = (
            self.both as f64,
            (self.only_truth + self.only_predicted) as f64,
        );
        2.0 * both / (2.0 * both + either)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of samples")]
fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    if count == 0 {
        0.0
    } else {
        sum / f64::from(count)
    }
}
