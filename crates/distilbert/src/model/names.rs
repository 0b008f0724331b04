//! The families' tensor names: the one table that maps our parts to the checkpoint's names.

use super::config::{Family, HeadKind, ModelConfig};

/// The last linear of a classifier of texts or tokens, in all families.
pub(crate) const CLASSIFIER: &str = "classifier";
/// The linear of question answering, in all families.
pub(crate) const ANSWERER: &str = "qa_outputs";
/// The weights of both.
pub(crate) const LAST_WEIGHTS: [&str; 2] = ["classifier.weight", "qa_outputs.weight"];

/// Names of one model's tensors.
pub(crate) struct Names {
    family: Family,
    /// `bert.` or `distilbert.`; a model without a head is saved without it.
    pub(crate) prefix: &'static str,
    /// Prefix of the embedding tables.
    pub(crate) embeddings: String,
}

/// Names of one layer's linears and norms, without `.weight` and `.bias`.
pub(crate) struct LayerNames {
    pub(crate) query: String,
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) attention_out: String,
    pub(crate) attention_norm: String,
    pub(crate) lin1: String,
    pub(crate) lin2: String,
    pub(crate) output_norm: String,
}

/// Names of the masked-LM head.
pub(crate) struct MaskedLmNames {
    pub(crate) transform: &'static str,
    pub(crate) norm: &'static str,
    /// Full name of the decoder's bias.
    pub(crate) bias: &'static str,
    /// Full name of the decoder's weight, tied to the word embeddings.
    pub(crate) decoder: &'static str,
    /// Full name under which some files repeat the bias.
    pub(crate) bias_again: Option<&'static str>,
}

impl Family {
    /// What stands in front of the encoder's tensors when the model has a head.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Family::Bert => "bert.",
            Family::DistilBert => "distilbert.",
        }
    }

    pub(crate) fn masked_lm_names(self) -> MaskedLmNames {
        match self {
            Family::Bert => MaskedLmNames {
                transform: "cls.predictions.transform.dense",
                norm: "cls.predictions.transform.LayerNorm",
                bias: "cls.predictions.bias",
                decoder: "cls.predictions.decoder.weight",
                bias_again: Some("cls.predictions.decoder.bias"),
            },
            Family::DistilBert => MaskedLmNames {
                transform: "vocab_transform",
                norm: "vocab_layer_norm",
                bias: "vocab_projector.bias",
                decoder: "vocab_projector.weight",
                bias_again: None,
            },
        }
    }
}

impl Names {
    pub(crate) fn of(config: &ModelConfig) -> Names {
        let family = config.encoder.family;
        let prefix = if config.head == HeadKind::None { "" } else { family.prefix() };
        Names { family, prefix, embeddings: format!("{prefix}embeddings.") }
    }

    /// BERT's dense layer over the first token.
    pub(crate) fn pooler(&self) -> String {
        format!("{}pooler.dense", self.prefix)
    }

    pub(crate) fn layer(&self, index: usize) -> LayerNames {
        let parts = match self.family {
            Family::Bert => [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "attention.output.LayerNorm",
                "intermediate.dense",
                "output.dense",
                "output.LayerNorm",
            ],
            Family::DistilBert => [
                "attention.q_lin",
                "attention.k_lin",
                "attention.v_lin",
                "attention.out_lin",
                "sa_layer_norm",
                "ffn.lin1",
                "ffn.lin2",
                "output_layer_norm",
            ],
        };
        let stack = match self.family {
            Family::Bert => "encoder.layer",
            Family::DistilBert => "transformer.layer",
        };
        let [query, key, value, attention_out, attention_norm, lin1, lin2, output_norm] =
            parts.map(|part| format!("{}{stack}.{index}.{part}", self.prefix));
        LayerNames { query, key, value, attention_out, attention_norm, lin1, lin2, output_norm }
    }
}
