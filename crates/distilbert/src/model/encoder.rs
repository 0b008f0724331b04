//! The encoder: states in, states out. It takes states, not ids, so that other inputs than text can feed it.

use super::attention::{Attention, AttentionActivations, AttentionScratch};
use super::config::EncoderConfig;
use super::embeddings::EmbeddingActivations;
use super::feed_forward::{FeedForward, FeedForwardActivations};
use super::linear::Packing;
use super::names::Names;
use super::parameters::TableBuilder;
use super::residual_output::ResidualOutputScratch;
use super::{Mode, Model, Pass};
use crate::data::batch::Batch;
use distilbert_kernels::Runtime;
use distilbert_kernels::elementwise::gather_rows;

/// A stack of layers.
pub struct Encoder {
    /// First to last; of layers that share their weights, one.
    pub layers: Vec<Layer>,
    depth: usize,
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
    feed_forward: ResidualOutputScratch,
}

impl Encoder {
    pub(crate) fn new(config: &EncoderConfig, names: &Names, table: &mut TableBuilder) -> Encoder {
        let layers = (0..config.layer_groups)
            .map(|index| {
                let names = names.layer(index);
                Layer {
                    attention: Attention::new(config, &names, table),
                    feed_forward: FeedForward::new(config, &names, table),
                }
            })
            .collect();
        Encoder { layers, depth: config.layers }
    }

    /// Layers that a pass runs, shared ones counted as often as they run.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The weights of the layer that a pass runs after `index` others.
    fn layer(&self, index: usize) -> &Layer {
        &self.layers[index * self.layers.len() / self.depth]
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        for layer in &mut self.layers {
            layer.attention.pack(packing);
            layer.feed_forward.pack(packing);
        }
    }

    /// Runs the first `depth` layers on the embedded tokens. One set of buffers serves all: a layer's input and output
    /// change places.
    fn infer(
        &self,
        pass: Pass<'_>,
        depth: usize,
        activations: &mut Activations,
        mut observe: impl FnMut(usize, &[f32]),
    ) {
        activations.layers.resize_with(1.min(depth), LayerActivations::default);
        for index in 0..depth {
            let a = &mut activations.layers[0];
            if index > 0 {
                std::mem::swap(&mut activations.embedded, &mut a.feed_forward.output.states);
            }
            self.layer(index).forward(pass.in_layer(index), &activations.embedded, a);
            observe(index + 1, a.output());
        }
    }
}

impl Layer {
    fn forward(&self, pass: Pass<'_>, x: &[f32], a: &mut LayerActivations) {
        self.attention.forward(pass, x, &mut a.attention);
        self.feed_forward.forward(pass, &a.attention.output.states, &mut a.feed_forward);
    }

    /// As an inference pass of [`Layer::forward`], for the first tokens of the sequences only.
    fn forward_first(&self, pass: Pass<'_>, x: &[f32], first: &[f32], a: &mut LayerActivations) {
        self.attention.forward_first(pass, x, first, &mut a.attention);
        self.feed_forward.forward(pass, &a.attention.output.states, &mut a.feed_forward);
    }

    /// `x` is the layer's input. `d_output` in, gradient of `x` out, in the same buffer; the parameters' gradients are
    /// added.
    fn backward(
        &self,
        pass: Pass<'_>,
        x: &[f32],
        a: &LayerActivations,
        d_output: &mut [f32],
        scratch: &mut Scratch,
        gradients: &mut [f32],
    ) {
        let LayerActivations { attention, feed_forward } = a;
        let between = &attention.output.states;
        self.feed_forward.backward(pass, between, feed_forward, d_output, &mut scratch.feed_forward, gradients);
        self.attention.backward(pass, x, attention, d_output, &mut scratch.attention, gradients);
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
        let pass = self.pass(rt, batch, mode);
        self.embeddings.forward(pass, batch, &mut activations.embeddings, &mut activations.embedded);
        observe(0, &activations.embedded);
        match mode {
            Mode::Training(_) => {
                activations.layers.resize_with(self.encoder.depth, LayerActivations::default);
                for index in 0..self.encoder.depth {
                    let (before, rest) = activations.layers.split_at_mut(index);
                    let x = before.last().map_or(&activations.embedded[..], LayerActivations::output);
                    self.encoder.layer(index).forward(pass.in_layer(index), x, &mut rest[0]);
                    observe(index + 1, rest[0].output());
                }
            }
            Mode::Inference => self.encoder.infer(pass, self.encoder.depth, activations, observe),
        }
    }

    /// The states of the first tokens of the sequences after the last layer, `[batch, hidden]`, with the bits that
    /// [`Model::encode`] gives them: the last layer is computed for them alone. The batch must have passed
    /// [`Model::check`] and the weights must be packed.
    pub fn encode_first<'a>(&self, rt: &Runtime, batch: &Batch, activations: &'a mut Activations) -> &'a [f32] {
        let pass = self.pass(rt, batch, Mode::Inference);
        self.embeddings.forward(pass, batch, &mut activations.embeddings, &mut activations.embedded);
        let hidden = self.config.encoder.hidden;
        let last_layer = self.encoder.depth - 1; // a configuration has one layer at least
        self.encoder.infer(pass, last_layer, activations, |_, _| {});
        let Activations { embedded, layers, first, last: a, .. } = activations;
        let x = layers.last().map_or(&embedded[..], LayerActivations::output);
        first.resize(batch.sequences() * hidden, 0.0);
        gather_rows(rt, x, hidden, batch.first_tokens(), first);
        self.encoder.layer(last_layer).forward_first(pass, x, first, a);
        a.output()
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
        let pass = self.pass(rt, batch, mode);
        for index in (0..self.encoder.depth).rev() {
            let (a, x) = (&activations.layers[index], activations.input_of(index));
            // Layers that share their weights add to the same gradients.
            self.encoder.layer(index).backward(pass.in_layer(index), x, a, d_hidden, scratch, gradients);
        }
        self.embeddings.backward(pass, batch, &activations.embeddings, d_hidden, gradients);
    }

    fn pass<'a>(&'a self, rt: &'a Runtime, batch: &'a Batch, mode: Mode<'a>) -> Pass<'a> {
        Pass { rt, arena: self.parameters.weights(), cu_seqlens: batch.cu_seqlens(), mode, layer: 0 }
    }
}
