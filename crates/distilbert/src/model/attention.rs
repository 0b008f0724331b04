//! The self-attention block: queries, keys and values in one product, attention, projection, residual and norm.

use super::config::EncoderConfig;
use super::linear::{Finish, Into, Linear, Packing};
use super::names::LayerNames;
use super::parameters::TableBuilder;
use super::residual_output::{
    ResidualDropout, ResidualOutput, ResidualOutputActivations, ResidualOutputScratch, ResidualOutputShape,
};
use super::{DropoutSite, Mode, Pass};
use distilbert_kernels::attention::{AttentionShape, Queries, attention, attention_backward};
use distilbert_kernels::dropout::Dropout;
use distilbert_kernels::elementwise::add_assign;
use distilbert_kernels::{Precision, Runtime};

/// One layer's self-attention.
pub struct Attention {
    /// Query, key and value side by side, `[3 · hidden, hidden]`.
    pub qkv: Linear,
    /// The projection of the heads' outputs, residual and norm.
    pub output: ResidualOutput,
    shape: AttentionShape,
    attention_dropout: f32,
}

/// Buffers of one pass; a training pass keeps a set for each layer.
#[derive(Default)]
pub struct AttentionActivations {
    qkv: Vec<f32>,
    context: Vec<f32>,
    log_sum_exp: Vec<f32>,
    /// The block's end; its states are the block's.
    pub output: ResidualOutputActivations,
}

impl AttentionActivations {
    /// Queries, keys and values side by side, `[tokens, 3 * hidden]`.
    pub(crate) fn qkv(&self) -> &[f32] {
        &self.qkv
    }
}

impl Attention {
    pub(crate) fn new(config: &EncoderConfig, names: &LayerNames, table: &mut TableBuilder) -> Attention {
        let hidden = config.hidden;
        let qkv = Linear::joined(table, &[&names.query, &names.key, &names.value], hidden, hidden);
        let shape = ResidualOutputShape {
            linear_name: &names.attention_out,
            norm_name: &names.attention_norm,
            inner: hidden,
            hidden,
            layer_norm_eps: config.layer_norm_eps,
        };
        let probability = if config.attention_output_dropout { config.dropout } else { 0.0 };
        let dropout = ResidualDropout { site: DropoutSite::AttentionOutput, probability };
        Attention {
            qkv,
            output: ResidualOutput::new(&shape, dropout, table),
            shape: AttentionShape { heads: config.heads, head_dim: hidden / config.heads },
            attention_dropout: config.attention_dropout,
        }
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        self.qkv.pack(packing);
        self.output.pack(packing);
    }

    pub(crate) fn disable_dropout(&mut self) {
        self.attention_dropout = 0.0;
        self.output.disable_dropout();
    }

    /// `x` `[tokens, hidden]` to `a.output.states`.
    pub(crate) fn forward(&self, pass: Pass<'_>, x: &[f32], a: &mut AttentionActivations) {
        let Pass { rt, arena, cu_seqlens, mode, .. } = pass;
        let tokens = x.len() / self.qkv.inputs;
        a.qkv.resize(3 * x.len(), 0.0);
        a.context.resize(x.len(), 0.0);
        a.log_sum_exp.resize(tokens * self.shape.heads, 0.0);
        self.qkv.forward(rt, arena, x, &mut a.qkv, Finish::Bias); // [tokens, 3 * hidden]
        let dropout = self.probability_dropout(pass);
        let log_sum_exp = matches!(mode, Mode::Training(_)).then_some(&mut a.log_sum_exp[..]);
        let (precision, dropout) = (self.precision(rt, mode), dropout.as_ref());
        let context = &mut a.context; // [tokens, hidden]
        attention(rt, precision, self.shape, &a.qkv, cu_seqlens, Queries::All, dropout, context, log_sum_exp);
        self.output.forward(pass, &a.context, x, &mut a.output);
    }

    /// As an inference pass of [`Attention::forward`], for the first tokens of the sequences only: `x` holds all tokens,
    /// `first` and the result `[batch, hidden]` the first ones.
    pub(crate) fn forward_first(&self, pass: Pass<'_>, x: &[f32], first: &[f32], a: &mut AttentionActivations) {
        let Pass { rt, arena, cu_seqlens, mode, .. } = pass;
        a.qkv.resize(3 * x.len(), 0.0);
        a.context.resize(first.len(), 0.0);
        self.qkv.forward(rt, arena, x, &mut a.qkv, Finish::Bias);
        let precision = self.precision(rt, mode);
        attention(rt, precision, self.shape, &a.qkv, cu_seqlens, Queries::First, None, &mut a.context, None);
        self.output.forward(pass, &a.context, first, &mut a.output);
    }

