//! The feed-forward block: wide linear, GELU, narrow linear, residual and norm.

use super::config::EncoderConfig;
use super::linear::{Finish, Into, Linear, Packing};
use super::names::LayerNames;
use super::parameters::TableBuilder;
use super::residual_output::{
    ResidualDropout, ResidualOutput, ResidualOutputActivations, ResidualOutputScratch, ResidualOutputShape,
};
use super::{DropoutSite, Mode, Pass};
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
    pub(crate) fn new(config: &EncoderConfig, names: &LayerNames, table: &mut TableBuilder) -> FeedForward {
        let lin1 = Linear::new(table, &names.lin1, config.hidden, config.ffn);
        let shape = ResidualOutputShape {
            linear_name: &names.lin2,
            norm_name: &names.output_norm,
            inner: config.ffn,
            hidden: config.hidden,
            layer_norm_eps: config.layer_norm_eps,
        };
        let probability = if config.feed_forward_output_dropout { config.dropout } else { 0.0 };
        let dropout = ResidualDropout { site: DropoutSite::FeedForward, probability };
        FeedForward { lin1, output: ResidualOutput::new(&shape, dropout, table), gelu: config.activation.gelu() }
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        self.lin1.pack(packing);
        self.output.pack(packing);
    }

    pub(crate) fn disable_dropout(&mut self) {
        self.output.disable_dropout();
    }

    /// `x` `[tokens, hidden]` to `a.output.states`.
    pub(crate) fn forward(&self, pass: Pass<'_>, x: &[f32], a: &mut FeedForwardActivations) {
        let Pass { rt, arena, mode, .. } = pass;
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
        self.output.forward(pass, &a.after, x, &mut a.output);
    }

    /// `d_output` in, gradient of `x` out, in the same buffer; the parameters' gradients are added.
    pub(crate) fn backward(
        &self,
        pass: Pass<'_>,
        x: &[f32],
        a: &FeedForwardActivations,
        d_output: &mut [f32],
        scratch: &mut ResidualOutputScratch,
        gradients: &mut [f32],
    ) {
        let rt = pass.rt;
        self.output.backward(pass, &a.after, &a.output, d_output, scratch, gradients);
        let d_wide = &mut scratch.d_inner; // [tokens, ffn]
        gelu_backward(rt, &a.before, d_wide, self.gelu);
        self.lin1.backward_parameters(rt, x, d_wide, gradients);
        self.lin1.backward_input(rt, d_wide, d_output, Into::Accumulate);
    }
}
