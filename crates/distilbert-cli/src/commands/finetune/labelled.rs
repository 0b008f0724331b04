//! Fine-tuning on texts or words with labels.

use super::teachers::check_kinds;
use super::{FinetuneRunConfig, Job, Place, dev_split, find_dev_split, fit, warn_skipped};
use crate::classifier::Classifier;
use crate::commands::{evaluate, training};
use crate::console::Console;
use distilbert::checkpoint::model_folder::HeadChoice;
use distilbert::data::examples::{DataSet, Split, Task, load};
use distilbert::data::tagging;
use distilbert::evaluate::EvaluationResult;
use distilbert::train::Outcome;
use distilbert::train::finetune::tagging::TaggingData;
use distilbert::train::finetune::texts::TextData;
use distilbert_kernels::Runtime;
use std::path::Path;

/// A task of texts or of words.
pub struct LabelledJob<'a> {
    /// All settings.
    pub config: FinetuneRunConfig,
    /// The task.
    pub task: Task,
    /// Folder or training file.
    pub data: &'a Path,
    /// File of texts that a teacher labels.
    pub unlabelled: Option<&'a Path>,
    /// File to score, if it is not beside the training file.
    pub dev: Option<&'a Path>,
}

impl LabelledJob<'_> {
    /// The labelled texts, those for a teacher to label, and the hash of them all.
    fn texts(&self) -> anyhow::Result<(DataSet, Option<DataSet>, String)> {
        let data = load(&self.task, self.data, Split::Train)?;
        let unlabelled = self.unlabelled.map(|path| load(&self.task, path, Split::Unlabelled)).transpose()?;
        let of = |set: &DataSet| set.content_hash();
        let hash = unlabelled.as_ref().map_or_else(|| of(&data), |more| format!("{}+{}", of(&data), of(more)));
        Ok((data, unlabelled, hash))
    }
}

impl Job for LabelledJob<'_> {
    fn config(&self) -> &FinetuneRunConfig {
        &self.config
    }

    fn check_dev(&self) -> anyhow::Result<()> {
        let (dev, beside) = (self.dev, self.data.is_dir());
        if self.task.problem.is_of_words() {
            find_dev_split(dev, self.data, beside, |path| tagging::load(&self.task, path, Split::Dev))?;
        } else {
            find_dev_split(dev, self.data, beside, |path| load(&self.task, path, Split::Dev))?;
        }
        Ok(())
    }

    fn data_hash(&self) -> anyhow::Result<String> {
        match self.task.problem.is_of_words() {
            true => Ok(tagging::load(&self.task, self.data, Split::Train)?.content_hash()),
            false => Ok(self.texts()?.2),
        }
    }

    fn fit(
        &self,
        config: &mut FinetuneRunConfig,
        place: Place<'_>,
        rt: &Runtime,
        console: &Console,
    ) -> anyhow::Result<Outcome> {
        let head = HeadChoice::Replace { head: self.task.head(), seed: config.training.seed };
        let source = training::load_for(place.resume, &config.model, head, console)?;
        config.training.max_length = config.training.max_length.min(source.model.config.encoder.max_positions);
        let most = config.training.max_length;
        if self.task.problem.is_of_words() {
            let data = tagging::load(&self.task, self.data, Split::Train)?;
            warn_skipped(&data.skipped, data.split, console);
            let words = TaggingData::new(&self.task, &data, &source.tokenizer, &config.training, rt.threads())?;
            if words.long() > 0 {
                let (long, all) = (words.long(), data.sentences.len());
                console.say(&format!("{long} of {all} sentences are longer than {most} tokens and read in windows"));
            }
            return fit(source, &words, config, place, data.content_hash(), rt, console);
        }
        check_kinds(config, self.task.kind, console)?;
        let (data, unlabelled, hash) = self.texts()?;
        warn_skipped(&data.skipped, data.split, console);
        let mut unlabelled_examples = &[][..];
        if let Some(more) = &unlabelled {
            warn_skipped(&more.skipped, more.split, console);
            unlabelled_examples = &more.examples;
            console.say(&format!("{} texts for the teacher to label", more.examples.len()));
        }
        let (training, threads) = (&config.training, rt.threads());
        let texts = TextData::new(&self.task, &data, unlabelled_examples, &source.tokenizer, training, threads)?;
        if texts.truncated() > 0 {
            let (cut, all) = (texts.truncated(), data.examples.len() + unlabelled_examples.len());
            console.warn(&format!("{cut} of {all} training examples were cut to {most} tokens"));
        }
        fit(source, &texts, config, place, hash, rt, console)
    }

    fn score(
        &self,
        config: &FinetuneRunConfig,
        best: &Path,
        output: &Path,
        rt: &Runtime,
        console: &Console,
    ) -> anyhow::Result<Option<EvaluationResult>> {
        let of_words = self.task.problem.is_of_words();
        let beside = self.data.is_dir();
        let max_length = config.training.max_length;
        let best = best.to_string_lossy();
        let scored = if of_words {
            let load = |path: &Path| tagging::load(&self.task, path, Split::Dev);
            let Some(data) = dev_split(self.dev, self.data, beside, console, load)? else { return Ok(None) };
            warn_skipped(&data.skipped, data.split, console);
            evaluate::score_words(&Classifier::load(&best, rt, console)?, &data, max_length, rt, console)?
        } else {
            let load = |path: &Path| load(&self.task, path, Split::Dev);
            let Some(data) = dev_split(self.dev, self.data, beside, console, load)? else { return Ok(None) };
            warn_skipped(&data.skipped, data.split, console);
            evaluate::score(&Classifier::load(&best, rt, console)?, &data, max_length, rt, console)?
        };
        let result = scored.result.clone();
        evaluate::warn_cut(&result, max_length, console);
        evaluate::write(output, &[scored])?;
        Ok(Some(result))
    }
}
