//! `distilbert verify`: a model against reference numbers.

use crate::console::Console;
use crate::model_source;
use crate::output;
use anyhow::{Context, bail};
use clap::Args;
use distilbert::checkpoint::model_folder::HeadChoice;
use distilbert::model::{Model, Purpose};
use distilbert::verify::{Comparison, replay_distillation, verify_labelled_batch, verify_outputs};
use distilbert_kernels::{Precision, Runtime};
use std::fmt::Write;
use std::path::PathBuf;

/// Check a model against reference numbers, tensor by tensor.
///
/// `reference/make_reference.py` makes such numbers from any PyTorch checkpoint. Activations, losses and parameters may
/// differ by 1e-4 of the largest reference value of their tensor, gradients by 1e-3 of their norm; past that the command
/// names the tensors and fails.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The model: a folder, a hub name, or pip:PACKAGE. With --run or --finetune the one in DIR unless named.
    #[arg(required_unless_present_any = ["run", "finetune"])]
    model: Option<String>,
    /// A safetensors file of `input.*` tensors and the outputs expected for them [default: MODEL/expected.safetensors]
    #[arg(long, value_name = "FILE")]
    expected: Option<PathBuf>,
    /// A folder with a reference distillation run: losses, gradients and parameters of each step.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["expected", "finetune"])]
    run: Option<PathBuf>,
    /// A folder with one labelled batch: loss, logits and gradients.
    #[arg(long, value_name = "DIR", conflicts_with = "expected")]
    finetune: Option<PathBuf>,
    /// Print every comparison as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command; fails if a tensor is past its tolerance.
pub fn run(args: &VerifyArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let folder = args.model.as_deref().map(|name| model_source::resolve(name, console)).transpose()?;
    let mut not_compared = None;
    let comparisons = match (&args.expected, &args.run, &args.finetune) {
        (_, Some(run), _) => replay_distillation(rt, folder.as_deref(), run)?,
        (_, None, Some(batch)) => {
            let mut model = Model::load(folder.as_deref().unwrap_or(batch), HeadChoice::AsSaved)?.model;
            model.disable_dropout();
            model.pack(rt, Precision::F32, Purpose::Training);
            let checked = verify_labelled_batch(rt, &mut model, batch)?;
            if let Some(why) = checked.not_compared {
                console.warn(why);
            }
            not_compared = checked.not_compared;
            checked.comparisons
        }
        (expected, None, None) => {
            let folder = folder.context("name a model to verify")?;
            let expected = expected.clone().unwrap_or_else(|| folder.join("expected.safetensors"));
            let mut model = Model::load(&folder, HeadChoice::AsSaved)?.model;
            model.pack(rt, Precision::F32, Purpose::Inference);
            verify_outputs(rt, &model, &expected)?
        }
    };
    let failed: Vec<&Comparison> = comparisons.iter().filter(|comparison| !comparison.passed).collect();
    if args.json {
        let passed = failed.is_empty();
        output::print_json(
            &serde_json::json!({ "passed": passed, "comparisons": comparisons, "not_compared": not_compared }),
        )?;
    } else {
        let width = comparisons.iter().map(|comparison| comparison.name.len()).max().unwrap_or(0);
        let mut text = format!("{:width$}  {:>10}  {:>10}\n", "tensor", "difference", "allowed");
        for Comparison { name, difference, allowed, passed } in &comparisons {
            let verdict = if *passed { "ok" } else { "FAILED" };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:width$}  {difference:10.2e}  {allowed:10.2e}  {verdict}");
        }
        output::print(&text)?;
    }
    match failed.first() {
        None => Ok(()),
        Some(first) => bail!(
            "{} of {} tensors differ from the reference; the first is `{}`: difference {:.2e}, allowed {:.2e}",
            failed.len(),
            comparisons.len(),
            first.name,
            first.difference,
            first.allowed
        ),
    }
}
