//! Token classification, and intents with slots: texts of any length, in windows.

use super::{Envelope, Pipeline, in_windows, json_text};
use crate::http::error::ApiError;
use crate::model::{Ability, ServedModel, ServedTask};
use crate::routes::common::{model, parse, texts, whole};
use crate::routes::{Call, Prepared};
use distilbert::data::examples::Problem;
use distilbert::predict::classify::calibrated;
use distilbert::predict::intents::{Meaning, understood};
use distilbert::predict::spans::{Aggregation, spans};
use serde::Deserialize;
use std::sync::Arc;

/// Of [`tag`].
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagParameters {
    #[serde(alias = "aggregationStrategy")]
    aggregation_strategy: Option<Strategy>,
    #[serde(alias = "ignoreLabels")]
    ignore_labels: Option<Vec<String>>,
    /// By how many tokens the windows of a long text overlap; a quarter of a window unless given, half at most.
    #[serde(default, deserialize_with = "whole")]
    stride: Option<usize>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Strategy {
    None,
    Simple,
    First,
    Average,
    Max,
}

/// `POST /tag`: token-classification, of texts of any length.
pub fn tag(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: Envelope<TagParameters> = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Tag)?;
    let (texts, is_single) = texts(app, request.inputs, "inputs")?;
    tags(app, model, texts, request.parameters.unwrap_or_default())?.listed(is_single)
}

/// The spans of each text.
///
/// # Errors
/// If nobody waits for them any more.
pub fn tags(
    call: &Call,
    model: Arc<ServedModel>,
    texts: Vec<String>,
    parameters: TagParameters,
) -> Result<Pipeline, ApiError> {
    let ignored = parameters.ignore_labels.unwrap_or_else(|| vec!["O".to_owned()]);
    let aggregation = match parameters.aggregation_strategy {
        None | Some(Strategy::None) => Aggregation::None,
        Some(Strategy::Simple) => Aggregation::Simple,
        Some(Strategy::First) => Aggregation::First,
        Some(Strategy::Average) => Aggregation::Average,
        Some(Strategy::Max) => Aggregation::Max,
    };
    in_windows(call, model, texts, parameters.stride, move |model, text, windows, said| {
        let ServedTask::Tag { labels, temperature } = &model.task else { return Err(ApiError::internal()) };
        let said: Vec<Vec<f32>> = said.iter().map(|said| calibrated(Problem::Tags, *temperature, said)).collect();
        let tokens = windows.tokens(&said, labels.len());
        json_text(&spans(text, &tokens, labels, &model.tokenizer, aggregation, &ignored))
    })
}

/// Of [`intents`]: there are none.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntentParameters {}

/// `POST /intents`: what each text asks for, and the words that say the particulars; texts of any length.
pub fn intents(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: Envelope<IntentParameters> = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Intents)?;
    let (texts, is_single) = texts(app, request.inputs, "inputs")?;
    understandings(app, model, texts)?.listed(is_single)
}

/// Intent and slots of each text.
///
/// # Errors
/// If nobody waits for them any more.
pub fn understandings(call: &Call, model: Arc<ServedModel>, texts: Vec<String>) -> Result<Pipeline, ApiError> {
    in_windows(call, model, texts, None, |model, text, windows, said| {
        let ServedTask::Intents { intents, slots, temperature } = &model.task else {
            return Err(ApiError::internal());
        };
        let of_heads = |said: &Vec<f32>| {
            let (of_text, of_tokens) = said.split_at(intents.len().min(said.len()));
            [of_text.to_vec(), of_tokens.to_vec()]
        };
        let said: Vec<[Vec<f32>; 2]> = said.iter().map(of_heads).collect();
        let meaning = Meaning { intents, slots, temperature: *temperature };
        let found = understood(text, windows, &said, meaning, &model.tokenizer);
        json_text(&found.ok_or_else(ApiError::internal)?)
    })
}
