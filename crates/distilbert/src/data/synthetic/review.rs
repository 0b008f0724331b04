//! Corpus lines in which someone judges something, and does what follows from the judgement.

use super::lexicon::{Class, Polarity};
use super::opinion::{Structure, Writer, fares};
use super::scene::{CITIES, CONSEQUENCES, DAYS, MONTHS, Person, RATINGS, Reference, Scene, chance, pick, sentence};

impl Writer {
    /// A line of one to five sentences of one polarity. `is_held_out` tells of a finished opinion sentence whether it
    /// is in a labelled set; such an opinion is drawn again.
    pub(super) fn review(&mut self, polarity: Polarity, is_held_out: &dyn Fn(&str) -> bool) -> String {
        let past = chance(65, &mut self.rng);
        let scene = Scene::any(past, &mut self.rng);
        // Mostly lists of what was good or bad: a masked word among many of one side is the strongest lesson in which
        // side a word is on.
        if chance(60, &mut self.rng) {
            let list = self.listed(&scene, polarity);
            return self.rated(&list, polarity);
        }
        if chance(50, &mut self.rng) {
            return self.brief(&scene, polarity, is_held_out);
        }
        let body = match self.rng.below(14) {
            0..=3 => self.judged(&scene, polarity, is_held_out),
            4..=5 => self.visit(scene, polarity, is_held_out),
            6..=7 => self.reasoned(&scene, polarity, is_held_out),
            8..=10 => self.elaborated(&scene, polarity, is_held_out),
            11..=12 => self.felt(&scene, polarity),
            // Has two sides, so no rating.
            _ => return self.two_opinions(&scene, polarity),
        };
        self.rated(&body, polarity)
    }

    /// One opinion, or a few words on two parts, and a rating. In a short line each word has more weight in the average
    /// that attention begins with, so polarity is learned from these first.
    fn brief(&mut self, scene: &Scene, polarity: Polarity, is_held_out: &dyn Fn(&str) -> bool) -> String {
        let rating = sentence(pick(RATINGS[polarity as usize], &mut self.rng));
        let opinion = match self.rng.below(10) {
            0..=4 => self.free_opinion(scene, polarity, is_held_out),
            5 => {
                let noun = scene.aspect(&mut self.rng);
                format!("{} {}", self.graded(noun, polarity), noun.text)
            }
            6 => {
                let not = pick(&["not", "never", "hardly", "far from", "anything but"], &mut self.rng);
                format!("{not} {}", self.adjective(scene.item, polarity.opposite()))
            }
            _ => {
                let (first, second) = (scene.aspect(&mut self.rng), scene.item);
                let (one, other) = (self.adjective(first, polarity), self.adjective(second, polarity));
                format!("{one} {}, {other} {}", first.text, second.text)
            }
        };
        let opinion = sentence(&opinion);
        if chance(50, &mut self.rng) { format!("{rating} {opinion}") } else { format!("{opinion} {rating}") }
    }

    /// Most often a rating before or after `body`. A few frequent phrases that tell the side of most lines are what the
    /// polarity of the many rare words is learned from first.
    fn rated(&mut self, body: &str, polarity: Polarity) -> String {
        let rating = pick(RATINGS[polarity as usize], &mut self.rng);
        match self.rng.below(10) {
            0..=3 => format!("{} {body}", sentence(rating)),
            4..=6 => format!("{body} {}", sentence(rating)),
            _ => body.to_owned(),
        }
    }

    /// An opinion, and often a second thought.
    fn judged(&mut self, scene: &Scene, polarity: Polarity, is_held_out: &dyn Fn(&str) -> bool) -> String {
        let opinion = sentence(&self.free_opinion(scene, polarity, is_held_out));
        if chance(30, &mut self.rng) {
            return opinion;
        }
        let more = self.elaboration(scene, &scene.reference_after(&opinion), polarity);
        format!("{opinion} {}", sentence(&more))
    }

    /// Someone meets the thing, an opinion, what they did.
    fn visit(&mut self, mut scene: Scene, polarity: Polarity, is_held_out: &dyn Fn(&str) -> bool) -> String {
        let person = Person::any(&mut self.rng);
        let intro = self.introduction(&scene, &person);
        scene.introduced = true;
        let it = scene.reference_after(&intro);
        let mut opinion = self.free_opinion(&scene, polarity, is_held_out);
        // "Anna saw the new film. The new film was ..." reads better with a pronoun.
        if let Some(rest) = opinion.strip_prefix(&scene.item_name) {
            opinion = format!("{}{rest}", it.subject);
        }
        let consequence = self.consequence(&scene, &person, person.pronoun, &it, polarity);
        format!("{intro} {} {}", sentence(&opinion), sentence(&consequence))
    }

