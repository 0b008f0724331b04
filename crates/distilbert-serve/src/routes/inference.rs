//! The Open Inference Protocol, version 2: texts in as BYTES; vectors and scores out as FP32, and what is no row of
//! numbers as BYTES, a JSON text for each input.

use super::common::{
    VectorForm, ask_of, check_count, kind, model, numbers, object_or_null, objects, objects_or_null, parameters, parse,
    prompt, whole, wholes,
};
use super::pipelines::{
    self, AnswerParameters, FillMaskParameters, IntentParameters, Pipeline, Question, TagParameters,
};
use super::reading::{Cut, Direction, Inputs, Reader};
use super::tei::check_kind;
use super::{Call, Prepared, Reply, to_json};
use crate::App;
use crate::engine::{Output, Work};
use crate::http::error::ApiError;
use crate::metrics::Done;
use crate::model::{Ability, ServedModel, ServedTask};
use distilbert::data::examples::TaskKind;
use distilbert::predict::classify::{calibrated, scores};
use distilbert::tokenizer::Encoding;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Every model has one version: a model that is replaced is gone.
pub const VERSION: &str = "1";

/// Triton's clients say with these whether they would take binary data: of a tensor, and of all outputs.
pub const BINARY_TENSOR: &str = "binary_data";
/// Of a request.
pub const BINARY_OUTPUTS: &str = "binary_data_output";

/// Of vectors.
const EMBEDDING: &str = "embedding";
/// Of classifiers: what the model says, and what its function makes of it.
const LOGITS: &str = "logits";
const SCORES: &str = "scores";

/// `GET /v2`: what the server is.
pub fn server(_: &App, _: Option<&str>) -> Result<Reply, ApiError> {
    Reply::of(&json!({"name": "distilbert", "version": env!("CARGO_PKG_VERSION"), "extensions": []}))
}

/// `GET /v2/models/NAME/ready`: a model that is there is ready.
pub fn ready(app: &App, name: Option<&str>) -> Result<Reply, ApiError> {
    let model = model(app, name, None, Ability::Tokenize)?;
    Reply::of(&json!({"name": model.name, "ready": true}))
}

/// `GET /v2/models/NAME`: its inputs and outputs.
pub fn metadata(app: &App, name: Option<&str>) -> Result<Reply, ApiError> {
    let model = model(app, name, None, Ability::Tokenize)?;
    let tensor = |name: &str, width: Option<usize>| {
        let datatype = if width.is_some() { "FP32" } else { "BYTES" };
        let shape: Vec<i64> = std::iter::once(-1).chain(width.map(|width| width as i64)).collect();
        json!({"name": name, "datatype": datatype, "shape": shape})
    };
    let (required, optional) = input_names(&model.task);
    let inputs: Vec<Value> = required.iter().chain(optional).map(|name| tensor(name, None)).collect();
    let width = match &model.task {
        ServedTask::Embed { .. } => Some(model.width()),
        ServedTask::Classify { labels, .. } => Some(labels.len()),
        ServedTask::Tag { .. } | ServedTask::Intents { .. } | ServedTask::FillMask | ServedTask::Answer { .. } => None,
    };
    let outputs: Vec<Value> = output_names(&model.task).iter().map(|name| tensor(name, width)).collect();
    Reply::of(&json!({
        "name": model.name, "versions": [VERSION], "platform": "distilbert", "inputs": inputs, "outputs": outputs,
    }))
}

/// Names of the inputs that must be given, and of those that may be.
pub fn input_names(task: &ServedTask) -> (&'static [&'static str], &'static [&'static str]) {
    match task {
        ServedTask::Classify { trained_on: Some(TaskKind::Single), .. } => (&["text"], &[]),
        ServedTask::Classify { trained_on: Some(TaskKind::Pair), .. } => (&["text", "text_pair"], &[]),
        ServedTask::Classify { trained_on: None, .. } => (&["text"], &["text_pair"]),
        ServedTask::Answer { .. } => (&["question", "context"], &[]),
        ServedTask::Embed { .. } | ServedTask::Tag { .. } | ServedTask::Intents { .. } | ServedTask::FillMask => {
            (&["text"], &[])
        }
    }
}

