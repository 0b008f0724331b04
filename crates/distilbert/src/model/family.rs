//! The families of checkpoints, and what tells one from another beside the names of its tensors ([`super::names`]).

use super::config::{Activation, EncoderConfig, LAYER_NORM_EPS};
use std::fmt::{Display, Formatter};
use std::str::FromStr;

/// A family of checkpoints: keys of its `config.json`, tensor names, heads and a few rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Devlin et al. 2018; MiniLM, TinyBERT and the multilingual BERT are of this family too.
    Bert,
    /// Sanh et al. 2019.
    DistilBert,
    /// Liu et al. 2019; DistilRoBERTa too.
    Roberta,
    /// Conneau et al. 2020: RoBERTa under another name.
    XlmRoberta,
    /// Clark et al. 2020.
    Electra,
    /// Lan et al. 2020.
    Albert,
}

/// Keys of `config.json`; of several for one value, the first is written and all are read.
pub(crate) struct Keys {
    pub(crate) hidden: &'static [&'static str],
    pub(crate) layers: &'static [&'static str],
    pub(crate) heads: &'static [&'static str],
    pub(crate) ffn: &'static [&'static str],
    pub(crate) activation: &'static str,
    pub(crate) dropout: &'static str,
    pub(crate) attention_dropout: &'static str,
    pub(crate) classifier_dropout: &'static str,
}

const BERT_KEYS: Keys = Keys {
    hidden: &["hidden_size"],
    layers: &["num_hidden_layers"],
    heads: &["num_attention_heads"],
    ffn: &["intermediate_size"],
    activation: "hidden_act",
    dropout: "hidden_dropout_prob",
    attention_dropout: "attention_probs_dropout_prob",
    classifier_dropout: "classifier_dropout",
};

const DISTILBERT_KEYS: Keys = Keys {
    hidden: &["dim", "hidden_size"],
    layers: &["n_layers", "num_hidden_layers"],
    heads: &["n_heads", "num_attention_heads"],
    ffn: &["hidden_dim", "intermediate_size"],
    activation: "activation",
    dropout: "dropout",
    attention_dropout: "attention_dropout",
    classifier_dropout: "seq_classif_dropout",
};

const ALBERT_KEYS: Keys = Keys { classifier_dropout: "classifier_dropout_prob", ..BERT_KEYS };

/// How a family classifies a text by its first token: `output(dropout(activation(dense(x))))`.
pub(crate) struct ClassifierForm {
    /// Between the two linears.
    pub(crate) activation: ClassifierActivation,
    /// Whether x is dropped out too.
    pub(crate) drops_input: bool,
    /// Whether the dense layer is the pooler that a model without a head has too.
    pub(crate) dense_is_pooler: bool,
}

/// Between a classifier's two linears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClassifierActivation {
    Tanh,
    Relu,
    Gelu,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 6] =
        [Family::Bert, Family::DistilBert, Family::Roberta, Family::XlmRoberta, Family::Electra, Family::Albert];

    /// `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Family::Bert => "bert",
            Family::DistilBert => "distilbert",
            Family::Roberta => "roberta",
            Family::XlmRoberta => "xlm-roberta",
            Family::Electra => "electra",
            Family::Albert => "albert",
        }
    }

    /// The class prefix in `architectures`.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Family::Bert => "Bert",
            Family::DistilBert => "DistilBert",
            Family::Roberta => "Roberta",
            Family::XlmRoberta => "XLMRoberta",
            Family::Electra => "Electra",
            Family::Albert => "Albert",
        }
    }

    pub(crate) fn keys(self) -> &'static Keys {
        match self {
            Family::Bert | Family::Roberta | Family::XlmRoberta | Family::Electra => &BERT_KEYS,
            Family::DistilBert => &DISTILBERT_KEYS,
            Family::Albert => &ALBERT_KEYS,
        }
    }

    /// Whether the first token's position is the padding token's id plus one, not 0.
    pub fn positions_follow_padding(self) -> bool {
        matches!(self, Family::Roberta | Family::XlmRoberta)
    }

    /// Whether the embedding tables may be narrower than the states.
    pub fn has_embedding_size(self) -> bool {
        matches!(self, Family::Electra | Family::Albert)
    }

    /// Whether a model without a head may have a pooler.
    pub(crate) fn has_pooler(self) -> bool {
        matches!(self, Family::Bert | Family::Roberta | Family::XlmRoberta | Family::Albert)
    }

    /// The probability in front of the classifier where `config.json` has none, from that of the encoder.
    pub(crate) fn default_classifier_dropout(self, dropout: f32) -> f32 {
        match self {
            Family::Bert | Family::Roberta | Family::XlmRoberta | Family::Electra => dropout,
            Family::DistilBert => 0.2,
            Family::Albert => 0.1,
        }
    }

    pub(crate) fn classifier(self) -> ClassifierForm {
        use ClassifierActivation::{Gelu, Relu, Tanh};
        let (activation, drops_input, dense_is_pooler) = match self {
            Family::Bert | Family::Albert => (Tanh, false, true),
            Family::DistilBert => (Relu, false, false),
            Family::Roberta | Family::XlmRoberta => (Tanh, true, false),
            Family::Electra => (Gelu, true, false),
        };
        ClassifierForm { activation, drops_input, dense_is_pooler }
    }

    /// The masked-LM head's non-linearity where it is not the encoder's.
    pub(crate) fn masked_lm_activation(self) -> Option<Activation> {
        match self {
            Family::Bert | Family::DistilBert | Family::Albert => None,
            Family::Roberta | Family::XlmRoberta | Family::Electra => Some(Activation::Gelu),
        }
    }
}

