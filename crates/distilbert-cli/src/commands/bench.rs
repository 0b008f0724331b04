//! `distilbert bench`: how fast a model is on this machine, and how near to what the machine can do.

use crate::console::Console;
use crate::cost::Cost;
use crate::gather::{cpu_name, machine};
use crate::measure::{Effort, Pass, Times, Work, random_batch, resident_bytes};
use crate::model_source;
use crate::output;
use anyhow::{Context, bail};
use clap::{ArgGroup, Args};
use distilbert::checkpoint::model_folder::read_config;
use distilbert::data::batch::Batch;
use distilbert::data::encoded::EncodedSet;
use distilbert::data::examples::{Example, Label};
use distilbert::model::{EncoderConfig, Model, ModelConfig};
use distilbert::progress::Progress;
use distilbert::report::grouped;
use distilbert::tokenizer::Tokenizer;
use distilbert_kernels::peak::peak_multiply_adds_per_second;
use distilbert_kernels::{Precision, Runtime};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Batch sizes measured unless others are asked for.
const BATCHES: [usize; 3] = [1, 8, 32];

/// Lengths measured unless others are asked for, in tokens; no longer than the model takes.
const LENGTHS: [usize; 3] = [16, 128, 384];

/// Texts of a batch unless another number is asked for.
const TEXTS_BATCH: usize = 32;

/// Tokens of a batch at most: far more than help speed, few enough to fit into memory.
const MAX_BATCH_TOKENS: usize = 1 << 16;

/// Seed of random weights.
const SEED: u64 = 7;

/// Measure how fast a model is on this machine, and how near to what the machine can do.
///
/// Every precision and shape gets the median time of a pass with its spread, tokens a second, the arithmetic done in
/// GFLOP/s, and its share of the peak that this machine reaches with operands in registers, measured beside it.
/// Nothing else should run meanwhile.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("measured").required(true)))]
pub struct BenchArgs {
    /// The model.
    #[arg(long, value_name = "MODEL", group = "measured")]
    model: Option<String>,
    /// Random weights for this config.json instead of a model: speed does not depend on what the weights are.
    #[arg(long, value_name = "CONFIG", group = "measured")]
    random: Option<PathBuf>,
    /// Precisions, separated by commas: f32, bf16, int8 [default: the one that the model is saved in]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    precision: Option<Vec<Precision>>,
    /// Sequences of a batch, several numbers separated by commas [default: 1,8,32; with --texts 32]
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    batch: Option<Vec<usize>>,
    /// Tokens of each sequence, several numbers separated by commas [default: 16,128,384]
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', conflicts_with = "texts")]
    seq: Option<Vec<usize>>,
    /// Real lengths instead of equal ones: the lines of this file, each a text, in batches in the order of the file. A
    /// pass is over the whole file; tokenising it is not part of the time.
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Whether every token's state is computed, or only what the classification head needs [default: as-used for a
    /// classifier]
    #[arg(long, value_enum)]
    work: Option<Work>,
    /// Time to fill with repeats of each shape, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    seconds: Duration,
    /// Repeats of each shape at least.
    #[arg(long, value_name = "N", default_value_t = 5)]
    min_repeats: usize,
    /// Print a line of JSON for each precision and shape.
    #[arg(long)]
    json: bool,
}

/// What one precision did on one workload.
#[derive(Serialize)]
struct Row<'a> {
    model: &'a str,
    parameters: usize,
    work: Work,
    precision: &'static str,
    /// Sequences of a batch.
    batch: usize,
    /// Tokens of every sequence, if they are equally long.
    seq: Option<usize>,
    /// Texts of the file.
    texts: Option<usize>,
    /// Tokens of a pass.
    tokens: usize,
    repeats: usize,
    /// Times of a pass.
    ms_p50: f64,
    ms_p10: f64,
    ms_p90: f64,
    ms_min: f64,
    /// At the median, as all rates.
    tokens_per_second: f64,
    /// Of the whole model's operations, also those that `as-used` may leave out.
    gflops: f64,
    peak_gflops: f64,
    share_of_peak: f64,
    /// From opening the files to weights packed for this precision; nothing for random weights.
    load_seconds: Option<f64>,
    /// Memory of the process after the measurement, if the system tells it.
    resident_bytes: Option<u64>,
    threads: usize,
    isa: &'static str,
    cpu: &'a str,
}

