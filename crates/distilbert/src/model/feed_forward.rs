//! The feed-forward block: wide linear, GELU, narrow linear, residual and norm.

use super::config::EncoderConfig;
use super::linear::{Finish, Into, LayerNorm, Linear, Packing};
use super::names::LayerNames;
use super::parameters::TableBuilder;
use super::{DropoutSite, Mode};
use distilbert_kernels::Runtime;
use distilbert_kernels::dropout::dropout_rows;
use distilbert_kernels::elementwise::{GeluKind, gelu, gelu_backward};
use distilbert_kernels::norm::{NormStats, residual_layer_norm};

/// One layer's feed-forward block.
pub struct FeedForward {
    /// `[ffn, hidden]`.
    pub lin1: Linear,
    /// `[hidden, ffn]`.
    pub lin2: Linear,
    /// The norm after the residual.
    pub norm: LayerNorm,
    gelu: GeluKind,
    layer: usize,
    dropout: f32,
}

/// Buffers of one pass; a training pass keeps a set for each layer.
#[derive(Default)]
pub struct FeedForwardActivations {
    /// `lin1` before GELU; only a training pass has it.
    before: Vec<f32>,
    after: Vec<f32>,
    /// Input of the norm.
    sum: Vec<f32>,
    stats: NormStats,
    /// The block's output, `[tokens, hidden]`.
    pub output: Vec<f32>,
}

impl FeedForward {
    pub(crate) fn new(
        config: &EncoderConfig,
        layer: usize,
        names: &LayerNames,
        table: &mut TableBuilder,
    ) -> FeedForward {
        FeedForward {
            lin1: Linear::new(table, &names.lin1, config.hidden, config.ffn),
            lin2: Linear::new(table, &names.lin2, config.ffn, config.hidden),
            norm: LayerNorm::new(table, &names.output_norm, config.hidden, config.layer_norm_eps),
            gelu: config.activation.gelu(),
            layer,
            dropout: config.dropout,
        }
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        self.lin1.pack(packing);
        self.lin2.pack(packing);
    }

    pub(crate) fn disable_dropout(&mut self) {
        self.dropout = 0.0;
    }

    /// `x` `[tokens, hidden]` to `activations.output`.
    pub(crate) fn forward(
        &self,
        rt: &Runtime,
        arena: &[f32],
        cu_seqlens: &[u32],
        mode: Mode<'_>,
        x: &[f32],
        activations: &mut FeedForwardActivations,
    ) {
        let a = activations;
        let wide = x.len() / self.lin1.inputs * self.lin1.outputs;
        a.after.resize(wide, 0.0);
        a.sum.resize(x.len(), 0.0);
        a.output.resize(x.len(), 0.0);
        match mode {
            Mode::Inference => self.lin1.forward(rt, arena, x, &mut a.after, Finish::Gelu(self.gelu)),
            Mode::Training(_) => {
                a.before.resize(wide, 0.0);
                self.lin1.forward(rt, arena, x, &mut a.before, Finish::Bias);
                gelu(rt, &a.before, &mut a.after, self.gelu);
            }
        }
        match mode.dropout().and_then(|key| key.at(DropoutSite::FeedForward, self.layer, self.dropout)) {
            Some(dropout) => {
                self.lin2.forward(rt, arena, &a.after, &mut a.sum, Finish::Bias);
                let (gamma, beta) = self.norm.weights(arena);
                let dropout = Some((&dropout, cu_seqlens));
                let stats = Some(&mut a.stats);
                residual_layer_norm(rt, &mut a.sum, x, dropout, gamma, beta, self.norm.eps, &mut a.output, stats);
            }
            None => {
                self.lin2.forward(rt, arena, &a.after, &mut a.sum, Finish::Residual(x));
                self.norm.forward(rt, arena, &a.sum, &mut a.output, Some(&mut a.stats));
            }
        }
    }

    /// `d_output` in, gradient of `x` out, in the same buffer; the parameters' gradients are added.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub(crate) fn backward(
        &self,
        rt: &Runtime,
        arena: &[f32],
        cu_seqlens: &[u32],
        mode: Mode<'_>,
        x: &[f32],
        a: &FeedForwardActivations,
        d_output: &mut [f32],
        scratch: &mut FeedForwardScratch,
        gradients: &mut [f32],
    ) {
        scratch.d_sum.resize(x.len(), 0.0);
        scratch.d_wide.resize(a.before.len(), 0.0);
        // Forward: output = norm(sum). So:
        self.norm.backward(rt, arena, d_output, &a.sum, &a.stats, &mut scratch.d_sum, gradients);
        // Forward: sum = x + dropout(lin2(gelu(lin1(x)))). So the residual's gradient is d_sum itself:
        d_output.copy_from_slice(&scratch.d_sum);
        if let Some(dropout) = mode.dropout().and_then(|key| key.at(DropoutSite::FeedForward, self.layer, self.dropout))
        {
            dropout_rows(rt, &mut scratch.d_sum, self.lin2.outputs, cu_seqlens, &dropout);
        }
        self.lin2.backward_parameters(rt, &a.after, &scratch.d_sum, gradients);
        self.lin2.backward_input(rt, &scratch.d_sum, &mut scratch.d_wide, Into::Overwrite);
        gelu_backward(rt, &a.before, &mut scratch.d_wide, self.gelu);
        self.lin1.backward_parameters(rt, x, &scratch.d_wide, gradients);
        self.lin1.backward_input(rt, &scratch.d_wide, d_output, Into::Accumulate);
    }
}

/// Gradients that live only inside one block's backward pass; shared by all layers.
#[derive(Default)]
pub struct FeedForwardScratch {
    d_sum: Vec<f32>,
    d_wide: Vec<f32>,
}
