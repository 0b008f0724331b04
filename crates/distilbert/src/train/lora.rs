//! Low-rank adapters: of a matrix W of the encoder only a product of two narrow ones is trained,
//! `W = W₀ + alpha / rank · B · A`.
//!
//! The arena holds W itself, computed anew after every update, so that passes, measurements and saved models know of no
//! adapters. W₀, A and B lie behind the model's parameters, among what only a training has.
//!
//! Source: Hu et al. 2021 (arXiv:2106.09685).

use super::TrainError;
use crate::model::linear::Linear;
use crate::model::{Model, Parameters};
use crate::random::{Rng, mix_key};
use distilbert_kernels::matmul::{Epilogue, PackedMatrix, matmul, matmul_tn};
use distilbert_kernels::{Precision, Runtime};
use std::ops::Range;

/// Which matrices are adapted, and how.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LoraConfig {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The product counts `alpha / rank` times; twice the rank if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// The matrices of every layer that is not frozen.
    pub targets: Vec<LoraTarget>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig { rank: 8, alpha: None, targets: vec![LoraTarget::Query, LoraTarget::Value] }
    }
}

/// A matrix of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoraTarget {
    /// Of the queries.
    Query,
    /// Of the keys.
    Key,
    /// Of the values.
    Value,
    /// Behind the attention.
    AttentionOutput,
    /// The first of the feed-forward block.
    Lin1,
    /// The second of the feed-forward block.
    Lin2,
}

/// The adapters of a model in training.
pub struct Adapters {
    adapters: Vec<Adapter>,
    scale: f32,
}

/// Places in the arena.
struct Adapter {
    /// W, `[outputs, inputs]`.
    weight: Range<usize>,
    /// W₀, which nothing changes.
    base: Range<usize>,
    /// A, `[rank, inputs]`: random at first.
    a: Range<usize>,
    /// B, `[outputs, rank]`: zero at first, so that W is W₀.
    b: Range<usize>,
    outputs: usize,
    inputs: usize,
}

impl Adapters {
    /// Freezes the encoder and adapts the layers in which something was trained.
    ///
    /// # Errors
    /// [`TrainError::Config`] if a value is out of range or every layer is frozen.
    pub fn new(config: &LoraConfig, model: &mut Model, seed: u64) -> Result<Adapters, TrainError> {
        let wrong = |name, expected: String, found: String| Err(TrainError::Config { name, expected, found });
        let (rank, most) = (config.rank, model.config.encoder.hidden);
        if !(1..=most).contains(&rank) {
            return wrong("lora.rank", format!("1 to the model's width {most}"), rank.to_string());
        }
        let alpha = config.alpha.unwrap_or(2.0 * rank as f64);
        if !(alpha > 0.0 && alpha.is_finite()) {
            return wrong("lora.alpha", "above 0".into(), alpha.to_string());
        }
        if config.targets.is_empty() {
            return wrong("lora.targets", "at least one matrix".into(), "none".into());
        }
        let frozen = model.frozen_layers().unwrap_or(0);
        if frozen == model.encoder.depth() {
            return wrong(
                "lora",
                "a layer that is not frozen".into(),
                format!("{frozen} frozen layers, which are all"),
            );
        }
        model.freeze_encoder();
        // Layers that share their weights have one adapter.
        let first = frozen * model.encoder.layers.len() / model.encoder.depth();
        let mut adapters = Vec::new();
        for (layer, target) in (first..model.encoder.layers.len())
            .flat_map(|layer| LoraTarget::ALL.map(|target| (layer, target)))
            .filter(|(_, target)| config.targets.contains(target))
        {
            let (linear, place, parts) = target.in_layer(model, layer);
            let (inputs, outputs) = (linear.inputs, linear.outputs / parts);
            let joined = linear.weight.clone();
            let weight = joined.start + place * outputs * inputs..joined.start + (place + 1) * outputs * inputs;
            // One product gives the gradients of all three parts of the attention's first linear.
            model.parameters.adapt(&joined);
            let name = |part: &str| format!("lora.{layer}.{}.{part}", target.name());
            let parameters = &mut model.parameters;
            let base = parameters.weights()[weight.clone()].to_vec();
            let base = parameters.extend_frozen(name("base"), vec![outputs, inputs], &base);
            let a = parameters.extend(name("A"), vec![rank, inputs], &first_a(&name("A"), rank, inputs, seed));
            let b = parameters.extend(name("B"), vec![outputs, rank], &vec![0.0; outputs * rank]);
            adapters.push(Adapter { weight, base, a, b, outputs, inputs });
        }
        Ok(Adapters { adapters, scale: (alpha / rank as f64) as f32 })
    }

