//! A fine-tuned classifier of texts or words, with what its folder says about how to use it.

use crate::console::Console;
use crate::precision::PrecisionArgs;
use crate::{calibration, model_source};
use anyhow::bail;
use distilbert::checkpoint::model_folder::read_config;
use distilbert::data::examples::{
    Columns, DataError, Defaults, Layout, Problem, SavedTask, Task, TaskKind, are_unnamed, match_labels,
};
use distilbert::data::tagging::WordColumns;
use distilbert::model::{HeadKind, Model};
use distilbert::predict::classify;
use distilbert::progress::Progress;
use distilbert::tokenizer::Tokenizer;
use distilbert_kernels::Runtime;
use std::path::Path;

/// A classifier ready to run.
pub struct Classifier {
    /// The model, for inference alone.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What it was fine-tuned for, if its folder says so.
    pub saved: Option<SavedTask>,
    /// Kind of answer.
    pub problem: Problem,
    /// Name of each output, in order.
    pub labels: Vec<String>,
    /// What the logits are divided by before they become probabilities: 1 unless `evaluate --calibrate` stored another.
    pub temperature: f64,
}

impl Classifier {
    /// Loads the classifier of texts or words called `name` (see [`model_source::resolve`]) in the precision that it is
    /// saved in.
    ///
    /// # Errors
    /// If there is no such model, it has no head for classification, or its tokenizer has ids that it lacks.
    pub fn load(name: &str, rt: &Runtime, progress: &dyn Progress) -> anyhow::Result<Classifier> {
        Self::load_with(name, progress, |folder| model_source::load_for_inference(name, folder, rt))
    }

    /// As [`Classifier::load`], in the precision asked for.
    ///
    /// # Errors
    /// As [`Classifier::load`] and [`PrecisionArgs::load`].
    pub fn load_in(
        precision: PrecisionArgs,
        name: &str,
        rt: &Runtime,
        console: &Console,
    ) -> anyhow::Result<Classifier> {
        Self::load_with(name, console, |folder| precision.load(name, folder, rt, console))
    }

    /// Refuses a tagger of words.
    ///
    /// # Errors
    /// If it is one; `name` says which.
    pub fn of_texts(self, name: &str) -> anyhow::Result<Classifier> {
        if self.problem.is_of_words() {
            let found = self.model.config.head.class_suffix();
            bail!("model `{name}`: expected a classification head, found {found}; fine-tune it first");
        }
        Ok(self)
    }

    fn load_with(
        name: &str,
        progress: &dyn Progress,
        load: impl FnOnce(&Path) -> anyhow::Result<(Model, Tokenizer)>,
    ) -> anyhow::Result<Classifier> {
        let folder = model_source::resolve(name, progress)?;
        let (problem, labels) = match read_config(&folder)?.head {
            HeadKind::Classification { problem, labels } => (Some(problem), labels),
            HeadKind::TokenClassification { labels } => (None, labels),
            other => {
                let found = other.class_suffix();
                bail!("model `{name}`: expected a classification head, found {found}; fine-tune it first")
            }
        };
        // Only now, since the tasks of other heads are of another kind.
        let saved = SavedTask::read(&folder)?;
        let of_words = || {
            let own = saved.as_ref().map(|saved| saved.task.problem).filter(|problem| problem.is_of_words());
            own.unwrap_or_else(|| problem_of_tags(&labels))
        };
        let problem = problem.unwrap_or_else(of_words);
        let (model, tokenizer) = load(&folder)?;
        let temperature = calibration::temperature(&folder)?;
        Ok(Classifier { model, tokenizer, saved, problem, labels, temperature })
    }

    /// Refuses one text for a model that was trained on pairs, and the other way round, as far as its folder says.
    ///
    /// # Errors
    /// [`DataError::OtherKind`].
    pub fn check_kind(&self, is_pair: bool) -> Result<(), DataError> {
        self.saved.as_ref().map_or(Ok(()), |saved| saved.task.kind.check(is_pair))
    }

    /// Logits as they become probabilities. A number is what it is.
    pub fn calibrated(&self, logits: &[f32]) -> Vec<f32> {
        classify::calibrated(self.problem, self.temperature, logits)
    }

    /// Longest input in tokens: as asked, or else as it was trained, or else `otherwise`; at most what it can take.
    ///
    /// # Errors
    /// If more is asked for than the model has positions, or too little for any text.
    pub fn max_length(&self, asked: Option<usize>, otherwise: usize) -> anyhow::Result<usize> {
        let as_trained = self.saved.as_ref().map_or(otherwise, |saved| saved.max_length);
        model_source::max_length(asked, as_trained, &self.model)
    }

    /// The task that the model's own labels define.
    pub fn own_task(&self, name: &str, columns: Columns) -> Task {
        let labels = match self.problem {
            Problem::Regression => Vec::new(),
            // Files number the classes that nobody named.
            _ if are_unnamed(&self.labels) => (0..self.labels.len()).map(|id| id.to_string()).collect(),
            _ => self.labels.clone(),
        };
        Task {
            name: name.to_owned(),
            kind: if columns.pair.is_some() { TaskKind::Pair } else { TaskKind::Single },
            problem: self.problem,
            metrics: Task::usual_metrics(self.problem, labels.len()),
            labels,
            defaults: Defaults::default(),
            layout: Layout::Columns(columns),
        }
    }

    /// The task of tagging words that the model's own labels define.
    pub fn own_word_task(&self, name: &str, columns: WordColumns) -> Task {
        Task {
            name: name.to_owned(),
            kind: TaskKind::Single,
            problem: self.problem,
            metrics: Task::usual_metrics(self.problem, self.labels.len()),
            labels: self.labels.clone(),
            defaults: Defaults::default(),
            layout: Layout::Words(columns),
        }
    }

    /// For each of the task's outputs, the model's output that means the same: by name, whatever the letter case, or by
    /// place if the model's labels have no names.
    ///
    /// # Errors
    /// If the two differ in kind, number or names.
    pub fn outputs_for(&self, task: &Task) -> anyhow::Result<Vec<usize>> {
        let (expected, found) = (task.outputs(), self.labels.len());
        if expected != found {
            bail!("task `{}`: expected a model of {expected} outputs, found {found}", task.name);
        }
        if task.problem != self.problem {
            let (expected, found) = (problem_name(task.problem), problem_name(self.problem));
            bail!("task `{}`: expected a model for {expected}, found {found}", task.name);
        }
        if task.problem == Problem::Regression {
            return Ok((0..found).collect());
        }
        match match_labels(&task.labels, &self.labels) {
            Some(outputs) => Ok(outputs),
            None => bail!(
                "task `{}`: expected a model of the labels {}, found {}",
                task.name,
                task.labels.join(", "),
                self.labels.join(", ")
            ),
        }
    }
}

/// What people call a kind of answer.
pub fn problem_name(problem: Problem) -> &'static str {
    match problem {
        Problem::Classification => "classification",
        Problem::MultiLabel => "multi-label classification",
        Problem::Regression => "regression",
        Problem::Entities => "named entities",
        Problem::Tags => "tags of words",
    }
}

/// Entities if all labels are of one of their schemes.
fn problem_of_tags(labels: &[String]) -> Problem {
    let of_entities = |label: &String| {
        label == "O" || ["B-", "I-", "E-", "S-", "L-", "U-"].iter().any(|prefix| label.starts_with(prefix))
    };
    let some = labels.iter().any(|label| label != "O");
    if some && labels.iter().all(of_entities) { Problem::Entities } else { Problem::Tags }
}
