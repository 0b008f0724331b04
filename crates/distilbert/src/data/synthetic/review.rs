//! Corpus lines in which someone judges something, and does what follows from the judgement.

use super::lexicon::{Class, Polarity};
use super::opinion::{Structure, Writer};
use super::scene::{CITIES, CONSEQUENCES, DAYS, MONTHS, Person, RATINGS, Scene, chance, pick, sentence};

impl Writer {
    /// A line of one to four sentences of one polarity. `is_held_out` tells of a finished opinion sentence whether it
    /// is in a labelled set; such an opinion is drawn again.
    pub(super) fn review(&mut self, polarity: Polarity, is_held_out: &dyn Fn(&str) -> bool) -> String {
        let with_rating = chance(20, &mut self.rng);
        let scene = Scene::any(!with_rating || chance(50, &mut self.rng), &mut self.rng);
        if with_rating {
            return self.rated(&scene, polarity, is_held_out);
        }
        let person = Person::any(&mut self.rng);
        match self.rng.below(10) {
            0..=2 => {
                let intro = self.introduction(&scene, &person);
                let opinion = sentence(&self.free_opinion(&scene, polarity, is_held_out));
                format!("{intro} {opinion} {}", sentence(&self.consequence(&scene, &person, person.pronoun, polarity)))
            }
            3 => {
                let opinion = self.free_opinion(&scene, polarity, is_held_out);
                let consequence = self.consequence(&scene, &person, &person.name, polarity);
                sentence(&format!("{opinion}, so {consequence}"))
            }
            4 => {
                let opinion = self.free_opinion(&scene, polarity, is_held_out);
                let consequence = self.consequence(&scene, &person, &person.name, polarity);
                sentence(&format!("{consequence} because {opinion}"))
            }
            5..=6 => {
                let opinion = sentence(&self.free_opinion(&scene, polarity, is_held_out));
                let more = sentence(&self.elaboration(&scene, polarity));
                format!("{opinion} {more} {}", sentence(&self.consequence(&scene, &person, &person.name, polarity)))
            }
            7 => {
                let intro = self.introduction(&scene, &person);
                let more = sentence(&self.elaboration(&scene, polarity));
                let felt = self.word(Class::Felt, polarity).past;
                let consequence = self.consequence(&scene, &person, person.pronoun, polarity);
                let it = scene.object_pronoun();
                format!("{intro} {} {more}", sentence(&format!("{} {felt} {it}, and {consequence}", person.pronoun)))
            }
            8 => self.two_opinions(&scene, polarity),
            _ => {
                let (first, second, third) = {
                    let mut part = || {
                        let noun = scene.aspect(&mut self.rng);
                        let adjective = self.adjective(noun, polarity);
                        format!("the {} {} {adjective}", noun.text, scene.be(noun.plural))
                    };
                    (part(), part(), part())
                };
                let consequence = self.consequence(&scene, &person, &person.name, polarity);
                format!("{} {}", sentence(&format!("{first}, {second} and {third}")), sentence(&consequence))
            }
        }
    }

    /// A rating and an opinion, in either order.
    fn rated(&mut self, scene: &Scene, polarity: Polarity, is_held_out: &dyn Fn(&str) -> bool) -> String {
        let rating = pick(RATINGS[polarity as usize], &mut self.rng);
        let opinion = self.free_opinion(scene, polarity, is_held_out);
        let more = self.elaboration(scene, polarity);
        match self.rng.below(4) {
            0 => format!("{} {}", sentence(&format!("{rating}: {opinion}")), sentence(&more)),
            1 => format!("{} {} {}", sentence(rating), sentence(&opinion), sentence(&more)),
            2 => format!("{} {} {}", sentence(&opinion), sentence(&more), sentence(rating)),
            _ => format!("{} {}", sentence(&opinion), sentence(rating)),
        }
    }

