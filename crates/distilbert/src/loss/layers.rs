//! Losses between the layers of a student and of a teacher: which terms there are, at which layers they look, and what
//! they say of two layers' states, or of their queries, keys and values.

use super::vocabulary::Positions;
use super::{Mean, mean_scale};
use distilbert_kernels::Runtime;
use distilbert_kernels::attention::{AttentionShape, Related, Relation, ScoreLoss, relation_loss};
use distilbert_kernels::losses::mse;
use distilbert_kernels::pool::{normalize_rows, normalize_rows_backward};

/// A term of the loss that compares layers. Its value is the sum over its pairs of layers.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LayerTerm {
    /// What of the layers is compared.
    pub compare: Compare,
    /// Weight of the sum over the pairs.
    #[serde(default = "one")]
    pub weight: f64,
    /// Which layer of the student is compared with which of the teacher; [`Compare::usual_layers`] if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<LayerMap>,
    /// Whose states [`Compare::Patient`] looks at; the first tokens' if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<PatientTokens>,
    /// Heads that [`Compare::Queries`], [`Compare::Keys`] and [`Compare::Values`] cut the width into; 0 for the models'
    /// own, [`usual_heads`] if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
}

fn one() -> f64 {
    1.0
}

impl LayerTerm {
    /// A term of weight 1 with everything else as usual.
    pub fn new(compare: Compare) -> LayerTerm {
        LayerTerm { compare, weight: one(), layers: None, tokens: None, heads: None }
    }
}

/// What two layers are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compare {
    /// Squared error of the states, mean over tokens and width. Where the widths differ the student's states go through a
    /// learned linear first, one for all layers of the term.
    Hidden,
    /// `‖h/‖h‖ − g/‖g‖‖²` of states h and g, mean over the first tokens, or over all.
    Patient,
    /// Squared error of the scores `q·k/sqrt(head width)` before the softmax, mean over heads and pairs of tokens.
    AttentionScores,
    /// Divergence of the distributions of attention, mean over heads and tokens.
    Attention,
    /// Divergence of `softmax(q·q'/sqrt(head width))` over the tokens q' of the sequence, mean over heads and tokens.
    Queries,
    /// The same of keys.
    Keys,
    /// The same of values.
    Values,
}

impl Compare {
    /// Its name among the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Compare::Hidden => "hidden",
            Compare::Patient => "patient",
            Compare::AttentionScores => "attention_scores",
            Compare::Attention => "attention",
            Compare::Queries => "queries",
            Compare::Keys => "keys",
            Compare::Values => "values",
        }
    }

    /// What is related to what, and how it is compared; `None` of states.
    pub fn relation(self) -> Option<(Relation, ScoreLoss)> {
        match self {
            Compare::Hidden | Compare::Patient => None,
            Compare::AttentionScores => Some((Relation::Attention, ScoreLoss::SquaredError)),
            Compare::Attention => Some((Relation::Attention, ScoreLoss::Divergence)),
            Compare::Queries => Some((Relation::Queries, ScoreLoss::Divergence)),
            Compare::Keys => Some((Relation::Keys, ScoreLoss::Divergence)),
            Compare::Values => Some((Relation::Values, ScoreLoss::Divergence)),
        }
    }

    /// The first layer that it can look at: 0 is what comes out of the embeddings, which have no attention.
    pub fn first_layer(self) -> usize {
        usize::from(self.relation().is_some())
    }

    /// The layers that are compared unless others are named.
    pub fn usual_layers(self) -> NamedLayers {
        match self {
            Compare::Hidden | Compare::AttentionScores => NamedLayers::Even,
            Compare::Patient => NamedLayers::EvenButLast,
            Compare::Attention | Compare::Queries | Compare::Keys | Compare::Values => NamedLayers::Last,
        }
    }
}

/// Whose states are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PatientTokens {
    /// The first token of each sequence, as published.
    #[default]
    First,
    /// Every token.
    All,
}

/// Pairs of layers, counted from 1; 0 is what comes out of the embeddings.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(
    untagged,
    expecting = "expected `embeddings`, `even`, `even-but-last`, `top-but-last`, `last` or pairs such as [[1, 4], [2, 8]]: \
                 a layer of the student and one of the teacher"
)]
pub enum LayerMap {
    /// By a rule.
    Named(NamedLayers),
    /// A layer of the student and one of the teacher, each.
    Pairs(Vec<[usize; 2]>),
}

/// Rules for pairs of layers, of a student of M layers and a teacher of L.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamedLayers {
    /// What comes out of the embeddings.
    Embeddings,
    /// Layer m and layer m·L/M, halves rounded up, for every layer of the student.
    Even,
    /// The same without the last; PKD's "skip".
    EvenButLast,
    /// Layer m and layer L − M + m, without the last; PKD's "last".
    TopButLast,
    /// The last of each.
    Last,
}

