//! The table of parameters over one contiguous arena. Gradients and the optimiser's moments are arenas of the same
//! layout, so that clipping, updates, freezing and checkpoints are ranges.
//!
//! A model for inference alone has the same table, but an arena of its biases and norms only: its matrices exist once,
//! in the form that a forward pass reads ([`super::inference`]), and their ranges here are empty.

use super::config::EmbeddingHead;
use super::names::LAST_WEIGHTS;
use distilbert_kernels::Precision;
use std::ops::Range;

/// One tensor of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape in the checkpoint.
    pub shape: Vec<usize>,
    /// Its place in the arenas; empty for a matrix of a model for inference.
    pub range: Range<usize>,
    /// Whether weight decay applies: not to biases and norms.
    pub decays: bool,
    /// Whether the optimiser may change it.
    pub trainable: bool,
    /// Whether its gradient is wanted although the optimiser leaves it, because it is computed from others that change.
    pub adapted: bool,
}

impl Parameter {
    /// Number of weights, wherever they are.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether training changes it.
    pub(crate) fn changes(&self) -> bool {
        self.trainable || self.adapted
    }

    pub(crate) fn is_matrix(&self) -> bool {
        self.shape.len() == 2
    }

    /// What it is kept in when the model is in `precision`. Biases and norms stay in f32, and so do the last layer of a
    /// head with labels and the linears of an embedding: they are small, and their outputs are what is compared.
    pub(crate) fn kept_in(&self, precision: Precision) -> Precision {
        let is_last = LAST_WEIGHTS.contains(&self.name.as_str()) || self.name.starts_with(EmbeddingHead::DENSE_PREFIX);
        if self.is_matrix() && !is_last { precision } else { Precision::F32 }
    }

    pub(crate) fn is_norm_weight(&self) -> bool {
        self.shape.len() == 1 && self.name.ends_with(".weight")
    }
}

/// The parameters of a model. Tied tensors stand here once, under the name of their first use.
#[derive(Clone, Debug)]
pub struct Parameters {
    table: Vec<Parameter>,
    weights: Vec<f32>,
    /// Tensors at the start of the table that are the model's; those behind belong to its training.
    of_model: usize,
}

/// The table beside its weights, borrowed apart.
pub struct WeightsMut<'a> {
    /// The tensors.
    pub table: &'a [Parameter],
    /// The arena.
    pub values: &'a mut [f32],
}

impl Parameters {
    /// The tensors in arena order.
    pub fn table(&self) -> &[Parameter] {
        &self.table
    }

    /// The tensors that are saved with the model, in arena order: all but those that only a training has.
    pub fn of_model(&self) -> &[Parameter] {
        &self.table[..self.of_model]
    }

    /// The tensors that only a training has, in arena order.
    pub fn of_training(&self) -> &[Parameter] {
        &self.table[self.of_model..]
    }

    /// Adds a tensor that training updates like all others and that is not saved with the model.
    pub(crate) fn extend(&mut self, name: String, shape: Vec<usize>, values: &[f32]) -> Range<usize> {
        self.push(name, shape, values, true)
    }

    /// As [`Parameters::extend`], of a tensor that stays as it is.
    pub(crate) fn extend_frozen(&mut self, name: String, shape: Vec<usize>, values: &[f32]) -> Range<usize> {
        self.push(name, shape, values, false)
    }

    fn push(&mut self, name: String, shape: Vec<usize>, values: &[f32], trainable: bool) -> Range<usize> {
        debug_assert_eq!(values.len(), shape.iter().product::<usize>());
        let range = self.weights.len()..self.weights.len() + values.len();
        let decays = shape.len() > 1;
        self.table.push(Parameter { name, shape, range: range.clone(), decays, trainable, adapted: false });
        self.weights.extend_from_slice(values);
        range
    }

