//! Question answering, of contexts of any length.

use super::{Envelope, Pipeline, json_text};
use crate::App;
use crate::engine::{Output, Work};
use crate::http::error::ApiError;
use crate::model::{Ability, ServedModel, ServedTask};
use crate::routes::common::{check_count, kind, model, numbers, parse, whole};
use crate::routes::{Call, Prepared};
use distilbert::data::questions::{QuestionSet, QuestionWindows, WindowConfig};
use distilbert::heads::tokens::starts_then_ends;
use distilbert::predict::answers::{Ranking, RankingConfig};
use distilbert::tokenizer::Encoding;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// Answers to one question.
pub const MAX_ANSWERS: usize = 100;

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
pub fn answer(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
    let request: Envelope<AnswerParameters> = parse(body)?;
    let model = model(app, in_path, request.model.as_deref(), Ability::Answer)?;
    let questions = questions(app, request.inputs)?;
    // The pipeline takes a list of one question for the question.
    answers(app, model, questions, request.parameters.unwrap_or_default())?.listed(true)
}

/// The answer to each question, or a list of answers with `top_k`.
///
/// # Errors
/// If nothing is asked, or windows cannot be cut as asked.
pub fn answers(
    call: &Call,
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
    // Windows that overlapped by more than half would be many; what is asked for is held to the length that is asked for.
    let half = max_length.saturating_sub(model.tokenizer.special_tokens_around(true)) / 2;
    let overlap = parameters.doc_stride.unwrap_or(windows.doc_stride).min(half);
    let windows = WindowConfig { max_length, doc_stride: overlap };
    let ranking = RankingConfig {
        top_k: at_most("top_k", parameters.top_k.unwrap_or(1), MAX_ANSWERS)?,
        max_answer_length: at_most("max_answer_len", parameters.max_answer_len.unwrap_or(15.min(most)), most)?,
        null_threshold: match parameters.handle_impossible_answer {
            Some(true) => null_threshold.or(Some(0.0)),
            // As in the pipeline, also of a model that was trained to say that there is none.
            Some(false) | None => None,
        },
    };
    let cut = |question: &Question| {
        call.wanted.check()?;
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
    if let Some(lost) = truncated.iter().find(|&&lost| lost > 0 && !call.app.config.auto_truncate) {
        let message = format!("`question`: expected one that leaves its context room, found {lost} tokens too many");
        return Err(ApiError::invalid("inputs", message));
    }
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
