//! Terms of the loss between the layers of a student and of its teachers: found, checked, and computed while the models
//! run, so that of each model only the layers exist that a term looks at.

use super::TrainError;
use crate::data::batch::Batch;
use crate::loss::Mean;
use crate::loss::layers::{self, Compare, LayerMap, LayerTerm, PatientTokens, cut_into, usual_heads};
use crate::loss::vocabulary::{DistilWeights, Positions};
use crate::model::encoder::{Activations, InnerGradients, Observed};
use crate::model::linear::{Finish, Into, Linear, Packing, Purpose};
use crate::model::{Mode, Model, ModelConfig};
use distilbert_kernels::attention::{AttentionShape, Related};
use distilbert_kernels::elementwise::{add_assign, gather_rows, scatter_add_rows};
use distilbert_kernels::{Precision, Runtime};

/// The terms of one run.
#[derive(Default)]
pub struct LayerTerms {
    terms: Vec<Term>,
    teachers: usize,
}

/// A term whose layers are found, against one teacher.
struct Term {
    /// Its place in the configuration.
    index: usize,
    teacher: usize,
    compare: Compare,
    weight: f64,
    /// (student's, teacher's), counted from 1; 0 is what comes out of the embeddings.
    pairs: Vec<[usize; 2]>,
    tokens: PatientTokens,
    /// Of a relation, how each width is cut.
    heads: [AttentionShape; 2],
    /// From the student's width to the teacher's, where they differ.
    projection: Option<Linear>,
}

/// The sums of each term against each teacher over a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerLosses(Vec<Mean>);

impl LayerLosses {
    /// Adds another micro-batch's.
    pub fn add(&mut self, other: LayerLosses) {
        self.0.resize(self.0.len().max(other.0.len()), Mean::default());
        self.0.iter_mut().zip(other.0).for_each(|(sum, other)| sum.add(other));
    }
}

/// Memory that passes from step to step.
#[derive(Default)]
pub struct LayerBuffers {
    teachers: Vec<TeacherLayers>,
    /// Gradients of the student's layers.
    pub inner: InnerGradients,
    rows: Vec<f32>,
    teacher_rows: Vec<f32>,
}

/// Of a teacher's layers what a term looks at.
#[derive(Default)]
struct TeacherLayers {
    /// States after them, `[tokens, hidden]`.
    states: Vec<Vec<f32>>,
    /// Queries, keys and values, `[tokens, 3 * hidden]`.
    qkv: Vec<Vec<f32>>,
}

/// How far the terms look that are not between layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookedAt {
    /// At what the head says, in front of which everything lies.
    Head,
    /// At the last hidden states.
    LastStates,
    /// There are none.
    Layers,
}

impl LookedAt {
    /// By the terms at the ends of language models.
    pub fn by(weights: &DistilWeights) -> LookedAt {
        match weights {
            weights if weights.look_at_logits() => LookedAt::Head,
            weights if weights.look_at_the_end() => LookedAt::LastStates,
            _ => LookedAt::Layers,
        }
    }
}

/// What a micro-batch is to the step that it belongs to.
#[derive(Clone, Copy)]
pub struct Portion {
    /// Positions that the means divide by.
    pub positions: Positions,
    /// Factor of the weights.
    pub share: f64,
}

