//! The losses of masked-LM training and distillation over the vocabulary, and over hidden states.

use super::{Mean, mean_scale};
use distilbert_kernels::Runtime;
use distilbert_kernels::losses::{LogitLoss, TopLogits, cosine_rows, logit_losses, top_logit_losses};

/// Weights of the terms, and the temperature of the soft targets.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DistilWeights {
    /// Softens both models' distributions; above 0.
    pub temperature: f64,
    /// `T² · KL(teacher ‖ student)`, mean over its positions.
    pub kl: f64,
    /// Cross-entropy of the masked tokens, mean over them.
    pub mlm: f64,
    /// 1 − cosine of the last hidden states, mean over all tokens.
    pub cosine: f64,
    /// Squared error of the logits, summed over the vocabulary, mean over the KL's positions.
    pub mse: f64,
}

/// The released DistilBERT's weights (maintainers' statement) and the published script's temperature.
impl Default for DistilWeights {
    fn default() -> Self {
        DistilWeights { temperature: 2.0, kl: 5.0, mlm: 2.0, cosine: 1.0, mse: 0.0 }
    }
}

impl DistilWeights {
    /// The terms' weights times `share`.
    pub fn scaled(&self, share: f64) -> DistilWeights {
        DistilWeights {
            temperature: self.temperature,
            kl: self.kl * share,
            mlm: self.mlm * share,
            cosine: self.cosine * share,
            mse: self.mse * share,
        }
    }

    /// The same where so many teachers share the terms that need one.
    pub fn of_each(&self, teachers: usize) -> DistilWeights {
        let part = 1.0 / teachers.max(1) as f64;
        DistilWeights { mlm: self.mlm, ..self.scaled(part) }
    }

    /// Whether any term looks at the logits of the vocabulary.
    pub fn look_at_logits(&self) -> bool {
        self.kl != 0.0 || self.mlm != 0.0 || self.mse != 0.0
    }

    /// Whether any term looks at the last hidden states or at what comes behind them.
    pub fn look_at_the_end(&self) -> bool {
        self.look_at_logits() || self.cosine != 0.0
    }
}

/// Which positions the soft-target terms look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KlPositions {
    /// Every real token, as the published recipe does.
    #[default]
    All,
    /// The masked ones only: a seventh of the work in the vocabulary head.
    Masked,
}

/// Positions of a step over all its micro-batches, by which the means divide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Real tokens.
    pub tokens: u64,
    /// Positions of the soft-target terms.
    pub soft: u64,
    /// Masked positions.
    pub masked: u64,
    /// Sequences.
    pub sequences: u64,
    /// Pairs of tokens of one sequence, a token with itself among them.
    pub pairs: u64,
}

impl Positions {
    /// Of sequences that end at `cu_seqlens`, none of whose logits count.
    pub fn of(cu_seqlens: &[u32]) -> Positions {
        let lengths = || cu_seqlens.windows(2).map(|ends| u64::from(ends[1] - ends[0]));
        Positions {
            tokens: lengths().sum(),
            sequences: lengths().count() as u64,
            pairs: lengths().map(|length| length * length).sum(),
            ..Positions::default()
        }
    }

    /// Adds another micro-batch's.
    pub fn add(&mut self, other: Positions) {
        self.tokens += other.tokens;
        self.soft += other.soft;
        self.masked += other.masked;
        self.sequences += other.sequences;
        self.pairs += other.pairs;
    }
}

/// The terms, unweighted, and two measures of agreement.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VocabularyLosses {
    /// `T² · KL`, nats.
    pub kl: Mean,
    /// Cross-entropy at the masked positions, nats.
    pub mlm: Mean,
    /// 1 − cosine.
    pub cosine: Mean,
    /// Squared error of the logits.
    pub mse: Mean,
    /// 1 where student and teacher rank the same token first.
    pub agreement: Mean,
    /// 1 where the student ranks the masked token first.
    pub mlm_accuracy: Mean,
}

impl VocabularyLosses {
    /// Adds another micro-batch's.
    pub fn add(&mut self, other: VocabularyLosses) {
        self.kl.add(other.kl);
        self.mlm.add(other.mlm);
        self.cosine.add(other.cosine);
        self.mse.add(other.mse);
        self.agreement.add(other.agreement);
        self.mlm_accuracy.add(other.mlm_accuracy);
    }

    /// The weighted sum of the means that exist.
    pub fn total(&self, weights: &DistilWeights) -> f64 {
        [(weights.kl, self.kl), (weights.mlm, self.mlm), (weights.cosine, self.cosine), (weights.mse, self.mse)]
            .into_iter()
            .filter(|&(weight, _)| weight != 0.0)
            .filter_map(|(weight, mean)| Some(weight * mean.value()?))
            .sum()
    }
}

/// What is known of a teacher's logits.
#[derive(Clone, Copy)]
pub enum SoftTargets<'a> {
    /// Nothing.
    None,
    /// All of them, `[rows, vocab]`.
    Logits(&'a [f32]),
    /// The largest of each row.
    Top(TopLogits<'a>),
}

/// What a chunk of rows is compared with.
pub struct LogitTargets<'a> {
    /// What the teacher says.
    pub teacher: SoftTargets<'a>,
    /// The hidden token of each row, [`crate::data::masking::IGNORED`] where there is none.
    pub masked: &'a [i32],
}

/// Losses of `student` `[rows, vocab]`, which becomes their gradient; `positions` are those of the whole step.
pub fn logits(
    rt: &Runtime,
    student: &mut [f32],
    targets: &LogitTargets<'_>,
    vocab_size: usize,
    weights: &DistilWeights,
    positions: Positions,
) -> VocabularyLosses {
    let loss = LogitLoss {
        temperature: weights.temperature as f32,
        kl_scale: mean_scale(weights.kl, positions.soft),
        ce_scale: mean_scale(weights.mlm, positions.masked),
        mse_scale: mean_scale(weights.mse, positions.soft),
    };
    let masked = Some(targets.masked);
    let sums = match targets.teacher {
        SoftTargets::None => logit_losses(rt, student, None, masked, None, vocab_size, &loss),
        SoftTargets::Logits(teacher) => logit_losses(rt, student, Some(teacher), masked, None, vocab_size, &loss),
        SoftTargets::Top(teacher) => top_logit_losses(rt, student, teacher, masked, vocab_size, &loss),
    };
    let soft = match targets.teacher {
        SoftTargets::None => 0,
        SoftTargets::Logits(_) | SoftTargets::Top(_) => targets.masked.len() as u64,
    };
    let masked = targets.masked.iter().filter(|&&target| target >= 0).count() as u64;
    VocabularyLosses {
        kl: Mean { sum: sums.kl, count: soft },
        mlm: Mean { sum: sums.ce, count: masked },
        mse: Mean { sum: sums.mse, count: soft },
        cosine: Mean::default(),
        agreement: Mean { sum: sums.agree as f64, count: soft },
        mlm_accuracy: Mean { sum: sums.ce_correct as f64, count: masked },
    }
}

/// `1 − cos` of the last hidden states, both `[tokens, hidden]`; the gradient is added to `d_student`.
pub fn cosine(
    rt: &Runtime,
    student: &[f32],
    teacher: &[f32],
    hidden: usize,
    weight: f64,
    positions: Positions,
    d_student: &mut [f32],
) -> Mean {
    let scale = mean_scale(weight, positions.tokens);
    Mean { sum: cosine_rows(rt, student, teacher, hidden, scale, d_student), count: (student.len() / hidden) as u64 }
}
