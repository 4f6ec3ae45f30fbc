//! What was meant by a slip of the fingers.

/// The candidate nearest to `word`, if it is near enough to be meant: at most two slips in five
/// letters, a slip being a letter too many, too few, wrong, or two swapped.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.to_lowercase().chars().collect();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.to_lowercase().chars().collect();
            let longest = word.len().max(letters.len());
            let slips = slips(&word, &letters);
            (slips * 5 <= longest * 2).then_some((slips, candidate))
        })
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance.
fn slips(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let wrong = usize::from(a[i - 1] != b[j - 1]);
                let mut least = (rows[i - 1][j] + 1)
                    .min(rows[i][j - 1] + 1)
                    .min(rows[i - 1][j - 1] + wrong);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;
    use crate::balancer::METHODS;

    #[test]
    fn slips_are_recognised() {
        // A slip of the fingers finds its word, a stranger none.
        let names = || METHODS.iter().map(|info| info.name);
        assert_eq!(nearest("upgrd", names()), Some("upgrad"));
        assert_eq!(nearest("PCgrad", names()), Some("pcgrad"));
        assert_eq!(nearest("imtlg", names()), Some("imtl_g"));
        assert_eq!(nearest("banana", names()), None);
    }
}
