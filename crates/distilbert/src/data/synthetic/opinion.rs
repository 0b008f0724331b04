//! Opinions: one clause or sentence whose polarity follows from its structure and its polar words.

use super::lexicon::{Class, Lexicon, Polarity, Word};
use super::scene::{CITIES, DAYS, Noun, Person, Scene, chance, pick, with_article};
use crate::random::Rng;

/// How an opinion is built, that is, how its polarity follows from the polarities of its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Structure {
    /// All polar words agree with the whole.
    Plain,
    /// The words say the opposite, and a negation turns it round.
    Negation,
    /// Two clauses disagree; the one after "but", or the main clause, decides.
    Contrast,
    /// Comparatives, double negation, disappointed and exceeded expectations.
    Mixed,
}

/// Writes opinions with the words of one lexicon.
pub(super) struct Writer {
    pub(super) rng: Rng,
    pub(super) lexicon: Lexicon,
}

/// A noun phrase that can be a subject.
struct Subject {
    text: String,
    noun: Noun,
}

impl Writer {
    /// An opinion about `scene`, without capital letter and full stop.
    pub(super) fn opinion(&mut self, scene: &Scene, structure: Structure, polarity: Polarity) -> String {
        match structure {
            Structure::Plain => self.plain(scene, polarity),
            Structure::Negation => self.negation(scene, polarity),
            Structure::Contrast => self.contrast(scene, polarity),
            Structure::Mixed => self.mixed(scene, polarity),
        }
    }

    fn plain(&mut self, scene: &Scene, polarity: Polarity) -> String {
        let item = self.item(scene);
        let is = scene.be(item.noun.plural);
        match self.rng.below(10) {
            0..=2 => {
                let subject = self.subject(scene);
                self.affirmed(scene, &subject, polarity)
            }
            3 => {
                let (first, second) = self.two_aspects(scene);
                let first = self.affirmed(scene, &first, polarity);
                format!("{first}, and {}", self.affirmed(scene, &second, polarity))
            }
            4 | 5 => {
                let have = scene.have(item.noun.plural);
                let (first, second) = self.two_aspects(scene);
                let first = self.described(first.noun, polarity);
                format!("{} {have} {first} and {}", item.text, self.described(second.noun, polarity))
            }
            6 => {
                let aspect = scene.aspect(&mut self.rng);
                let described = self.described(aspect, polarity);
                let person = Person::any(&mut self.rng);
                let felt = self.word(Class::Felt, polarity).past;
                format!("{} {felt} {} and {} {}", person.name, item.text, scene.possessive(), strip_article(&described))
            }
            7 => {
                let manner = self.word(Class::Manner, polarity).base;
                let made = pick(scene.domain.made, &mut self.rng);
                if chance(50, &mut self.rng) {
                    let adjective = self.adjective(item.noun, polarity);
                    format!("{} {is} {manner} {made} and {adjective}", item.text)
                } else {
                    format!("{} {is} {manner} {made} from first to last", item.text)
                }
            }
            8 => {
                let quality = self.word(Class::Quality, polarity).base;
                format!("{} {is} {} full of {quality}", item.text, self.verdict(polarity))
            }
            _ => {
                let described = self.described(scene.item, polarity);
                let aspect = scene.aspect(&mut self.rng);
                let (it, is) = if scene.item.plural { ("these", "are") } else { ("this", "is") };
                let is = if scene.past { scene.be(scene.item.plural) } else { is };
                format!("{it} {is} {described} with {}", self.described(aspect, polarity))
            }
        }
    }

    fn negation(&mut self, scene: &Scene, polarity: Polarity) -> String {
        match self.rng.below(10) {
            0..=6 => {
                let subject = self.subject(scene);
                self.negated(scene, &subject, polarity)
            }
            7 => {
                let item = self.item(scene);
                let quality = self.word(Class::Quality, polarity.opposite()).base;
                let have = scene.have(item.noun.plural);
                let no = pick(&["no", "hardly any", "not a trace of"], &mut self.rng);
                if no.starts_with("not") {
                    format!("there {} {no} {quality} in {}", scene.be(false), item.text)
                } else {
                    format!("{} {have} {no} {quality}", item.text)
                }
            }
            8 => {
                let (first, second) = self.two_aspects(scene);
                let first = self.negated(scene, &first, polarity);
                format!("{first}, and {}", self.affirmed(scene, &second, polarity))
            }
            _ => {
                let (it, is) = if scene.item.plural { ("these", "are") } else { ("this", "is") };
                let is = if scene.past { scene.be(scene.item.plural) } else { is };
                let quality = self.word(Class::Quality, polarity.opposite()).base;
                if scene.item.plural {
                    format!("{it} {is} {} without {quality}", scene.item.text)
                } else {
                    format!("{it} {is} {} without {quality}", with_article(scene.item.text))
                }
            }
        }
    }

