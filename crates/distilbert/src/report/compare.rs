//! The comparison itself: who is measured against whom, what is kept, where two models disagree.

use crate::data::examples::{Label, Metric};
use crate::evaluate::calibration::{ConfidenceBin, confidence_bins};
use crate::evaluate::metrics::{argmax, confusion_matrix};
use crate::evaluate::slices::LENGTHS;
use crate::evaluate::statistics::{
    Bootstrap, Interval, McNemar, PairedTest, Retention, SeedSpread, mcnemar, paired_bootstrap, retention, seed_spread,
};
use crate::evaluate::{Prediction, PredictionRow, Predictions};

use super::format::shorten;
use super::{Evaluation, ModelReport, ReportInput, Role};

/// Everything that is computed from the models.
pub(super) struct Comparison {
    /// One a model, in order.
    pub rows: Vec<Row>,
    /// Name of the headline metric; `None` if no model has a score.
    pub metric: Option<String>,
    /// Task, split and number of examples of the headline.
    pub data: Option<(String, String, usize)>,
    /// Index of the model that the others are measured against.
    pub reference: Option<usize>,
    pub scores: Vec<ScoreRow>,
    pub disagreements: Vec<Disagreement>,
    pub confusions: Vec<Confusion>,
    /// For each model whose headline predictions are known, its index and the examples by confidence.
    pub reliability: Vec<(usize, Vec<ConfidenceBin>)>,
    /// What could not be compared, and why.
    pub remarks: Vec<String>,
}

/// One model's headline.
pub(super) struct Row {
    pub name: String,
    pub role: Role,
    pub parameters: Option<u64>,
    pub size_bytes: Option<u64>,
    pub latency_ms_p50: Option<f64>,
    pub sequences_per_second: Option<f64>,
    pub tokens_per_second: Option<f64>,
    pub score: Option<(f64, Option<Interval>)>,
    pub seeds: Option<SeedSpread>,
    pub perplexity: Option<f64>,
    pub teacher_agreement: Option<f64>,
    /// Against the reference; `None` for the reference itself.
    pub against: Option<Against>,
}

/// A model against the reference on one metric.
pub(super) struct Against {
    /// `None` if the reference's score is not above 0.
    pub kept: Option<Retention>,
    /// `None` without both models' predictions.
    pub test: Option<PairedTest>,
    /// For accuracy.
    pub exact: Option<McNemar>,
}

/// One model, one split, one metric.
pub(super) struct ScoreRow {
    pub model: String,
    pub data: String,
    pub metric: String,
    pub value: f64,
    pub interval: Option<Interval>,
    pub n: usize,
    pub skipped: usize,
    pub truncated: usize,
    pub calibration_error: Option<f64>,
}

/// How often a model took each class for each.
pub(super) struct Confusion {
    pub model: String,
    pub data: String,
    pub labels: Vec<String>,
    /// `[truth][predicted]`
    pub matrix: Vec<Vec<u64>>,
}

/// Where a model and the reference disagree.
pub(super) struct Disagreement {
    pub reference: String,
    pub model: String,
    pub data: String,
    pub n: usize,
    /// Examples on which the two predict different classes; for regression none.
    pub differing: usize,
    pub by_length: Vec<Bucket>,
    pub by_class: Vec<Bucket>,
    pub by_confidence: Vec<Bucket>,
    /// Only the reference is right (for regression: nearer), most confident mistakes first.
    pub lost: Vec<Case>,
    /// Only the model is right.
    pub gained: Vec<Case>,
}

/// Part of the examples.
#[derive(Default)]
pub(super) struct Bucket {
    pub name: String,
    pub n: usize,
    /// Sums over the bucket of what [`quality`] gives; their means are shown.
    pub reference: f64,
    pub model: f64,
    pub differing: usize,
}

/// One example with what each says.
pub(super) struct Case {
    pub texts: Vec<String>,
    pub truth: String,
    pub reference: String,
    pub model: String,
}

/// Examples shown in each direction.
const CASES: usize = 5;
/// Characters shown of a text.
const TEXT_SHOWN: usize = 300;

