//! What routes give.

use super::schema::*;
use super::{Document, labels, main_route};
use crate::model::{Ability, ServedModel};
use crate::routes::inference::{VERSION, output_names};
use crate::routes::{ROUTES, Route};
use serde_json::{Value, json};

impl Document<'_> {
    /// What a route gives of this model.
    pub(super) fn answer(&self, model: &ServedModel, route: &Route) -> Value {
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
                let label = object(&[("label", label()), ("score", number())], &[lost()]);
                any_of(vec![label, labelled(), list(labelled())])
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
            "intents" => {
                let slot = [
                    ("entity_group", text()),
                    ("score", number()),
                    ("word", text()),
                    ("start", at_least(0)),
                    ("end", at_least(0)),
                ];
                let intent = || object(&[("label", label()), ("score", number())], &[]);
                let of_text = || object(&[("intent", intent()), ("slots", list(object(&slot, &[])))], &[]);
                any_of(vec![of_text(), list(of_text())])
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
