//! Tags of tokens to spans of a text, in the five ways of the Hugging Face pipeline.

use std::ops::Range;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::evaluate::metrics::argmax;
use crate::tokenizer::{Tokenizer, TokenizerKind};

/// How the tokens' answers become spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregation {
    /// Every token by itself.
    None,
    /// Neighbours of one type are one span.
    #[default]
    Simple,
    /// As simple, for words: a word has the answer of its first token.
    First,
    /// As simple, for words: a word has the mean of its tokens' probabilities.
    Average,
    /// As simple, for words: a word has the answer of its surest token.
    Max,
}

/// A token of a text with what a model says of it.
#[derive(Clone, Debug)]
pub struct TaggedToken<'a> {
    /// Its id.
    pub id: u32,
    /// The bytes of the text that it covers.
    pub bytes: Range<usize>,
    /// A logit for each label.
    pub logits: &'a [f32],
}

/// Part of a text with a label.
#[derive(Clone, Debug, PartialEq)]
pub struct TaggedSpan {
    /// The label of a token, or the type of a group.
    pub label: String,
    /// Its probability: of a group the mean of its members'.
    pub score: f32,
    /// Place of the token, `[CLS]` being 0; `None` for a group.
    pub index: Option<usize>,
    /// What the tokens spell.
    pub word: String,
    /// First character in the text.
    pub start: usize,
    /// The character behind the last.
    pub end: usize,
}

/// In the shape of Hugging Face's token-classification pipeline.
impl Serialize for TaggedSpan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        let label = if self.index.is_some() { "entity" } else { "entity_group" };
        object.serialize_entry(label, &self.label)?;
        object.serialize_entry("score", &self.score)?;
        if let Some(index) = self.index {
            object.serialize_entry("index", &index)?;
        }
        object.serialize_entry("word", &self.word)?;
        object.serialize_entry("start", &self.start)?;
        object.serialize_entry("end", &self.end)?;
        object.end()
    }
}

/// A token or word on its way into a group.
struct Member {
    label: String,
    score: f32,
    word: String,
    bytes: Range<usize>,
}