impl Comparison {
    pub(super) fn new(input: &ReportInput, bootstrap: &Bootstrap) -> Self {
        let reference = input.models.iter().position(|model| model.role == Role::Teacher);
        let headline = reference
            .and_then(|index| input.models.get(index))
            .into_iter()
            .chain(&input.models)
            .find_map(|model| model.evaluations.first())
            .map(|evaluation| &evaluation.result);
        let metric = headline.and_then(|result| result.main_metric()).map(|(name, _)| name.to_owned());
        let mut comparison = Comparison {
            rows: Vec::new(),
            data: headline.map(|result| (result.task.clone(), result.split.clone(), result.n)),
            metric,
            reference,
            scores: Vec::new(),
            disagreements: Vec::new(),
            confusions: Vec::new(),
            reliability: Vec::new(),
            remarks: Vec::new(),
        };
        let teacher = reference.and_then(|index| input.models.get(index));
        for (index, model) in input.models.iter().enumerate() {
            let other = teacher.filter(|_| reference != Some(index));
            comparison.add(model, other, bootstrap);
        }
        comparison
    }

    fn add(&mut self, model: &ModelReport, teacher: Option<&ModelReport>, bootstrap: &Bootstrap) {
        let evaluation = self.headline_of(model);
        let score = evaluation.zip(self.metric.as_deref()).and_then(|(evaluation, metric)| {
            let value = *evaluation.result.metrics.get(metric)?;
            Some((value, evaluation.result.intervals.get(metric).copied()))
        });
        if let Some(predictions) = evaluation.and_then(Evaluation::labels) {
            let bins = confidence_bins(predictions.decisions());
            if bins.iter().any(|bin| bin.n > 0) {
                self.reliability.push((self.rows.len(), bins));
            }
        }
        let mut against = None;
        if let Some((teacher, (ours, theirs))) =
            teacher.and_then(|teacher| Some((teacher, evaluation.zip(self.headline_of(teacher))?)))
        {
            let metric = self.metric.clone().unwrap_or_default();
            let compared = compare(ours, theirs, &metric, bootstrap);
            let remark = |reason: String| format!("{} is not tested against {}: {reason}", model.name, teacher.name);
            match compared {
                Ok((found, reason)) => {
                    self.remarks.extend(reason.map(remark));
                    against = Some(found);
                }
                Err(reason) => self.remarks.push(remark(reason)),
            }
            if let (Some(ours), Some(theirs)) = (ours.labels(), theirs.labels()) {
                self.disagreements.extend(disagreement(&model.name, ours, &teacher.name, theirs));
            }
        }
        for evaluation in &model.evaluations {
            self.scores.extend(score_rows(model, evaluation));
            self.confusions.extend(evaluation.labels().and_then(|given| confusion(&model.name, given)));
        }
        self.rows.push(Row {
            name: model.name.clone(),
            role: model.role,
            parameters: model.parameters,
            size_bytes: model.size_bytes,
            latency_ms_p50: model.latency_ms_p50,
            sequences_per_second: model.sequences_per_second,
            tokens_per_second: model.tokens_per_second,
            score,
            seeds: seed_spread(&model.seed_scores),
            perplexity: model.perplexity,
            teacher_agreement: model.teacher_agreement,
            against,
        });
    }

    /// The model's evaluation on the headline's task and split.
    fn headline_of<'a>(&self, model: &'a ModelReport) -> Option<&'a Evaluation> {
        let (task, split, _) = self.data.as_ref()?;
        model.evaluations.iter().find(|evaluation| evaluation.result.task == *task && evaluation.result.split == *split)
    }
}

