//! Linear layers and layer norms: where their weights lie in the arena, and the weights packed for the kernels.

use super::parameters::TableBuilder;
use distilbert_kernels::elementwise;
use distilbert_kernels::matmul::{Epilogue, PackedMatrix, matmul, matmul_tn};
use distilbert_kernels::norm::{self, NormStats};
use distilbert_kernels::{Matrix, Precision, Runtime};
use std::ops::Range;

/// `y = x · Wᵀ + b`, W `[outputs, inputs]`. Several tensors that lie one after the other in the arena (query, key,
/// value) form one linear.
pub struct Linear {
    /// W in the arena.
    pub weight: Range<usize>,
    /// b in the arena.
    pub bias: Range<usize>,
    /// W's tensors in the table of parameters.
    pub(crate) tensors: Range<usize>,
    /// Width of x.
    pub inputs: usize,
    /// Width of y.
    pub outputs: usize,
    /// Whether a backward pass adds the gradients of W and b; as when the weights were packed.
    trains: bool,
    forward: Option<PackedMatrix>,
    backward: Option<PackedMatrix>,
}

/// What weights are packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Forward passes.
    Inference,
    /// Forward and backward passes.
    Training,
}

/// What packing the weights needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Packing<'a> {
    pub(crate) rt: &'a Runtime,
    pub(crate) arena: &'a [f32],
    pub(crate) precision: Precision,
    pub(crate) purpose: Purpose,
    /// The ranges of the arena that may have changed since the weights were packed.
    pub(crate) changed: &'a [Range<usize>],
    /// The ranges of the arena whose gradients are wanted.
    pub(crate) trained: &'a [Range<usize>],
}

impl Packing<'_> {
    /// For a part that stays in f32 whatever the model is in.
    pub(crate) fn in_f32(self) -> Self {
        Packing { precision: Precision::F32, ..self }
    }

    /// For a part that no gradient goes through.
    pub(crate) fn for_inference(self) -> Self {
        Packing { purpose: Purpose::Inference, ..self }
    }

    fn has_changed(&self, weight: &Range<usize>) -> bool {
        overlaps(self.changed, weight)
    }

    /// Whether the gradient of what lies in this range is wanted.
    pub(crate) fn trains(&self, weight: &Range<usize>) -> bool {
        overlaps(self.trained, weight)
    }
}

fn overlaps(ranges: &[Range<usize>], weight: &Range<usize>) -> bool {
    ranges.iter().any(|range| range.start < weight.end && weight.start < range.end)
}

/// What a linear does with its products before it stores them.
pub(crate) enum Finish<'a> {
    /// Adds the bias.
    Bias,
    /// Adds the bias and applies GELU.
    Gelu(elementwise::GeluKind),
    /// Adds the bias and this `[rows, outputs]`.
    Residual(&'a [f32]),
}

impl Linear {
    /// A linear over one pair of tensors, `{name}.weight` and `{name}.bias`.
    pub(crate) fn new(table: &mut TableBuilder, name: &str, inputs: usize, outputs: usize) -> Linear {
        Linear::joined(table, &[name], inputs, outputs)
    }

    /// A linear whose outputs are those of several named ones side by side, each `outputs` wide.
    pub(crate) fn joined(table: &mut TableBuilder, names: &[&str], inputs: usize, outputs: usize) -> Linear {
        let first = table.next_index();
        let weights: Vec<_> =
            names.iter().map(|name| table.matrix(format!("{name}.weight"), outputs, inputs)).collect();
        let biases: Vec<_> = names.iter().map(|name| table.vector(format!("{name}.bias"), outputs)).collect();
        let over = |ranges: &[Range<usize>]| ranges[0].start..ranges[ranges.len() - 1].end;
        let tensors = first..first + names.len();
        Linear { tensors, ..Linear::over(over(&weights), over(&biases), inputs, outputs * names.len()) }
    }

    /// A linear over ranges of the arena that exist already, as a tied decoder.
    pub(crate) fn over(weight: Range<usize>, bias: Range<usize>, inputs: usize, outputs: usize) -> Linear {
        Linear { weight, bias, tensors: 0..0, inputs, outputs, trains: true, forward: None, backward: None }
    }

    /// Packs a weight that is not in the arena, for inference.
    pub(crate) fn pack_matrix(&mut self, rt: &Runtime, weight: &Matrix) {
        self.forward = Some(PackedMatrix::from_matrix(rt, weight, self.outputs, self.inputs));
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        let Packing { rt, arena, precision, purpose, .. } = *packing;
        self.trains = packing.trains(&self.weight);
        let weight = &arena[self.weight.clone()];
        if self.forward.as_ref().is_some_and(|packed| packed.precision() != precision) {
            (self.forward, self.backward) = (None, None);
        }
        match &mut self.forward {
            Some(packed) if packing.has_changed(&self.weight) => packed.repack_nk(rt, weight),
            Some(_) => {}
            None => self.forward = Some(PackedMatrix::from_nk(rt, precision, weight, self.outputs, self.inputs)),
        }
        match &mut self.backward {
            Some(packed) if packing.has_changed(&self.weight) => packed.repack_kn(rt, weight),
            None if purpose == Purpose::Training => {
                self.backward = Some(PackedMatrix::from_kn(rt, precision, weight, self.outputs, self.inputs));
            }
            _ => {}
        }
    }

