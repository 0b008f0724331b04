//! What is known of a model, gathered from its run directory or model folder for a report.

use crate::commands::evaluate::{EVALUATION_FILE, Evaluations, predictions_file};
use crate::console::Console;
use crate::measure::measure;
use crate::model_source;
use anyhow::{Context, bail};
use distilbert::checkpoint::Checkpoint;
use distilbert::evaluate::KeptPredictions;
use distilbert::model::Model;
use distilbert::report::{Evaluation, Lineage, LossCurve, ModelReport, Role};
use distilbert_kernels::Runtime;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::path::{Path, PathBuf};

/// File that says where a model comes from.
pub const LINEAGE_FILE: &str = "lineage.json";

/// File of a run over several seeds: its scores.
const SUMMARY_FILE: &str = "summary.json";

/// Gathers everything for one model of a report: `path` is a run directory, one with a run for each seed (`seed-N/`),
/// a model folder, or a name that [`model_source::resolve`] takes. Speed is measured only if `speed`.
///
/// Of several seeds the first is shown, so that no score has a part in the choice and two models are compared on the
/// same seed; the scores of all are their spread.
///
/// # Errors
/// If there is neither a model nor an evaluation, or a file of the run is not what it should be. What is merely missing
/// stays unknown: a run whose weights were deleted has its scores still.
pub fn gather(
    name: &str,
    role: Role,
    path: &Path,
    speed: bool,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<ModelReport> {
    let place = Place::find(path, console)?;
    let mut report = ModelReport {
        name: name.to_owned(),
        role,
        evaluations: evaluations(&place.run)?,
        loss_curves: loss_curves(&place.run.join("metrics.jsonl"))?,
        lineage: lineage(&place)?,
        ..ModelReport::default()
    };
    if let Some(summary) = read_json::<Summary>(&path.join(SUMMARY_FILE))? {
        let metric = report.evaluations.first().and_then(|evaluation| evaluation.result.main_metric());
        match metric {
            Some((metric, _)) if metric != summary.metric => console.warn(&format!(
                "{}: the seeds' scores are {}, the evaluation's main metric is {metric}; they are left out",
                path.join(SUMMARY_FILE).display(),
                summary.metric
            )),
            Some(_) => report.seed_scores = summary.scores,
            // Of the slice that chose checkpoints: no score of this report.
            None => {}
        }
    }
    let Some(folder) = &place.model else {
        console.warn(&format!("{}: no weights are left, so neither size nor speed is known", path.display()));
        return Ok(report);
    };
    let model = Model::load_for_inference(folder, rt, None)?.model;
    report.parameters = Some(model.parameters.count() as u64);
    report.size_bytes = Some(size_bytes(&Checkpoint::open(folder)?)?);
    if speed {
        let speed = measure(rt, &model).with_context(|| format!("measuring {name}"))?;
        report.latency_ms_p50 = speed.latency_ms_p50();
        report.sequences_per_second = Some(speed.sequences_per_second);
        report.tokens_per_second = Some(speed.tokens_per_second);
        report.latency_by_length = speed.latency_ms_by_length;
    }
    Ok(report)
}

/// What speeds are measured on: processor, threads, instruction set.
pub fn machine(rt: &Runtime) -> String {
    let threads = if rt.threads() == 1 { "1 thread".to_owned() } else { format!("{} threads", rt.threads()) };
    format!("{}, {threads}, {}", cpu_name().as_deref().unwrap_or(std::env::consts::ARCH), rt.isa())
}

/// What the processor calls itself, if the system tells it.
pub fn cpu_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Bytes of the files that hold the weights.
///
/// # Errors
/// If a file's size cannot be read.
pub fn size_bytes(checkpoint: &Checkpoint) -> anyhow::Result<u64> {
    let size = |path: &Path| Ok(fs::metadata(path).with_context(|| path.display().to_string())?.len());
    checkpoint.files().map(size).sum()
}

/// Reads a JSON file; `None` if there is none.
///
/// # Errors
/// If the file cannot be read or holds something else.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).with_context(|| path.display().to_string())
}

