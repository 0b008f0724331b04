//! Routes with the JSON of the Hugging Face pipelines: `{"inputs": ..., "parameters": {...}}` in, the pipeline's result out.

use super::common::{
    Cut, Inputs, ask_of, check_count, checked, encode, encode_pair, kind, model, numbers, object_or_null, parse, texts,
    whole,
};
use super::tei::check_kind;
use super::{Asked, Prepared, tei, to_json};
use crate::App;
use crate::engine::{Output, Work};
use crate::http::error::ApiError;
use crate::metrics::Done;
use crate::model::{Ability, ServedModel, ServedTask};
use distilbert::data::examples::Problem;
use distilbert::data::questions::{QuestionSet, QuestionWindows, WindowConfig};
use distilbert::heads::tokens::starts_then_ends;
use distilbert::predict::answers::{Ranking, RankingConfig};
use distilbert::predict::classify::{ScoreFunction, ScoredLabel, calibrated, ranked, scores_by};
use distilbert::predict::fill_mask::{fill, mask_places, target};
use distilbert::predict::intents::{Names, understood};
use distilbert::predict::spans::{Aggregation, spans};
use distilbert::predict::text_windows::TextWindows;
use distilbert::predict::zero_shot::{DEFAULT_TEMPLATE, Judged, PLACEHOLDER, Scoring, Verdicts};
use distilbert::tokenizer::Encoding;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// What the pipelines give for each mask unless told otherwise.
const DEFAULT_FILLINGS: usize = 5;

/// Answers to one question.
pub const MAX_ANSWERS: usize = 100;

/// What one request may get for all its masks: each comes with its whole text.
pub const MAX_FILLINGS: usize = 10_000;

