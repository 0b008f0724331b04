//! Retrieval metrics, as trec_eval and BEIR define them.

use crate::data::retrieval::Judgements;
use std::cmp::Ordering;

/// Documents that a ranking keeps for a query: trec_eval's usual depth.
pub const DEPTH: usize = 1000;

/// One query's scores, each from 0 to 1, and 0 for a query without a relevant document.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QueryScores {
    /// Σ rel / log2(rank + 1) over the first 10, divided by the most that the judgements allow. A judgement below 0
    /// counts as 0.
    pub ndcg_at_10: f64,
    /// Share of the relevant documents among the first 100.
    pub recall_at_100: f64,
    /// 1 / rank of the first relevant document, 0 if it is not among the first 10.
    pub mrr_at_10: f64,
    /// Mean over the relevant documents of the precision at their rank, 0 for those that were not retrieved.
    pub map: f64,
}

impl QueryScores {
    /// Names of the metrics, the main one first.
    pub const NAMES: [&'static str; 4] = ["ndcg@10", "recall@100", "mrr@10", "map"];

    /// The values in the order of the names.
    pub fn values(&self) -> [f64; 4] {
        [self.ndcg_at_10, self.recall_at_100, self.mrr_at_10, self.map]
    }

    /// Scores a ranking, the best document first.
    ///
    /// # Source
    /// trec_eval's `ndcg_cut`, `recall`, `recip_rank` and `map`; the gain is the judgement itself.
    pub fn of<'a>(judgements: &Judgements, ranking: impl IntoIterator<Item = &'a str>) -> QueryScores {
        let relevant = judgements.values().filter(|&&relevance| relevance > 0).count();
        if relevant == 0 {
            return QueryScores::default();
        }
        let discount = |rank: usize| 1.0 / ((rank + 1) as f64).log2();
        let (mut gain, mut found, mut precisions) = (0.0, 0, 0.0);
        let mut scores = QueryScores::default();
        for (index, id) in ranking.into_iter().enumerate() {
            let rank = index + 1;
            let relevance = judgements.get(id).copied().unwrap_or(0);
            if relevance <= 0 {
                continue;
            }
            found += 1;
            precisions += f64::from(found) / rank as f64;
            if rank <= 10 {
                gain += relevance as f64 * discount(rank);
            }
            if rank <= 10 && found == 1 {
                scores.mrr_at_10 = 1.0 / rank as f64;
            }
            if rank <= 100 {
                scores.recall_at_100 = f64::from(found) / relevant as f64;
            }
        }
        let mut best: Vec<i64> = judgements.values().copied().filter(|&relevance| relevance > 0).collect();
        best.sort_unstable_by(|a, b| b.cmp(a));
        let most: f64 = best.iter().take(10).zip(1..).map(|(&relevance, rank)| relevance as f64 * discount(rank)).sum();
        scores.ndcg_at_10 = gain / most;
        scores.map = precisions / relevant as f64;
        scores
    }
}

/// The order of a ranking: the larger score first, of equal ones the id that is larger in byte order, as in trec_eval.
pub fn by_rank((score, id): (f32, &str), (other_score, other_id): (f32, &str)) -> Ordering {
    other_score.total_cmp(&score).then_with(|| other_id.cmp(id))
}

/// The best documents of one query so far, in memory bounded by their number.
#[derive(Clone, Debug)]
pub struct Top {
    depth: usize,
    /// (score, index of the document); at most twice the depth, in no order.
    documents: Vec<(f32, u32)>,
    /// No document below it can be among the best.
    least: f32,
}

impl Top {
    /// Keeps the best `depth`.
    pub fn new(depth: usize) -> Top {
        Top { depth, documents: Vec::new(), least: f32::NEG_INFINITY }
    }

    /// Takes a document in; `ids` are those of all documents so far, by index.
    pub fn push(&mut self, score: f32, index: u32, ids: &[String]) {
        if score < self.least {
            return;
        }
        self.documents.push((score, index));
        if self.documents.len() >= 2 * self.depth {
            self.cut(ids);
        }
    }

    /// The best documents, the best first.
    pub fn ranking(mut self, ids: &[String]) -> Vec<&str> {
        self.cut(ids);
        self.documents.into_iter().map(|(_, index)| ids[index as usize].as_str()).collect()
    }

    fn cut(&mut self, ids: &[String]) {
        let id = |index: u32| ids[index as usize].as_str();
        self.documents.sort_unstable_by(|&(a, i), &(b, j)| by_rank((a, id(i)), (b, id(j))));
        self.documents.truncate(self.depth);
        if let Some(&(score, _)) = self.documents.get(self.depth - 1) {
            self.least = score;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        judgements: Judgements,
        scores: std::collections::BTreeMap<String, f32>,
        expected: [f64; 4],
    }

    #[test]
    fn scores_are_those_of_trec_eval_with_ties_too() {
        let text = include_str!("../../tests/goldens/retrieval.json");
        for (number, case) in serde_json::from_str::<Vec<Case>>(text).unwrap().into_iter().enumerate() {
            let ids: Vec<String> = case.scores.keys().cloned().collect();
            let mut top = Top::new(DEPTH);
            ids.iter().zip(0..).for_each(|(id, index)| top.push(case.scores[id], index, &ids));
            let found = QueryScores::of(&case.judgements, top.ranking(&ids)).values();
            for (metric, (found, expected)) in QueryScores::NAMES.iter().zip(found.iter().zip(case.expected)) {
                assert!((found - expected).abs() < 1e-9, "case {number}, {metric}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn the_best_are_kept_whatever_the_order_they_come_in() {
        let ids: Vec<String> = (0..500).map(|index| format!("d{index}")).collect();
        // Few different scores, so that ids decide.
        let score = |index: usize| ((index * 7919) % 13) as f32;
        let mut expected: Vec<(f32, &str)> = ids.iter().enumerate().map(|(i, id)| (score(i), id.as_str())).collect();
        expected.sort_by(|&a, &b| by_rank(a, b));
        for depth in [1, 3, 50, 1000] {
            let (mut forward, mut backward) = (Top::new(depth), Top::new(depth));
            for index in 0..500 {
                forward.push(score(index), index as u32, &ids);
                backward.push(score(499 - index), 499 - index as u32, &ids);
            }
            let expected: Vec<&str> = expected.iter().take(depth).map(|&(_, id)| id).collect();
            assert_eq!(forward.ranking(&ids), expected);
            assert_eq!(backward.ranking(&ids), expected);
        }
    }

    #[test]
    fn a_query_without_a_relevant_document_scores_nothing() {
        let judgements: Judgements = [("a".to_owned(), 0), ("b".to_owned(), -1)].into();
        assert_eq!(QueryScores::of(&judgements, ["b", "a"]), QueryScores::default());
    }
}
