//! One vector for the sequence, as sentence-transformers computes it: pooling, then linears if there are any, then
//! scaling to length one if the model does that.

use crate::data::batch::Batch;
use crate::model::config::{DenseActivation, EmbeddingHead, ModelConfig, Pooling};
use crate::model::linear::{Finish, Into, Linear, Packing};
use crate::model::names::Names;
use crate::model::parameters::TableBuilder;
use distilbert_kernels::Runtime;
use distilbert_kernels::elementwise::{gather_rows, scatter_add_rows, tanh, tanh_backward};
use distilbert_kernels::pool::{
    max_pool, max_pool_backward, mean_pool, mean_pool_backward, normalize_rows, normalize_rows_backward,
};

/// The head's layers.
pub struct Embedder {
    /// BERT's pooler, which is kept and not run.
    pub pooler: Option<Linear>,
    /// Linears behind the pooling, first to last.
    pub dense: Vec<Linear>,
    /// What it computes.
    pub config: EmbeddingHead,
    hidden: usize,
}

/// Buffers of one pass.
#[derive(Default)]
pub struct EmbedderActivations {
    pooled: Vec<f32>,
    /// Behind each linear and its activation.
    dense: Vec<Vec<f32>>,
    embeddings: Vec<f32>,
    lengths: Vec<f32>,
}

impl EmbedderActivations {
    /// The embeddings of the last pass, `[batch, width]`.
    pub fn embeddings(&self) -> &[f32] {
        &self.embeddings
    }
}

impl Embedder {
    pub(crate) fn new(config: &ModelConfig, head: &EmbeddingHead, names: &Names, table: &mut TableBuilder) -> Embedder {
        let hidden = config.encoder.hidden;
        let pooler = config.has_pooler().then(|| Linear::new(table, &names.pooler(), hidden, hidden));
        let mut width = hidden;
        let dense = head.dense.iter().enumerate().map(|(index, dense)| {
            let linear = Linear::new(table, &EmbeddingHead::dense_name(index), width, dense.outputs);
            width = dense.outputs;
            linear
        });
        Embedder { pooler, dense: dense.collect(), config: head.clone(), hidden }
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        // A small part of the work, and the embeddings are what is compared.
        self.dense.iter_mut().for_each(|linear| linear.pack(&packing.in_f32()));
    }

    /// Width of an embedding.
    pub fn width(&self) -> usize {
        self.dense.last().map_or(self.hidden, |linear| linear.outputs)
    }

    /// States `[tokens, hidden]` of a batch to embeddings `[batch, width]`, left in `a`.
    pub(crate) fn forward(
        &self,
        rt: &Runtime,
        arena: &[f32],
        states: &[f32],
        batch: &Batch,
        a: &mut EmbedderActivations,
    ) {
        a.pooled.resize(batch.sequences() * self.hidden, 0.0);
        let cu_seqlens = batch.cu_seqlens();
        match self.config.pooling {
            Pooling::Mean => mean_pool(rt, states, self.hidden, cu_seqlens, &mut a.pooled),
            Pooling::Max => max_pool(rt, states, self.hidden, cu_seqlens, &mut a.pooled),
            Pooling::Cls => gather_rows(rt, states, self.hidden, batch.first_tokens(), &mut a.pooled),
        }
        self.forward_pooled(rt, arena, a);
    }

    /// As [`Embedder::forward`] of a head that pools first tokens, from their states `[batch, hidden]`.
    pub(crate) fn forward_first(&self, rt: &Runtime, arena: &[f32], first: &[f32], a: &mut EmbedderActivations) {
        debug_assert_eq!(self.config.pooling, Pooling::Cls);
        a.pooled.clear();
        a.pooled.extend_from_slice(first);
        self.forward_pooled(rt, arena, a);
    }

    fn forward_pooled(&self, rt: &Runtime, arena: &[f32], a: &mut EmbedderActivations) {
        let batch = a.pooled.len() / self.hidden;
        a.dense.resize_with(self.dense.len(), Vec::new);
        for (index, (linear, dense)) in self.dense.iter().zip(&self.config.dense).enumerate() {
            let (before, rest) = a.dense.split_at_mut(index);
            let y = &mut rest[0];
            y.resize(batch * linear.outputs, 0.0);
            linear.forward(rt, arena, before.last().unwrap_or(&a.pooled), y, Finish::Bias);
            if dense.activation == DenseActivation::Tanh {
                tanh(rt, y);
            }
        }
        a.embeddings.clone_from(a.dense.last().unwrap_or(&a.pooled));
        if self.config.normalize {
            a.lengths.resize(batch, 0.0);
            normalize_rows(rt, &mut a.embeddings, self.width(), &mut a.lengths);
        }
    }

    /// From the gradient of the embeddings, which is used up, to that of the states `[tokens, hidden]`, which is
    /// overwritten; the parameters' gradients are added.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub(crate) fn backward(
        &self,
        rt: &Runtime,
        states: &[f32],
        batch: &Batch,
        a: &EmbedderActivations,
        d_embeddings: &mut Vec<f32>,
        d_states: &mut Vec<f32>,
        gradients: &mut [f32],
    ) {
        if self.config.normalize {
            normalize_rows_backward(rt, &a.embeddings, &a.lengths, self.width(), d_embeddings);
        }
        for (index, (linear, dense)) in self.dense.iter().zip(&self.config.dense).enumerate().rev() {
            if dense.activation == DenseActivation::Tanh {
                tanh_backward(rt, &a.dense[index], d_embeddings);
            }
            let x = if index == 0 { &a.pooled } else { &a.dense[index - 1] };
            linear.backward_parameters(rt, x, d_embeddings, gradients);
            let mut dx = vec![0.0; x.len()];
            linear.backward_input(rt, d_embeddings, &mut dx, Into::Overwrite);
            *d_embeddings = dx;
        }
        d_states.resize(states.len(), 0.0);
        let (width, cu_seqlens) = (self.hidden, batch.cu_seqlens());
        match self.config.pooling {
            Pooling::Mean => mean_pool_backward(rt, d_embeddings, width, cu_seqlens, d_states),
            Pooling::Max => max_pool_backward(rt, states, &a.pooled, d_embeddings, width, cu_seqlens, d_states),
            Pooling::Cls => {
                d_states.fill(0.0);
                scatter_add_rows(rt, d_embeddings, width, batch.first_tokens(), d_states);
            }
        }
    }
}