/// `POST /models/NAME`: the pipeline that the model is for, as Hugging Face's hosted models answer.
pub fn of_model(app: &App, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
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
            if peek.pointer("/parameters/candidate_labels").is_some() {
                return zero_shot_as(app, name, body, Shape::ListOfLists);
            }
            classify_as(app, name, body, Shape::ListOfLists)
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

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassifyParameters {
    /// Absent, `null` and a number differ.
    #[serde(default, deserialize_with = "present")]
    top_k: Option<Option<usize>>,
    #[serde(alias = "functionToApply")]
    function_to_apply: Option<ScoreFunction>,
    windows: Option<bool>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<usize>>, D::Error> {
    whole(deserializer).map(Some)
}

/// How labels are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The pipeline's: one label an input, or lists with `top_k`.
    Pipeline,
    /// That of Hugging Face's hosted models: a list of labels for each input, and of labels in a list for one.
    ListOfLists,
}

/// `POST /classify`: text-classification.
pub fn classify(app: &App, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    classify_as(app, in_path, body, Shape::Pipeline)
}

fn classify_as(app: &App, in_path: Option<&str>, body: &[u8], shape: Shape) -> Result<Prepared, ApiError> {
    let request: Envelope<ClassifyParameters> = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Classify)?;
    let is_object = request.inputs.is_object();
    let (inputs, is_single) = texts_or_pairs(app, request.inputs)?;
    let ClassifyParameters { top_k, function_to_apply, windows } = request.parameters.unwrap_or_default();
    if top_k == Some(Some(0)) {
        return Err(ApiError::invalid("parameters", "`top_k`: expected 1 or more, or null for all, found 0"));
    }
    let cut = Cut::or_windows(app, None, None, windows);
    let mut read = Inputs::default();
    for (text, pair) in &inputs {
        check_kind(&model, pair.is_some())?;
        match pair {
            Some(pair) => read.push(encode_pair(&model, text, pair, cut)?),
            None => read.push_text(&model, text, "", cut)?,
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

/// Of [`tag`].
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagParameters {
    #[serde(alias = "aggregationStrategy")]
    aggregation_strategy: Option<Strategy>,
    #[serde(alias = "ignoreLabels")]
    ignore_labels: Option<Vec<String>>,
    /// By how much the pipeline's windows overlap, without which it cuts. Here they always do, by a quarter.
    #[serde(default, rename = "stride", deserialize_with = "whole")]
    _stride: Option<usize>,
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
pub fn tag(app: &App, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: Envelope<TagParameters> = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Tag)?;
    let (texts, is_single) = texts(app, request.inputs, "inputs")?;
    tags(model, texts, request.parameters.unwrap_or_default()).listed(is_single)
}

/// The spans of each text.
pub fn tags(model: Arc<ServedModel>, texts: Vec<String>, parameters: TagParameters) -> Pipeline {
    let ignored = parameters.ignore_labels.unwrap_or_else(|| vec!["O".to_owned()]);
    let aggregation = match parameters.aggregation_strategy {
        None | Some(Strategy::None) => Aggregation::None,
        Some(Strategy::Simple) => Aggregation::Simple,
        Some(Strategy::First) => Aggregation::First,
        Some(Strategy::Average) => Aggregation::Average,
        Some(Strategy::Max) => Aggregation::Max,
    };
    in_windows(model, texts, move |model, text, windows, said| {
        let ServedTask::Tag { labels, temperature } = &model.task else { return Err(ApiError::internal()) };
        let said: Vec<Vec<f32>> = said.iter().map(|said| calibrated(Problem::Tags, *temperature, said)).collect();
        let tokens = windows.tokens(&said, labels.len());
        json_text(&spans(text, &tokens, labels, &model.tokenizer, aggregation, &ignored))
    })
}

/// Texts of any length. `answer` makes JSON of a text, its windows, and what the model says of each.
fn in_windows(
    model: Arc<ServedModel>,
    texts: Vec<String>,
    answer: impl Fn(&ServedModel, &str, &TextWindows, &[Vec<f32>]) -> Result<String, ApiError> + Send + 'static,
) -> Pipeline {
    let windows: Vec<TextWindows> =
        texts.iter().map(|text| TextWindows::new(&model.tokenizer, text, model.max_length)).collect();
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
    Pipeline { model, work, encodings, characters, truncated, windows: windows_read, answers }
}

/// Of [`intents`]: there are none.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntentParameters {}

/// `POST /intents`: what each text asks for, and the words that say the particulars; texts of any length.
pub fn intents(app: &App, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: Envelope<IntentParameters> = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Intents)?;
    let (texts, is_single) = texts(app, request.inputs, "inputs")?;
    understandings(model, texts).listed(is_single)
}

/// Intent and slots of each text.
pub fn understandings(model: Arc<ServedModel>, texts: Vec<String>) -> Pipeline {
    in_windows(model, texts, |model, text, windows, said| {
        let ServedTask::Intents { intents, slots } = &model.task else { return Err(ApiError::internal()) };
        let of_heads = |said: &Vec<f32>| {
            let (of_text, of_tokens) = said.split_at(intents.len().min(said.len()));
            [of_text.to_vec(), of_tokens.to_vec()]
        };
        let said: Vec<[Vec<f32>; 2]> = said.iter().map(of_heads).collect();
        let found = understood(text, windows, &said, Names { intents, slots }, &model.tokenizer);
        json_text(&found.ok_or_else(ApiError::internal)?)
    })
}

/// Of [`fill_mask`].
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FillMaskParameters {
    #[serde(default, alias = "topK", deserialize_with = "whole")]
    top_k: Option<usize>,
    targets: Option<Value>,
}

/// `POST /fill-mask`: fill-mask.
pub fn fill_mask(app: &App, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: Envelope<FillMaskParameters> = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::FillMask)?;
    let (texts, _) = texts(app, request.inputs, "inputs")?;
    // The pipeline takes a list of one text for the text.
    fillings(app, model, &texts, request.parameters.unwrap_or_default())?.listed(true)
}

/// What stands at the masks of each text: a list for a text of one mask, a list of lists for one of several.
///
/// # Errors
/// If a text has no mask, or more is asked for than there is or may be.
pub fn fillings(
    app: &App,
    model: Arc<ServedModel>,
    texts: &[String],
    parameters: FillMaskParameters,
) -> Result<Pipeline, ApiError> {
    let most = model.model.config.encoder.vocab_size;
    let top = parameters.top_k.unwrap_or(DEFAULT_FILLINGS);
    if !(1..=most).contains(&top) {
        let message = format!("`top_k`: expected 1 to the vocabulary's {most}, found {top}");
        return Err(ApiError::invalid("parameters", message));
    }
    let candidates = match parameters.targets {
        None | Some(Value::Null) => None,
        Some(targets) => Some(find_targets(app, &model, targets)?),
    };
    let cut = Cut::new(app, None, None);
    let encode_text = |text: &String| {
        let encoding = encode(&model, text, cut)?;
        if mask_places(&model.tokenizer, &encoding).is_empty() {
            let mask = model.tokenizer.token(model.tokenizer.special().mask).unwrap_or_default();
            let place = match encoding.truncated_tokens {
                0 => String::new(),
                _ => format!(" in the first {} tokens", encoding.len()),
            };
            return Err(ApiError::invalid(
                "inputs",
                format!("`inputs`: expected at least one {mask}{place}, found none"),
            ));
        }
        Ok(encoding)
    };
    let encodings = texts.iter().map(encode_text).collect::<Result<Vec<_>, ApiError>>()?;
    let masks: usize = encodings.iter().map(|encoding| mask_places(&model.tokenizer, encoding).len()).sum();
    if masks.saturating_mul(top) > MAX_FILLINGS {
        let message =
            format!("`top_k`: expected at most {MAX_FILLINGS} for {masks} masks together, found {top} for each");
        return Err(ApiError::invalid("parameters", message));
    }
    let truncated = encodings.iter().map(|encoding| encoding.truncated_tokens).collect();
    let (of, windows) = (Arc::clone(&model), vec![1; texts.len()]);
    let answers = Box::new(move |encodings: &[Encoding], outputs: Vec<Output>| {
        let of_text = |(output, encoding): (Output, &Encoding)| {
            let Output::Fillings(fillings) = output else { return Err(ApiError::internal()) };
            let masks = fill(&of.tokenizer, encoding, &fillings);
            match &masks[..] {
                [only] => json_text(only),
                masks => json_text(&masks),
            }
        };
        outputs.into_iter().zip(encodings).map(of_text).collect()
    });
    let work = Work::Fillings { candidates, top };
    Ok(Pipeline { model, work, encodings, characters: characters(texts), truncated, windows, answers })
}

/// Ids of the words asked for, each once.
fn find_targets(app: &App, model: &ServedModel, value: Value) -> Result<Arc<[u32]>, ApiError> {
    let (words, _) = texts(app, value, "targets")?;
    let mut ids = Vec::new();
    for word in &words {
        let id = target(&model.tokenizer, word);
        let id = id.ok_or_else(|| ApiError::invalid("parameters", "`targets`: expected words, found an empty one"))?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids.into())
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ZeroShotParameters {
    #[serde(alias = "candidateLabels")]
    candidate_labels: Option<Value>,
    #[serde(alias = "hypothesisTemplate")]
    hypothesis_template: Option<String>,
    #[serde(alias = "multiLabel")]
    multi_label: Option<bool>,
}

/// `POST /zero-shot`: zero-shot-classification.
pub fn zero_shot(app: &App, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    zero_shot_as(app, in_path, body, Shape::Pipeline)
}

fn zero_shot_as(app: &App, in_path: Option<&str>, body: &[u8], shape: Shape) -> Result<Prepared, ApiError> {
    let request: Envelope<ZeroShotParameters> = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::ZeroShot)?;
    let (texts, is_single) = texts(app, request.inputs, "inputs")?;
    let parameters = request.parameters.unwrap_or_default();
    let labels = candidate_labels(app, parameters.candidate_labels)?;
    check_count(app, texts.len() * labels.len(), "candidate_labels")?;
    let template = parameters.hypothesis_template.as_deref().unwrap_or(DEFAULT_TEMPLATE);
    if !template.contains(PLACEHOLDER) {
        let message = format!("`hypothesis_template`: expected {PLACEHOLDER} for the label, found none");
        return Err(ApiError::invalid("parameters", message));
    }
    let ServedTask::Classify { problem, labels: outputs, .. } = &model.task else { return Err(ApiError::internal()) };
    let each = parameters.multi_label.unwrap_or(false) || labels.len() == 1;
    let scoring = Scoring::of(*problem, outputs, Verdicts::default(), each);
    let scoring = scoring.map_err(|error| ApiError::invalid("parameters", error.to_string()))?;
    let mut encodings = Vec::new();
    for text in &texts {
        for label in &labels {
            let hypothesis = template.replace(PLACEHOLDER, label);
            let encoding = model.tokenizer.encode_keeping_pair(text, &hypothesis, model.max_length);
            encodings.push(encoding.ok_or_else(|| {
                let most = model.max_length;
                let message = format!("expected labels and a template that leave the text room in {most} tokens");
                ApiError::invalid("candidate_labels", message)
            })?);
        }
    }
    let lost = |sequences: &[Encoding]| sequences.iter().map(|sequence| sequence.truncated_tokens).max().unwrap_or(0);
    let truncated = encodings.chunks(labels.len()).map(lost).collect();
    let (characters, windows) = (characters(&texts), vec![1; texts.len()]);
    let answers = Box::new(move |encodings: &[Encoding], outputs: Vec<Output>| {
        let names: Vec<&str> = labels.iter().map(String::as_str).collect();
        let logits: Vec<Vec<f32>> = outputs.into_iter().map(numbers).collect();
        let judge = |((text, logits), sequences): ((&'_ String, &[Vec<f32>]), &[Encoding])| {
            let judged = Judged::new(text, &names, &scoring.scores(logits), lost(sequences));
            match shape {
                Shape::Pipeline => json_text(&judged),
                Shape::ListOfLists => {
                    let truncated_tokens = judged.truncated_tokens;
                    let scored = judged.labels.iter().zip(&judged.scores);
                    let scored = scored.map(|(&label, &score)| ScoredLabel { label, score, truncated_tokens });
                    json_text(&scored.collect::<Vec<_>>())
                }
            }
        };
        let of_texts = texts.iter().zip(logits.chunks(names.len())).zip(encodings.chunks(names.len()));
        of_texts.map(judge).collect()
    });
    Pipeline { model, work: Work::Logits, encodings, characters, truncated, windows, answers }.listed(is_single)
}

/// Of [`answer`].
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerParameters {
    #[serde(default, alias = "topK", deserialize_with = "whole")]
    top_k: Option<usize>,
    #[serde(default, alias = "maxAnswerLen", deserialize_with = "whole")]
    max_answer_len: Option<usize>,
    #[serde(alias = "handleImpossibleAnswer")]
    handle_impossible_answer: Option<bool>,
    #[serde(default, alias = "docStride", deserialize_with = "whole")]
    doc_stride: Option<usize>,
    #[serde(default, alias = "maxSeqLen", deserialize_with = "whole")]
    max_seq_len: Option<usize>,
    /// The pipeline takes it and does not apply it.
    #[serde(default, rename = "max_question_len", alias = "maxQuestionLen", deserialize_with = "whole")]
    _max_question_len: Option<usize>,
    #[serde(alias = "alignToWords")]
    align_to_words: Option<bool>,
}

/// A question and what to answer it from.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The question.
    pub question: String,
    /// Where the answer is looked for.
    pub context: String,
}

/// `POST /answer`: question-answering, of contexts of any length.
pub fn answer(app: &App, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: Envelope<AnswerParameters> = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Answer)?;
    let questions = questions(app, request.inputs)?;
    // The pipeline takes a list of one question for the question.
    answers(model, questions, request.parameters.unwrap_or_default())?.listed(true)
}

