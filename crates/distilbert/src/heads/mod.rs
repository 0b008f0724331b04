//! Heads: states to logits, and back.

pub mod classification; // first token -> labels
pub mod masked_lm; // chosen tokens -> vocabulary

use crate::model::config::{HeadKind, ModelConfig};
use crate::model::linear::{Linear, Packing};
use crate::model::names::Names;
use crate::model::parameters::TableBuilder;
use classification::Classifier;
use masked_lm::MaskedLm;
use std::ops::Range;

/// What stands on top of the encoder.
pub enum Head {
    /// Nothing, or BERT's pooler, which is kept but not run.
    None(Option<Linear>),
    /// Tokens behind masks.
    MaskedLm(MaskedLm),
    /// One answer for the sequence.
    Classifier(Classifier),
}

impl Head {
    pub(crate) fn new(config: &ModelConfig, names: &Names, table: &mut TableBuilder) -> Head {
        let hidden = config.encoder.hidden;
        match &config.head {
            HeadKind::None => {
                Head::None(config.has_pooler().then(|| Linear::new(table, &names.pooler(), hidden, hidden)))
            }
            HeadKind::MaskedLm => Head::MaskedLm(MaskedLm::new(config, table)),
            HeadKind::Classification { .. } => Head::Classifier(Classifier::new(config, names, table)),
        }
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>, word: Range<usize>) {
        match self {
            Head::None(_) => {}
            Head::MaskedLm(head) => head.pack(packing, word),
            Head::Classifier(head) => head.pack(packing),
        }
    }
}
