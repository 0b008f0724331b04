//! How attention and feed-forward end: a linear back to the model's width, dropout, residual and norm.

use super::linear::{Finish, Into, LayerNorm, Linear, Packing};
use super::parameters::TableBuilder;
use super::{DropoutSite, Pass};
use distilbert_kernels::dropout::dropout_rows;
use distilbert_kernels::norm::{NormStats, residual_layer_norm};

/// `norm(x + dropout(linear(inner)))`, where x is the block's input.
pub struct ResidualOutput {
    /// `[hidden, inner]`.
    pub linear: Linear,
    /// The norm after the residual.
    pub norm: LayerNorm,
    site: DropoutSite,
    dropout: f32,
}

/// Names of the two parts in the file, and widths.
pub(crate) struct ResidualOutputShape<'a> {
    pub(crate) linear_name: &'a str,
    pub(crate) norm_name: &'a str,
    /// Width of what comes in.
    pub(crate) inner: usize,
    /// Width of what goes out.
    pub(crate) hidden: usize,
    pub(crate) layer_norm_eps: f32,
}

/// Where in a layer the dropout stands, and how much it drops.
pub(crate) struct ResidualDropout {
    pub(crate) site: DropoutSite,
    pub(crate) probability: f32,
}

/// Buffers of one pass; a training pass keeps a set for each layer.
#[derive(Default)]
pub struct ResidualOutputActivations {
    /// Input of the norm.
    sum: Vec<f32>,
    stats: NormStats,
    /// The result, `[tokens, hidden]`.
    pub states: Vec<f32>,
}

/// Gradients that live only inside a block's backward pass; shared by all layers.
#[derive(Default)]
pub struct ResidualOutputScratch {
    d_sum: Vec<f32>,
    /// Of what comes in, `[tokens, inner]`.
    pub(crate) d_inner: Vec<f32>,
}

impl ResidualOutput {
    pub(crate) fn new(
        shape: &ResidualOutputShape<'_>,
        dropout: ResidualDropout,
        table: &mut TableBuilder,
    ) -> ResidualOutput {
        ResidualOutput {
            linear: Linear::new(table, shape.linear_name, shape.inner, shape.hidden),
            norm: LayerNorm::new(table, shape.norm_name, shape.hidden, shape.layer_norm_eps),
            site: dropout.site,
            dropout: dropout.probability,
        }
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        self.linear.pack(packing);
    }

    pub(crate) fn disable_dropout(&mut self) {
        self.dropout = 0.0;
    }

    /// `inner` `[tokens, inner]` and the block's input `x` `[tokens, hidden]` to `a.states`.
    pub(crate) fn forward(&self, pass: Pass<'_>, inner: &[f32], x: &[f32], a: &mut ResidualOutputActivations) {
        let Pass { rt, arena, cu_seqlens, .. } = pass;
        a.sum.resize(x.len(), 0.0);
        a.states.resize(x.len(), 0.0);
        let stats = Some(&mut a.stats);
        match pass.dropout(self.site, self.dropout) {
            Some(dropout) => {
                self.linear.forward(rt, arena, inner, &mut a.sum, Finish::Bias);
                let (gamma, beta) = self.norm.weights(arena);
                let dropout = Some((&dropout, cu_seqlens));
                residual_layer_norm(rt, &mut a.sum, x, dropout, gamma, beta, self.norm.eps, &mut a.states, stats);
            }
            None => {
                self.linear.forward(rt, arena, inner, &mut a.sum, Finish::Residual(x));
                self.norm.forward(rt, arena, &a.sum, &mut a.states, stats);
            }
        }
    }

    /// Gradient of `states` in and of the residual `x` out, both in `d_states`; that of `inner` goes to
    /// `scratch.d_inner`. The parameters' gradients are added.
    pub(crate) fn backward(
        &self,
        pass: Pass<'_>,
        inner: &[f32],
        a: &ResidualOutputActivations,
        d_states: &mut [f32],
        scratch: &mut ResidualOutputScratch,
        gradients: &mut [f32],
    ) {
        let Pass { rt, arena, cu_seqlens, .. } = pass;
        let ResidualOutputScratch { d_sum, d_inner } = scratch;
        d_sum.resize(d_states.len(), 0.0);
        d_inner.resize(inner.len(), 0.0);
        // Forward: states = norm(sum). So:
        self.norm.backward(rt, arena, d_states, &a.sum, &a.stats, d_sum, gradients);
        // Forward: sum = x + dropout(linear(inner)). So the residual's gradient is d_sum itself:
        d_states.copy_from_slice(d_sum);
        if let Some(dropout) = pass.dropout(self.site, self.dropout) {
            dropout_rows(rt, d_sum, self.linear.outputs, cu_seqlens, &dropout);
        }
        self.linear.backward_parameters(rt, inner, d_sum, gradients);
        self.linear.backward_input(rt, d_sum, d_inner, Into::Overwrite);
    }
}
