//! Sequence classification and regression from the first token: BERT by its pooler (tanh), DistilBERT by its
//! `pre_classifier` (ReLU), then dropout and a linear.

use crate::model::config::{Family, HeadKind, ModelConfig};
use crate::model::linear::{Finish, Into, Linear, Packing};
use crate::model::names::{CLASSIFIER, Names};
use crate::model::parameters::TableBuilder;
use crate::model::{DropoutSite, Mode};
use distilbert_kernels::Runtime;
use distilbert_kernels::dropout::dropout_rows;
use distilbert_kernels::elementwise::{relu, relu_backward, tanh, tanh_backward};

/// The head's layers.
pub struct Classifier {
    /// BERT's `pooler.dense`, DistilBERT's `pre_classifier`.
    pub dense: Linear,
    /// `classifier`.
    pub classifier: Linear,
    family: Family,
    dropout: f32,
}

/// Buffers of one pass.
#[derive(Default)]
pub struct ClassifierActivations {
    dense: Vec<f32>,
    dropped: Vec<f32>,
}

impl Classifier {
    pub(crate) fn new(config: &ModelConfig, names: &Names, table: &mut TableBuilder) -> Classifier {
        let family = config.encoder.family;
        let hidden = config.encoder.hidden;
        let dense = match family {
            Family::Bert => names.pooler(),
            Family::DistilBert => "pre_classifier".to_owned(),
        };
        debug_assert!(matches!(config.head, HeadKind::Classification { .. }));
        Classifier {
            dense: Linear::new(table, &dense, hidden, hidden),
            classifier: Linear::new(table, CLASSIFIER, hidden, config.head.outputs()),
            family,
            dropout: config.head_dropout(),
        }
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
        self.dense.forward(rt, arena, first, &mut a.dense, Finish::Bias);
        match self.family {
            Family::Bert => tanh(rt, &mut a.dense),
            Family::DistilBert => relu(rt, &mut a.dense),
        }
        a.dropped.clone_from(&a.dense);
        self.drop_out(rt, mode, &mut a.dropped);
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
        self.drop_out(rt, mode, &mut d_dense);
        match self.family {
            Family::Bert => tanh_backward(rt, &a.dense, &mut d_dense),
            Family::DistilBert => relu_backward(rt, &a.dense, &mut d_dense),
        }
        self.dense.backward_parameters(rt, first, &d_dense, gradients);
        self.dense.backward_input(rt, &d_dense, d_first, Into::Overwrite);
    }

    /// Each sequence has one row here.
    fn drop_out(&self, rt: &Runtime, mode: Mode<'_>, rows: &mut [f32]) {
        let Some(dropout) = mode.dropout().and_then(|key| key.at(DropoutSite::Head, 0, self.dropout)) else {
            return;
        };
        let one_row_each: Vec<u32> = (0..=(rows.len() / self.dense.outputs) as u32).collect();
        dropout_rows(rt, rows, self.dense.outputs, &one_row_each, &dropout);
    }
}
