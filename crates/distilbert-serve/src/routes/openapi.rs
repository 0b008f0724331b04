//! The OpenAPI document, and a page that shows it. It is made from the routes and from the models that are loaded, so that
//! it names what this server takes now: its models, their prompts, widths and vocabularies, and the server's limits.

use super::inference::{VERSION, input_names, output_names};
use super::pipelines::{MAX_ANSWERS, MAX_FILLINGS};
use super::{Handler, JSON, OF_INFERENCE_MODEL, OF_MODEL, OPENAI_MODEL, ROUTES, Reply, Route};
use crate::App;
use crate::http::error::{ApiError, ErrorKind, Protocol};
use crate::model::{Ability, ServedModel, ServedTask};
use distilbert::data::examples::TaskKind;
use distilbert::predict::zero_shot::Scoring;
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
    // Inside a script element only `<` could end it.
    let document = Document::of(app).to_string().replace('<', "\\u003c");
    let page = include_str!("docs.html").replace("DOCUMENT", &document);
    Ok(Reply { media_type: Some("text/html; charset=utf-8"), ..Reply::json(page.into_bytes()) })
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

    /// What a route takes of this model.
    fn body(&self, model: &ServedModel, route: &Route) -> Body {
        let of_name = |name: &str| ROUTES.iter().find(|route| route.name == name).map(|route| self.body(model, route));
        let several = |names: &[&str]| {
            let bodies: Vec<Body> = names.iter().filter_map(|name| of_name(name)).collect();
            let example = bodies.first().map(|body| body.example.clone()).unwrap_or_default();
            Body { schema: any_of(bodies.into_iter().map(|body| body.schema).collect()), example }
        };
        match route.name {
            "root" => several(&[main_route(model.main_ability())]),
            "pipeline" => match model.main_ability() {
                Ability::Embed => several(&["embed", "similarity"]),
                Ability::Classify | Ability::Rerank if model.can(Ability::ZeroShot) => {
                    several(&["classify", "zero-shot"])
                }
                Ability::Classify | Ability::Rerank => several(&["classify"]),
                ability => several(&[main_route(ability)]),
            },
            "v2-infer" => self.infer_body(model),
            name => self.body_of(model, name),
        }
    }

    fn body_of(&self, model: &ServedModel, name: &str) -> Body {
        let most = self.app.config.max_texts;
        let some = |of: Value| json!({"type": "array", "items": of, "minItems": 1, "maxItems": most});
        let vocab_size = model.model.config.encoder.vocab_size;
        let ids = |vocab_size: usize| json!({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": vocab_size - 1}, "minItems": 1});
        let inputs = || any_of(vec![some_text(), ids(vocab_size), some(any_of(vec![some_text(), ids(vocab_size)]))]);
        let texts = || any_of(vec![text(), some(text())]);
        let prompt = || ("prompt_name", one_of_or_null(prompt_names(model)));
        let cut = || vec![("truncate", or_null(flag())), ("truncation_direction", direction())];
        let windows = || ("windows", or_null(flag()));
        let dimensions = || ("dimensions", or_null(from_to(1, model.width())));
        let mut optional = vec![("model", one_of_or_null(vec![model.name.clone()]))];
        let example = json!({"inputs": ["a man is eating", "someone has a meal"]});
        let envelope = |inputs: Value, mut optional: Vec<(&'static str, Value)>, parameters: Vec<(&str, Value)>| {
            optional.push(("parameters", or_null(object(&[], &parameters))));
            object(&[("inputs", inputs)], &optional)
        };
        let (schema, example) = match name {
            "embed" => {
                optional.extend(cut());
                optional.extend([prompt(), ("normalize", or_null(flag())), dimensions(), windows()]);
                (object(&[("inputs", inputs())], &optional), example)
            }
            "embed_all" => {
                optional.extend(cut());
                optional.push(prompt());
                (object(&[("inputs", inputs())], &optional), example)
            }
            "similarity" => {
                let sentences = json!({"type": "array", "items": some_text(), "minItems": 1, "maxItems": most - 1});
                let inputs = object(&[("source_sentence", some_text()), ("sentences", sentences)], &[]);
                let mut parameters = cut();
                parameters.extend([prompt(), windows()]);
                optional.push(("parameters", or_null(object(&[], &parameters))));
                let example =
                    json!({"inputs": {"source_sentence": "a man is eating", "sentences": ["someone has a meal"]}});
                (object(&[("inputs", inputs)], &optional), example)
            }
            "predict" => {
                let one = || json!({"type": "array", "items": some_text(), "minItems": 1, "maxItems": 1});
                let two = || json!({"type": "array", "items": some_text(), "minItems": 2, "maxItems": 2});
                let either = || json!({"type": "array", "items": some_text(), "minItems": 1, "maxItems": 2});
                let inputs = match trained_on(model) {
                    Some(TaskKind::Single) => any_of(vec![some_text(), one(), some(one())]),
                    Some(TaskKind::Pair) => any_of(vec![two(), some(two())]),
                    _ => any_of(vec![some_text(), either(), some(either())]),
                };
                optional.extend(cut());
                optional.extend([("raw_scores", flag()), windows()]);
                (object(&[("inputs", inputs)], &optional), json!({"inputs": plain_example(model)}))
            }
            "rerank" => {
                optional.extend(cut());
                optional.extend([("raw_scores", flag()), ("return_text", flag())]);
                let example = json!({"query": "who eats?", "texts": ["a man is eating", "the market fell"]});
                (object(&[("query", some_text()), ("texts", some(some_text()))], &optional), example)
            }
            "tokenize" => {
                optional.extend([("add_special_tokens", flag()), prompt()]);
                (object(&[("inputs", any_of(vec![some_text(), some(some_text())]))], &optional), example)
            }
            "decode" => {
                let ids = || ids(model.tokenizer.vocab_size());
                optional.push(("skip_special_tokens", flag()));
                (object(&[("ids", any_of(vec![ids(), some(ids())]))], &optional), json!({"ids": [1, 2, 3]}))
            }
            "classify" => {
                let single = object(&[("text", text())], &[("text_pair", json!({"type": "null"}))]);
                let pair = object(&[("text", text()), ("text_pair", text())], &[]);
                let input = || match trained_on(model) {
                    Some(TaskKind::Single) => any_of(vec![text(), single.clone()]),
                    Some(TaskKind::Pair) => pair.clone(),
                    _ => any_of(vec![text(), single.clone(), pair.clone()]),
                };
                let function = one_of_or_null(["sigmoid", "softmax", "none"].map(str::to_owned).to_vec());
                let parameters = vec![("top_k", or_null(at_least(1))), ("function_to_apply", function), windows()];
                let example = match plain_example(model) {
                    Value::Array(pair) => json!({"text": pair[0], "text_pair": pair[1]}),
                    text => text,
                };
                let schema = envelope(any_of(vec![input(), some(input())]), optional, parameters);
                (schema, json!({"inputs": example, "parameters": {"top_k": 2}}))
            }
            "tag" => {
                let example =
                    json!({"inputs": "Wolfgang lives in Berlin", "parameters": {"aggregation_strategy": "simple"}});
                (envelope(texts(), optional, tag_parameters()), example)
            }
            "fill-mask" => {
                let input = || json!({"type": "string", "pattern": escaped(mask(model))});
                let mut parameters = vec![("top_k", or_null(from_to(1, vocab_size.min(MAX_FILLINGS))))];
                // What is not only white space or marks has a token; there are more such texts than these.
                let word = || json!({"type": "string", "pattern": "[!-~]|\\w"});
                parameters.push(("targets", any_of(vec![json!({"type": "null"}), word(), some(word())])));
                let example = json!({"inputs": format!("the capital of France is {}.", mask(model))});
                (envelope(any_of(vec![input(), some(input())]), optional, parameters), example)
            }
            "answer" => {
                let input = || object(&[("question", words()), ("context", words())], &[]);
                let question = json!({"question": "Who eats?", "context": "A man is eating."});
                (
                    envelope(any_of(vec![input(), some(input())]), optional, answer_parameters(model)),
                    json!({"inputs": question}),
                )
            }
            "zero-shot" => {
                let labels = any_of(vec![json!({"type": "string", "pattern": "[^,\\s]"}), some(some_text())]);
                let template = or_null(json!({"type": "string", "pattern": "\\{\\}"}));
                let mut parameters = vec![("hypothesis_template", template)];
                if scores_single_labels(model) {
                    parameters.push(("multi_label", or_null(flag())));
                }
                let parameters = object(&[("candidate_labels", labels)], &parameters);
                let example =
                    json!({"inputs": "the team won", "parameters": {"candidate_labels": ["sport", "cooking"]}});
                (object(&[("inputs", texts()), ("parameters", parameters)], &optional), example)
            }
            "embeddings" => {
                let formats = json!({"type": "string", "enum": ["float", "base64"]});
                let optional = [("encoding_format", formats), dimensions(), ("user", or_null(text()))];
                let name = json!({"type": "string", "const": model.name});
                let example = json!({"model": model.name, "input": "a man is eating"});
                (object(&[("model", name), ("input", inputs())], &optional), example)
            }
            _ => (json!({"type": "object"}), json!({})),
        };
        Body { schema, example }
    }

    fn infer_body(&self, model: &ServedModel) -> Body {
        let most = self.app.config.max_texts;
        let tensor = |name: &str| {
            let item = match model.task {
                ServedTask::FillMask => json!({"type": "string", "pattern": escaped(mask(model))}),
                ServedTask::Answer { .. } => words(),
                _ => text(),
            };
            let description = "As many texts as the product of `shape`, flat or nested.";
            object(
                &[
                    ("name", json!({"type": "string", "const": name})),
                    ("shape", json!({"type": "array", "items": at_least(1), "minItems": 1})),
                    ("datatype", json!({"type": "string", "const": "BYTES"})),
                    (
                        "data",
                        json!({"type": "array", "items": item, "minItems": 1, "maxItems": most, "description": description}),
                    ),
                ],
                &[("parameters", json!({"type": "object", "maxProperties": 0}))],
            )
        };
        let (required, optional) = input_names(&model.task);
        let names = match trained_on(model) {
            Some(TaskKind::Single) => required.to_vec(),
            _ => [required, optional].concat(),
        };
        let least = if trained_on(model) == Some(TaskKind::Pair) { 2 } else { required.len() };
        let tensors: Vec<Value> = names.iter().map(|name| tensor(name)).collect();
        let inputs = json!({
            "type": "array", "items": any_of(tensors), "minItems": least, "maxItems": names.len(),
            "description": "Each name once.",
        });
        let output_names = output_names(&model.task);
        let name = one_of(output_names.iter().map(|&name| name.to_owned()).collect());
        let output = object(&[("name", name)], &[("parameters", json!({"type": "object", "maxProperties": 0}))]);
        let outputs = json!({"type": "array", "items": output, "maxItems": output_names.len()});
        let parameters = match &model.task {
            ServedTask::Embed { .. } => vec![
                ("truncate", or_null(flag())),
                ("truncation_direction", direction()),
                ("prompt_name", one_of_or_null(prompt_names(model))),
                ("normalize", or_null(flag())),
                ("dimensions", or_null(from_to(1, model.width()))),
                ("windows", or_null(flag())),
            ],
            ServedTask::Classify { .. } => {
                vec![("truncate", or_null(flag())), ("truncation_direction", direction()), ("windows", or_null(flag()))]
            }
            ServedTask::Tag { .. } => tag_parameters(),
            ServedTask::FillMask => {
                let most = model.model.config.encoder.vocab_size.min(MAX_FILLINGS);
                vec![("top_k", or_null(from_to(1, most)))]
            }
            ServedTask::Answer { .. } => answer_parameters(model),
        };
        let schema = object(
            &[("inputs", inputs)],
            &[("id", or_null(text())), ("parameters", object(&[], &parameters)), ("outputs", outputs)],
        );
        let tensor =
            |name: &&str, text: String| json!({"name": name, "shape": [1], "datatype": "BYTES", "data": [text]});
        let example_text = match &model.task {
            ServedTask::FillMask => format!("the capital of France is {}.", mask(model)),
            _ => "a man is eating".to_owned(),
        };
        let given: Vec<Value> = names[..least].iter().map(|name| tensor(name, example_text.clone())).collect();
        Body { schema, example: json!({"inputs": given}) }
    }

    /// What a route gives of this model.
    fn answer(&self, model: &ServedModel, route: &Route) -> Value {
        let of_name =
            |name: &str| ROUTES.iter().find(|route| route.name == name).map(|route| self.answer(model, route));
        let several = |names: &[&str]| any_of(names.iter().filter_map(|name| of_name(name)).collect());
        let vectors = || list(list(number()));
        let label = || one_of(labels(model));
        let lost = || ("truncated_tokens", at_least(1));
        match route.name {
            "root" => several(&[main_route(model.main_ability())]),
            "pipeline" => match model.main_ability() {
                Ability::Embed => several(&["embed", "similarity"]),
                // As Hugging Face's hosted models answer; of zero-shot classification one text is in no list.
                Ability::Classify | Ability::Rerank => {
                    let labelled = || list(object(&[("label", text()), ("score", number())], &[lost()]));
                    let of_one = model.can(Ability::ZeroShot).then(labelled);
                    any_of(of_one.into_iter().chain([list(labelled())]).collect())
                }
                ability => several(&[main_route(ability)]),
            },
            "embed" => vectors(),
            "embed_all" => list(vectors()),
            "similarity" => list(number()),
            "predict" => {
                let scores = || list(object(&[("score", number()), ("label", label())], &[]));
                any_of(vec![scores(), list(scores())])
            }
            "rerank" => list(object(&[("index", at_least(0)), ("score", number())], &[("text", text())])),
            "tokenize" => {
                let place = || or_null(at_least(0));
                let fields =
                    [("id", at_least(0)), ("text", text()), ("special", flag()), ("start", place()), ("stop", place())];
                list(list(object(&fields, &[])))
            }
            "decode" => list(text()),
            "classify" => {
                let labelled = || list(object(&[("label", label()), ("score", number())], &[lost()]));
                any_of(vec![labelled(), list(labelled())])
            }
            "tag" => {
                let shared = [("score", number()), ("word", text()), ("start", at_least(0)), ("end", at_least(0))];
                let token = [("entity", label()), ("index", at_least(1))];
                let spans = || {
                    any_of(vec![
                        list(object(&[&token[..], &shared[..]].concat(), &[])),
                        list(object(&[&[("entity_group", text())], &shared[..]].concat(), &[])),
                    ])
                };
                any_of(vec![spans(), list(spans())])
            }
            "fill-mask" => {
                let fields = [("score", number()), ("token", at_least(0)), ("token_str", text()), ("sequence", text())];
                let of_mask = || list(object(&fields, &[lost()]));
                let of_text = || any_of(vec![of_mask(), list(of_mask())]);
                any_of(vec![of_text(), list(of_text())])
            }
            "answer" => {
                let fields = [("score", number()), ("start", at_least(0)), ("end", at_least(0)), ("answer", text())];
                let answer = || object(&fields, &[lost()]);
                let of_question = || any_of(vec![answer(), list(answer())]);
                any_of(vec![of_question(), list(of_question())])
            }
            "zero-shot" => {
                let fields = [("sequence", text()), ("labels", list(text())), ("scores", list(number()))];
                let judged = || object(&fields, &[lost()]);
                any_of(vec![judged(), list(judged())])
            }
            "embeddings" => {
                let vector = any_of(vec![list(number()), text()]);
                let fields = [("object", constant("embedding")), ("index", at_least(0)), ("embedding", vector)];
                let usage = object(&[("prompt_tokens", at_least(0)), ("total_tokens", at_least(0))], &[]);
                let fields = [
                    ("object", constant("list")),
                    ("data", list(object(&fields, &[]))),
                    ("model", text()),
                    ("usage", usage),
                ];
                object(&fields, &[])
            }
            "v2-infer" => {
                let tensor = object(
                    &[
                        ("name", one_of(output_names(&model.task).iter().map(|&name| name.to_owned()).collect())),
                        ("datatype", one_of(vec!["FP32".to_owned(), "BYTES".to_owned()])),
                        ("shape", list(at_least(0))),
                        ("data", any_of(vec![list(number()), list(text())])),
                    ],
                    &[],
                );
                object(
                    &[("model_name", text()), ("model_version", constant(VERSION)), ("outputs", list(tensor))],
                    &[("id", text()), ("parameters", object(&[lost()], &[]))],
                )
            }
            _ => json!({"type": "object"}),
        }
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
            let model = || {
                json!({
                    "model_id": text(), "served_model_name": text(), "model_type": any_object(),
                    "model_dtype": one_of(["float32", "bfloat16", "int8"].map(str::to_owned).to_vec()),
                    "max_input_length": at_least(1), "parity": or_null(any_object()),
                })
            };
            let mut all = model();
            for limit in ["max_concurrent_requests", "max_batch_tokens", "max_client_batch_size"] {
                all[limit] = at_least(1);
            }
            all["auto_truncate"] = flag();
            all["version"] = text();
            let required: Vec<String> = all.as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default();
            if !of_one {
                all["models"] = list(json!({"type": "object", "properties": model()}));
            }
            json!({"type": "object", "properties": all, "required": required})
        }
        _ => any_object(),
    }
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
        ServedTask::Classify { labels, .. } | ServedTask::Tag { labels } => labels.clone(),
        ServedTask::FillMask | ServedTask::Answer { .. } | ServedTask::Embed { .. } => Vec::new(),
    }
}

