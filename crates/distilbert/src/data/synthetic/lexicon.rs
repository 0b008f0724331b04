//! The polar words: which exist, which of them a writer may use, and an even draw from them.

use crate::random::Rng;

/// The side a word, a clause or a sentence takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Polarity {
    Negative,
    Positive,
}

impl Polarity {
    pub(super) fn opposite(self) -> Self {
        match self {
            Polarity::Negative => Polarity::Positive,
            Polarity::Positive => Polarity::Negative,
        }
    }
}

/// What a polar word may be said of, or the place in a clause that it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Adjectives for anything.
    General,
    /// Adjectives for plots, scripts, films, novels.
    Story,
    /// Adjectives for people on a stage.
    Performer,
    /// Adjectives for songs and concerts.
    Music,
    /// Adjectives for dishes.
    Food,
    /// Adjectives for people who serve.
    Service,
    /// Adjectives for rooms and houses.
    Place,
    /// Adjectives for machines and their parts.
    Device,
    /// Countable nouns: "a triumph".
    Verdict,
    /// Nouns without an article: "full of charm", "without flaws".
    Quality,
    /// Verbs with the person as subject: "she adored it".
    Felt,
    /// Verbs with the thing as subject: "it impressed us".
    Struck,
    /// Verbs without an object: "the script sparkled".
    Fared,
    /// Adverbs: "beautifully written".
    Manner,
}

/// A class and its words, six negative and six positive, a common one first: with more, a model that trains for a
/// minute sees each too seldom to learn which side it is on. Verbs are `base:past`. No form occurs twice, so that the
/// words that the labelled training set may use and the others never share a form.
const WORDS: [(Class, [&str; 2]); 14] = [
    (Class::General, ["bad awful terrible dreadful horrible poor", "good great superb wonderful excellent brilliant"]),
    (
        Class::Story,
        ["dull boring tedious predictable clumsy silly", "gripping thrilling clever touching witty original"],
    ),
    (
        Class::Performer,
        [
            "wooden stiff unconvincing amateurish listless clueless",
            "talented graceful convincing charismatic gifted masterful",
        ],
    ),
    (
        Class::Music,
        ["shrill harsh grating tuneless discordant monotonous", "melodious soaring lively catchy soulful harmonious"],
    ),
    (Class::Food, ["soggy greasy burnt tasteless bland rubbery", "delicious tasty fresh tender juicy flavourful"]),
    (
        Class::Service,
        ["rude surly careless arrogant hostile grumpy", "friendly polite helpful attentive courteous cheerful"],
    ),
    (Class::Place, ["dirty cramped shabby filthy smelly gloomy", "clean cosy comfortable spacious peaceful elegant"]),
    (
        Class::Device,
        ["unreliable flimsy sluggish fragile clunky faulty", "reliable sturdy responsive durable sleek robust"],
    ),
    (Class::Verdict, ["failure disaster mess letdown disgrace nightmare", "triumph masterpiece gem treat joy success"]),
    (
        Class::Quality,
        ["flaws errors faults mistakes defects problems", "charm character style elegance beauty quality"],
    ),
    (
        Class::Felt,
        [
            "hate:hated dislike:disliked loathe:loathed despise:despised detest:detested resent:resented",
            "love:loved adore:adored enjoy:enjoyed admire:admired appreciate:appreciated cherish:cherished",
        ],
    ),
    (
        Class::Struck,
        [
            "disappoint:disappointed annoy:annoyed irritate:irritated frustrate:frustrated exasperate:exasperated disgust:disgusted",
            "impress:impressed please:pleased delight:delighted thrill:thrilled amuse:amused dazzle:dazzled",
        ],
    ),
    (
        Class::Fared,
        [
            "fail:failed flop:flopped drag:dragged stumble:stumbled falter:faltered collapse:collapsed",
            "shine:shone excel:excelled sparkle:sparkled succeed:succeeded soar:soared flourish:flourished",
        ],
    ),
    (
        Class::Manner,
        [
            "poorly tastelessly clumsily terribly sloppily carelessly",
            "beautifully brilliantly superbly skilfully elegantly masterfully",
        ],
    ),
];

/// How many of 100 words in the corpus are the common word of their deck.
const COMMON_PERCENT: usize = 30;

/// A polar word. `past` differs from `base` in verbs only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) base: &'static str,
    pub(super) past: &'static str,
}

impl Word {
    fn parse(text: &'static str) -> Self {
        let (base, past) = text.split_once(':').unwrap_or((text, text));
        Word { base, past }
    }
}