fn read_text(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Where a model and the files about it are.
struct Place {
    /// Holds metrics and scores.
    run: PathBuf,
    /// Holds weights and configuration; `None` if they are gone and the scores are left.
    model: Option<PathBuf>,
}

impl Place {
    fn find(path: &Path, console: &Console) -> anyhow::Result<Place> {
        let runs: Vec<PathBuf> = std::iter::once(path.to_owned()).chain(seeds(path)).collect();
        let found = |model: fn(&Path) -> Option<PathBuf>| {
            runs.iter().find_map(|run| Some(Place { run: run.clone(), model: Some(model(run)?) }))
        };
        if let Some(place) = found(best).or_else(|| found(last_checkpoint)) {
            return Ok(place);
        }
        let model = if path.is_dir() {
            path.to_owned()
        } else {
            let name = path.to_str().with_context(|| format!("{}: not a name", path.display()))?;
            model_source::resolve(name, console)?
        };
        if model.join("config.json").is_file() {
            return Ok(Place { run: model.clone(), model: Some(model) });
        }
        let scored = runs.into_iter().find(|run| run.join(EVALUATION_FILE).is_file());
        let run = scored.with_context(|| {
            let expected = "a finished run (`best`), a model (`config.json`) or scores";
            format!("{}: expected {expected} (`{EVALUATION_FILE}`), found none of them", path.display())
        })?;
        Ok(Place { run, model: None })
    }
}

/// The model whose scores stand in this folder: of a run its best checkpoint, or the model that the folder is.
pub fn model_of(folder: &Path) -> Option<PathBuf> {
    let is_model = || folder.join("config.json").is_file().then(|| folder.to_owned());
    best(folder).or_else(|| last_checkpoint(folder)).or_else(is_model)
}

/// The best checkpoint of a run that measured something.
fn best(run: &Path) -> Option<PathBuf> {
    Some(run.join("best")).filter(|best| best.is_dir())
}

/// The last checkpoint of a run that measured nothing, and so has no best one.
fn last_checkpoint(run: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(run.join("checkpoints")).ok()?.flatten().map(|entry| entry.path());
    entries.filter(|checkpoint| checkpoint.join("config.json").is_file()).max()
}

/// The runs for each seed, by seed.
fn seeds(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let seed = |path: &Path| path.file_name()?.to_str()?.strip_prefix("seed-")?.parse::<u64>().ok();
    let mut runs: Vec<(u64, PathBuf)> =
        entries.flatten().filter_map(|entry| Some((seed(&entry.path())?, entry.path()))).collect();
    runs.sort();
    runs.into_iter().map(|(_, run)| run).collect()
}

#[derive(Deserialize)]
struct Summary {
    metric: String,
    scores: Vec<f64>,
}

fn evaluations(run: &Path) -> anyhow::Result<Vec<Evaluation>> {
    let Some(found) = read_json::<Evaluations>(&run.join(EVALUATION_FILE))? else { return Ok(Vec::new()) };
    let mut evaluations = Vec::new();
    for (index, result) in std::iter::once(found.result).chain(found.also).enumerate() {
        let path = run.join(predictions_file(index, &result.split));
        let predictions = read_text(&path)?.map(|text| KeptPredictions::read(&text)).transpose();
        let predictions = predictions.with_context(|| path.display().to_string())?;
        if let Some((task, split, rows)) = predictions.as_ref().map(KeptPredictions::of)
            && (task, split.name(), rows) != (&result.task, &result.split, result.n)
        {
            bail!(
                "{}: expected {} predictions of {} {}, found {rows} of {task} {split}",
                path.display(),
                result.n,
                result.task,
                result.split,
            );
        }
        evaluations.push(Evaluation { result, predictions });
    }
    Ok(evaluations)
}

#[derive(Deserialize)]
struct MetricsLine {
    kind: String,
    step: f64,
    loss: Option<f64>,
}

/// The losses over training; a last line without its end, of a run that was killed, is left out.
fn loss_curves(path: &Path) -> anyhow::Result<Vec<LossCurve>> {
    let Some(text) = read_text(path)? else { return Ok(Vec::new()) };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut curves =
        [("train", "training loss"), ("held_out", "held-out loss")].map(|(kind, name)| (kind, name, Vec::new()));
    for (index, line) in whole.lines().enumerate() {
        let line: MetricsLine =
            serde_json::from_str(line).with_context(|| format!("{} line {}", path.display(), index + 1))?;
        let curve = curves.iter_mut().find(|(kind, ..)| *kind == line.kind);
        if let (Some((.., points)), Some(loss)) = (curve, line.loss) {
            points.push((line.step, loss));
        }
    }
    let curves = curves.into_iter().filter(|(.., points)| !points.is_empty());
    Ok(curves.map(|(_, name, points)| LossCurve { name: name.to_owned(), points }).collect())
}

/// What is recorded of a model, if anything is: `lineage.json` of its folder or, for the best checkpoint of a run, of the
/// run.
///
/// # Errors
/// If the record cannot be read.
pub fn lineage_of(folder: &Path) -> anyhow::Result<Option<Lineage>> {
    if let Some(lineage) = read_json(&folder.join(LINEAGE_FILE))? {
        return Ok(Some(lineage));
    }
    match folder.parent() {
        Some(run) if folder.ends_with("best") => read_json(&run.join(LINEAGE_FILE)),
        _ => Ok(None),
    }
}

fn lineage(place: &Place) -> anyhow::Result<Lineage> {
    let of_run = read_json(&place.run.join(LINEAGE_FILE))?;
    Ok(match of_run {
        Some(lineage) => lineage,
        None => match &place.model {
            Some(model) => read_json(&model.join(LINEAGE_FILE))?.unwrap_or_default(),
            None => Lineage::default(),
        },
    })
}
