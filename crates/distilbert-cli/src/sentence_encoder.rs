//! A sentence encoder, with what its folder says about how to use it.

use crate::console::Console;
use crate::model_source;
use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use distilbert::checkpoint::model_folder::read_config;
use distilbert::checkpoint::sentence_folder::{SentenceSettings, Similarity};
use distilbert::data::encoded::EncodedSet;
use distilbert::model::{EmbeddingHead, HeadKind, Model, ModelConfig, Pooling};
use distilbert::predict::{EmbeddingRunner, embeddings};
use distilbert::progress::Progress;
use distilbert::tokenizer::Tokenizer;
use distilbert_kernels::pool::normalize_rows;
use distilbert_kernels::{Precision, Runtime};

/// Shortest input that holds a text: `[CLS]`, a token, `[SEP]`.
const MIN_LENGTH: usize = 3;

/// How states become one vector, as a flag.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PoolingChoice {
    /// The mean over all tokens.
    Mean,
    /// The first token's state.
    Cls,
    /// The largest of each column.
    Max,
}

impl From<PoolingChoice> for Pooling {
    fn from(choice: PoolingChoice) -> Pooling {
        match choice {
            PoolingChoice::Mean => Pooling::Mean,
            PoolingChoice::Cls => Pooling::Cls,
            PoolingChoice::Max => Pooling::Max,
        }
    }
}

/// What flags say instead of the model's folder.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadFlags {
    /// How states become one vector.
    pub pooling: Option<PoolingChoice>,
    /// Whether vectors are scaled to length one.
    pub normalize: Option<bool>,
    /// What the model multiplies in.
    pub precision: Option<Precision>,
}

/// A sentence encoder ready to run.
pub struct SentenceEncoder {
    /// The model, for inference alone, in the precision that it is saved in.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Prompts and how embeddings are compared.
    pub settings: SentenceSettings,
    /// Longest input in tokens.
    pub max_length: usize,
}

impl SentenceEncoder {
    /// Loads the model called `name` (see [`model_source::resolve`]); a model without an embedding head is pooled by
    /// the mean unless `flags` say otherwise.
    ///
    /// # Errors
    /// If there is no such model, its tokenizer has ids that it lacks, or `max_length` is more than it takes.
    pub fn load(
        name: &str,
        flags: HeadFlags,
        max_length: Option<usize>,
        rt: &Runtime,
        console: &Console,
    ) -> anyhow::Result<SentenceEncoder> {
        let folder = model_source::resolve(name, console)?;
        let head = embedding_head(&read_config(&folder)?, flags, name, console);
        let settings = SentenceSettings::read(&folder)?;
        let tokenizer = Tokenizer::from_folder(&folder).with_context(|| format!("tokenizer of {name}"))?;
        let model = Model::load_for_inference_with(&folder, rt, flags.precision, HeadKind::Embedding(head))?.model;
        let (tokens, vocab_size) = (tokenizer.vocab_size(), model.config.encoder.vocab_size);
        if tokens > vocab_size {
            bail!("model `{name}`: expected a tokenizer of at most {vocab_size} tokens, found {tokens}");
        }
        if settings.lowercases() && !tokenizer.is_lowercasing() {
            bail!("model `{name}`: `do_lower_case`: expected false with a tokenizer that keeps case, found true");
        }
        let positions = model.config.encoder.max_positions;
        let max_length = match max_length {
            Some(asked) if !(MIN_LENGTH..=positions).contains(&asked) => {
                bail!("--max-length: expected {MIN_LENGTH} to the model's {positions} positions, found {asked}")
            }
            Some(asked) => asked,
            None => settings.max_length.map_or(positions, |length| length.min(positions)),
        };
        Ok(SentenceEncoder { model, tokenizer, settings, max_length })
    }

    /// The vectors of texts behind a prompt, to be compared by their dot products: of length one if the model is compared
    /// by cosines.
    ///
    /// # Errors
    /// If the model cannot take a text, or the user asked to stop.
    pub fn vectors(
        &self,
        runner: &mut EmbeddingRunner<'_>,
        prompt: &str,
        texts: &[&str],
        what: &str,
        rt: &Runtime,
        progress: &dyn Progress,
    ) -> anyhow::Result<Vectors> {
        let prompted: Vec<String> = texts.iter().map(|text| format!("{prompt}{text}")).collect();
        let prompted: Vec<(&str, Option<&str>)> = prompted.iter().map(|text| (text.as_str(), None)).collect();
        let set = EncodedSet::from_texts(&prompted, &self.tokenizer, self.max_length, rt.threads());
        let mut vectors = embeddings(rt, runner, &set, what, progress)?;
        let width = runner.dimensions();
        ensure!(vectors.len() == texts.len() * width, "stopped");
        if self.settings.similarity == Similarity::Cosine {
            normalize_rows(rt, &mut vectors, width, &mut vec![0.0; texts.len()]);
        }
        Ok(Vectors { vectors, tokens: set.lengths(), truncated: set.truncated })
    }
}

/// Texts as vectors.
pub struct Vectors {
    /// `[texts, dimensions]`.
    pub vectors: Vec<f32>,
    /// Length of each text in tokens, after truncation.
    pub tokens: Vec<usize>,
    /// Places of the texts that lost tokens to the longest input.
    pub truncated: Vec<usize>,
}

/// The embedding head of a model's folder, or the mean of its states, where `flags` do not say otherwise; which it is of
/// a folder without one is said.
pub fn embedding_head(config: &ModelConfig, flags: HeadFlags, name: &str, console: &Console) -> EmbeddingHead {
    let saved = match &config.head {
        HeadKind::Embedding(head) => Some(head.clone()),
        _ => None,
    };
    let says_how = saved.is_some();
    let mut head = saved.unwrap_or_default();
    head.pooling = flags.pooling.map_or(head.pooling, Pooling::from);
    head.normalize = flags.normalize.unwrap_or(head.normalize);
    if !says_how {
        let taken = match head.pooling {
            Pooling::Mean => "the mean of its states",
            Pooling::Cls => "the first token's state",
            Pooling::Max => "the largest of each column of its states",
        };
        let length = if head.normalize { ", scaled to length one" } else { "" };
        console.say(&format!("{name}: not a sentence encoder's folder; taking {taken}{length}"));
    }
    head
}
