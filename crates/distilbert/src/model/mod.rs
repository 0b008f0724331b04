//! The model: embeddings, encoder and head over one arena of parameters, forward and backward.
//!
//! There is one definition for all families: a family is the names of its tensors ([`names`]), a few differences in
//! [`EncoderConfig`], and its heads.

pub mod averaging; // a sentence encoder as an ordinary classifier
pub mod attention; // self-attention block
pub mod config; // config.json <-> EncoderConfig, HeadKind
pub mod embeddings; // token ids -> states
pub mod encoder; // states -> states
pub mod family; // what tells the families apart
pub mod feed_forward; // feed-forward block
pub mod inference; // models without the f32 copies that only training needs
pub mod linear; // Linear and LayerNorm: their place in the arena, packed weights
pub mod names; // the families' tensor names
pub mod parameters; // the table of parameters and their arena
pub mod residual_output; // how both blocks end: linear, dropout, residual, norm
pub mod student; // a student's first weights from its teacher

pub use config::{
    Activation, ConfigError, EmbeddingHead, EncoderConfig, Family, HeadKind, ModelConfig, Pooling, Problem,
};
pub use linear::Purpose;
pub use parameters::{Parameter, Parameters};

use crate::data::batch::Batch;
use crate::heads::Head;
use crate::heads::embedding::Embedder;
use crate::random::{Rng, mix_key};
use distilbert_kernels::dropout::Dropout;
use distilbert_kernels::{Precision, Runtime};
use embeddings::Embeddings;
use encoder::Encoder;
use linear::{Linear, Packing};
use parameters::{ArenaOf, TableBuilder};

/// A model of any supported family with at most one head.
pub struct Model {
    /// What it is.
    pub config: ModelConfig,
    /// Its weights.
    pub parameters: Parameters,
    /// Token ids to states.
    pub embeddings: Embeddings,
    /// States to states.
    pub encoder: Encoder,
    /// States to logits.
    pub head: Head,
    precision: Precision,
}

/// Why a model cannot take a batch.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A token id that is not in the vocabulary.
    #[error("token id: expected below the vocabulary size {vocab_size}, found {found}")]
    TokenId {
        /// Size of the vocabulary.
        vocab_size: usize,
        /// The id.
        found: u32,
    },
    /// A segment the model has no embedding for.
    #[error("token type: expected below {token_types}, found {found}")]
    TokenType {
        /// Number of segments.
        token_types: usize,
        /// The segment.
        found: u32,
    },
    /// A sequence longer than the table of positions.
    #[error("sequence of {found} tokens: the model has {max_positions} positions")]
    TooLong {
        /// Number of positions.
        max_positions: usize,
        /// Tokens in the sequence.
        found: usize,
    },
    /// A sequence without tokens, which has no first token to classify.
    #[error("sequence {index} is empty")]
    Empty {
        /// Which sequence.
        index: usize,
    },
}

/// What a forward pass is for.
#[derive(Clone, Copy)]
pub enum Mode<'a> {
    /// No dropout, nothing kept for a backward pass.
    Inference,
    /// Dropout drawn from `DropoutKey`, activations kept.
    Training(DropoutKey<'a>),
}

/// Names the random numbers of one training step's dropout, so that they depend on the step and the sample, not on
/// packing, threads or micro-batches.
#[derive(Clone, Copy)]
pub struct DropoutKey<'a> {
    /// Seed of the run.
    pub seed: u64,
    /// Optimiser step.
    pub step: u64,
    /// One number a sequence of the batch: its place among the samples of the step.
    pub slots: &'a [u64],
}

/// The places where dropout happens; with the layer they make the key of a mask.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DropoutSite {
    Embeddings,
    AttentionProbabilities,
    AttentionOutput,
    FeedForward,
    /// In front of the last linear of a head with labels.
    Head,
    /// In front of the linear before it.
    HeadInput,
}

impl<'a> DropoutKey<'a> {
    /// The kernel's dropout at one site, `None` if its probability is 0.
    pub(crate) fn at(&self, site: DropoutSite, layer: usize, probability: f32) -> Option<Dropout<'a>> {
        const PURPOSE: u64 = 0xd20b;
        (probability > 0.0).then(|| Dropout {
            probability,
            site_key: mix_key(&[self.seed, PURPOSE, self.step, layer as u64, site as u64]),
            slots: self.slots,
        })
    }
}

impl<'a> Mode<'a> {
    /// The dropout key of a training pass.
    pub(crate) fn dropout(&self) -> Option<&DropoutKey<'a>> {
        match self {
            Mode::Inference => None,
            Mode::Training(key) => Some(key),
        }
    }
}

/// What every part of the model needs for a pass over a batch, forward or backward.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) rt: &'a Runtime,
    /// The model's weights.
    pub(crate) arena: &'a [f32],
    pub(crate) cu_seqlens: &'a [u32],
    /// The same forward and backward, so that both draw the same dropout.
    pub(crate) mode: Mode<'a>,
    /// The layer that is run, counted from 0; 0 outside the layers too.
    pub(crate) layer: usize,
}