impl LayerTerms {
    /// Finds the layers of each term, and adds the linears to the student that widths call for. Terms without weight are
    /// left out. Against several teachers a term is the mean over them.
    ///
    /// # Errors
    /// [`TrainError::Config`] that names the term, if it has a value out of range, asks for a layer that one of the two
    /// does not have, or cannot compare states of their widths.
    pub fn new(
        terms: &[LayerTerm],
        student: &mut Model,
        teachers: &[&ModelConfig],
        seed: u64,
    ) -> Result<LayerTerms, TrainError> {
        let mut found = Vec::new();
        let each = terms.iter().enumerate().flat_map(|term| teachers.iter().enumerate().map(move |of| (term, of)));
        for ((index, term), (teacher, of_teacher)) in each {
            let widths = [student.config.encoder.hidden, of_teacher.encoder.hidden];
            let depths = [student.encoder.depth(), of_teacher.encoder.layers];
            let own_heads = [student.config.encoder.heads, of_teacher.encoder.heads];
            let checked = pairs(term, widths, depths).and_then(|pairs| Ok((pairs, heads(term, widths, own_heads)?)));
            let (pairs, heads) = checked.map_err(|(expected, found)| TrainError::Config {
                name: "layer-terms",
                expected: format!("{expected} in term {} (`{}`)", index + 1, term.compare.name()),
                found,
            })?;
            if term.weight == 0.0 {
                continue;
            }
            let projects = term.compare == Compare::Hidden && widths[0] != widths[1];
            let name = match teacher {
                0 => format!("projection.{index}"),
                _ => format!("projection.{index}.teacher.{teacher}"),
            };
            let projection = projects.then(|| student.add_training_linear(&name, widths[0], widths[1], seed));
            found.push(Term {
                index,
                teacher,
                compare: term.compare,
                weight: term.weight,
                pairs,
                tokens: term.tokens.unwrap_or_default(),
                heads: [cut_into(heads, widths[0]), cut_into(heads, widths[1])],
                projection,
            });
        }
        Ok(LayerTerms { terms: found, teachers: teachers.len() })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Packs the projections, which [`Model::pack`] does not know; needed after every change of weights.
    pub fn pack(&mut self, rt: &Runtime, arena: &[f32]) {
        let all = std::slice::from_ref(&(0..usize::MAX));
        let (precision, purpose) = (Precision::F32, Purpose::Training);
        let packing = Packing { rt, arena, precision, purpose, changed: all, trained: all };
        self.terms.iter_mut().filter_map(|term| term.projection.as_mut()).for_each(|linear| linear.pack(&packing));
    }

    /// What each term has come to against one teacher, as its part of the mean over all.
    fn values<'a>(&'a self, losses: &'a LayerLosses) -> impl Iterator<Item = (&'a Term, f64)> {
        let part = 1.0 / self.teachers.max(1) as f64;
        self.terms.iter().zip(&losses.0).map(move |(term, mean)| (term, part * mean.value().unwrap_or(0.0)))
    }

    /// The weighted sum of the terms.
    pub fn total(&self, losses: &LayerLosses) -> f64 {
        self.values(losses).map(|(term, value)| term.weight * value).sum()
    }

    /// The value of the term at this place in the configuration, unweighted.
    pub fn value(&self, losses: &LayerLosses, index: usize) -> f64 {
        self.values(losses).filter(|(term, _)| term.index == index).map(|(_, value)| value).sum()
    }

