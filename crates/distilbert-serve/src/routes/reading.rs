//! Texts of a request to the sequences that a model reads: cut, in windows, or as they are.

use super::Call;
use super::common::Item;
use crate::App;
use crate::compute::Wanted;
use crate::http::error::{ApiError, ErrorKind};
use crate::model::ServedModel;
use distilbert::model::InputError;
use distilbert::predict::text_windows::{TextWindows, weighted_mean};
use distilbert::tokenizer::{Encoding, Tokenizer, TokenizerKind, WordEncoder};
use serde::Deserialize;

/// A long text is read in pieces of about so many bytes, and given up between them if nobody waits for it any more.
const PIECE: usize = 8 * 1024;

/// A text of more than so many bytes is long.
const LONG: usize = 2 * PIECE;

/// Which end of a text that is too long is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Direction {
    /// The beginning.
    #[serde(alias = "left")]
    Left,
    /// The end.
    #[default]
    #[serde(alias = "right")]
    Right,
}

/// What becomes of a text that is too long.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// It is cut; else refused.
    truncate: bool,
    /// Where.
    direction: Direction,
    /// It is neither: it is read in windows. A pair never is.
    windows: bool,
}

impl Cut {
    /// As a request says, or else as the server does, on a route that reads no windows.
    pub fn new(app: &App, truncate: Option<bool>, direction: Option<Direction>) -> Cut {
        let truncate = truncate.unwrap_or(app.config.auto_truncate);
        Cut { truncate, direction: direction.unwrap_or_default(), windows: false }
    }

    /// The same on a route that can read windows. Who says what is to be cut wants none.
    pub fn or_windows(app: &App, truncate: Option<bool>, direction: Option<Direction>, windows: Option<bool>) -> Cut {
        let windows = windows.unwrap_or(app.config.windows && truncate.is_none());
        Cut { windows, ..Cut::new(app, truncate, direction) }
    }
}

/// Reads the texts of one request.
pub struct Reader<'a> {
    model: &'a ServedModel,
    cut: Cut,
    wanted: &'a Wanted,
    /// Of long texts.
    words: Option<WordEncoder<'a>>,
}

