//! What routes share: bodies to requests, inputs to sequences, vectors to their last form.

use super::reading::Inputs;
use super::{Asked, Finish, Prepared};
use crate::App;
use crate::engine::{Output, Work};
use crate::http::error::{ApiError, ErrorKind};
use crate::metrics::Done;
use crate::model::{Ability, ServedModel, ServedTask};
use distilbert::heads::Head;
use distilbert::predict::embedding::normalize;
use distilbert::tokenizer::Encoding;
use distilbert_kernels::Runtime;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::{Map, Number, Value};
use std::sync::Arc;

/// Numbers that an answer may have: 32 MB of them, about three times that as JSON.
const MAX_OUTPUTS: usize = 8 << 20;

/// A text, or the tokens of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A text.
    Text(String),
    /// Ids, which are run as they are.
    Ids(Vec<u32>),
}

/// The body as a request.
///
/// # Errors
/// [`ErrorKind::Syntax`] or [`ErrorKind::Validation`], saying what is wrong.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let request = serde_json::from_slice(body);
    // Serde takes a list of the right length for the fields of an object, and speaks of structs where it is of another.
    let is_list = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    match request {
        Err(error) if error.classify() != Category::Data => Err(ApiError::new(ErrorKind::Syntax, error.to_string())),
        _ if is_list => Err(ApiError::new(ErrorKind::Validation, "expected an object, found a list")),
        Err(error) => {
            let message = error.to_string();
            // The field that is missing, or not known, stands first between such marks.
            let names_field = message.starts_with("missing field") || message.starts_with("unknown field");
            let param = message.split('`').nth(1).filter(|_| names_field).map(|name| name.to_owned().into());
            Err(ApiError { param, ..ApiError::new(ErrorKind::Validation, message) })
        }
        Ok(request) => Ok(request),
    }
}

fn of_object<T: DeserializeOwned, E: Error>(object: Map<String, Value>) -> Result<T, E> {
    serde_json::from_value(Value::Object(object)).map_err(E::custom)
}

/// A field that is an object and no list of its values.
pub fn object<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    of_object(Map::deserialize(deserializer)?)
}

/// The same, or `null`.
pub fn object_or_null<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::<Map<String, Value>>::deserialize(deserializer)?.map(of_object).transpose()
}

/// A field that is a list of objects.
pub fn objects<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Vec::<Map<String, Value>>::deserialize(deserializer)?.into_iter().map(of_object).collect()
}

/// The same, or `null`.
pub fn objects_or_null<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    let list = Option::<Vec<Map<String, Value>>>::deserialize(deserializer)?;
    list.map(|list| list.into_iter().map(of_object).collect()).transpose()
}

/// The model that path or body names, or the only one that can do it.
///
/// # Errors
/// If there is none.
pub fn model(
    app: &App,
    in_path: Option<&str>,
    in_body: Option<&str>,
    needed: Ability,
) -> Result<Arc<ServedModel>, ApiError> {
    if let (Some(path), Some(body)) = (in_path, in_body)
        && path != body
    {
        return Err(ApiError::invalid("model", format!("expected `{path}`, as in the path, found `{body}`")));
    }
    Ok(app.models.find(in_path.or(in_body), needed)?)
}

/// Checks the number of a request's inputs.
///
/// # Errors
/// If it is 0 or too large.
pub fn check_count(app: &App, count: usize, param: &'static str) -> Result<(), ApiError> {
    let most = app.config.max_texts;
    if count == 0 {
        return Err(ApiError::empty(param));
    }
    if count > most {
        let message = format!("batch size {count} > maximum allowed batch size {most}");
        return Err(ApiError { reason: Some("batch_size"), ..ApiError::invalid(param, message) });
    }
    Ok(())
}

