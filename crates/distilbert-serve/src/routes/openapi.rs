//! The OpenAPI document, and a page that shows it. It is made from the routes and from the models that are loaded, so that
//! it names what this server takes now: its models, their prompts, widths and vocabularies, and the server's limits.

mod answers; // what routes give
mod bodies; // what routes take
pub mod management; // the same of the door of management
mod schema; // schemas of values

use super::inference::VERSION;
use super::pipelines::MAX_ANSWERS;
use super::{Handler, JSON, OF_INFERENCE_MODEL, OF_MODEL, OPENAI_MODEL, ROUTES, Reply, Route};
use crate::App;
use crate::http::error::{ApiError, ErrorKind, Protocol};
use crate::model::{Ability, ServedModel, ServedTask};
use distilbert::data::examples::TaskKind;
use distilbert::predict::zero_shot::{Scoring, Verdicts};
use schema::*;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Under which the routes stand that belong to no model.
const SERVER_TAG: &str = "server";

/// `GET /openapi.json`.
pub fn document(app: &App, _: Option<&str>) -> Result<Reply, ApiError> {
    Reply::of(&Document::of(app))
}

/// `GET /docs`: the document as a page that loads nothing from elsewhere.
pub fn page(app: &App, _: Option<&str>) -> Result<Reply, ApiError> {
    Ok(page_of(&Document::of(app)))
}

fn page_of(document: &Value) -> Reply {
    // Inside a script element only `<` could end it.
    let document = document.to_string().replace('<', "\\u003c");
    let page = include_str!("docs.html").replace("DOCUMENT", &document);
    Reply { media_type: Some("text/html; charset=utf-8"), ..Reply::json(page.into_bytes()) }
}

/// A document on its way.
struct Document<'a> {
    app: &'a App,
    models: Vec<Arc<ServedModel>>,
    paths: Map<String, Value>,
    schemas: Map<String, Value>,
}

/// The body of a request.
struct Body {
    schema: Value,
    example: Value,
}

