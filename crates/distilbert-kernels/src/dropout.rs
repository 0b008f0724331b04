//! Dropout by counter: whether a number is dropped is a function of where it stands, not of when it is computed.
//!
//! The mask is hashed from (site, sample slot, element within the sequence), so the backward makes it again instead of
//! reading it, and it is the same for any packing, any number of threads and any instruction set.

use crate::rows::{row_count, task_rows};
use crate::runtime::Runtime;
use crate::simd::{Kernel, Simd, dispatch};
use std::ops::Range;

/// Dropout at one site of the model in one step.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// The chance that a number is dropped, in `0..1`.
    pub probability: f32,
    /// Names the site: the caller mixes the seed, the step, the layer and the place in the layer.
    pub site_key: u64,
    /// The sample slot of each sequence of the batch: its number among all sequences of the step.
    pub slots: &'a [u64],
}

impl Dropout<'_> {
    /// What a number that stays is multiplied by: `1 / (1 - probability)`.
    #[inline(always)]
    pub fn keep_scale(&self) -> f32 {
        1.0 / (1.0 - self.probability)
    }

    /// The key of a sequence's mask at this site.
    ///
    /// # Panics
    /// If the sequence has no slot.
    #[inline]
    pub fn sequence_key(&self, sequence: usize) -> u64 {
        finalise(finalise(self.slots[sequence].wrapping_add(GOLDEN_GAMMA)) ^ self.site_key.wrapping_add(GOLDEN_GAMMA))
    }

    /// Whether `element` of the sequence with this key stays.
    #[inline(always)]
    pub fn keep(&self, sequence_key: u64, element: u32) -> bool {
        hash(sequence_key, element) >= self.threshold()
    }

    /// [`Dropout::keep_scale`] for elements that stay and 0 for others, from element `first` on.
    #[inline(always)]
    pub fn keep_factors(&self, sequence_key: u64, first: u32, factors: &mut [f32]) {
        let (threshold, scale) = (self.threshold(), self.keep_scale());
        for (i, factor) in factors.iter_mut().enumerate() {
            let stays = hash(sequence_key, first.wrapping_add(i as u32)) >= threshold;
            *factor = if stays { scale } else { 0.0 };
        }
    }

    /// Multiplies `x`, the elements from `first` on, by their factors.
    #[inline(always)]
    pub(crate) fn apply(&self, sequence_key: u64, first: u32, x: &mut [f32]) {
        let (threshold, scale) = (self.threshold(), self.keep_scale());
        for (i, x) in x.iter_mut().enumerate() {
            let stays = hash(sequence_key, first.wrapping_add(i as u32)) >= threshold;
            // A choice and not a product with 0, so that a dropped infinity leaves no NaN.
            *x = if stays { *x * scale } else { 0.0 };
        }
    }

    /// Hashes below this are dropped.
    #[inline(always)]
    fn threshold(&self) -> u32 {
        (f64::from(self.probability) * 4_294_967_296.0) as u32
    }

    /// # Panics
    /// Unless every sequence has a slot, the probability is in `0..1`, and elements can be counted in 32 bits.
    fn check(&self, cu_seqlens: &[u32], width: usize) {
        assert!((0.0..1.0).contains(&self.probability), "dropout probability {}", self.probability);
        assert_eq!(self.slots.len() + 1, cu_seqlens.len(), "one slot a sequence");
        let longest = cu_seqlens.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0);
        assert!(longest as usize * width <= u32::MAX as usize, "{longest} rows of {width} are too many to count");
    }
}

/// Drops numbers of `x` and scales the others; the same call on a gradient is the backward.
///
/// # Shapes
/// `x`: `[tokens, width]`; `cu_seqlens`: `[batch + 1]`, first 0, last `tokens`
/// # Panics
/// If the lengths disagree or the probability is not in `0..1`.
pub fn dropout_rows(rt: &Runtime, x: &mut [f32], width: usize, cu_seqlens: &[u32], dropout: &Dropout) {
    let tokens = row_count(x.len(), width);
    let sites = RowSites::new(dropout, cu_seqlens, tokens, width);
    let task_rows = task_rows(width);
    rt.parallel_chunks_mut(x, (task_rows * width).max(1), |i, rows| {
        dispatch(rt.isa(), DropRows { sites: &sites, first_row: i * task_rows, rows });
    });
}

