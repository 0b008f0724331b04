//! Corpus lines without any judgement: weather, work, places, sport, the calendar. In each, some words follow from
//! others, so that masking them asks for more than the topic.

use super::opinion::Writer;
use super::scene::{CITIES, DAYS, Person, chance, pick, sentence, with_article};

impl Writer {
    /// A neutral line of one to three sentences.
    pub(super) fn neutral(&mut self) -> String {
        match self.rng.below(5) {
            0 | 1 => self.weather(),
            2 => self.work(),
            3 => self.country(),
            _ if chance(50, &mut self.rng) => self.match_day(),
            _ => self.calendar(),
        }
    }

    fn weather(&mut self) -> String {
        let weather = &WEATHER[self.rng.below(WEATHER.len())];
        let cause = pick(weather.causes, &mut self.rng);
        let effect = pick(weather.effects, &mut self.rng);
        let act = pick(weather.acts, &mut self.rng);
        let city = pick(CITIES, &mut self.rng);
        let day = pick(DAYS, &mut self.rng);
        let person = Person::any(&mut self.rng);
        let doing = |called: &str| act.replace("{they}", called).replace("{their}", person.possessive);
        let (by_name, by_pronoun) = (doing(&person.name), doing(person.pronoun));
        match self.rng.below(4) {
            0 => format!("{} {}", sentence(&format!("on {day} {cause} in {city}, so {effect}")), sentence(&by_name)),
            1 => sentence(&format!("because {cause} in {city}, {effect} and {by_name}")),
            2 => {
                let was = if person.plural { "were" } else { "was" };
                let was = format!("{} {was} in {city} on {day}", person.name);
                format!("{} {} {}", sentence(&was), sentence(&format!("{cause}, and {effect}")), sentence(&by_pronoun))
            }
            _ => sentence(&format!("{by_name} on {day} because {cause} and {effect}")),
        }
    }

    fn work(&mut self) -> String {
        let trade = &TRADES[self.rng.below(TRADES.len())];
        let person = Person::third(&mut self.rng);
        let city = pick(CITIES, &mut self.rng);
        let is_a = format!("{} is {} in {city}", person.name, with_article(trade.name));
        let (place, task, tool) = (trade.place, pick(trade.tasks, &mut self.rng), trade.tool);
        let pronoun = person.pronoun;
        match self.rng.below(3) {
            0 => format!("{} {}", sentence(&is_a), sentence(&format!("every day {pronoun} {task} {place}"))),
            1 => {
                let works = format!("{pronoun} works {place}, where {pronoun} {task}");
                let needs = format!("for that {pronoun} needs {}", with_article(tool));
                format!("{} {} {}", sentence(&is_a), sentence(&works), sentence(&needs))
            }
            _ => {
                let day = pick(DAYS, &mut self.rng);
                let lost = format!("on {day} {} forgot {} {tool}", person.name, person.possessive);
                let asks = format!("{pronoun} could not work {place} without it, because {} {task}", {
                    with_article(trade.name)
                });
                format!("{} {}", sentence(&lost), sentence(&asks))
            }
        }
    }

    fn country(&mut self) -> String {
        let (city, country, language) = COUNTRIES[self.rng.below(COUNTRIES.len())];
        let person = Person::third(&mut self.rng);
        let (name, pronoun) = (&person.name, person.pronoun);
        match self.rng.below(4) {
            0 => format!(
                "{} {}",
                sentence(&format!("{city} is the capital of {country}")),
                sentence(&format!("most people there speak {language}, and {name} learned it at school"))
            ),
            1 => format!(
                "{} {}",
                sentence(&format!("{name} lives in {city}, the capital of {country}")),
                sentence(&format!("{pronoun} speaks {language} with {} children", person.possessive))
            ),
            2 => sentence(&format!(
                "before {name} flew from {} to {city}, {pronoun} bought a map of {country} and {} dictionary",
                self.city_other_than(city),
                with_article(language)
            )),
            _ => format!(
                "{} {}",
                sentence(&format!("the train from {} to {city} was late", self.city_other_than(city))),
                sentence(&format!("when {name} arrived in {country}, everyone on the platform spoke {language}"))
            ),
        }
    }

