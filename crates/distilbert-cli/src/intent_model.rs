//! A model fine-tuned for intents and slots, with what its folder says about how to use it.

use crate::calibration;
use crate::console::Console;
use crate::model_source;
use crate::precision::PrecisionArgs;
use anyhow::bail;
use distilbert::checkpoint::model_folder::read_config;
use distilbert::data::intents::IntentTask;
use distilbert::model::{HeadKind, Model};
use distilbert::tokenizer::Tokenizer;
use distilbert_kernels::Runtime;

/// Longest input of a model that does not say how it was trained.
const DEFAULT_MAX_LENGTH: usize = 64;

/// Such a model, ready to run.
pub struct IntentModel {
    /// The model, for inference alone.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What it was fine-tuned for, if its folder says so.
    pub saved: Option<IntentTask>,
    /// Names of the intents.
    pub intents: Vec<String>,
    /// Names of the slots' tags.
    pub slots: Vec<String>,
    /// What the intents' logits are divided by before they become probabilities.
    pub temperature: f64,
}

impl IntentModel {
    /// Loads the model called `name` (see [`model_source::resolve`]) in the precision asked for.
    ///
    /// # Errors
    /// If there is no such model or it has other heads, and as [`PrecisionArgs::load`].
    pub fn load(precision: PrecisionArgs, name: &str, rt: &Runtime, console: &Console) -> anyhow::Result<IntentModel> {
        let folder = model_source::resolve(name, console)?;
        let (intents, slots) = match read_config(&folder)?.head {
            HeadKind::IntentsAndSlots { intents, slots } => (intents, slots),
            other => {
                let found = other.class_suffix();
                bail!("model `{name}`: expected heads for intents and slots, found {found}; fine-tune it first")
            }
        };
        let (model, tokenizer) = precision.load(name, &folder, rt, console)?;
        let temperature = calibration::temperature(&folder)?;
        Ok(IntentModel { model, tokenizer, saved: IntentTask::read(&folder)?, intents, slots, temperature })
    }

    /// Longest input in tokens: as asked, or else as it was trained; at most what it can take.
    ///
    /// # Errors
    /// If more is asked for than the model has positions, or too little for any text.
    pub fn max_length(&self, asked: Option<usize>) -> anyhow::Result<usize> {
        let as_trained = self.saved.as_ref().map_or(DEFAULT_MAX_LENGTH, |saved| saved.max_length);
        model_source::max_length(asked, as_trained, &self.model)
    }
}