/// Retention and tests; without predictions only the plain share, and the reason for that.
fn compare(
    ours: &Evaluation,
    theirs: &Evaluation,
    metric: &str,
    bootstrap: &Bootstrap,
) -> Result<(Against, Option<String>), String> {
    let (Some(value), Some(base)) = (ours.result.metrics.get(metric), theirs.result.metrics.get(metric)) else {
        return Err(format!("no {metric}"));
    };
    let plain = (*base > 0.0).then(|| Retention { share: value / base, interval: None });
    let untested = |reason: String| (Against { kept: plain, test: None, exact: None }, Some(reason));
    let (Some(first), Some(second)) = (&ours.predictions, &theirs.predictions) else {
        return Ok(untested("no predictions kept".to_owned()));
    };
    let tested = || {
        let (Some((first, kind)), Some((second, _))) = (first.outcomes(metric)?, second.outcomes(metric)?) else {
            return Ok(None);
        };
        let is_share = matches!(kind, Metric::Accuracy | Metric::ExactMatch);
        Ok(Some(Against {
            kept: retention(&first, &second, kind, bootstrap)?,
            test: Some(paired_bootstrap(&first, &second, kind, bootstrap)?),
            exact: if is_share { Some(mcnemar(&first, &second)?) } else { None },
        }))
    };
    let tested: Result<Option<Against>, crate::evaluate::MetricError> = tested();
    Ok(match tested {
        Ok(Some(against)) => (against, None),
        Ok(None) => untested(format!("no paired test for metric {metric}")),
        Err(error) => untested(error.to_string()),
    })
}

fn score_rows<'a>(model: &'a ModelReport, evaluation: &'a Evaluation) -> impl Iterator<Item = ScoreRow> + 'a {
    let result = &evaluation.result;
    result.metrics.iter().map(move |(metric, &value)| ScoreRow {
        model: model.name.clone(),
        data: format!("{} {}", result.task, result.split),
        metric: metric.to_owned(),
        value,
        interval: result.intervals.get(metric).copied(),
        n: result.n,
        skipped: result.skipped,
        truncated: result.truncated,
        calibration_error: result.calibration_error,
    })
}

fn confusion(model: &str, predictions: &Predictions) -> Option<Confusion> {
    let matrix = confusion_matrix(&predictions.outcomes().ok()?).ok()?;
    Some(Confusion {
        model: model.to_owned(),
        data: format!("{} {}", predictions.task, predictions.split),
        labels: predictions.labels.clone(),
        matrix,
    })
}

/// `None` if the two were not run on the same examples.
fn disagreement(model: &str, ours: &Predictions, reference: &str, theirs: &Predictions) -> Option<Disagreement> {
    let same = ours.rows.len() == theirs.rows.len()
        && ours.labels == theirs.labels
        && ours.rows.iter().zip(&theirs.rows).all(|(a, b)| a.id == b.id && a.label == b.label);
    if !same || ours.rows.is_empty() {
        return None;
    }
    let mut found = Disagreement {
        reference: reference.to_owned(),
        model: model.to_owned(),
        data: format!("{} {}", ours.task, ours.split),
        n: ours.rows.len(),
        differing: 0,
        by_length: LENGTHS.iter().map(|&(_, name)| named(name)).collect(),
        by_class: ours.labels.iter().map(|label| named(label)).collect(),
        by_confidence: CONFIDENCES.iter().map(|&(_, name)| named(name)).collect(),
        lost: Vec::new(),
        gained: Vec::new(),
    };
    // Gap in favour of one side, index of the row.
    let mut lost: Vec<(f64, usize)> = Vec::new();
    let mut gained: Vec<(f64, usize)> = Vec::new();
    for (index, (our, their)) in ours.rows.iter().zip(&theirs.rows).enumerate() {
        let (our_quality, their_quality) = (quality(our), quality(their));
        let differs = our.prediction != their.prediction && !matches!(our.prediction, Prediction::Score(_));
        found.differing += usize::from(differs);
        let confidence = confidence(our);
        let class = match our.label {
            Label::Class(class) => found.by_class.get_mut(class),
            _ => None,
        };
        let length = LENGTHS.iter().position(|&(longest, _)| our.tokens <= longest);
        let sure = confidence.and_then(|sure| CONFIDENCES.iter().position(|&(most, _)| sure <= most));
        let buckets = [
            length.and_then(|place| found.by_length.get_mut(place)),
            class,
            sure.and_then(|place| found.by_confidence.get_mut(place)),
        ];
        for bucket in buckets.into_iter().flatten() {
            bucket.n += 1;
            bucket.reference += their_quality;
            bucket.model += our_quality;
            bucket.differing += usize::from(differs);
        }
        // Among classes all gaps are 1: there the surest mistakes come first.
        if our_quality < their_quality {
            lost.push((their_quality - our_quality + confidence.unwrap_or_default(), index));
        } else if our_quality > their_quality {
            gained.push((our_quality - their_quality + self::confidence(their).unwrap_or_default(), index));
        }
    }
    let cases = |mut ranked: Vec<(f64, usize)>| -> Vec<Case> {
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let rows = ranked.iter().take(CASES).filter_map(|&(_, index)| ours.rows.get(index).zip(theirs.rows.get(index)));
        rows.map(|(our, their)| case(&ours.labels, our, their)).collect()
    };
    found.lost = cases(lost);
    found.gained = cases(gained);
    for buckets in [&mut found.by_length, &mut found.by_class, &mut found.by_confidence] {
        buckets.retain(|bucket| bucket.n > 0);
    }
    Some(found)
}