impl<'a> Document<'a> {
    fn of(app: &'a App) -> Value {
        let models = app.models.all();
        let mut document = Document { app, models, paths: Map::new(), schemas: error_schemas() };
        document.routes();
        for model in document.models.clone() {
            document.routes_of(&model);
        }
        let mut tags = vec![json!({"name": SERVER_TAG, "description": "All models together."})];
        tags.extend(document.models.iter().map(|model| json!({"name": model.name, "description": model.source})));
        let mut components = json!({"schemas": document.schemas});
        if app.keys.is_some() {
            components["securitySchemes"] = json!({"key": {"type": "http", "scheme": "bearer"}});
        }
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "distilbert",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "Where a text is longer than its model takes, `x-truncated-tokens` and \
                                `x-truncated-inputs` say what was cut. Every answer has `x-request-id`.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "tags": tags,
            "paths": document.paths,
            "components": components,
        })
    }

    /// Routes without a model in their path. Those that no model can answer are left out.
    fn routes(&mut self) {
        for route in ROUTES {
            if let Handler::Get(_) = route.handler {
                self.add_get(route, route.path.to_owned(), SERVER_TAG);
                continue;
            }
            let able: Vec<Arc<ServedModel>> =
                self.models.iter().filter(|model| answers(model, route)).cloned().collect();
            let Some(first) = able.first() else { continue };
            let must_name = able.len() > 1;
            let schemas = able.iter().map(|model| match must_name {
                true => json!({"allOf": [reference(&schema_name(model, route)), {"required": ["model"], "properties": {"model": text()}}]}),
                false => reference(&schema_name(model, route)),
            });
            let mut example = self.body(first, route).example;
            if must_name {
                example["model"] = json!(first.name);
            }
            let body = Body { schema: any_of(schemas.collect()), example };
            let given = any_of(able.iter().map(|model| self.answer(model, route)).collect());
            self.add_post(route, route.path.to_owned(), SERVER_TAG, body, given);
        }
    }

    /// Routes with this model in their path.
    fn routes_of(&mut self, model: &ServedModel) {
        for route in ROUTES.iter().filter(|route| answers(model, route)) {
            let Body { schema, example } = self.body(model, route);
            self.schemas.insert(schema_name(model, route), schema);
            if route.may_name_model() {
                let body = Body { schema: reference(&schema_name(model, route)), example };
                let given = self.answer(model, route);
                self.add_post(route, format!("/models/{}{}", model.name, route.path), &model.name, body, given);
            }
        }
        let path = format!("/models/{}", model.name);
        for route in ROUTES.iter().filter(|route| route.name == "info") {
            self.add_get(route, format!("{path}{}", route.path), &model.name);
        }
        self.add_get(&OPENAI_MODEL, format!("/v1/models/{}", model.name), &model.name);
        for route in &OF_MODEL {
            self.add(route, path.clone(), model);
        }
        for version in [String::new(), format!("/versions/{VERSION}")] {
            for route in &OF_INFERENCE_MODEL {
                self.add(route, format!("/v2/models/{}{version}{}", model.name, route.path), model);
            }
        }
    }

    fn add(&mut self, route: &Route, path: String, model: &ServedModel) {
        match route.handler {
            Handler::Get(_) => self.add_get(route, path, &model.name),
            Handler::Post(_) => {
                let (body, given) = (self.body(model, route), self.answer(model, route));
                self.add_post(route, path, &model.name, body, given);
            }
        }
    }

    fn add_get(&mut self, route: &Route, path: String, tag: &str) {
        let (media_type, schema) = match route.name {
            "health" | "ready" | "live" => (None, Value::Null),
            "metrics" => (Some("text/plain"), text()),
            "docs" => (Some("text/html"), text()),
            _ => (Some(JSON), get_schema(route.name, path.contains("/models/"))),
        };
        let ok = match media_type {
            None => json!({"description": "It is so; the body is empty."}),
            Some(media_type) => json!({"description": "The answer.", "content": {media_type: {"schema": schema}}}),
        };
        let mut errors = vec![ErrorKind::Unhealthy];
        if tag != SERVER_TAG {
            errors.push(ErrorKind::ModelNotFound);
        }
        let operation = self.operation(route, &path, tag, ok, &errors);
        self.insert(path, "get", operation);
    }

    fn add_post(&mut self, route: &Route, path: String, tag: &str, body: Body, given: Value) {
        let whole = || json!({"schema": {"type": "integer", "minimum": 0}});
        let ok = json!({
            "description": "The answer.",
            "headers": {
                "x-truncated-tokens": whole(),
                "x-truncated-inputs": {"description": "`input:tokens` of each that was cut.", "schema": text()},
                "x-windows": {"description": "`input:windows` of each that was read in several.", "schema": text()},
                "x-compute-tokens": whole(),
            },
            "content": {JSON: {"schema": given}},
        });
        let errors = [
            ErrorKind::Syntax,
            ErrorKind::Validation,
            ErrorKind::Backend,
            ErrorKind::ModelNotFound,
            ErrorKind::SlowBody,
            ErrorKind::TooLarge,
            ErrorKind::MediaType,
            ErrorKind::Overloaded,
            ErrorKind::Internal,
            ErrorKind::Unhealthy,
            ErrorKind::Timeout,
        ];
        let mut operation = self.operation(route, &path, tag, ok, &errors);
        let content = json!({JSON: {"schema": body.schema, "example": body.example}});
        operation["requestBody"] = json!({"required": true, "content": content});
        self.insert(path, "post", operation);
    }

    fn operation(&self, route: &Route, path: &str, tag: &str, ok: Value, errors: &[ErrorKind]) -> Value {
        let protocol = Protocol::of(path);
        let mut responses = Map::from_iter([("200".to_owned(), ok)]);
        let needs_key = self.app.keys.is_some() && !route.is_open();
        for kind in errors.iter().copied().chain(needs_key.then_some(ErrorKind::Unauthorized)) {
            let content = json!({JSON: {"schema": reference(error_schema(protocol))}});
            let mut response = json!({"description": kind.meaning(), "content": content});
            if kind == ErrorKind::Overloaded {
                response["headers"] =
                    json!({"retry-after": {"description": "Seconds.", "schema": {"type": "integer"}}});
            }
            // Kinds that share a status share what they look like too.
            responses.entry(kind.status(protocol).to_string()).or_insert(response);
        }
        let mut operation = json!({"tags": [tag], "summary": summary(route.name), "responses": responses});
        if needs_key {
            operation["security"] = json!([{"key": []}]);
        }
        operation
    }

    fn insert(&mut self, path: String, method: &str, operation: Value) {
        let item = self.paths.entry(path).or_insert_with(|| json!({}));
        item[method] = operation;
    }
}