    /// Computes every W from its parts.
    pub fn merge(&self, rt: &Runtime, parameters: &mut Parameters) {
        let values = parameters.weights_mut().values;
        for adapter in &self.adapters {
            let a = PackedMatrix::from_kn(
                rt,
                Precision::F32,
                &values[adapter.a.clone()],
                self.rank(adapter),
                adapter.inputs,
            );
            let b = self.scaled_b(values, adapter);
            let mut weight = values[adapter.base.clone()].to_vec();
            matmul(rt, &b, &a, &mut weight, Epilogue::Accumulate);
            values[adapter.weight.clone()].copy_from_slice(&weight);
        }
    }

    /// Adds the gradients of A and B, once those by every W are complete.
    pub fn backward(&self, rt: &Runtime, values: &[f32], gradients: &mut [f32]) {
        for adapter in &self.adapters {
            // The model's parameters lie in front of those of its training.
            let (of_model, of_training) = gradients.split_at_mut(adapter.base.start);
            let within = |range: &Range<usize>| range.start - adapter.base.start..range.end - adapter.base.start;
            let d_weight = &of_model[adapter.weight.clone()];
            // Forward: W = W₀ + (scale · B) · A. So:
            let b = self.scaled_b(values, adapter);
            matmul_tn(rt, Precision::F32, &b, d_weight, adapter.outputs, &mut of_training[within(&adapter.a)]);
            let mut a = values[adapter.a.clone()].to_vec();
            a.iter_mut().for_each(|a| *a *= self.scale);
            let a = PackedMatrix::from_nk(rt, Precision::F32, &a, self.rank(adapter), adapter.inputs);
            matmul(rt, d_weight, &a, &mut of_training[within(&adapter.b)], Epilogue::Accumulate);
        }
    }

    fn scaled_b(&self, values: &[f32], adapter: &Adapter) -> Vec<f32> {
        values[adapter.b.clone()].iter().map(|b| self.scale * b).collect()
    }

    fn rank(&self, adapter: &Adapter) -> usize {
        adapter.a.len() / adapter.inputs
    }
}

impl LoraTarget {
    /// In the order of a layer.
    pub const ALL: [LoraTarget; 6] = [
        LoraTarget::Query,
        LoraTarget::Key,
        LoraTarget::Value,
        LoraTarget::AttentionOutput,
        LoraTarget::Lin1,
        LoraTarget::Lin2,
    ];

    /// As in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            LoraTarget::Query => "query",
            LoraTarget::Key => "key",
            LoraTarget::Value => "value",
            LoraTarget::AttentionOutput => "attention-output",
            LoraTarget::Lin1 => "lin1",
            LoraTarget::Lin2 => "lin2",
        }
    }

    /// The linear that holds the matrix, its place there, and of how many.
    fn in_layer(self, model: &Model, layer: usize) -> (&Linear, usize, usize) {
        let layer = &model.encoder.layers[layer];
        match self {
            LoraTarget::Query => (&layer.attention.qkv, 0, 3),
            LoraTarget::Key => (&layer.attention.qkv, 1, 3),
            LoraTarget::Value => (&layer.attention.qkv, 2, 3),
            LoraTarget::AttentionOutput => (&layer.attention.output.linear, 0, 1),
            LoraTarget::Lin1 => (&layer.feed_forward.lin1, 0, 1),
            LoraTarget::Lin2 => (&layer.feed_forward.output.linear, 0, 1),
        }
    }
}

