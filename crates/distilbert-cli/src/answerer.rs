//! A model fine-tuned for question answering, with what its folder says about how to use it.

use crate::console::Console;
use crate::model_source;
use crate::precision::PrecisionArgs;
use anyhow::bail;
use distilbert::checkpoint::model_folder::read_config;
use distilbert::data::questions::{AnsweringTask, DEFAULT_MAX_LENGTH, DEFAULT_OVERLAP, WindowConfig};
use distilbert::model::{HeadKind, Model};
use distilbert::tokenizer::Tokenizer;
use distilbert_kernels::Runtime;

/// A question answerer ready to run.
pub struct Answerer {
    /// The model, for inference alone.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What it was fine-tuned for, if its folder says so.
    pub saved: Option<AnsweringTask>,
}

impl Answerer {
    /// Loads the model called `name` (see [`model_source::resolve`]) in the precision asked for.
    ///
    /// # Errors
    /// If there is no such model or it has no question-answering head, and as [`PrecisionArgs::load`].
    pub fn load(precision: PrecisionArgs, name: &str, rt: &Runtime, console: &Console) -> anyhow::Result<Answerer> {
        let folder = model_source::resolve(name, console)?;
        let head = read_config(&folder)?.head;
        if head != HeadKind::QuestionAnswering {
            let found = head.class_suffix();
            bail!("model `{name}`: expected a question-answering head, found {found}; fine-tune it first");
        }
        let (model, tokenizer) = precision.load(name, &folder, rt, console)?;
        Ok(Answerer { model, tokenizer, saved: AnsweringTask::read(&folder)? })
    }

    /// How contexts are cut: as asked, or else as the model was trained, or else as the reference run does.
    ///
    /// # Errors
    /// If more is asked for than the model has positions.
    pub fn windows(&self, max_length: Option<usize>, doc_stride: Option<usize>) -> anyhow::Result<WindowConfig> {
        let positions = self.model.config.encoder.max_positions;
        if let Some(asked) = max_length.filter(|&asked| asked > positions) {
            bail!("--max-length: expected at most the model's {positions} positions, found {asked}");
        }
        let trained = self.saved.as_ref().map(|saved| saved.windows);
        let max_length =
            max_length.unwrap_or(trained.map_or(DEFAULT_MAX_LENGTH, |windows| windows.max_length).min(positions));
        let overlap = trained.map_or(DEFAULT_OVERLAP, |windows| windows.doc_stride).min(max_length / 2);
        Ok(WindowConfig { max_length, doc_stride: doc_stride.unwrap_or(overlap) })
    }
}