/// Batches that are measured as one pass.
struct Workload {
    batch: usize,
    seq: Option<usize>,
    texts: Option<usize>,
    batches: Vec<Batch>,
}

/// Where the weights come from.
enum Source {
    Folder(PathBuf),
    Random(Box<ModelConfig>),
}

/// Runs the command.
///
/// # Errors
/// If there is no such model, it cannot do the work or take the sequences, or the CPU lacks a precision; all of that is
/// found before anything is measured.
pub fn run(args: &BenchArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let (name, source, folder) = source(args, console)?;
    let config = source.config()?;
    let precisions = args.precision.clone().unwrap_or_else(|| vec![config.weights]);
    for &precision in &precisions {
        config.check_precision(rt, precision)?;
    }
    let (model, load_seconds) = source.load(rt, precisions[0])?;
    let work = args.work.unwrap_or_else(|| Work::of(&model));
    let workloads = workloads(args, &folder, &model, rt.threads(), console)?;
    for batch in workloads.iter().flat_map(|workload| &workload.batches) {
        model.check(batch)?;
    }
    let cost = Cost::of(&model.config);
    let cpu = cpu_name();

    if !args.json {
        let parameters = grouped(model.parameters.count() as u64);
        let title = format!("{name}: {parameters} parameters, {}; {}\n\n", describe(work), machine(rt));
        output::print(&(title + &heading()))?;
    }
    console.begin("measuring", Some((precisions.len() * workloads.len()) as u64), "shapes");
    let mut first = Some((model, load_seconds));
    for &precision in &precisions {
        let (model, load_seconds) = match first.take() {
            Some(loaded) => loaded,
            None => source.load(rt, precision)?,
        };
        let mut pass = Pass::new(rt, &model, work)?;
        for workload in &workloads {
            if console.stop_requested() {
                bail!("stopped before all shapes were measured");
            }
            console.note(&format!("{precision}, {}", workload.name()));
            let peak_before = peak_multiply_adds_per_second(rt, precision);
            let effort = Effort { time: args.seconds, min_repeats: args.min_repeats };
            let times = Times::measure(&mut pass, &workload.batches, effort)?;
            let peak_gflops = 2e-9 * peak_before.max(peak_multiply_adds_per_second(rt, precision));
            let tokens = workload.batches.iter().map(Batch::tokens).sum();
            let gflops = workload.gflop(&cost, work) / times.quantile(0.5);
            let row = Row {
                model: &name,
                parameters: model.parameters.count(),
                work,
                precision: precision.name(),
                batch: workload.batch,
                seq: workload.seq,
                texts: workload.texts,
                tokens,
                repeats: times.repeats(),
                ms_p50: 1e3 * times.quantile(0.5),
                ms_p10: 1e3 * times.quantile(0.1),
                ms_p90: 1e3 * times.quantile(0.9),
                ms_min: 1e3 * times.quantile(0.0),
                tokens_per_second: tokens as f64 / times.quantile(0.5),
                gflops,
                peak_gflops,
                share_of_peak: gflops / peak_gflops,
                load_seconds,
                resident_bytes: resident_bytes(),
                threads: rt.threads(),
                isa: rt.isa().name(),
                cpu: cpu.as_deref().unwrap_or(std::env::consts::ARCH),
            };
            let line = if args.json { serde_json::to_string(&row)? + "\n" } else { line(&row, &workload.name()) };
            output::print(&line)?;
            console.advance(1);
        }
    }
    console.end();
    Ok(())
}

/// The model's name, its weights, and the folder that its tokenizer would be in.
fn source(args: &BenchArgs, console: &Console) -> anyhow::Result<(String, Source, PathBuf)> {
    match (&args.model, &args.random) {
        (Some(name), _) => {
            let folder = model_source::resolve(name, console)?;
            Ok((name.clone(), Source::Folder(folder.clone()), folder))
        }
        (None, Some(path)) => {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let config = ModelConfig::from_json(&text).with_context(|| path.display().to_string())?;
            let folder = path.parent().unwrap_or(Path::new("")).to_owned();
            Ok((format!("random weights of {}", path.display()), Source::Random(Box::new(config)), folder))
        }
        // The parser asks for one of them.
        (None, None) => bail!("expected --model or --random"),
    }
}

