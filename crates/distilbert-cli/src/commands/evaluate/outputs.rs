//! What an evaluation must not replace, told before anything is scored.

use super::EvaluateArgs;
use super::outcome::{EVALUATION_FILE, Evaluations, PREDICTIONS_FILE};
use crate::console::Console;
use crate::gather::{model_of, read_json};
use crate::{model_source, output};
use anyhow::bail;
use distilbert::checkpoint::is_same_file;
use std::path::{Path, PathBuf};

/// Scores of each query of a collection.
pub const QUERIES_FILE: &str = "queries.jsonl";

/// Question answering's files for the official scripts: answers, and odds that there is none.
pub const OFFICIAL_FILES: [&str; 2] = ["predictions.json", "null_odds.json"];

/// Refuses outputs that would replace one of `inputs`, or the results of another model or task.
///
/// # Errors
/// If one would, or what is there cannot be read.
pub fn check(args: &EvaluateArgs, task: &str, inputs: &[PathBuf], console: &Console) -> anyhow::Result<()> {
    let mut inputs = inputs.to_vec();
    inputs.extend(args.against.iter().map(PathBuf::from));
    if let Some(submission) = &args.submission {
        output::check_not_input(submission, &inputs)?;
    }
    let Some(folder) = &args.output else { return Ok(()) };
    for name in [EVALUATION_FILE, PREDICTIONS_FILE, QUERIES_FILE].iter().chain(&OFFICIAL_FILES) {
        output::check_not_input(&folder.join(name), &inputs)?;
    }
    check_results(folder, &args.model, &model_source::resolve(&args.model, console)?, task)
}

/// Scores stay beside the model that they are of; the same may be scored again.
fn check_results(folder: &Path, model: &str, model_folder: &Path, task: &str) -> anyhow::Result<()> {
    let refused =
        |found: String| bail!("{}: expected no results but this model's on {task}, found {found}", folder.display());
    let owner = model_of(folder);
    if let Some(owner) = owner.as_ref().filter(|owner| !is_same_file(owner, model_folder)) {
        return refused(format!("the place of {}", owner.display()));
    }
    let Some(there) = read_json::<Evaluations>(&folder.join(EVALUATION_FILE))? else { return Ok(()) };
    if there.result.task != task {
        return refused(format!("those on {}", there.result.task));
    }
    match there.model {
        Some(other) if other == model || is_same_file(Path::new(&other), model_folder) => Ok(()),
        Some(other) => refused(format!("those of {other}")),
        // `finetune` need not name the model that stands beside its scores.
        None if owner.is_some() => Ok(()),
        None => refused("those of a model that is gone".to_owned()),
    }
}