/// Largest probability of each bucket.
const CONFIDENCES: [(f64, &str); 7] = [
    (0.5, "up to 0.50"),
    (0.6, "0.50 to 0.60"),
    (0.7, "0.60 to 0.70"),
    (0.8, "0.70 to 0.80"),
    (0.9, "0.80 to 0.90"),
    (0.99, "0.90 to 0.99"),
    (f64::INFINITY, "over 0.99"),
];

fn named(name: &str) -> Bucket {
    Bucket { name: name.to_owned(), ..Bucket::default() }
}

/// How good a prediction is: 1 if right and 0 if not; of tags the share of right ones; for regression the negative
/// absolute error.
fn quality(row: &PredictionRow) -> f64 {
    match (&row.label, &row.prediction) {
        (Label::Class(truth), Prediction::Class(predicted)) => f64::from(truth == predicted),
        (Label::Classes(truth), Prediction::Classes(predicted)) => f64::from(truth == predicted),
        (Label::Score(truth), Prediction::Score(predicted)) => -f64::from((truth - predicted).abs()),
        (Label::Tags(truth), Prediction::Tags(predicted)) => {
            let right = truth.iter().zip(predicted).filter(|(truth, predicted)| truth == predicted).count();
            right as f64 / truth.len().max(1) as f64
        }
        _ => 0.0,
    }
}

/// The largest probability; `None` unless one class is predicted.
fn confidence(row: &PredictionRow) -> Option<f64> {
    match row.prediction {
        Prediction::Class(_) => row.scores.get(argmax(&row.scores)).map(|&score| f64::from(score)),
        _ => None,
    }
}

/// The words that have another tag than `O`, each with its tag.
fn marked(words: &[String], tags: &[String]) -> String {
    let marked = words.iter().zip(tags).filter(|(_, tag)| *tag != "O").map(|(word, tag)| format!("{word}/{tag}"));
    let text = marked.collect::<Vec<_>>().join(" ");
    if text.is_empty() { "none".to_owned() } else { shorten(&text, TEXT_SHOWN) }
}

fn case(labels: &[String], our: &PredictionRow, their: &PredictionRow) -> Case {
    let name = |class: usize| labels.get(class).cloned().unwrap_or_else(|| class.to_string());
    let set = |applies: &[bool]| {
        let names: Vec<_> =
            applies.iter().enumerate().filter(|(_, applies)| **applies).map(|(id, _)| name(id)).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let verdict = |row: &PredictionRow| match &row.prediction {
        Prediction::Class(class) => match confidence(row) {
            Some(sure) => format!("{} ({sure:.2})", name(*class)),
            None => name(*class),
        },
        Prediction::Classes(applies) => set(applies),
        Prediction::Score(score) => format!("{score:.2}"),
        Prediction::Tags(tags) => marked(&row.words, tags),
    };
    Case {
        texts: std::iter::once(&our.text_a).chain(&our.text_b).map(|text| shorten(text, TEXT_SHOWN)).collect(),
        truth: match &our.label {
            Label::Class(class) => name(*class),
            Label::Classes(applies) => set(applies),
            Label::Score(score) => format!("{score:.2}"),
            Label::Tags(tags) => marked(&our.words, tags),
            Label::None => "unknown".to_owned(),
        },
        reference: verdict(their),
        model: verdict(our),
    }
}