/// The answer to each question, or a list of answers with `top_k`.
///
/// # Errors
/// If nothing is asked, or windows cannot be cut as asked.
pub fn answers(
    model: Arc<ServedModel>,
    questions: Vec<Question>,
    parameters: AnswerParameters,
) -> Result<Pipeline, ApiError> {
    if questions.iter().any(|input| input.question.trim().is_empty() || input.context.trim().is_empty()) {
        return Err(ApiError::empty("inputs"));
    }
    if parameters.align_to_words == Some(false) {
        let message = "`align_to_words`: expected true, since answers are whole words, found false";
        return Err(ApiError::invalid("parameters", message));
    }
    let ServedTask::Answer { windows, null_threshold } = &model.task else { return Err(ApiError::internal()) };
    let max_length = parameters.max_seq_len.unwrap_or(windows.max_length);
    let at_most = |name: &str, found: usize, most: usize| {
        let message = format!("`{name}`: expected 1 to {most}, found {found}");
        if (1..=most).contains(&found) { Ok(found) } else { Err(ApiError::invalid("parameters", message)) }
    };
    let most = model.model.config.encoder.max_positions;
    let max_length = at_most("max_seq_len", max_length, most)?;
    let overlap = parameters.doc_stride.unwrap_or(windows.doc_stride.min(max_length / 2));
    let windows = WindowConfig { max_length, doc_stride: overlap };
    let ranking = RankingConfig {
        top_k: at_most("top_k", parameters.top_k.unwrap_or(1), MAX_ANSWERS)?,
        max_answer_length: at_most("max_answer_len", parameters.max_answer_len.unwrap_or(15.min(most)), most)?,
        null_threshold: match parameters.handle_impossible_answer {
            Some(false) => None,
            Some(true) => null_threshold.or(Some(0.0)),
            None => *null_threshold,
        },
    };
    let cut = |question: &Question| {
        let set = QuestionSet::single(&question.question, &question.context);
        let cut = QuestionWindows::new(&set, &model.tokenizer, windows, 1);
        cut.map_err(|error| ApiError::invalid("parameters", error.to_string()))
    };
    let cut: Vec<QuestionWindows> = questions.iter().map(cut).collect::<Result<_, _>>()?;
    let mut encodings = Vec::new();
    for windows in &cut {
        let all: Vec<usize> = (0..windows.windows().len()).collect();
        encodings.extend(windows.encoded(&all).texts.into_iter().map(|text| Encoding {
            input_ids: text.input_ids,
            token_type_ids: text.token_type_ids,
            ..Encoding::default()
        }));
    }
    let characters = questions.iter().map(|input| input.question.chars().count() + input.context.chars().count()).sum();
    // Of a question that is too long; nothing of a context is ever cut.
    let truncated: Vec<usize> = cut.iter().map(|windows| windows.truncated_tokens(0)).collect();
    let windows = cut.iter().map(|windows| windows.windows().len()).collect();
    let lost = truncated.clone();
    let answers = Box::new(move |_: &[Encoding], outputs: Vec<Output>| {
        let mut outputs = outputs.into_iter().map(numbers);
        let mut all = Vec::new();
        for ((question, windows), lost) in questions.iter().zip(&cut).zip(lost) {
            let mut found = Ranking::new(&question.context, ranking);
            for (window, logits) in windows.windows().iter().zip(outputs.by_ref()) {
                let pairs = starts_then_ends(&logits);
                let (starts, ends) = pairs.split_at(pairs.len() / 2);
                found.add(windows, window, starts, ends).map_err(|_| ApiError::internal())?;
            }
            let found = found.finish();
            let shown: Vec<_> = found.iter().map(|answer| answer.shown(&question.context, lost)).collect();
            all.push(match &shown[..] {
                [only] if ranking.top_k == 1 => json_text(only)?,
                _ => json_text(&shown)?,
            });
        }
        Ok(all)
    });
    Ok(Pipeline { model, work: Work::Logits, encodings, characters, truncated, windows, answers })
}

