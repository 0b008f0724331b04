//! One neutral configuration of every family.

mod json; // config.json, read and written

pub use super::family::Family;
pub use crate::data::examples::Problem;
use distilbert_kernels::elementwise::GeluKind;
use distilbert_kernels::matmul::QuantizedMatrix;
use distilbert_kernels::{Precision, Runtime, RuntimeError};
use serde_json::{Map, Value};

/// The value of BERT and DistilBERT (where it is fixed in the code); PyTorch's default is 1e-5.
pub const LAYER_NORM_EPS: f32 = 1e-12;

/// Class suffix of models with heads for intents and slots.
const INTENTS_AND_SLOTS: &str = "ForIntentsAndSlots";

/// The feed-forward block's non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `gelu`: exact, by the error function.
    Gelu,
    /// `gelu_new`: the tanh approximation.
    GeluNew,
}

/// The encoder, in terms that do not depend on the family.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// The family it came from and is saved as.
    pub family: Family,
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Width of the states.
    pub hidden: usize,
    /// Width of the embedding tables.
    pub embedding_size: usize,
    /// Whether a linear stands between embeddings and layers: ALBERT's always, ELECTRA's if the widths differ.
    pub projects_embeddings: bool,
    /// Layers that a pass runs.
    pub layers: usize,
    /// Layers that have weights of their own: `layers`, or fewer in ALBERT, whose neighbouring layers share theirs.
    pub layer_groups: usize,
    /// Attention heads; `hidden` is a multiple.
    pub heads: usize,
    /// Width inside the feed-forward block.
    pub ffn: usize,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
    /// Row of the position table that the first token takes: RoBERTa's follow the padding token's.
    pub position_offset: usize,
    /// Segments that have an embedding; 0 where the family has none.
    pub token_types: usize,
    /// Non-linearity of the feed-forward block.
    pub activation: Activation,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f32,
    /// Probability after embeddings and blocks.
    pub dropout: f32,
    /// Probability on attention weights.
    pub attention_dropout: f32,
    /// Whether the attention block's output is dropped out too: BERT's is, DistilBERT's is not.
    pub attention_output_dropout: bool,
    /// Whether the feed-forward block's output is: ALBERT's is not.
    pub feed_forward_output_dropout: bool,
    /// Standard deviation of fresh weights.
    pub initializer_range: f32,
    /// The padding token; its word embedding gets no gradient from the look-up.
    pub pad_token_id: Option<u32>,
    /// Whether the position table is the fixed sinusoidal one and not trained.
    pub sinusoidal_positions: bool,
}

/// What stands on top of the encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// Nothing; the pooler is kept if `pooler`.
    None,
    /// Tokens behind masks.
    MaskedLm,
    /// One answer for the sequence.
    Classification {
        /// Kind of answer.
        problem: Problem,
        /// Name of each output, in order.
        labels: Vec<String>,
    },
    /// A label for every token.
    TokenClassification {
        /// Name of each output, in order.
        labels: Vec<String>,
    },
    /// An intent for the sequence and a slot tag for every token.
    IntentsAndSlots {
        /// Name of each output for the sequence, in order.
        intents: Vec<String>,
        /// Name of each output for a token, in order.
        slots: Vec<String>,
    },
    /// Where in a text the answer to a question starts and ends.
    QuestionAnswering,
    /// A vector for the sequence; `config.json` says nothing of it, the folder's `modules.json` does.
    Embedding(EmbeddingHead),
}

/// How states become a vector: pooling, then linears, then scaling to length one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingHead {
    /// States to a vector.
    pub pooling: Pooling,
    /// Linears behind it, first to last; mostly none.
    pub dense: Vec<Dense>,
    /// Whether the vector is scaled to length one.
    pub normalize: bool,
}

/// How the states of a sequence become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The mean over all tokens, the special ones included.
    Mean,
    /// The first token's state.
    Cls,
    /// The largest of each column.
    Max,
}

/// A linear behind the pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dense {
    /// Width of its output.
    pub outputs: usize,
    /// What follows it.
    pub activation: DenseActivation,
}

/// What follows a linear behind the pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseActivation {
    /// Nothing.
    Identity,
    /// tanh, the default of sentence-transformers.
    Tanh,
}

/// The mean over all tokens, scaled to length one: what most sentence encoders do, and what a plain encoder is taken
/// for.
impl Default for EmbeddingHead {
    fn default() -> Self {
        EmbeddingHead { pooling: Pooling::Mean, dense: Vec::new(), normalize: true }
    }
}

impl EmbeddingHead {
    /// Stands before the names of the linears' tensors in the table of parameters.
    pub(crate) const DENSE_PREFIX: &'static str = "dense.";

    /// Name of one linear in the table of parameters, without `.weight` and `.bias`; each has a folder of its own.
    pub(crate) fn dense_name(index: usize) -> String {
        format!("{}{index}.linear", Self::DENSE_PREFIX)
    }
}

