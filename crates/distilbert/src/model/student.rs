//! A student's first weights, taken from its teacher.

use super::config::{EncoderConfig, Family, HeadKind, ModelConfig};
use super::{Model, names::Names};
use distilbert_kernels::Precision;

/// Why a teacher cannot give a student its weights.
#[derive(Debug, thiserror::Error)]
pub enum StudentError {
    /// No layers to start from.
    #[error("student layers: expected at least one of the teacher's, found none")]
    NoLayers,
    /// A layer that the teacher lacks.
    #[error("student layers: expected the teacher's layers 0 to {last}, found {layer}")]
    Layer {
        /// The teacher's last layer.
        last: usize,
        /// The one asked for.
        layer: usize,
    },
    /// A layer that is asked for more than once: copies of one layer are no shallower model of the teacher.
    #[error("student layers: expected each of the teacher's layers once at most, found {layer} more than once")]
    Repeated {
        /// The layer.
        layer: usize,
    },
    /// Layers that share their weights in several groups have no fewer layers of the same kind.
    #[error(
        "student layers: the teacher's {layers} layers share {groups} sets of weights, from which no student of fewer layers can be made; expected a teacher with one set, or one for each layer"
    )]
    Groups {
        /// Layers of the teacher.
        layers: usize,
        /// Those that have weights of their own.
        groups: usize,
    },
    /// A head that answers a task is not a student's to inherit.
    #[error("teacher: expected a model with a masked-LM or embedding head, or without one, found {found}")]
    Head {
        /// Class suffix of the teacher.
        found: &'static str,
    },
}

/// What becomes of the segment embedding, which DistilBERT does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenTypes {
    /// Adds the row of segment 0 to every position, so that the student's embeddings equal the teacher's.
    Fold,
    /// Leaves it out, as the published recipe does.
    Drop,
    /// Keeps it, and with it the teacher's family: the student of a BERT is a BERT.
    Keep,
}

/// Which teacher layers a student of `layers` layers starts from: evenly spread with both ends kept, halves rounded
/// up. 12 to 6 gives 0, 2, 4, 7, 9, 11, the published list. One layer takes the first.
pub fn uniform_with_ends(teacher_layers: usize, layers: usize) -> Vec<usize> {
    let gaps = layers.saturating_sub(1).max(1);
    // round(i (L-1) / (k-1)) with halves up, in integers.
    (0..layers).map(|i| (2 * i * (teacher_layers.saturating_sub(1)) + gaps) / (2 * gaps)).collect()
}

/// The configuration of a student of the teacher's width with `layers` layers: a DistilBERT of a BERT or DistilBERT, of
/// any other teacher, or to keep its token types, one of its own family. Of a teacher whose layers share their weights the
/// student's do too.
pub fn student_config(teacher: &ModelConfig, layers: usize, token_types: TokenTypes) -> ModelConfig {
    let fewer = EncoderConfig {
        layers,
        layer_groups: if teacher.encoder.shares_layers() { teacher.encoder.layer_groups } else { layers },
        ..teacher.encoder.clone()
    };
    if token_types == TokenTypes::Keep || !matches!(teacher.encoder.family, Family::Bert | Family::DistilBert) {
        return ModelConfig { encoder: fewer, pooler: false, ..teacher.clone() };
    }
    let defaults = EncoderConfig::defaults(Family::DistilBert);
    let encoder = EncoderConfig {
        family: Family::DistilBert,
        token_types: defaults.token_types,
        layer_norm_eps: defaults.layer_norm_eps,
        attention_output_dropout: defaults.attention_output_dropout,
        sinusoidal_positions: false,
        ..fewer
    };
    ModelConfig {
        classifier_dropout: Family::DistilBert.default_classifier_dropout(encoder.dropout),
        encoder,
        head: teacher.head.clone(),
        pooler: false,
        answering_dropout: 0.1,
        weights: Precision::F32,
        other: Default::default(),
    }
}

/// A student whose layers are copies of the teacher's `layers`, with its embeddings and its masked-LM or embedding head, if
/// it has one.
/// Where all layers share one set of weights, only the number of them counts.
///
/// # Errors
/// [`StudentError`] if the list is empty, names a layer twice or one that the teacher lacks, the teacher has another head, or
/// its layers share several sets of weights.
/// # Source
/// Sanh et al. 2019, section 3; section 2 of the recipe's extraction script for the mapping of names.
pub fn from_teacher(teacher: &Model, layers: &[usize], token_types: TokenTypes) -> Result<Model, StudentError> {
    let (teacher_layers, groups) = (teacher.encoder.depth(), teacher.encoder.layers.len());
    if layers.is_empty() {
        return Err(StudentError::NoLayers);
    }
    for (index, &layer) in layers.iter().enumerate() {
        if layer >= teacher_layers {
            return Err(StudentError::Layer { last: teacher_layers.saturating_sub(1), layer });
        }
        if layers[..index].contains(&layer) {
            return Err(StudentError::Repeated { layer });
        }
    }
    if teacher.config.encoder.shares_layers() && groups > 1 {
        return Err(StudentError::Groups { layers: teacher_layers, groups });
    }
    if !matches!(teacher.config.head, HeadKind::MaskedLm | HeadKind::Embedding(_) | HeadKind::None) {
        return Err(StudentError::Head { found: teacher.config.head.class_suffix() });
    }
    let mut student = Model::zeroed(student_config(&teacher.config, layers.len(), token_types));
    let sources: Vec<usize> = if teacher.config.encoder.shares_layers() { vec![0] } else { layers.to_vec() };
    let renames = renames(&teacher.config, &student.config, &sources);
    let weights = student.parameters.weights_mut();
    for parameter in weights.table {
        let (stem, kind) = parameter.name.rsplit_once('.').unwrap_or((&parameter.name, ""));
        let source = renames.iter().find(|(_, to)| to == stem).map_or(stem, |(from, _)| from);
        let source = teacher
            .parameters
            .get(&format!("{source}.{kind}"))
            .expect("every part of a student is a part of its teacher, of the same width");
        weights.values[parameter.range.clone()].copy_from_slice(teacher.parameters.tensor(source));
    }
    if let (TokenTypes::Fold, Some(segment), None) =
        (token_types, &teacher.embeddings.token_type, &student.embeddings.token_type)
    {
        let width = teacher.config.encoder.embedding_size;
        let segment_0 = &teacher.parameters.weights()[segment.start..segment.start + width];
        for position in weights.values[student.embeddings.position.clone()].chunks_exact_mut(width) {
            position.iter_mut().zip(segment_0).for_each(|(position, segment)| *position += segment);
        }
    }
    Ok(student)
}