impl LayerMap {
    /// The pairs (student's, teacher's) for these numbers of layers. Named by a rule they are layers that exist, unless the
    /// student is deeper than the teacher.
    pub fn pairs(&self, student_layers: usize, teacher_layers: usize) -> Vec<[usize; 2]> {
        let (m, l) = (student_layers, teacher_layers);
        let even = |layer: usize| [layer, ((2 * layer * l + m) / (2 * m)).max(1)];
        match self {
            LayerMap::Pairs(pairs) => pairs.clone(),
            LayerMap::Named(NamedLayers::Embeddings) => vec![[0, 0]],
            LayerMap::Named(NamedLayers::Even) => (1..=m).map(even).collect(),
            LayerMap::Named(NamedLayers::EvenButLast) => (1..m).map(even).collect(),
            LayerMap::Named(NamedLayers::TopButLast) => {
                (1..m).map(|layer| [layer, (l + layer).saturating_sub(m)]).collect()
            }
            LayerMap::Named(NamedLayers::Last) => vec![[m, l]],
        }
    }
}

/// `Σ (student − teacher)²` of states, mean over their numbers, of which the whole step has `numbers`; `student` becomes
/// its gradient.
///
/// # Shapes
/// `student`, `teacher`: `[tokens, width]`
/// # Source
/// Jiao et al. 2019 (arXiv:1909.10351), equations 8 and 9.
pub fn hidden(rt: &Runtime, student: &mut [f32], teacher: &[f32], weight: f64, numbers: u64) -> Mean {
    let count = student.len() as u64;
    Mean { sum: mse(rt, student, teacher, mean_scale(weight, numbers)), count }
}

/// `Σ ‖s/‖s‖ − t/‖t‖‖²` over rows, mean over the `rows` of the whole step; `student` becomes its gradient, `teacher` is
/// used up.
///
/// # Shapes
/// `student`, `teacher`: `[rows, width]`
/// # Source
/// Sun et al. 2019 (arXiv:1908.09355), equation 7.
pub fn patient(rt: &Runtime, student: &mut [f32], teacher: &mut [f32], width: usize, weight: f64, rows: u64) -> Mean {
    let count = student.len() / width;
    let (mut lengths, mut unused) = (vec![0.0; count], vec![0.0; count]);
    normalize_rows(rt, student, width, &mut lengths);
    normalize_rows(rt, teacher, width, &mut unused);
    let normalized = student.to_vec();
    let sum = mse(rt, student, teacher, mean_scale(weight, rows));
    normalize_rows_backward(rt, &normalized, &lengths, width, student);
    Mean { sum, count: count as u64 }
}

/// The loss of a relation between tokens, mean over heads and tokens, or over heads and pairs of tokens, of which the
/// whole step has `step`; adds its gradient to `d_qkv`, if there is one.
///
/// # Shapes
/// `d_qkv`: as `student.qkv`; `cu_seqlens`: `[batch + 1]`
/// # Source
/// Jiao et al. 2019 (arXiv:1909.10351), equation 7; Wang et al. 2020 (arXiv:2002.10957), equations 4 to 8; Wang et al. 2020
/// (arXiv:2012.15828), equations 3 to 5.
#[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
pub fn relation(
    rt: &Runtime,
    (relation, loss): (Relation, ScoreLoss),
    student: Related<'_>,
    teacher: Related<'_>,
    cu_seqlens: &[u32],
    weight: f64,
    step: Positions,
    d_qkv: Option<&mut [f32]>,
) -> Mean {
    let heads = student.shape.heads as u64;
    let lengths = cu_seqlens.windows(2).map(|ends| u64::from(ends[1] - ends[0]));
    let (count, of_step) = match loss {
        ScoreLoss::Divergence => (lengths.sum::<u64>(), step.tokens),
        ScoreLoss::SquaredError => (lengths.map(|length| length * length).sum(), step.pairs),
    };
    let scale = mean_scale(weight, heads * of_step);
    let sum = relation_loss(rt, relation, loss, student, teacher, cu_seqlens, scale, d_qkv);
    Mean { sum, count: heads * count }
}

/// The relation heads of two widths unless another number is asked for: the most up to 48, the published number for widths
/// of 768 and 384, that cut both and leave 8 numbers to a head.
pub fn usual_heads(student_width: usize, teacher_width: usize) -> usize {
    let fits = |heads: &usize| {
        [student_width, teacher_width].iter().all(|width| width.is_multiple_of(*heads) && width / heads >= 8)
    };
    (1..=48).rev().find(fits).unwrap_or(1)
}