/// `{"question": ..., "context": ...}` or a list of these.
fn questions(app: &App, value: Value) -> Result<Vec<Question>, ApiError> {
    let wrong = |error: &str| {
        let expected = r#"expected {"question": ..., "context": ...} or a list of these"#;
        ApiError::invalid("inputs", format!("`inputs`: {expected}: {error}"))
    };
    let question = |value: Value| match value {
        Value::Object(_) => serde_json::from_value(value).map_err(|error| wrong(&error.to_string())),
        other => Err(wrong(&format!("found {}", kind(&other)))),
    };
    match value {
        Value::Array(list) => {
            check_count(app, list.len(), "inputs")?;
            list.into_iter().map(question).collect()
        }
        one => Ok(vec![question(one)?]),
    }
}

/// A list of labels, or one text with commas between them.
fn candidate_labels(app: &App, value: Option<Value>) -> Result<Vec<String>, ApiError> {
    let labels: Vec<String> = match value {
        Some(Value::String(labels)) => {
            labels.split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect()
        }
        Some(value @ Value::Array(_)) => texts(app, value, "candidate_labels")?.0,
        _ => Vec::new(),
    };
    if labels.is_empty() || labels.iter().any(String::is_empty) {
        let message = "`candidate_labels`: expected a list of labels, or a text with commas between them, none empty";
        return Err(ApiError::invalid("candidate_labels", message));
    }
    Ok(labels)
}