/// A model's configuration: encoder, head, and the keys of its `config.json` that mean nothing here but are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The encoder.
    pub encoder: EncoderConfig,
    /// The head.
    pub head: HeadKind,
    /// A model without a head may have a pooler, in BERT, RoBERTa and ALBERT.
    pub pooler: bool,
    /// Probability in front of the classifier.
    pub classifier_dropout: f32,
    /// Probability in front of the answering head's linear: DistilBERT's `qa_dropout`; BERT has none.
    pub answering_dropout: f32,
    /// What the weights are saved in; below f32 they can only be run.
    pub weights: Precision,
    /// Keys of the file that are not read here, to be written back.
    pub other: Map<String, Value>,
}

/// Why a `config.json` is not one of a model that can be run here.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not a JSON object.
    #[error("config: {0}")]
    Json(String),
    /// A key is missing.
    #[error("config: `{key}` is missing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A key has a value of another kind or out of range.
    #[error("config: `{key}`: expected {expected}, found {found}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// What would do.
        expected: String,
        /// What stands there.
        found: String,
    },
}

impl Activation {
    /// The kernel's name for it.
    pub(crate) fn gelu(self) -> GeluKind {
        match self {
            Activation::Gelu => GeluKind::Erf,
            Activation::GeluNew => GeluKind::Tanh,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Activation::Gelu => "gelu",
            Activation::GeluNew => "gelu_new",
        }
    }
}

impl HeadKind {
    /// Logits for each sequence or token that a head with labels answers for, 0 for other heads; of intents and slots
    /// those for the sequence.
    pub fn outputs(&self) -> usize {
        match self {
            HeadKind::Classification { labels, .. } | HeadKind::TokenClassification { labels } => labels.len(),
            HeadKind::IntentsAndSlots { intents, .. } => intents.len(),
            // Start and end.
            HeadKind::QuestionAnswering => 2,
            HeadKind::None | HeadKind::MaskedLm | HeadKind::Embedding(_) => 0,
        }
    }

    /// Name of each output, if they have names.
    pub fn labels(&self) -> &[String] {
        match self {
            HeadKind::Classification { labels, .. } | HeadKind::TokenClassification { labels } => labels,
            HeadKind::IntentsAndSlots { intents, .. } => intents,
            HeadKind::None | HeadKind::MaskedLm | HeadKind::QuestionAnswering | HeadKind::Embedding(_) => &[],
        }
    }

    /// Names of the outputs for a token beside those for the sequence.
    pub fn slots(&self) -> &[String] {
        match self {
            HeadKind::IntentsAndSlots { slots, .. } => slots,
            _ => &[],
        }
    }

    /// What Hugging Face calls the class of a model with this head, without the family. It has none for intents and slots;
    /// the name is ours.
    pub fn class_suffix(&self) -> &'static str {
        match self {
            HeadKind::None | HeadKind::Embedding(_) => "Model",
            HeadKind::MaskedLm => "ForMaskedLM",
            HeadKind::Classification { .. } => "ForSequenceClassification",
            HeadKind::TokenClassification { .. } => "ForTokenClassification",
            HeadKind::IntentsAndSlots { .. } => INTENTS_AND_SLOTS,
            HeadKind::QuestionAnswering => "ForQuestionAnswering",
        }
    }
}

impl ModelConfig {
    /// Whether the runtime can run a model of this shape in the precision.
    ///
    /// # Errors
    /// [`RuntimeError`]: the CPU lacks the precision, or a layer is too wide for the sums of int8.
    pub fn check_precision(&self, rt: &Runtime, precision: Precision) -> Result<(), RuntimeError> {
        precision.check(rt.isa())?;
        let (max, found) = (QuantizedMatrix::MAX_K, self.encoder.hidden.max(self.encoder.ffn));
        if precision == Precision::Int8 && found > max { Err(RuntimeError::Depth { max, found }) } else { Ok(()) }
    }

    /// What Hugging Face calls the class of the model.
    pub fn architecture(&self) -> String {
        format!("{}{}", self.encoder.family.class(), self.head.class_suffix())
    }

    /// The same encoder under another head.
    pub fn with_head(&self, head: HeadKind) -> ModelConfig {
        let pooler = matches!(head, HeadKind::None | HeadKind::Embedding(_)) && self.pooler;
        ModelConfig { head, pooler, ..self.clone() }
    }

    /// Probability in front of the last linear of a head with labels. DistilBERT has a key of its own for a text's
    /// classifier only.
    pub(crate) fn head_dropout(&self) -> f32 {
        match (&self.head, self.encoder.family) {
            (HeadKind::TokenClassification { .. }, Family::DistilBert) => self.encoder.dropout,
            (HeadKind::QuestionAnswering, _) => self.answering_dropout,
            _ => self.classifier_dropout,
        }
    }

    /// Whether the pooler is part of the model.
    pub(crate) fn has_pooler(&self) -> bool {
        match self.head {
            HeadKind::None | HeadKind::Embedding(_) => self.pooler,
            HeadKind::Classification { .. } | HeadKind::IntentsAndSlots { .. } => {
                self.encoder.family.classifier().dense_is_pooler
            }
            HeadKind::MaskedLm | HeadKind::TokenClassification { .. } | HeadKind::QuestionAnswering => false,
        }
    }
}