/// `width` cut into heads.
pub fn cut_into(heads: usize, width: usize) -> AttentionShape {
    AttentionShape { heads, head_dim: width / heads }
}

#[cfg(test)]
mod tests {
    use super::*;
    use distilbert_kernels::Isa;

    #[test]
    fn rules_give_the_published_pairs() {
        let pairs = |named, student, teacher| LayerMap::Named(named).pairs(student, teacher);
        assert_eq!(pairs(NamedLayers::Even, 4, 12), [[1, 3], [2, 6], [3, 9], [4, 12]]);
        assert_eq!(pairs(NamedLayers::EvenButLast, 6, 12), [[1, 2], [2, 4], [3, 6], [4, 8], [5, 10]]);
        assert_eq!(pairs(NamedLayers::TopButLast, 6, 12), [[1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]);
        assert_eq!(pairs(NamedLayers::Even, 4, 6), [[1, 2], [2, 3], [3, 5], [4, 6]]);
        assert_eq!(pairs(NamedLayers::Even, 3, 1), [[1, 1], [2, 1], [3, 1]]);
        assert_eq!(pairs(NamedLayers::Last, 6, 12), [[6, 12]]);
        assert_eq!(pairs(NamedLayers::Embeddings, 6, 12), [[0, 0]]);
        assert!(pairs(NamedLayers::EvenButLast, 1, 12).is_empty());
    }

    #[test]
    fn relation_heads_are_the_published_number_where_they_cut_both_widths() {
        for (student, teacher, heads) in
            [(768, 768, 48), (384, 768, 48), (384, 1024, 32), (312, 768, 24), (128, 768, 16), (7, 21, 1), (32, 32, 4)]
        {
            assert_eq!(usual_heads(student, teacher), heads, "{student} {teacher}");
        }
    }

    #[test]
    fn a_map_is_read_from_a_name_or_from_pairs() {
        let read = |text: &str| {
            let term: Result<LayerTerm, _> = toml::from_str(&format!("compare = \"hidden\"\nlayers = {text}"));
            term.map(|term| term.layers.expect("layers")).map_err(|error| error.to_string())
        };
        assert_eq!(read("\"even-but-last\"").unwrap(), LayerMap::Named(NamedLayers::EvenButLast));
        assert_eq!(read("[[0, 0], [2, 4]]").unwrap(), LayerMap::Pairs(vec![[0, 0], [2, 4]]));
        assert!(read("\"odd\"").unwrap_err().contains("expected `embeddings`, `even`"));
    }

    /// Each gradient by central differences of the function's own f64 sum.
    #[test]
    fn gradients_equal_finite_differences() {
        let rt = Runtime::new(Isa::Portable, 1).unwrap();
        let (width, weight) = (5, 0.75);
        let numbers = |seed: f32| (0..15).map(|i| (i as f32 * 1.7 + seed).sin() * 2.0).collect::<Vec<f32>>();
        let (student, teacher) = (numbers(0.3), numbers(1.1));
        type Loss = fn(&Runtime, &mut [f32], &[f32], usize, f64) -> Mean;
        let losses: [(&str, Loss); 2] = [
            ("hidden", |rt, x, t, _, weight| hidden(rt, x, t, weight, 30)),
            ("patient", |rt, x, t, width, weight| patient(rt, x, &mut t.to_vec(), width, weight, 6)),
        ];
        for (name, loss) in losses {
            let mut gradient = student.clone();
            let mean = loss(&rt, &mut gradient, &teacher, width, weight);
            let count = if name == "hidden" { 30.0 } else { 6.0 };
            assert_eq!(mean.count * 2, count as u64, "{name}: half a step");
            for at in 0..student.len() {
                let value = |step: f32| {
                    let mut moved = student.clone();
                    moved[at] += step;
                    weight * loss(&rt, &mut moved, &teacher, width, weight).sum / count
                };
                let slope = (value(1e-2) - value(-1e-2)) / 2e-2;
                assert!((slope - f64::from(gradient[at])).abs() < 1e-4, "{name} {at}: {slope} {}", gradient[at]);
            }
        }
    }

    #[test]
    fn equal_directions_have_no_patient_loss() {
        let rt = Runtime::new(Isa::Portable, 1).unwrap();
        let teacher = [1.0, -2.0, 3.0, 0.5, 0.25, -1.0];
        let mut student = teacher.map(|x| x * 4.0);
        let mean = patient(&rt, &mut student, &mut teacher.to_vec(), 3, 1.0, 2);
        assert!(mean.sum < 1e-12, "{mean:?}");
    }
}