    /// The probabilities `[heads, tokens, tokens]` of one sequence of states `x` `[tokens, hidden]`: plain loops, for
    /// people to look at. [`Attention::forward`] never holds them.
    pub(crate) fn probabilities(&self, rt: &Runtime, arena: &[f32], x: &[f32]) -> Vec<f32> {
        let (hidden, AttentionShape { heads, head_dim }) = (self.qkv.inputs, self.shape);
        let mut qkv = vec![0.0; 3 * x.len()];
        self.qkv.forward(rt, arena, x, &mut qkv, Finish::Bias); // [tokens, 3 * hidden]
        let scale = 1.0 / (head_dim as f64).sqrt();
        let mut probabilities = Vec::with_capacity(heads * x.len());
        for head in 0..heads {
            let part = |row: &[f32], which: usize| -> Vec<f32> {
                row[which * hidden + head * head_dim..][..head_dim].to_vec()
            };
            let keys: Vec<Vec<f32>> = qkv.chunks_exact(3 * hidden).map(|row| part(row, 1)).collect();
            for row in qkv.chunks_exact(3 * hidden) {
                let query = part(row, 0);
                let dot =
                    |key: &Vec<f32>| query.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
                let scores: Vec<f64> = keys.iter().map(|key| dot(key) * scale).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
                let sum: f64 = powers.iter().sum();
                probabilities.extend(powers.iter().map(|power| (power / sum) as f32));
            }
        }
        probabilities
    }

    /// The precision of the products inside attention: f32 in training, whose backward pass must find the same
    /// probabilities again; bf16, where the CPU has it, beside weights in bf16 or int8.
    fn precision(&self, rt: &Runtime, mode: Mode<'_>) -> Precision {
        let coarse = matches!(mode, Mode::Inference) && self.qkv.precision() != Precision::F32;
        if coarse && Precision::Bf16.is_available(rt.isa()) { Precision::Bf16 } else { Precision::F32 }
    }

    /// `d_output` in, gradient of `x` out, in the same buffer; the parameters' gradients are added. `inner` is what losses
    /// that look at queries, keys and values add to their gradient, if any do.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub(crate) fn backward(
        &self,
        pass: Pass<'_>,
        x: &[f32],
        a: &AttentionActivations,
        d_output: &mut [f32],
        inner: &[f32],
        scratch: &mut AttentionScratch,
        gradients: &mut [f32],
    ) {
        let AttentionScratch { output, d_qkv } = scratch;
        let rt = pass.rt;
        self.output.backward(pass, &a.context, &a.output, d_output, output, gradients);
        d_qkv.resize(3 * x.len(), 0.0);
        attention_backward(
            rt,
            self.shape,
            &a.qkv,
            pass.cu_seqlens,
            self.probability_dropout(pass).as_ref(),
            &a.context,
            &a.log_sum_exp,
            &output.d_inner,
            d_qkv,
        );
        if !inner.is_empty() {
            add_assign(rt, d_qkv, inner);
        }
        self.qkv.backward_parameters(rt, x, d_qkv, gradients);
        self.qkv.backward_input(rt, d_qkv, d_output, Into::Accumulate);
    }

    /// As [`Attention::backward`], where losses that look at queries, keys and values are the only ones: their gradient in,
    /// that of `x` out.
    pub(crate) fn backward_qkv(&self, rt: &Runtime, x: &[f32], d_qkv: &[f32], dx: &mut [f32], gradients: &mut [f32]) {
        self.qkv.backward_parameters(rt, x, d_qkv, gradients);
        self.qkv.backward_input(rt, d_qkv, dx, Into::Overwrite);
    }

    fn probability_dropout<'a>(&self, pass: Pass<'a>) -> Option<Dropout<'a>> {
        pass.dropout(DropoutSite::AttentionProbabilities, self.attention_dropout)
    }
}

/// Gradients that live only inside one block's backward pass; shared by all layers.
#[derive(Default)]
pub struct AttentionScratch {
    output: ResidualOutputScratch,
    d_qkv: Vec<f32>,
}