/// Pairs of (teacher's, student's) names without `.weight` and `.bias`.
fn renames(teacher: &ModelConfig, student: &ModelConfig, layers: &[usize]) -> Vec<(String, String)> {
    let (from, to) = (Names::of(teacher), Names::of(student));
    let mut pairs = Vec::new();
    for part in ["word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm"] {
        pairs.push((format!("{}{part}", from.embeddings), format!("{}{part}", to.embeddings)));
    }
    pairs.push((from.embedding_projection(), to.embedding_projection()));
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
    if teacher.head != HeadKind::MaskedLm {
        // The linears of an embedding head have one name in all families.
        return pairs;
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

    fn teacher(family: &str, class: &str, more: &str) -> Model {
        let config = format!(
            r#"{{"model_type":"{family}","architectures":["{class}ForMaskedLM"],"vocab_size":50,"hidden_size":12,
            "num_hidden_layers":4,"num_attention_heads":3,"intermediate_size":20,"max_position_embeddings":16,
            "embedding_size":7{more}}}"#
        );
        Model::random(ModelConfig::from_json(&config).unwrap(), 5)
    }

    #[test]
    fn a_student_of_another_family_than_bert_is_of_its_teachers_and_has_its_weights() {
        for (family, class) in [("roberta", "Roberta"), ("xlm-roberta", "XLMRoberta"), ("electra", "Electra")] {
            let teacher = teacher(family, class, "");
            let student = from_teacher(&teacher, &[1, 3], TokenTypes::Fold).unwrap();
            assert_eq!(student.config.encoder.family.model_type(), family);
            assert_eq!((student.config.encoder.layers, student.encoder.depth()), (2, 2));
            for parameter in student.parameters.table() {
                let name = parameter.name.replace(".layer.1.", ".layer.3.").replace(".layer.0.", ".layer.1.");
                let source = teacher.parameters.get(&name).unwrap();
                assert_eq!(student.parameters.tensor(parameter), teacher.parameters.tensor(source), "{name}");
            }
        }
    }

    #[test]
    fn a_bert_becomes_a_distilbert_unless_its_token_types_are_kept() {
        let teacher = teacher("bert", "Bert", "");
        let of = |token_types| from_teacher(&teacher, &[0, 3], token_types).unwrap();
        let (fold, keep) = (of(TokenTypes::Fold), of(TokenTypes::Keep));
        assert_eq!((fold.config.encoder.family, fold.config.encoder.token_types), (Family::DistilBert, 0));
        assert_eq!((keep.config.encoder.family, keep.config.encoder.token_types), (Family::Bert, 2));
        // Every part that both have, under the names of the teacher.
        for parameter in keep.parameters.table() {
            let source = teacher.parameters.get(&parameter.name.replace(".layer.1.", ".layer.3.")).unwrap();
            assert_eq!(keep.parameters.tensor(parameter), teacher.parameters.tensor(source), "{}", parameter.name);
        }
        assert!(ModelConfig::from_json(&keep.config.to_json()).unwrap() == keep.config);
    }

    #[test]
    fn a_student_of_layers_that_share_their_weights_runs_them_less_often() {
        let albert = teacher("albert", "Albert", "");
        let student = from_teacher(&albert, &[0, 3], TokenTypes::Fold).unwrap();
        assert_eq!((albert.encoder.depth(), student.encoder.depth(), student.encoder.layers.len()), (4, 2, 1));
        assert_eq!(student.parameters.weights(), albert.parameters.weights());
        let grouped = teacher("albert", "Albert", r#","num_hidden_groups":2"#);
        let message = from_teacher(&grouped, &[0, 3], TokenTypes::Fold).err().unwrap().to_string();
        assert!(message.contains("the teacher's 4 layers share 2 sets of weights"), "{message}");
    }

    #[test]
    fn a_layer_that_the_teacher_lacks_or_that_comes_twice_is_named() {
        let teacher = teacher("bert", "Bert", "");
        let message = |layers: &[usize]| from_teacher(&teacher, layers, TokenTypes::Fold).err().unwrap().to_string();
        assert_eq!(message(&[0, 7]), "student layers: expected the teacher's layers 0 to 3, found 7");
        let twice = "student layers: expected each of the teacher's layers once at most, found 2 more than once";
        assert_eq!(message(&[0, 2, 3, 2]), twice);
        assert_eq!(message(&[]), "student layers: expected at least one of the teacher's, found none");
    }

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
