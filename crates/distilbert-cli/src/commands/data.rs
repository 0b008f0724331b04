//! `distilbert data`: a look at labelled files before anything is trained on them.

use crate::commands::finetune::ProblemChoice;
use crate::console::Console;
use crate::{model_source, output};
use anyhow::bail;
use clap::{Args, Subcommand};
use distilbert::checkpoint::model_folder::read_config;
use distilbert::data::check::{Cases, DataCheck, FileCheck, Pair};
use distilbert::data::examples::{Columns, DataError, Defaults, Layout, Problem, SavedTask, Scan, Split, Task};
use distilbert::progress::Progress;
use distilbert::tokenizer::Tokenizer;
use std::fmt::Write;
use std::path::PathBuf;

/// Widest bar of the length histogram, in characters.
const BAR: usize = 40;

/// Look at data.
#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Check labelled files before training on them.
    ///
    /// Counts labels, duplicates, texts with contradicting labels, texts of the training file that stand in the others
    /// too, empty texts, broken rows with their lines, and, with --model, lengths in tokens, what would be cut, and
    /// words that the vocabulary cannot spell. Exit code 1 if rows are broken, a label is missing in the training
    /// file, or texts stand in two files.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The training file, then the files to score on; or a folder with train, dev and test files.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A GLUE task (sst2, mnli, ...), for its official files.
    #[arg(long, value_name = "NAME", required_unless_present = "text_column", conflicts_with = "text_column")]
    task: Option<String>,
    /// Column of the text: its name, or its number from 1 with --no-header.
    #[arg(long, value_name = "COLUMN", requires = "label_column")]
    text_column: Option<String>,
    /// Column of the second text of a pair.
    #[arg(long, value_name = "COLUMN", requires = "text_column")]
    pair_column: Option<String>,
    /// Column of the label.
    #[arg(long, value_name = "COLUMN", requires = "text_column")]
    label_column: Option<String>,
    /// The CSV or TSV files have no header line; columns are named by their numbers.
    #[arg(long, requires = "text_column")]
    no_header: bool,
    /// What the label column holds.
    #[arg(long, value_enum, default_value_t)]
    problem: ProblemChoice,
    /// Count tokens as this model's tokenizer makes them.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Longest input in tokens: longer ones count as cut [default: as the model was trained, or 128]
    #[arg(long, value_name = "TOKENS", requires = "model")]
    max_length: Option<usize>,
    /// Print a line of JSON for each file.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read, or something in it must be put right; that is said last.
pub fn run(args: &DataArgs, threads: usize, console: &Console) -> anyhow::Result<()> {
    let DataCommand::Check(args) = &args.command;
    let folder = args.model.as_ref().map(|name| model_source::resolve(name, console)).transpose()?;
    let tokenizer = folder.as_deref().map(Tokenizer::from_folder).transpose()?;
    let max_length = match &folder {
        Some(folder) => {
            let positions = read_config(folder)?.encoder.max_positions;
            let trained = SavedTask::read(folder)?.map(|saved| saved.max_length);
            args.max_length.or(trained).unwrap_or(Defaults::default().max_len).min(positions)
        }
        None => 0, // Nothing is counted in tokens.
    };
    let files = files(args)?;
    let mut check = DataCheck::new(tokenizer.as_ref(), max_length, threads);
    let mut problems = Vec::new();
    for (scan, path) in files {
        let name = path.display().to_string();
        console.begin(&format!("checking {name}"), None, "rows");
        let mut checking = check.begin(&name, scan.problem == Problem::Regression);
        let skipped = scan.run(&path, |row| {
            checking.row(row);
            console.advance(1);
            !console.stop_requested()
        });
        console.end();
        if console.stop_requested() {
            bail!("stopped");
        }
        let found = checking.finish(skipped?);
        problems.extend(found.problems());
        let mut text = if args.json { serde_json::to_string(&found)? } else { describe(&found) };
        text.push('\n');
        output::print(&text)?;
    }
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("; ")) }
}

