//! Words for masks.

use super::{Envelope, Pipeline, characters, json_text};
use crate::App;
use crate::engine::{Output, Work};
use crate::http::error::{ApiError, ErrorKind};
use crate::memory::fillings_bytes;
use crate::model::{Ability, ServedModel};
use crate::routes::common::{model, parse, texts, whole};
use crate::routes::reading::{Cut, Reader};
use crate::routes::{Call, Prepared};
use distilbert::predict::fill_mask::{fill, mask_places, target};
use distilbert::tokenizer::Encoding;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// What the pipelines give for each mask unless told otherwise.
const DEFAULT_FILLINGS: usize = 5;

/// Bytes of all the words that one request gets, of which each comes with its whole text. What the pipelines give for texts
/// of a mask each is always less, since bodies are bounded.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Of [`fill_mask`].
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FillMaskParameters {
    #[serde(default, alias = "topK", deserialize_with = "whole")]
    top_k: Option<usize>,
    targets: Option<Value>,
}

/// `POST /fill-mask`: fill-mask.
pub fn fill_mask(app: &Call, in_path: Option<&str>, body: &[u8]) -> Result<Prepared, ApiError> {
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
    app: &Call,
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
    let mut reader = Reader::new(app, &model, Cut::new(app, None, None));
    let encode_text = |text: &String| {
        let encoding = reader.text(text)?;
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
    let bytes = fillings_bytes(&model, &encodings, top);
    if bytes > MAX_ANSWER_BYTES {
        let message = format!(
            "expected an answer of at most {} MB, found {} MB with `top_k` {top}: each word comes with its text",
            MAX_ANSWER_BYTES >> 20,
            bytes.div_ceil(1 << 20)
        );
        return Err(ApiError { param: Some("parameters".into()), ..ApiError::new(ErrorKind::TooLarge, message) });
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
