//! The encoder: states in, states out. It takes states, not ids, so that other inputs than text can feed it.

use super::attention::{Attention, AttentionActivations, AttentionScratch};
use super::config::EncoderConfig;
use super::embeddings::EmbeddingActivations;
use super::feed_forward::{FeedForward, FeedForwardActivations, FeedForwardScratch};
use super::linear::Packing;
use super::names::Names;
use super::parameters::TableBuilder;
use super::{Mode, Model};
use crate::data::batch::Batch;
use distilbert_kernels::Runtime;
use distilbert_kernels::elementwise::gather_rows;

/// A stack of layers.
pub struct Encoder {
    /// First to last.
    pub layers: Vec<Layer>,
}

/// Self-attention and feed-forward, each followed by its norm.
pub struct Layer {
    /// Tokens look at each other.
    pub attention: Attention,
    /// Each token by itself.
    pub feed_forward: FeedForward,
}

/// Buffers of one layer.
#[derive(Default)]
pub struct LayerActivations {
    attention: AttentionActivations,
    feed_forward: FeedForwardActivations,
}

impl LayerActivations {
    /// States after the layer, `[tokens, hidden]`.
    pub fn output(&self) -> &[f32] {
        &self.feed_forward.output.states
    }
}

/// Everything a forward pass computed; buffers are reused from pass to pass.
#[derive(Default)]
pub struct Activations {
    embeddings: EmbeddingActivations,
    /// States before the first layer, `[tokens, hidden]`.
    embedded: Vec<f32>,
    layers: Vec<LayerActivations>,
    /// Where only the first tokens are wanted: their states before the last layer, and that layer's buffers.
    first: Vec<f32>,
    last: LayerActivations,
}

impl Activations {
    /// The states after the last layer, `[tokens, hidden]`.
    pub fn last_hidden_state(&self) -> &[f32] {
        self.layers.last().map_or(&self.embedded, LayerActivations::output)
    }

    /// The states before layer `index`, counted from 0: 0 is the embedding output. Only a training pass keeps all;
    /// an inference pass hands them to its observer.
    fn input_of(&self, index: usize) -> &[f32] {
        if index == 0 { &self.embedded } else { self.layers[index - 1].output() }
    }
}

/// Gradients inside the backward pass; buffers are reused from layer to layer.
#[derive(Default)]
pub struct Scratch {
    attention: AttentionScratch,
    feed_forward: FeedForwardScratch,
}

impl Encoder {
    pub(crate) fn new(config: &EncoderConfig, names: &Names, table: &mut TableBuilder) -> Encoder {
        let layers = (0..config.layers)
            .map(|index| {
                let names = names.layer(index);
                Layer {
                    attention: Attention::new(config, index, &names, table),
                    feed_forward: FeedForward::new(config, index, &names, table),
                }
            })
            .collect();
        Encoder { layers }
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        for layer in &mut self.layers {
            layer.attention.pack(packing);
            layer.feed_forward.pack(packing);
        }
    }
}

impl Layer {
    fn forward(
        &self,
        rt: &Runtime,
        arena: &[f32],
        cu_seqlens: &[u32],
        mode: Mode<'_>,
        x: &[f32],
        a: &mut LayerActivations,
    ) {
        self.attention.forward(rt, arena, cu_seqlens, mode, x, &mut a.attention);
        self.feed_forward.forward(rt, arena, cu_seqlens, mode, &a.attention.output.states, &mut a.feed_forward);
    }

    /// As an inference pass of [`Layer::forward`], for the first tokens of the sequences only.
    fn forward_first(
        &self,
        rt: &Runtime,
        arena: &[f32],
        cu_seqlens: &[u32],
        x: &[f32],
        first: &[f32],
        a: &mut LayerActivations,
    ) {
        self.attention.forward_first(rt, arena, cu_seqlens, x, first, &mut a.attention);
        let x = &a.attention.output.states;
        self.feed_forward.forward(rt, arena, cu_seqlens, Mode::Inference, x, &mut a.feed_forward);
    }
}

impl Model {
    /// Runs embeddings and encoder; the result is [`Activations::last_hidden_state`]. The batch must have passed
    /// [`Model::check`] and the weights must be packed.
    pub fn encode(&self, rt: &Runtime, batch: &Batch, mode: Mode<'_>, activations: &mut Activations) {
        self.encode_observed(rt, batch, mode, activations, |_, _| {});
    }

