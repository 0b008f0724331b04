//! What teachers say of the training examples, asked once, before the first step.

use super::FinetuneRunConfig;
use crate::commands::training;
use crate::console::Console;
use crate::model_source;
use anyhow::{Context, ensure};
use distilbert::data::examples::{SavedTask, TaskKind};
use distilbert::model::Model;
use distilbert::predict::{self, Logits};
use distilbert::tokenizer::Tokenizer;
use distilbert::train::finetune::TaskData;
use distilbert::train::finetune::teachers::{in_order, mean_of};
use distilbert_kernels::Runtime;

/// What the teachers say of the training part, and the teachers themselves if terms look at their layers. They see the
/// student's tokens, so the vocabularies must agree.
pub fn ask_teachers(
    config: &FinetuneRunConfig,
    tokenizer: &Tokenizer,
    data: &dyn TaskData,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Option<(Logits, Vec<Model>)>> {
    let (mse, teachers) = (config.training.soft_labels.mse, config.teachers().count());
    // Their mean is one of probabilities.
    ensure!(mse == 0.0 || teachers < 2, "soft-labels.mse: expected 0 with several teachers, found {mse}");
    let (mut answers, mut models) = (Vec::new(), Vec::new());
    for name in config.teachers() {
        let (logits, teacher) = ask_teacher(name, config, tokenizer, data, rt, console)?;
        answers.push(logits);
        if !config.training.layer_terms.is_empty() {
            models.push(teacher);
        }
    }
    let logits = match answers.len() {
        0 => return Ok(None),
        1 => answers.remove(0),
        _ => mean_of(&answers, &data.head(), config.training.soft_labels.temperature),
    };
    Ok(Some((logits, models)))
}

/// Refuses teachers that were trained on pairs where there are single texts, and the other way round.
pub fn check_kinds(config: &FinetuneRunConfig, kind: TaskKind, console: &Console) -> anyhow::Result<()> {
    for name in config.teachers() {
        if let Some(saved) = SavedTask::read(&model_source::resolve(name, console)?)? {
            saved.task.kind.check(kind == TaskKind::Pair).with_context(|| format!("teacher {name}"))?;
        }
    }
    Ok(())
}

fn ask_teacher(
    name: &str,
    config: &FinetuneRunConfig,
    tokenizer: &Tokenizer,
    data: &dyn TaskData,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<(Logits, Model)> {
    let teacher = training::load_for_inference(name, config.teacher_precision, rt, console)?;
    tokenizer.check_same_vocabulary(&teacher.tokenizer).context("teacher and student")?;
    let (expected, found) = (data.head(), &teacher.model.config.head);
    let of_teacher = || format!("teacher {name}");
    // Before it is asked, of which there is nothing yet.
    in_order(Logits::default(), found, &expected).with_context(of_teacher)?;
    let train = data.train();
    let logits = predict::logits(rt, &teacher.model, train, "asking the teacher", console)?;
    ensure!(logits.texts() == train.texts.len(), "stopped as asked, before the first step");
    let logits = in_order(logits, found, &expected).with_context(of_teacher)?;
    Ok((logits, teacher.model))
}
