//! What a model with heads for intents and slots says of utterances of any length.

use crate::data::examples::Problem;
use crate::data::intents::Utterance;
use crate::data::tagging::Sentence;
use crate::data::tagging::words::WordWindows;
use crate::evaluate::metrics::argmax;
use crate::evaluate::predictions::softmax;
use crate::model::Model;
use crate::model::config::HeadKind;
use crate::predict::classify::calibrated;
use crate::predict::spans::{Aggregation, TaggedSpan, spans};
use crate::predict::text_windows::TextWindows;
use crate::predict::{Logits, PredictError, logits};
use crate::progress::Progress;
use crate::tokenizer::Tokenizer;
use distilbert_kernels::Runtime;

/// Of one utterance.
#[derive(Clone, Debug, PartialEq)]
pub struct SaidOfUtterance {
    /// The likeliest intent and its probability.
    pub intent: (String, f32),
    /// The logits of the intents, before any temperature.
    pub intent_logits: Vec<f32>,
    /// The likeliest tag of each word.
    pub tags: Vec<String>,
}

/// What a text asks for, and which of its words say the particulars.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Understood {
    /// The likeliest intent.
    pub intent: Intent,
    /// The slots in the order of the text.
    pub slots: Vec<TaggedSpan>,
}

/// An intent and its probability.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Intent {
    /// Its name.
    pub label: String,
    /// From 0 to 1.
    pub score: f32,
}

/// What a model's outputs mean.
#[derive(Clone, Copy, Debug)]
pub struct Meaning<'a> {
    /// Names of the intents.
    pub intents: &'a [String],
    /// Names of the slots' tags.
    pub slots: &'a [String],
    /// What the intents' logits are divided by before they become probabilities.
    pub temperature: f64,
}

/// A text by what the model said of its windows, of each the logits of the intents and those of the tokens `[tokens, slots]`:
/// the first window has the intent. `None` without windows.
pub fn understood(
    text: &str,
    windows: &TextWindows,
    said: &[[Vec<f32>; 2]],
    meaning: Meaning<'_>,
    tokenizer: &Tokenizer,
) -> Option<Understood> {
    let Meaning { intents, slots, temperature } = meaning;
    let [of_intents, _] = said.first()?;
    let (label, score) = likeliest(of_intents, intents, temperature);
    let intent = Intent { label, score };
    let of_slots: Vec<Vec<f32>> = said.iter().map(|[_, tokens]| tokens.clone()).collect();
    let tokens = windows.tokens(&of_slots, slots.len());
    // A word's tag was learnt at its first token.
    let slots = spans(text, &tokens, slots, tokenizer, Aggregation::First, &["O".to_owned()]);
    Some(Understood { intent, slots })
}

/// The windows of utterances, in their order.
pub fn windows(utterances: &[Utterance], tokenizer: &Tokenizer, max_length: usize, threads: usize) -> WordWindows {
    let sentences: Vec<Sentence> = utterances.iter().map(|utterance| utterance.sentence.clone()).collect();
    WordWindows::new(&sentences, tokenizer, max_length, threads)
}

/// What the model says of each utterance, its intents at a temperature: the intent by its first window, the tags by all.
/// Stops early, with fewer utterances, if the user asks.
///
/// # Errors
/// [`PredictError`] if the model has other heads or cannot take a text.
pub fn utterances(
    rt: &Runtime,
    model: &Model,
    windows: &WordWindows,
    temperature: f64,
    what: &str,
    progress: &dyn Progress,
) -> Result<Vec<SaidOfUtterance>, PredictError> {
    let HeadKind::IntentsAndSlots { intents, slots } = &model.config.head else {
        return Err(PredictError::Head { found: model.config.head.class_suffix() });
    };
    let logits = logits(rt, model, &windows.encoded, what, progress)?;
    Ok(said(windows, &logits, Meaning { intents, slots, temperature }))
}

/// The likeliest intent and its probability.
fn likeliest(logits: &[f32], intents: &[String], temperature: f64) -> (String, f32) {
    let best = argmax(logits);
    (intents[best].clone(), softmax(&calibrated(Problem::Classification, temperature, logits))[best])
}

fn said(windows: &WordWindows, logits: &Logits, meaning: Meaning<'_>) -> Vec<SaidOfUtterance> {
    let Meaning { intents, slots, temperature } = meaning;
    let mut said: Vec<SaidOfUtterance> = Vec::new();
    // Windows come in the order of the utterances and answer for each word once, in order.
    for (window, answers) in windows.answers.iter().enumerate().take(logits.texts()) {
        let (of_intents, of_slots) = logits.of(window).split_at(intents.len());
        for answer in answers {
            if answer.sentence == said.len() {
                let intent = likeliest(of_intents, intents, temperature);
                said.push(SaidOfUtterance { intent, intent_logits: of_intents.to_vec(), tags: Vec::new() });
            }
            let best = argmax(&of_slots[answer.token * slots.len()..][..slots.len()]);
            said[answer.sentence].tags.push(slots[best].clone());
        }
    }
    said
}
