//! Models as they are served: loaded by the caller, found by name and by what they can answer.

use crate::memory::Share;
use distilbert::checkpoint::sentence_folder::SentenceSettings;
use distilbert::data::examples::{Problem, TaskKind};
use distilbert::data::questions::WindowConfig;
use distilbert::heads::Head;
use distilbert::model::{HeadKind, Model};
use distilbert::predict::zero_shot::{Scoring, Verdicts};
use distilbert::tokenizer::Tokenizer;
use std::sync::{Arc, PoisonError, RwLock};

/// A model ready to be served.
pub struct ServedModel {
    /// What requests call it: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Where it came from.
    pub source: String,
    /// The model, packed for inference.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What it answers.
    pub task: ServedTask,
    /// Longest input in tokens, special ones included.
    pub max_length: usize,
    /// How far its outputs are from those of the same model in f32; `None` if there is none to compare with.
    pub parity: Option<Parity>,
    /// Its part of the memory that requests have, if it came while others were served.
    pub share: Share,
}

/// What running a model in another precision than f32 changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parity {
    /// The largest difference of any output, as a share of the largest output in f32; 0 for a model in f32.
    pub largest_relative_difference: f32,
    /// Texts that it was measured on; 0 for a model in f32, with which nothing is compared.
    pub texts: usize,
}

/// What a model answers, by its head.
pub enum ServedTask {
    /// Labels or a number for a text or a pair.
    Classify {
        /// Kind of answer.
        problem: Problem,
        /// Name of each output.
        labels: Vec<String>,
        /// What logits are divided by before they become probabilities.
        temperature: f64,
        /// Whether it was trained on single texts or on pairs, if that is known.
        trained_on: Option<TaskKind>,
    },
    /// A label for each word.
    Tag {
        /// Name of each output.
        labels: Vec<String>,
        /// What logits are divided by before they become probabilities.
        temperature: f64,
    },
    /// An intent for a text and slots for its words.
    Intents {
        /// Name of each intent.
        intents: Vec<String>,
        /// Name of each slot's tag.
        slots: Vec<String>,
        /// What the intents' logits are divided by before they become probabilities.
        temperature: f64,
    },
    /// Words for masks.
    FillMask,
    /// Parts of a context that answer a question.
    Answer {
        /// How long contexts are cut.
        windows: WindowConfig,
        /// Log odds above which no answer is given, if it was trained for that.
        null_threshold: Option<f32>,
    },
    /// A vector for a text. The model's head leaves its length as it is: requests say whether it becomes one.
    Embed {
        /// Prompts.
        settings: SentenceSettings,
    },
}

/// What a request needs of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Vectors.
    Embed,
    /// Labels of texts.
    Classify,
    /// One score for a pair.
    Rerank,
    /// Whether one text follows from another.
    ZeroShot,
    /// Labels of words.
    Tag,
    /// Intents and slots.
    Intents,
    /// Words for masks.
    FillMask,
    /// Answers to questions.
    Answer,
    /// Nothing but its tokenizer.
    Tokenize,
}

impl Ability {
    /// What a model with it is, behind "expected".
    pub fn name(self) -> &'static str {
        match self {
            Ability::Embed => "an embedding model",
            Ability::Classify => "a classifier",
            Ability::Rerank => "a re-ranker model",
            Ability::ZeroShot => "a model for natural language inference",
            Ability::Tag => "a token classifier",
            Ability::Intents => "a model for intents and slots",
            Ability::FillMask => "a masked language model",
            Ability::Answer => "a question answerer",
            Ability::Tokenize => "a model",
        }
    }
}

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A name that does not fit into a path.
    #[error("model name: expected 1 to 100 letters, digits, `-`, `_` and `.`, not dots alone, found {0:?}")]
    Name(String),
    /// Two models of one name.
    #[error("model name `{0}`: expected once, found twice")]
    Twice(String),
    /// The head does not answer what it is to be served for.
    #[error("model `{name}`: expected a head that can be served, found {found}")]
    Head {
        /// The model.
        name: String,
        /// Its head.
        found: &'static str,
    },
}

