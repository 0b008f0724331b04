//! Dropout and one linear on every token: a label for each (`classifier`; `slot_classifier` beside a classifier of texts),
//! or where an answer starts and ends (`qa_outputs`).

use crate::model::config::{HeadKind, ModelConfig};
use crate::model::linear::{Finish, Into, Linear, Packing};
use crate::model::names::{ANSWERER, CLASSIFIER, SLOT_CLASSIFIER};
use crate::model::parameters::TableBuilder;
use crate::model::{DropoutSite, Mode};
use distilbert_kernels::Runtime;
use distilbert_kernels::dropout::dropout_rows;

/// The head's one layer.
pub struct TokenHead {
    /// `classifier`, `slot_classifier` or `qa_outputs`.
    pub linear: Linear,
    dropout: f32,
}

/// Buffer of one pass: the states that dropout left, empty if it left all.
#[derive(Default)]
pub struct TokenActivations {
    dropped: Vec<f32>,
}

impl TokenHead {
    pub(crate) fn new(config: &ModelConfig, table: &mut TableBuilder) -> TokenHead {
        let (name, outputs) = match &config.head {
            HeadKind::QuestionAnswering => (ANSWERER, config.head.outputs()),
            HeadKind::IntentsAndSlots { slots, .. } => (SLOT_CLASSIFIER, slots.len()),
            _ => (CLASSIFIER, config.head.outputs()),
        };
        let linear = Linear::new(table, name, config.encoder.hidden, outputs);
        TokenHead { linear, dropout: config.head_dropout() }
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        // A few rows of weights: nothing to gain, and the logits are what is compared.
        self.linear.pack(&packing.in_f32());
    }

    pub(crate) fn disable_dropout(&mut self) {
        self.dropout = 0.0;
    }

    /// States `[tokens, hidden]` to logits `[tokens, outputs]`.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub(crate) fn forward(
        &self,
        rt: &Runtime,
        arena: &[f32],
        states: &[f32],
        cu_seqlens: &[u32],
        mode: Mode<'_>,
        a: &mut TokenActivations,
        logits: &mut Vec<f32>,
    ) {
        logits.resize(states.len() / self.linear.inputs * self.linear.outputs, 0.0);
        a.dropped.clear();
        if let Some(dropout) = mode.dropout().and_then(|key| key.at(DropoutSite::Head, 0, self.dropout)) {
            a.dropped.extend_from_slice(states);
            dropout_rows(rt, &mut a.dropped, self.linear.inputs, cu_seqlens, &dropout);
        }
        self.linear.forward(rt, arena, a.input(states), logits, Finish::Bias);
    }

    /// From the logits' gradient to that of the states; the parameters' gradients are added.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub fn backward(
        &self,
        rt: &Runtime,
        states: &[f32],
        cu_seqlens: &[u32],
        mode: Mode<'_>,
        a: &TokenActivations,
        d_logits: &[f32],
        d_states: &mut [f32],
        gradients: &mut [f32],
    ) {
        self.linear.backward_parameters(rt, a.input(states), d_logits, gradients);
        self.linear.backward_input(rt, d_logits, d_states, Into::Overwrite);
        if let Some(dropout) = mode.dropout().and_then(|key| key.at(DropoutSite::Head, 0, self.dropout)) {
            dropout_rows(rt, d_states, self.linear.inputs, cu_seqlens, &dropout);
        }
    }
}

impl TokenActivations {
    /// What the linear read.
    fn input<'a>(&'a self, states: &'a [f32]) -> &'a [f32] {
        if self.dropped.is_empty() { states } else { &self.dropped }
    }
}

/// The logits of question answering, from a pair for each token `[seq, 2]` to all starts and then all ends `[2, seq]`.
pub fn starts_then_ends(pairs: &[f32]) -> Vec<f32> {
    let column = |index: usize| pairs.iter().skip(index).step_by(2).copied();
    column(0).chain(column(1)).collect()
}