/// Whether candidates of zero-shot classification may be scored by themselves.
fn scores_single_labels(model: &ServedModel) -> bool {
    match &model.task {
        ServedTask::Classify { problem, labels, .. } => Scoring::of(*problem, labels, true).is_ok(),
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
    vec![("aggregation_strategy", one_of_or_null(strategies)), ("ignore_labels", or_null(list(text())))]
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
    ]
}

fn direction() -> Value {
    one_of_or_null(["Left", "left", "Right", "right"].map(str::to_owned).to_vec())
}

fn text() -> Value {
    json!({"type": "string"})
}

fn some_text() -> Value {
    json!({"type": "string", "minLength": 1})
}

/// A text that is not only white space.
fn words() -> Value {
    json!({"type": "string", "pattern": "\\S"})
}

fn number() -> Value {
    json!({"type": "number"})
}

fn at_least(least: usize) -> Value {
    json!({"type": "integer", "minimum": least})
}

fn from_to(least: usize, most: usize) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn constant(text: &str) -> Value {
    json!({"type": "string", "const": text})
}

fn one_of(texts: Vec<String>) -> Value {
    json!({"type": "string", "enum": texts})
}

fn one_of_or_null(texts: Vec<String>) -> Value {
    json!({"enum": texts.into_iter().map(Value::from).chain([Value::Null]).collect::<Vec<_>>()})
}

fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

fn or_null(schema: Value) -> Value {
    any_of(vec![schema, json!({"type": "null"})])
}

/// One of these; each once.
fn any_of(schemas: Vec<Value>) -> Value {
    let mut distinct: Vec<Value> = Vec::new();
    for schema in schemas {
        if !distinct.contains(&schema) {
            distinct.push(schema);
        }
    }
    match distinct.len() {
        1 => distinct.remove(0),
        _ => json!({"anyOf": distinct}),
    }
}

/// An object of exactly these keys, of which the optional ones may be missing.
fn object(required: &[(&str, Value)], optional: &[(&str, Value)]) -> Value {
    let properties: Map<String, Value> =
        required.iter().chain(optional).map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    let names: Vec<&str> = required.iter().map(|(name, _)| *name).collect();
    json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
}

/// A pattern that matches a text itself.
fn escaped(text: &str) -> String {
    let escape = |char: char| r"\^$.*+?()[]{}|/".contains(char).then_some('\\').into_iter().chain([char]);
    text.chars().flat_map(escape).collect()
}
