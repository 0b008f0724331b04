//! One micro-batch through student and teachers, to losses and gradients.

use super::MaskedBatch;
use crate::data::masking::IGNORED;
use crate::heads::Head;
use crate::heads::masked_lm::{LOGIT_CHUNK_ROWS, MaskedLm, MaskedLmActivations};
use crate::loss::vocabulary::{
    self, DistilWeights, KlPositions, LogitTargets, Positions, SoftTargets, VocabularyLosses,
};
use crate::model::encoder::{Activations, Scratch};
use crate::model::{DropoutKey, Mode, Model};
use crate::train::layer_terms::{LayerBuffers, LayerLosses, LayerTerms, Portion};
use crate::train::teacher_answers::{AnswerBuffers, Answers};
use distilbert_kernels::Runtime;
use distilbert_kernels::elementwise::{add_assign, gather_rows, scatter_add_rows};

/// Memory that passes from step to step.
#[derive(Default)]
pub(super) struct Buffers {
    student: Activations,
    pub(super) teachers: Vec<TeacherBuffers>,
    student_head: MaskedLmActivations,
    pub(super) answers: AnswerBuffers,
    layers: LayerBuffers,
    student_rows: Vec<f32>,
    student_logits: Vec<f32>,
    logits: LogitBuffers,
    d_output: Vec<f32>,
    d_rows: Vec<f32>,
    d_hidden: Vec<f32>,
    scratch: Scratch,
}

/// Rows of logits beside the student's own, which become their gradient.
#[derive(Default)]
pub(super) struct LogitBuffers {
    teacher: Vec<f32>,
    /// Of several teachers: the student's logits again, and the gradients of all teachers but the first.
    again: Vec<f32>,
    d_others: Vec<f32>,
}

/// The same of one teacher.
#[derive(Default)]
pub(super) struct TeacherBuffers {
    pub(super) activations: Activations,
    rows: Vec<f32>,
    head: MaskedLmActivations,
}

/// What the terms come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LanguageLosses {
    /// Those at the ends of the models.
    pub vocabulary: VocabularyLosses,
    /// Those between layers.
    pub layers: LayerLosses,
}

impl LanguageLosses {
    /// Adds another micro-batch's.
    pub fn add(&mut self, other: LanguageLosses) {
        self.vocabulary.add(other.vocabulary);
        self.layers.add(other.layers);
    }

    /// The weighted sum of the means that exist.
    pub fn total(&self, weights: &DistilWeights, layer_terms: &LayerTerms) -> f64 {
        self.vocabulary.total(weights) + layer_terms.total(&self.layers)
    }
}

pub(super) fn name_parts(
    LanguageLosses { vocabulary: losses, layers }: &LanguageLosses,
    weights: &DistilWeights,
    layer_terms: &LayerTerms,
    parts: &mut Vec<(&'static str, f64)>,
) {
    let terms = [
        ("kl", weights.kl, losses.kl),
        ("mlm", weights.mlm, losses.mlm),
        ("cosine", weights.cosine, losses.cosine),
        ("mse", weights.mse, losses.mse),
    ];
    parts.extend(
        terms.iter().filter(|(_, weight, _)| *weight != 0.0).filter_map(|(name, _, mean)| Some((*name, mean.value()?))),
    );
    layer_terms.name_parts(layers, parts);
}

/// One forward pass, and backward if there are gradients to add to.
pub struct Pass<'a> {
    /// The model in training.
    pub model: &'a Model,
    /// The teachers.
    pub teachers: &'a [Teacher<'a>],
    /// Positions of the soft-target terms.
    pub kl_positions: KlPositions,
    /// Terms of the loss at the ends of the models.
    pub weights: DistilWeights,
    /// Terms between layers, packed.
    pub layer_terms: &'a LayerTerms,
    /// What the batch is to its step.
    pub portion: Portion,
}

/// Where the teacher's answers come from.
#[derive(Clone, Copy)]
pub enum Teacher<'a> {
    /// The teacher itself, packed.
    Whole(&'a Model),
    /// What was kept of them.
    Abridged(&'a Answers),
}

/// What the student's logits are compared with.
struct WithTeachers<'a> {
    /// The teachers whose distributions count.
    soft: &'a [Teacher<'a>],
    buffers: &'a [TeacherBuffers],
    /// Of one teacher.
    weights: &'a DistilWeights,
    positions: Positions,
}

