//! The self-attention block: queries, keys and values in one product, attention, projection, residual and norm.

use super::config::EncoderConfig;
use super::linear::{Finish, Into, LayerNorm, Linear, Packing};
use super::names::LayerNames;
use super::parameters::TableBuilder;
use super::{DropoutSite, Mode};
use distilbert_kernels::attention::{AttentionShape, attention, attention_backward};
use distilbert_kernels::dropout::dropout_rows;
use distilbert_kernels::norm::{NormStats, residual_layer_norm};
use distilbert_kernels::{Precision, Runtime};

/// One layer's self-attention.
pub struct Attention {
    /// Query, key and value side by side, `[3 · hidden, hidden]`.
    pub qkv: Linear,
    /// The projection of the heads' outputs.
    pub out: Linear,
    /// The norm after the residual.
    pub norm: LayerNorm,
    shape: AttentionShape,
    layer: usize,
    attention_dropout: f32,
    output_dropout: f32,
}

/// Buffers of one pass; a training pass keeps a set for each layer.
#[derive(Default)]
pub struct AttentionActivations {
    qkv: Vec<f32>,
    context: Vec<f32>,
    log_sum_exp: Vec<f32>,
    /// Input of the norm.
    sum: Vec<f32>,
    stats: NormStats,
    /// The block's output, `[tokens, hidden]`.
    pub output: Vec<f32>,
}

impl Attention {
    pub(crate) fn new(config: &EncoderConfig, layer: usize, names: &LayerNames, table: &mut TableBuilder) -> Attention {
        let hidden = config.hidden;
        Attention {
            qkv: Linear::joined(table, &[&names.query, &names.key, &names.value], hidden, hidden),
            out: Linear::new(table, &names.attention_out, hidden, hidden),
            norm: LayerNorm::new(table, &names.attention_norm, hidden, config.layer_norm_eps),
            shape: AttentionShape { heads: config.heads, head_dim: hidden / config.heads },
            layer,
            attention_dropout: config.attention_dropout,
            output_dropout: if config.attention_output_dropout { config.dropout } else { 0.0 },
        }
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        self.qkv.pack(packing);
        self.out.pack(packing);
    }

    pub(crate) fn disable_dropout(&mut self) {
        self.attention_dropout = 0.0;
        self.output_dropout = 0.0;
    }

    /// `x` `[tokens, hidden]` to `activations.output`.
    pub(crate) fn forward(
        &self,
        rt: &Runtime,
        arena: &[f32],
        cu_seqlens: &[u32],
        mode: Mode<'_>,
        x: &[f32],
        activations: &mut AttentionActivations,
    ) {
        let tokens = x.len() / self.qkv.inputs;
        let a = activations;
        a.qkv.resize(3 * x.len(), 0.0);
        for buffer in [&mut a.context, &mut a.sum, &mut a.output] {
            buffer.resize(x.len(), 0.0);
        }
        a.log_sum_exp.resize(tokens * self.shape.heads, 0.0);
        let (gamma, beta) = self.norm.weights(arena);
        self.qkv.forward(rt, arena, x, &mut a.qkv, Finish::Bias); // [tokens, 3 * hidden]
        let key = mode.dropout();
        let dropout =
            key.and_then(|key| key.at(DropoutSite::AttentionProbabilities, self.layer, self.attention_dropout));
        let log_sum_exp = key.is_some().then_some(&mut a.log_sum_exp[..]);
        attention(
            rt,
            self.precision(rt, mode),
            self.shape,
            &a.qkv,
            cu_seqlens,
            dropout.as_ref(),
            &mut a.context,
            log_sum_exp,
        ); // [tokens, hidden]
        let dropout = key.and_then(|key| key.at(DropoutSite::AttentionOutput, self.layer, self.output_dropout));
        match dropout {
            Some(dropout) => {
                self.out.forward(rt, arena, &a.context, &mut a.sum, Finish::Bias);
                let dropout = Some((&dropout, cu_seqlens));
                let stats = Some(&mut a.stats);
                residual_layer_norm(rt, &mut a.sum, x, dropout, gamma, beta, self.norm.eps, &mut a.output, stats);
            }
            None => {
                self.out.forward(rt, arena, &a.context, &mut a.sum, Finish::Residual(x));
                self.norm.forward(rt, arena, &a.sum, &mut a.output, Some(&mut a.stats));
            }
        }
    }

    /// The precision of the products inside attention: f32 in training, whose backward pass must find the same
    /// probabilities again; bf16, where the CPU has it, beside weights in bf16 or int8.
    fn precision(&self, rt: &Runtime, mode: Mode<'_>) -> Precision {
        let coarse = matches!(mode, Mode::Inference) && self.qkv.precision() != Precision::F32;
        if coarse && Precision::Bf16.is_available(rt.isa()) { Precision::Bf16 } else { Precision::F32 }
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
        a: &AttentionActivations,
        d_output: &mut [f32],
        scratch: &mut AttentionScratch,
        gradients: &mut [f32],
    ) {
        scratch.d_sum.resize(x.len(), 0.0);
        scratch.d_context.resize(x.len(), 0.0);
        scratch.d_qkv.resize(3 * x.len(), 0.0);
        // Forward: output = norm(sum). So:
        self.norm.backward(rt, arena, d_output, &a.sum, &a.stats, &mut scratch.d_sum, gradients);
        // Forward: sum = x + dropout(out(context)). So the residual's gradient is d_sum itself:
        d_output.copy_from_slice(&scratch.d_sum);
        let key = mode.dropout();
        if let Some(dropout) = key.and_then(|key| key.at(DropoutSite::AttentionOutput, self.layer, self.output_dropout))
        {
            dropout_rows(rt, &mut scratch.d_sum, self.out.outputs, cu_seqlens, &dropout);
        }
        self.out.backward_parameters(rt, &a.context, &scratch.d_sum, gradients);
        self.out.backward_input(rt, &scratch.d_sum, &mut scratch.d_context, Into::Overwrite);
        let dropout =
            key.and_then(|key| key.at(DropoutSite::AttentionProbabilities, self.layer, self.attention_dropout));
        attention_backward(
            rt,
            self.shape,
            &a.qkv,
            cu_seqlens,
            dropout.as_ref(),
            &a.context,
            &a.log_sum_exp,
            &scratch.d_context,
            &mut scratch.d_qkv,
        );
        self.qkv.backward_parameters(rt, x, &scratch.d_qkv, gradients);
        self.qkv.backward_input(rt, &scratch.d_qkv, d_output, Into::Accumulate);
    }
}

/// Gradients that live only inside one block's backward pass; shared by all layers.
#[derive(Default)]
pub struct AttentionScratch {
    d_sum: Vec<f32>,
    d_context: Vec<f32>,
    d_qkv: Vec<f32>,
}