impl Source {
    fn config(&self) -> anyhow::Result<ModelConfig> {
        match self {
            Source::Folder(folder) => Ok(read_config(folder)?),
            Source::Random(config) => Ok(ModelConfig::clone(config)),
        }
    }

    /// The packed model, and how long that took if there was something to load.
    fn load(&self, rt: &Runtime, precision: Precision) -> anyhow::Result<(Model, Option<f64>)> {
        let start = Instant::now();
        let model = match self {
            Source::Folder(folder) => Model::load_for_inference(folder, rt, Some(precision))?.model,
            Source::Random(config) => Model::random(ModelConfig::clone(config), SEED).for_inference(rt, precision),
        };
        let seconds = start.elapsed().as_secs_f64();
        Ok((model, matches!(self, Source::Folder(_)).then_some(seconds)))
    }
}

fn workloads(
    args: &BenchArgs,
    folder: &Path,
    model: &Model,
    threads: usize,
    console: &Console,
) -> anyhow::Result<Vec<Workload>> {
    let &EncoderConfig { max_positions, .. } = &model.config.encoder;
    let sizes = match (&args.batch, &args.texts) {
        (Some(sizes), _) => sizes.clone(),
        (None, None) => BATCHES.to_vec(),
        (None, Some(_)) => vec![TEXTS_BATCH],
    };
    if let Some(bad) = sizes.iter().find(|size| !(1..=MAX_BATCH_TOKENS).contains(*size)) {
        bail!("--batch: expected 1 to {MAX_BATCH_TOKENS} sequences, found {bad}");
    }
    if let Some(path) = &args.texts {
        let texts = read_texts(path, folder, max_positions, threads, console)?;
        let all: Vec<usize> = (0..texts.texts.len()).collect();
        let workload = |&batch: &usize| Workload {
            batch,
            seq: None,
            texts: Some(all.len()),
            batches: all.chunks(batch).map(|chunk| texts.batch(chunk)).collect(),
        };
        return Ok(sizes.iter().map(workload).collect());
    }
    let lengths = args.seq.clone().unwrap_or_else(|| {
        let mut lengths = LENGTHS.map(|length| length.min(max_positions)).to_vec();
        lengths.dedup();
        lengths
    });
    if let Some(bad) = lengths.iter().find(|length| !(1..=max_positions).contains(*length)) {
        bail!("--seq: expected 1 to the model's {max_positions} positions, found {bad}");
    }
    let mut workloads = Vec::new();
    for &batch in &sizes {
        for &seq in &lengths {
            if batch * seq > MAX_BATCH_TOKENS {
                bail!("batch of {batch} x {seq}: expected at most {MAX_BATCH_TOKENS} tokens, found {}", batch * seq);
            }
            let batches = vec![random_batch(model, &vec![seq; batch])];
            workloads.push(Workload { batch, seq: Some(seq), texts: None, batches });
        }
    }
    Ok(workloads)
}

/// The lines of the file as tokens, cut to what the model takes.
fn read_texts(
    path: &Path,
    folder: &Path,
    max_positions: usize,
    threads: usize,
    console: &Console,
) -> anyhow::Result<EncodedSet> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let tokenizer = Tokenizer::from_folder(folder)?;
    let example = |(index, line): (usize, &str)| Example {
        text_a: line.to_owned(),
        text_b: None,
        label: Label::None,
        line: index + 1,
    };
    let examples: Vec<Example> = text.lines().enumerate().map(example).collect();
    if examples.is_empty() {
        bail!("{}: expected a text in each line, found no line", path.display());
    }
    let set = EncodedSet::from_examples(&examples, &tokenizer, max_positions, threads);
    if !set.truncated.is_empty() {
        console.warn(&format!("{} of {} texts: cut to {max_positions} tokens", set.truncated.len(), examples.len()));
    }
    Ok(set)
}

impl Workload {
    fn name(&self) -> String {
        match (self.seq, self.texts) {
            (Some(seq), _) => format!("{} x {seq}", self.batch),
            (None, texts) => format!("{} texts by {}", texts.unwrap_or_default(), self.batch),
        }
    }

    /// Operations of a pass.
    fn gflop(&self, cost: &Cost, work: Work) -> f64 {
        let encoder = cost.encoder_gflop(self.batches.iter().flat_map(Batch::lengths));
        let sequences: usize = self.batches.iter().map(Batch::sequences).sum();
        match work {
            Work::AllStates => encoder,
            Work::AsUsed => encoder + sequences as f64 * cost.head_mflop / 1e3,
        }
    }
}