    fn city_other_than(&mut self, city: &str) -> &'static str {
        loop {
            let other = pick(CITIES, &mut self.rng);
            if other != city {
                return other;
            }
        }
    }

    fn match_day(&mut self) -> String {
        let sport = &SPORTS[self.rng.below(SPORTS.len())];
        let (home, day) = (pick(CITIES, &mut self.rng), pick(DAYS, &mut self.rng));
        let away = self.city_other_than(home);
        let low = 1 + self.rng.below(4);
        let high = low + 1 + self.rng.below(5);
        let (won, lost) = if chance(50, &mut self.rng) { (home, away) } else { (away, home) };
        let (units, place) = (sport.units, sport.place);
        let (unit_low, unit_high) = (counted(low, units), counted(high, units));
        match self.rng.below(2) {
            0 => format!(
                "{} {}",
                sentence(&format!("on {day} {home} played {} against {away} {place}", sport.name)),
                sentence(&format!("{won} scored {unit_high} and {lost} {unit_low}, so {won} won the match"))
            ),
            _ => format!(
                "{} {}",
                sentence(&format!("{lost} lost the {} match against {won} {place}", sport.name)),
                sentence(&format!(
                    "the players from {won} scored {unit_high}, the players from {lost} only {unit_low}"
                ))
            ),
        }
    }

    fn calendar(&mut self) -> String {
        let today = self.rng.below(DAYS.len());
        let day = |offset: usize| DAYS[(today + offset) % DAYS.len()];
        let person = Person::third(&mut self.rng);
        let (name, pronoun) = (&person.name, person.pronoun);
        match self.rng.below(3) {
            0 => format!(
                "{} {}",
                sentence(&format!("yesterday was {}, so today is {}", day(0), day(1))),
                sentence(&format!("tomorrow, on {}, {name} takes the bus to {}", day(2), pick(CITIES, &mut self.rng)))
            ),
            1 => format!(
                "{} {}",
                sentence(&format!("{name} arrived on {} and left on {}", day(0), day(1))),
                sentence(&format!("{pronoun} spent only one night in {}", pick(CITIES, &mut self.rng)))
            ),
            _ => {
                let first = 1 + self.rng.below(5);
                let second = 1 + self.rng.below(4);
                let fruit = FRUITS[self.rng.below(FRUITS.len())];
                let (first_text, second_text) = (counted(first, fruit), counted(second, fruit));
                let sum = counted(first + second, fruit);
                format!(
                    "{} {}",
                    sentence(&format!("on {} {name} bought {first_text}, and on {} {second_text}", day(0), day(1))),
                    sentence(&format!("now {pronoun} has {sum}"))
                )
            }
        }
    }
}

/// "no goals", "one goal", "two goals".
fn counted(count: usize, (singular, plural): (&str, &str)) -> String {
    const NUMBERS: [&str; 11] = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    let number = NUMBERS.get(count).copied().unwrap_or("many");
    format!("{number} {}", if count == 1 { singular } else { plural })
}

struct Weather {
    causes: &'static [&'static str],
    effects: &'static [&'static str],
    /// What people do then, of `{they}`, with `{their}`.
    acts: &'static [&'static str],
}

const WEATHER: &[Weather] = &[
    Weather {
        causes: &["it rained", "it rained all night", "heavy rain fell", "it poured"],
        effects: &["the streets were wet", "the river rose", "the fields were full of water", "the roofs dripped"],
        acts: &[
            "{they} carried an umbrella",
            "{they} put on {their} raincoat",
            "{they} waited under a tree until the rain stopped",
        ],
    },
    Weather {
        causes: &["it snowed", "it snowed all day", "thick snow fell"],
        effects: &["the roads were white", "the trains stopped", "the hills were covered with snow"],
        acts: &[
            "{they} shovelled the snow from the path",
            "{they} put on {their} gloves and boots",
            "{they} took the sledge to the hill",
        ],
    },
    Weather {
        causes: &["the sun burned", "it was hot", "the sky was blue all day"],
        effects: &["the grass turned brown", "the ice cream melted", "the beaches were crowded"],
        acts: &[
            "{they} wore {their} sunglasses",
            "{they} swam in the lake",
            "{they} sat in the shade and drank cold lemonade",
        ],
    },
    Weather {
        causes: &["a storm blew", "a strong wind blew", "it was windy"],
        effects: &["the trees bent", "the boats stayed in the harbour", "hats flew through the air"],
        acts: &["{they} flew a kite", "{they} closed all the windows", "{they} held on to {their} hat"],
    },
    Weather {
        causes: &["the fog was thick", "fog lay over the town", "it was foggy"],
        effects: &["the cars drove slowly", "the planes stayed on the ground", "the tower was invisible"],
        acts: &["{they} switched on the headlights", "{they} missed the turn", "{they} could not see the bridge"],
    },
    Weather {
        causes: &["it froze", "the temperature fell below zero", "it was icy"],
        effects: &["the lake was covered with ice", "the pipes burst", "the pavements were slippery"],
        acts: &[
            "{they} skated on the lake",
            "{they} scraped the ice from the windscreen",
            "{they} lit a fire in the stove",
        ],
    },
];

