//! Training: one loop for pre-training, distillation and fine-tuning. What differs between them is a [`Workload`];
//! what they share is here: updates, checkpoints, metrics, resuming, stopping.

pub mod events; // TensorBoard event files
pub mod few_shot; // from a few examples, by pairs
pub mod finetune; // labelled examples, with or without a teacher
pub mod language; // masked-LM and distillation over a corpus
pub mod layer_terms; // losses between the layers of student and teacher
pub mod lora; // low-rank adapters
pub mod order; // which samples make which step
pub mod sentence; // sentence encoders: a teacher's embeddings, pairs, triples
pub mod by_name; // values in configurations that are written as their names
pub mod teacher_answers; // what a teacher says, abridged
pub mod teacher_cache; // the same on a disk
pub mod search; // which settings to try, and when to give one up
pub mod run; // the run directory: metrics, checkpoints, resume

use crate::checkpoint::CheckpointError;
use crate::model::encoder::Keeps;
use crate::model::{Model, Purpose};
use crate::optim::{OptimizerConfig, OptimizerError, OptimizerState, update};
use crate::progress::Progress;
use distilbert_kernels::{Precision, Runtime, RuntimeError};
use run::{Run, RunState};
use std::path::PathBuf;
use std::time::Instant;

/// What is trained, on what, towards what.
pub trait Workload {
    /// Optimiser steps of the whole run.
    fn total_steps(&self) -> u64;

    /// The model in training.
    fn model(&self) -> &Model;

    /// The model in training, to be updated.
    fn model_mut(&mut self) -> &mut Model;

    /// Adds the gradients of step `step` (counted from 1) to `gradients`, which are zero. The same step gives the same
    /// bits whenever and however often it is run.
    ///
    /// # Errors
    /// If the data cannot be read.
    fn step(&mut self, rt: &Runtime, step: u64, gradients: &mut [f32]) -> Result<StepReport, TrainError>;

    /// Makes anew what follows from the weights; called after every update.
    fn weights_changed(&mut self, rt: &Runtime) {
        self.model_mut().repack_trainable(rt);
    }

    /// Measures the model on held-out data; `None` if there is none.
    ///
    /// # Errors
    /// If the data cannot be read.
    fn evaluate(&mut self, rt: &Runtime) -> Result<Option<HeldOutReport>, TrainError>;

    /// Whether to end the run early for what was measured so far, as (step, score).
    fn gives_up(&self, _scores: &[(u64, f64)]) -> bool {
        false
    }

    /// Writes what belongs beside the weights in a model folder: the tokenizer.
    ///
    /// # Errors
    /// If it cannot be written.
    fn save_companions(&self, folder: &std::path::Path) -> Result<(), TrainError>;
}

/// What one step measured on its own batch.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// The loss that was minimised.
    pub loss: f64,
    /// Its parts and other measures, by name.
    pub parts: Vec<(&'static str, f64)>,
    /// Tokens of the step.
    pub tokens: u64,
}

/// What the held-out data says.
#[derive(Clone, Debug)]
pub struct HeldOutReport {
    /// Measures by name.
    pub values: Vec<(&'static str, f64)>,
    /// The one that chooses the best checkpoint; larger is better.
    pub score: f64,
}

/// How a run goes on, whatever it trains.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LoopConfig {
    /// Steps between measurements on held-out data; 0 measures only at the end.
    pub evaluate_every: u64,
    /// Steps between checkpoints; 0 writes one only at the end, on request and for the best, or where nothing can be
    /// measured instead of each measurement.
    pub checkpoint_every: u64,
    /// Stops after this many measurements in a row without a better one; 0 never does.
    pub patience: u64,
    /// Of the matrix products; weights, sums, gradients and the optimiser are f32 in any case.
    #[serde(with = "by_name")]
    pub precision: Precision,
    /// Whether the backward pass computes a layer's activations again instead of keeping them. It decides no number, so
    /// it is not saved with the run, which may go on either way.
    #[serde(skip_serializing)]
    pub recompute: bool,
}

impl Default for LoopConfig {
    fn default() -> Self {
        LoopConfig {
            evaluate_every: 200,
            checkpoint_every: 200,
            patience: 0,
            precision: Precision::F32,
            recompute: false,
        }
    }
}