impl<'a> Pass<'a> {
    /// The kernel's dropout at one site, `None` without training or if its probability is 0.
    pub(crate) fn dropout(&self, site: DropoutSite, probability: f32) -> Option<Dropout<'a>> {
        self.mode.dropout().and_then(|key| key.at(site, self.layer, probability))
    }

    /// The same pass inside a layer, counted from 0.
    pub(crate) fn in_layer(self, layer: usize) -> Pass<'a> {
        Pass { layer, ..self }
    }
}

impl Model {
    /// A model with random weights: linears and embeddings normal with standard deviation `initializer_range`, norms
    /// one and zero, biases zero, the row of the padding token zero.
    pub fn random(config: ModelConfig, seed: u64) -> Model {
        let mut model = Model::zeroed(config);
        model.randomise(seed, |_| true);
        let config = &model.config.encoder;
        let values = model.parameters.weights_mut().values;
        if let Some(pad) = config.pad_token_id {
            let start = model.embeddings.word.start + pad as usize * config.embedding_size;
            values[start..start + config.embedding_size].fill(0.0);
        }
        if config.sinusoidal_positions {
            embeddings::fill_sinusoidal(&mut values[model.embeddings.position.clone()], config.hidden);
        }
        model
    }

    /// Gives chosen norms and matrices their first weights, each from the seed and its name alone: the same whichever
    /// others are chosen.
    pub(crate) fn randomise(&mut self, seed: u64, chosen: impl Fn(&Parameter) -> bool) {
        let deviation = f64::from(self.config.encoder.initializer_range);
        let weights = self.parameters.weights_mut();
        for parameter in weights.table.iter().filter(|parameter| chosen(parameter)) {
            let values = &mut weights.values[parameter.range.clone()];
            if parameter.is_norm_weight() {
                values.fill(1.0);
            } else if parameter.shape.len() == 2 {
                let mut rng =
                    Rng::from_key(&[seed, mix_key(&parameter.name.bytes().map(u64::from).collect::<Vec<_>>())]);
                values.fill_with(|| (rng.normal() * deviation) as f32);
            }
        }
    }

    /// A model whose weights are all zero, to be filled.
    pub fn zeroed(config: ModelConfig) -> Model {
        Model::laid_out(config, ArenaOf::All)
    }

    fn laid_out(config: ModelConfig, arena_of: ArenaOf) -> Model {
        let mut table = TableBuilder::new(arena_of);
        let names = names::Names::of(&config);
        let embeddings = Embeddings::new(&config.encoder, &names, &mut table);
        let encoder = Encoder::new(&config.encoder, &names, &mut table);
        let head = Head::new(&config, &names, &mut table);
        Model { config, parameters: table.build(), embeddings, encoder, head, precision: Precision::F32 }
    }

    /// Adds a linear of its training's own, with random weights: the optimiser updates it with the model, and it is not
    /// saved as a part of it. [`Model::pack`] leaves it to whoever runs it.
    pub(crate) fn add_training_linear(&mut self, name: &str, inputs: usize, outputs: usize, seed: u64) -> Linear {
        let mut rng = Rng::from_key(&[seed, mix_key(&name.bytes().map(u64::from).collect::<Vec<_>>())]);
        let range = f64::from(self.config.encoder.initializer_range);
        let weight: Vec<f32> = (0..inputs * outputs).map(|_| (rng.normal() * range) as f32).collect();
        let weight = self.parameters.extend(format!("{name}.weight"), vec![outputs, inputs], &weight);
        let bias = self.parameters.extend(format!("{name}.bias"), vec![outputs], &vec![0.0; outputs]);
        Linear::over(weight, bias, inputs, outputs)
    }

    /// Packs the weights for the matrix products; needed before the first pass and after every change of weights, or of
    /// what is trained.
    ///
    /// # Panics
    /// If the CPU lacks the precision ([`Precision::check`]), int8 is to be trained, or the model was made for inference
    /// alone ([`Model::for_inference`]) and so is packed already.
    pub fn pack(&mut self, rt: &Runtime, precision: Precision, purpose: Purpose) {
        assert!(self.parameters.is_whole(), "a model for inference alone is packed already");
        self.precision = precision;
        self.pack_changed(rt, purpose, std::slice::from_ref(&(0..usize::MAX)));
    }

    /// Packs again what training may have changed.
    pub fn repack_trainable(&mut self, rt: &Runtime) {
        let changed = self.parameters.gradient_ranges();
        self.pack_changed(rt, Purpose::Training, &changed);
    }

    fn pack_changed(&mut self, rt: &Runtime, purpose: Purpose, changed: &[std::ops::Range<usize>]) {
        let trained = self.parameters.gradient_ranges();
        let frozen = self.frozen_layers().unwrap_or(0);
        let arena = self.parameters.weights();
        let packing = Packing { rt, arena, precision: self.precision, purpose, changed, trained: &trained };
        self.embeddings.pack(&packing);
        self.encoder.pack(&packing, frozen);
        self.head.pack(&packing, self.embeddings.word.clone());
    }