    /// The terms' values by name, unweighted; those of one name are added.
    pub fn name_parts(&self, losses: &LayerLosses, parts: &mut Vec<(&'static str, f64)>) {
        let first = parts.len();
        for (term, value) in self.values(losses) {
            match parts[first..].iter_mut().find(|(name, _)| *name == term.name()) {
                Some((_, sum)) => *sum += value,
                None => parts.push((term.name(), value)),
            }
        }
    }

    /// Keeps what no term reaches as it is: it has no gradient, and weight decay would shrink it.
    pub fn freeze_unreached(&self, student: &mut Model, by_others: LookedAt) {
        let of_others = match by_others {
            LookedAt::Head => return,
            LookedAt::LastStates => student.encoder_end(),
            LookedAt::Layers => 0,
        };
        let ends = self.terms.iter().flat_map(|term| {
            let end = |layer| match term.compare.relation() {
                Some(_) => student.attention_end(layer),
                None => student.layer_end(layer),
            };
            term.pairs.iter().map(|pair| end(pair[0])).max()
        });
        let end = ends.max().unwrap_or(0).max(of_others);
        let trained: Vec<_> =
            student.parameters.of_training().iter().map(|parameter| parameter.range.clone()).collect();
        student.parameters.set_trainable(|parameter| {
            parameter.trainable && (parameter.range.start < end || trained.contains(&parameter.range))
        });
    }

    /// Runs the teacher that is at this place among all, and keeps what the terms look at.
    pub fn encode_teacher(
        &self,
        rt: &Runtime,
        (place, teacher): (usize, &Model),
        batch: &Batch,
        activations: &mut Activations,
        buffers: &mut LayerBuffers,
    ) {
        if buffers.teachers.len() <= place {
            buffers.teachers.resize_with(place + 1, TeacherLayers::default);
        }
        let TeacherLayers { states, qkv } = &mut buffers.teachers[place];
        for kept in [&mut *states, &mut *qkv] {
            kept.resize_with(teacher.encoder.depth() + 1, Vec::new);
        }
        teacher.encode_observed(rt, batch, Mode::Inference, activations, |index, observed| {
            let looks = |term: &&Term| term.teacher == place && term.pairs.iter().any(|pair| pair[1] == index);
            for term in self.terms.iter().filter(looks) {
                match term.compare.relation() {
                    Some(_) => observed.qkv.clone_into(&mut qkv[index]),
                    None => observed.states.clone_into(&mut states[index]),
                }
            }
        });
    }

    /// Losses of the student's layer `index`, whose states are shown; their gradient goes to [`LayerBuffers::inner`], that
    /// of a projection is added to `gradients`.
    #[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
    pub fn compare(
        &self,
        rt: &Runtime,
        student: &Model,
        batch: &Batch,
        index: usize,
        observed: Observed<'_>,
        portion: Portion,
        buffers: &mut LayerBuffers,
        mut gradients: Option<&mut [f32]>,
        losses: &mut LayerLosses,
    ) {
        losses.0.resize(self.terms.len(), Mean::default());
        let LayerBuffers { teachers, inner, rows, teacher_rows } = buffers;
        let [d_states, d_qkv] = [&mut inner.states, &mut inner.qkv].map(|kept| {
            kept.resize_with(student.encoder.depth() + 1, Vec::new);
            kept[index].clear();
            &mut kept[index]
        });
        for (term, loss) in self.terms.iter().zip(&mut losses.0) {
            let weight = term.weight * portion.share / self.teachers as f64;
            let of_teacher = &teachers[term.teacher];
            for &[_, teacher] in term.pairs.iter().filter(|pair| pair[0] == index) {
                let of_pair = match term.compare.relation() {
                    Some(relation) => {
                        let [own, others] = term.heads;
                        let teacher = Related { shape: others, qkv: &of_teacher.qkv[teacher] };
                        let student = Related { shape: own, qkv: observed.qkv };
                        d_qkv.resize(observed.qkv.len(), 0.0);
                        let d_qkv = gradients.is_some().then_some(&mut d_qkv[..]);
                        let ends = batch.cu_seqlens();
                        layers::relation(rt, relation, student, teacher, ends, weight, portion.positions, d_qkv)
                    }
                    None => {
                        d_states.resize(observed.states.len(), 0.0);
                        let mut of_states = OfStates {
                            rt,
                            student: observed.states,
                            teacher: &of_teacher.states[teacher],
                            weight,
                            positions: portion.positions,
                            rows,
                            teacher_rows,
                            d_states,
                        };
                        match term.compare {
                            Compare::Patient => of_states.patient(term, batch),
                            _ => of_states.hidden(term, student.parameters.weights(), gradients.as_deref_mut()),
                        }
                    }
                };
                // Every pair of a term goes over the same positions: the sum of the pairs' means is one mean.
                *loss = Mean { sum: loss.sum + of_pair.sum, count: of_pair.count };
            }
        }
    }
}

/// Two layers' states that are compared, and where the gradient goes.
struct OfStates<'a> {
    rt: &'a Runtime,
    student: &'a [f32],
    teacher: &'a [f32],
    weight: f64,
    positions: Positions,
    rows: &'a mut Vec<f32>,
    teacher_rows: &'a mut Vec<f32>,
    d_states: &'a mut [f32],
}

