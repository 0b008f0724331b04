//! Models for inference alone, which keep no f32 copy of what a forward pass reads in another form: linear weights exist
//! packed, embedding tables in the model's precision, and the arena holds biases and norms.

use super::embeddings::Tables;
use super::parameters::{ArenaOf, Parameter};
use super::{Head, Model, ModelConfig};
use distilbert_kernels::{Matrix, Precision, Runtime};
use std::convert::Infallible;

impl Model {
    /// A model of the same weights for inference alone, packed in `precision`. It can be run, and neither trained, packed
    /// again nor saved.
    ///
    /// # Panics
    /// If the CPU lacks the precision ([`Precision::check`]), or this model is for inference alone itself.
    pub fn for_inference(&self, rt: &Runtime, precision: Precision) -> Model {
        assert!(self.parameters.is_whole(), "a model for inference alone is packed already");
        let read = |parameter: &Parameter, precision| {
            let width = parameter.shape.last().copied().unwrap_or(1);
            let whole = self.parameters.get(&parameter.name).expect("one configuration has one table of parameters");
            Ok::<_, Infallible>(Matrix::from_f32(rt, precision, self.parameters.tensor(whole), width))
        };
        let Ok(model) = Model::inference_from(self.config.clone(), rt, precision, read);
        model
    }

    /// A model for inference alone whose weights `read` gives, a tensor at a time in the precision asked for.
    pub(crate) fn inference_from<E>(
        config: ModelConfig,
        rt: &Runtime,
        precision: Precision,
        mut read: impl FnMut(&Parameter, Precision) -> Result<Matrix, E>,
    ) -> Result<Model, E> {
        let mut model = Model::laid_out(config, ArenaOf::Vectors);
        model.precision = precision;
        let weights = model.parameters.weights_mut();
        for parameter in weights.table.iter().filter(|parameter| !parameter.is_matrix()) {
            weights.values[parameter.range.clone()].copy_from_slice(&read(parameter, Precision::F32)?.to_f32());
        }
        let table = model.parameters.table();
        let mut matrix = |index: usize| read(&table[index], table[index].kept_in(precision));

        // The embedding tables stand first in the table of parameters.
        let token_type = model.embeddings.token_type.is_some();
        let tables =
            Tables { word: matrix(0)?, position: matrix(1)?, token_type: token_type.then(|| matrix(2)).transpose()? };
        let mut linears: Vec<_> = model.embeddings.projection.iter_mut().collect();
        for layer in &mut model.encoder.layers {
            linears.extend([&mut layer.attention.qkv, &mut layer.attention.output.linear]);
            linears.extend([&mut layer.feed_forward.lin1, &mut layer.feed_forward.output.linear]);
        }
        match &mut model.head {
            // A pooler without a head is not run.
            Head::None(_) => {}
            Head::MaskedLm(head) => {
                head.decoder.pack_matrix(rt, &tables.word);
                linears.push(&mut head.transform);
            }
            Head::Classifier(head) => linears.extend([&mut head.dense, &mut head.classifier]),
            Head::Tokens(head) => linears.push(&mut head.linear),
            Head::Both(of_text, of_tokens) => {
                linears.extend([&mut of_text.dense, &mut of_text.classifier, &mut of_tokens.linear]);
            }
            Head::Embedder(head) => linears.extend(&mut head.dense),
        }
        for linear in linears {
            let mut weight = matrix(linear.tensors.start)?;
            for index in linear.tensors.clone().skip(1) {
                weight.append(matrix(index)?);
            }
            linear.pack_matrix(rt, &weight);
        }
        model.embeddings.tables = Some(tables);
        Ok(model)
    }

