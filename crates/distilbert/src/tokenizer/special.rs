//! The five special tokens: their roles, how a vocabulary spells them, and how they stand around texts.

use serde_json::{Map, Value, json};

/// Ids of the five special tokens, read from the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Padding.
    pub pad: u32,
    /// A word that the vocabulary cannot spell.
    pub unk: u32,
    /// First token of every sequence.
    pub cls: u32,
    /// Ends the first and the second text.
    pub sep: u32,
    /// Stands for a masked token.
    pub mask: u32,
}

impl SpecialTokens {
    /// True for any of the five.
    pub fn contains(&self, id: u32) -> bool {
        [self.pad, self.unk, self.cls, self.sep, self.mask].contains(&id)
    }
}

/// How the five special tokens are spelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SpecialNames {
    pub(super) pad: String,
    pub(super) unk: String,
    pub(super) cls: String,
    pub(super) sep: String,
    pub(super) mask: String,
}

/// BERT's spelling.
impl Default for SpecialNames {
    fn default() -> Self {
        SpecialNames::spelled(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    }
}

impl SpecialNames {
    fn spelled([pad, unk, cls, sep, mask]: [&str; 5]) -> SpecialNames {
        let name = str::to_owned;
        SpecialNames { pad: name(pad), unk: name(unk), cls: name(cls), sep: name(sep), mask: name(mask) }
    }

    /// The spelling of a vocabulary whose files do not state it: RoBERTa's and XLM-R's, or ALBERT's.
    pub(super) fn of_subwords(is_there: impl Fn(&str) -> bool) -> SpecialNames {
        if is_there("[CLS]") && is_there("[SEP]") {
            SpecialNames::spelled(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"])
        } else {
            SpecialNames::spelled(["<pad>", "<unk>", "<s>", "</s>", "<mask>"])
        }
    }

    pub(super) fn all(&self) -> [&str; 5] {
        [&self.pad, &self.unk, &self.cls, &self.sep, &self.mask]
    }

    /// Takes over the names that `object` gives, as strings or as `{"content": ...}`.
    pub(super) fn read(&mut self, object: &Map<String, Value>) {
        for (key, name) in [
            ("pad_token", &mut self.pad),
            ("unk_token", &mut self.unk),
            ("cls_token", &mut self.cls),
            ("sep_token", &mut self.sep),
            ("mask_token", &mut self.mask),
        ] {
            let value = object.get(key).map(|value| value.get("content").unwrap_or(value));
            if let Some(stated) = value.and_then(Value::as_str) {
                stated.clone_into(name);
            }
        }
    }

    pub(super) fn to_json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        for (key, name) in [
            ("unk_token", &self.unk),
            ("sep_token", &self.sep),
            ("pad_token", &self.pad),
            ("cls_token", &self.cls),
            ("mask_token", &self.mask),
        ] {
            object.insert(key.to_owned(), json!(name));
        }
        object
    }
}

/// How special tokens stand around texts: `[CLS] A [SEP]`, and around a pair with one separator or more between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// Separators between the texts of a pair.
    pub(super) separators: usize,
    /// Token type of the second text and its separator.
    pub(super) second_type: u32,
}

impl Format {
    /// `[CLS] A [SEP] B [SEP]`, B of type 1.
    pub(super) const BERT: Format = Format { separators: 1, second_type: 1 };
    /// `<s> A </s></s> B </s>`, all of type 0.
    pub(super) const ROBERTA: Format = Format { separators: 2, second_type: 0 };

    /// Reads the `post_processor` of a `tokenizer.json`: the format, and the spelling of first token and separator.
    ///
    /// # Errors
    /// The kind or template that cannot be expressed.
    pub(super) fn of_post_processor(value: &Value) -> Result<(Format, String, String), String> {
        let kind = value.get("type").and_then(Value::as_str).unwrap_or("none");
        let name =
            |key: &str| value[key][0].as_str().map(str::to_owned).ok_or_else(|| format!("{kind} without `{key}`"));
        match kind {
            "BertProcessing" => Ok((Format::BERT, name("cls")?, name("sep")?)),
            "RobertaProcessing" => Ok((Format::ROBERTA, name("cls")?, name("sep")?)),
            "TemplateProcessing" => {
                let show = || format!("TemplateProcessing of {} and {}", value["single"], value["pair"]);
                Format::of_templates(&value["single"], &value["pair"]).ok_or_else(show)
            }
            // Beside the one that adds tokens there may be one that trims offsets.
            "Sequence" => value["processors"]
                .as_array()
                .and_then(|parts| parts.iter().find(|part| part["type"] != "ByteLevel"))
                .ok_or_else(|| "Sequence without a part that adds special tokens".to_owned())
                .and_then(Format::of_post_processor),
            other => Err(other.to_owned()),
        }
    }

    fn of_templates(single: &Value, pair: &Value) -> Option<(Format, String, String)> {
        let (single, pair) = (pieces(single)?, pieces(pair)?);
        let [(Piece::Special(cls), 0), (Piece::Text("A"), 0), (Piece::Special(sep), 0)] = single[..] else {
            return None;
        };
        let expected = |separators: usize, second_type: u32| {
            let mut pieces = single.clone();
            pieces.extend((1..separators).map(|_| (Piece::Special(sep), 0)));
            pieces.extend([(Piece::Text("B"), second_type), (Piece::Special(sep), second_type)]);
            pieces
        };
        [(1, 0), (1, 1), (2, 0), (2, 1)]
            .into_iter()
            .find(|&(separators, second)| expected(separators, second) == pair)
            .map(|(separators, second_type)| (Format { separators, second_type }, cls.to_owned(), sep.to_owned()))
    }
}

/// A part of a template.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Piece<'a> {
    Special(&'a str),
    Text(&'a str),
}

/// The parts of a template with their token types.
fn pieces(template: &Value) -> Option<Vec<(Piece<'_>, u32)>> {
    template
        .as_array()?
        .iter()
        .map(|part| {
            let (inner, is_text) = match (part.get("SpecialToken"), part.get("Sequence")) {
                (Some(special), _) => (special, false),
                (_, Some(text)) => (text, true),
                _ => return None,
            };
            let (id, token_type) = (inner["id"].as_str()?, u32::try_from(inner["type_id"].as_u64()?).ok()?);
            Some((if is_text { Piece::Text(id) } else { Piece::Special(id) }, token_type))
        })
        .collect()
}
