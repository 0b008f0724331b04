//! Token ids to states: word, segment and position embeddings, norm, dropout. A model packed below f32 for inference
//! looks them up in tables of that precision.

use super::config::EncoderConfig;
use super::linear::{LayerNorm, Packing, Purpose};
use super::names::Names;
use super::parameters::TableBuilder;
use super::{DropoutSite, Pass};
use crate::data::batch::Batch;
use distilbert_kernels::dropout::dropout_rows;
use distilbert_kernels::embedding::{EmbeddingTables, embed, embed_backward};
use distilbert_kernels::norm::NormStats;
use distilbert_kernels::{Matrix, MatrixRef, Precision};
use std::ops::Range;

/// The embedding tables' places in the arena.
pub struct Embeddings {
    /// `[vocab, hidden]`.
    pub word: Range<usize>,
    /// `[max_positions, hidden]`.
    pub position: Range<usize>,
    /// `[token_types, hidden]`; DistilBERT has none.
    pub token_type: Option<Range<usize>>,
    /// The norm after the sum.
    pub norm: LayerNorm,
    /// The tables, where it is not the arena that they are looked up in.
    pub(crate) tables: Option<Tables>,
    hidden: usize,
    pad_token_id: Option<u32>,
    dropout: f32,
}

/// Embedding tables beside the arena.
pub(crate) struct Tables {
    pub(crate) word: Matrix,
    pub(crate) position: Matrix,
    pub(crate) token_type: Option<Matrix>,
}

/// What the backward pass needs.
#[derive(Default)]
pub struct EmbeddingActivations {
    sum: Vec<f32>,
    stats: NormStats,
}

impl Embeddings {
    pub(crate) fn new(config: &EncoderConfig, names: &Names, table: &mut TableBuilder) -> Embeddings {
        let name = |part: &str| format!("{}{part}", names.embeddings);
        let hidden = config.hidden;
        Embeddings {
            word: table.matrix(name("word_embeddings.weight"), config.vocab_size, hidden),
            position: table.matrix(name("position_embeddings.weight"), config.max_positions, hidden),
            token_type: (config.token_types > 0)
                .then(|| table.matrix(name("token_type_embeddings.weight"), config.token_types, hidden)),
            norm: LayerNorm::new(table, &name("LayerNorm"), hidden, config.layer_norm_eps),
            tables: None,
            hidden,
            pad_token_id: config.pad_token_id,
            dropout: config.dropout,
        }
    }

    /// Makes tables in the precision of an inference pass; training looks up what it changes.
    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        let Packing { rt, arena, precision, purpose, .. } = *packing;
        self.tables = (purpose == Purpose::Inference && precision != Precision::F32).then(|| {
            let table = |range: &Range<usize>| Matrix::from_f32(rt, precision, &arena[range.clone()], self.hidden);
            Tables {
                word: table(&self.word),
                position: table(&self.position),
                token_type: self.token_type.as_ref().map(table),
            }
        });
    }

    pub(crate) fn disable_dropout(&mut self) {
        self.dropout = 0.0;
    }

    /// States `[tokens, hidden]` of a batch that [`super::Model::check`] has passed.
    pub(crate) fn forward(
        &self,
        pass: Pass<'_>,
        batch: &Batch,
        activations: &mut EmbeddingActivations,
        states: &mut Vec<f32>,
    ) {
        let Pass { rt, arena, .. } = pass;
        let in_arena = |range: &Range<usize>| MatrixRef::F32(&arena[range.clone()]);
        let tables = match &self.tables {
            Some(tables) => EmbeddingTables {
                word: tables.word.view(),
                position: Some(tables.position.view()),
                token_type: tables.token_type.as_ref().map(Matrix::view),
            },
            None => EmbeddingTables {
                word: in_arena(&self.word),
                position: Some(in_arena(&self.position)),
                token_type: self.token_type.as_ref().map(in_arena),
            },
        };
        let len = batch.tokens() * self.hidden;
        activations.sum.resize(len, 0.0);
        states.resize(len, 0.0);
        let types = self.token_type.as_ref().and(batch.token_types());
        embed(rt, self.hidden, tables, batch.input_ids(), batch.positions(), types, &mut activations.sum);
        self.norm.forward(rt, arena, &activations.sum, states, Some(&mut activations.stats));
        if let Some(dropout) = pass.dropout(DropoutSite::Embeddings, self.dropout) {
            dropout_rows(rt, states, self.hidden, batch.cu_seqlens(), &dropout);
        }
    }

    /// Adds the tables' gradients; `d_states` is used up.
    pub(crate) fn backward(
        &self,
        pass: Pass<'_>,
        batch: &Batch,
        activations: &EmbeddingActivations,
        d_states: &mut [f32],
        gradients: &mut [f32],
    ) {
        let Pass { rt, arena, .. } = pass;
        if let Some(dropout) = pass.dropout(DropoutSite::Embeddings, self.dropout) {
            dropout_rows(rt, d_states, self.hidden, batch.cu_seqlens(), &dropout);
        }
        let mut d_sum = vec![0.0; d_states.len()];
        self.norm.backward(rt, arena, d_states, &activations.sum, &activations.stats, &mut d_sum, gradients);
        let hidden = self.hidden;
        // The look-up treats the padding token's row as a constant, as the reference does; a tied decoder still
        // changes it.
        embed_backward(rt, hidden, batch.input_ids(), &d_sum, &mut gradients[self.word.clone()], self.pad_token_id);
        embed_backward(rt, hidden, batch.positions(), &d_sum, &mut gradients[self.position.clone()], None);
        if let Some(range) = &self.token_type {
            let zeros;
            let types = match batch.token_types() {
                Some(types) => types,
                None => {
                    zeros = vec![0; batch.tokens()];
                    &zeros
                }
            };
            embed_backward(rt, hidden, types, &d_sum, &mut gradients[range.clone()], None);
        }
    }
}

/// The fixed position table of `sinusoidal_pos_embds`: angle `p / 10000^(2⌊j/2⌋/d)`, sine at even j, cosine at odd.
pub(crate) fn fill_sinusoidal(table: &mut [f32], hidden: usize) {
    for (position, row) in table.chunks_exact_mut(hidden).enumerate() {
        for (j, value) in row.iter_mut().enumerate() {
            let angle = position as f64 / 10000f64.powf((j / 2 * 2) as f64 / hidden as f64);
            *value = if j % 2 == 0 { angle.sin() } else { angle.cos() } as f32;
        }
    }
}
