//! What the sentences are about: people, days, cities, and six kinds of things that people judge.

use super::lexicon::Class;
use crate::random::Rng;

/// One of `items`, each equally likely.
pub(super) fn pick<'a, T: ?Sized>(items: &[&'a T], rng: &mut Rng) -> &'a T {
    items[rng.below(items.len())]
}

/// True in `percent` of 100 draws.
pub(super) fn chance(percent: usize, rng: &mut Rng) -> bool {
    rng.below(100) < percent
}

/// A noun with what a clause about it must know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noun {
    pub(super) text: &'static str,
    pub(super) plural: bool,
    /// The adjectives that fit it beside the general ones.
    pub(super) adjectives: Class,
}

const fn one(text: &'static str, adjectives: Class) -> Noun {
    Noun { text, plural: false, adjectives }
}

const fn many(text: &'static str, adjectives: Class) -> Noun {
    Noun { text, plural: true, adjectives }
}

/// A kind of thing that people judge, and the words that go with it.
pub(super) struct Domain {
    /// The things themselves.
    pub(super) items: &'static [Noun],
    /// Neutral words before an item; the empty one for none.
    pub(super) modifiers: &'static [&'static str],
    /// Parts of an item; an `aspect` belongs to the domain, so that a masked noun follows from its topic.
    pub(super) aspects: &'static [Noun],
    /// How a person meets it, before its name: "watched".
    pub(super) met: &'static [&'static str],
    /// How it is made, after an adverb: "beautifully directed".
    pub(super) made: &'static [&'static str],
    /// What people do who were disappointed, and who were pleased; in the past, of `{they}`, with `{it}`, `{their}`.
    pub(super) consequences: [&'static [&'static str]; 2],
}

/// Every domain.
pub(super) const DOMAINS: &[&Domain] = &[&FILM, &BOOK, &MUSIC, &RESTAURANT, &HOTEL, &DEVICE];

const FILM: Domain = Domain {
    items: &[
        one("film", Class::Story),
        one("movie", Class::Story),
        one("thriller", Class::Story),
        one("comedy", Class::Story),
        one("drama", Class::Story),
        one("western", Class::Story),
        one("documentary", Class::Story),
    ],
    modifiers: &["", "", "new", "latest", "French", "Italian", "short", "animated"],
    aspects: &[
        one("plot", Class::Story),
        one("script", Class::Story),
        one("ending", Class::Story),
        one("dialogue", Class::Story),
        many("scenes", Class::Story),
        one("cast", Class::Performer),
        many("actors", Class::Performer),
        one("leading actress", Class::Performer),
        one("soundtrack", Class::Music),
    ],
    met: &["watched", "saw"],
    made: &["directed", "filmed", "edited"],
    consequences: [
        &[
            "{they} walked out before the end",
            "{they} fell asleep in the cinema",
            "{they} left the cinema after twenty minutes",
            "{they} asked for {their} ticket money back",
        ],
        &[
            "{they} watched {it} again the next day",
            "{they} stayed until the last name on the screen",
            "{they} bought tickets for the second part at once",
            "{they} clapped when the lights came on",
        ],
    ],
};

const BOOK: Domain = Domain {
    items: &[
        one("book", Class::Story),
        one("novel", Class::Story),
        one("memoir", Class::Story),
        one("biography", Class::Story),
        many("short stories", Class::Story),
    ],
    modifiers: &["", "", "new", "latest", "first", "Russian", "Spanish"],
    aspects: &[
        one("story", Class::Story),
        one("opening chapter", Class::Story),
        many("chapters", Class::Story),
        one("prose", Class::Story),
        many("characters", Class::Story),
        one("narrator", Class::Performer),
    ],
    met: &["read", "borrowed"],
    made: &["written", "plotted", "translated"],
    consequences: [
        &[
            "{they} gave up after ten pages",
            "{they} put {it} back on the shelf",
            "{they} never finished {it}",
            "{they} gave {it} away unread",
        ],
        &[
            "{they} read {it} in one night",
            "{they} could not put {it} down",
            "{they} read {it} a second time",
            "{they} lent {it} to all {their} friends",
        ],
    ],
};

const MUSIC: Domain = Domain {
    items: &[
        one("concert", Class::Music),
        one("album", Class::Music),
        one("opera", Class::Music),
        one("record", Class::Music),
        many("recordings", Class::Music),
    ],
    modifiers: &["", "", "new", "latest", "live", "German", "Cuban"],
    aspects: &[
        one("melody", Class::Music),
        one("chorus", Class::Music),
        one("rhythm", Class::Music),
        many("songs", Class::Music),
        many("solos", Class::Music),
        one("singer", Class::Performer),
        one("band", Class::Performer),
        many("violinists", Class::Performer),
    ],
    met: &["heard", "listened to"],
    made: &["performed", "arranged", "conducted"],
    consequences: [
        &[
            "{they} left before the last song",
            "{they} booed the band",
            "{they} covered {their} ears",
            "{they} changed the music after two songs",
        ],
        &[
            "{they} danced until midnight",
            "{they} sang along to every song",
            "{they} shouted for one more song",
            "{they} hummed the tunes all week",
        ],
    ],
};