impl LoopConfig {
    /// Checks that the runtime can train in the precision.
    ///
    /// # Errors
    /// [`TrainError`] if it is int8, or one that the CPU lacks.
    pub fn validate(&self, rt: &Runtime) -> Result<(), TrainError> {
        if self.precision == Precision::Int8 {
            let (expected, found) = ("`f32` or `bf16`".to_owned(), format!("`{}`", self.precision));
            return Err(TrainError::Config { name: "precision of training", expected, found });
        }
        Ok(self.precision.check(rt.isa())?)
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Why it ended.
    pub end: End,
    /// Steps taken over the whole run.
    pub steps: u64,
    /// Steps that it would have had without an early end.
    pub total_steps: u64,
    /// The checkpoint of the last step.
    pub last: PathBuf,
    /// The best checkpoint; the last one if nothing was measured.
    pub best: PathBuf,
    /// Score of the best checkpoint on the held-out data.
    pub best_score: Option<f64>,
    /// All scores, as (step, score).
    pub scores: Vec<(u64, f64)>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Finished,
    /// The held-out score stopped improving.
    NoImprovement,
    /// The workload gave it up.
    GivenUp,
    /// The user asked; the run can be resumed.
    Stopped,
}

/// Why a run cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A value of the configuration.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// A value of the configuration.
    #[error("{name}: expected {expected}, found {found}")]
    Config {
        /// The key.
        name: &'static str,
        /// The range.
        expected: String,
        /// The value.
        found: String,
    },
    /// A precision this CPU lacks.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Masking cannot work as configured.
    #[error(transparent)]
    Masking(#[from] crate::data::masking::MaskingError),
    /// A batch the model cannot take.
    #[error(transparent)]
    Input(#[from] crate::model::InputError),
    /// A file of weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tokenizer's files.
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::TokenizerError),
    /// A file of the run directory.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The run directory is in use or is none.
    #[error("{}: {reason}", path.display())]
    Run {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A resumed run differs from what began it.
    #[error("{}: cannot resume: {what} was `{before}`, is now `{now}`", path.display())]
    Changed {
        /// The run directory.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// Its value when the run began.
        before: String,
        /// Its value now.
        now: String,
    },
    /// Training broke down.
    #[error("step {step}: {what} is {value}; {}", last_good.as_ref().map_or("no checkpoint was written before it".to_owned(), |path| format!("the last good checkpoint is {}", path.display())))]
    Diverged {
        /// The step.
        step: u64,
        /// What broke.
        what: &'static str,
        /// Its value.
        value: f64,
        /// Where to go back to.
        last_good: Option<PathBuf>,
    },
    /// A cache of a teacher's answers.
    #[error(transparent)]
    Cache(#[from] teacher_cache::CacheError),
    /// There is nothing to train on.
    #[error("{0}: no training data")]
    Empty(String),
}

/// A loss this many times that of the first steps counts as divergence.
const DIVERGENCE_FACTOR: f64 = 2.0;
/// Steps whose mean is the loss of the start.
const FIRST_STEPS: u64 = 20;
/// Steps in which nothing can have exploded yet.
const VERY_FIRST_STEPS: u64 = 3;
/// A mean this many times the greatest of the very first losses counts as divergence, if it is above [`EXPLODED`] too: a
/// run that begins well fitted may have hardly any loss in its very first steps.
const EXPLOSION_FACTOR: f64 = 4.0;
/// An even guess among 22,000 words.
const EXPLODED: f64 = 10.0;
/// Share of the past in the smoothed loss.
const SMOOTHING: f64 = 0.95;

/// Trains until the steps are done, the score stops improving, or the user asks to stop; each way leaves a checkpoint.
/// A run that has checkpoints goes on behind the last one that can be read.
///
/// # Errors
/// [`TrainError`]; a loss or gradient that is not finite, or a smoothed loss far above the first steps', ends the run
/// with the step and the last good checkpoint named.
pub fn train(
    rt: &Runtime,
    workload: &mut dyn Workload,
    optimizer: &OptimizerConfig,
    config: &LoopConfig,
    run: &mut Run,
    progress: &dyn Progress,
) -> Result<Outcome, TrainError> {
    optimizer.validate()?;
    config.validate(rt)?;
    let total = workload.total_steps();
    // Of what is frozen neither gradient nor moments are ever touched, and pages that nobody touches take no memory.
    let mut gradients = vec![0.0; workload.model().parameters.len()];
    let mut optimizer_state = OptimizerState::new(gradients.len());
    let mut state =
        run.restore(workload.model_mut(), &mut optimizer_state, |warning| progress.warn(warning))?.unwrap_or_default();
    workload.model_mut().pack(rt, config.precision, Purpose::Training);
    workload.model_mut().encoder.keeps = if config.recompute { Keeps::Inputs } else { Keeps::Activations };
    // Small runs are logged whole, long ones thinned out.
    let log_every = (total / 5000).max(1);

    progress.begin("training", Some(total), "steps");
    progress.advance(state.step);
    let exhausted = |state: &RunState| config.patience > 0 && state.without_improvement >= config.patience;
    // A run that had stopped by itself does not go on when it is resumed.
    let ended = |state: &RunState, workload: &dyn Workload| match state.step < total {
        true if exhausted(state) => Some(End::NoImprovement),
        true if workload.gives_up(&state.scores) => Some(End::GivenUp),
        _ => None,
    };
    let mut end = ended(&state, workload);
    while end.is_none() && state.step < total {
        let step = state.step + 1;
        let started = Instant::now();
        for range in workload.model().parameters.gradient_ranges() {
            rt.parallel_chunks_mut(&mut gradients[range], 1 << 16, |_, part| part.fill(0.0));
        }
        let report = workload.step(rt, step, &mut gradients)?;
        let diverged =
            |what, value, run: &Run| TrainError::Diverged { step, what, value, last_good: run.last_checkpoint() };
        if !report.loss.is_finite() {
            return Err(diverged("the loss", report.loss, run));
        }
        let parameters = &mut workload.model_mut().parameters;
        let (norm, learning_rate) = update(rt, optimizer, total, parameters, &gradients, &mut optimizer_state);
        if !norm.is_finite() {
            return Err(diverged("the norm of the gradient", norm, run));
        }
        workload.weights_changed(rt);
        state.step = step;
        if let Some(value) = state.follow(report.loss) {
            return Err(diverged("the smoothed loss, far above that of the first steps,", value, run));
        }
        if step.is_multiple_of(log_every) || step == total {
            let mut values = vec![("loss", report.loss)];
            values.extend(&report.parts);
            values.extend([("grad_norm", norm), ("learning_rate", learning_rate)]);
            values.push(("tokens_per_second", report.tokens as f64 / started.elapsed().as_secs_f64().max(1e-9)));
            run.log("train", step, &values)?;
        }
        progress.advance(1);
        progress.note(&describe(&report, started.elapsed().as_secs_f64()));

        let due = config.evaluate_every > 0 && step.is_multiple_of(config.evaluate_every);
        // What cannot be measured is kept as often as it would have been.
        let mut kept = due;
        if (due || step == total)
            && let Some(report) = workload.evaluate(rt)?
        {
            run.log("held_out", step, &report.values)?;
            if !report.score.is_finite() {
                return Err(diverged("the held-out score", report.score, run));
            }
            state.scores.push((step, report.score));
            kept = state.best_score.is_none_or(|best| report.score > best);
            if kept {
                (state.best_score, state.best_step, state.without_improvement) = (Some(report.score), Some(step), 0);
            } else {
                state.without_improvement += 1;
            }
        }
        end = match ended(&state, workload) {
            None if step == total => Some(End::Finished),
            None if progress.stop_requested() => Some(End::Stopped),
            end => end,
        };
        let checkpoint_due = config.checkpoint_every > 0 && step.is_multiple_of(config.checkpoint_every);
        if checkpoint_due || kept || end.is_some() {
            run.save(workload, &optimizer_state, &state)?;
        }
    }
    progress.end();
    let last = run.checkpoint(state.step);
    let best = state.best_step.map_or_else(|| last.clone(), |step| run.checkpoint(step));
    let RunState { step: steps, best_score, scores, .. } = state;
    let (end, total_steps) = (end.unwrap_or(End::Finished), total);
    Ok(Outcome { end, steps, total_steps, last, best, best_score, scores })
}

fn describe(report: &StepReport, seconds: f64) -> String {
    let mut words = format!("loss {:.4}", report.loss);
    for (name, value) in &report.parts {
        words.push_str(&format!(", {name} {value:.4}"));
    }
    words.push_str(&format!(", {:.0} tokens/s", report.tokens as f64 / seconds.max(1e-9)));
    words
}

impl RunState {
    /// Takes the step's loss in; the smoothed loss if it has diverged.
    fn follow(&mut self, loss: f64) -> Option<f64> {
        if self.step <= VERY_FIRST_STEPS {
            // The second may be that of weights which one step has already ruined.
            let most = if self.very_first_loss > 0.0 { EXPLOSION_FACTOR * self.very_first_loss } else { f64::INFINITY };
            self.very_first_loss = self.very_first_loss.max(loss.min(most));
        }
        let mut diverged = false;
        if self.step <= FIRST_STEPS {
            self.first_loss += (loss - self.first_loss) / self.step as f64;
            self.smoothed_loss = self.first_loss;
        } else {
            self.smoothed_loss = SMOOTHING * self.smoothed_loss + (1.0 - SMOOTHING) * loss;
            diverged = self.smoothed_loss > DIVERGENCE_FACTOR * self.first_loss;
        }
        // What explodes at once takes the mean of the first steps with it.
        let exploded = self.step > VERY_FIRST_STEPS
            && self.very_first_loss > 0.0
            && self.smoothed_loss > EXPLODED.max(EXPLOSION_FACTOR * self.very_first_loss);
        (diverged || exploded).then_some(self.smoothed_loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The step at which a run of these losses is stopped.
    fn stopped_at(losses: &[f64]) -> Option<u64> {
        let mut state = RunState::default();
        losses.iter().find_map(|&loss| {
            state.step += 1;
            state.follow(loss).map(|_| state.step)
        })
    }

    #[test]
    fn an_explosion_is_no_measure_of_itself_and_a_loud_beginning_is_none() {
        // From the first update on, sinking again afterwards: losses that a run had.
        let exploded = [5.3, 10_029.0, 8_685.0, 47_930.0, 39_991.0, 48_147.0, 51_744.0, 28_287.0, 20_000.0];
        assert_eq!(stopped_at(&exploded), Some(4));
        // Batches of unlike losses, and a run that begins with next to none.
        assert_eq!(stopped_at(&[6.0, 20.0, 14.0, 18.0, 9.0, 8.0]), None);
        assert_eq!(stopped_at(&[0.0, 0.0, 0.1, 8.0, 9.0]), None);
    }
}
