//! `distilbert evaluate` of a sentence encoder on scored pairs: how well the similarity of embeddings follows the scores.

use super::evaluate::{Scored, table, warn, write};
use crate::console::Console;
use crate::output;
use crate::sentence_encoder::SentenceEncoder;
use anyhow::{Context, bail, ensure};
use distilbert::data::examples::{self, Columns, DataSet, Defaults, Layout, Metric, Problem, Split, Task, TaskKind};
use distilbert::evaluate::statistics::{Bootstrap, PairedTest, Retention, paired_bootstrap, retention};
use distilbert::evaluate::{EvaluationResult, Predictions};
use distilbert::predict::EmbeddingRunner;
use distilbert_kernels::Runtime;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

/// What the similarity of a pair is scored by; ranks first, since the scale of a cosine means little.
const METRICS: [Metric; 2] = [Metric::Spearman, Metric::Pearson];

/// A second model on the same examples.
#[derive(Debug, Serialize)]
pub struct Against {
    /// The second model.
    pub model: String,
    /// Its scores.
    pub metrics: BTreeMap<String, f64>,
    /// The first model's score minus the second's, tested.
    pub tests: BTreeMap<String, PairedTest>,
    /// The first model's share of the second's score.
    pub kept: BTreeMap<String, Option<Retention>>,
}

/// The task that named columns, or a name, stand for.
///
/// # Errors
/// If it is not one of pairs with a number each.
pub fn task(name: Option<&str>, columns: Option<Columns>, path: &Path) -> anyhow::Result<Task> {
    let task = match (name, columns) {
        (_, Some(columns)) => Task {
            name: name
                .map_or_else(|| path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), str::to_owned),
            kind: if columns.pair.is_some() { TaskKind::Pair } else { TaskKind::Single },
            problem: Problem::Regression,
            labels: Vec::new(),
            metrics: METRICS.to_vec(),
            defaults: Defaults::default(),
            layout: Layout::Columns(columns),
        },
        (Some(name), None) => Task { metrics: METRICS.to_vec(), ..Task::glue(name)? },
        (None, None) => bail!(
            "a sentence encoder is scored on pairs: name --task stsb, or --text-column, --pair-column and --label-column; \
             or on a collection: --retrieval"
        ),
    };
    ensure!(
        task.kind == TaskKind::Pair && task.problem == Problem::Regression,
        "task `{}`: expected pairs of texts with a number each for a sentence encoder, found another kind",
        task.name
    );
    Ok(task)
}

/// What `evaluate` was asked for.
pub struct Request<'a> {
    /// The model's name.
    pub name: &'a str,
    /// The model.
    pub model: &'a SentenceEncoder,
    /// Another one on the same pairs, by name.
    pub against: Option<(&'a str, &'a SentenceEncoder)>,
    /// First numbers of an embedding to compare.
    pub dimensions: Option<usize>,
    /// Print one line of JSON.
    pub json: bool,
    /// Where to write results.
    pub output: Option<&'a Path>,
}

/// Scores the model, and the one it is compared with, on the pairs.
pub fn run(request: &Request<'_>, data: &DataSet, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let mut scored = score(request.model, data, request.dimensions, rt, console)?;
    warn(&scored.result, request.model.max_length, console);
    let against = match request.against {
        Some((name, other)) => {
            let other = score(other, data, request.dimensions, rt, console)?;
            Some(compare(&scored, name, &other)?)
        }
        None => None,
    };
    if let Some(folder) = request.output {
        scored.model = Some(request.name.to_owned());
        write(folder, std::slice::from_ref(&scored))?;
    }
    show(&scored.result, against.as_ref(), request.json)
}

/// Prints a result and what it is compared with.
pub fn show(result: &EvaluationResult, against: Option<&Against>, json: bool) -> anyhow::Result<()> {
    if json {
        let mut value = serde_json::to_value(result)?;
        if let (Some(against), Some(object)) = (against, value.as_object_mut()) {
            object.insert("against".to_owned(), serde_json::to_value(against)?);
        }
        return output::print(&format!("{value}\n"));
    }
    let mut text = table(result, None);
    if let Some(against) = against {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "against {}", against.model);
        for (name, test) in result.metrics.iter().filter_map(|(name, _)| Some((name, against.tests.get(name)?))) {
            let (other, low, high) = (against.metrics[name], test.interval.low, test.interval.high);
            let _ = write!(
                text,
                "  {name:<18}{:>7.2}  difference {:+.2} [{:+.2}, {:+.2}], p = {:.4}",
                100.0 * other,
                100.0 * test.difference,
                100.0 * low,
                100.0 * high,
                test.p_value
            );
            if let Some(kept) = &against.kept[name] {
                let _ = write!(text, ", {:.1} % kept", 100.0 * kept.share);
            }
            text.push('\n');
        }
    }
    output::print(&text)
}

/// The similarity of each pair's embeddings against its score.
pub fn score(
    encoder: &SentenceEncoder,
    data: &DataSet,
    dimensions: Option<usize>,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Scored> {
    let mut runner = EmbeddingRunner::new(&encoder.model, dimensions)?;
    let prompt = encoder.settings.prompt(None)?;
    let mut embed = |side: &str, texts: Vec<&str>| {
        encoder.vectors(&mut runner, prompt, &texts, &format!("embedding {} {side}", data.task.name), rt, console)
    };
    let first = embed("first texts", data.examples.iter().map(|example| example.text_a.as_str()).collect())?;
    let second = embed(
        "second texts",
        data.examples.iter().map(|example| example.text_b.as_deref().unwrap_or_default()).collect(),
    )?;
    let width = runner.dimensions();
    let mut predictions = Predictions::new(&data.task, data.split);
    let pairs = first.vectors.chunks_exact(width).zip(second.vectors.chunks_exact(width));
    let tokens = first.tokens.iter().zip(&second.tokens);
    for ((example, (a, b)), (first, second)) in data.examples.iter().zip(pairs).zip(tokens) {
        let similarity: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        predictions
            .push(example, &[similarity as f32], first + second)
            .with_context(|| format!("line {}", example.line))?;
    }
    let cut: BTreeSet<usize> = first.truncated.into_iter().chain(second.truncated).collect();
    let counts = (data.skipped.len(), cut.len());
    let result = EvaluationResult::new(&predictions, &data.task.metrics, &Bootstrap::default(), counts)?;
    Ok(Scored::new(result, predictions, encoder.model.precision()))
}

fn compare(first: &Scored, name: &str, second: &Scored) -> anyhow::Result<Against> {
    let (a, b) = (first.predictions.outcomes()?, second.predictions.outcomes()?);
    let bootstrap = Bootstrap::default();
    let (mut tests, mut kept) = (BTreeMap::new(), BTreeMap::new());
    for metric in METRICS {
        tests.insert(metric.name().to_owned(), paired_bootstrap(&a, &b, metric, &bootstrap)?);
        kept.insert(metric.name().to_owned(), retention(&a, &b, metric, &bootstrap)?);
    }
    let metrics = second.result.metrics.iter().map(|(name, &value)| (name.to_owned(), value)).collect();
    Ok(Against { model: name.to_owned(), metrics, tests, kept })
}

/// The pairs of the split asked for.
pub fn pairs(task: &Task, path: &Path, split: Split) -> anyhow::Result<DataSet> {
    Ok(examples::load(task, path, split)?)
}