/// Normal numbers with the variance that PyTorch's linears start with, `1 / (3 · inputs)`.
fn first_a(name: &str, rank: usize, inputs: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::from_key(&[seed, mix_key(&name.bytes().map(u64::from).collect::<Vec<_>>())]);
    let deviation = (1.0 / (3.0 * inputs as f64)).sqrt();
    (0..rank * inputs).map(|_| (rng.normal() * deviation) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::Batch;
    use crate::loss::labelled::{Labels, SoftLabels};
    use crate::model::{DropoutKey, Mode, ModelConfig, Purpose};
    use crate::train::finetune::{LabelledBatch, StepBuffers, labelled_step};
    use distilbert_kernels::Isa;

    fn model(family: &str) -> Model {
        let config = format!(
            r#"{{"model_type":"{family}","architectures":["XForSequenceClassification"],"vocab_size":60,"hidden_size":12,
            "dim":12,"num_hidden_layers":3,"n_layers":3,"num_attention_heads":3,"n_heads":3,"intermediate_size":20,
            "hidden_dim":20,"max_position_embeddings":16,"embedding_size":7,"initializer_range":0.3}}"#
        )
        .replace("XFor", match family { "albert" => "AlbertFor", "bert" => "BertFor", _ => "DistilBertFor" });
        let mut model = Model::random(ModelConfig::from_json(&config).unwrap(), 3);
        model.disable_dropout();
        model
    }

    /// Loss, and gradients by everything, of one step.
    fn step(rt: &Runtime, model: &Model, adapters: &Adapters) -> (f64, Vec<f32>) {
        let batch = Batch::from_sequences([&[2, 30, 31, 3][..], &[2, 59, 7, 8, 9, 10, 11, 3], &[2, 3]]);
        let soft_labels = &SoftLabels::default();
        let labels = Labels::Classes(&[0, 1, 1]);
        let labelled =
            LabelledBatch { batch: &batch, frozen_states: None, labels, teacher: None, soft_labels, layers: None };
        let mode = Mode::Training(DropoutKey { seed: 1, step: 1, slots: &[0, 1, 2] });
        let mut gradients = vec![0.0; model.parameters.len()];
        let losses = labelled_step(rt, model, labelled, mode, &mut gradients, &mut StepBuffers::default());
        adapters.backward(rt, model.parameters.weights(), &mut gradients);
        (losses.total(soft_labels), gradients)
    }

    fn adapted(rt: &Runtime, family: &str, targets: &[LoraTarget]) -> (Model, Adapters) {
        let mut model = model(family);
        let config = LoraConfig { rank: 2, alpha: Some(3.0), targets: targets.to_vec() };
        let adapters = Adapters::new(&config, &mut model, 5).unwrap();
        model.pack(rt, Precision::F32, Purpose::Training);
        (model, adapters)
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let rt = Runtime::new(Isa::detect(), 2).unwrap();
        for family in ["bert", "distilbert", "albert"] {
            let (mut model, adapters) = adapted(&rt, family, &LoraTarget::ALL);
            // Where B is zero, A has no gradient.
            for adapter in &adapters.adapters {
                let values = model.parameters.weights_mut().values;
                values[adapter.b.clone()].iter_mut().enumerate().for_each(|(i, b)| *b = (i % 5) as f32 * 0.1 - 0.2);
            }
            let loss_at = |model: &mut Model, values: &[f32]| {
                model.parameters.weights_mut().values.copy_from_slice(values);
                adapters.merge(&rt, &mut model.parameters);
                model.repack_trainable(&rt);
                step(&rt, model, &adapters)
            };
            let values = model.parameters.weights().to_vec();
            let (_, gradients) = loss_at(&mut model, &values);
            for (which, adapter) in adapters.adapters.iter().enumerate() {
                for range in [&adapter.a, &adapter.b] {
                    // Along the gradient the loss grows by its squared norm.
                    let direction = &gradients[range.clone()];
                    let norm = direction.iter().map(|&d| f64::from(d).powi(2)).sum::<f64>().sqrt();
                    assert!(norm > 1e-4, "{family} {which}: {norm}");
                    let at = |model: &mut Model, distance: f64| {
                        let mut moved = values.clone();
                        let pairs = moved[range.clone()].iter_mut().zip(direction);
                        pairs.for_each(|(value, &d)| *value += (distance * f64::from(d) / norm) as f32);
                        loss_at(model, &moved).0
                    };
                    let (far, near) = (at(&mut model, 1e-2), at(&mut model, -1e-2));
                    let slope = (far - near) / 2e-2;
                    assert!((slope - norm).abs() < 5e-3 * norm + 2e-5, "{family} {which}: {slope} and {norm}");
                }
            }
        }
    }

    #[test]
    fn before_the_first_update_the_model_is_what_it_was_and_then_only_its_targets_change() {
        let rt = Runtime::new(Isa::detect(), 1).unwrap();
        let (mut changed, adapters) = adapted(&rt, "bert", &LoraConfig::default().targets);
        let before = model("bert").parameters;
        adapters.merge(&rt, &mut changed.parameters);
        assert_eq!(&changed.parameters.weights()[..before.len()], before.weights());
        assert_eq!(adapters.adapters.len(), 6);
        for adapter in &adapters.adapters {
            changed.parameters.weights_mut().values[adapter.b.clone()].fill(0.5);
        }
        adapters.merge(&rt, &mut changed.parameters);
        for parameter in before.table() {
            let same = changed.parameters.tensor(parameter) == before.tensor(parameter);
            let is_target = ["query.weight", "value.weight"].iter().any(|name| parameter.name.ends_with(name));
            assert_eq!(same, !is_target, "{}", parameter.name);
        }
    }

    #[test]
    fn gradients_are_computed_of_targets_and_head_alone() {
        let rt = Runtime::new(Isa::detect(), 1).unwrap();
        let (model, adapters) = adapted(&rt, "bert", &[LoraTarget::Lin1]);
        let (_, gradients) = step(&rt, &model, &adapters);
        for parameter in model.parameters.table().iter().filter(|parameter| parameter.is_matrix()) {
            let wanted = ["intermediate.dense.weight", ".B"].iter().any(|name| parameter.name.ends_with(name))
                || parameter.range.start >= model.encoder_end()
                    && parameter.trainable
                    && !parameter.name.ends_with(".A");
            let found = gradients[parameter.range.clone()].iter().any(|&gradient| gradient != 0.0);
            assert_eq!(found, wanted, "{}", parameter.name);
        }
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let error = |config: LoraConfig, frozen: usize| {
            let mut model = model("bert");
            model.freeze_layers(frozen);
            Adapters::new(&config, &mut model, 1).err().unwrap().to_string()
        };
        let usual = LoraConfig::default();
        assert_eq!(
            error(LoraConfig { rank: 13, ..usual.clone() }, 0),
            "lora.rank: expected 1 to the model's width 12, found 13"
        );
        let alpha = LoraConfig { alpha: Some(0.0), ..usual.clone() };
        assert_eq!(error(alpha, 0), "lora.alpha: expected above 0, found 0");
        let none = LoraConfig { targets: Vec::new(), ..usual.clone() };
        assert_eq!(error(none, 0), "lora.targets: expected at least one matrix, found none");
        assert_eq!(error(usual, 3), "lora: expected a layer that is not frozen, found 3 frozen layers, which are all");
    }
}