impl WithTeachers<'_> {
    /// Losses of some rows of the student's logits, which become their gradient; `masked` are their hidden tokens.
    fn losses(
        &self,
        rt: &Runtime,
        logits: &mut [f32],
        rows: std::ops::Range<usize>,
        masked: &[i32],
        LogitBuffers { teacher: of_teacher, again, d_others }: &mut LogitBuffers,
    ) -> VocabularyLosses {
        let vocab_size = logits.len().checked_div(rows.len()).unwrap_or(0);
        let mut losses = VocabularyLosses::default();
        let mut compare = |logits: &mut [f32], teacher: SoftTargets<'_>, masked: &[i32]| {
            let targets = LogitTargets { teacher, masked };
            losses.add(vocabulary::logits(rt, logits, &targets, vocab_size, self.weights, self.positions));
        };
        let mut teachers = self.soft.iter().zip(self.buffers);
        let first = teachers.next();
        d_others.clear();
        for (teacher, buffers) in teachers {
            logits.clone_into(again);
            d_others.resize(logits.len(), 0.0);
            // The masked words count with the first teacher alone.
            let masked = vec![IGNORED; rows.len()];
            compare(again, teacher.soft_targets(rt, buffers, rows.clone(), of_teacher), &masked);
            add_assign(rt, d_others, again);
        }
        let targets = first.map(|(teacher, buffers)| teacher.soft_targets(rt, buffers, rows, of_teacher));
        compare(logits, targets.unwrap_or(SoftTargets::None), masked);
        if !d_others.is_empty() {
            add_assign(rt, logits, d_others);
        }
        losses
    }
}

impl Teacher<'_> {
    /// What it says of some of the soft targets' rows.
    fn soft_targets<'b>(
        &'b self,
        rt: &Runtime,
        buffers: &TeacherBuffers,
        rows: std::ops::Range<usize>,
        logits: &'b mut Vec<f32>,
    ) -> SoftTargets<'b> {
        match self {
            Teacher::Whole(teacher) => {
                masked_lm(teacher).logits(rt, teacher.parameters.weights(), &buffers.head, rows, logits);
                SoftTargets::Logits(logits)
            }
            Teacher::Abridged(answers) => SoftTargets::Top(answers.logits(rows)),
        }
    }
}

/// Losses, and gradients added to `gradients`, of one masked batch; for replaying a reference run.
pub fn masked_step(
    rt: &Runtime,
    pass: &Pass<'_>,
    masked: &MaskedBatch,
    key: DropoutKey<'_>,
    gradients: &mut [f32],
) -> LanguageLosses {
    pass.run(rt, masked, Some((key, gradients)), &mut Buffers::default())
}