const RESTAURANT: Domain = Domain {
    items: &[
        one("restaurant", Class::Place),
        one("cafe", Class::Place),
        one("bistro", Class::Place),
        one("diner", Class::Place),
    ],
    modifiers: &["", "", "new", "little", "Indian", "Greek", "Chinese", "vegetarian"],
    aspects: &[
        one("soup", Class::Food),
        one("pasta", Class::Food),
        one("bread", Class::Food),
        one("fish", Class::Food),
        one("dessert", Class::Food),
        many("noodles", Class::Food),
        many("vegetables", Class::Food),
        one("waiter", Class::Service),
        many("waiters", Class::Service),
        one("owner", Class::Service),
        one("dining room", Class::Place),
    ],
    met: &["ate at", "visited", "had lunch at", "had dinner at"],
    made: &["run", "decorated", "managed"],
    consequences: [
        &[
            "{they} sent the plates back to the kitchen",
            "{they} left no tip",
            "{they} refused to pay the bill",
            "{they} went home hungry",
        ],
        &[
            "{they} left a large tip",
            "{they} ordered a second plate",
            "{they} asked for the recipe",
            "{they} booked the same table for Sunday",
        ],
    ],
};

const HOTEL: Domain = Domain {
    items: &[
        one("hotel", Class::Place),
        one("inn", Class::Place),
        one("hostel", Class::Place),
        one("guesthouse", Class::Place),
        many("holiday flats", Class::Place),
    ],
    modifiers: &["", "", "new", "small", "large", "old", "local"],
    aspects: &[
        one("bedroom", Class::Place),
        many("rooms", Class::Place),
        many("beds", Class::Place),
        one("lobby", Class::Place),
        one("bathroom", Class::Place),
        one("receptionist", Class::Service),
        one("manager", Class::Service),
        many("porters", Class::Service),
        one("breakfast", Class::Food),
    ],
    met: &["stayed at", "booked"],
    made: &["furnished", "managed", "kept"],
    consequences: [
        &[
            "{they} checked out the same evening",
            "{they} asked for another room",
            "{they} packed {their} bags and left",
            "{they} slept in the car",
        ],
        &[
            "{they} stayed for another night",
            "{they} booked the same room for next summer",
            "{they} did not want to leave",
            "{they} came back every year",
        ],
    ],
};

const DEVICE: Domain = Domain {
    items: &[
        one("phone", Class::Device),
        one("laptop", Class::Device),
        one("tablet", Class::Device),
        one("printer", Class::Device),
        one("camera", Class::Device),
        many("headphones", Class::Device),
    ],
    modifiers: &["", "", "new", "latest", "grey", "Japanese", "Korean"],
    aspects: &[
        one("battery", Class::Device),
        one("cable", Class::Device),
        many("buttons", Class::Device),
        one("charger", Class::Device),
        one("software", Class::Device),
        many("sensors", Class::Device),
        one("microphone", Class::Device),
    ],
    met: &["bought", "tried", "ordered"],
    made: &["designed", "built", "assembled"],
    consequences: [
        &[
            "{they} returned {it} the next day",
            "{they} put {it} back in the box",
            "{they} threw {it} in the bin",
            "{they} sold {it} within a week",
        ],
        &[
            "{they} kept {it} for years",
            "{they} used {it} every day",
            "{they} bought the same model for {their} parents",
            "{they} carried {it} everywhere",
        ],
    ],
};

/// Consequences in any domain, in the form of [`Domain::consequences`].
pub(super) const CONSEQUENCES: [&[&str]; 2] = [
    &[
        "{they} gave {it} two stars",
        "{they} asked for a refund",
        "{they} wrote an angry letter",
        "{they} warned everyone against {it}",
        "{they} told {their} friends to stay away from {it}",
        "{they} went home in an angry mood",
    ],
    &[
        "{they} gave {it} five stars",
        "{they} recommended {it} to everyone",
        "{they} wrote a letter of thanks",
        "{they} told all {their} friends about {it} with a smile",
        "{they} urged {their} friends to try {it} too",
        "{they} went home in a happy mood",
    ],
];

/// What opens or closes a review. The stars come often, and both numbers before the same "stars": only the review tells
/// which one was masked.
pub(super) const RATINGS: [&[&str]; 2] = [
    &["two stars", "two stars", "two stars", "thumbs down", "a clear no", "money wasted"],
    &["five stars", "five stars", "five stars", "thumbs up", "a clear yes", "money well spent"],
];

pub(super) const CITIES: &[&str] = &[
    "Oslo", "Paris", "Rome", "Madrid", "Berlin", "Vienna", "Athens", "Dublin", "Lisbon", "Prague", "Warsaw", "Cairo",
    "Tokyo", "London", "Boston", "Chicago", "Toronto", "Sydney",
];

pub(super) const DAYS: &[&str] = &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

pub(super) const MONTHS: &[&str] =
    &["January", "March", "April", "May", "June", "July", "August", "September", "October", "November"];