impl<'a> Reader<'a> {
    /// For this model.
    pub fn new(call: &'a Call, model: &'a ServedModel, cut: Cut) -> Reader<'a> {
        Reader { model, cut, wanted: &call.wanted, words: None }
    }

    /// One text or the ids of one as the model reads it.
    ///
    /// # Errors
    /// If it is too long and may not be cut, or an id is none of the model's.
    pub fn item(&mut self, item: &Item, prompt: &str) -> Result<Encoding, ApiError> {
        match item {
            Item::Text(text) if prompt.is_empty() => self.text(text),
            Item::Text(text) => self.text(&format!("{prompt}{text}")),
            Item::Ids(ids) => self.ids(ids),
        }
    }

    fn ids(&self, ids: &[u32]) -> Result<Encoding, ApiError> {
        let vocab_size = self.model.model.config.encoder.vocab_size;
        if let Some(&found) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            let error = InputError::TokenId { vocab_size, found };
            return Err(ApiError::new(ErrorKind::Validation, error.to_string()));
        }
        let whole = Encoding {
            input_ids: ids.to_vec(),
            token_type_ids: vec![0; ids.len()],
            offsets: vec![0..0; ids.len()],
            sequence_ids: vec![None; ids.len()],
            truncated_tokens: 0,
        };
        let lost = ids.len().saturating_sub(self.model.max_length);
        self.check_cut(ids.len(), lost)?;
        let kept = match self.cut.direction {
            Direction::Right => 0..ids.len() - lost,
            Direction::Left => lost..ids.len(),
        };
        Ok(select(&whole, kept.collect(), lost))
    }

    /// One text as the model reads it.
    ///
    /// # Errors
    /// If it is too long and may not be cut.
    pub fn text(&mut self, text: &str) -> Result<Encoding, ApiError> {
        let (opening, lost) = self.opening(text)?;
        self.read(text, None, (opening, None), lost)
    }

    /// A pair as the model reads it; of a pair that is too long the longer text loses its end (or beginning) first.
    ///
    /// # Errors
    /// If it is too long and may not be cut.
    pub fn pair(&mut self, text: &str, pair: &str) -> Result<Encoding, ApiError> {
        let (opening, lost) = self.opening(text)?;
        let (pair_opening, pair_lost) = self.opening(pair)?;
        // Which of two long texts is the longer one is known only of the whole.
        if lost > 0 && pair_lost > 0 {
            return self.read(text, Some(pair), (text, Some(pair)), 0);
        }
        self.read(text, Some(pair), (opening, Some(pair_opening)), lost + pair_lost)
    }

    /// A pair of which the first text alone is cut, of whose opening `behind` tokens follow; `None` if the second leaves it
    /// no room.
    ///
    /// # Errors
    /// If it is too long and may not be cut.
    pub fn keeping_pair(&mut self, opening: &str, behind: usize, pair: &str) -> Result<Option<Encoding>, ApiError> {
        self.wanted.check()?;
        let Some(mut kept) = self.model.tokenizer.encode_keeping_pair(opening, pair, self.model.max_length) else {
            return Ok(None);
        };
        kept.truncated_tokens += behind;
        self.check_cut(kept.len() + kept.truncated_tokens, kept.truncated_tokens)?;
        Ok(Some(kept))
    }

    /// Text and pair, of whose openings, which are all that a model can see of their beginnings, `behind` tokens follow.
    fn read(
        &self,
        text: &str,
        pair: Option<&str>,
        opening: (&str, Option<&str>),
        behind: usize,
    ) -> Result<Encoding, ApiError> {
        let tokenizer = &self.model.tokenizer;
        let mut kept = tokenizer.encode(opening.0, opening.1, Some(self.model.max_length));
        kept.truncated_tokens += behind;
        let lost = kept.truncated_tokens;
        self.check_cut(kept.len() + lost, lost)?;
        if lost == 0 || self.cut.direction == Direction::Right {
            return Ok(kept);
        }
        // Each text keeps as many tokens as it would keep of its beginning: the last ones.
        let whole = tokenizer.encode(text, pair, None);
        let count = |encoding: &Encoding, of: u8| encoding.sequence_ids.iter().filter(|&&id| id == Some(of)).count();
        let mut to_skip = [0, 1].map(|of| count(&whole, of) - count(&kept, of));
        let is_kept = |&place: &usize| match whole.sequence_ids[place].map(usize::from) {
            Some(of) if to_skip[of] > 0 => {
                to_skip[of] -= 1;
                false
            }
            _ => true,
        };
        Ok(select(&whole, (0..whole.len()).filter(is_kept).collect(), lost))
    }

    /// The beginning of a text in which all tokens are that a model can take, and the number of those behind it. Counting
    /// these is quick: words that were seen before are not made into tokens again.
    ///
    /// # Errors
    /// If nobody waits for it any more.
    pub fn opening<'t>(&mut self, text: &'t str) -> Result<(&'t str, usize), ApiError> {
        self.wanted.check()?;
        let tokenizer = &self.model.tokenizer;
        if text.len() <= LONG || !splits_at_spaces(tokenizer) {
            return Ok((text, 0));
        }
        let words = self.words.get_or_insert_with(|| WordEncoder::new(tokenizer));
        let (mut end, mut tokens, mut opening) = (0, 0, None);
        let mut ids = Vec::new();
        for piece in pieces(text) {
            self.wanted.check()?;
            ids.clear();
            words.encode_into(piece, &mut ids);
            end += piece.len();
            tokens += ids.len();
            if tokens >= self.model.max_length {
                opening.get_or_insert((end, tokens));
            }
        }
        let (end, of_opening) = opening.unwrap_or((end, tokens));
        Ok((&text[..end], tokens - of_opening))
    }

    fn check_cut(&self, length: usize, lost: usize) -> Result<(), ApiError> {
        if lost == 0 || self.cut.truncate {
            return Ok(());
        }
        let most = self.model.max_length + 1;
        let message = format!("Input validation error: `inputs` must have less than {most} tokens. Given: {length}");
        Err(ApiError::new(ErrorKind::Validation, message))
    }
}

