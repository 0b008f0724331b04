//! What routes take.

use super::schema::*;
use super::{
    Body, Document, answer_parameters, direction, escaped, main_route, mask, plain_example, prompt_names,
    scores_single_labels, tag_parameters, trained_on,
};
use crate::model::{Ability, ServedModel, ServedTask};
use crate::routes::inference::{BINARY_OUTPUTS, BINARY_TENSOR, input_names, output_names};
use crate::routes::{ROUTES, Route};
use distilbert::data::examples::TaskKind;
use serde_json::{Value, json};

impl Document<'_> {
    /// What a route takes of this model.
    pub(super) fn body(&self, model: &ServedModel, route: &Route) -> Body {
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
            optional.push(("parameters", or_null(object_in_either_spelling(&[], &parameters, &[]))));
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
            "intents" => (envelope(texts(), optional, Vec::new()), json!({"inputs": "play some jazz"})),
            "fill-mask" => {
                let input = || json!({"type": "string", "pattern": escaped(mask(model))});
                let example = json!({"inputs": format!("the capital of France is {}.", mask(model))});
                (envelope(any_of(vec![input(), some(input())]), optional, self.fill_mask_parameters(model)), example)
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
                let parameters = object_in_either_spelling(&[("candidate_labels", labels)], &parameters, &[]);
                let example =
                    json!({"inputs": "the team won", "parameters": {"candidate_labels": ["sport", "cooking"]}});
                (object(&[("inputs", texts()), ("parameters", parameters)], &optional), example)
            }
            "embeddings" => {
                let formats = one_of_or_null(["float", "base64"].map(str::to_owned).to_vec());
                let optional = [("encoding_format", formats), dimensions(), ("user", or_null(text()))];
                let name = json!({"type": "string", "const": model.name});
                let example = json!({"model": model.name, "input": "a man is eating"});
                (object(&[("model", name), ("input", inputs())], &optional), example)
            }
            _ => (json!({"type": "object"}), json!({})),
        };
        Body { schema, example }
    }

    fn fill_mask_parameters(&self, model: &ServedModel) -> Vec<(&'static str, Value)> {
        // What is not only white space or marks has a token; there are more such texts than these.
        let word = || json!({"type": "string", "pattern": "[!-~]|\\w"});
        let words = json!({"type": "array", "items": word(), "minItems": 1, "maxItems": self.app.config.max_texts});
        vec![
            ("top_k", or_null(from_to(1, model.model.config.encoder.vocab_size))),
            ("targets", any_of(vec![json!({"type": "null"}), word(), words])),
        ]
    }

    fn infer_body(&self, model: &ServedModel) -> Body {
        let most = self.app.config.max_texts;
        let tensor_parameters = || or_null(object(&[], &[(BINARY_TENSOR, flag())]));
        let tensor = |name: &str| {
            let item = match model.task {
                ServedTask::FillMask => json!({"type": "string", "pattern": escaped(mask(model))}),
                ServedTask::Answer { .. } => words(),
                _ => text(),
            };
            let or_list =
                |item: Value| any_of(vec![item.clone(), json!({"type": "array", "items": item, "minItems": 1})]);
            let nested = or_list(or_list(item));
            let description = "As many texts as the product of `shape`, flat or nested.";
            object(
                &[
                    ("name", json!({"type": "string", "const": name})),
                    ("shape", json!({"type": "array", "items": at_least(1), "minItems": 1})),
                    ("datatype", json!({"type": "string", "const": "BYTES"})),
                    (
                        "data",
                        json!({"type": "array", "items": nested, "minItems": 1, "maxItems": most, "description": description}),
                    ),
                ],
                &[("parameters", tensor_parameters())],
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
        let output = object(&[("name", name)], &[("parameters", tensor_parameters())]);
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
            ServedTask::Intents { .. } => Vec::new(),
            ServedTask::FillMask => self.fill_mask_parameters(model),
            ServedTask::Answer { .. } => answer_parameters(model),
        };
        let binary = [(BINARY_OUTPUTS, flag())];
        // As the pipelines take theirs.
        let parameters = or_null(match &model.task {
            ServedTask::Embed { .. } | ServedTask::Classify { .. } => object(&[], &[&parameters[..], &binary].concat()),
            _ => object_in_either_spelling(&[], &parameters, &binary),
        });
        let schema = object(
            &[("inputs", inputs)],
            &[("id", or_null(text())), ("parameters", parameters), ("outputs", or_null(outputs))],
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
}