    fn contrast(&mut self, scene: &Scene, polarity: Polarity) -> String {
        let (minor, major) = self.two_aspects(scene);
        if chance(20, &mut self.rng) {
            // "great cast, dull film": the judgement of the whole decides.
            let part = self.adjective(minor.noun, polarity.opposite());
            let whole = self.graded(scene.item, polarity);
            let but = pick(&[",", ", but", ", yet"], &mut self.rng);
            return format!("{part} {}{but} {whole} {}", minor.noun.text, scene.item.text);
        }
        if chance(15, &mut self.rng) {
            let minor = strip_article(&self.described(minor.noun, polarity.opposite())).to_owned();
            let item = self.item(scene);
            let major = self.affirmed(scene, &item, polarity);
            return format!("despite {} {minor}, {major}", scene.possessive());
        }
        let minor = self.either_way(scene, &minor, polarity.opposite());
        let major = self.either_way(scene, &major, polarity);
        match self.rng.below(7) {
            0 => format!("although {minor}, {major}"),
            1 => format!("even though {minor}, {major}"),
            2 => format!("{major}, although {minor}"),
            3 => format!("{major}, even if {minor}"),
            4 => format!("{minor}, yet {major}"),
            _ => format!("{minor}, but {major}"),
        }
    }

    fn mixed(&mut self, scene: &Scene, polarity: Polarity) -> String {
        let subject = self.subject(scene);
        let is = scene.be(subject.noun.plural);
        let text = &subject.text;
        match self.rng.below(8) {
            0 => {
                let adjective = self.adjective(subject.noun, polarity);
                let nobody = pick(&["nobody can say", "you cannot say", "it is not true"], &mut self.rng);
                format!("{nobody} that {text} {is} not {adjective}")
            }
            1 => {
                let item = self.item(scene);
                let quality = self.word(Class::Quality, polarity).base;
                format!("{} {} not without {quality}", item.text, scene.be(item.noun.plural))
            }
            2 => {
                let more = pick(&["more", "far more", "even more"], &mut self.rng);
                // Adverbs, because many of the adjectives would not take "more".
                let manner = self.word(Class::Manner, polarity).base;
                let item = self.item(scene);
                let made = pick(scene.domain.made, &mut self.rng);
                let is = scene.be(item.noun.plural);
                format!("{} {is} {more} {manner} {made} than {}", item.text, self.yardstick())
            }
            3 => {
                let less = pick(&["less", "far less", "even less"], &mut self.rng);
                let adjective = self.specific(subject.noun, polarity.opposite());
                format!("{text} {is} {less} {adjective} than {}", self.yardstick())
            }
            4 => {
                let adjective = self.adjective(subject.noun, polarity.opposite());
                let so = pick(&["not as", "not nearly as", "not half as"], &mut self.rng);
                format!("{text} {is} {so} {adjective} as {}", self.yardstick())
            }
            5 => {
                let said = self.specific(subject.noun, polarity);
                format!("{text} {is} more {said} than {}", self.specific(subject.noun, polarity.opposite()))
            }
            6 => {
                let expected = self.verdict(polarity.opposite());
                let item = self.item(scene);
                let person = Person::any(&mut self.rng);
                format!("{} expected {expected}, and {} turned out to be {}", person.name, item.text, {
                    self.verdict(polarity)
                })
            }
            _ => {
                let item = self.item(scene);
                let verdict = self.verdict(polarity);
                format!("{} {} {verdict} instead of {}", item.text, scene.be(item.noun.plural), {
                    self.verdict(polarity.opposite())
                })
            }
        }
    }

    /// What a comparative compares with: "last time", "we expected".
    fn yardstick(&mut self) -> String {
        match self.rng.below(4) {
            0 => format!("{} expected", Person::any(&mut self.rng).name),
            1 => "the reviews promised".to_owned(),
            2 => "last time".to_owned(),
            _ => "in the old days".to_owned(),
        }
    }