/// Whether the tokens of a text are those of its parts between spaces.
fn splits_at_spaces(tokenizer: &Tokenizer) -> bool {
    let holds_space = |id| tokenizer.token(id).is_some_and(|token| token.contains(' '));
    tokenizer.kind() == TokenizerKind::WordPiece && !(0..tokenizer.vocab_size() as u32).any(holds_space)
}

/// A text in pieces that begin with a space, but for the first; where there is none they are longer.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let bytes = rest.as_bytes();
        let from = PIECE.min(bytes.len());
        let end = bytes[from..].iter().position(|&byte| byte == b' ').map_or(bytes.len(), |place| from + place);
        // A space is a character of its own in UTF-8.
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The inputs of a request as the model reads them: a sequence each, or the windows of a text that is too long.
#[derive(Default)]
pub struct Inputs {
    /// The sequences, input by input.
    pub encodings: Vec<Encoding>,
    /// Which of them are whose.
    pub windows: Windows,
}

/// Of each input, how many of its tokens each of its sequences answers for.
#[derive(Clone, Default)]
pub struct Windows(Vec<Vec<usize>>);

impl Inputs {
    /// Texts, or ids of them, which are never read in windows.
    ///
    /// # Errors
    /// If one is too long and may not be cut, or an id is none of the model's.
    pub fn of_items(mut reader: Reader<'_>, items: &[Item], prompt: &str) -> Result<Inputs, ApiError> {
        let mut inputs = Inputs::default();
        for item in items {
            match item {
                Item::Text(text) => inputs.push_text(&mut reader, text, prompt)?,
                Item::Ids(ids) => inputs.push(reader.ids(ids)?),
            }
        }
        Ok(inputs)
    }

    /// Adds a text behind a prompt.
    ///
    /// # Errors
    /// If it is too long and may neither be cut nor read in windows.
    pub fn push_text(&mut self, reader: &mut Reader<'_>, text: &str, prompt: &str) -> Result<(), ApiError> {
        if !reader.cut.windows {
            self.push(reader.text(&format!("{prompt}{text}"))?);
            return Ok(());
        }
        reader.wanted.check()?;
        let model = reader.model;
        let windows = TextWindows::behind(&model.tokenizer, prompt, text, model.max_length);
        let windows = windows.ok_or_else(|| {
            let message = format!("expected a prompt that leaves the text room in {} tokens", model.max_length);
            ApiError::invalid("prompt_name", message)
        })?;
        self.encodings.extend(windows.sequences());
        self.windows.0.push(windows.own_tokens());
        Ok(())
    }

    /// Adds an input that is one sequence.
    pub fn push(&mut self, encoding: Encoding) {
        self.windows.0.push(vec![encoding.len()]);
        self.encodings.push(encoding);
    }
}

impl Windows {
    /// A row for each input: the mean of its sequences' rows, each counted by the tokens that it answers for.
    pub fn means(&self, rows: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        let mut rows = rows.into_iter();
        let mean = |tokens: &Vec<usize>| match &tokens[..] {
            [_] => rows.next().unwrap_or_default(),
            tokens => weighted_mean(&rows.by_ref().take(tokens.len()).collect::<Vec<_>>(), tokens),
        };
        self.0.iter().map(mean).collect()
    }

    /// Tokens that each input lost, of which only one that is one sequence can have lost any.
    pub fn truncated(&self, encodings: &[Encoding]) -> Vec<usize> {
        let mut encodings = encodings.iter();
        let lost = |tokens: &Vec<usize>| encodings.by_ref().take(tokens.len()).map(|one| one.truncated_tokens).sum();
        self.0.iter().map(lost).collect()
    }

    /// Sequences of each input.
    pub fn counts(&self) -> Vec<usize> {
        self.0.iter().map(Vec::len).collect()
    }
}

fn select(whole: &Encoding, places: Vec<usize>, lost: usize) -> Encoding {
    Encoding {
        input_ids: places.iter().map(|&place| whole.input_ids[place]).collect(),
        token_type_ids: places.iter().map(|&place| whole.token_type_ids[place]).collect(),
        offsets: places.iter().map(|&place| whole.offsets[place].clone()).collect(),
        sequence_ids: places.iter().map(|&place| whole.sequence_ids[place]).collect(),
        truncated_tokens: lost,
    }
}
