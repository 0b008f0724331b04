//! Text classification.

use super::{Envelope, Shape};
use crate::App;
use crate::engine::{Output, Work};
use crate::http::error::ApiError;
use crate::metrics::Done;
use crate::model::{Ability, ServedModel, ServedTask};
use crate::routes::common::{ask_of, check_count, kind, model, numbers, parse, whole};
use crate::routes::reading::{Cut, Inputs, Reader};
use crate::routes::tei::check_kind;
use crate::routes::{Call, Prepared, to_json};
use distilbert::predict::classify::{ScoreFunction, ScoredLabel, calibrated, ranked, scores_by};
use distilbert::tokenizer::Encoding;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::sync::Arc;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassifyParameters {
    /// Absent, `null` and a number differ.
    #[serde(default, alias = "topK", deserialize_with = "present")]
    top_k: Option<Option<usize>>,
    #[serde(alias = "functionToApply")]
    function_to_apply: Option<ScoreFunction>,
    windows: Option<bool>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<usize>>, D::Error> {
    whole(deserializer).map(Some)
}

/// `POST /classify`: text-classification.
pub fn classify(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    classify_as(app, in_path, body, Shape::Pipeline)
}

pub(super) fn classify_as(app: &Call, in_path: Option<&str>, body: &[u8], shape: Shape) -> Result<Prepared, ApiError> {
    let request: Envelope<ClassifyParameters> = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Classify)?;
    let is_object = request.inputs.is_object();
    let (inputs, is_single) = texts_or_pairs(app, request.inputs)?;
    let ClassifyParameters { top_k, function_to_apply, windows } = request.parameters.unwrap_or_default();
    if top_k == Some(Some(0)) {
        return Err(ApiError::invalid("parameters", "`top_k`: expected 1 or more, or null for all, found 0"));
    }
    let cut = Cut::or_windows(app, None, None, windows);
    let (mut read, mut reader) = (Inputs::default(), Reader::new(app, &model, cut));
    for (text, pair) in &inputs {
        check_kind(&model, pair.is_some())?;
        match pair {
            Some(pair) => read.push(reader.pair(text, pair)?),
            None => read.push_text(&mut reader, text, "")?,
        }
    }
    let all_texts = inputs.iter().flat_map(|(text, pair)| std::iter::once(text).chain(pair));
    let characters = all_texts.map(|text| text.chars().count()).sum();
    let (of, windows) = (Arc::clone(&model), read.windows.clone());
    let answer = Box::new(move |encodings: &[Encoding], outputs: Vec<Output>| {
        let ServedTask::Classify { labels, .. } = &of.task else { return Err(ApiError::internal()) };
        let scores = outputs.into_iter().map(|output| apply(&of, &numbers(output), function_to_apply));
        let label = |(scores, lost): (Vec<f32>, usize)| {
            let mut ranked = ranked(labels, &scores, lost);
            ranked.truncate(match (top_k, shape) {
                (Some(Some(top)), _) => top,
                (None, Shape::Pipeline) => 1,
                _ => usize::MAX,
            });
            ranked
        };
        let scores = windows.means(scores.collect());
        let all: Vec<Vec<ScoredLabel>> = scores.into_iter().zip(windows.truncated(encodings)).map(label).collect();
        match (shape, top_k.is_some(), is_single) {
            (Shape::ListOfLists, ..) | (_, true, false) => to_json(&all),
            // Of an object the pipeline gives the label alone, of a text a list of it.
            (_, false, true) if is_object => to_json(&all.concat().first()),
            _ => to_json(&all.concat()),
        }
    });
    ask_of(model, Work::Logits, read, Done::Predicted, characters, answer)
}

/// The scores of a text's logits by the model's own function, or by the one that was asked for.
fn apply(model: &ServedModel, logits: &[f32], function: Option<ScoreFunction>) -> Vec<f32> {
    let ServedTask::Classify { problem, temperature, .. } = &model.task else { return Vec::new() };
    scores_by(function, *problem, &calibrated(*problem, *temperature, logits))
}

/// A text, `{"text": ..., "text_pair": ...}`, or a list of either; and whether it was one alone.
#[allow(clippy::type_complexity)] // Text and pair, many of them, and whether they came in a list.
fn texts_or_pairs(app: &App, value: Value) -> Result<(Vec<(String, Option<String>)>, bool), ApiError> {
    let expected = r#"expected a text, {"text": ..., "text_pair": ...}, or a list of these"#;
    let wrong = |found: &str| ApiError::invalid("inputs", format!("`inputs`: {expected}, found {found}"));
    let input = |value: Value| match value {
        Value::String(text) => Ok((text, None)),
        Value::Object(mut object) => {
            let text = object.shift_remove("text");
            let pair = object.shift_remove("text_pair");
            if let Some((key, _)) = object.iter().next() {
                return Err(wrong(&format!("the key {key:?}")));
            }
            match (text, pair) {
                (Some(Value::String(text)), None | Some(Value::Null)) => Ok((text, None)),
                (Some(Value::String(text)), Some(Value::String(pair))) => Ok((text, Some(pair))),
                _ => Err(wrong("another object")),
            }
        }
        other => Err(wrong(kind(&other))),
    };
    match value {
        Value::Array(list) => {
            check_count(app, list.len(), "inputs")?;
            Ok((list.into_iter().map(input).collect::<Result<_, _>>()?, false))
        }
        one => Ok((vec![input(one)?], true)),
    }
}
