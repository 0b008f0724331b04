//! Routes with the JSON of the Hugging Face pipelines: `{"inputs": ..., "parameters": {...}}` in, the pipeline's result out.

mod answer; // a part of a context for a question
mod classify; // labels for a text or a pair
mod fill_mask; // words for masks
mod words; // labels for words, with or without one for the text
mod zero_shot; // labels that the model was never trained on

pub use answer::{AnswerParameters, MAX_ANSWERS, Question, answer, answers};
pub use classify::classify;
pub use fill_mask::{FillMaskParameters, fill_mask, fillings};
pub use words::{IntentParameters, TagParameters, intents, tag, tags, understandings};
pub use zero_shot::zero_shot;

use super::common::{checked, model, numbers, object_or_null, parse};
use super::{Asked, Call, Prepared, tei};
use crate::engine::{Output, Work};
use crate::http::error::ApiError;
use crate::metrics::Done;
use crate::model::{Ability, ServedModel};
use distilbert::predict::text_windows::TextWindows;
use distilbert::tokenizer::Encoding;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// `POST /models/NAME`: the pipeline that the model is for, as Hugging Face's hosted models answer.
pub fn of_model(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let found = model(app, in_path, None, Ability::Tokenize)?;
    let name = Some(found.name.as_str());
    match found.main_ability() {
        Ability::Embed => {
            let peek: Value = parse(body)?;
            let is_pairwise = peek.get("inputs").is_some_and(Value::is_object);
            if is_pairwise { tei::similarity(app, name, body) } else { tei::embed(app, name, body) }
        }
        Ability::Tag => tag(app, name, body),
        Ability::Intents => intents(app, name, body),
        Ability::FillMask => fill_mask(app, name, body),
        Ability::Answer => answer(app, name, body),
        _ => {
            let peek: Value = parse(body)?;
            let has_labels = |name| peek.pointer(&format!("/parameters/{name}")).is_some();
            if has_labels("candidate_labels") || has_labels("candidateLabels") {
                return zero_shot::zero_shot_as(app, name, body, Shape::ListOfLists);
            }
            classify::classify_as(app, name, body, Shape::ListOfLists)
        }
    }
}

/// What the model read and said of it to JSON of each input.
type Answers = Box<dyn FnOnce(&[Encoding], Vec<Output>) -> Result<Vec<String>, ApiError> + Send>;

/// What a pipeline asks of a model, and how it makes an answer of what the model says.
pub struct Pipeline {
    model: Arc<ServedModel>,
    work: Work,
    encodings: Vec<Encoding>,
    characters: usize,
    /// Tokens that each input lost.
    pub truncated: Vec<usize>,
    /// Sequences that each input is read in because it is long.
    windows: Vec<usize>,
    answers: Answers,
}

impl Pipeline {
    /// The question whose answers become one body.
    pub fn laid_out(
        self,
        layout: impl FnOnce(Vec<String>) -> Result<Vec<u8>, ApiError> + Send + 'static,
    ) -> Result<Prepared, ApiError> {
        let Pipeline { model, work, encodings, characters, truncated, windows, answers } = self;
        let answer = Box::new(move |encodings: &[Encoding], outputs: Vec<Output>| layout(answers(encodings, outputs)?));
        let done = Done::Predicted;
        checked(Asked { model, work, encodings, done, characters, truncated, windows, answer })
    }

    /// The question whose answers are listed or, if there is one and `is_single`, that one.
    fn listed(self, is_single: bool) -> Result<Prepared, ApiError> {
        self.laid_out(move |mut answers| match answers.len() {
            1 if is_single => Ok(answers.remove(0).into_bytes()),
            _ => Ok(format!("[{}]", answers.join(",")).into_bytes()),
        })
    }
}

/// JSON of one input's answer.
fn json_text(value: &impl Serialize) -> Result<String, ApiError> {
    serde_json::to_string(value).map_err(|_| ApiError::internal())
}

fn characters(texts: &[String]) -> usize {
    texts.iter().map(|text| text.chars().count()).sum()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(bound(deserialize = "P: DeserializeOwned"))]
struct Envelope<P> {
    model: Option<String>,
    inputs: Value,
    #[serde(default, deserialize_with = "object_or_null")]
    parameters: Option<P>,
}

/// Texts of any length. `answer` makes JSON of a text, its windows, and what the model says of each.
fn in_windows(
    call: &Call,
    model: Arc<ServedModel>,
    texts: Vec<String>,
    overlap: Option<usize>,
    answer: impl Fn(&ServedModel, &str, &TextWindows, &[Vec<f32>]) -> Result<String, ApiError> + Send + 'static,
) -> Result<Pipeline, ApiError> {
    let cut = |text: &String| {
        call.wanted.check()?;
        Ok(TextWindows::new(&model.tokenizer, text, model.max_length, overlap))
    };
    let windows = texts.iter().map(cut).collect::<Result<Vec<_>, ApiError>>()?;
    let sequences: Vec<Vec<Encoding>> = windows.iter().map(TextWindows::sequences).collect();
    let counts: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let (characters, truncated) = (characters(&texts), vec![0; texts.len()]);
    let (of, windows_read) = (Arc::clone(&model), counts.clone());
    let answers = Box::new(move |_: &[Encoding], outputs: Vec<Output>| {
        let mut outputs = outputs.into_iter().map(numbers);
        let of_texts = texts.iter().zip(&windows).zip(counts);
        let all = of_texts.map(|((text, windows), count)| {
            let said: Vec<Vec<f32>> = outputs.by_ref().take(count).collect();
            answer(&of, text, windows, &said)
        });
        all.collect()
    });
    let (work, encodings) = (Work::Logits, sequences.concat());
    Ok(Pipeline { model, work, encodings, characters, truncated, windows: windows_read, answers })
}

/// How labels are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The pipeline's: one label an input, or lists with `top_k`.
    Pipeline,
    /// That of Hugging Face's hosted models: a list of labels for each input, and of labels in a list for one.
    ListOfLists,
}