    /// An opinion and what follows from it, in one sentence.
    fn reasoned(&mut self, scene: &Scene, polarity: Polarity, is_held_out: &dyn Fn(&str) -> bool) -> String {
        let person = Person::any(&mut self.rng);
        let opinion = self.free_opinion(scene, polarity, is_held_out);
        if chance(60, &mut self.rng) {
            let it = scene.reference_after(&opinion);
            let consequence = self.consequence(scene, &person, &person.name, &it, polarity);
            sentence(&format!("{opinion}, so {consequence}"))
        } else {
            let it = scene.reference_after("");
            let consequence = self.consequence(scene, &person, &person.name, &it, polarity);
            sentence(&format!("{consequence} because {opinion}"))
        }
    }

    /// An opinion, a second thought, what someone did.
    fn elaborated(&mut self, scene: &Scene, polarity: Polarity, is_held_out: &dyn Fn(&str) -> bool) -> String {
        let person = Person::any(&mut self.rng);
        let opinion = sentence(&self.free_opinion(scene, polarity, is_held_out));
        let more = sentence(&self.elaboration(scene, &scene.reference_after(&opinion), polarity));
        let so_far = format!("{opinion} {more}");
        let it = scene.reference_after(&so_far);
        format!("{so_far} {}", sentence(&self.consequence(scene, &person, &person.name, &it, polarity)))
    }

    /// Someone meets the thing, feels something about it, acts, and says why.
    fn felt(&mut self, scene: &Scene, polarity: Polarity) -> String {
        let person = Person::any(&mut self.rng);
        let intro = self.introduction(scene, &person);
        let it = scene.reference_after(&intro);
        let felt = self.word(Class::Felt, polarity).past;
        let consequence = self.consequence(scene, &person, person.pronoun, &it, polarity);
        let more = sentence(&self.elaboration(scene, &it, polarity));
        format!("{intro} {} {more}", sentence(&format!("{} {felt} {}, and {consequence}", person.pronoun, it.object)))
    }

    /// Two people who agree, or who do not and act accordingly.
    fn two_opinions(&mut self, scene: &Scene, polarity: Polarity) -> String {
        let (first, mut second) = (Person::third(&mut self.rng), Person::third(&mut self.rng));
        while second.name == first.name {
            second = Person::third(&mut self.rng);
        }
        let it = scene.reference_after(&scene.item_name);
        let agree = chance(40, &mut self.rng);
        let felt = self.word(Class::Felt, polarity).past;
        let consequence = self.consequence(scene, &first, first.pronoun, &it, polarity);
        let one = sentence(&format!("{} {felt} {}, and {consequence}", first.name, scene.item_name));

        let (link, also, polarity) = if agree { ("", "also ", polarity) } else { ("but ", "", polarity.opposite()) };
        let felt = self.word(Class::Felt, polarity).past;
        let mut second_consequence = consequence.clone();
        while second_consequence == consequence {
            second_consequence = self.consequence(scene, &second, second.pronoun, &it, polarity);
        }
        let other = sentence(&format!("{link}{} {also}{felt} {}, and {second_consequence}", second.name, it.object));
        format!("{one} {other}")
    }

    /// Up to four parts of the thing in a list, a judgement of the whole, and often what someone did. So many words of
    /// one side in one line are what teaches a small model the polarity of words within a minute.
    fn listed(&mut self, scene: &Scene, polarity: Polarity) -> String {
        let mut aspects = scene.domain.aspects.to_vec();
        self.rng.shuffle(&mut aspects);
        let in_clauses = chance(40, &mut self.rng);
        let parts: Vec<String> = aspects
            .into_iter()
            .take(4)
            .map(|noun| {
                let adjective = self.graded(noun, polarity);
                if in_clauses {
                    format!("the {} {} {adjective}", noun.text, scene.be(noun.plural))
                } else {
                    format!("{adjective} {}", noun.text)
                }
            })
            .collect();
        let list = sentence(&match parts.as_slice() {
            [firsts @ .., last] if in_clauses => format!("{} and {last}", firsts.join(", ")),
            parts => parts.join(", "),
        });
        let person = Person::any(&mut self.rng);
        let it = scene.reference_after("");
        let mut called = person.name.as_str();
        let whole = match self.rng.below(3) {
            0 => {
                let felt = self.word(Class::Felt, polarity).past;
                let fitting = self.adjective(scene.item, polarity);
                called = person.pronoun;
                let (it, is) = if scene.item.plural { ("they", "were") } else { ("it", "was") };
                format!("{} {felt} {} because {it} {is} {fitting}", person.name, scene.item_name)
            }
            1 => {
                let struck = self.word(Class::Struck, polarity).past;
                let judged = self.verdict(polarity);
                let (it, is) = if scene.item.plural { ("they", "were") } else { ("it", "was") };
                format!("{} {struck} us, and {it} {is} {judged}", scene.item_name)
            }
            _ => self.elaboration(scene, &it, polarity),
        };
        let whole = sentence(&whole);
        if chance(50, &mut self.rng) {
            return format!("{list} {whole}");
        }
        let it = scene.reference_after(&whole);
        format!("{list} {whole} {}", sentence(&self.consequence(scene, &person, called, &it, polarity)))
    }