impl ServedModel {
    /// Checks that a name fits into a path, before a model is loaded for it.
    ///
    /// # Errors
    /// [`ModelError::Name`] if it does not.
    pub fn check_name(name: &str) -> Result<(), ModelError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        // A path of dots alone means another place.
        let is_legal =
            (1..=100).contains(&name.len()) && name.bytes().all(legal) && name.bytes().any(|byte| byte != b'.');
        if is_legal { Ok(()) } else { Err(ModelError::Name(name.to_owned())) }
    }

    /// Checks name and head.
    ///
    /// # Errors
    /// [`ModelError`] if one does not do.
    pub fn check(&self) -> Result<(), ModelError> {
        ServedModel::check_name(&self.name)?;
        let fits = match (&self.task, &self.model.head) {
            (ServedTask::Classify { labels, .. }, Head::Classifier(_)) => labels.len() == self.outputs(),
            (ServedTask::Tag { labels, .. }, Head::Tokens(_)) => labels.len() == self.outputs(),
            (ServedTask::Intents { intents, slots, .. }, Head::Both(..)) => {
                intents.len() == self.outputs() && slots.len() == self.model.config.head.slots().len()
            }
            (ServedTask::Answer { .. }, Head::Tokens(_)) => self.model.config.head == HeadKind::QuestionAnswering,
            (ServedTask::FillMask, Head::MaskedLm(_)) | (ServedTask::Embed { .. }, Head::Embedder(_)) => true,
            _ => false,
        };
        let found = self.model.config.head.class_suffix();
        if fits { Ok(()) } else { Err(ModelError::Head { name: self.name.clone(), found }) }
    }

    fn outputs(&self) -> usize {
        self.model.config.head.outputs()
    }

    /// Numbers of a vector that it makes; 0 if it makes none.
    pub fn width(&self) -> usize {
        match &self.model.head {
            Head::Embedder(head) => head.width(),
            _ => 0,
        }
    }

    /// Whether it can answer a request that needs `ability`.
    pub fn can(&self, ability: Ability) -> bool {
        match (&self.task, ability) {
            (_, Ability::Tokenize)
            | (ServedTask::Embed { .. }, Ability::Embed)
            | (ServedTask::Classify { .. }, Ability::Classify)
            | (ServedTask::Tag { .. }, Ability::Tag)
            | (ServedTask::Intents { .. }, Ability::Intents)
            | (ServedTask::Answer { .. }, Ability::Answer)
            | (ServedTask::FillMask, Ability::FillMask) => true,
            (ServedTask::Classify { labels, .. }, Ability::Rerank) => labels.len() == 1,
            (ServedTask::Classify { problem, labels, .. }, Ability::ZeroShot) => {
                Scoring::of(*problem, labels, Verdicts::default(), false).is_ok()
            }
            _ => false,
        }
    }

    /// What it is first of all.
    pub fn main_ability(&self) -> Ability {
        match &self.task {
            ServedTask::Classify { labels, .. } if labels.len() == 1 => Ability::Rerank,
            ServedTask::Classify { .. } => Ability::Classify,
            ServedTask::Tag { .. } => Ability::Tag,
            ServedTask::Intents { .. } => Ability::Intents,
            ServedTask::FillMask => Ability::FillMask,
            ServedTask::Answer { .. } => Ability::Answer,
            ServedTask::Embed { .. } => Ability::Embed,
        }
    }
}

/// Why no model answers a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoModel {
    /// None has the name.
    #[error("model `{name}` does not exist; there {found}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Those that there are, behind "there": "are: a, b" or "is none".
        found: String,
    },
    /// The one with the name cannot do it.
    #[error("model `{name}` is not {}", needed.name())]
    Cannot {
        /// Its name.
        name: String,
        /// What is needed.
        needed: Ability,
    },
    /// No model can do it.
    #[error("expected {}; there {found}", needed.name())]
    None {
        /// What is needed.
        needed: Ability,
        /// The models that there are, in the same words.
        found: String,
    },
    /// Several can, and none was named.
    #[error("`model`: expected the name of one of several models, {found}, found none")]
    Several {
        /// Those that can.
        found: String,
    },
}

/// The models of a server, in the order in which they came.
#[derive(Default)]
pub struct Models {
    models: RwLock<Vec<Arc<ServedModel>>>,
}

impl Models {
    /// Adds a model.
    ///
    /// # Errors
    /// [`ModelError`] if it cannot be served or its name is taken.
    pub fn add(&self, model: ServedModel) -> Result<(), ModelError> {
        model.check()?;
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if models.iter().any(|other| other.name == model.name) {
            return Err(ModelError::Twice(model.name));
        }
        models.push(Arc::new(model));
        Ok(())
    }

    /// Adds a model, or puts it in the place of the one that has its name; requests that have that one keep it.
    ///
    /// # Errors
    /// [`ModelError`] if it cannot be served.
    pub fn put(&self, model: ServedModel) -> Result<(), ModelError> {
        model.check()?;
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let place = models.iter().position(|other| other.name == model.name);
        match place {
            Some(place) => models[place] = Arc::new(model),
            None => models.push(Arc::new(model)),
        }
        Ok(())
    }

    /// Takes a model out; requests that have it keep it. False if there is none of this name.
    pub fn remove(&self, name: &str) -> bool {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let place = models.iter().position(|model| model.name == name);
        place.map(|place| models.remove(place)).is_some()
    }

    /// All of them, as they are now.
    pub fn all(&self) -> Vec<Arc<ServedModel>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model of this name or, without a name, the only one with the ability.
    ///
    /// # Errors
    /// [`NoModel`] if there is no such model, or more than one.
    pub fn find(&self, name: Option<&str>, needed: Ability) -> Result<Arc<ServedModel>, NoModel> {
        let models = self.all();
        let names =
            |models: &[Arc<ServedModel>]| models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
        let there = || if models.is_empty() { "is none".to_owned() } else { format!("are: {}", names(&models)) };
        if let Some(name) = name {
            let found = models.iter().find(|model| model.name == name);
            let found = found.ok_or_else(|| NoModel::Unknown { name: name.to_owned(), found: there() })?;
            if !found.can(needed) {
                return Err(NoModel::Cannot { name: name.to_owned(), needed });
            }
            return Ok(Arc::clone(found));
        }
        let able: Vec<Arc<ServedModel>> = models.iter().filter(|model| model.can(needed)).cloned().collect();
        match &able[..] {
            [only] => Ok(Arc::clone(only)),
            [] => Err(NoModel::None { needed, found: there() }),
            several => Err(NoModel::Several { found: names(several) }),
        }
    }
}