    /// What the packed weights are multiplied in.
    pub(crate) fn precision(&self) -> Precision {
        self.packed().precision()
    }

    fn packed(&self) -> &PackedMatrix {
        self.forward.as_ref().expect("Model::pack runs before a forward pass")
    }

    /// `x` `[rows, inputs]` to `y` `[rows, outputs]`.
    pub(crate) fn forward(&self, rt: &Runtime, arena: &[f32], x: &[f32], y: &mut [f32], finish: Finish<'_>) {
        let bias = &arena[self.bias.clone()];
        let epilogue = match finish {
            Finish::Bias => Epilogue::Bias(bias),
            Finish::Gelu(kind) => Epilogue::BiasGelu { bias, kind },
            Finish::Residual(residual) => Epilogue::BiasResidual { bias, residual },
        };
        matmul(rt, x, self.packed(), y, epilogue);
    }

    /// Adds this layer's gradients, if it is trained: `dW += dyᵀ · x`, `db += Σ dy`.
    pub(crate) fn backward_parameters(&self, rt: &Runtime, x: &[f32], dy: &[f32], gradients: &mut [f32]) {
        if self.trains {
            self.backward_weight(rt, x, dy, gradients);
            self.backward_bias(rt, dy, gradients);
        }
    }

    /// `dW += dyᵀ · x`.
    pub(crate) fn backward_weight(&self, rt: &Runtime, x: &[f32], dy: &[f32], gradients: &mut [f32]) {
        matmul_tn(rt, self.precision(), dy, x, x.len() / self.inputs, &mut gradients[self.weight.clone()]);
    }

    /// `db += Σ dy`.
    pub(crate) fn backward_bias(&self, rt: &Runtime, dy: &[f32], gradients: &mut [f32]) {
        elementwise::column_sums(rt, dy, self.outputs, &mut gradients[self.bias.clone()]);
    }

    /// `dx = dy · W`, or `dx += dy · W` if `accumulate`.
    pub(crate) fn backward_input(&self, rt: &Runtime, dy: &[f32], dx: &mut [f32], into: Into) {
        let packed = self.backward.as_ref().expect("Model::pack runs for training before a backward pass");
        let epilogue = match into {
            Into::Overwrite => Epilogue::None,
            Into::Accumulate => Epilogue::Accumulate,
        };
        matmul(rt, dy, packed, dx, epilogue);
    }
}

/// Whether a gradient replaces what is there or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    Overwrite,
    Accumulate,
}

/// A layer norm's place in the arena.
pub struct LayerNorm {
    /// γ in the arena.
    pub weight: Range<usize>,
    /// β in the arena.
    pub bias: Range<usize>,
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm {
    pub(crate) fn new(table: &mut TableBuilder, name: &str, hidden: usize, eps: f32) -> LayerNorm {
        LayerNorm {
            weight: table.vector(format!("{name}.weight"), hidden),
            bias: table.vector(format!("{name}.bias"), hidden),
            eps,
        }
    }

    /// γ and β.
    pub(crate) fn weights<'a>(&self, arena: &'a [f32]) -> (&'a [f32], &'a [f32]) {
        (&arena[self.weight.clone()], &arena[self.bias.clone()])
    }

    /// `y = norm(x)`, keeping what the backward pass needs in `stats`.
    pub(crate) fn forward(&self, rt: &Runtime, arena: &[f32], x: &[f32], y: &mut [f32], stats: Option<&mut NormStats>) {
        let (gamma, beta) = self.weights(arena);
        norm::layer_norm(rt, x, gamma, beta, self.eps, y, stats);
    }

    /// `x` is the norm's input; `dx` is overwritten, the gradients of γ and β are added.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub(crate) fn backward(
        &self,
        rt: &Runtime,
        arena: &[f32],
        dy: &[f32],
        x: &[f32],
        stats: &NormStats,
        dx: &mut [f32],
        gradients: &mut [f32],
    ) {
        // γ and β stand side by side in the arena.
        let (d_gamma, d_beta) = gradients[self.weight.start..self.bias.end].split_at_mut(self.weight.len());
        norm::layer_norm_backward(rt, dy, x, stats, &arena[self.weight.clone()], dx, d_gamma, d_beta);
    }
}
