//! Dynamic masking: which tokens a masked-LM step hides, and behind what. Drawn anew every time a batch is used.

use super::batch::Batch;
use crate::random::Rng;

/// The target of a token that is none, as in PyTorch's cross-entropy.
pub const IGNORED: i32 = -100;

/// How tokens are chosen and hidden.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MaskingConfig {
    /// Share of the batch's tokens, specials counted, that become targets.
    pub probability: f64,
    /// Share of the targets hidden behind `[MASK]`.
    pub mask: f64,
    /// Share of the targets left as they are; the rest get a random token.
    pub keep: f64,
    /// A token's weight in the draw is its corpus count to the power of minus this: rare tokens are drawn more often.
    pub smoothing: f64,
    /// Whether the pieces of a word are hidden together.
    pub whole_words: bool,
}

/// Sanh et al.'s values; BERT's own have no smoothing.
impl Default for MaskingConfig {
    fn default() -> Self {
        MaskingConfig { probability: 0.15, mask: 0.8, keep: 0.1, smoothing: 0.7, whole_words: false }
    }
}

/// Why masking cannot work as configured.
#[derive(Debug, thiserror::Error)]
pub enum MaskingError {
    /// A share that is none.
    #[error("masking: `{name}`: expected {expected}, found {found}")]
    Share {
        /// The key.
        name: &'static str,
        /// The range.
        expected: &'static str,
        /// The value.
        found: f64,
    },
    /// Counts for another vocabulary.
    #[error("token counts: expected one for each of {vocab_size} tokens, found {found}")]
    Counts {
        /// The model's vocabulary.
        vocab_size: usize,
        /// Number of counts.
        found: usize,
    },
}

/// The vocabulary as masking sees it.
pub struct Masker {
    config: MaskingConfig,
    mask_token_id: u32,
    /// `ln` of each token's weight in the draw; minus infinity for specials, which are never targets.
    log_weights: Vec<f64>,
    /// Whether a token continues a word.
    continues: Vec<bool>,
}

impl Masker {
    /// `token_counts` are those of the corpus; `special_ids` are never chosen; `continues` tells the pieces (`##`) that
    /// continue a word.
    ///
    /// # Errors
    /// If a share is not one, or counts and vocabulary differ in size.
    pub fn new(
        config: MaskingConfig,
        token_counts: &[u64],
        special_ids: &[u32],
        mask_token_id: u32,
        continues: Vec<bool>,
    ) -> Result<Masker, MaskingError> {
        let shares = [
            (
                "probability",
                config.probability,
                "above 0 and at most 0.9",
                config.probability > 0.0 && config.probability <= 0.9,
            ),
            ("mask", config.mask, "0 to 1", (0.0..=1.0).contains(&config.mask)),
            ("keep", config.keep, "0 to 1 - `mask`", config.keep >= 0.0 && config.mask + config.keep <= 1.0 + 1e-9),
            ("smoothing", config.smoothing, "0 to 10", (0.0..=10.0).contains(&config.smoothing)),
        ];
        if let Some(&(name, found, expected, _)) = shares.iter().find(|(.., fine)| !fine) {
            return Err(MaskingError::Share { name, expected, found });
        }
        if continues.len() != token_counts.len() {
            return Err(MaskingError::Counts { vocab_size: continues.len(), found: token_counts.len() });
        }
        let mut log_weights: Vec<f64> =
            token_counts.iter().map(|&count| -config.smoothing * (count.max(1) as f64).ln()).collect();
        for &id in special_ids {
            if let Some(weight) = log_weights.get_mut(id as usize) {
                *weight = f64::NEG_INFINITY;
            }
        }
        Ok(Masker { config, mask_token_id, log_weights, continues })
    }

