//! OpenAI's routes.

use super::common::{VectorForm, ask_of, characters, items, model, numbers, parse, prompt, whole};
use super::reading::{Cut, Inputs, Reader};
use super::{Call, Prepared, Reply, to_json};
use crate::App;
use crate::engine::{Output, Work};
use crate::http::error::ApiError;
use crate::metrics::Done;
use crate::model::{Ability, ServedModel};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use distilbert::tokenizer::Encoding;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmbeddingsRequest {
    model: String,
    input: Value,
    encoding_format: Option<EncodingFormat>,
    #[serde(default, deserialize_with = "whole")]
    dimensions: Option<usize>,
    /// The client's name for its user, which nothing here depends on.
    #[serde(rename = "user")]
    _user: Option<String>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Their little-endian bytes as text.
    Base64,
}

#[derive(Serialize)]
struct Embeddings<'a> {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Numbers,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Numbers {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// `POST /v1/embeddings`: a vector of length one for each input.
pub fn embeddings(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: EmbeddingsRequest = parse(body)?;
    let model = model(app, in_path, Some(&request.model), Ability::Embed)?;
    let form = VectorForm { normalize: true, dimensions: request.dimensions }.check(&model)?;
    let items = items(app, request.input, "input")?;
    let prompt = prompt(&model, None)?;
    let reader = Reader::new(app, &model, Cut::or_windows(app, None, None, None));
    let read = Inputs::of_items(reader, &items, &prompt)?;
    let (rt, of, format) = (Arc::clone(&app.rt), Arc::clone(&model), request.encoding_format.unwrap_or_default());
    let windows = read.windows.clone();
    let answer = Box::new(move |encodings: &[Encoding], outputs: Vec<Output>| {
        let tokens = encodings.iter().map(Encoding::len).sum();
        let vectors = windows.means(outputs.into_iter().map(numbers).collect());
        let data = vectors.into_iter().enumerate().map(|(index, vector)| {
            let vector = form.apply(&rt, vector);
            let embedding = match format {
                EncodingFormat::Float => Numbers::Float(vector),
                EncodingFormat::Base64 => {
                    Numbers::Base64(STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()))
                }
            };
            Embedding { object: "embedding", index, embedding }
        });
        to_json(&Embeddings {
            object: "list",
            data: data.collect(),
            model: &of.name,
            usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
        })
    });
    ask_of(model, Work::Embedding, read, Done::Embedded, characters(&items), answer)
}

/// `GET /v1/models`: all models.
pub fn models(app: &App, _: Option<&str>) -> Result<Reply, ApiError> {
    let data: Vec<Value> = app.models.all().iter().map(|model| describe(app, model)).collect();
    Reply::of(&json!({"object": "list", "data": data}))
}

/// `GET /v1/models/NAME`: one model.
pub fn model_of_name(app: &App, name: Option<&str>) -> Result<Reply, ApiError> {
    let model = model(app, name, None, Ability::Tokenize)?;
    Reply::of(&describe(app, &model))
}

fn describe(app: &App, model: &ServedModel) -> Value {
    let created = app.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    json!({"id": model.name, "object": "model", "created": created, "owned_by": "distilbert"})
}