    /// A clause of `polarity`, a quarter of them by negation.
    fn either_way(&mut self, scene: &Scene, subject: &Subject, polarity: Polarity) -> String {
        if chance(25, &mut self.rng) {
            self.negated(scene, subject, polarity)
        } else {
            self.affirmed(scene, subject, polarity)
        }
    }

    /// A clause whose polar words have `polarity`.
    fn affirmed(&mut self, scene: &Scene, subject: &Subject, polarity: Polarity) -> String {
        let Subject { text, noun } = subject;
        let is = scene.be(noun.plural);
        match self.rng.below(12) {
            0 => {
                let struck = self.word(Class::Struck, polarity);
                let struck = if scene.past { struck.past.to_owned() } else { format!("will {}", struck.base) };
                format!("{text} {struck} {}", pick(&["us", "everyone", "the critics", "the guests"], &mut self.rng))
            }
            1..=2 if fares(*noun) => {
                let fared = self.word(Class::Fared, polarity);
                let fared = if scene.past { fared.past.to_owned() } else { format!("is bound to {}", fared.base) };
                let fared = if noun.plural { fared.replace("is ", "are ") } else { fared };
                format!(
                    "{text} {fared} {}",
                    pick(&["from start to finish", "again and again", "in the end"], &mut self.rng)
                )
            }
            1..=2 => format!("{text} {is} {}", self.verdict(polarity)),
            3 => {
                let felt = self.word(Class::Felt, polarity);
                if scene.past {
                    format!("{} {} {text}", Person::any(&mut self.rng).name, felt.past)
                } else {
                    let you = pick(&["you", "everyone", "most people", "your friends"], &mut self.rng);
                    format!("{you} will {} {text}", felt.base)
                }
            }
            4..=6 => {
                let first = self.adjective(*noun, polarity);
                format!("{text} {is} {first} and {}", self.adjective_beside(first, *noun, polarity))
            }
            7 => {
                let first = self.adjective(*noun, polarity);
                format!("{text} {is} not only {first} but also {}", self.adjective_beside(first, *noun, polarity))
            }
            _ => format!("{text} {is} {}", self.graded(*noun, polarity)),
        }
    }

    /// A clause of `polarity` whose polar words have the opposite one.
    fn negated(&mut self, scene: &Scene, subject: &Subject, polarity: Polarity) -> String {
        let Subject { text, noun } = subject;
        let is = scene.be(noun.plural);
        let words = polarity.opposite();
        match self.rng.below(16) {
            0..=1 => format!("{text} {is} not {} at all", self.adjective(*noun, words)),
            2 => format!("{text} {is} never {}", self.adjective(*noun, words)),
            3 => format!("{text} {is} hardly {}", self.adjective(*noun, words)),
            4 => format!("{text} {is} far from {}", self.adjective(*noun, words)),
            5 => format!("{text} {is} anything but {}", self.adjective(*noun, words)),
            6 => {
                let first = self.adjective(*noun, words);
                format!("{text} {is} neither {first} nor {}", self.adjective_beside(first, *noun, words))
            }
            7 => format!("{text} {is} not in the least {}", self.adjective(*noun, words)),
            8 => format!("there {} nothing {} about {text}", scene.be(false), self.adjective(*noun, words)),
            9 => format!("nobody could call {text} {}", self.adjective(*noun, words)),
            10 => {
                let person = Person::any(&mut self.rng);
                format!("{} did not find {text} {}", person.name, self.adjective(*noun, words))
            }
            11 => {
                let not = if scene.past { "did not" } else { "will not" };
                let person = Person::any(&mut self.rng);
                format!("{} {not} {} {text}", person.name, self.word(Class::Felt, words).base)
            }
            12 => {
                let not = if scene.past { "did not" } else { "will not" };
                let whom = pick(&["us", "anyone", "the critics", "the guests"], &mut self.rng);
                format!("{text} {not} {} {whom}", self.word(Class::Struck, words).base)
            }
            13..=14 if fares(*noun) => format!("{text} did not {} in the end", self.word(Class::Fared, words).base),
            _ => {
                let hardly = pick(&["hardly", "not", "by no means", "far from"], &mut self.rng);
                format!("{text} {is} {hardly} {}", self.verdict(words))
            }
        }
    }

