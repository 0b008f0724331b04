//! The routes of text-embeddings-inference.

use super::common::{
    Item, VectorForm, ask, ask_of, characters, check_count, ids_of, items, kind, model, numbers, object,
    object_or_null, parse, prompt, texts, whole,
};
use super::reading::{Cut, Direction, Inputs, Reader};
use super::{Call, Prepared, Reply, to_json};
use crate::App;
use crate::engine::{Output, Work};
use crate::http::error::{ApiError, ErrorKind};
use crate::memory::{PER_LISTED_TOKEN, Share};
use crate::metrics::Done;
use crate::model::{Ability, ServedModel, ServedTask};
use distilbert::evaluate::predictions::sigmoid;
use distilbert::predict::classify::{calibrated, scores};
use distilbert::tokenizer::Encoding;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// `POST /`: what the model is for.
pub fn root(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let peek: Value = parse(body)?;
    let model = model(app, in_path, peek.get("model").and_then(Value::as_str), Ability::Tokenize)?;
    let name = Some(model.name.as_str());
    match model.main_ability() {
        Ability::Embed => embed(app, name, body),
        Ability::Rerank => rerank(app, name, body),
        Ability::Classify => predict(app, name, body),
        _ => super::pipelines::of_model(app, name, body),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmbedRequest {
    model: Option<String>,
    inputs: Value,
    truncate: Option<bool>,
    truncation_direction: Option<Direction>,
    prompt_name: Option<String>,
    normalize: Option<bool>,
    #[serde(default, deserialize_with = "whole")]
    dimensions: Option<usize>,
    windows: Option<bool>,
}

/// `POST /embed`: a vector for each input.
pub fn embed(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: EmbedRequest = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Embed)?;
    let form = VectorForm { normalize: request.normalize.unwrap_or(true), dimensions: request.dimensions };
    let form = form.check(&model)?;
    let items = items(app, request.inputs, "inputs")?;
    let cut = Cut::or_windows(app, request.truncate, request.truncation_direction, request.windows);
    let prompt = prompt(&model, request.prompt_name.as_deref())?;
    let read = Inputs::of_items(Reader::new(app, &model, cut), &items, &prompt)?;
    let (rt, windows) = (Arc::clone(&app.rt), read.windows.clone());
    let answer = Box::new(move |_: &[Encoding], outputs: Vec<Output>| {
        let vectors = windows.means(outputs.into_iter().map(numbers).collect());
        to_json(&vectors.into_iter().map(|vector| form.apply(&rt, vector)).collect::<Vec<_>>())
    });
    ask_of(model, Work::Embedding, read, Done::Embedded, characters(&items), answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmbedAllRequest {
    model: Option<String>,
    inputs: Value,
    truncate: Option<bool>,
    truncation_direction: Option<Direction>,
    prompt_name: Option<String>,
}

/// `POST /embed_all`: the states of every token of each input.
pub fn embed_all(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: EmbedAllRequest = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Embed)?;
    let items = items(app, request.inputs, "inputs")?;
    let cut = Cut::new(app, request.truncate, request.truncation_direction);
    let prompt = prompt(&model, request.prompt_name.as_deref())?;
    let mut reader = Reader::new(app, &model, cut);
    let encodings = items.iter().map(|item| reader.item(item, &prompt)).collect::<Result<Vec<_>, _>>()?;
    let hidden = model.model.config.encoder.hidden;
    let answer = Box::new(move |_: &[Encoding], outputs: Vec<Output>| {
        let states: Vec<Vec<f32>> = outputs.into_iter().map(numbers).collect();
        let by_token = states.iter().map(|states| states.chunks_exact(hidden).collect::<Vec<_>>());
        to_json(&by_token.collect::<Vec<_>>())
    });
    ask(model, Work::States, encodings, Done::Embedded, characters(&items), answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PredictRequest {
    model: Option<String>,
    inputs: Value,
    truncate: Option<bool>,
    truncation_direction: Option<Direction>,
    #[serde(default)]
    raw_scores: bool,
    windows: Option<bool>,
}

#[derive(Serialize)]
struct Score {
    score: f32,
    label: String,
}

/// `POST /predict`: all labels of a text or a pair, or of several, the likeliest first.
pub fn predict(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: PredictRequest = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Classify)?;
    let (inputs, is_single) = predict_inputs(app, request.inputs)?;
    let cut = Cut::or_windows(app, request.truncate, request.truncation_direction, request.windows);
    let (mut read, mut reader) = (Inputs::default(), Reader::new(app, &model, cut));
    for input in &inputs {
        check_kind(&model, input.len() == 2)?;
        match &input[..] {
            [text] => read.push_text(&mut reader, text, "")?,
            [text, pair] => read.push(reader.pair(text, pair)?),
            _ => return Err(ApiError::empty("inputs")),
        }
    }
    let characters = inputs.iter().flatten().map(|text| text.chars().count()).sum();
    let raw = request.raw_scores;
    let (of, windows) = (Arc::clone(&model), read.windows.clone());
    let answer = Box::new(move |_: &[Encoding], outputs: Vec<Output>| {
        let scores = outputs.into_iter().map(|output| label_scores(&of, numbers(output), raw)).collect();
        let ranked = windows.means(scores).into_iter().map(|scores| ranked(&of, &scores));
        let all: Vec<Vec<Score>> = ranked.collect();
        match all.first() {
            Some(only) if is_single => to_json(only),
            _ => to_json(&all),
        }
    });
    ask_of(model, Work::Logits, read, Done::Predicted, characters, answer)
}

/// Refuses a text for a model of pairs, and the other way round.
pub fn check_kind(model: &ServedModel, is_pair: bool) -> Result<(), ApiError> {
    let ServedTask::Classify { trained_on, .. } = &model.task else { return Ok(()) };
    let checked = trained_on.map_or(Ok(()), |kind| kind.check(is_pair));
    checked.map_err(|error| ApiError::invalid("inputs", error.to_string()))
}

/// Text, `[text]` or `[text, pair]`, or a list of lists; and whether it is one input.
fn predict_inputs(app: &App, value: Value) -> Result<(Vec<Vec<String>>, bool), ApiError> {
    let wrong = |found: &str| {
        let message =
            format!("`inputs`: expected a text, a list of one or two texts, or a list of such lists, found {found}");
        ApiError::invalid("inputs", message)
    };
    let text = |value: Value| match value {
        Value::String(text) if text.is_empty() => Err(ApiError::empty("inputs")),
        Value::String(text) => Ok(text),
        other => Err(wrong(&format!("{} in it", kind(&other)))),
    };
    let input = |value: Value| match value {
        Value::Array(list) if list.is_empty() => Err(ApiError::empty("inputs")),
        Value::Array(list) if list.len() > 2 => Err(wrong(&format!("a list of {}", list.len()))),
        Value::Array(list) => list.into_iter().map(text).collect::<Result<Vec<String>, _>>(),
        other => Err(wrong(kind(&other))),
    };
    match value {
        Value::Array(list) if list.first().is_some_and(Value::is_array) => {
            check_count(app, list.len(), "inputs")?;
            Ok((list.into_iter().map(input).collect::<Result<_, _>>()?, false))
        }
        Value::Array(_) => Ok((vec![input(value)?], true)),
        value @ Value::String(_) => Ok((vec![vec![text(value)?]], true)),
        other => Err(wrong(kind(&other))),
    }
}

/// A score for each label, or the model's raw outputs.
fn label_scores(model: &ServedModel, logits: Vec<f32>, raw: bool) -> Vec<f32> {
    let ServedTask::Classify { problem, temperature, .. } = &model.task else { return Vec::new() };
    match &logits[..] {
        _ if raw => logits,
        [only] => vec![sigmoid(*only)],
        logits => scores(*problem, &calibrated(*problem, *temperature, logits)),
    }
}

fn ranked(model: &ServedModel, scores: &[f32]) -> Vec<Score> {
    let ServedTask::Classify { labels, .. } = &model.task else { return Vec::new() };
    let ranked = distilbert::predict::classify::ranked(labels, scores, 0);
    ranked.into_iter().map(|found| Score { score: found.score, label: found.label.to_owned() }).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RerankRequest {
    model: Option<String>,
    query: String,
    texts: Vec<String>,
    truncate: Option<bool>,
    truncation_direction: Option<Direction>,
    #[serde(default)]
    raw_scores: bool,
    #[serde(default)]
    return_text: bool,
}

#[derive(Serialize)]
struct Ranked {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    score: f32,
}

/// `POST /rerank`: texts by how well they answer a query, the best first.
pub fn rerank(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: RerankRequest = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Rerank)?;
    check_count(app, request.texts.len(), "texts")?;
    if request.query.is_empty() {
        return Err(ApiError::empty("query"));
    }
    if request.texts.iter().any(String::is_empty) {
        return Err(ApiError::empty("texts"));
    }
    let cut = Cut::new(app, request.truncate, request.truncation_direction);
    let mut reader = Reader::new(app, &model, cut);
    let encodings =
        request.texts.iter().map(|text| reader.pair(&request.query, text)).collect::<Result<Vec<_>, _>>()?;
    let characters = request.texts.iter().chain([&request.query]).map(|text| text.chars().count()).sum();
    let RerankRequest { texts, raw_scores, return_text, .. } = request;
    let answer = Box::new(move |_: &[Encoding], outputs: Vec<Output>| {
        let score = |output| match numbers(output)[..] {
            [logit] if raw_scores => Ok(logit),
            [logit] => Ok(sigmoid(logit)),
            _ => Err(ApiError::internal()),
        };
        let scores = outputs.into_iter().map(score).collect::<Result<Vec<f32>, _>>()?;
        let ranked = texts.into_iter().zip(scores).enumerate();
        let ranked = ranked.map(|(index, (text, score))| Ranked { index, text: return_text.then_some(text), score });
        let mut ranked: Vec<Ranked> = ranked.collect();
        ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.index.cmp(&b.index)));
        to_json(&ranked)
    });
    ask(model, Work::Logits, encodings, Done::Predicted, characters, answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SimilarityRequest {
    model: Option<String>,
    #[serde(deserialize_with = "object")]
    inputs: SimilarityInputs,
    #[serde(default, deserialize_with = "object_or_null")]
    parameters: Option<SimilarityParameters>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SimilarityInputs {
    source_sentence: String,
    sentences: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SimilarityParameters {
    truncate: Option<bool>,
    truncation_direction: Option<Direction>,
    prompt_name: Option<String>,
    windows: Option<bool>,
}

/// `POST /similarity`: the cosine between a text and each of others.
pub fn similarity(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: SimilarityRequest = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Embed)?;
    let SimilarityInputs { source_sentence, sentences } = request.inputs;
    if sentences.is_empty() {
        return Err(ApiError::empty("inputs"));
    }
    check_count(app, sentences.len() + 1, "inputs")?;
    let parameters = request.parameters.unwrap_or_default();
    let cut = Cut::or_windows(app, parameters.truncate, parameters.truncation_direction, parameters.windows);
    let prompt = prompt(&model, parameters.prompt_name.as_deref())?;
    let items: Vec<Item> = std::iter::once(source_sentence).chain(sentences).map(Item::Text).collect();
    if items.contains(&Item::Text(String::new())) {
        return Err(ApiError::empty("inputs"));
    }
    let read = Inputs::of_items(Reader::new(app, &model, cut), &items, &prompt)?;
    let (rt, windows) = (Arc::clone(&app.rt), read.windows.clone());
    let answer = Box::new(move |_: &[Encoding], outputs: Vec<Output>| {
        let form = VectorForm { normalize: true, dimensions: None };
        let vectors = windows.means(outputs.into_iter().map(numbers).collect());
        let mut vectors = vectors.into_iter().map(|vector| form.apply(&rt, vector));
        let source = vectors.next().unwrap_or_default();
        let cosine =
            |other: Vec<f32>| source.iter().zip(&other).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32;
        to_json(&vectors.map(cosine).collect::<Vec<f32>>())
    });
    ask_of(model, Work::Embedding, read, Done::Embedded, characters(&items), answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenizeRequest {
    model: Option<String>,
    inputs: Value,
    #[serde(default = "yes")]
    add_special_tokens: bool,
    prompt_name: Option<String>,
}

fn yes() -> bool {
    true
}

#[derive(Serialize)]
struct Token {
    id: u32,
    text: String,
    special: bool,
    start: Option<usize>,
    stop: Option<usize>,
}

/// `POST /tokenize`: the tokens of each text, uncut, with the bytes that they cover.
pub fn tokenize(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: TokenizeRequest = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Tokenize)?;
    let (texts, _) = texts(app, request.inputs, "inputs")?;
    if texts.iter().any(String::is_empty) {
        return Err(ApiError::empty("inputs"));
    }
    // A prompt only if one is asked for: tokens are those of the text.
    let prompt = match request.prompt_name {
        Some(name) => prompt(&model, Some(&name))?,
        None => String::new(),
    };
    let mut share = Share::default();
    let mut tokens_of = |text: &String| {
        app.wanted.check()?;
        let text = format!("{prompt}{text}");
        let encoding = model.tokenizer.encode(&text, None, None);
        share.merge(app.app.memory.take(encoding.len() * PER_LISTED_TOKEN)?);
        let mut tokens = Vec::new();
        for (place, &id) in encoding.input_ids.iter().enumerate() {
            let special = encoding.sequence_ids[place].is_none();
            if special && !request.add_special_tokens {
                continue;
            }
            let bytes = encoding.offsets[place].clone();
            let spelled = if special { model.tokenizer.token(id) } else { text.get(bytes.clone()) };
            tokens.push(Token {
                id,
                text: spelled.unwrap_or_default().to_owned(),
                special,
                start: (!special).then_some(bytes.start),
                stop: (!special).then_some(bytes.end),
            });
        }
        to_json(&tokens)
    };
    let lists = texts.iter().map(&mut tokens_of).collect::<Result<Vec<Vec<u8>>, ApiError>>()?;
    let reply = Reply { share, ..Reply::json([&b"["[..], &lists.join(&b','), b"]"].concat()) };
    Ok(Prepared::Done { reply, model: model.name.clone(), inputs: texts.len() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecodeRequest {
    model: Option<String>,
    ids: Vec<Value>,
    #[serde(default = "yes")]
    skip_special_tokens: bool,
}

/// `POST /decode`: the texts of lists of ids.
pub fn decode(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: DecodeRequest = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Tokenize)?;
    let lists: Vec<Vec<u32>> = if request.ids.first().is_some_and(Value::is_array) {
        let list = |value: Value| match value {
            Value::Array(ids) => ids_of(ids, "ids"),
            other => Err(ApiError::invalid("ids", format!("`ids`: expected a list of ids, found {}", kind(&other)))),
        };
        request.ids.into_iter().map(list).collect::<Result<_, _>>()?
    } else {
        vec![ids_of(request.ids, "ids")?]
    };
    check_count(app, lists.len(), "ids")?;
    if lists.iter().any(Vec::is_empty) {
        return Err(ApiError::empty("ids"));
    }
    let vocab_size = model.tokenizer.vocab_size();
    if let Some(found) = lists.iter().flatten().find(|&&id| id as usize >= vocab_size) {
        let message = format!("token id: expected below the vocabulary size {vocab_size}, found {found}");
        return Err(ApiError::new(ErrorKind::Validation, message));
    }
    let texts: Vec<String> = lists.iter().map(|ids| model.tokenizer.decode(ids, request.skip_special_tokens)).collect();
    Ok(Prepared::Done { reply: Reply::of(&texts)?, model: model.name.clone(), inputs: texts.len() })
}
