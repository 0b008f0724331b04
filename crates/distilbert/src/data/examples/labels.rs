//! Labels of a task and of a model that mean the same.

/// For each of `wanted` the place of the label in `found` that means the same: by name, whatever the letter case, or by
/// place if `found` has no names. `None` if the two do not have the same labels.
pub fn match_labels(wanted: &[String], found: &[String]) -> Option<Vec<usize>> {
    if wanted.len() != found.len() {
        return None;
    }
    if are_unnamed(found) {
        return Some((0..found.len()).collect());
    }
    let place = |label: &String| {
        let exact = found.iter().position(|own| own == label);
        exact.or_else(|| found.iter().position(|own| plain(own) == plain(label)))
    };
    let places: Vec<usize> = wanted.iter().map(place).collect::<Option<_>>()?;
    (0..found.len()).all(|place| places.contains(&place)).then_some(places)
}

/// True for `LABEL_0`, `LABEL_1`, ... (what `transformers` writes where nobody named them) and for bare numbers from 0.
pub fn are_unnamed(labels: &[String]) -> bool {
    let numbered = |prefix: &str| {
        labels.iter().enumerate().all(|(id, label)| label.strip_prefix(prefix) == Some(id.to_string().as_str()))
    };
    numbered("LABEL_") || numbered("")
}

fn plain(label: &str) -> String {
    label.to_lowercase().replace(['-', ' '], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_matched_by_name_in_any_case_or_by_place_without_names() {
        let names = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let found = |wanted: &str, found: &str| match_labels(&names(wanted), &names(found));
        assert_eq!(found("a,b,c", "c,a,b"), Some(vec![1, 2, 0]));
        assert_eq!(found("not_entailment,entailment", "ENTAILMENT,Not Entailment"), Some(vec![1, 0]));
        assert_eq!(found("x,y", "LABEL_0,LABEL_1"), Some(vec![0, 1]));
        assert_eq!(found("x,y", "0,1"), Some(vec![0, 1]));
        // From 1 on they are names.
        assert_eq!(found("1,2", "2,1"), Some(vec![1, 0]));
        for (wanted, others) in [("a,b", "a,c"), ("a,b", "a"), ("a,A", "a,b"), ("0,1", "no,yes")] {
            assert_eq!(found(wanted, others), None, "{wanted} {others}");
        }
        assert_eq!(match_labels(&[], &[]), Some(vec![]));
    }
}
