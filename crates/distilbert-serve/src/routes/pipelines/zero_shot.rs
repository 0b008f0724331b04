//! Zero-shot classification, by a model for natural language inference.

use super::{Envelope, Pipeline, Shape, characters, json_text};
use crate::App;
use crate::engine::{Output, Work};
use crate::http::error::ApiError;
use crate::model::{Ability, ServedTask};
use crate::routes::common::{check_count, model, numbers, parse, texts};
use crate::routes::reading::{Cut, Reader};
use crate::routes::{Call, Prepared};
use distilbert::predict::classify::ScoredLabel;
use distilbert::predict::zero_shot::{DEFAULT_TEMPLATE, Judged, PLACEHOLDER, Scoring, Verdicts};
use distilbert::tokenizer::Encoding;
use serde::Deserialize;
use serde_json::Value;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ZeroShotParameters {
    #[serde(alias = "candidateLabels")]
    candidate_labels: Option<Value>,
    #[serde(alias = "hypothesisTemplate")]
    hypothesis_template: Option<String>,
    #[serde(alias = "multiLabel")]
    multi_label: Option<bool>,
}

/// `POST /zero-shot`: zero-shot-classification.
pub fn zero_shot(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    zero_shot_as(app, in_path, body, Shape::Pipeline)
}

pub(super) fn zero_shot_as(app: &Call, in_path: Option<&str>, body: &[u8], shape: Shape) -> Result<Prepared, ApiError> {
    let request: Envelope<ZeroShotParameters> = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::ZeroShot)?;
    let (texts, is_single) = texts(app, request.inputs, "inputs")?;
    let parameters = request.parameters.unwrap_or_default();
    let labels = candidate_labels(app, parameters.candidate_labels)?;
    check_count(app, texts.len() * labels.len(), "candidate_labels")?;
    let template = parameters.hypothesis_template.as_deref().unwrap_or(DEFAULT_TEMPLATE);
    if !template.contains(PLACEHOLDER) {
        let message = format!("`hypothesis_template`: expected {PLACEHOLDER} for the label, found none");
        return Err(ApiError::invalid("parameters", message));
    }
    let ServedTask::Classify { problem, labels: outputs, .. } = &model.task else { return Err(ApiError::internal()) };
    let each = parameters.multi_label.unwrap_or(false) || labels.len() == 1;
    let scoring = Scoring::of(*problem, outputs, Verdicts::default(), each);
    let scoring = scoring.map_err(|error| ApiError::invalid("parameters", error.to_string()))?;
    let (mut encodings, mut reader) = (Vec::new(), Reader::new(app, &model, Cut::new(app, None, None)));
    for text in &texts {
        let (opening, behind) = reader.opening(text)?;
        for label in &labels {
            let hypothesis = template.replace(PLACEHOLDER, label);
            let encoding = reader.keeping_pair(opening, behind, &hypothesis)?;
            let encoding = encoding.ok_or_else(|| {
                let most = model.max_length;
                let message = format!("expected labels and a template that leave the text room in {most} tokens");
                ApiError::invalid("candidate_labels", message)
            })?;
            encodings.push(encoding);
        }
    }
    let lost = |sequences: &[Encoding]| sequences.iter().map(|sequence| sequence.truncated_tokens).max().unwrap_or(0);
    let truncated = encodings.chunks(labels.len()).map(lost).collect();
    let (characters, windows) = (characters(&texts), vec![1; texts.len()]);
    let answers = Box::new(move |encodings: &[Encoding], outputs: Vec<Output>| {
        let names: Vec<&str> = labels.iter().map(String::as_str).collect();
        let logits: Vec<Vec<f32>> = outputs.into_iter().map(numbers).collect();
        let judge = |((text, logits), sequences): ((&'_ String, &[Vec<f32>]), &[Encoding])| {
            let judged = Judged::new(text, &names, &scoring.scores(logits), lost(sequences));
            match shape {
                Shape::Pipeline => json_text(&judged),
                Shape::ListOfLists => {
                    let truncated_tokens = judged.truncated_tokens;
                    let scored = judged.labels.iter().zip(&judged.scores);
                    let scored = scored.map(|(&label, &score)| ScoredLabel { label, score, truncated_tokens });
                    json_text(&scored.collect::<Vec<_>>())
                }
            }
        };
        let of_texts = texts.iter().zip(logits.chunks(names.len())).zip(encodings.chunks(names.len()));
        of_texts.map(judge).collect()
    });
    Pipeline { model, work: Work::Logits, encodings, characters, truncated, windows, answers }.listed(is_single)
}

/// A list of labels, or one text with commas between them.
fn candidate_labels(app: &App, value: Option<Value>) -> Result<Vec<String>, ApiError> {
    let labels: Vec<String> = match value {
        Some(Value::String(labels)) => {
            labels.split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect()
        }
        Some(value @ Value::Array(_)) => texts(app, value, "candidate_labels")?.0,
        _ => Vec::new(),
    };
    if labels.is_empty() || labels.iter().any(String::is_empty) {
        let message = "`candidate_labels`: expected a list of labels, or a text with commas between them, none empty";
        return Err(ApiError::invalid("candidate_labels", message));
    }
    Ok(labels)
}