/// A text, a list of ids, or a list of either, none of them empty.
///
/// # Errors
/// If it is something else.
pub fn items(app: &App, value: Value, param: &'static str) -> Result<Vec<Item>, ApiError> {
    let expected = "expected a text, a list of token ids, or a list of these";
    let wrong = |value: &Value| ApiError::invalid(param, format!("`{param}`: {expected}, found {}", kind(value)));
    let item = |value: Value| match value {
        Value::String(text) => Ok(Item::Text(text)),
        Value::Array(ids) => ids_of(ids, param).map(Item::Ids),
        other => Err(wrong(&other)),
    };
    let items = match value {
        Value::Array(list) if list.first().is_some_and(Value::is_number) => vec![item(Value::Array(list))?],
        Value::Array(list) => {
            check_count(app, list.len(), param)?;
            list.into_iter().map(item).collect::<Result<_, _>>()?
        }
        value => vec![item(value)?],
    };
    let is_empty = |item: &Item| match item {
        Item::Text(text) => text.is_empty(),
        Item::Ids(ids) => ids.is_empty(),
    };
    match items.iter().position(is_empty) {
        Some(index) if items.len() > 1 => Err(ApiError::empty_at(param, index)),
        Some(_) => Err(ApiError::empty(param)),
        None => Ok(items),
    }
}

/// A whole number of 0 or more, also one with a fraction of zero: JSON knows no other kind.
fn whole_of(number: &Number) -> Option<u64> {
    let of_float = |x: f64| (x.fract() == 0.0 && (0.0..9e15).contains(&x)).then_some(x as u64);
    number.as_u64().or_else(|| number.as_f64().and_then(of_float))
}

/// A field that is such a number, or `null`.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let Some(number) = Option::<Number>::deserialize(deserializer)? else { return Ok(None) };
    let whole = whole_of(&number).and_then(|number| usize::try_from(number).ok());
    whole.map(Some).ok_or_else(|| D::Error::custom(format!("expected a whole number of 0 or more, found {number}")))
}

/// A field that is a list of them.
pub fn wholes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    let whole =
        |number| whole_of(&number).ok_or_else(|| D::Error::custom("expected a list of whole numbers of 0 or more"));
    Vec::<Number>::deserialize(deserializer)?.into_iter().map(whole).collect()
}

/// Token ids.
///
/// # Errors
/// If one is not a 32-bit number.
pub fn ids_of(list: Vec<Value>, param: &'static str) -> Result<Vec<u32>, ApiError> {
    let id = |value: Value| {
        let id = value.as_number().and_then(whole_of).and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| {
            ApiError::invalid(param, format!("`{param}`: expected a list of token ids, found {} in it", kind(&value)))
        })
    };
    list.into_iter().map(id).collect()
}

/// A text or a list of texts, and whether it was one alone.
///
/// # Errors
/// If it is something else.
pub fn texts(app: &App, value: Value, param: &'static str) -> Result<(Vec<String>, bool), ApiError> {
    let wrong = |value: &Value| {
        let message = format!("`{param}`: expected a text or a list of texts, found {}", kind(value));
        ApiError::invalid(param, message)
    };
    match value {
        Value::String(text) => Ok((vec![text], true)),
        Value::Array(list) => {
            check_count(app, list.len(), param)?;
            let text = |value: Value| match value {
                Value::String(text) => Ok(text),
                other => Err(wrong(&other)),
            };
            Ok((list.into_iter().map(text).collect::<Result<_, _>>()?, false))
        }
        other => Err(wrong(&other)),
    }
}

/// What a value is, without repeating it.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A request's parameters.
///
/// # Errors
/// If one is unknown or of another kind.
pub fn parameters<P: DeserializeOwned>(given: Map<String, Value>) -> Result<P, ApiError> {
    let parameters = serde_json::from_value(Value::Object(given));
    parameters.map_err(|error| ApiError::invalid("parameters", format!("`parameters`: {error}")))
}

/// A question of which each input is one sequence.
///
/// # Errors
/// If its answer would be too large.
pub fn ask(
    model: Arc<ServedModel>,
    work: Work,
    encodings: Vec<Encoding>,
    done: Done,
    characters: usize,
    answer: Finish,
) -> Result<Prepared, ApiError> {
    let mut inputs = Inputs::default();
    encodings.into_iter().for_each(|encoding| inputs.push(encoding));
    ask_of(model, work, inputs, done, characters, answer)
}

