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
use distilbert_kernels::elementwise::{add_assign, gather_rows};

/// A stack of layers.
pub struct Encoder {
    /// First to last; of layers that share their weights, one.
    pub layers: Vec<Layer>,
    depth: usize,
    /// What a training pass keeps of each layer.
    pub keeps: Keeps,
}

/// What a training pass keeps of each layer for the backward pass. It decides memory and time, and no number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeps {
    /// Everything that the backward pass reads.
    #[default]
    Activations,
    /// The layer's input; the backward pass computes the rest again.
    Inputs,
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
    /// States before the first layer that something is kept of, `[tokens, hidden]`; of a pass that keeps nothing, those
    /// after the last layer that ran.
    running: Vec<f32>,
    /// The buffers of layers that nothing is kept of, which use them in turn.
    passing: LayerActivations,
    /// Where the sequences begin that a layer takes at a time.
    group: Vec<u32>,
    /// States after each layer that a training pass carries gradients back through.
    states: Vec<Vec<f32>>,
    /// A set of buffers for each of these layers, or one that they use in turn.
    layers: Vec<LayerActivations>,
    /// Where only the first tokens are wanted: their states before the last layer, and that layer's buffers.
    first: Vec<f32>,
    last: LayerActivations,
}

impl Activations {
    /// The states after the last layer, `[tokens, hidden]`.
    pub fn last_hidden_state(&self) -> &[f32] {
        self.states.last().unwrap_or(&self.running)
    }

    /// The states that a training pass goes on from behind the frozen layers ([`Model::encode_frozen`]), `[tokens, hidden]`.
    pub fn frozen_states(&self) -> &[f32] {
        &self.running
    }
}

/// What the embeddings or a layer computed, shown while it exists.
#[derive(Clone, Copy)]
pub struct Observed<'a> {
    /// States after it, `[tokens, hidden]`.
    pub states: &'a [f32],
    /// The layer's queries, keys and values side by side, `[tokens, 3 * hidden]`; the embeddings have none.
    pub qkv: &'a [f32],
}

/// Gradients of losses that look inside the encoder, by what [`Model::encode_observed`] shows under the same index: 0 for
/// the embeddings, then the layers. Where no loss looks they are missing or empty.
#[derive(Default)]
pub struct InnerGradients {
    /// By the states, `[tokens, hidden]`.
    pub states: Vec<Vec<f32>>,
    /// By queries, keys and values, `[tokens, 3 * hidden]`.
    pub qkv: Vec<Vec<f32>>,
    /// Whether there are no others: the gradient by the last hidden states is zero, and what lies behind the last layer
    /// that a loss looks at need not be gone through.
    pub alone: bool,
}

impl InnerGradients {
    fn at(gradients: &[Vec<f32>], index: usize) -> &[f32] {
        gradients.get(index).map_or(&[], Vec::as_slice)
    }

    /// Whether a loss looks at what is shown under `index` or later, or at the end.
    fn looks_from(&self, index: usize) -> bool {
        let any = |gradients: &[Vec<f32>]| gradients.iter().skip(index).any(|gradient| !gradient.is_empty());
        !self.alone || any(&self.states) || any(&self.qkv)
    }

    /// Adds what belongs to the states under `index`.
    fn add_states(&self, rt: &Runtime, index: usize, d_states: &mut [f32]) {
        let inner = InnerGradients::at(&self.states, index);
        if !inner.is_empty() {
            add_assign(rt, d_states, inner);
        }
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
        Encoder { layers, depth: config.layers, keeps: Keeps::default() }
    }

    /// Layers that a pass runs, shared ones counted as often as they run.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The weights of the layer that a pass runs after `index` others.
    pub(crate) fn layer(&self, index: usize) -> &Layer {
        &self.layers[index * self.layers.len() / self.depth]
    }