/// The polar words a writer may use, as one deck of cards for each class and polarity: a word returns only after all
/// others of its deck were dealt, so all are used equally often, but for the common ones.
#[derive(Clone)]
pub(super) struct Lexicon {
    decks: Vec<(Class, [Deck; 2])>,
    /// Of 100 words, how many are the common one of their deck without being dealt.
    common_percent: usize,
}

impl Lexicon {
    /// Every word, all equally often.
    pub(super) fn full() -> Self {
        Lexicon { decks: WORDS.map(|(class, sides)| (class, sides.map(Deck::new))).into(), common_percent: 0 }
    }

    /// Every word, with the common ones as much more frequent as in real text. A few frequent words beside which the
    /// rare ones stand are what the polarity of these is learned by first.
    pub(super) fn with_common_words() -> Self {
        Lexicon { common_percent: COMMON_PERCENT, ..Lexicon::full() }
    }

    /// About `share` of the words, drawn by `rng`, from each class and polarity at least two (coordinations such as
    /// "dull and trite" need two), and always the common one.
    pub(super) fn sample(share: f64, rng: &mut Rng) -> Self {
        let mut lexicon = Lexicon::full();
        for deck in lexicon.decks.iter_mut().flat_map(|(_, sides)| sides) {
            if let Some((_common, others)) = deck.words.split_first_mut() {
                rng.shuffle(others);
            }
            let kept = (deck.words.len() as f64 * share).round() as usize;
            deck.words.truncate(kept.max(2));
            deck.dealt = deck.words.len();
        }
        lexicon
    }

    /// The next word of a class and polarity.
    pub(super) fn deal(&mut self, class: Class, polarity: Polarity, rng: &mut Rng) -> Word {
        let (_, sides) = self
            .decks
            .iter_mut()
            .find(|(deck_class, _)| *deck_class == class)
            .expect("`full` makes decks for every class, as a test holds");
        let deck = &mut sides[polarity as usize];
        if rng.below(100) < self.common_percent { deck.common } else { deck.deal(rng) }
    }

    /// All words with their polarity.
    #[cfg(test)]
    pub(super) fn words(&self) -> impl Iterator<Item = (Word, Polarity)> + '_ {
        self.decks.iter().flat_map(|(_, [negative, positive])| {
            let negative = negative.words.iter().map(|&word| (word, Polarity::Negative));
            negative.chain(positive.words.iter().map(|&word| (word, Polarity::Positive)))
        })
    }
}

#[derive(Clone)]
struct Deck {
    common: Word,
    words: Vec<Word>,
    /// How many of `words` were dealt since the last shuffle.
    dealt: usize,
}

impl Deck {
    fn new(words: &'static str) -> Self {
        let words: Vec<Word> = words.split_whitespace().map(Word::parse).collect();
        Deck { common: words[0], dealt: words.len(), words }
    }

    fn deal(&mut self, rng: &mut Rng) -> Word {
        if self.dealt == self.words.len() {
            let last_dealt = self.words[self.words.len() - 1];
            rng.shuffle(&mut self.words);
            if self.words[0] == last_dealt {
                self.words.rotate_left(1);
            }
            self.dealt = 0;
        }
        self.dealt += 1;
        self.words[self.dealt - 1]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_form_is_in_one_deck_and_the_sides_are_balanced() {
        let mut seen = BTreeSet::new();
        let mut counts = [0; 2];
        for (word, polarity) in Lexicon::full().words() {
            counts[polarity as usize] += 1;
            assert!(seen.insert(word.base), "`{}` occurs twice", word.base);
            assert!(word.base == word.past || seen.insert(word.past), "`{}` occurs twice", word.past);
        }
        assert_eq!(counts[0], counts[1]);
        assert_eq!(counts[0], 6 * WORDS.len());
    }

    #[test]
    fn a_deck_deals_all_its_words_before_any_returns_and_none_twice_in_a_row() {
        let mut rng = Rng::from_key(&[1]);
        let mut deck = Deck::new("a b c d e");
        let dealt: Vec<&str> = (0..500).map(|_| deck.deal(&mut rng).base).collect();
        for round in dealt.chunks(5) {
            assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), 5);
        }
        assert!(dealt.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn every_class_has_decks_of_at_least_two_words_even_in_a_small_sample() {
        let lexicon = Lexicon::sample(0.01, &mut Rng::from_key(&[2]));
        assert!(lexicon.decks.iter().flat_map(|(_, sides)| sides).all(|deck| deck.words.len() == 2));
    }
}