/// Whether a route asks a model, and this one can answer.
fn answers(model: &ServedModel, route: &Route) -> bool {
    let needed = match route.name {
        "root" => return true,
        "embed" | "embed_all" | "similarity" | "embeddings" => Ability::Embed,
        "predict" | "classify" => Ability::Classify,
        "rerank" => Ability::Rerank,
        "tag" => Ability::Tag,
        "intents" => Ability::Intents,
        "fill-mask" => Ability::FillMask,
        "answer" => Ability::Answer,
        "zero-shot" => Ability::ZeroShot,
        "tokenize" | "decode" => Ability::Tokenize,
        _ => return false,
    };
    model.can(needed)
}

/// The route that a model is first of all for, at `/`.
fn main_route(ability: Ability) -> &'static str {
    match ability {
        Ability::Embed => "embed",
        Ability::Classify => "predict",
        Ability::Rerank => "rerank",
        Ability::ZeroShot => "zero-shot",
        Ability::Tag => "tag",
        Ability::Intents => "intents",
        Ability::FillMask => "fill-mask",
        Ability::Answer => "answer",
        Ability::Tokenize => "tokenize",
    }
}

fn summary(name: &str) -> &'static str {
    match name {
        "health" | "ready" => "Whether requests should be sent here.",
        "live" => "Whether the process works.",
        "metrics" => "Metrics for Prometheus.",
        "info" => "What is served, and its limits.",
        "docs" => "This document as a page.",
        "openapi" => "This document.",
        "models" => "What is served, as OpenAI says it.",
        "v2" => "What the server is.",
        "v2-model" => "The model's inputs and outputs.",
        "v2-model-ready" => "Whether the model is ready.",
        "v2-infer" => "What the model is for, by the Open Inference Protocol.",
        "root" => "What the model is for.",
        "pipeline" => "What the model is for, as Hugging Face's hosted models answer.",
        "embed" => "A vector for each input.",
        "embed_all" => "The states of every token of each input.",
        "similarity" => "The cosine between a text and each of others.",
        "predict" => "All labels of a text or a pair (a list of two), or of several, the likeliest first.",
        "rerank" => "Texts by how well they answer a query, the best first.",
        "tokenize" => "The tokens of each text, with the bytes that they cover.",
        "decode" => "The texts of lists of ids.",
        "classify" => "The label of each text or, with `top_k`, its labels.",
        "tag" => "Named entities, parts of speech and other labels of words.",
        "intents" => "What each text asks for, and the words that say the particulars.",
        "fill-mask" => "What stands at the masks of each text.",
        "answer" => "Answers to questions, from a context each.",
        "zero-shot" => "Which of some labels fits each text.",
        "embeddings" => "A vector for each input, as OpenAI gives it.",
        _ => "",
    }
}

/// What a route without a body gives.
fn get_schema(name: &str, of_one: bool) -> Value {
    let any_object = || json!({"type": "object"});
    match name {
        "models" => {
            let fields =
                [("id", text()), ("object", constant("model")), ("created", at_least(0)), ("owned_by", text())];
            let model = object(&fields, &[]);
            if of_one { model } else { object(&[("object", constant("list")), ("data", list(model))], &[]) }
        }
        "v2" => object(&[("name", text()), ("version", text()), ("extensions", list(text()))], &[]),
        "v2-model" => {
            let shape = list(json!({"type": "integer", "minimum": -1}));
            let tensors = || list(object(&[("name", text()), ("datatype", text()), ("shape", shape.clone())], &[]));
            let fields = [
                ("name", text()),
                ("versions", list(text())),
                ("platform", text()),
                ("inputs", tensors()),
                ("outputs", tensors()),
            ];
            object(&fields, &[])
        }
        "v2-model-ready" => object(&[("name", text()), ("ready", flag())], &[]),
        "info" => {
            let mut all = described_model();
            for limit in ["max_concurrent_requests", "max_batch_tokens", "max_client_batch_size"] {
                all[limit] = at_least(1);
            }
            all["auto_truncate"] = flag();
            all["version"] = text();
            let required: Vec<String> = all.as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default();
            if !of_one {
                all["models"] = list(json!({"type": "object", "properties": described_model()}));
            }
            json!({"type": "object", "properties": all, "required": required})
        }
        _ => any_object(),
    }
}