    /// Hides tokens of `batch`; returns the targets `[tokens]`, [`IGNORED`] where there is none.
    ///
    /// `ceil(probability * tokens)` targets are drawn without replacement over the whole batch, weight by weight
    /// (Efraimidis and Spirakis 2006: the largest `ln weight + Gumbel noise`); fewer if fewer may be drawn.
    pub fn mask(&self, batch: &mut Batch, rng: &mut Rng) -> Vec<i32> {
        let wanted = (self.config.probability * batch.tokens() as f64).ceil() as usize;
        let mut units: Vec<(f64, std::ops::Range<usize>)> = self
            .units(batch)
            .into_iter()
            .filter_map(|unit| {
                let log_weight = self.log_weight(batch.input_ids()[unit.start]);
                // One draw for each unit, drawable or not: a special token more must not shift the noise of others.
                let gumbel = -(-(1.0 - rng.uniform()).ln()).ln();
                (log_weight > f64::NEG_INFINITY).then_some((log_weight + gumbel, unit))
            })
            .collect();
        units.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.start.cmp(&b.1.start)));
        let mut targets = vec![IGNORED; batch.tokens()];
        let mut chosen = Vec::with_capacity(wanted);
        for (_, unit) in units {
            if chosen.len() >= wanted {
                break;
            }
            chosen.extend(unit);
        }
        chosen.sort_unstable();
        for index in chosen {
            let id = batch.input_ids()[index];
            targets[index] = id as i32;
            batch.set_input_id(index, self.replacement(id, rng));
        }
        targets
    }

    /// What is chosen together: tokens, or words as runs of pieces.
    fn units(&self, batch: &Batch) -> Vec<std::ops::Range<usize>> {
        let ids = batch.input_ids();
        let mut units: Vec<std::ops::Range<usize>> = Vec::with_capacity(ids.len());
        for ends in batch.cu_seqlens().windows(2) {
            for index in ends[0] as usize..ends[1] as usize {
                let joins = self.config.whole_words
                    && index > ends[0] as usize
                    && self.continues.get(ids[index] as usize).copied().unwrap_or(false)
                    && self.log_weight(ids[index - 1]) > f64::NEG_INFINITY;
                match units.last_mut() {
                    Some(unit) if joins => unit.end = index + 1,
                    _ => units.push(index..index + 1),
                }
            }
        }
        units
    }

    fn log_weight(&self, id: u32) -> f64 {
        self.log_weights.get(id as usize).copied().unwrap_or(f64::NEG_INFINITY)
    }

    fn replacement(&self, id: u32, rng: &mut Rng) -> u32 {
        let draw = rng.uniform();
        // Drawn whether used or not, so that a token's fate does not shift its neighbours'.
        let random = rng.below(self.log_weights.len()) as u32;
        if draw < self.config.mask {
            self.mask_token_id
        } else if draw < self.config.mask + self.config.keep {
            id
        } else {
            random
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: u32 = 4;
    const SPECIALS: [u32; 5] = [0, 1, 2, 3, 4];

    fn masker(config: MaskingConfig, counts: &[u64]) -> Masker {
        let continues = (0..counts.len()).map(|id| id % 10 == 9).collect();
        Masker::new(config, counts, &SPECIALS, MASK, continues).unwrap()
    }

    fn batch(rng: &mut Rng, sequences: usize) -> Batch {
        let sequences: Vec<Vec<u32>> = (0..sequences)
            .map(|_| {
                let mut ids = vec![2];
                ids.extend((0..3 + rng.below(30)).map(|_| 5 + rng.below(95) as u32));
                ids.push(3);
                ids
            })
            .collect();
        Batch::from_sequences(sequences.iter().map(Vec::as_slice))
    }

    #[test]
    fn targets_are_fifteen_percent_by_count_and_never_special() {
        let mut rng = Rng::from_key(&[1]);
        let masker = masker(MaskingConfig::default(), &[50; 100]);
        let (mut hidden, mut kept, mut targets_total) = (0u64, 0u64, 0u64);
        for _ in 0..400 {
            let original = batch(&mut rng, 20);
            let mut masked = original.clone();
            let targets = masker.mask(&mut masked, &mut rng);
            let wanted = (0.15 * original.tokens() as f64).ceil() as usize;
            assert_eq!(targets.iter().filter(|&&target| target != IGNORED).count(), wanted);
            for (index, &target) in targets.iter().enumerate() {
                let (before, after) = (original.input_ids()[index], masked.input_ids()[index]);
                if target == IGNORED {
                    assert_eq!(before, after);
                } else {
                    assert_eq!(target as u32, before);
                    assert!(!SPECIALS.contains(&before));
                    targets_total += 1;
                    hidden += u64::from(after == MASK);
                    kept += u64::from(after == before);
                }
            }
        }
        // Random tokens are uniform over the vocabulary: one in a hundred of them is [MASK], one the token itself.
        let n = targets_total as f64;
        let within =
            |count: u64, share: f64| (count as f64 - n * share).abs() < 3.0 * (n * share * (1.0 - share)).sqrt();
        assert!(within(hidden, 0.801) && within(kept, 0.101), "{hidden} {kept} of {targets_total}");
    }

    #[test]
    fn rare_tokens_are_drawn_by_their_weight() {
        // Two tokens, one 100 times as frequent; one target from a batch holding each once.
        let mut counts = vec![1u64; 100];
        counts[6] = 100;
        let masker = masker(MaskingConfig { probability: 0.2, ..Default::default() }, &counts);
        let (mut rng, mut rare) = (Rng::from_key(&[2]), 0.0);
        for _ in 0..20_000 {
            let mut batch = Batch::from_sequences([&[2, 5, 6, 3][..]]);
            let targets = masker.mask(&mut batch, &mut rng);
            rare += f64::from(u8::from(targets[1] != IGNORED));
        }
        let expected = 1.0 / (1.0 + 100f64.powf(-0.7));
        assert!((rare / 20_000.0 - expected).abs() < 0.004, "{} against {expected}", rare / 20_000.0);
    }

    #[test]
    fn whole_words_are_hidden_whole() {
        let masker = masker(MaskingConfig { whole_words: true, probability: 0.3, ..Default::default() }, &[1; 100]);
        let mut rng = Rng::from_key(&[3]);
        for _ in 0..200 {
            // Words: 5 ##9 ##19, 6, 7 ##29.
            let mut batch = Batch::from_sequences([&[2, 5, 9, 19, 6, 7, 29, 3][..]]);
            let chosen: Vec<bool> = masker.mask(&mut batch, &mut rng).iter().map(|&target| target != IGNORED).collect();
            assert_eq!(chosen[1], chosen[2]);
            assert_eq!(chosen[2], chosen[3]);
            assert_eq!(chosen[5], chosen[6]);
        }
    }

    #[test]
    fn a_batch_of_specials_has_no_targets() {
        let masker = masker(MaskingConfig::default(), &[1; 100]);
        let mut batch = Batch::from_sequences([&[2, 3][..]]);
        assert_eq!(masker.mask(&mut batch, &mut Rng::from_key(&[4])), [IGNORED, IGNORED]);
    }

    #[test]
    fn bad_shares_are_refused_by_name() {
        let config = MaskingConfig { mask: 0.95, ..Default::default() };
        let error = Masker::new(config, &[1], &[], 0, vec![false]).err().unwrap();
        assert_eq!(error.to_string(), "masking: `keep`: expected 0 to 1 - `mask`, found 0.1");
    }
}
