//! The feed-forward block: wide linear, GELU, narrow linear, residual and norm.

use super::config::EncoderConfig;
use super::linear::{Finish, Into, Linear, Packing};
use super::names::LayerNames;
use super::parameters::TableBuilder;
use super::residual_output::{ResidualDropout, ResidualOutput, ResidualOutputActivations, ResidualOutputShape};
use super::{DropoutSite, Mode};
use distilbert_kernels::Runtime;
use distilbert_kernels::elementwise::{GeluKind, gelu, gelu_backward};

/// One layer's feed-forward block.
pub struct FeedForward {
    /// `[ffn, hidden]`.
    pub lin1: Linear,
    /// The linear back, `[hidden, ffn]`, residual and norm.
    pub output: ResidualOutput,
    gelu: GeluKind,
}

/// Buffers of one pass; a training pass keeps a set for each layer.
#[derive(Default)]
pub struct FeedForwardActivations {
    /// `lin1` before GELU; only a training pass has it.
    before: Vec<f32>,
    after: Vec<f32>,
    /// The block's end; its states are the block's.
    pub output: ResidualOutputActivations,
}

impl FeedForward {
    pub(crate) fn new(
        config: &EncoderConfig,
        layer: usize,
        names: &LayerNames,
        table: &mut TableBuilder,
    ) -> FeedForward {
        let lin1 = Linear::new(table, &names.lin1, config.hidden, config.ffn);
        let shape = ResidualOutputShape {
            linear_name: &names.lin2,
            norm_name: &names.output_norm,
            inner: config.ffn,
            hidden: config.hidden,
            layer_norm_eps: config.layer_norm_eps,
        };
        let dropout = ResidualDropout { site: DropoutSite::FeedForward, layer, probability: config.dropout };
        FeedForward { lin1, output: ResidualOutput::new(&shape, dropout, table), gelu: config.activation.gelu() }
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        self.lin1.pack(packing);
        self.output.pack(packing);
    }

    pub(crate) fn disable_dropout(&mut self) {
        self.output.disable_dropout();
    }

    /// `x` `[tokens, hidden]` to `activations.output.states`.
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
        match mode {
            Mode::Inference => self.lin1.forward(rt, arena, x, &mut a.after, Finish::Gelu(self.gelu)),
            Mode::Training(_) => {
                a.before.resize(wide, 0.0);
                self.lin1.forward(rt, arena, x, &mut a.before, Finish::Bias);
                gelu(rt, &a.before, &mut a.after, self.gelu);
            }
        }
        self.output.forward(rt, arena, cu_seqlens, mode, &a.after, x, &mut a.output);
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
        scratch.d_wide.resize(a.before.len(), 0.0);
        self.output.backward(
            rt,
            arena,
            cu_seqlens,
            mode,
            &a.after,
            &a.output,
            d_output,
            &mut scratch.d_sum,
            &mut scratch.d_wide,
            gradients,
        );
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