/// The spans of a text whose label is none of `ignored`, in order. `tokens` are all tokens of the text but the special
/// ones around it.
///
/// A label without `B-` or `I-` in front continues the span before it, so neighbours of one part of speech are one span
/// too unless `aggregation` is [`Aggregation::None`]. Spans of ignored labels are left out last: they end others.
///
/// # Source
/// `TokenClassificationPipeline` of the Python package `transformers` 5.23.0.
pub fn spans(
    text: &str,
    tokens: &[TaggedToken<'_>],
    labels: &[String],
    tokenizer: &Tokenizer,
    aggregation: Aggregation,
    ignored: &[String],
) -> Vec<TaggedSpan> {
    let pieces: Vec<Piece> = tokens.iter().map(|token| Piece::of(text, token, tokenizer)).collect();
    let characters = |bytes: &Range<usize>| {
        let start = text[..bytes.start].chars().count();
        (start, start + text[bytes.clone()].chars().count())
    };
    let is_kept = |label: &String| !ignored.contains(label);
    let each = |piece: &Piece| {
        let best = argmax(&piece.scores);
        Member {
            label: labels[best].clone(),
            score: piece.scores[best],
            word: piece.word.clone(),
            bytes: piece.bytes.clone(),
        }
    };
    let members: Vec<Member> = match aggregation {
        Aggregation::None | Aggregation::Simple => pieces.iter().map(each).collect(),
        _ => words(&pieces).map(|word| of_word(word, labels, tokenizer, aggregation)).collect(),
    };
    if aggregation == Aggregation::None {
        let with_places = members.into_iter().enumerate().filter(|(_, member)| is_kept(&member.label));
        return with_places
            .map(|(place, Member { label, score, word, bytes })| {
                let (start, end) = characters(&bytes);
                TaggedSpan { label, score, index: Some(place + 1), word, start, end }
            })
            .collect();
    }
    let groups = members.chunk_by(|before, member| {
        let (begins, kind) = prefix_and_type(&member.label);
        !begins && kind == prefix_and_type(&before.label).1
    });
    groups
        .map(|group| {
            let label = &group[0].label;
            let bytes = group[0].bytes.start..group[group.len() - 1].bytes.end;
            let (start, end) = characters(&bytes);
            TaggedSpan {
                label: label.split_once('-').map_or(label.as_str(), |(_, kind)| kind).to_owned(),
                score: (group.iter().map(|member| f64::from(member.score)).sum::<f64>() / group.len() as f64) as f32,
                index: None,
                word: tokenizer.join(group.iter().map(|member| member.word.clone()).collect()),
                start,
                end,
            }
        })
        .filter(|span| is_kept(&span.label))
        .collect()
}

struct Piece {
    word: String,
    bytes: Range<usize>,
    scores: Vec<f32>,
    continues_word: bool,
}

impl Piece {
    fn of(text: &str, token: &TaggedToken<'_>, tokenizer: &Tokenizer) -> Piece {
        let spelled = tokenizer.token(token.id).unwrap_or_default();
        let covered = &text[token.bytes.clone()];
        let is_unknown = token.id == tokenizer.special().unk;
        let continues_word = match tokenizer.kind() {
            // `##` is no part of the text.
            TokenizerKind::WordPiece => spelled.chars().count() != covered.chars().count(),
            // These have no mark for it: as the pipeline does, a space on either side of the beginning is looked for.
            TokenizerKind::ByteLevelBpe | TokenizerKind::Unigram => {
                let before = text[..token.bytes.start].chars().next_back();
                before.is_some_and(|before| before != ' ') && !text[token.bytes.start..].starts_with(' ')
            }
        };
        let continues_word = continues_word && !is_unknown;
        Piece {
            word: if is_unknown { covered } else { spelled }.to_owned(),
            bytes: token.bytes.clone(),
            scores: softmax(token.logits),
            continues_word,
        }
    }
}

/// The pieces, word by word.
fn words(pieces: &[Piece]) -> impl Iterator<Item = &[Piece]> {
    pieces.chunk_by(|_, piece| piece.continues_word)
}

fn of_word(word: &[Piece], labels: &[String], tokenizer: &Tokenizer, aggregation: Aggregation) -> Member {
    let surest = |piece: &Piece| piece.scores[argmax(&piece.scores)];
    let scores: Vec<f32> = match aggregation {
        Aggregation::Average => (0..labels.len())
            .map(|label| word.iter().map(|piece| piece.scores[label]).sum::<f32>() / word.len() as f32)
            .collect(),
        // The first of equals.
        Aggregation::Max => {
            let best = word.iter().reduce(|best, piece| if surest(piece) > surest(best) { piece } else { best });
            best.map(|piece| piece.scores.clone()).unwrap_or_default()
        }
        Aggregation::None | Aggregation::Simple | Aggregation::First => word[0].scores.clone(),
    };
    let best = argmax(&scores);
    Member {
        label: labels[best].clone(),
        score: scores[best],
        word: tokenizer.join(word.iter().map(|piece| piece.word.clone()).collect()),
        bytes: word[0].bytes.start..word[word.len() - 1].bytes.end,
    }
}

/// Whether a span begins with the label, and its type.
fn prefix_and_type(label: &str) -> (bool, &str) {
    match label.strip_prefix("B-") {
        Some(kind) => (true, kind),
        None => (false, label.strip_prefix("I-").unwrap_or(label)),
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::model_folder::HeadChoice;
    use crate::data::batch::Batch;
    use crate::model::{Model, Purpose};
    use crate::predict::LogitsRunner;
    use distilbert_kernels::{Isa, Precision, Runtime};
    use std::collections::BTreeMap;
    use std::path::Path;

    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        ignored: Vec<String>,
        spans: BTreeMap<String, Vec<Expected>>,
    }

    #[derive(serde::Deserialize)]
    struct Expected {
        #[serde(alias = "entity", alias = "entity_group")]
        label: String,
        score: f32,
        #[serde(default)]
        index: Option<usize>,
        word: String,
        start: usize,
        end: usize,
    }

    /// Probabilities of one in float32; the largest difference measured is 2e-7.
    const TOLERANCE: f32 = 2e-6;

    #[test]
    fn spans_are_the_pipelines_in_every_aggregation() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tagger");
        let cases: Vec<Case> =
            serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
        let rt = Runtime::new(Isa::detect(), 1).unwrap();
        let mut model = Model::load(&folder, HeadChoice::AsSaved).unwrap().model;
        model.pack(&rt, Precision::F32, Purpose::Inference);
        let tokenizer = Tokenizer::from_folder(&folder).unwrap();
        let labels = model.config.head.labels().to_vec();
        let mut runner = LogitsRunner::new(&model).unwrap();
        let mut compared = 0;
        for Case { text, ignored, spans: expected } in &cases {
            let encoding = tokenizer.encode(text, None, None);
            let logits = runner.run(&rt, &Batch::from_sequences([&encoding.input_ids[..]])).unwrap().to_vec();
            let tokens: Vec<TaggedToken> = (1..encoding.len() - 1)
                .map(|place| TaggedToken {
                    id: encoding.input_ids[place],
                    bytes: encoding.offsets[place].clone(),
                    logits: &logits[place * labels.len()..][..labels.len()],
                })
                .collect();
            for (name, aggregation) in [
                ("none", Aggregation::None),
                ("simple", Aggregation::Simple),
                ("first", Aggregation::First),
                ("average", Aggregation::Average),
                ("max", Aggregation::Max),
            ] {
                let found = spans(text, &tokens, &labels, &tokenizer, aggregation, ignored);
                let facts =
                    |label: &str, index, word: &str, start, end| (label.to_owned(), index, word.to_owned(), start, end);
                let ours: Vec<_> = found.iter().map(|s| facts(&s.label, s.index, &s.word, s.start, s.end)).collect();
                let theirs: Vec<_> =
                    expected[name].iter().map(|s| facts(&s.label, s.index, &s.word, s.start, s.end)).collect();
                assert_eq!(ours, theirs, "{text:?} {name}");
                for (ours, theirs) in found.iter().zip(&expected[name]) {
                    assert!(
                        (ours.score - theirs.score).abs() < TOLERANCE,
                        "{text:?} {name}: {ours:?} {}",
                        theirs.score
                    );
                    compared += 1;
                }
            }
        }
        assert!(compared > 300, "{compared}");
    }
}