/// A question of which each input is one sequence or several windows.
///
/// # Errors
/// If its answer would be too large.
pub fn ask_of(
    model: Arc<ServedModel>,
    work: Work,
    inputs: Inputs,
    done: Done,
    characters: usize,
    answer: Finish,
) -> Result<Prepared, ApiError> {
    let Inputs { encodings, windows } = inputs;
    let truncated = windows.truncated(&encodings);
    checked(Asked { model, work, encodings, done, characters, truncated, windows: windows.counts(), answer })
}

/// The question, unless its answer would be too large.
///
/// # Errors
/// If it would be.
pub fn checked(asked: Asked) -> Result<Prepared, ApiError> {
    let tokens: usize = asked.encodings.iter().map(Encoding::len).sum();
    let config = &asked.model.model.config;
    let outputs = match (&asked.work, &asked.model.model.head) {
        (Work::States, _) => tokens.saturating_mul(config.encoder.hidden),
        (Work::Logits, Head::Tokens(_)) => tokens.saturating_mul(config.head.outputs()),
        (Work::Logits, Head::Both(..)) => tokens.saturating_mul(config.head.slots().len()),
        _ => 0,
    };
    if outputs > MAX_OUTPUTS {
        let most = MAX_OUTPUTS / (outputs / tokens.max(1)).max(1);
        let message = format!("expected inputs of at most {most} tokens together on this route, found {tokens}");
        return Err(ApiError::new(ErrorKind::Validation, message));
    }
    Ok(Prepared::Asked(asked))
}

/// The numbers of an output.
pub fn numbers(output: Output) -> Vec<f32> {
    match output {
        Output::Numbers(numbers) => numbers,
        // What is asked of a model decides what comes back.
        Output::Fillings(_) => Vec::new(),
    }
}

/// What a request says of vectors.
#[derive(Clone, Copy, Debug)]
pub struct VectorForm {
    /// Scaled to length one.
    pub normalize: bool,
    /// Cut to their first numbers.
    pub dimensions: Option<usize>,
}

impl VectorForm {
    /// Checks the number of dimensions.
    ///
    /// # Errors
    /// If the model has not so many, or it is 0.
    pub fn check(self, model: &ServedModel) -> Result<VectorForm, ApiError> {
        let width = model.width();
        if let Some(found) = self.dimensions.filter(|found| !(1..=width).contains(found)) {
            let message = format!("`dimensions`: expected 1 to the model's {width}, found {found}");
            return Err(ApiError::invalid("dimensions", message));
        }
        Ok(self)
    }

    /// A vector in its last form, with the bits that `predict embed` gives it.
    pub fn apply(self, rt: &Runtime, mut vector: Vec<f32>) -> Vec<f32> {
        let width = vector.len();
        let dimensions = self.dimensions.unwrap_or(width).min(width);
        if self.normalize && width > 0 {
            normalize(rt, &mut vector, width);
        }
        if dimensions < width {
            vector.truncate(dimensions);
            if self.normalize {
                normalize(rt, &mut vector, dimensions);
            }
        }
        vector
    }
}

/// The text that goes in front of each, by the request's name for it or the model's default.
///
/// # Errors
/// If the model has no such prompt.
pub fn prompt(model: &ServedModel, name: Option<&str>) -> Result<String, ApiError> {
    match (&model.task, name) {
        (ServedTask::Embed { settings }, name) => Ok(settings.prompt(name)?.to_owned()),
        (_, None) => Ok(String::new()),
        (_, Some(name)) => Err(ApiError::invalid("prompt_name", format!("prompt `{name}`: the model has no prompts"))),
    }
}

/// Characters of the inputs.
pub fn characters(items: &[Item]) -> usize {
    items
        .iter()
        .map(|item| match item {
            Item::Text(text) => text.chars().count(),
            Item::Ids(_) => 0,
        })
        .sum()
}