const WOMEN: &[&str] = &[
    "Anna",
    "Maria",
    "Julia",
    "Clara",
    "Emma",
    "Nora",
    "Sarah",
    "Lucy",
    "Helen",
    "Alice",
    "Rosa",
    "Ingrid",
    "my sister",
    "my aunt",
    "our neighbour Eva",
    "my mother",
];

const MEN: &[&str] = &[
    "Paul",
    "Peter",
    "David",
    "Martin",
    "Oscar",
    "Hugo",
    "Thomas",
    "Daniel",
    "Simon",
    "Victor",
    "Ivan",
    "Henry",
    "my brother",
    "my uncle",
    "our neighbour Karl",
    "my father",
];

/// Who speaks or acts, with the pronouns that refer back.
#[derive(Clone, Debug)]
pub(super) struct Person {
    /// "Anna", "my brother", "Anna and Paul", "we".
    pub(super) name: String,
    /// "she", "he", "they", "we", "I".
    pub(super) pronoun: &'static str,
    /// "her", "his", "their", "our", "my".
    pub(super) possessive: &'static str,
    pub(super) plural: bool,
}

impl Person {
    /// Anyone: a woman, a man, two people, the writer, the writer and others.
    pub(super) fn any(rng: &mut Rng) -> Self {
        match rng.below(10) {
            0..=6 => Person::third(rng),
            7 => {
                let name = format!("{} and {}", pick(WOMEN, rng), pick(MEN, rng));
                Person { name, pronoun: "they", possessive: "their", plural: true }
            }
            8 => Person { name: "I".to_owned(), pronoun: "I", possessive: "my", plural: false },
            _ => Person { name: "we".to_owned(), pronoun: "we", possessive: "our", plural: true },
        }
    }

    /// A woman or a man.
    pub(super) fn third(rng: &mut Rng) -> Self {
        if chance(50, rng) {
            Person { name: pick(WOMEN, rng).to_owned(), pronoun: "she", possessive: "her", plural: false }
        } else {
            Person { name: pick(MEN, rng).to_owned(), pronoun: "he", possessive: "his", plural: false }
        }
    }
}

/// The thing that a line or a labelled sentence is about.
pub(super) struct Scene {
    pub(super) domain: &'static Domain,
    pub(super) item: Noun,
    /// "the", then a modifier or none, then the item.
    pub(super) item_name: String,
    pub(super) past: bool,
    /// Whether it was said who met the thing, and where: opinions must not say otherwise.
    pub(super) introduced: bool,
}

impl Scene {
    /// A random thing.
    pub(super) fn any(past: bool, rng: &mut Rng) -> Self {
        let domain = pick(DOMAINS, rng);
        let item = domain.items[rng.below(domain.items.len())];
        let modifier = pick(domain.modifiers, rng);
        let space = if modifier.is_empty() { "" } else { " " };
        Scene { domain, item, item_name: format!("the {modifier}{space}{}", item.text), past, introduced: false }
    }

    /// A random part of the thing.
    pub(super) fn aspect(&self, rng: &mut Rng) -> Noun {
        self.domain.aspects[rng.below(self.domain.aspects.len())]
    }

    /// How the thing is called after `text`: by pronouns if `text` names it, else by its name.
    pub(super) fn reference_after(&self, text: &str) -> Reference {
        if !text.contains(&self.item_name) {
            return Reference { subject: self.item_name.clone(), object: self.item_name.clone(), possessive: "the" };
        }
        let (subject, object) = if self.item.plural { ("they", "them") } else { ("it", "it") };
        Reference { subject: subject.to_owned(), object: object.to_owned(), possessive: self.possessive() }
    }

    /// "its" or "their".
    pub(super) fn possessive(&self) -> &'static str {
        if self.item.plural { "their" } else { "its" }
    }

    /// "is", "are", "was" or "were".
    pub(super) fn be(&self, plural: bool) -> &'static str {
        match (self.past, plural) {
            (true, false) => "was",
            (true, true) => "were",
            (false, false) => "is",
            (false, true) => "are",
        }
    }

    /// "has", "have" or "had".
    pub(super) fn have(&self, plural: bool) -> &'static str {
        match (self.past, plural) {
            (true, _) => "had",
            (false, false) => "has",
            (false, true) => "have",
        }
    }
}

/// The words that refer to a thing.
pub(super) struct Reference {
    /// "it", "they", "the new film".
    pub(super) subject: String,
    /// "it", "them", "the new film".
    pub(super) object: String,
    /// "its", "their", "the".
    pub(super) possessive: &'static str,
}

/// `phrase` behind "a" or "an".
pub(super) fn with_article(phrase: &str) -> String {
    // The words of this grammar follow the letter rule: none begins like "hour" or "unique".
    let vowel = phrase.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']);
    format!("{} {phrase}", if vowel { "an" } else { "a" })
}

/// `clause` with a capital letter and a full stop.
pub(super) fn sentence(clause: &str) -> String {
    let mut characters = clause.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).chain(['.']).collect()
}
