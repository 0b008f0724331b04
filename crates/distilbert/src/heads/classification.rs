//! Sequence classification and regression from the first token: a dense layer (BERT's and ALBERT's pooler, DistilBERT's
//! `pre_classifier`), a non-linearity by family, dropout and a linear; RoBERTa and ELECTRA drop out the first token too.

use crate::model::config::{HeadKind, ModelConfig};
use crate::model::family::ClassifierActivation;
use crate::model::linear::{Finish, Into, Linear, Packing};
use crate::model::names::Names;
use crate::model::parameters::TableBuilder;
use crate::model::{DropoutSite, Mode};
use distilbert_kernels::Runtime;
use distilbert_kernels::dropout::dropout_rows;
use distilbert_kernels::elementwise::{GeluKind, gelu, gelu_backward, relu, relu_backward, tanh, tanh_backward};

/// The head's layers.
pub struct Classifier {
    /// BERT's `pooler.dense`, DistilBERT's `pre_classifier`, RoBERTa's `classifier.dense`.
    pub dense: Linear,
    /// `classifier`, `classifier.out_proj`.
    pub classifier: Linear,
    activation: ClassifierActivation,
    drops_input: bool,
    dropout: f32,
}

/// Buffers of one pass.
#[derive(Default)]
pub struct ClassifierActivations {
    /// The dense layer's input, where it is dropped out.
    input: Vec<f32>,
    /// The dense layer before GELU, whose backward needs it.
    before: Vec<f32>,
    dense: Vec<f32>,
    dropped: Vec<f32>,
}

impl Classifier {
    pub(crate) fn new(config: &ModelConfig, names: &Names, table: &mut TableBuilder) -> Classifier {
        let form = config.encoder.family.classifier();
        let hidden = config.encoder.hidden;
        let names = names.classifier();
        debug_assert!(matches!(config.head, HeadKind::Classification { .. } | HeadKind::IntentsAndSlots { .. }));
        Classifier {
            dense: Linear::new(table, &names.dense, hidden, hidden),
            classifier: Linear::new(table, names.output, hidden, config.head.outputs()),
            activation: form.activation,
            drops_input: form.drops_input,
            dropout: config.head_dropout(),
        }
    }

    /// What follows the dense layer.
    pub(crate) fn activation(&self) -> ClassifierActivation {
        self.activation
    }

    pub(crate) fn pack(&mut self, packing: &Packing<'_>) {
        self.dense.pack(packing);
        // A few rows of weights: nothing to gain, and the logits are what is compared.
        self.classifier.pack(&packing.in_f32());
    }

    pub(crate) fn disable_dropout(&mut self) {
        self.dropout = 0.0;
    }

    /// First tokens' states `[batch, hidden]` to logits `[batch, labels]`.
    pub(crate) fn forward(
        &self,
        rt: &Runtime,
        arena: &[f32],
        first: &[f32],
        mode: Mode<'_>,
        a: &mut ClassifierActivations,
        logits: &mut Vec<f32>,
    ) {
        let hidden = self.dense.inputs;
        let batch = first.len() / hidden;
        a.dense.resize(first.len(), 0.0);
        logits.resize(batch * self.classifier.outputs, 0.0);
        if self.drops_input {
            a.input.clear();
            a.input.extend_from_slice(first);
            self.drop_out(rt, mode, DropoutSite::HeadInput, &mut a.input);
        }
        let input = if self.drops_input { &a.input } else { first };
        self.dense.forward(rt, arena, input, &mut a.dense, Finish::Bias);
        match self.activation {
            ClassifierActivation::Tanh => tanh(rt, &mut a.dense),
            ClassifierActivation::Relu => relu(rt, &mut a.dense),
            ClassifierActivation::Gelu => {
                a.before.clone_from(&a.dense);
                gelu(rt, &a.before, &mut a.dense, GeluKind::Erf);
            }
        }
        a.dropped.clone_from(&a.dense);
        self.drop_out(rt, mode, DropoutSite::Head, &mut a.dropped);
        self.classifier.forward(rt, arena, &a.dropped, logits, Finish::Bias);
    }

    /// From the logits' gradient to that of the first tokens' states; the parameters' gradients are added.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub fn backward(
        &self,
        rt: &Runtime,
        first: &[f32],
        mode: Mode<'_>,
        a: &ClassifierActivations,
        d_logits: &[f32],
        d_first: &mut [f32],
        gradients: &mut [f32],
    ) {
        let mut d_dense = vec![0.0; first.len()];
        self.classifier.backward_parameters(rt, &a.dropped, d_logits, gradients);
        self.classifier.backward_input(rt, d_logits, &mut d_dense, Into::Overwrite);
        self.drop_out(rt, mode, DropoutSite::Head, &mut d_dense);
        match self.activation {
            ClassifierActivation::Tanh => tanh_backward(rt, &a.dense, &mut d_dense),
            ClassifierActivation::Relu => relu_backward(rt, &a.dense, &mut d_dense),
            ClassifierActivation::Gelu => gelu_backward(rt, &a.before, &mut d_dense, GeluKind::Erf),
        }
        let input = if self.drops_input { &a.input } else { first };
        self.dense.backward_parameters(rt, input, &d_dense, gradients);
        self.dense.backward_input(rt, &d_dense, d_first, Into::Overwrite);
        if self.drops_input {
            self.drop_out(rt, mode, DropoutSite::HeadInput, d_first);
        }
    }

    /// Each sequence has one row here.
    fn drop_out(&self, rt: &Runtime, mode: Mode<'_>, site: DropoutSite, rows: &mut [f32]) {
        let Some(dropout) = mode.dropout().and_then(|key| key.at(site, 0, self.dropout)) else {
            return;
        };
        let one_row_each: Vec<u32> = (0..=(rows.len() / self.dense.outputs) as u32).collect();
        dropout_rows(rt, rows, self.dense.outputs, &one_row_each, &dropout);
    }
}