struct DropRows<'a> {
    sites: &'a RowSites<'a>,
    first_row: usize,
    rows: &'a mut [f32],
}

impl Kernel for DropRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let width = self.sites.width;
        let rows = self.first_row..self.first_row + self.rows.len() / width;
        for (row, (key, first)) in self.rows.chunks_exact_mut(width).zip(self.sites.of(rows)) {
            self.sites.dropout.apply(key, first, row);
        }
    }
}

/// Where the rows of a batch stand in their sequences.
#[derive(Clone, Copy)]
pub(crate) struct RowSites<'a> {
    pub(crate) dropout: &'a Dropout<'a>,
    cu_seqlens: &'a [u32],
    width: usize,
}

impl<'a> RowSites<'a> {
    /// # Panics
    /// If the lengths disagree or the probability is not in `0..1`.
    pub(crate) fn new(dropout: &'a Dropout<'a>, cu_seqlens: &'a [u32], tokens: usize, width: usize) -> Self {
        assert!(cu_seqlens.is_sorted() && cu_seqlens.first() == Some(&0), "cu_seqlens rises from 0");
        assert_eq!(cu_seqlens.last().map(|&last| last as usize), Some(tokens), "cu_seqlens ends with the tokens");
        dropout.check(cu_seqlens, width);
        RowSites { dropout, cu_seqlens, width }
    }

    /// The key of the sequence and the first element within it, for each of these rows.
    #[inline(always)]
    pub(crate) fn of(&self, rows: Range<usize>) -> impl Iterator<Item = (u64, u32)> {
        let mut sequence = self.cu_seqlens.partition_point(|&end| end as usize <= rows.start) - 1;
        let mut key = None;
        rows.map(move |row| {
            while self.cu_seqlens[sequence + 1] as usize <= row {
                sequence += 1;
                key = None;
            }
            let key = *key.get_or_insert_with(|| self.dropout.sequence_key(sequence));
            (key, (row - self.cu_seqlens[sequence] as usize) as u32 * self.width as u32)
        })
    }
}