/// As [`Family::model_type`].
impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.model_type())
    }
}

/// The name of no family.
#[derive(Debug, thiserror::Error)]
#[error("expected one of {}, found `{found}`", Family::ALL.map(Family::model_type).join(", "))]
pub struct UnknownFamily {
    found: String,
}

impl FromStr for Family {
    type Err = UnknownFamily;

    fn from_str(name: &str) -> Result<Family, UnknownFamily> {
        let found = Family::ALL.into_iter().find(|family| family.model_type() == name);
        found.ok_or_else(|| UnknownFamily { found: name.to_owned() })
    }
}

impl EncoderConfig {
    /// What a `config.json` of the family means that says nothing: `transformers`' defaults.
    pub fn defaults(family: Family) -> EncoderConfig {
        let bert = EncoderConfig {
            family,
            vocab_size: 30522,
            hidden: 768,
            embedding_size: 768,
            projects_embeddings: false,
            layers: 12,
            layer_groups: 12,
            heads: 12,
            ffn: 3072,
            max_positions: 512,
            position_offset: 0,
            token_types: 2,
            activation: Activation::Gelu,
            layer_norm_eps: LAYER_NORM_EPS,
            dropout: 0.1,
            attention_dropout: 0.1,
            attention_output_dropout: true,
            feed_forward_output_dropout: true,
            initializer_range: 0.02,
            pad_token_id: Some(0),
            sinusoidal_positions: false,
        };
        match family {
            Family::Bert => bert,
            Family::DistilBert => {
                EncoderConfig { layers: 6, layer_groups: 6, token_types: 0, attention_output_dropout: false, ..bert }
            }
            Family::Roberta => EncoderConfig { vocab_size: 50265, pad_token_id: Some(1), ..bert },
            Family::XlmRoberta => EncoderConfig { pad_token_id: Some(1), ..bert },
            Family::Electra => EncoderConfig { hidden: 256, embedding_size: 128, heads: 4, ffn: 1024, ..bert },
            Family::Albert => EncoderConfig {
                vocab_size: 30000,
                hidden: 4096,
                embedding_size: 128,
                projects_embeddings: true,
                layer_groups: 1,
                heads: 64,
                ffn: 16384,
                activation: Activation::GeluNew,
                dropout: 0.0,
                attention_dropout: 0.0,
                feed_forward_output_dropout: false,
                ..bert
            },
        }
    }

    /// A family's published values where they differ from those that its files may leave out: what a model from scratch
    /// starts with.
    pub fn published(family: Family) -> EncoderConfig {
        let defaults = EncoderConfig::defaults(family);
        match family {
            Family::Roberta | Family::XlmRoberta => EncoderConfig { token_types: 1, layer_norm_eps: 1e-5, ..defaults },
            Family::Bert | Family::DistilBert | Family::Electra | Family::Albert => defaults,
        }
    }

    /// Whether layers share their weights.
    pub fn shares_layers(&self) -> bool {
        self.layer_groups < self.layers
    }

    /// Rows of the position table, of which the first `position_offset` belong to no token.
    pub(crate) fn position_rows(&self) -> usize {
        self.max_positions + self.position_offset
    }

    /// Numbers in the tables of the embeddings and the matrices of the layers.
    pub(crate) fn matrix_parameters(&self) -> u128 {
        let [hidden, ffn, width] = [self.hidden, self.ffn, self.embedding_size].map(|size| size as u128);
        let rows = (self.vocab_size + self.position_rows() + self.token_types) as u128;
        rows * width + self.layer_groups as u128 * (4 * hidden * hidden + 2 * hidden * ffn)
    }
}