impl Pass<'_> {
    pub(super) fn run(
        &self,
        rt: &Runtime,
        masked: &MaskedBatch,
        training: Option<(DropoutKey<'_>, &mut [f32])>,
        buffers: &mut Buffers,
    ) -> LanguageLosses {
        let MaskedBatch { batch, targets } = masked;
        let hidden = self.model.config.encoder.hidden;
        let arena = self.model.parameters.weights();
        // An encoder of which nothing is trained needs neither dropout nor a backward pass.
        let encoder_trains = self.model.encoder_is_trainable();
        let mode = match &training {
            Some((key, _)) if encoder_trains => Mode::Training(*key),
            _ => Mode::Inference,
        };
        let (key, mut gradients) = training.map_or((None, None), |(key, gradients)| (Some(key), Some(gradients)));
        let Portion { positions, share } = self.portion;
        let weights = self.weights.scaled(share);
        let head = weights.look_at_logits().then(|| masked_lm(self.model));
        let mut losses = LanguageLosses::default();
        buffers.teachers.resize_with(self.teachers.len(), TeacherBuffers::default);
        for (place, (teacher, of_teacher)) in self.teachers.iter().zip(&mut buffers.teachers).enumerate() {
            if let Teacher::Whole(teacher) = teacher {
                let (activations, layers) = (&mut of_teacher.activations, &mut buffers.layers);
                self.layer_terms.encode_teacher(rt, (place, teacher), batch, activations, layers);
            }
        }
        self.model.encode_observed(rt, batch, mode, &mut buffers.student, |index, observed| {
            if self.layer_terms.is_empty() {
                return;
            }
            let (layers, gradients) = (&mut buffers.layers, gradients.as_deref_mut());
            let (model, portion, losses) = (self.model, self.portion, &mut losses.layers);
            self.layer_terms.compare(rt, model, batch, index, observed, portion, layers, gradients, losses);
        });
        let soft = if weights.kl != 0.0 || weights.mse != 0.0 { self.teachers } else { &[] };
        let rows = match head {
            Some(_) => masked.soft_rows(if soft.is_empty() { KlPositions::Masked } else { self.kl_positions }),
            None => Vec::new(),
        };
        let row_targets: Vec<i32> = rows.iter().map(|&row| targets[row as usize]).collect();

        buffers.student_rows.resize(rows.len() * hidden, 0.0);
        gather_rows(rt, buffers.student.last_hidden_state(), hidden, &rows, &mut buffers.student_rows);
        if let Some(head) = head {
            head.forward(rt, arena, &buffers.student_rows, &mut buffers.student_head);
        }
        for (teacher, of_teacher) in soft.iter().zip(&mut buffers.teachers) {
            let Teacher::Whole(teacher) = teacher else { continue };
            let (width, states) = (teacher.config.encoder.hidden, of_teacher.activations.last_hidden_state());
            of_teacher.rows.resize(rows.len() * width, 0.0);
            gather_rows(rt, states, width, &rows, &mut of_teacher.rows);
            let arena = teacher.parameters.weights();
            masked_lm(teacher).forward(rt, arena, &of_teacher.rows, &mut of_teacher.head);
        }
        // What is learnt of several teachers is the mean of what would be learnt of each.
        let of_each = weights.of_each(self.teachers.len());

        buffers.d_output.clear();
        buffers.d_output.resize(rows.len() * head.map_or(0, |head| head.decoder.inputs), 0.0);
        if let Some(head) = head {
            for start in (0..rows.len()).step_by(LOGIT_CHUNK_ROWS) {
                let chunk = start..(start + LOGIT_CHUNK_ROWS).min(rows.len());
                head.logits(rt, arena, &buffers.student_head, chunk.clone(), &mut buffers.student_logits);
                let logits = &mut buffers.student_logits;
                let with = WithTeachers { soft, buffers: &buffers.teachers, weights: &of_each, positions };
                let masked = &row_targets[chunk.clone()];
                losses.vocabulary.add(with.losses(rt, logits, chunk.clone(), masked, &mut buffers.logits));
                if let Some(gradients) = &mut gradients {
                    let trained = self.model.embeddings_are_trainable();
                    let (activations, d_output) = (&buffers.student_head, &mut buffers.d_output);
                    head.logits_backward(rt, activations, chunk, logits, trained, d_output, gradients);
                }
            }
        }

        let len = batch.tokens() * hidden;
        buffers.d_hidden.clear();
        buffers.d_hidden.resize(len, 0.0);
        let of_states = if weights.cosine != 0.0 { self.teachers } else { &[] };
        for (teacher, of_teacher) in of_states.iter().zip(&buffers.teachers) {
            let teacher = match teacher {
                Teacher::Whole(_) => of_teacher.activations.last_hidden_state(),
                Teacher::Abridged(answers) => answers.states(),
            };
            let (student, weight) = (buffers.student.last_hidden_state(), of_each.cosine);
            debug_assert_eq!(teacher.len(), student.len());
            let d_hidden = &mut buffers.d_hidden;
            let cosine = vocabulary::cosine(rt, student, teacher, hidden, weight, positions, d_hidden);
            losses.vocabulary.cosine.add(cosine);
        }
        if let (Some(gradients), Some(_)) = (gradients, key) {
            buffers.d_rows.resize(buffers.student_rows.len(), 0.0);
            let states = &buffers.student_rows;
            if let Some(head) = head {
                let (activations, d_output) = (&buffers.student_head, &buffers.d_output);
                head.backward(rt, arena, states, activations, d_output, &mut buffers.d_rows, gradients);
            }
            if encoder_trains {
                scatter_add_rows(rt, &buffers.d_rows, hidden, &rows, &mut buffers.d_hidden);
                let d_hidden = &mut buffers.d_hidden;
                buffers.layers.inner.alone = !weights.look_at_the_end();
                self.model.encode_backward_with(
                    rt,
                    batch,
                    mode,
                    &mut buffers.student,
                    &buffers.layers.inner,
                    d_hidden,
                    &mut buffers.scratch,
                    gradients,
                );
            }
        }
        losses
    }
}

pub(super) fn masked_lm(model: &Model) -> &MaskedLm {
    match &model.head {
        Head::MaskedLm(head) => head,
        _ => unreachable!("where a term looks at logits, LanguageTraining::new and verify want masked-LM heads"),
    }
}
