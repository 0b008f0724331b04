//! The texts of labelled pairs in new pairs, for a teacher to label.
//!
//! Comparing two texts takes many pairs to learn, and a labelled set has few; its texts make far more. Most of these would
//! have nothing in common and teach little, so a first text meets those second texts that are nearest to it, and some of
//! the next ones, since the nearest alone are all alike.
//!
//! # Source
//! Thakur et al. 2021 (arXiv:2010.08240), who choose pairs by nearness too, for a cross-encoder to label.

use super::examples::Example;
use crate::random::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// How many of the nearest texts are looked at.
const NEAR: usize = 100;

/// The different texts of pairs.
#[derive(Clone, Debug, Default)]
pub struct PairTexts<'a> {
    /// In the order in which they first come.
    pub firsts: Vec<&'a str>,
    /// The same of the second ones.
    pub seconds: Vec<&'a str>,
    /// Places in `seconds` of those that each of `firsts` already stands with.
    together: Vec<BTreeSet<usize>>,
}

impl<'a> PairTexts<'a> {
    /// Examples without a second text have no part in it.
    pub fn of(examples: &'a [Example]) -> PairTexts<'a> {
        let mut found = PairTexts::default();
        let (mut of_firsts, mut of_seconds) = (BTreeMap::new(), BTreeMap::new());
        for example in examples {
            let Some(second) = &example.text_b else { continue };
            let first = place(&example.text_a, &mut found.firsts, &mut of_firsts);
            let second = place(second, &mut found.seconds, &mut of_seconds);
            found.together.resize_with(found.firsts.len(), BTreeSet::new);
            found.together[first].insert(second);
        }
        found
    }

    /// Places in `seconds` of `count` texts for the one at `first`, fewer if there are no more: half of them the nearest,
    /// the rest drawn from the hundred nearest, by `seed`. Neither texts that it stands with already nor itself.
    /// `nearness` has a number for each of `seconds`, larger for nearer.
    pub fn partners(&self, first: usize, nearness: &[f32], count: usize, seed: u64) -> Vec<usize> {
        let is_new =
            |&second: &usize| !self.together[first].contains(&second) && self.seconds[second] != self.firsts[first];
        let mut near: Vec<usize> = (0..self.seconds.len()).filter(is_new).collect();
        let nearer = |&a: &usize, &b: &usize| nearness[b].total_cmp(&nearness[a]).then(a.cmp(&b));
        if near.len() > NEAR {
            near.select_nth_unstable_by(NEAR, nearer);
            near.truncate(NEAR);
        }
        near.sort_unstable_by(nearer);
        let mut others = near.split_off(near.len().min(count.div_ceil(2)));
        Rng::from_key(&[seed, first as u64]).shuffle(&mut others);
        others.truncate(count - near.len());
        near.extend(others);
        near
    }
}

/// Where a text stands among those that came before, or behind them.
fn place<'a>(text: &'a str, texts: &mut Vec<&'a str>, places: &mut BTreeMap<&'a str, usize>) -> usize {
    *places.entry(text).or_insert_with(|| {
        texts.push(text);
        texts.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::super::examples::Label;
    use super::*;

    fn pair(first: &str, second: &str) -> Example {
        Example { text_a: first.to_owned(), text_b: Some(second.to_owned()), label: Label::None, line: 1 }
    }

    #[test]
    fn a_text_meets_its_nearest_and_some_others_and_none_that_it_stands_with() {
        let mut examples = vec![pair("a", "b"), pair("a", "c"), pair("z", "a"), pair("z", "b")];
        examples.extend((0..300).map(|number| pair("z", &format!("s{number:03}"))));
        let texts = PairTexts::of(&examples);
        assert_eq!((&texts.firsts[..], &texts.seconds[..4]), (&["a", "z"][..], &["b", "c", "a", "s000"][..]));
        // The later, the nearer; but its own texts, and itself, nearest of all.
        let nearness: Vec<f32> = (0..303).map(|place| if place < 3 { 1000.0 } else { place as f32 }).collect();
        let partners = texts.partners(0, &nearness, 9, 1);
        assert_eq!(partners[..5], [302, 301, 300, 299, 298]);
        let others: BTreeSet<usize> = partners[5..].iter().copied().collect();
        assert!(others.len() == 4 && others.iter().all(|place| (203..298).contains(place)), "{partners:?}");
        assert_eq!(texts.partners(0, &nearness, 9, 1), partners);
        assert_ne!(texts.partners(0, &nearness, 9, 2), partners);
        assert_eq!(texts.partners(0, &nearness, 1000, 1).len(), NEAR);
        // It stands with all but one.
        assert_eq!(texts.partners(1, &nearness, 9, 1), [1]);
        assert!(texts.partners(1, &nearness, 0, 1).is_empty());
    }
}
