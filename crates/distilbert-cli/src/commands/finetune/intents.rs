//! Fine-tuning for intents and slots.

use super::{FinetuneRunConfig, Job, Place, dev_split, find_dev_split, fit, warn_skipped};
use crate::commands::evaluate::intents as scoring;
use crate::commands::training;
use crate::console::Console;
use crate::intent_model::IntentModel;
use crate::precision::PrecisionArgs;
use distilbert::checkpoint::model_folder::HeadChoice;
use distilbert::data::examples::{Defaults, Split};
use distilbert::data::intents::{self, IntentTask};
use distilbert::evaluate::EvaluationResult;
use distilbert::model::HeadKind;
use distilbert::train::Outcome;
use distilbert::train::finetune::intents::IntentData;
use distilbert_kernels::Runtime;
use std::path::Path;

/// One model on one set of utterances.
pub struct IntentJob<'a> {
    /// All settings.
    pub config: FinetuneRunConfig,
    /// Folder of the splits, or of the training split.
    pub data: &'a Path,
    /// Split to score, if it is not beside the training split.
    pub dev: Option<&'a Path>,
}

impl IntentJob<'_> {
    /// Unless the folder is that of the training split itself.
    fn dev_is_beside(&self) -> bool {
        !self.data.join(intents::WORDS).is_file()
    }
}

impl FinetuneRunConfig {
    /// The defaults for intents and slots: those of JointBERT (batches of 32, 10 passes, 5e-5) for short texts.
    pub fn for_intents() -> FinetuneRunConfig {
        let defaults = Defaults { max_len: 64, epochs: 10, ..Defaults::default() };
        FinetuneRunConfig::with_defaults(scoring::INTENTS, defaults)
    }
}

impl Job for IntentJob<'_> {
    fn config(&self) -> &FinetuneRunConfig {
        &self.config
    }

    fn check_dev(&self) -> anyhow::Result<()> {
        find_dev_split(self.dev, self.data, self.dev_is_beside(), |path| intents::load(path, Split::Dev))?;
        Ok(())
    }

    fn data_hash(&self) -> anyhow::Result<String> {
        Ok(intents::load(self.data, Split::Train)?.content_hash())
    }

    fn fit(
        &self,
        config: &mut FinetuneRunConfig,
        place: Place<'_>,
        rt: &Runtime,
        console: &Console,
    ) -> anyhow::Result<Outcome> {
        let data = intents::load(self.data, Split::Train)?;
        warn_skipped(&data.skipped, data.split, console);
        let mut task = IntentTask::of(&config.task, &data, config.training.max_length, self.data)?;
        let head = HeadKind::IntentsAndSlots { intents: task.intents.clone(), slots: task.slots.clone() };
        let choice = HeadChoice::Replace { head, seed: config.training.seed };
        let source = training::load_for(place.resume, &config.model, choice, console)?;
        config.training.max_length = config.training.max_length.min(source.model.config.encoder.max_positions);
        task.max_length = config.training.max_length;
        let samples = IntentData::new(&task, &data, &source.tokenizer, &config.training, rt.threads())?;
        if samples.long() > 0 {
            let (long, all, most) = (samples.long(), data.utterances.len(), task.max_length);
            console.say(&format!("{long} of {all} utterances are longer than {most} tokens and read in windows"));
        }
        fit(source, &samples, config, place, data.content_hash(), rt, console)
    }

    fn score(
        &self,
        _config: &FinetuneRunConfig,
        best: &Path,
        output: &Path,
        rt: &Runtime,
        console: &Console,
    ) -> anyhow::Result<Option<EvaluationResult>> {
        let beside = self.dev_is_beside();
        let load = |path: &Path| intents::load(path, Split::Dev);
        let Some(data) = dev_split(self.dev, self.data, beside, console, load)? else { return Ok(None) };
        warn_skipped(&data.skipped, data.split, console);
        let model = IntentModel::load(PrecisionArgs::default(), &best.to_string_lossy(), rt, console)?;
        let scored = scoring::score(&model, &data, None, Split::Dev, rt, console)?;
        scoring::write(output, &scored)?;
        Ok(Some(scored.result))
    }
}
