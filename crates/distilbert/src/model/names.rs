//! The families' tensor names: the one table that maps our parts to the checkpoint's names.

use super::config::{Family, HeadKind, ModelConfig};

/// The last linear of a classifier of texts or tokens, in all families.
pub(crate) const CLASSIFIER: &str = "classifier";
/// The linear that tags tokens beside a classifier of texts; ours in all families.
pub(crate) const SLOT_CLASSIFIER: &str = "slot_classifier";
/// The linear of question answering, in all families.
pub(crate) const ANSWERER: &str = "qa_outputs";
/// The last linear of a classifier of texts, where `classifier` is the name of the whole head.
const CLASSIFIER_OUTPUT: &str = "classifier.out_proj";
/// The weights of these.
pub(crate) const LAST_WEIGHTS: [&str; 4] =
    ["classifier.weight", "classifier.out_proj.weight", "slot_classifier.weight", "qa_outputs.weight"];

/// Names of one model's tensors.
pub(crate) struct Names {
    family: Family,
    /// `bert.` and the like; a model without a head is saved without it.
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

/// Names of the linears of a classifier of texts.
pub(crate) struct ClassifierNames {
    pub(crate) dense: String,
    pub(crate) output: &'static str,
}

impl Family {
    /// What stands in front of the encoder's tensors when the model has a head.
    pub fn prefix(self) -> &'static str {
        match self {
            Family::Bert => "bert.",
            Family::DistilBert => "distilbert.",
            Family::Roberta | Family::XlmRoberta => "roberta.",
            Family::Electra => "electra.",
            Family::Albert => "albert.",
        }
    }

    /// The pooler, behind the prefix.
    pub(crate) fn pooler(self) -> &'static str {
        if self == Family::Albert { "pooler" } else { "pooler.dense" }
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
            Family::Roberta | Family::XlmRoberta => MaskedLmNames {
                transform: "lm_head.dense",
                norm: "lm_head.layer_norm",
                bias: "lm_head.bias",
                decoder: "lm_head.decoder.weight",
                bias_again: Some("lm_head.decoder.bias"),
            },
            Family::Electra => MaskedLmNames {
                transform: "generator_predictions.dense",
                norm: "generator_predictions.LayerNorm",
                bias: "generator_lm_head.bias",
                decoder: "generator_lm_head.weight",
                bias_again: None,
            },
            Family::Albert => MaskedLmNames {
                transform: "predictions.dense",
                norm: "predictions.LayerNorm",
                bias: "predictions.bias",
                decoder: "predictions.decoder.weight",
                bias_again: Some("predictions.decoder.bias"),
            },
        }
    }
}

impl Names {
    pub(crate) fn of(config: &ModelConfig) -> Names {
        let family = config.encoder.family;
        let prefix = match config.head {
            HeadKind::None | HeadKind::Embedding(_) => "",
            _ => family.prefix(),
        };
        Names { family, prefix, embeddings: format!("{prefix}embeddings.") }
    }

    /// The dense layer over the first token that BERT, RoBERTa and ALBERT have without a head.
    pub(crate) fn pooler(&self) -> String {
        format!("{}{}", self.prefix, self.family.pooler())
    }

    /// The linear between embeddings and layers.
    pub(crate) fn embedding_projection(&self) -> String {
        let name = match self.family {
            Family::Albert => "encoder.embedding_hidden_mapping_in",
            _ => "embeddings_project",
        };
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn classifier(&self) -> ClassifierNames {
        let (dense, output) = match self.family {
            Family::Bert | Family::Albert => (self.pooler(), CLASSIFIER),
            Family::DistilBert => ("pre_classifier".to_owned(), CLASSIFIER),
            Family::Roberta | Family::XlmRoberta | Family::Electra => {
                ("classifier.dense".to_owned(), CLASSIFIER_OUTPUT)
            }
        };
        ClassifierNames { dense, output }
    }

    /// One of the layers that have weights of their own.
    pub(crate) fn layer(&self, index: usize) -> LayerNames {
        let (stack, parts) = match self.family {
            Family::Bert | Family::Roberta | Family::XlmRoberta | Family::Electra => (
                format!("encoder.layer.{index}"),
                [
                    "attention.self.query",
                    "attention.self.key",
                    "attention.self.value",
                    "attention.output.dense",
                    "attention.output.LayerNorm",
                    "intermediate.dense",
                    "output.dense",
                    "output.LayerNorm",
                ],
            ),
            Family::DistilBert => (
                format!("transformer.layer.{index}"),
                [
                    "attention.q_lin",
                    "attention.k_lin",
                    "attention.v_lin",
                    "attention.out_lin",
                    "sa_layer_norm",
                    "ffn.lin1",
                    "ffn.lin2",
                    "output_layer_norm",
                ],
            ),
            Family::Albert => (
                format!("encoder.albert_layer_groups.{index}.albert_layers.0"),
                [
                    "attention.query",
                    "attention.key",
                    "attention.value",
                    "attention.dense",
                    "attention.LayerNorm",
                    "ffn",
                    "ffn_output",
                    "full_layer_layer_norm",
                ],
            ),
        };
        let [query, key, value, attention_out, attention_norm, lin1, lin2, output_norm] =
            parts.map(|part| format!("{}{stack}.{part}", self.prefix));
        LayerNames { query, key, value, attention_out, attention_norm, lin1, lin2, output_norm }
    }
}