    /// The thing itself or a part of it, sometimes with a clause that says nothing about its worth.
    fn subject(&mut self, scene: &Scene) -> Subject {
        if chance(25, &mut self.rng) {
            return self.item(scene);
        }
        let noun = scene.aspect(&mut self.rng);
        let text = if chance(35, &mut self.rng) {
            let item = self.item(scene);
            let of = if matches!(noun.adjectives, Class::Food | Class::Service) { "at" } else { "of" };
            format!("the {} {of} {}", noun.text, item.text)
        } else {
            format!("the {}", noun.text)
        };
        Subject { text, noun }
    }

    fn item(&mut self, scene: &Scene) -> Subject {
        let mut text = scene.item_name.clone();
        if !scene.introduced && chance(20, &mut self.rng) {
            let person = Person::any(&mut self.rng).name;
            let met = pick(scene.domain.met, &mut self.rng);
            let when_or_where = if chance(50, &mut self.rng) {
                format!("on {}", pick(DAYS, &mut self.rng))
            } else {
                format!("in {}", pick(CITIES, &mut self.rng))
            };
            text.push_str(&format!(" that {person} {met} {when_or_where}"));
        }
        Subject { text, noun: scene.item }
    }

    /// Two different parts of the thing.
    fn two_aspects(&mut self, scene: &Scene) -> (Subject, Subject) {
        let aspects = scene.domain.aspects;
        let first = self.rng.below(aspects.len());
        let second = (first + 1 + self.rng.below(aspects.len() - 1)) % aspects.len();
        let subject = |noun: Noun| Subject { text: format!("the {}", noun.text), noun };
        (subject(aspects[first]), subject(aspects[second]))
    }

    /// A noun with an adjective before it: "a superb cast", "clumsy scenes".
    pub(super) fn described(&mut self, noun: Noun, polarity: Polarity) -> String {
        let phrase = format!("{} {}", self.graded(noun, polarity), noun.text);
        if noun.plural || is_mass(noun) { phrase } else { with_article(&phrase) }
    }

    /// A judging noun with its article: "a triumph", "a complete disaster".
    pub(super) fn verdict(&mut self, polarity: Polarity) -> String {
        let noun = self.word(Class::Verdict, polarity).base;
        let degree = pick(&["", "", "real ", "true "], &mut self.rng);
        with_article(&format!("{degree}{noun}"))
    }

    /// A general adjective or one that fits `noun`, in proportion to how many there are of each.
    pub(super) fn adjective(&mut self, noun: Noun, polarity: Polarity) -> &'static str {
        if chance(35, &mut self.rng) { self.word(Class::General, polarity).base } else { self.specific(noun, polarity) }
    }

    /// Another adjective than `first`.
    fn adjective_beside(&mut self, first: &'static str, noun: Noun, polarity: Polarity) -> &'static str {
        let mut second = self.adjective(noun, polarity);
        while second == first {
            second = self.adjective(noun, polarity);
        }
        second
    }

    fn specific(&mut self, noun: Noun, polarity: Polarity) -> &'static str {
        self.word(noun.adjectives, polarity).base
    }

    pub(super) fn word(&mut self, class: Class, polarity: Polarity) -> Word {
        self.lexicon.deal(class, polarity, &mut self.rng)
    }

    /// An adjective, often with another or behind an intensifier.
    pub(super) fn graded(&mut self, noun: Noun, polarity: Polarity) -> String {
        let adjective = self.adjective(noun, polarity);
        if chance(35, &mut self.rng) {
            return format!("{adjective} and {}", self.adjective_beside(adjective, noun, polarity));
        }
        format!("{}{adjective}", pick(&["", "", "", "really ", "truly ", "quite "], &mut self.rng))
    }
}

/// Whether "it shone", "it dragged" can be said of a noun.
pub(super) fn fares(noun: Noun) -> bool {
    matches!(noun.adjectives, Class::Story | Class::Performer | Class::Music)
}

/// Nouns that take no "a".
fn is_mass(noun: Noun) -> bool {
    matches!(noun.text, "dialogue" | "prose" | "bread" | "pasta" | "software")
}

fn strip_article(phrase: &str) -> &str {
    phrase.strip_prefix("a ").or_else(|| phrase.strip_prefix("an ")).unwrap_or(phrase)
}