    /// As [`Model::encode`], and shows the states `[tokens, hidden]` after the embeddings (index 0) and after each
    /// layer (index 1 and on) while they exist.
    pub fn encode_observed(
        &self,
        rt: &Runtime,
        batch: &Batch,
        mode: Mode<'_>,
        activations: &mut Activations,
        mut observe: impl FnMut(usize, &[f32]),
    ) {
        let arena = self.parameters.weights();
        self.embeddings.forward(rt, arena, batch, mode, &mut activations.embeddings, &mut activations.embedded);
        observe(0, &activations.embedded);
        let cu_seqlens = batch.cu_seqlens();
        match mode {
            Mode::Training(_) => {
                activations.layers.resize_with(self.encoder.layers.len(), LayerActivations::default);
                for (index, layer) in self.encoder.layers.iter().enumerate() {
                    let (before, rest) = activations.layers.split_at_mut(index);
                    let x = before.last().map_or(&activations.embedded[..], LayerActivations::output);
                    layer.forward(rt, arena, cu_seqlens, mode, x, &mut rest[0]);
                    observe(index + 1, rest[0].output());
                }
            }
            Mode::Inference => self.infer(rt, cu_seqlens, &self.encoder.layers, activations, observe),
        }
    }

    /// The states of the first tokens of the sequences after the last layer, `[batch, hidden]`, with the bits that
    /// [`Model::encode`] gives them: the last layer is computed for them alone. The batch must have passed
    /// [`Model::check`] and the weights must be packed.
    pub fn encode_first<'a>(&self, rt: &Runtime, batch: &Batch, activations: &'a mut Activations) -> &'a [f32] {
        let arena = self.parameters.weights();
        let mode = Mode::Inference;
        self.embeddings.forward(rt, arena, batch, mode, &mut activations.embeddings, &mut activations.embedded);
        let (cu_seqlens, hidden) = (batch.cu_seqlens(), self.config.encoder.hidden);
        let (last, before) = match self.encoder.layers.split_last() {
            Some((last, before)) => (Some(last), before),
            None => (None, &[][..]),
        };
        self.infer(rt, cu_seqlens, before, activations, |_, _| {});
        let Activations { embedded, layers, first, last: a, .. } = activations;
        let x = layers.last().map_or(&embedded[..], LayerActivations::output);
        first.resize(batch.sequences() * hidden, 0.0);
        gather_rows(rt, x, hidden, batch.first_tokens(), first);
        let Some(last) = last else { return first };
        last.forward_first(rt, arena, cu_seqlens, x, first, a);
        a.output()
    }

    /// Runs some layers on the embedded tokens. One set of buffers serves all layers: a layer's input and output change
    /// places.
    fn infer(
        &self,
        rt: &Runtime,
        cu_seqlens: &[u32],
        layers: &[Layer],
        activations: &mut Activations,
        mut observe: impl FnMut(usize, &[f32]),
    ) {
        let arena = self.parameters.weights();
        activations.layers.resize_with(1.min(layers.len()), LayerActivations::default);
        for (index, layer) in layers.iter().enumerate() {
            let a = &mut activations.layers[0];
            if index > 0 {
                std::mem::swap(&mut activations.embedded, &mut a.feed_forward.output.states);
            }
            layer.forward(rt, arena, cu_seqlens, Mode::Inference, &activations.embedded, a);
            observe(index + 1, a.output());
        }
    }

    /// Carries the gradient of the last hidden state back to all parameters of encoder and embeddings, whose
    /// gradients are added. `d_hidden` `[tokens, hidden]` is used up; `mode` must be that of the forward pass.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub fn encode_backward(
        &self,
        rt: &Runtime,
        batch: &Batch,
        mode: Mode<'_>,
        activations: &Activations,
        d_hidden: &mut [f32],
        scratch: &mut Scratch,
        gradients: &mut [f32],
    ) {
        let arena = self.parameters.weights();
        let cu_seqlens = batch.cu_seqlens();
        for (index, layer) in self.encoder.layers.iter().enumerate().rev() {
            let a = &activations.layers[index];
            let x = activations.input_of(index);
            layer.feed_forward.backward(
                rt,
                arena,
                cu_seqlens,
                mode,
                &a.attention.output.states,
                &a.feed_forward,
                d_hidden,
                &mut scratch.feed_forward,
                gradients,
            );
            layer.attention.backward(
                rt,
                arena,
                cu_seqlens,
                mode,
                x,
                &a.attention,
                d_hidden,
                &mut scratch.attention,
                gradients,
            );
        }
        self.embeddings.backward(rt, arena, batch, mode, &activations.embeddings, d_hidden, gradients);
    }
}
