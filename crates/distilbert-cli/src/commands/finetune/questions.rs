//! Fine-tuning for question answering: SQuAD and files like it.

use super::{FinetuneRunConfig, Job, Place, dev_split, find_dev_split, fit};
use crate::answerer::Answerer;
use crate::commands::evaluate::answers::{self, SQUAD};
use crate::commands::training;
use crate::console::Console;
use crate::precision::PrecisionArgs;
use distilbert::checkpoint::model_folder::HeadChoice;
use distilbert::checkpoint::write_atomic;
use distilbert::data::examples::{Split, TASK_FILE};
use distilbert::data::questions::{
    self, AnswerRules, AnsweringTask, DEFAULT_MAX_LENGTH, DEFAULT_OVERLAP, Normalisation, QuestionSet, WindowConfig,
};
use distilbert::evaluate::EvaluationResult;
use distilbert::model::{HeadKind, Model};
use distilbert::tokenizer::Tokenizer;
use distilbert::train::Outcome;
use distilbert::train::finetune::questions::QuestionData;
use distilbert_kernels::Runtime;
use std::path::Path;

/// One model on one file of questions, for any seed.
pub struct QuestionJob<'a> {
    /// All settings but the seed.
    pub config: FinetuneRunConfig,
    /// Folder or training file.
    pub data: &'a Path,
    /// File to score, if it is not beside the training file.
    pub dev: Option<&'a Path>,
}

impl FinetuneRunConfig {
    /// The defaults for question answering: the reference run's windows, with the larger rate that small encoders take
    /// better than BERT's 3e-5.
    pub fn for_questions() -> FinetuneRunConfig {
        let mut config = FinetuneRunConfig::with_defaults(SQUAD, Default::default());
        config.training.max_length = DEFAULT_MAX_LENGTH;
        config.training.batch_size = 16;
        config
    }
}

impl QuestionJob<'_> {
    /// What the training file asks, and its questions.
    fn load(&self, config: &FinetuneRunConfig, console: &Console) -> anyhow::Result<(AnsweringTask, QuestionSet)> {
        let data = questions::load(self.data, Split::Train)?;
        answers::warn_misplaced(&data, console);
        Ok((task(config, &data), data))
    }
}

impl Job for QuestionJob<'_> {
    fn config(&self) -> &FinetuneRunConfig {
        &self.config
    }

    fn check_dev(&self) -> anyhow::Result<()> {
        let load = |path: &Path| questions::load(path, Split::Dev);
        find_dev_split(self.dev, self.data, self.data.is_dir(), load)?;
        Ok(())
    }

    fn data_hash(&self) -> anyhow::Result<String> {
        Ok(questions::load(self.data, Split::Train)?.content_hash())
    }

    fn fit(
        &self,
        config: &mut FinetuneRunConfig,
        place: Place<'_>,
        rt: &Runtime,
        console: &Console,
    ) -> anyhow::Result<Outcome> {
        let head = HeadChoice::Replace { head: HeadKind::QuestionAnswering, seed: config.training.seed };
        let source = training::load_for(place.resume, &config.model, head, console)?;
        config.training.max_length = config.training.max_length.min(source.model.config.encoder.max_positions);
        config.doc_stride.get_or_insert(DEFAULT_OVERLAP.min(config.training.max_length / 2));

        let (task, data) = self.load(config, console)?;
        let data_hash = data.content_hash();
        let samples =
            QuestionData::new(&task, data, config.training.validation_share, &source.tokenizer, rt.threads())?;
        if samples.unusable > 0 {
            console.warn(&format!(
                "{} training questions are left out: no answer is where the file says",
                samples.unusable
            ));
        }
        if samples.truncated > 0 {
            console.warn(&format!("{} questions were cut, to leave room for their contexts", samples.truncated));
        }
        console.say(&format!(
            "training on {} windows; {} questions choose the best checkpoint",
            samples.windows(),
            samples.validation_questions()
        ));
        fit(source, &samples, config, place, data_hash, rt, console)
    }

    /// Fits the no-answer threshold first, if there are questions without an answer.
    fn score(
        &self,
        config: &FinetuneRunConfig,
        best: &Path,
        output: &Path,
        rt: &Runtime,
        console: &Console,
    ) -> anyhow::Result<Option<EvaluationResult>> {
        let data = questions::load(self.data, Split::Train)?;
        let mut task = task(config, &data);
        if task.rules.unanswerable {
            let tokenizer = Tokenizer::from_folder(best)?;
            let share = config.training.validation_share;
            let samples = QuestionData::new(&task, data, share, &tokenizer, rt.threads())?;
            let model = Model::load_for_inference(best, rt, None)?.model;
            let answers = samples.validation_answers(rt, &model, console)?;
            let fitted_on = match answers {
                Some(predictions) => {
                    task.fitted_null_threshold = predictions.fitted_threshold();
                    write_atomic(&best.join(TASK_FILE), task.to_json().as_bytes())?;
                    "fitted on the validation part"
                }
                None => "not fitted: there is no validation part",
            };
            let threshold = task.fitted_null_threshold;
            console.say(&format!("no answer where its odds are above {threshold:.3}, {fitted_on}"));
        }
        let load = |path: &Path| questions::load(path, Split::Dev);
        let Some(data) = dev_split(self.dev, self.data, self.data.is_dir(), console, load)? else {
            return Ok(None);
        };
        answers::warn_misplaced(&data, console);
        let answerer = Answerer::load(PrecisionArgs::default(), &best.to_string_lossy(), rt, console)?;
        let answered = answers::answer_as_saved(&answerer, &task, &data, rt, console)?;
        answers::write(output, &answered)?;
        Ok(Some(answered.result))
    }
}

/// What the training file asks.
fn task(config: &FinetuneRunConfig, data: &QuestionSet) -> AnsweringTask {
    let rules = AnswerRules { normalisation: Normalisation::Squad, unanswerable: data.has_unanswerable() };
    let mut task = AnsweringTask::new(&config.task, rules);
    let doc_stride = config.doc_stride.unwrap_or(DEFAULT_OVERLAP);
    task.windows = WindowConfig { max_length: config.training.max_length, doc_stride };
    task
}
