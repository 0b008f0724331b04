//! The masked-LM head: dense, GELU, norm, and the word embeddings as the decoder. It runs only on the rows it is
//! asked for, and its logits exist only a chunk of rows at a time, never `[tokens, vocab]`.

use crate::model::config::ModelConfig;
use crate::model::linear::{Finish, Into, LayerNorm, Linear, Packing};
use crate::model::parameters::TableBuilder;
use distilbert_kernels::Runtime;
use distilbert_kernels::elementwise::{GeluKind, gelu, gelu_backward};
use distilbert_kernels::norm::NormStats;
use std::ops::Range;

/// Rows of logits that exist at a time. A chunk of the base vocabulary is 31 MB, and teacher and student have one each;
/// fewer rows would read the decoder from memory more often. Results do not depend on it: the kernels sum in row order across chunks.
pub const LOGIT_CHUNK_ROWS: usize = 256;

/// The head's layers.
pub struct MaskedLm {
    /// `vocab_transform`, `cls.predictions.transform.dense`; to the width of the word embeddings.
    pub transform: Linear,
    /// The norm after GELU.
    pub norm: LayerNorm,
    /// Weight tied to the word embeddings, bias its own.
    pub decoder: Linear,
    gelu: GeluKind,
}

/// Buffers of one pass.
#[derive(Default)]
pub struct MaskedLmActivations {
    before: Vec<f32>,
    after: Vec<f32>,
    stats: NormStats,
    /// The decoder's input, `[rows, embedding]`.
    output: Vec<f32>,
}

impl MaskedLm {
    pub(crate) fn new(config: &ModelConfig, table: &mut TableBuilder) -> MaskedLm {
        let encoder = &config.encoder;
        let names = encoder.family.masked_lm_names();
        // The decoder's weight is the word embeddings, which may be narrower than the states.
        let width = encoder.embedding_size;
        let transform = Linear::new(table, names.transform, encoder.hidden, width);
        let norm = LayerNorm::new(table, names.norm, width, encoder.layer_norm_eps);
        let bias = table.vector(names.bias.to_owned(), encoder.vocab_size);
        // `pack` sets the weight's range: the word embeddings belong to the embeddings.
        let decoder = Linear::over(0..0, bias, width, encoder.vocab_size);
        let activation = encoder.family.masked_lm_activation().unwrap_or(encoder.activation);
        MaskedLm { transform, norm, decoder, gelu: activation.gelu() }
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>, word: Range<usize>) {
        self.decoder.weight = word;
        self.transform.pack(packing);
        self.decoder.pack(packing);
    }

    /// Number of logits a row.
    pub fn vocab_size(&self) -> usize {
        self.decoder.outputs
    }

    /// Everything before the decoder, for states `[rows, hidden]`.
    pub(crate) fn forward(&self, rt: &Runtime, arena: &[f32], states: &[f32], a: &mut MaskedLmActivations) {
        for buffer in [&mut a.before, &mut a.after, &mut a.output] {
            buffer.resize(states.len() / self.transform.inputs * self.transform.outputs, 0.0);
        }
        self.transform.forward(rt, arena, states, &mut a.before, Finish::Bias);
        gelu(rt, &a.before, &mut a.after, self.gelu);
        self.norm.forward(rt, arena, &a.after, &mut a.output, Some(&mut a.stats));
    }

    /// The logits `[rows, vocab]` of some rows of the last [`MaskedLm::forward`].
    pub(crate) fn logits(
        &self,
        rt: &Runtime,
        arena: &[f32],
        a: &MaskedLmActivations,
        rows: Range<usize>,
        logits: &mut Vec<f32>,
    ) {
        let hidden = self.decoder.inputs;
        logits.resize(rows.len() * self.vocab_size(), 0.0);
        self.decoder.forward(rt, arena, &a.output[rows.start * hidden..rows.end * hidden], logits, Finish::Bias);
    }

    /// From the gradient of some rows' logits: adds the decoder's gradients (those of its tied weight only if it is
    /// trained), writes these rows of `d_output` `[all rows, embedding]`.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub fn logits_backward(
        &self,
        rt: &Runtime,
        a: &MaskedLmActivations,
        rows: Range<usize>,
        d_logits: &[f32],
        weight_is_trained: bool,
        d_output: &mut [f32],
        gradients: &mut [f32],
    ) {
        let hidden = self.decoder.inputs;
        let rows = rows.start * hidden..rows.end * hidden;
        if weight_is_trained {
            self.decoder.backward_weight(rt, &a.output[rows.clone()], d_logits, gradients);
        }
        self.decoder.backward_bias(rt, d_logits, gradients);
        self.decoder.backward_input(rt, d_logits, &mut d_output[rows], Into::Overwrite);
    }

    /// From the gradient of the decoder's input `[rows, embedding]` to that of the states `[rows, hidden]`.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub fn backward(
        &self,
        rt: &Runtime,
        arena: &[f32],
        states: &[f32],
        a: &MaskedLmActivations,
        d_output: &[f32],
        d_states: &mut [f32],
        gradients: &mut [f32],
    ) {
        let mut d_inner = vec![0.0; d_output.len()];
        self.norm.backward(rt, arena, d_output, &a.after, &a.stats, &mut d_inner, gradients);
        gelu_backward(rt, &a.before, &mut d_inner, self.gelu);
        self.transform.backward_parameters(rt, states, &d_inner, gradients);
        self.transform.backward_input(rt, &d_inner, d_states, Into::Overwrite);
    }
}