    /// No gradient goes through the lowest `frozen` layers.
    pub(crate) fn pack(&mut self, packing: &Packing<'_>, frozen: usize) {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let packing = if index < frozen { packing.for_inference() } else { *packing };
            layer.attention.pack(&packing);
            layer.feed_forward.pack(&packing);
        }
    }

    /// Runs the first `depth` layers on the embedded tokens and keeps nothing but the last states. One set of buffers
    /// serves all.
    ///
    /// A layer takes some sequences at a time: what it computes is several times as large as its input, and is read again
    /// while it is in the caches.
    fn infer(&self, pass: Pass<'_>, depth: usize, activations: &mut Activations) {
        /// So many that reading the weights again for each group costs little.
        const TOKENS: u32 = 1024;
        let Activations { running, passing: a, group, .. } = activations;
        let cu_seqlens = pass.cu_seqlens;
        let hidden = running.len() / cu_seqlens.last().map_or(1, |&tokens| tokens.max(1) as usize);
        for index in 0..depth {
            let mut first = 0;
            while first + 1 < cu_seqlens.len() {
                let start = cu_seqlens[first];
                let fits = |&&end: &&u32| end - start <= TOKENS;
                let last = first + cu_seqlens[first + 1..].iter().take_while(fits).count().max(1);
                group.clear();
                group.extend(cu_seqlens[first..=last].iter().map(|end| end - start));
                let x = &mut running[start as usize * hidden..cu_seqlens[last] as usize * hidden];
                self.layer(index).forward(Pass { cu_seqlens: group, ..pass.in_layer(index) }, x, a);
                x.copy_from_slice(a.output());
                first = last;
            }
        }
    }

    /// As [`Encoder::infer`], all sequences at once, and shows what each layer computed. A layer's input and output change
    /// places.
    fn infer_observed(
        &self,
        pass: Pass<'_>,
        depth: usize,
        activations: &mut Activations,
        mut observe: impl FnMut(usize, Observed<'_>),
    ) {
        let Activations { running, passing: a, .. } = activations;
        for index in 0..depth {
            self.layer(index).forward(pass.in_layer(index), running, a);
            std::mem::swap(running, &mut a.feed_forward.output.states);
            observe(index + 1, Observed { states: running, qkv: a.attention.qkv() });
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
    /// added. `d_qkv` is what losses add to the gradient of queries, keys and values, if any do.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    fn backward(
        &self,
        pass: Pass<'_>,
        x: &[f32],
        a: &LayerActivations,
        d_output: &mut [f32],
        d_qkv: &[f32],
        scratch: &mut Scratch,
        gradients: &mut [f32],
    ) {
        let LayerActivations { attention, feed_forward } = a;
        let between = &attention.output.states;
        self.feed_forward.backward(pass, between, feed_forward, d_output, &mut scratch.feed_forward, gradients);
        self.attention.backward(pass, x, attention, d_output, d_qkv, &mut scratch.attention, gradients);
    }
}

impl Model {
    /// Runs embeddings and encoder; the result is [`Activations::last_hidden_state`]. The batch must have passed
    /// [`Model::check`] and the weights must be packed.
    pub fn encode(&self, rt: &Runtime, batch: &Batch, mode: Mode<'_>, activations: &mut Activations) {
        match mode {
            Mode::Training(_) => self.encode_observed(rt, batch, mode, activations, |_, _| {}),
            Mode::Inference => {
                activations.states.clear();
                activations.layers.clear();
                self.encode_lowest(rt, batch, self.encoder.depth, activations);
            }
        }
    }

    /// As [`Model::encode`], and shows what the embeddings (index 0) and each layer (index 1 and on) computed while it
    /// exists.
    pub fn encode_observed(
        &self,
        rt: &Runtime,
        batch: &Batch,
        mode: Mode<'_>,
        activations: &mut Activations,
        mut observe: impl FnMut(usize, Observed<'_>),
    ) {
        match mode {
            Mode::Training(_) => {
                let frozen = self.frozen_layers();
                let below = if frozen.is_some() { Mode::Inference } else { mode };
                self.encode_lowest_observed(rt, batch, below, frozen.unwrap_or(0), activations, &mut observe);
                self.encode_above(rt, batch, mode, activations, observe);
            }
            Mode::Inference => {
                activations.states.clear();
                activations.layers.clear();
                self.encode_lowest_observed(rt, batch, mode, self.encoder.depth, activations, observe);
            }
        }
    }

    /// The first part of a training pass through a model whose lowest layers are frozen: up to
    /// [`Activations::frozen_states`]. These follow from the text alone and may be kept for later passes. The batch must
    /// have passed [`Model::check`] and the weights must be packed.
    pub fn encode_frozen(&self, rt: &Runtime, batch: &Batch, activations: &mut Activations) {
        let frozen = self.frozen_layers().unwrap_or(0);
        self.encode_lowest(rt, batch, frozen, activations);
    }

    /// The other part of such a pass, on states `[tokens, hidden]` that the first part gave for the batch.
    pub fn encode_from_frozen(
        &self,
        rt: &Runtime,
        batch: &Batch,
        mode: Mode<'_>,
        frozen_states: &[f32],
        activations: &mut Activations,
    ) {
        frozen_states.clone_into(&mut activations.running);
        self.encode_above(rt, batch, mode, activations, |_, _| {});
    }

    /// Embeddings and the lowest `layers` in an inference pass; nothing is kept of the layers.
    fn encode_lowest(&self, rt: &Runtime, batch: &Batch, layers: usize, activations: &mut Activations) {
        let pass = self.pass(rt, batch, Mode::Inference);
        self.embeddings.forward(pass, batch, &mut activations.embeddings, &mut activations.running);
        self.encoder.infer(pass, layers, activations);
    }

    /// The same, also below the trained layers, with something that looks on.
    fn encode_lowest_observed(
        &self,
        rt: &Runtime,
        batch: &Batch,
        mode: Mode<'_>,
        layers: usize,
        activations: &mut Activations,
        mut observe: impl FnMut(usize, Observed<'_>),
    ) {
        let pass = self.pass(rt, batch, mode);
        self.embeddings.forward(pass, batch, &mut activations.embeddings, &mut activations.running);
        observe(0, Observed { states: &activations.running, qkv: &[] });
        self.encoder.infer_observed(pass, layers, activations, observe);
    }

    /// The layers behind the frozen ones, in a training pass.
    fn encode_above(
        &self,
        rt: &Runtime,
        batch: &Batch,
        mode: Mode<'_>,
        activations: &mut Activations,
        mut observe: impl FnMut(usize, Observed<'_>),
    ) {
        let pass = self.pass(rt, batch, mode);
        let Activations { running, states, layers, .. } = activations;
        let frozen = self.frozen_layers().unwrap_or(0);
        let trained = self.encoder.depth - frozen;
        let sets = match self.encoder.keeps {
            Keeps::Activations => trained,
            Keeps::Inputs => 1.min(trained),
        };
        layers.resize_with(sets, LayerActivations::default);
        states.resize_with(trained, Vec::new);
        for place in 0..trained {
            let index = frozen + place;
            let a = &mut layers[place.min(sets - 1)];
            let (before, rest) = states.split_at_mut(place);
            std::mem::swap(&mut rest[0], &mut a.feed_forward.output.states);
            let x = before.last().unwrap_or(&*running);
            self.encoder.layer(index).forward(pass.in_layer(index), x, a);
            std::mem::swap(&mut rest[0], &mut a.feed_forward.output.states);
            observe(index + 1, Observed { states: &rest[0], qkv: a.attention.qkv() });
        }
    }

    /// The states of the first tokens of the sequences after the last layer, `[batch, hidden]`, with the bits that
    /// [`Model::encode`] gives them: the last layer is computed for them alone. The batch must have passed
    /// [`Model::check`] and the weights must be packed.
    pub fn encode_first<'a>(&self, rt: &Runtime, batch: &Batch, activations: &'a mut Activations) -> &'a [f32] {
        let pass = self.pass(rt, batch, Mode::Inference);
        let hidden = self.config.encoder.hidden;
        let last_layer = self.encoder.depth - 1; // a configuration has one layer at least
        self.encode_lowest(rt, batch, last_layer, activations);
        let Activations { running: x, first, last: a, .. } = activations;
        first.resize(batch.sequences() * hidden, 0.0);
        gather_rows(rt, x, hidden, batch.first_tokens(), first);
        self.encoder.layer(last_layer).forward_first(pass, x, first, a);
        a.output()
    }

    /// Carries the gradient of the last hidden state back to the parameters of encoder and embeddings that are trained,
    /// whose gradients are added; it ends at the frozen layers. `d_hidden` `[tokens, hidden]` is used up, and with [`Keeps::Inputs`] the activations are;
    /// `mode` must be that of the forward pass.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub fn encode_backward(
        &self,
        rt: &Runtime,
        batch: &Batch,
        mode: Mode<'_>,
        activations: &mut Activations,
        d_hidden: &mut [f32],
        scratch: &mut Scratch,
        gradients: &mut [f32],
    ) {
        let none = InnerGradients::default();
        self.encode_backward_with(rt, batch, mode, activations, &none, d_hidden, scratch, gradients);
    }

    /// As [`Model::encode_backward`], with the gradients of losses that look inside the encoder.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub fn encode_backward_with(
        &self,
        rt: &Runtime,
        batch: &Batch,
        mode: Mode<'_>,
        activations: &mut Activations,
        inner: &InnerGradients,
        d_hidden: &mut [f32],
        scratch: &mut Scratch,
        gradients: &mut [f32],
    ) {
        let pass = self.pass(rt, batch, mode);
        let Activations { embeddings, running, states, layers, .. } = activations;
        let frozen = self.frozen_layers();
        let lowest = frozen.unwrap_or(0);
        for index in (lowest..self.encoder.depth).rev().skip_while(|index| !inner.looks_from(index + 1)) {
            let (layer, pass, place) = (self.encoder.layer(index), pass.in_layer(index), index - lowest);
            let x = if place == 0 { &*running } else { &states[place - 1] };
            let d_qkv = InnerGradients::at(&inner.qkv, index + 1);
            if InnerGradients::at(&inner.states, index + 1).is_empty() && !inner.looks_from(index + 2) {
                layer.attention.backward_qkv(rt, x, d_qkv, d_hidden, gradients);
                continue;
            }
            let a = match self.encoder.keeps {
                Keeps::Activations => &mut layers[place],
                Keeps::Inputs => &mut layers[0],
            };
            // The forward pass has left the last layer's activations in the one set of buffers.
            if self.encoder.keeps == Keeps::Inputs && index + 1 < self.encoder.depth {
                layer.forward(pass, x, a);
            }
            // Layers that share their weights add to the same gradients.
            inner.add_states(rt, index + 1, d_hidden);
            layer.backward(pass, x, a, d_hidden, d_qkv, scratch, gradients);
        }
        if frozen.is_none() {
            inner.add_states(rt, 0, d_hidden);
            self.embeddings.backward(pass, batch, embeddings, d_hidden, gradients);
        }
    }

    fn pass<'a>(&'a self, rt: &'a Runtime, batch: &'a Batch, mode: Mode<'a>) -> Pass<'a> {
        Pass { rt, arena: self.parameters.weights(), cu_seqlens: batch.cu_seqlens(), mode, layer: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DropoutKey, ModelConfig, Purpose};
    use distilbert_kernels::{Isa, Precision};

    fn model(family: &str) -> Model {
        let config = format!(
            r#"{{"model_type":"{family}","vocab_size":60,"hidden_size":12,"dim":12,"num_hidden_layers":3,"n_layers":3,
            "num_attention_heads":3,"n_heads":3,"intermediate_size":24,"hidden_dim":24,"max_position_embeddings":16,
            "dropout":0.1,"attention_dropout":0.1,"hidden_dropout_prob":0.1,"attention_probs_dropout_prob":0.1}}"#
        );
        Model::random(ModelConfig::from_json(&config).unwrap(), 3)
    }

    /// Last hidden state and gradients of two steps, so that the second finds the buffers of the first.
    fn train(rt: &Runtime, model: &mut Model, precision: Precision, keeps: Keeps) -> (Vec<f32>, Vec<f32>) {
        model.pack(rt, precision, Purpose::Training);
        model.encoder.keeps = keeps;
        let (mut activations, mut scratch) = (Activations::default(), Scratch::default());
        let mut gradients = vec![0.0; model.parameters.len()];
        let longer = Batch::from_sequences([&[2, 30, 31, 3][..], &[2, 59, 7, 8, 9, 10, 11, 3], &[2, 3]]);
        for (step, batch) in [Batch::from_sequences([&[2, 40, 41, 42, 3][..]]), longer].iter().enumerate() {
            let slots: Vec<u64> = (5..).take(batch.sequences()).collect();
            let mode = Mode::Training(DropoutKey { seed: 1, step: step as u64, slots: &slots });
            model.encode(rt, batch, mode, &mut activations);
            let mut d_hidden: Vec<f32> = activations.last_hidden_state().iter().map(|x| x * x - 0.3).collect();
            model.encode_backward(rt, batch, mode, &mut activations, &mut d_hidden, &mut scratch, &mut gradients);
        }
        (activations.last_hidden_state().to_vec(), gradients)
    }

    #[test]
    fn sequences_taken_in_groups_have_the_bits_of_all_at_once() {
        let config = r#"{"model_type":"bert","vocab_size":60,"hidden_size":12,"num_hidden_layers":3,
            "num_attention_heads":3,"intermediate_size":24,"max_position_embeddings":1100}"#;
        let ids: Vec<u32> = (0..1100).map(|i| 3 + i * 7 % 57).collect();
        for isa in Isa::available() {
            let rt = Runtime::new(isa, 2).unwrap();
            let mut model = Model::random(ModelConfig::from_json(config).unwrap(), 3);
            model.pack(&rt, Precision::F32, Purpose::Inference);
            // Groups that are full, not quite full, of one sequence that alone is more than one, and none at all.
            for lengths in [&[512, 512, 1, 600, 423, 425][..], &[3, 1100, 1024, 2, 2], &[1024], &[1; 1100], &[]] {
                let batch = Batch::from_sequences(lengths.iter().map(|&length| &ids[..length]));
                let [mut groups, mut whole] = [Activations::default(), Activations::default()];
                model.encode(&rt, &batch, Mode::Inference, &mut groups);
                model.encode_observed(&rt, &batch, Mode::Inference, &mut whole, |_, _| {});
                assert!(groups.last_hidden_state() == whole.last_hidden_state(), "{isa} {lengths:?}");
                assert_eq!(groups.last_hidden_state().len(), 12 * lengths.iter().sum::<usize>());
            }
        }
    }

    #[test]
    fn computing_activations_again_gives_the_bits_of_keeping_them() {
        for isa in Isa::available() {
            let rt = Runtime::new(isa, 2).unwrap();
            let precisions = [Precision::F32, Precision::Bf16];
            for precision in precisions.into_iter().filter(|precision| precision.is_available(isa)) {
                for family in ["bert", "distilbert", "albert"] {
                    let mut model = model(family);
                    let kept = train(&rt, &mut model, precision, Keeps::Activations);
                    assert_eq!(train(&rt, &mut model, precision, Keeps::Inputs), kept, "{family} {precision} {isa}");
                    let without_dropout = {
                        model.disable_dropout();
                        train(&rt, &mut model, precision, Keeps::Inputs)
                    };
                    assert_ne!(without_dropout, kept, "{family}: dropout is on");
                }
            }
        }
    }

    /// Gradients of one step in which losses look at the states under `of_states` and at the queries, keys and values
    /// under `of_qkv`; and at the last states, unless they are alone.
    fn inner(rt: &Runtime, model: &mut Model, keeps: Keeps, [of_states, of_qkv]: [usize; 2], alone: bool) -> Vec<f32> {
        model.pack(rt, Precision::F32, Purpose::Training);
        model.encoder.keeps = keeps;
        let batch = Batch::from_sequences([&[2, 30, 31, 3][..], &[2, 59, 7, 8, 9, 10, 11, 3], &[2, 3]]);
        let mode = Mode::Training(DropoutKey { seed: 1, step: 1, slots: &[0, 1, 2] });
        let (mut activations, mut inner) = (Activations::default(), InnerGradients::default());
        (inner.states, inner.qkv) = (vec![Vec::new(); 4], vec![Vec::new(); 4]);
        model.encode_observed(rt, &batch, mode, &mut activations, |index, observed| {
            if index == of_states {
                inner.states[index] = observed.states.iter().map(|x| x * x - 0.3).collect();
            }
            if index == of_qkv {
                inner.qkv[index] = observed.qkv.iter().map(|x| x * x - 0.1).collect();
            }
        });
        inner.alone = alone;
        let mut gradients = vec![0.0; model.parameters.len()];
        let mut d_hidden = vec![0.0; activations.last_hidden_state().len()];
        let (activations, scratch) = (&mut activations, &mut Scratch::default());
        model.encode_backward_with(rt, &batch, mode, activations, &inner, &mut d_hidden, scratch, &mut gradients);
        gradients
    }

    #[test]
    fn gradients_from_inside_are_the_same_recomputed_and_without_the_layers_behind() {
        let rt = Runtime::new(Isa::detect(), 2).unwrap();
        for family in ["bert", "albert"] {
            let mut model = model(family);
            for looked_at in [[0, 9], [1, 9], [3, 9], [9, 1], [9, 3], [1, 2], [2, 2], [2, 1]] {
                // Behind the last layer that is looked at the gradient is zero, so that going through it adds nothing.
                let whole = inner(&rt, &mut model, Keeps::Activations, looked_at, false);
                assert!(whole.iter().any(|&gradient| gradient != 0.0));
                for (keeps, alone) in [(Keeps::Inputs, false), (Keeps::Activations, true), (Keeps::Inputs, true)] {
                    let found = inner(&rt, &mut model, keeps, looked_at, alone);
                    assert!(found == whole, "{family} {looked_at:?} {keeps:?} {alone}");
                }
            }
        }
    }

    #[test]
    fn frozen_layers_get_no_gradient_and_change_none_of_the_others() {
        let rt = Runtime::new(Isa::detect(), 2).unwrap();
        for (family, frozen) in [("bert", 0), ("bert", 1), ("distilbert", 2), ("bert", 3), ("albert", 0), ("albert", 3)]
        {
            let mut model = model(family);
            model.disable_dropout();
            let (states, whole) = train(&rt, &mut model, Precision::F32, Keeps::Activations);
            model.freeze_layers(frozen);
            assert_eq!(model.frozen_layers(), Some(frozen), "{family}");
            for keeps in [Keeps::Activations, Keeps::Inputs] {
                let found = train(&rt, &mut model, Precision::F32, keeps);
                assert!(found.0 == states, "{family}, {frozen} frozen layers");
                let end = model.layer_end(frozen);
                assert!(found.1[..end].iter().all(|&gradient| gradient == 0.0), "{family}, {frozen} frozen layers");
                assert!(found.1[end..] == whole[end..], "{family}, {frozen} frozen layers");
            }
        }
    }

    #[test]
    fn a_pass_that_keeps_inputs_has_one_set_of_buffers() {
        let rt = Runtime::new(Isa::Portable, 1).unwrap();
        let (mut model, batch) = (model("bert"), Batch::from_sequences([&[2, 30, 31, 3][..]]));
        model.pack(&rt, Precision::F32, Purpose::Training);
        model.encoder.keeps = Keeps::Inputs;
        let mut activations = Activations::default();
        let mode = Mode::Training(DropoutKey { seed: 1, step: 1, slots: &[0] });
        model.encode(&rt, &batch, mode, &mut activations);
        assert_eq!((activations.layers.len(), activations.states.len()), (1, 3));
        model.encode(&rt, &batch, Mode::Inference, &mut activations);
        assert_eq!((activations.layers.len(), activations.states.len()), (0, 0));
    }
}