struct Trade {
    name: &'static str,
    /// With its preposition.
    place: &'static str,
    /// In the present, third person singular.
    tasks: &'static [&'static str],
    tool: &'static str,
}

const TRADES: &[Trade] = &[
    Trade { name: "baker", place: "in a bakery", tasks: &["bakes rolls", "kneads dough"], tool: "oven" },
    Trade { name: "teacher", place: "at a school", tasks: &["teaches pupils", "marks homework"], tool: "red pen" },
    Trade { name: "nurse", place: "in a hospital", tasks: &["looks after patients"], tool: "thermometer" },
    Trade {
        name: "farmer",
        place: "on a farm",
        tasks: &["milks cows", "feeds pigs", "ploughs fields"],
        tool: "tractor",
    },
    Trade { name: "carpenter", place: "in a workshop", tasks: &["saws boards", "builds tables"], tool: "saw" },
    Trade { name: "gardener", place: "in a park", tasks: &["plants roses", "waters flowers"], tool: "spade" },
    Trade { name: "pilot", place: "at an airport", tasks: &["flies planes"], tool: "headset" },
    Trade { name: "barber", place: "in a salon", tasks: &["cuts hair", "trims beards"], tool: "comb" },
    Trade { name: "mechanic", place: "in a garage", tasks: &["repairs engines", "changes tyres"], tool: "wrench" },
    Trade { name: "tailor", place: "in a shop", tasks: &["sews suits", "mends trousers"], tool: "needle" },
    Trade { name: "fisherman", place: "on a boat", tasks: &["catches herring", "mends nets"], tool: "net" },
    Trade { name: "painter", place: "in a studio", tasks: &["paints portraits", "mixes colours"], tool: "brush" },
    Trade { name: "librarian", place: "in a library", tasks: &["sorts shelves"], tool: "catalogue" },
    Trade { name: "dentist", place: "in a clinic", tasks: &["fills teeth", "pulls teeth"], tool: "drill" },
    Trade { name: "astronomer", place: "in an observatory", tasks: &["watches the stars"], tool: "telescope" },
];

/// Capital, country, language.
const COUNTRIES: &[(&str, &str, &str)] = &[
    ("Oslo", "Norway", "Norwegian"),
    ("Paris", "France", "French"),
    ("Rome", "Italy", "Italian"),
    ("Madrid", "Spain", "Spanish"),
    ("Berlin", "Germany", "German"),
    ("Vienna", "Austria", "German"),
    ("Athens", "Greece", "Greek"),
    ("Lisbon", "Portugal", "Portuguese"),
    ("Prague", "Czechia", "Czech"),
    ("Warsaw", "Poland", "Polish"),
    ("Cairo", "Egypt", "Arabic"),
    ("Tokyo", "Japan", "Japanese"),
    ("London", "England", "English"),
    ("Dublin", "Ireland", "English"),
];

struct Sport {
    name: &'static str,
    /// Singular and plural.
    units: (&'static str, &'static str),
    /// With its preposition.
    place: &'static str,
}

const SPORTS: &[Sport] = &[
    Sport { name: "football", units: ("goal", "goals"), place: "in the stadium" },
    Sport { name: "hockey", units: ("goal", "goals"), place: "on the ice" },
    Sport { name: "rugby", units: ("try", "tries"), place: "on the grass" },
    Sport { name: "handball", units: ("goal", "goals"), place: "in the sports hall" },
    Sport { name: "baseball", units: ("run", "runs"), place: "on the diamond" },
];

/// Singular and plural.
const FRUITS: &[(&str, &str)] = &[
    ("apple", "apples"),
    ("pear", "pears"),
    ("orange", "oranges"),
    ("lemon", "lemons"),
    ("banana", "bananas"),
    ("melon", "melons"),
];