/// What is said of a model.
fn described_model() -> Value {
    let any_object = || json!({"type": "object"});
    json!({
        "model_id": text(), "served_model_name": text(), "model_type": any_object(),
        "model_dtype": one_of(["float32", "bfloat16", "int8"].map(str::to_owned).to_vec()),
        "max_input_length": at_least(1), "parity": or_null(any_object()),
    })
}

fn error_schemas() -> Map<String, Value> {
    let openai = [("message", text()), ("type", text()), ("param", or_null(text())), ("code", or_null(text()))];
    Map::from_iter([
        (error_schema(Protocol::Tei).to_owned(), object(&[("error", text()), ("error_type", text())], &[])),
        (error_schema(Protocol::OpenAi).to_owned(), object(&[("error", object(&openai, &[]))], &[])),
        (error_schema(Protocol::Inference).to_owned(), object(&[("error", text())], &[])),
    ])
}

fn error_schema(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tei => "Error",
        Protocol::OpenAi => "OpenAiError",
        Protocol::Inference => "InferenceError",
    }
}

/// No model's name begins so: `error_schemas` have no dot.
fn schema_name(model: &ServedModel, route: &Route) -> String {
    format!("{}.{}", model.name, route.name)
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn trained_on(model: &ServedModel) -> Option<TaskKind> {
    match &model.task {
        ServedTask::Classify { trained_on, .. } => *trained_on,
        _ => None,
    }
}

/// A text, or a pair for a model of pairs.
fn plain_example(model: &ServedModel) -> Value {
    match trained_on(model) {
        Some(TaskKind::Pair) => json!(["a man is eating", "someone has a meal"]),
        _ => json!("a warm, funny film"),
    }
}

fn labels(model: &ServedModel) -> Vec<String> {
    match &model.task {
        ServedTask::Classify { labels, .. } | ServedTask::Tag { labels, .. } => labels.clone(),
        ServedTask::Intents { intents, .. } => intents.clone(),
        ServedTask::FillMask | ServedTask::Answer { .. } | ServedTask::Embed { .. } => Vec::new(),
    }
}

/// Whether candidates of zero-shot classification may be scored by themselves.
fn scores_single_labels(model: &ServedModel) -> bool {
    match &model.task {
        ServedTask::Classify { problem, labels, .. } => {
            Scoring::of(*problem, labels, Verdicts::default(), true).is_ok()
        }
        _ => false,
    }
}

fn prompt_names(model: &ServedModel) -> Vec<String> {
    match &model.task {
        ServedTask::Embed { settings } => settings.prompts.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

fn mask(model: &ServedModel) -> &str {
    model.tokenizer.token(model.tokenizer.special().mask).unwrap_or_default()
}

fn tag_parameters() -> Vec<(&'static str, Value)> {
    let strategies = ["none", "simple", "first", "average", "max"].map(str::to_owned).to_vec();
    vec![
        ("aggregation_strategy", one_of_or_null(strategies)),
        ("ignore_labels", or_null(list(text()))),
        ("stride", or_null(at_least(0))),
    ]
}

fn answer_parameters(model: &ServedModel) -> Vec<(&'static str, Value)> {
    let most = model.model.config.encoder.max_positions;
    // A token for the question, two for the context.
    let least = model.tokenizer.special_tokens_around(true) + 3;
    vec![
        ("top_k", or_null(from_to(1, MAX_ANSWERS))),
        ("max_answer_len", or_null(from_to(1, most))),
        ("handle_impossible_answer", or_null(flag())),
        ("doc_stride", or_null(at_least(0))),
        ("max_seq_len", or_null(from_to(least, most))),
        ("max_question_len", or_null(at_least(0))),
        ("align_to_words", or_null(json!({"type": "boolean", "const": true}))),
    ]
}

fn direction() -> Value {
    one_of_or_null(["Left", "left", "Right", "right"].map(str::to_owned).to_vec())
}

/// A pattern that matches a text itself.
fn escaped(text: &str) -> String {
    let escape = |char: char| r"\^$.*+?()[]{}|/".contains(char).then_some('\\').into_iter().chain([char]);
    text.chars().flat_map(escape).collect()
}