/// The files to look at, with how each is read: the first is for training, those after it to score on.
fn files(args: &CheckArgs) -> anyhow::Result<Vec<(Scan, PathBuf)>> {
    let (layout, task, problem) = match (&args.task, &args.text_column, &args.label_column) {
        (Some(name), ..) => {
            let task = Task::glue(name)?;
            (task.layout, task.name, task.problem)
        }
        (None, Some(text), Some(label)) => {
            let columns =
                Columns { pair: args.pair_column.clone(), header: !args.no_header, ..Columns::new(text, label) };
            let problem = Problem::from(args.problem);
            if problem.is_of_words() {
                bail!("--problem: expected classification, multi-label or regression, found one of words");
            }
            (Layout::Columns(columns), String::new(), problem)
        }
        _ => bail!("expected a --task, or --text-column and --label-column"),
    };
    let scan = |split| Scan { layout: layout.clone(), task: task.clone(), problem, split };
    let mut files = Vec::new();
    for path in &args.paths {
        if !path.is_dir() {
            // A file after the first may be a test file, which may lack labels.
            let split = if files.is_empty() { Split::Train } else { Split::Test };
            files.push((scan(split), path.clone()));
            continue;
        }
        for split in Split::ALL {
            match scan(split).find_file(path) {
                Ok(file) => files.push((scan(split), file)),
                Err(DataError::MissingFile { .. } | DataError::UnknownSplit { .. }) if split != Split::Train => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(files)
}

fn describe(found: &FileCheck) -> String {
    let mut text = format!("{}: {} rows\n", found.file, found.rows);
    // Writing to a string cannot fail.
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<14}{value}");
    };
    let share = |count: usize, of: usize| 100.0 * count as f64 / of.max(1) as f64;
    for (label, &count) in &found.labels {
        line("label", format!("{label}  {count} ({:.1} %)", share(count, found.rows)));
    }
    if let Some(scores) = found.scores {
        line("labels", format!("{} to {}, mean {:.3}", scores.min, scores.max, scores.mean));
    }
    let mut count = |name: &str, count: usize, more: String| {
        if count > 0 {
            line(name, format!("{count}{more}"));
        }
    };
    count("unlabelled", found.unlabelled, String::new());
    count("new labels", found.new_labels.len(), format!(": {}", found.new_labels.join(", ")));
    count("skipped", found.skipped, " lines that are no rows".to_owned());
    let empty: Vec<String> = found.empty.first.iter().map(usize::to_string).collect();
    count("empty texts", found.empty.count, format!(": line {}", listed(&empty, found.empty.count)));
    let pairs = |cases: &Cases<Pair>| {
        let lines: Vec<String> = cases.first.iter().map(|pair| format!("{} = {}", pair.line, pair.like)).collect();
        format!(": line {}", listed(&lines, cases.count))
    };
    count("duplicates", found.duplicates.count, pairs(&found.duplicates));
    count("near ones", found.near_duplicates.count, pairs(&found.near_duplicates));
    count("conflicts", found.conflicts.count, pairs(&found.conflicts));
    for leak in &found.leaks {
        let of = format!(" rows stand in {} too, {} of them letter by letter", leak.from, leak.exact.count);
        count("leaked", leak.near.count, of + &pairs(&leak.near));
    }
    count("broken", found.broken.count, " rows".to_owned());
    for error in &found.broken.first {
        let _ = writeln!(text, "    {error}");
    }
    let Some(tokens) = &found.tokens else { return text };
    let (rows, max_length) = (found.rows, tokens.max_length);
    let lengths = [("half up to", tokens.p50), ("90 % up to", tokens.p90), ("99 % up to", tokens.p99)];
    let lengths: Vec<String> = lengths.iter().map(|(name, length)| format!("{name} {length}")).collect();
    let _ = writeln!(text, "  {:<14}{}, longest {}", "tokens", lengths.join(", "), tokens.max);
    let _ = writeln!(
        text,
        "  {:<14}{} rows ({:.1} %) lose {} tokens at {max_length}",
        "cut",
        tokens.cut,
        share(tokens.cut, rows),
        tokens.cut_tokens
    );
    let _ = writeln!(
        text,
        "  {:<14}{:.2} % of the tokens, in {} rows",
        "unknown",
        100.0 * tokens.unknown_share,
        tokens.rows_with_unknown
    );
    let most = tokens.histogram.iter().map(|bucket| bucket.rows).max().unwrap_or(0).max(1);
    for bucket in tokens.histogram.iter().filter(|bucket| bucket.rows > 0) {
        let name = bucket.most.map_or_else(|| "more".to_owned(), |most| format!("up to {most}"));
        let bar = "#".repeat((bucket.rows * BAR).div_ceil(most));
        let _ = writeln!(text, "    {name:<12}{:>9}  {bar}", bucket.rows);
    }
    text
}

/// The first few of `count`.
fn listed(first: &[String], count: usize) -> String {
    let more = if count > first.len() { ", ..." } else { "" };
    first.join(", ") + more
}