    /// Marks the tensors in this range as computed from others that training changes.
    pub(crate) fn adapt(&mut self, range: &Range<usize>) {
        let within =
            |parameter: &&mut Parameter| range.start <= parameter.range.start && parameter.range.end <= range.end;
        self.table.iter_mut().filter(within).for_each(|parameter| parameter.adapted = true);
    }

    /// The arena of weights.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Table and arena.
    pub fn weights_mut(&mut self) -> WeightsMut<'_> {
        WeightsMut { table: &self.table, values: &mut self.weights }
    }

    /// Number of weights, wherever they are.
    pub fn count(&self) -> usize {
        self.table.iter().map(Parameter::count).sum()
    }

    /// Whether the arena holds every weight, as training and saving need it.
    pub fn is_whole(&self) -> bool {
        self.count() == self.weights.len()
    }

    /// Numbers in the arena.
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.table.iter().find(|parameter| parameter.name == name)
    }

    /// The weights of one tensor.
    pub fn tensor(&self, parameter: &Parameter) -> &[f32] {
        &self.weights[parameter.range.clone()]
    }

    /// Sets which parameters the optimiser may change.
    pub fn set_trainable(&mut self, trainable: impl Fn(&Parameter) -> bool) {
        for index in 0..self.table.len() {
            self.table[index].trainable = trainable(&self.table[index]);
        }
    }

    /// Maximal ranges of the arena whose parameters are trainable and agree on `decays`.
    pub fn trainable_ranges(&self) -> Vec<(Range<usize>, bool)> {
        let mut ranges: Vec<(Range<usize>, bool)> = Vec::new();
        for parameter in self.table.iter().filter(|parameter| parameter.trainable) {
            match ranges.last_mut() {
                Some((range, decays)) if range.end == parameter.range.start && *decays == parameter.decays => {
                    range.end = parameter.range.end;
                }
                _ => ranges.push((parameter.range.clone(), parameter.decays)),
            }
        }
        ranges
    }

    /// Maximal ranges of the arena that a backward pass may write: what training changes, and biases and norms, whose
    /// gradients come with that of their input.
    pub fn gradient_ranges(&self) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for parameter in self.table.iter().filter(|parameter| parameter.changes() || !parameter.is_matrix()) {
            match ranges.last_mut() {
                Some(range) if range.end == parameter.range.start => range.end = parameter.range.end,
                _ => ranges.push(parameter.range.clone()),
            }
        }
        ranges
    }
}

/// What an arena holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArenaOf {
    /// Every parameter.
    All,
    /// Biases and norms.
    Vectors,
}

/// Lays tensors out one after the other.
pub(crate) struct TableBuilder {
    table: Vec<Parameter>,
    len: usize,
    arena_of: ArenaOf,
}

impl TableBuilder {
    pub(crate) fn new(arena_of: ArenaOf) -> TableBuilder {
        TableBuilder { table: Vec::new(), len: 0, arena_of }
    }

    /// The index in the table of the tensor that is added next.
    pub(crate) fn next_index(&self) -> usize {
        self.table.len()
    }

    /// Adds a matrix, which decays.
    pub(crate) fn matrix(&mut self, name: String, rows: usize, columns: usize) -> Range<usize> {
        self.add(name, vec![rows, columns], true)
    }

    /// Adds a bias or norm, which does not decay.
    pub(crate) fn vector(&mut self, name: String, len: usize) -> Range<usize> {
        self.add(name, vec![len], false)
    }

    pub(crate) fn build(self) -> Parameters {
        Parameters { of_model: self.table.len(), table: self.table, weights: vec![0.0; self.len] }
    }

    fn add(&mut self, name: String, shape: Vec<usize>, decays: bool) -> Range<usize> {
        let has_place = self.arena_of == ArenaOf::All || shape.len() == 1;
        let count = if has_place { shape.iter().product::<usize>() } else { 0 };
        let range = self.len..self.len + count;
        self.len = range.end;
        let trainable = self.arena_of == ArenaOf::All;
        self.table.push(Parameter { name, shape, range: range.clone(), decays, trainable, adapted: false });
        range
    }
}