    /// What the packed weights are multiplied in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// How many of the lowest layers stay as they are, as the embeddings then do; `None` if training changes the
    /// embeddings. A training pass runs these without dropout and keeps nothing of them, and no gradient reaches them.
    pub fn frozen_layers(&self) -> Option<usize> {
        let changing = self.parameters.table().iter().filter(|parameter| parameter.changes());
        let first = changing.map(|parameter| parameter.range.start).min().unwrap_or(usize::MAX);
        (0..=self.encoder.depth()).rev().find(|&layer| self.layer_end(layer) <= first)
    }

    /// Whether training changes any weight of embeddings or encoder.
    pub fn encoder_is_trainable(&self) -> bool {
        self.frozen_layers() != Some(self.encoder.depth())
    }

    /// Whether the optimiser may change the word embeddings, which are the masked-LM head's decoder too.
    pub fn embeddings_are_trainable(&self) -> bool {
        let word = &self.embeddings.word;
        self.parameters.table().iter().any(|parameter| parameter.trainable && parameter.range == *word)
    }

    /// Turns all dropout off, for training passes that must be repeatable by another implementation.
    pub fn disable_dropout(&mut self) {
        self.config.encoder.dropout = 0.0;
        self.config.encoder.attention_dropout = 0.0;
        self.config.classifier_dropout = 0.0;
        self.config.answering_dropout = 0.0;
        self.embeddings.disable_dropout();
        for layer in &mut self.encoder.layers {
            layer.attention.disable_dropout();
            layer.feed_forward.disable_dropout();
        }
        self.head.disable_dropout();
    }

    /// Where the arena's part of embeddings and encoder ends and the head's begins.
    pub(crate) fn encoder_end(&self) -> usize {
        let last = self.encoder.layers.last();
        last.map_or(self.embeddings.norm.bias.end, |layer| layer.feed_forward.output.norm.bias.end)
    }

    /// Where the arena's part ends that the states after a layer depend on; layers are counted from 1, 0 stands for the
    /// embeddings. Where layers share their weights, all of them end together.
    pub(crate) fn layer_end(&self, layer: usize) -> usize {
        let shared = layer > 0 && self.encoder.layers.len() < self.encoder.depth();
        match self.encoder.layers.get(layer) {
            Some(next) if !shared => next.attention.qkv.weight.start,
            _ => self.encoder_end(),
        }
    }

    /// The same of a layer's queries, keys and values.
    pub(crate) fn attention_end(&self, layer: usize) -> usize {
        let own = self.encoder.layers.len() == self.encoder.depth();
        match self.encoder.layers.get(layer.saturating_sub(1)) {
            Some(layer) if own => layer.attention.output.linear.weight.start,
            _ => self.encoder_end(),
        }
    }

    /// Lets the optimiser change the head only.
    pub fn freeze_encoder(&mut self) {
        self.freeze_layers(self.encoder.depth());
    }

    /// Keeps the embeddings and the lowest `layers` as they are. Layers that share their weights are frozen together.
    pub fn freeze_layers(&mut self, layers: usize) {
        let end = self.layer_end(layers);
        self.parameters.set_trainable(|parameter| parameter.trainable && parameter.range.start >= end);
    }

    /// Keeps a pooler that nothing runs as it is: weight decay would shrink it.
    pub fn freeze_pooler(&mut self) {
        if let Head::None(Some(pooler)) | Head::Embedder(Embedder { pooler: Some(pooler), .. }) = &self.head {
            let tensors = [pooler.weight.clone(), pooler.bias.clone()];
            self.parameters.set_trainable(|parameter| parameter.trainable && !tensors.contains(&parameter.range));
        }
    }

    /// Keeps the position embeddings as they are, as the published recipe does.
    pub fn freeze_positions(&mut self) {
        let position = self.embeddings.position.clone();
        self.parameters.set_trainable(|parameter| parameter.trainable && parameter.range != position);
    }

    /// Checks that every id, segment and length is one the model has.
    ///
    /// # Errors
    /// [`InputError`] naming the first offender.
    pub fn check(&self, batch: &Batch) -> Result<(), InputError> {
        let config = &self.config.encoder;
        let vocab_size = config.vocab_size;
        if let Some(&found) = batch.input_ids().iter().find(|&&id| id as usize >= vocab_size) {
            return Err(InputError::TokenId { vocab_size, found });
        }
        let token_types = config.token_types;
        if let Some(types) = batch.token_types().filter(|_| token_types > 1)
            && let Some(&found) = types.iter().find(|&&token_type| token_type as usize >= token_types)
        {
            return Err(InputError::TokenType { token_types, found });
        }
        for (index, found) in batch.lengths().enumerate() {
            if found > config.max_positions {
                return Err(InputError::TooLong { max_positions: config.max_positions, found });
            }
            if found == 0 {
                return Err(InputError::Empty { index });
            }
        }
        Ok(())
    }
}