fn describe(work: Work) -> &'static str {
    match work {
        Work::AllStates => "all tokens' states",
        Work::AsUsed => "classification as used",
    }
}

fn heading() -> String {
    let (time, spread, rate, loading) = ("median ms", "p10 to p90", "tokens/s", "load s");
    let title = format!(
        "{:<9}{:>20}{:>9}{time:>12}{spread:>20}{rate:>12}{:>10}{:>10}{:>9}{loading:>9}{:>10}",
        "precision", "shape", "tokens", "GFLOP/s", "peak", "of peak", "MB"
    );
    format!("{title}\n{}\n", "─".repeat(title.chars().count()))
}

fn line(row: &Row<'_>, shape: &str) -> String {
    let spread = format!("{} to {}", milliseconds(row.ms_p10), milliseconds(row.ms_p90));
    let load = row.load_seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.2}"));
    let memory = row.resident_bytes.map_or("-".to_owned(), |bytes| grouped(bytes / 1_000_000));
    format!(
        "{:<9}{shape:>20}{:>9}{:>12}{spread:>20}{:>12}{:>10.1}{:>10.1}{:>7.1} %{load:>9}{memory:>10}\n",
        row.precision,
        grouped(row.tokens as u64),
        milliseconds(row.ms_p50),
        grouped(row.tokens_per_second as u64),
        row.gflops,
        row.peak_gflops,
        100.0 * row.share_of_peak,
    )
}

/// Three digits, or all in front of the point.
fn milliseconds(value: f64) -> String {
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$}")
}

fn seconds(text: &str) -> Result<Duration, String> {
    const LONGEST: f64 = 86_400.0;
    let found = text.parse::<f64>().ok().filter(|seconds| (0.0..=LONGEST).contains(seconds));
    found.map(Duration::from_secs_f64).ok_or_else(|| format!("expected 0 to {LONGEST} seconds, found {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_as_used_counts_the_head_once_a_sequence() {
        let text = r#"{"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"]}"#;
        let cost = Cost::of(&ModelConfig::from_json(text).unwrap());
        let sequence: &[u32] = &[5; 16];
        let batches = vec![Batch::from_sequences([sequence; 3]), Batch::from_sequences([sequence; 2])];
        let workload = Workload { batch: 3, seq: None, texts: Some(5), batches };
        let [states, used] = [Work::AllStates, Work::AsUsed].map(|work| workload.gflop(&cost, work));
        // 16 tokens of 84.9 MFLOP, and 16 keys of 18,432 operations for each.
        let linear_and_attention = 5.0 * 16.0 * (84.934_656 + 16.0 * 0.018_432) / 1e3;
        assert!((states - linear_and_attention).abs() < 1e-9, "{states}");
        assert!((used - states - 5.0 * 2.0 * 768.0 * (768.0 + 2.0) / 1e9).abs() < 1e-9, "{used}");
        assert_eq!(workload.name(), "5 texts by 3");
    }

    #[test]
    fn seconds_are_a_number_that_is_a_time() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for bad in ["-1", "nan", "inf", "1e9", "soon", ""] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_is_as_wide_as_its_heading() {
        let row = Row {
            model: "m",
            parameters: 1,
            work: Work::AsUsed,
            precision: "bf16",
            batch: 32,
            seq: Some(384),
            texts: None,
            tokens: 12_288,
            repeats: 5,
            ms_p50: 1234.5,
            ms_p10: 1200.0,
            ms_p90: 12_345.6,
            ms_min: 1100.0,
            tokens_per_second: 9_953.7,
            gflops: 812.3,
            peak_gflops: 1084.0,
            share_of_peak: 0.749,
            load_seconds: Some(0.31),
            resident_bytes: Some(1 << 30),
            threads: 2,
            isa: "avx512",
            cpu: "a CPU",
        };
        let heading = heading();
        let found = line(&row, "32 x 384");
        assert_eq!(found.trim_end().chars().count(), heading.lines().next().unwrap().chars().count());
        assert!(
            found.contains("1200 to 12346") && found.contains(" 74.9 % ") && found.ends_with(" 1,073\n"),
            "{found}"
        );
    }
}
