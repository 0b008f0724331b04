//! A student's first weights, taken from its teacher.

use super::config::{EncoderConfig, Family, HeadKind, ModelConfig};
use super::{Model, names::Names};
use distilbert_kernels::Precision;

/// Why a teacher cannot give a student its weights.
#[derive(Debug, thiserror::Error)]
pub enum StudentError {
    /// A list of layers that names one the teacher lacks, or none.
    #[error("student layers: expected 1 to {teacher_layers} of the teacher's layers 0 to {last}, found {found:?}", last = teacher_layers - 1)]
    Layers {
        /// Layers of the teacher.
        teacher_layers: usize,
        /// The list.
        found: Vec<usize>,
    },
    /// Distillation compares the vocabulary's distributions, so the teacher must have a masked-LM head.
    #[error("teacher: expected a model with a masked-LM head, found {found}")]
    NoMaskedLmHead {
        /// Class suffix of the teacher.
        found: &'static str,
    },
}

/// How the student's embeddings account for the segment embedding that DistilBERT does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenTypes {
    /// Adds the row of segment 0 to every position, so that the student's embeddings equal the teacher's.
    Fold,
    /// Leaves it out, as the published recipe does.
    Drop,
}

/// Which teacher layers a student of `layers` layers starts from: evenly spread with both ends kept, halves rounded
/// up. 12 to 6 gives 0, 2, 4, 7, 9, 11, the published list. One layer takes the first.
pub fn uniform_with_ends(teacher_layers: usize, layers: usize) -> Vec<usize> {
    let gaps = layers.saturating_sub(1).max(1);
    // round(i (L-1) / (k-1)) with halves up, in integers.
    (0..layers).map(|i| (2 * i * (teacher_layers.saturating_sub(1)) + gaps) / (2 * gaps)).collect()
}

/// The configuration of a DistilBERT student of the teacher's width with `layers` layers.
pub fn student_config(teacher: &ModelConfig, layers: usize) -> ModelConfig {
    let encoder = EncoderConfig {
        family: Family::DistilBert,
        layers,
        token_types: 0,
        layer_norm_eps: super::config::LAYER_NORM_EPS,
        attention_output_dropout: false,
        sinusoidal_positions: false,
        ..teacher.encoder.clone()
    };
    // 0.2: DistilBERT's own default in front of its classifier.
    ModelConfig {
        encoder,
        head: teacher.head.clone(),
        pooler: false,
        classifier_dropout: 0.2,
        answering_dropout: 0.1,
        weights: Precision::F32,
        other: Default::default(),
    }
}

/// A student whose layers are copies of the teacher's `layers`, with its embeddings and masked-LM head.
///
/// # Errors
/// [`StudentError`] if the list is empty or names a layer the teacher lacks, or the teacher has no masked-LM head.
/// # Source
/// Sanh et al. 2019, section 3; section 2 of the recipe's extraction script for the mapping of names.
pub fn from_teacher(teacher: &Model, layers: &[usize], token_types: TokenTypes) -> Result<Model, StudentError> {
    let teacher_layers = teacher.encoder.layers.len();
    if layers.is_empty() || layers.iter().any(|&layer| layer >= teacher_layers) {
        return Err(StudentError::Layers { teacher_layers, found: layers.to_vec() });
    }
    if teacher.config.head != HeadKind::MaskedLm {
        return Err(StudentError::NoMaskedLmHead { found: teacher.config.head.class_suffix() });
    }
    let mut student = Model::zeroed(student_config(&teacher.config, layers.len()));
    let renames = renames(&teacher.config, &student.config, layers);
    let weights = student.parameters.weights_mut();
    for parameter in weights.table {
        let (stem, kind) = parameter.name.rsplit_once('.').unwrap_or((&parameter.name, ""));
        let source = renames.iter().find(|(_, to)| to == stem).map_or(stem, |(from, _)| from);
        let source = teacher
            .parameters
            .get(&format!("{source}.{kind}"))
            .expect("every part of a DistilBERT is a part of a BERT or DistilBERT teacher of the same width");
        weights.values[parameter.range.clone()].copy_from_slice(teacher.parameters.tensor(source));
    }
    if let (TokenTypes::Fold, Some(segment)) = (token_types, &teacher.embeddings.token_type) {
        let hidden = teacher.config.encoder.hidden;
        let segment_0 = &teacher.parameters.weights()[segment.start..segment.start + hidden];
        for position in weights.values[student.embeddings.position.clone()].chunks_exact_mut(hidden) {
            position.iter_mut().zip(segment_0).for_each(|(position, segment)| *position += segment);
        }
    }
    Ok(student)
}

/// Pairs of (teacher's, student's) names without `.weight` and `.bias`.
fn renames(teacher: &ModelConfig, student: &ModelConfig, layers: &[usize]) -> Vec<(String, String)> {
    let (from, to) = (Names::of(teacher), Names::of(student));
    let mut pairs = Vec::new();
    for part in ["word_embeddings", "position_embeddings", "LayerNorm"] {
        pairs.push((format!("{}{part}", from.embeddings), format!("{}{part}", to.embeddings)));
    }
    for (index, &layer) in layers.iter().enumerate() {
        let (from, to) = (from.layer(layer), to.layer(index));
        pairs.extend([
            (from.query, to.query),
            (from.key, to.key),
            (from.value, to.value),
            (from.attention_out, to.attention_out),
            (from.attention_norm, to.attention_norm),
            (from.lin1, to.lin1),
            (from.lin2, to.lin2),
            (from.output_norm, to.output_norm),
        ]);
    }
    let (from, to) = (teacher.encoder.family.masked_lm_names(), student.encoder.family.masked_lm_names());
    let stem = |name: &str| name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned();
    pairs.push((from.transform.to_owned(), to.transform.to_owned()));
    pairs.push((from.norm.to_owned(), to.norm.to_owned()));
    pairs.push((stem(from.bias), stem(to.bias)));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_list_and_its_generalisation() {
        assert_eq!(uniform_with_ends(12, 6), [0, 2, 4, 7, 9, 11]);
        assert_eq!(uniform_with_ends(12, 2), [0, 11]);
        assert_eq!(uniform_with_ends(12, 3), [0, 6, 11]);
        assert_eq!(uniform_with_ends(12, 4), [0, 4, 7, 11]);
        assert_eq!(uniform_with_ends(6, 3), [0, 3, 5]);
        assert_eq!(uniform_with_ends(6, 6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(uniform_with_ends(4, 1), [0]);
    }
}