impl OfStates<'_> {
    /// `arena` has the projection's weights, `gradients` receives theirs.
    fn hidden(&mut self, term: &Term, arena: &[f32], gradients: Option<&mut [f32]>) -> Mean {
        let OfStates { rt, student, teacher, weight, .. } = *self;
        let (rows, d_states) = (&mut *self.rows, &mut *self.d_states);
        let numbers = self.positions.tokens * term.heads[1].hidden() as u64;
        let Some(projection) = &term.projection else {
            student.clone_into(rows);
            let mean = layers::hidden(rt, rows, teacher, weight, numbers);
            add_assign(rt, d_states, rows);
            return mean;
        };
        rows.resize(teacher.len(), 0.0);
        projection.forward(rt, arena, student, rows, Finish::Bias); // [tokens, teacher's width]
        let mean = layers::hidden(rt, rows, teacher, weight, numbers);
        if let Some(gradients) = gradients {
            projection.backward_parameters(rt, student, rows, gradients);
            projection.backward_input(rt, rows, d_states, Into::Accumulate);
        }
        mean
    }

    fn patient(&mut self, term: &Term, batch: &Batch) -> Mean {
        let OfStates { rt, student, teacher, weight, positions, .. } = *self;
        let (rows, teacher_rows) = (&mut *self.rows, &mut *self.teacher_rows);
        let width = term.heads[0].hidden();
        match term.tokens {
            PatientTokens::All => {
                student.clone_into(rows);
                teacher.clone_into(teacher_rows);
                let mean = layers::patient(rt, rows, teacher_rows, width, weight, positions.tokens);
                add_assign(rt, self.d_states, rows);
                mean
            }
            PatientTokens::First => {
                let first = batch.first_tokens();
                for (states, rows) in [(student, &mut *rows), (teacher, &mut *teacher_rows)] {
                    rows.resize(first.len() * width, 0.0);
                    gather_rows(rt, states, width, first, rows);
                }
                let mean = layers::patient(rt, rows, teacher_rows, width, weight, positions.sequences);
                scatter_add_rows(rt, rows, width, first, self.d_states);
                mean
            }
        }
    }
}

impl Term {
    /// Its name among the metrics.
    fn name(&self) -> &'static str {
        if self.pairs == [[0, 0]] { "embeddings" } else { self.compare.name() }
    }
}

/// What was expected and what was found.
type Wrong = (String, String);

/// The pairs of layers of a term whose other values are in range.
fn pairs(term: &LayerTerm, widths: [usize; 2], depths: [usize; 2]) -> Result<Vec<[usize; 2]>, Wrong> {
    if !term.weight.is_finite() || term.weight < 0.0 {
        return Err(("a weight of 0 or more".into(), term.weight.to_string()));
    }
    if term.tokens.is_some() && term.compare != Compare::Patient {
        return Err(("no `tokens`, which goes with `patient`".into(), "some".into()));
    }
    if term.compare == Compare::Patient && widths[0] != widths[1] {
        let expected = format!("a student of the teacher's width {}", widths[1]);
        return Err((expected, format!("{}; `hidden` compares states of any width", widths[0])));
    }
    let [student, teacher] = depths;
    let layers = term.layers.clone().unwrap_or(LayerMap::Named(term.compare.usual_layers()));
    let pairs = layers.pairs(student, teacher);
    let first = term.compare.first_layer();
    if pairs.is_empty()
        || pairs.iter().any(|&[s, t]| !(first..=student).contains(&s) || !(first..=teacher).contains(&t))
    {
        let expected =
            format!("pairs of the student's layers {first} to {student} and the teacher's {first} to {teacher}");
        return Err((expected, format!("{pairs:?}")));
    }
    Ok(pairs)
}

/// The heads that both widths are cut into; of states none are asked for, and their width is one head.
fn heads(term: &LayerTerm, widths: [usize; 2], own: [usize; 2]) -> Result<usize, Wrong> {
    let cuts = matches!(term.compare, Compare::Queries | Compare::Keys | Compare::Values);
    let of_models = match (term.heads, cuts) {
        (Some(found), false) => {
            return Err(("no `heads`, which go with `queries`, `keys` and `values`".into(), found.to_string()));
        }
        (None, false) => term.compare.relation().is_some(),
        (heads, true) => heads == Some(0),
    };
    match term.heads {
        _ if of_models && own[0] != own[1] => {
            let expected = format!("a student of the teacher's {} attention heads", own[1]);
            Err((expected, format!("{}; `queries`, `keys` and `values` with `heads` compare any", own[0])))
        }
        _ if of_models => Ok(own[0]),
        Some(heads) if widths.iter().any(|width| !width.is_multiple_of(heads)) => {
            Err((format!("heads that cut the widths {} and {}", widths[0], widths[1]), heads.to_string()))
        }
        Some(heads) => Ok(heads),
        None if cuts => Ok(usual_heads(widths[0], widths[1])),
        None => Ok(1),
    }
}