    /// The table of parameters of a model of this configuration, without its weights.
    pub(crate) fn table_of(config: ModelConfig) -> Model {
        Model::laid_out(config, ArenaOf::Vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::Batch;
    use crate::model::Purpose;
    use crate::verify::outputs::compute;
    use distilbert_kernels::Isa;

    fn model(architecture: &str, family: &str) -> Model {
        let config = format!(
            r#"{{"model_type":"{family}","architectures":["{architecture}"],"vocab_size":60,"hidden_size":12,"dim":12,
            "num_hidden_layers":2,"n_layers":2,"num_attention_heads":3,"n_heads":3,"intermediate_size":24,
            "hidden_dim":24,"max_position_embeddings":16,"embedding_size":7,"slot_labels":["O","B-x","I-x"]}}"#
        );
        let mut model = Model::random(ModelConfig::from_json(&config).unwrap(), 3);
        // Biases and norms that another range would not equal by chance.
        let weights = model.parameters.weights_mut();
        weights.values.iter_mut().enumerate().for_each(|(i, weight)| *weight += (i % 97) as f32 * 1e-3);
        model
    }

    #[test]
    fn a_model_of_one_segment_reads_a_pair_as_one() {
        let rt = Runtime::new(Isa::detect(), 1).unwrap();
        let (ids, segments) = ([2, 30, 3, 31, 3], [0, 0, 0, 1, 1]);
        let mut pair = Batch::new();
        pair.push(&ids, Some(&segments));
        let single = Batch::from_sequences([&ids[..]]);
        for (segments, alike) in [(1, true), (2, false)] {
            let mut config = model("RobertaModel", "roberta").config;
            config.encoder.token_types = segments;
            let model = Model::random(config, 3).for_inference(&rt, Precision::F32);
            model.check(&pair).unwrap();
            assert_eq!(compute(&rt, &model, &pair) == compute(&rt, &model, &single), alike, "{segments} segments");
        }
    }

    #[test]
    fn a_model_for_inference_gives_the_bits_of_a_whole_one_from_an_arena_of_vectors() {
        let batch = Batch::from_sequences([&[2, 30, 31, 3][..], &[2, 59, 3]]);
        for isa in Isa::available() {
            let rt = Runtime::new(isa, 2).unwrap();
            for (architecture, family) in [
                ("BertForMaskedLM", "bert"),
                ("BertModel", "bert"),
                ("BertForSequenceClassification", "bert"),
                ("DistilBertModel", "distilbert"),
                ("DistilBertForMaskedLM", "distilbert"),
                ("DistilBertForSequenceClassification", "distilbert"),
                ("BertForTokenClassification", "bert"),
                ("BertForIntentsAndSlots", "bert"),
                ("ElectraForIntentsAndSlots", "electra"),
                ("DistilBertForQuestionAnswering", "distilbert"),
                ("RobertaForSequenceClassification", "roberta"),
                ("XLMRobertaModel", "xlm-roberta"),
                ("ElectraForMaskedLM", "electra"),
                ("AlbertForMaskedLM", "albert"),
                ("AlbertForSequenceClassification", "albert"),
            ] {
                let mut whole = model(architecture, family);
                for precision in Precision::ALL.into_iter().filter(|precision| precision.is_available(isa)) {
                    let lean = whole.for_inference(&rt, precision);
                    whole.pack(&rt, precision, Purpose::Inference);
                    assert_eq!(compute(&rt, &lean, &batch), compute(&rt, &whole, &batch), "{architecture} {precision}");
                    assert_eq!((lean.precision(), lean.parameters.count()), (precision, whole.parameters.len()));
                    let vectors = whole.parameters.table().iter().filter(|parameter| parameter.shape.len() == 1);
                    assert_eq!(lean.parameters.len(), vectors.map(Parameter::count).sum::<usize>());
                    assert!(!lean.parameters.is_whole() && lean.parameters.trainable_ranges().is_empty());
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "packed already")]
    fn a_model_for_inference_is_not_packed_again() {
        let rt = Runtime::new(Isa::Portable, 1).unwrap();
        model("BertModel", "bert").for_inference(&rt, Precision::Int8).pack(&rt, Precision::F32, Purpose::Training);
    }
}
