//! Heads: states to logits, and back.

pub mod classification; // first token -> labels
pub mod embedding; // all tokens -> one vector
pub mod masked_lm; // chosen tokens -> vocabulary
pub mod tokens; // every token -> labels, or start and end of an answer

use crate::data::batch::Batch;
use crate::model::Mode;
use crate::model::config::{HeadKind, ModelConfig};
use crate::model::linear::{Linear, Packing};
use crate::model::names::Names;
use crate::model::parameters::TableBuilder;
use classification::{Classifier, ClassifierActivations};
use distilbert_kernels::Runtime;
use distilbert_kernels::elementwise::{gather_rows, scatter_add_rows};
use embedding::Embedder;
use masked_lm::MaskedLm;
use std::ops::Range;
use tokens::{TokenActivations, TokenHead};

/// What stands on top of the encoder.
pub enum Head {
    /// Nothing, or BERT's pooler, which is kept but not run.
    None(Option<Linear>),
    /// Tokens behind masks.
    MaskedLm(MaskedLm),
    /// One answer for the sequence.
    Classifier(Classifier),
    /// An answer for every token: labels, or start and end.
    Tokens(TokenHead),
    /// One answer for the sequence and one for every token.
    Both(Box<Classifier>, TokenHead),
    /// A vector for the sequence.
    Embedder(Embedder),
}

/// Buffers of one pass of a head with labels.
#[derive(Default)]
pub struct LabelledActivations {
    /// The first tokens' states `[batch, hidden]`, of a classifier.
    first: Vec<f32>,
    classifier: ClassifierActivations,
    tokens: TokenActivations,
    /// Of the second of two heads.
    token_logits: Vec<f32>,
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
            HeadKind::TokenClassification { .. } | HeadKind::QuestionAnswering => {
                Head::Tokens(TokenHead::new(config, table))
            }
            HeadKind::IntentsAndSlots { .. } => {
                Head::Both(Box::new(Classifier::new(config, names, table)), TokenHead::new(config, table))
            }
            HeadKind::Embedding(head) => Head::Embedder(Embedder::new(config, head, names, table)),
        }
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>, word: Range<usize>) {
        match self {
            Head::None(_) => {}
            Head::MaskedLm(head) => head.pack(packing, word),
            Head::Classifier(head) => head.pack(packing),
            Head::Tokens(head) => head.pack(packing),
            Head::Both(of_text, of_tokens) => {
                of_text.pack(packing);
                of_tokens.pack(packing);
            }
            Head::Embedder(head) => head.pack(packing),
        }
    }

    pub(crate) fn disable_dropout(&mut self) {
        match self {
            Head::None(_) | Head::MaskedLm(_) | Head::Embedder(_) => {}
            Head::Classifier(head) => head.disable_dropout(),
            Head::Tokens(head) => head.disable_dropout(),
            Head::Both(of_text, of_tokens) => {
                of_text.disable_dropout();
                of_tokens.disable_dropout();
            }
        }
    }

    /// Whether the head answers for sequences or tokens that have labels.
    pub fn is_labelled(&self) -> bool {
        matches!(self, Head::Classifier(_) | Head::Tokens(_) | Head::Both(..))
    }

    /// States `[tokens, hidden]` to the logits of a head with labels: `[batch, outputs]` or `[tokens, outputs]`, or the one
    /// behind the other.
    ///
    /// # Panics
    /// If the head has no labels ([`Head::is_labelled`]).
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub(crate) fn forward_labelled(
        &self,
        rt: &Runtime,
        arena: &[f32],
        states: &[f32],
        batch: &Batch,
        mode: Mode<'_>,
        a: &mut LabelledActivations,
        logits: &mut Vec<f32>,
    ) {
        match self {
            Head::Classifier(head) => {
                let hidden = head.dense.inputs;
                a.first.resize(batch.sequences() * hidden, 0.0);
                gather_rows(rt, states, hidden, batch.first_tokens(), &mut a.first);
                head.forward(rt, arena, &a.first, mode, &mut a.classifier, logits);
            }
            Head::Tokens(head) => head.forward(rt, arena, states, batch.cu_seqlens(), mode, &mut a.tokens, logits),
            Head::Both(of_text, of_tokens) => {
                let hidden = of_text.dense.inputs;
                a.first.resize(batch.sequences() * hidden, 0.0);
                gather_rows(rt, states, hidden, batch.first_tokens(), &mut a.first);
                of_text.forward(rt, arena, &a.first, mode, &mut a.classifier, logits);
                let ends = batch.cu_seqlens();
                of_tokens.forward(rt, arena, states, ends, mode, &mut a.tokens, &mut a.token_logits);
                logits.extend_from_slice(&a.token_logits);
            }
            Head::None(_) | Head::MaskedLm(_) | Head::Embedder(_) => {
                unreachable!("only heads with labels are asked for their logits")
            }
        }
    }

    /// What a pass through a head with labels gave each sequence: its own logits and those of its tokens, one of them
    /// empty unless there are two heads.
    pub fn by_sequence<'a>(&self, batch: &Batch, logits: &'a [f32]) -> Vec<[&'a [f32]; 2]> {
        let (of_text, of_token) = match self {
            Head::Classifier(head) => (head.classifier.outputs, 0),
            Head::Tokens(head) => (0, head.linear.outputs),
            Head::Both(of_text, of_tokens) => (of_text.classifier.outputs, of_tokens.linear.outputs),
            Head::None(_) | Head::MaskedLm(_) | Head::Embedder(_) => (0, 0),
        };
        let (mut texts, mut tokens) = logits.split_at(batch.sequences() * of_text);
        let take = |rest: &mut &'a [f32], count: usize| {
            let (own, others) = rest.split_at(count);
            *rest = others;
            own
        };
        batch.lengths().map(|length| [take(&mut texts, of_text), take(&mut tokens, length * of_token)]).collect()
    }

    /// From the gradient of [`Head::forward_labelled`]'s logits to `d_states` `[tokens, hidden]`, which is zero; the
    /// parameters' gradients are added.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub(crate) fn backward_labelled(
        &self,
        rt: &Runtime,
        states: &[f32],
        batch: &Batch,
        mode: Mode<'_>,
        a: &LabelledActivations,
        d_logits: &[f32],
        d_states: &mut [f32],
        gradients: &mut [f32],
    ) {
        match self {
            Head::Classifier(head) => {
                let mut d_first = vec![0.0; a.first.len()];
                head.backward(rt, &a.first, mode, &a.classifier, d_logits, &mut d_first, gradients);
                scatter_add_rows(rt, &d_first, head.dense.inputs, batch.first_tokens(), d_states);
            }
            Head::Tokens(head) => {
                head.backward(rt, states, batch.cu_seqlens(), mode, &a.tokens, d_logits, d_states, gradients);
            }
            Head::Both(of_text, of_tokens) => {
                let (d_text, d_tokens) = d_logits.split_at(batch.sequences() * of_text.classifier.outputs);
                of_tokens.backward(rt, states, batch.cu_seqlens(), mode, &a.tokens, d_tokens, d_states, gradients);
                let mut d_first = vec![0.0; a.first.len()];
                of_text.backward(rt, &a.first, mode, &a.classifier, d_text, &mut d_first, gradients);
                scatter_add_rows(rt, &d_first, of_text.dense.inputs, batch.first_tokens(), d_states);
            }
            Head::None(_) | Head::MaskedLm(_) | Head::Embedder(_) => {
                unreachable!("only heads with labels have logits to go back from")
            }
        }
    }
}