    /// Two people who agree, or who do not and act accordingly.
    fn two_opinions(&mut self, scene: &Scene, polarity: Polarity) -> String {
        let (first, mut second) = (Person::third(&mut self.rng), Person::third(&mut self.rng));
        while second.name == first.name {
            second = Person::third(&mut self.rng);
        }
        let agree = chance(40, &mut self.rng);
        let second_polarity = if agree { polarity } else { polarity.opposite() };
        let mut acts = |person: &Person, polarity| {
            let felt = self.word(Class::Felt, polarity).past;
            let consequence = self.consequence(scene, person, person.pronoun, polarity);
            (felt, consequence)
        };
        let (felt, consequence) = acts(&first, polarity);
        let (second_felt, second_consequence) = acts(&second, second_polarity);
        let link = if agree { "also " } else { "" };
        let it = scene.object_pronoun();
        format!(
            "{} {}",
            sentence(&format!("{} {felt} {}, and {consequence}", first.name, scene.item_name)),
            if agree {
                sentence(&format!("{} {link}{second_felt} {it}, so {second_consequence}", second.name))
            } else {
                sentence(&format!("but {} {second_felt} {it}, and {second_consequence}", second.name))
            }
        )
    }

    /// An opinion of any structure that is in no labelled set.
    fn free_opinion(&mut self, scene: &Scene, polarity: Polarity, is_held_out: &dyn Fn(&str) -> bool) -> String {
        loop {
            // More plain ones than in the labelled sets: were negations as frequent as plain statements, a word would
            // keep no company that tells its polarity.
            let structure = match self.rng.below(20) {
                0..=10 => Structure::Plain,
                11..=14 => Structure::Negation,
                15..=17 => Structure::Contrast,
                _ => Structure::Mixed,
            };
            let opinion = self.opinion(scene, structure, polarity);
            if !is_held_out(&sentence(&opinion)) {
                return opinion;
            }
        }
    }

    /// A second thought in the same sense, plain.
    fn elaboration(&mut self, scene: &Scene, polarity: Polarity) -> String {
        let noun = scene.aspect(&mut self.rng);
        match self.rng.below(6) {
            0 => format!("in short, {} {} {}", scene.item_name, scene.be(scene.item.plural), self.verdict(polarity)),
            1 => {
                let manner = self.word(Class::Manner, polarity).base;
                let made = pick(scene.domain.made, &mut self.rng);
                let it = if scene.item.plural { "they" } else { "it" };
                format!("{it} {} also {manner} {made}", scene.be(scene.item.plural))
            }
            2 => {
                let quality = self.word(Class::Quality, polarity).base;
                let it = if scene.item.plural { "they" } else { "it" };
                format!("{it} {} full of {quality}", scene.be(scene.item.plural))
            }
            3 => {
                let struck = self.word(Class::Struck, polarity).past;
                format!("{} {} {struck} us too", scene.possessive(), noun.text)
            }
            4 => {
                let first = self.adjective(noun, polarity);
                let second = self.adjective(scene.item, polarity);
                let it = if scene.item.plural { "they" } else { "it" };
                let (its, is, they_are) = (scene.possessive(), scene.be(noun.plural), scene.be(scene.item.plural));
                format!("{its} {} {is} {first}, and {it} {they_are} {second} as well", noun.text)
            }
            _ => {
                let adjective = self.adjective(noun, polarity);
                format!("{} {} {} {adjective} too", scene.possessive(), noun.text, scene.be(noun.plural))
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
            1 => format!("{name} {met} {item} in {city}",),
            2 => format!("in {} {name} went to {city} and {met} {item}", pick(MONTHS, &mut self.rng)),
            _ => format!("{name} {met} {item} last week"),
        })
    }

    /// What `person`, here called `called`, did in the end.
    fn consequence(&mut self, scene: &Scene, person: &Person, called: &str, polarity: Polarity) -> String {
        let side = polarity as usize;
        let template = if chance(60, &mut self.rng) {
            pick(scene.domain.consequences[side], &mut self.rng)
        } else {
            pick(CONSEQUENCES[side], &mut self.rng)
        };
        template.replace("{they}", called).replace("{it}", scene.object_pronoun()).replace("{their}", person.possessive)
    }
}
