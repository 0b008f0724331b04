//! Gradients to parameters: clipping, schedule, AdamW over the arenas.

use crate::model::Parameters;
use distilbert_kernels::Runtime;
use distilbert_kernels::optimizer::{AdamW, adamw, sum_of_squares};

/// AdamW with a linear schedule.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct OptimizerConfig {
    /// Peak of the schedule.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment, after its bias correction.
    pub epsilon: f64,
    /// Decoupled decay of matrices; biases and norms do not decay.
    pub weight_decay: f64,
    /// Largest norm of a step's gradient; larger ones are scaled down to it. 0 turns clipping off.
    pub max_grad_norm: f64,
    /// The schedule.
    pub schedule: Schedule,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig {
            learning_rate: 5e-5,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            schedule: Schedule::Linear { warmup_ratio: 0.06 },
        }
    }
}

/// The learning rate as a share of its peak, by step.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Schedule {
    /// Always the peak.
    Constant,
    /// Up to the peak over the first `warmup_ratio` of the steps, then down to 0. The first step already moves.
    Linear {
        /// Share of the steps.
        warmup_ratio: f64,
    },
    /// As published: the first step has rate 0, and one step more than there are is counted.
    LinearFromZero {
        /// Share of the steps.
        warmup_ratio: f64,
    },
}

impl Schedule {
    /// Share of the peak at `step` of `total`, counted from 1.
    pub fn factor(self, step: u64, total: u64) -> f64 {
        match self {
            Schedule::Constant => 1.0,
            Schedule::Linear { warmup_ratio } => ramp(step, total + 1, (total as f64 * warmup_ratio).ceil()),
            Schedule::LinearFromZero { warmup_ratio } => {
                let total = total + 1;
                ramp(step - 1, total, (total as f64 * warmup_ratio).ceil())
            }
        }
    }
}

fn ramp(at: u64, end: u64, warmup: f64) -> f64 {
    let (at, end) = (at as f64, end as f64);
    if at < warmup { at / warmup } else { ((end - at) / (end - warmup).max(1.0)).clamp(0.0, 1.0) }
}

/// Why an optimiser cannot work as configured.
#[derive(Debug, thiserror::Error)]
#[error("optimizer: `{name}`: expected {expected}, found {found}")]
pub struct OptimizerError {
    /// The key.
    pub name: &'static str,
    /// The range.
    pub expected: &'static str,
    /// The value.
    pub found: f64,
}

impl OptimizerConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// [`OptimizerError`] naming the first bad one.
    pub fn validate(&self) -> Result<(), OptimizerError> {
        let warmup = match self.schedule {
            Schedule::Constant => 0.0,
            Schedule::Linear { warmup_ratio } | Schedule::LinearFromZero { warmup_ratio } => warmup_ratio,
        };
        let rules = [
            ("learning-rate", self.learning_rate, "above 0", self.learning_rate > 0.0),
            ("beta1", self.beta1, "0 to below 1", (0.0..1.0).contains(&self.beta1)),
            ("beta2", self.beta2, "0 to below 1", (0.0..1.0).contains(&self.beta2)),
            ("epsilon", self.epsilon, "above 0", self.epsilon > 0.0),
            ("weight-decay", self.weight_decay, "0 or more", self.weight_decay >= 0.0),
            ("max-grad-norm", self.max_grad_norm, "0 or more", self.max_grad_norm >= 0.0),
            ("warmup-ratio", warmup, "0 to 1", (0.0..=1.0).contains(&warmup)),
        ];
        match rules.into_iter().find(|(_, found, _, fine)| !fine || !found.is_finite()) {
            Some((name, found, ..)) if !found.is_finite() => {
                Err(OptimizerError { name, expected: "a finite number", found })
            }
            Some((name, found, expected, _)) => Err(OptimizerError { name, expected, found }),
            None => Ok(()),
        }
    }
}

/// The optimiser's memory: both moments in arenas laid out as the weights.
pub struct OptimizerState {
    /// Mean of the gradients.
    pub first_moment: Vec<f32>,
    /// Mean of their squares.
    pub second_moment: Vec<f32>,
    /// Steps taken.
    pub step: u64,
}

impl OptimizerState {
    /// Before the first step.
    pub fn new(parameters: usize) -> OptimizerState {
        OptimizerState { first_moment: vec![0.0; parameters], second_moment: vec![0.0; parameters], step: 0 }
    }
}

/// One update of the trainable parameters, as step `state.step + 1` of `total_steps`. Returns the gradient's norm
/// before clipping and the learning rate. A norm that is not finite leaves everything as it was.
pub fn update(
    rt: &Runtime,
    config: &OptimizerConfig,
    total_steps: u64,
    parameters: &mut Parameters,
    gradients: &[f32],
    state: &mut OptimizerState,
) -> (f64, f64) {
    let ranges = parameters.trainable_ranges();
    let norm = ranges.iter().map(|(range, _)| sum_of_squares(rt, &gradients[range.clone()])).sum::<f64>().sqrt();
    let learning_rate = config.learning_rate * config.schedule.factor(state.step + 1, total_steps);
    if !norm.is_finite() {
        return (norm, learning_rate);
    }
    // 1e-6 as torch.nn.utils.clip_grad_norm_ has it.
    let clip = if config.max_grad_norm > 0.0 { (config.max_grad_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
    state.step += 1;
    let weights = parameters.weights_mut().values;
    for (range, decays) in ranges {
        let rule = AdamW {
            learning_rate: learning_rate as f32,
            beta1: config.beta1 as f32,
            beta2: config.beta2 as f32,
            epsilon: config.epsilon as f32,
            weight_decay: if decays { config.weight_decay as f32 } else { 0.0 },
            step: state.step,
            gradient_scale: clip as f32,
        };
        adamw(
            rt,
            &rule,
            &mut weights[range.clone()],
            &gradients[range.clone()],
            &mut state.first_moment[range.clone()],
            &mut state.second_moment[range],
        );
    }
    (norm, learning_rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_schedule_moves_at_once_and_ends_above_zero() {
        let schedule = Schedule::Linear { warmup_ratio: 0.2 };
        let factors: Vec<f64> = (1..=10).map(|step| schedule.factor(step, 10)).collect();
        assert_eq!(factors[..2], [0.5, 1.0]);
        assert!(factors[1..].windows(2).all(|pair| pair[0] > pair[1]));
        assert!(factors[9] > 0.0);
    }

    #[test]
    fn published_schedule_starts_at_zero() {
        // total = floor(9) + 1 = 10 with 9 steps; warm-up ceil(0.5).
        let schedule = Schedule::LinearFromZero { warmup_ratio: 0.05 };
        let factors: Vec<f64> = (1..=9).map(|step| schedule.factor(step, 9)).collect();
        assert_eq!(factors[0], 0.0);
        assert_eq!(factors[1], 1.0);
        assert!((factors[8] - 2.0 / 9.0).abs() < 1e-12, "{factors:?}");
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let config = OptimizerConfig { beta2: 1.0, ..Default::default() };
        assert_eq!(config.validate().unwrap_err().to_string(), "optimizer: `beta2`: expected 0 to below 1, found 1");
        let config = OptimizerConfig { learning_rate: f64::NAN, ..Default::default() };
        assert!(config.validate().is_err());
    }
}
