//! Token ids to states: word, segment and position embeddings, norm, dropout, and a linear where the tables are narrower
//! than the states. A model packed below f32 for inference looks them up in tables of that precision.

use super::config::EncoderConfig;
use super::linear::{Finish, Into, LayerNorm, Linear, Packing, Purpose};
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
    /// `[vocab, embedding]`.
    pub word: Range<usize>,
    /// `[position_offset + max_positions, embedding]`.
    pub position: Range<usize>,
    /// `[token_types, embedding]`; DistilBERT has none.
    pub token_type: Option<Range<usize>>,
    /// The norm after the sum.
    pub norm: LayerNorm,
    /// From the tables' width to the states', `[hidden, embedding]`, in ELECTRA and ALBERT.
    pub projection: Option<Linear>,
    /// The tables, where it is not the arena that they are looked up in.
    pub(crate) tables: Option<Tables>,
    /// The tables whose gradients a backward pass adds; as when the weights were packed.
    trained: Vec<Range<usize>>,
    /// The tables' width.
    width: usize,
    position_offset: usize,
    segments: usize,
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
    /// The projection's input, where there is one.
    narrow: Vec<f32>,
}

impl Embeddings {
    pub(crate) fn new(config: &EncoderConfig, names: &Names, table: &mut TableBuilder) -> Embeddings {
        let name = |part: &str| format!("{}{part}", names.embeddings);
        let width = config.embedding_size;
        Embeddings {
            word: table.matrix(name("word_embeddings.weight"), config.vocab_size, width),
            position: table.matrix(name("position_embeddings.weight"), config.position_rows(), width),
            token_type: (config.token_types > 0)
                .then(|| table.matrix(name("token_type_embeddings.weight"), config.token_types, width)),
            norm: LayerNorm::new(table, &name("LayerNorm"), width, config.layer_norm_eps),
            projection: config
                .projects_embeddings
                .then(|| Linear::new(table, &names.embedding_projection(), width, config.hidden)),
            tables: None,
            trained: Vec::new(),
            width,
            position_offset: config.position_offset,
            segments: config.token_types,
            pad_token_id: config.pad_token_id,
            dropout: config.dropout,
        }
    }

    /// Packs the projection, and makes tables in the precision of an inference pass; training looks up what it changes.
    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        let Packing { rt, arena, precision, purpose, .. } = *packing;
        if let Some(projection) = &mut self.projection {
            projection.pack(packing);
        }
        let tables = [Some(&self.word), Some(&self.position), self.token_type.as_ref()];
        self.trained = tables.into_iter().flatten().filter(|table| packing.trains(table)).cloned().collect();
        self.tables = (purpose == Purpose::Inference && precision != Precision::F32).then(|| {
            let table = |range: &Range<usize>| Matrix::from_f32(rt, precision, &arena[range.clone()], self.width);
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

    /// The segment of each token, where the model tells segments apart: RoBERTa's table has one row for all of them.
    fn token_types<'a>(&self, batch: &'a Batch) -> Option<&'a [u32]> {
        batch.token_types().filter(|_| self.segments > 1)
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
                position: Some(self.positions_of_tokens(tables.position.view())),
                token_type: tables.token_type.as_ref().map(Matrix::view),
            },
            None => EmbeddingTables {
                word: in_arena(&self.word),
                position: Some(self.positions_of_tokens(in_arena(&self.position))),
                token_type: self.token_type.as_ref().map(in_arena),
            },
        };
        let EmbeddingActivations { sum, stats, narrow } = activations;
        let normed = if self.projection.is_some() { narrow } else { &mut *states };
        sum.resize(batch.tokens() * self.width, 0.0);
        normed.resize(sum.len(), 0.0);
        let types = self.token_types(batch);
        embed(rt, self.width, tables, batch.input_ids(), batch.positions(), types, sum);
        self.norm.forward(rt, arena, sum, normed, Some(stats));
        if let Some(dropout) = pass.dropout(DropoutSite::Embeddings, self.dropout) {
            dropout_rows(rt, normed, self.width, batch.cu_seqlens(), &dropout);
        }
        if let Some(projection) = &self.projection {
            let hidden = projection.outputs;
            states.resize(batch.tokens() * hidden, 0.0);
            projection.forward(rt, arena, &activations.narrow, states, Finish::Bias); // [tokens, hidden]
        }
    }

    /// The position table without the rows in front, which belong to no token.
    fn positions_of_tokens<'a>(&self, table: MatrixRef<'a>) -> MatrixRef<'a> {
        table.rows_from(self.position_offset, self.width)
    }

    /// Adds the gradients of tables that are trained, of norm and projection; `d_states` is used up.
    pub(crate) fn backward(
        &self,
        pass: Pass<'_>,
        batch: &Batch,
        activations: &EmbeddingActivations,
        d_states: &mut [f32],
        gradients: &mut [f32],
    ) {
        let Pass { rt, arena, .. } = pass;
        let width = self.width;
        let mut d_narrow = Vec::new();
        let d_normed = match &self.projection {
            Some(projection) => {
                d_narrow.resize(batch.tokens() * width, 0.0);
                projection.backward_parameters(rt, &activations.narrow, d_states, gradients);
                projection.backward_input(rt, d_states, &mut d_narrow, Into::Overwrite);
                &mut d_narrow[..]
            }
            None => d_states,
        };
        if let Some(dropout) = pass.dropout(DropoutSite::Embeddings, self.dropout) {
            dropout_rows(rt, d_normed, width, batch.cu_seqlens(), &dropout);
        }
        let mut d_sum = vec![0.0; d_normed.len()];
        self.norm.backward(rt, arena, d_normed, &activations.sum, &activations.stats, &mut d_sum, gradients);
        // The look-up treats the padding token's row as a constant, as the reference does; a tied decoder still
        // changes it.
        if self.trained.contains(&self.word) {
            embed_backward(rt, width, batch.input_ids(), &d_sum, &mut gradients[self.word.clone()], self.pad_token_id);
        }
        if self.trained.contains(&self.position) {
            let positions = self.position.start + self.position_offset * width..self.position.end;
            embed_backward(rt, width, batch.positions(), &d_sum, &mut gradients[positions], None);
        }
        if let Some(range) = self.token_type.as_ref().filter(|range| self.trained.contains(range)) {
            let zeros;
            let types = match self.token_types(batch) {
                Some(types) => types,
                None => {
                    zeros = vec![0; batch.tokens()];
                    &zeros
                }
            };
            embed_backward(rt, width, types, &d_sum, &mut gradients[range.clone()], None);
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
