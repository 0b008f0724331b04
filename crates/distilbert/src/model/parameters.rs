//! The table of parameters over one contiguous arena. Gradients and the optimiser's moments are arenas of the same
//! layout, so that clipping, updates, freezing and checkpoints are ranges.

use std::ops::Range;

/// One tensor of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape in the checkpoint.
    pub shape: Vec<usize>,
    /// Its place in the arenas.
    pub range: Range<usize>,
    /// Whether weight decay applies: not to biases and norms.
    pub decays: bool,
    /// Whether the optimiser may change it.
    pub trainable: bool,
}

impl Parameter {
    pub(crate) fn is_norm_weight(&self) -> bool {
        self.shape.len() == 1 && self.name.ends_with(".weight")
    }
}

/// The parameters of a model. Tied tensors stand here once, under the name of their first use.
#[derive(Clone, Debug)]
pub struct Parameters {
    table: Vec<Parameter>,
    weights: Vec<f32>,
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

    /// The arena of weights.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Table and arena.
    pub fn weights_mut(&mut self) -> WeightsMut<'_> {
        WeightsMut { table: &self.table, values: &mut self.weights }
    }

    /// Number of weights.
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
}

/// Lays tensors out one after the other.
#[derive(Default)]
pub(crate) struct TableBuilder {
    table: Vec<Parameter>,
    len: usize,
}

impl TableBuilder {
    /// Adds a matrix, which decays.
    pub(crate) fn matrix(&mut self, name: String, rows: usize, columns: usize) -> Range<usize> {
        self.add(name, vec![rows, columns], true)
    }

    /// Adds a bias or norm, which does not decay.
    pub(crate) fn vector(&mut self, name: String, len: usize) -> Range<usize> {
        self.add(name, vec![len], false)
    }

    pub(crate) fn build(self) -> Parameters {
        Parameters { table: self.table, weights: vec![0.0; self.len] }
    }

    fn add(&mut self, name: String, shape: Vec<usize>, decays: bool) -> Range<usize> {
        let range = self.len..self.len + shape.iter().product::<usize>();
        self.len = range.end;
        self.table.push(Parameter { name, shape, range: range.clone(), decays, trainable: true });
        range
    }
}