    /// An opinion of any structure that is in no labelled set.
    fn free_opinion(&mut self, scene: &Scene, polarity: Polarity, is_held_out: &dyn Fn(&str) -> bool) -> String {
        loop {
            // More plain ones than in the labelled sets: were negations as frequent as plain statements, a word would
            // keep no company that tells its polarity.
            let structure = match self.rng.below(20) {
                0..=12 => Structure::Plain,
                13..=15 => Structure::Negation,
                16..=18 => Structure::Contrast,
                _ => Structure::Mixed,
            };
            let opinion = self.opinion(scene, structure, polarity);
            if !is_held_out(&sentence(&opinion)) {
                return opinion;
            }
        }
    }

    /// A second thought in the same sense, plain, about a thing that is called `it`.
    fn elaboration(&mut self, scene: &Scene, it: &Reference, polarity: Polarity) -> String {
        let noun = scene.aspect(&mut self.rng);
        let Reference { subject, possessive, .. } = it;
        let is = scene.be(scene.item.plural);
        match self.rng.below(6) {
            0 => format!("in short, {} {is} {}", scene.item_name, self.verdict(polarity)),
            1 => {
                let manner = self.word(Class::Manner, polarity).base;
                format!("{subject} {is} also {manner} {}", pick(scene.domain.made, &mut self.rng))
            }
            2 => format!("{subject} {is} full of {}", self.word(Class::Quality, polarity).base),
            3 if fares(noun) && scene.past && chance(70, &mut self.rng) => {
                format!("{possessive} {} {} too", noun.text, self.word(Class::Fared, polarity).past)
            }
            3 => {
                let struck = self.word(Class::Struck, polarity);
                let struck = if scene.past { struck.past.to_owned() } else { format!("will {}", struck.base) };
                let whom = if scene.past { "us" } else { "you" };
                format!("{possessive} {} {struck} {whom} too", noun.text)
            }
            4 => {
                let part = self.adjective(noun, polarity);
                let whole = self.adjective(scene.item, polarity);
                format!(
                    "{possessive} {} {} {part}, and {subject} {is} {whole} as well",
                    noun.text,
                    scene.be(noun.plural)
                )
            }
            _ => {
                let adjective = self.adjective(noun, polarity);
                format!("{possessive} {} {} {adjective} too", noun.text, scene.be(noun.plural))
            }
        }
    }

    /// Someone meets the thing.
    fn introduction(&mut self, scene: &Scene, person: &Person) -> String {
        let met = pick(scene.domain.met, &mut self.rng);
        let city = pick(CITIES, &mut self.rng);
        let (name, item) = (&person.name, &scene.item_name);
        sentence(&match self.rng.below(4) {
            0 => format!("on {} {name} {met} {item}", pick(DAYS, &mut self.rng)),
            1 => format!("{name} {met} {item} in {city}"),
            2 => format!("in {} {name} went to {city} and {met} {item}", pick(MONTHS, &mut self.rng)),
            _ => format!("{name} {met} {item} last week"),
        })
    }

    /// What `person`, here called `called`, did in the end with the thing, here called `it`.
    fn consequence(
        &mut self,
        scene: &Scene,
        person: &Person,
        called: &str,
        it: &Reference,
        polarity: Polarity,
    ) -> String {
        let side = polarity as usize;
        let template = if chance(60, &mut self.rng) {
            pick(scene.domain.consequences[side], &mut self.rng)
        } else {
            pick(CONSEQUENCES[side], &mut self.rng)
        };
        template.replace("{they}", called).replace("{it}", &it.object).replace("{their}", person.possessive)
    }
}