/// 32 bits for an element: a bijection of the element for each key, in 32-bit arithmetic that vectorises anywhere.
///
/// # Source
/// `triple32` of Wellons' hash-prospector (public domain), with the halves of the key added between its rounds.
#[inline(always)]
fn hash(key: u64, element: u32) -> u32 {
    let mut x = element ^ key as u32;
    x = (x ^ (x >> 17)).wrapping_mul(0xed5a_d4bb);
    x ^= (key >> 32) as u32;
    x = (x ^ (x >> 11)).wrapping_mul(0xac4c_1b51);
    x = x.wrapping_add(key as u32);
    x = (x ^ (x >> 15)).wrapping_mul(0x3184_8bab);
    x ^ (x >> 14)
}

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of splitmix64.
fn finalise(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{numbers, on_every_isa};

    const COUNT: u32 = 200_000;

    fn dropout(probability: f32, slots: &[u64]) -> Dropout<'_> {
        Dropout { probability, site_key: 42, slots }
    }

    /// Whether two masks of `COUNT` elements agree as often as independent ones do, within 4.5 sigma.
    #[track_caller]
    fn assert_independent(p: f64, what: &str, mut pair: impl FnMut(u32) -> (bool, bool)) {
        let both = (0..COUNT).filter(|&i| pair(i) == (false, false)).count() as f64 / f64::from(COUNT);
        let sigma = (p * p * (1.0 - p * p) / f64::from(COUNT)).sqrt();
        assert!((both - p * p).abs() < 4.5 * sigma, "{what}: both dropped {both}, expected {}", p * p);
    }

    #[test]
    fn numbers_stay_as_often_as_the_probability_says() {
        for probability in [0.0, 0.1, 0.25, 0.5, 0.9] {
            for slot in 0..5 {
                let slots = [slot];
                let dropout = dropout(probability, &slots);
                let key = dropout.sequence_key(0);
                let dropped = (0..COUNT).filter(|&i| !dropout.keep(key, i)).count() as f64;
                let p = f64::from(probability);
                let sigma = (p * (1.0 - p) * f64::from(COUNT)).sqrt();
                assert!((dropped - p * f64::from(COUNT)).abs() <= 4.0 * sigma, "{probability}, slot {slot}: {dropped}");
            }
        }
    }

    #[test]
    fn neighbours_are_dropped_independently() {
        let dropout = dropout(0.1, &[3]);
        let key = dropout.sequence_key(0);
        for distance in (1..40).chain([64, 128, 768, 3072, 1 << 16]) {
            assert_independent(0.1, &format!("distance {distance}"), |i| {
                (dropout.keep(key, i), dropout.keep(key, i + distance))
            });
        }
    }

    #[test]
    fn other_slots_and_sites_have_independent_masks() {
        let slots: Vec<u64> = (0..20).collect();
        let first = dropout(0.1, &slots);
        let key = first.sequence_key(0);
        for other in 1..20 {
            let other_key = first.sequence_key(other);
            assert_independent(0.1, "slot", |i| (first.keep(key, i), first.keep(other_key, i)));
        }
        for bit in 0..64 {
            let other = Dropout { site_key: 42 ^ (1 << bit), ..first };
            let other_key = other.sequence_key(0);
            assert_independent(0.1, "site", |i| (first.keep(key, i), other.keep(other_key, i)));
            let near_key = key ^ (1 << bit);
            assert_independent(0.1, &format!("bit {bit} of the key"), |i| {
                (first.keep(key, i), first.keep(near_key, i))
            });
        }
    }

    #[test]
    fn slot_and_site_are_not_interchangeable() {
        let (one, other) = (
            Dropout { probability: 0.1, site_key: 5, slots: &[9] },
            Dropout { probability: 0.1, site_key: 9, slots: &[5] },
        );
        assert_ne!(one.sequence_key(0), other.sequence_key(0));
    }

    #[test]
    fn kept_numbers_are_scaled_and_the_gradient_has_the_same_mask() {
        let (tokens, width) = (70, 33);
        let x: Vec<f32> = numbers(1, tokens * width).iter().map(|x| x + 10.0).collect();
        let dropout = dropout(0.3, &[7, 8]);
        let run = |rt: &Runtime| {
            let (mut y, mut gradient) = (x.clone(), vec![1.0; x.len()]);
            dropout_rows(rt, &mut y, width, &[0, 50, 70], &dropout);
            dropout_rows(rt, &mut gradient, width, &[0, 50, 70], &dropout);
            [y, gradient]
        };
        on_every_isa(run, |isa, [y, gradient]| {
            for (i, ((&x, &y), &factor)) in x.iter().zip(&y).zip(&gradient).enumerate() {
                let (sequence, element) = if i < 50 * width { (0, i) } else { (1, i - 50 * width) };
                let stays = dropout.keep(dropout.sequence_key(sequence), element as u32);
                assert_eq!(factor, if stays { 1.0 / 0.7 } else { 0.0 }, "{isa}, {i}");
                assert_eq!(y, x * factor, "{isa}, {i}");
            }
        });
    }

    #[test]
    fn a_sequence_has_one_mask_alone_or_packed() {
        let width = 21;
        let x = numbers(2, 40 * width);
        let run = |rt: &Runtime| {
            let (mut packed, mut alone) = (x.clone(), x[17 * width..30 * width].to_vec());
            // The third of five sequences, after an empty one.
            dropout_rows(rt, &mut packed, width, &[0, 17, 17, 30, 40, 40], &dropout(0.1, &[4, 5, 6, 7, 8]));
            dropout_rows(rt, &mut alone, width, &[0, 13], &dropout(0.1, &[6]));
            [packed[17 * width..30 * width].to_vec(), alone]
        };
        on_every_isa(run, |isa, [packed, alone]| assert_eq!(packed, alone, "{isa}"));
    }

    #[test]
    fn keep_factors_are_keep_and_scale() {
        let dropout = dropout(0.1, &[1]);
        let mut factors = [0.0; 100];
        dropout.keep_factors(77, 1000, &mut factors);
        for (i, factor) in (1000..).zip(factors) {
            assert_eq!(factor, if dropout.keep(77, i) { dropout.keep_scale() } else { 0.0 });
        }
    }

    #[test]
    fn no_rows_are_no_work() {
        on_every_isa(|rt| dropout_rows(rt, &mut [], 8, &[0], &dropout(0.1, &[])), |_, ()| ());
    }

    #[test]
    #[should_panic(expected = "dropout probability 1")]
    fn certain_dropout_is_refused() {
        let rt = crate::testing::runtime(crate::Isa::Portable, 1);
        dropout_rows(&rt, &mut [1.0], 1, &[0, 1], &dropout(1.0, &[0]));
    }
}