/// Names of the outputs.
pub fn output_names(task: &ServedTask) -> &'static [&'static str] {
    match task {
        ServedTask::Embed { .. } => &[EMBEDDING],
        ServedTask::Classify { .. } => &[LOGITS, SCORES],
        ServedTask::Tag { .. } => &["spans"],
        ServedTask::Intents { .. } => &["understood"],
        ServedTask::FillMask => &["fillings"],
        ServedTask::Answer { .. } => &["answer"],
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InferRequest {
    id: Option<String>,
    #[serde(default, deserialize_with = "object_or_null")]
    parameters: Option<Map<String, Value>>,
    #[serde(deserialize_with = "objects")]
    inputs: Vec<InputTensor>,
    #[serde(default, deserialize_with = "objects_or_null")]
    outputs: Option<Vec<WantedOutput>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputTensor {
    name: String,
    #[serde(deserialize_with = "wholes")]
    shape: Vec<u64>,
    datatype: String,
    #[serde(default, deserialize_with = "object_or_null")]
    parameters: Option<Map<String, Value>>,
    data: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedOutput {
    name: String,
    #[serde(default, deserialize_with = "object_or_null")]
    parameters: Option<Map<String, Value>>,
}

/// Of a sentence encoder, as `/embed` has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmbedParameters {
    truncate: Option<bool>,
    truncation_direction: Option<Direction>,
    prompt_name: Option<String>,
    normalize: Option<bool>,
    #[serde(default, deserialize_with = "whole")]
    dimensions: Option<usize>,
    windows: Option<bool>,
}

/// Of a classifier, as `/predict` has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassifyParameters {
    truncate: Option<bool>,
    truncation_direction: Option<Direction>,
    windows: Option<bool>,
}

#[derive(Serialize)]
struct InferResponse<'a> {
    model_name: &'a str,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Said>,
    outputs: Vec<OutputTensor>,
}

/// What is said of an answer beside its tensors.
#[derive(Serialize)]
struct Said {
    truncated_tokens: usize,
}

#[derive(Serialize)]
struct OutputTensor {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<usize>,
    data: Data,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data {
    Numbers(Vec<f32>),
    Texts(Vec<String>),
}

impl OutputTensor {
    fn of_rows(name: &'static str, rows: Vec<Vec<f32>>) -> OutputTensor {
        let shape = vec![rows.len(), rows.first().map_or(0, Vec::len)];
        OutputTensor { name, datatype: "FP32", shape, data: Data::Numbers(rows.concat()) }
    }

    fn of_texts(name: &'static str, texts: Vec<String>) -> OutputTensor {
        OutputTensor { name, datatype: "BYTES", shape: vec![texts.len()], data: Data::Texts(texts) }
    }
}

/// What the answer to a request needs of it.
struct Answering {
    model: Arc<ServedModel>,
    id: Option<String>,
    wanted: Vec<&'static str>,
}

impl Answering {
    fn body(
        self,
        truncated_tokens: usize,
        tensor: impl FnMut(&'static str) -> OutputTensor,
    ) -> Result<Vec<u8>, ApiError> {
        to_json(&InferResponse {
            model_name: &self.model.name,
            model_version: VERSION,
            id: self.id,
            parameters: (truncated_tokens > 0).then_some(Said { truncated_tokens }),
            outputs: self.wanted.into_iter().map(tensor).collect(),
        })
    }

    /// Of a pipeline, which has one output.
    fn of_pipeline(self, pipeline: Pipeline) -> Result<Prepared, ApiError> {
        let lost = pipeline.truncated.iter().sum();
        pipeline.laid_out(move |answers| {
            let mut answers = Some(answers);
            self.body(lost, |name| OutputTensor::of_texts(name, answers.take().unwrap_or_default()))
        })
    }
}

/// `POST /v2/models/NAME/infer`: what the model is for.
pub fn infer(app: &Call, name: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: InferRequest = parse(body)?;
    let model = model(app, name, None, Ability::Tokenize)?;
    let wanted = wanted(&model.task, request.outputs.unwrap_or_default())?;
    let mut given = request.parameters.unwrap_or_default();
    check_binary("parameters", given.shift_remove(BINARY_OUTPUTS))?;
    let (required, optional) = input_names(&model.task);
    let [first, second] = input_texts(app, request.inputs, [required, optional].concat(), required.len())?;
    let answering = Answering { model: Arc::clone(&model), id: request.id, wanted };
    match &model.task {
        ServedTask::Embed { .. } => embed(app, model, answering, &first, parameters(given)?),
        ServedTask::Classify { .. } => classify(app, answering, &first, &second, parameters(given)?),
        ServedTask::Tag { .. } => {
            let asked: TagParameters = parameters(given)?;
            answering.of_pipeline(pipelines::tags(app, model, first, asked)?)
        }
        ServedTask::Intents { .. } => {
            let IntentParameters {} = parameters(given)?;
            answering.of_pipeline(pipelines::understandings(app, model, first)?)
        }
        ServedTask::FillMask => {
            let asked: FillMaskParameters = parameters(given)?;
            answering.of_pipeline(pipelines::fillings(app, model, &first, asked)?)
        }
        ServedTask::Answer { .. } => {
            let asked: AnswerParameters = parameters(given)?;
            let questions = first.into_iter().zip(second);
            let questions = questions.map(|(question, context)| Question { question, context }).collect();
            answering.of_pipeline(pipelines::answers(app, model, questions, asked)?)
        }
    }
}

fn embed(
    app: &Call,
    model: Arc<ServedModel>,
    answering: Answering,
    texts: &[String],
    asked: EmbedParameters,
) -> Result<Prepared, ApiError> {
    let form = VectorForm { normalize: asked.normalize.unwrap_or(true), dimensions: asked.dimensions };
    let form = form.check(&model)?;
    let cut = Cut::or_windows(app, asked.truncate, asked.truncation_direction, asked.windows);
    let prompt = prompt(&model, asked.prompt_name.as_deref())?;
    let (mut read, mut reader) = (Inputs::default(), Reader::new(app, &model, cut));
    for text in texts {
        read.push_text(&mut reader, text, &prompt)?;
    }
    let (rt, windows) = (Arc::clone(&app.rt), read.windows.clone());
    let answer = Box::new(move |encodings: &[Encoding], outputs: Vec<Output>| {
        let vectors = windows.means(outputs.into_iter().map(numbers).collect());
        let mut vectors = Some(vectors.into_iter().map(|vector| form.apply(&rt, vector)).collect());
        answering.body(lost(encodings), |name| OutputTensor::of_rows(name, vectors.take().unwrap_or_default()))
    });
    let characters = texts.iter().map(|text| text.chars().count()).sum();
    ask_of(model, Work::Embedding, read, Done::Embedded, characters, answer)
}

fn classify(
    app: &Call,
    answering: Answering,
    texts: &[String],
    pairs: &[String],
    asked: ClassifyParameters,
) -> Result<Prepared, ApiError> {
    let model = Arc::clone(&answering.model);
    check_kind(&model, !pairs.is_empty())?;
    let cut = Cut::or_windows(app, asked.truncate, asked.truncation_direction, asked.windows);
    let (mut read, mut reader) = (Inputs::default(), Reader::new(app, &model, cut));
    for (place, text) in texts.iter().enumerate() {
        match pairs.get(place) {
            Some(pair) => read.push(reader.pair(text, pair)?),
            None => read.push_text(&mut reader, text, "")?,
        }
    }
    let (of, windows) = (Arc::clone(&model), read.windows.clone());
    let answer = Box::new(move |encodings: &[Encoding], outputs: Vec<Output>| {
        let ServedTask::Classify { problem, temperature, .. } = &of.task else { return Err(ApiError::internal()) };
        let logits: Vec<Vec<f32>> = outputs.into_iter().map(numbers).collect();
        let score = |logits: &Vec<f32>| scores(*problem, &calibrated(*problem, *temperature, logits));
        answering.body(lost(encodings), |name| match name {
            LOGITS => OutputTensor::of_rows(name, windows.means(logits.clone())),
            _ => OutputTensor::of_rows(name, windows.means(logits.iter().map(score).collect())),
        })
    });
    let characters = texts.iter().chain(pairs).map(|text| text.chars().count()).sum();
    ask_of(model, Work::Logits, read, Done::Predicted, characters, answer)
}

fn lost(encodings: &[Encoding]) -> usize {
    encodings.iter().map(|encoding| encoding.truncated_tokens).sum()
}

/// The outputs that are asked for; all if none is.
fn wanted(task: &ServedTask, asked: Vec<WantedOutput>) -> Result<Vec<&'static str>, ApiError> {
    let possible = output_names(task);
    if asked.is_empty() {
        return Ok(possible.to_vec());
    }
    let mut wanted: Vec<&'static str> = Vec::new();
    for output in asked {
        check_tensor_parameters("outputs", output.parameters)?;
        let found = possible.iter().find(|name| **name == output.name && !wanted.contains(name));
        wanted.push(found.ok_or_else(|| {
            ApiError::invalid("outputs", format!("`outputs`: expected some of {}, each once", possible.join(", ")))
        })?);
    }
    Ok(wanted)
}

/// The texts of the tensors of these names, of which the first `required` must be there.
fn input_texts(
    app: &App,
    tensors: Vec<InputTensor>,
    names: Vec<&'static str>,
    required: usize,
) -> Result<[Vec<String>; 2], ApiError> {
    let mut found = [None, None];
    for mut tensor in tensors {
        let place = names.iter().position(|name| *name == tensor.name);
        let place = place.filter(|&place| found[place].is_none()).ok_or_else(|| {
            ApiError::invalid("inputs", format!("`inputs`: expected tensors named {}, each once", names.join(", ")))
        })?;
        check_tensor_parameters("inputs", tensor.parameters.take())?;
        found[place] = Some(texts_of(tensor)?);
    }
    if let Some(missing) = (0..required).find(|&place| found[place].is_none()) {
        return Err(ApiError::invalid("inputs", format!("`inputs`: expected a tensor named {}", names[missing])));
    }
    let [first, second] = found;
    let first = first.unwrap_or_default();
    check_count(app, first.len(), "inputs")?;
    if second.as_ref().is_some_and(|second| second.len() != first.len()) {
        return Err(ApiError::invalid(
            "inputs",
            format!("`inputs`: expected as many texts in {}", names.join(" as in ")),
        ));
    }
    Ok([first, second.unwrap_or_default()])
}

/// A tensor has one parameter: whether it may be binary. Of another, ignoring it would be guessing.
fn check_tensor_parameters(param: &'static str, parameters: Option<Map<String, Value>>) -> Result<(), ApiError> {
    let mut parameters = parameters.unwrap_or_default();
    check_binary(param, parameters.shift_remove(BINARY_TENSOR))?;
    match parameters.keys().next() {
        None => Ok(()),
        Some(found) => {
            let message = format!("`{param}`: expected tensors with no parameter but {BINARY_TENSOR}, found {found:?}");
            Err(ApiError::invalid(param, message))
        }
    }
}

/// That data may be binary is heard, and answered with JSON, which every client of that extension reads.
fn check_binary(param: &'static str, allowed: Option<Value>) -> Result<(), ApiError> {
    match allowed {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(other) => {
            let message = format!("`{param}`: expected true or false of binary data, found {}", kind(&other));
            Err(ApiError::invalid(param, message))
        }
    }
}

/// The texts of a tensor, whose data may be nested as its shape is.
fn texts_of(tensor: InputTensor) -> Result<Vec<String>, ApiError> {
    let wrong = |expected: &str| ApiError::invalid("inputs", format!("`{}`: expected {expected}", tensor.name));
    if tensor.datatype != "BYTES" {
        return Err(wrong("datatype BYTES"));
    }
    let Value::Array(mut data) = tensor.data else { return Err(wrong("a list of texts as data")) };
    let mut texts = Vec::new();
    data.reverse();
    while let Some(value) = data.pop() {
        match value {
            Value::String(text) => texts.push(text),
            Value::Array(list) => data.extend(list.into_iter().rev()),
            other => return Err(wrong(&format!("texts as data, found {}", kind(&other)))),
        }
    }
    let expected = tensor.shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size));
    if tensor.shape.is_empty() || expected != Some(texts.len() as u64) {
        return Err(wrong(&format!("as many texts as the shape says, found {}", texts.len())));
    }
    Ok(texts)
}
