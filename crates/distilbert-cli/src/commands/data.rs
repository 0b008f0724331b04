//! `distilbert data`: a look at labelled files before anything is trained on them, and more pairs from the pairs there are.

mod recombine; // texts of pairs in new pairs

use crate::commands::evaluate::answers::SQUAD;
use crate::commands::evaluate::intents::INTENTS;
use crate::commands::finetune::{FinetuneRunConfig, ProblemChoice};
use crate::console::Console;
use crate::{model_source, output};
use anyhow::{bail, ensure};
use clap::{ArgGroup, Args, Subcommand};
use distilbert::checkpoint::model_folder::read_config;
use distilbert::data::check::{Cases, Checking, DataCheck, FileCheck, Pair, Rows, SLOT_PREFIX};
use distilbert::data::examples::{Columns, DataError, Defaults, Layout, Problem, SavedTask, Scan, Split, Task};
use distilbert::data::intents::{self, IntentTask};
use distilbert::data::questions::{self, AnsweringTask, DEFAULT_MAX_LENGTH};
use distilbert::data::tagging::{self, WordColumns};
use distilbert::progress::Progress;
use distilbert::tokenizer::Tokenizer;
use distilbert_kernels::Runtime;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Widest bar of the length histogram, in characters.
const BAR: usize = 40;

/// Look at labelled data before training on it, and make more of it.
#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Check labelled files before training on them: texts, words with tags, questions, or utterances with intents.
    ///
    /// Counts labels, duplicates, texts with contradicting labels, texts of the training file that stand in the others
    /// too, empty texts, broken rows with their lines, and, with --model, lengths in tokens, what would be cut, and
    /// words that the vocabulary cannot spell. Exit code 1 if there are no rows, rows are broken, answers do not stand
    /// where the file says, a label is missing in the training file, or texts stand in two files.
    Check(CheckArgs),
    /// Pair the texts of labelled pairs anew, for a teacher to label.
    ///
    /// A student learns to compare two texts from many pairs. Each first text is paired with second texts of other rows:
    /// half of them the nearest by a sentence encoder's vectors, the rest from the hundred nearest. What comes out is for
    /// `finetune --teacher T --unlabelled FILE`.
    Recombine(recombine::RecombineArgs),
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("kind").required(true).multiple(true)))]
struct CheckArgs {
    /// The training file, then the files to score on; or a folder with train, dev and test files.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A GLUE task (sst2, mnli, ...), for its official files; ner or pos for words with tags, squad for questions,
    /// intents for intents and slots.
    #[arg(long, value_name = "NAME", group = "kind")]
    task: Option<String>,
    /// Column of the text: its name, or its number from 1 with --no-header. For words with tags the column of the words,
    /// as `finetune` has it.
    #[arg(long, value_name = "COLUMN", group = "kind")]
    text_column: Option<String>,
    /// Column of the second text of a pair.
    #[arg(long, value_name = "COLUMN")]
    pair_column: Option<String>,
    /// Column of the label, or of the words' tags.
    #[arg(long, value_name = "COLUMN")]
    label_column: Option<String>,
    /// The CSV or TSV files have no header line; columns are named by their numbers.
    #[arg(long, requires = "text_column")]
    no_header: bool,
    /// What the label column holds [default: classification]
    #[arg(long, value_enum, group = "kind")]
    problem: Option<ProblemChoice>,
    /// Count tokens as this model's tokenizer makes them.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Longest input in tokens: longer ones count as cut, or as read in windows [default: as the model was trained, or as
    /// `finetune` has it]
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
pub fn run(args: &DataArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    match &args.command {
        DataCommand::Check(args) => check(args, rt.threads(), console),
        DataCommand::Recombine(args) => recombine::run(args, rt, console),
    }
}

fn check(args: &CheckArgs, threads: usize, console: &Console) -> anyhow::Result<()> {
    let folder = args.model.as_ref().map(|name| model_source::resolve(name, console)).transpose()?;
    let tokenizer = folder.as_deref().map(Tokenizer::from_folder).transpose()?;
    let source = Source::of(args)?;
    let max_length = match &folder {
        Some(folder) => {
            let positions = read_config(folder)?.encoder.max_positions;
            args.max_length.map_or_else(|| source.usual_length(folder), Ok)?.min(positions)
        }
        None => 0, // Nothing is counted in tokens.
    };
    let files = source.files(&args.paths)?;
    let mut check = DataCheck::new(tokenizer.as_ref(), max_length, threads);
    let mut problems = Vec::new();
    for (split, path) in files {
        let name = path.display().to_string();
        console.begin(&format!("checking {name}"), None, "rows");
        let mut checking = check.begin(&name, source.kind());
        let skipped = source.read(split, &path, &mut checking, &|| {
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

/// How files are read.
enum Source {
    /// Texts or pairs, of GLUE's tasks or with named columns.
    Rows {
        layout: Layout,
        task: String,
        problem: Problem,
    },
    /// Words with tags.
    Words {
        columns: WordColumns,
        problem: Problem,
    },
    Intents,
    Questions,
}

impl Source {
    fn of(args: &CheckArgs) -> anyhow::Result<Source> {
        let own_columns = args.text_column.is_some() || args.pair_column.is_some() || args.label_column.is_some();
        let name = args.task.as_deref().unwrap_or_default();
        let problem = match (args.problem.map(Problem::from), name) {
            (None, "ner") => Some(Problem::Entities),
            (None, "pos") => Some(Problem::Tags),
            (problem, _) => problem,
        };
        if let Some(problem) = problem.filter(|problem| problem.is_of_words()) {
            ensure!(args.pair_column.is_none(), "--pair-column: words with tags have no pairs");
            ensure!(!args.no_header, "--no-header: expected texts, found words with tags, which need no header");
            let columns = WordColumns { words: args.text_column.clone(), tags: args.label_column.clone() };
            return Ok(Source::Words { columns, problem });
        }
        if let (SQUAD | INTENTS, true) = (name, own_columns || problem.is_some()) {
            bail!("--task {name} goes with neither columns nor --problem");
        }
        match (name, &args.text_column, &args.label_column) {
            (SQUAD, ..) => Ok(Source::Questions),
            (INTENTS, ..) => Ok(Source::Intents),
            // A name of one's own is fine, as in `finetune`.
            (_, Some(text), Some(label)) if Task::glue(name).is_err() => {
                let columns =
                    Columns { pair: args.pair_column.clone(), header: !args.no_header, ..Columns::new(text, label) };
                let problem = problem.unwrap_or(Problem::Classification);
                Ok(Source::Rows { layout: Layout::Columns(columns), task: String::new(), problem })
            }
            ("", ..) => bail!("expected a --task, or both --text-column and --label-column"),
            _ if own_columns || problem.is_some() => {
                bail!("--task {name}: expected neither columns nor --problem, which GLUE's tasks have by themselves")
            }
            _ => {
                let task = Task::glue(name)?;
                Ok(Source::Rows { layout: task.layout, task: task.name, problem: task.problem })
            }
        }
    }

    /// Longest input in tokens as the model was trained for such a task, or as it would be by default.
    fn usual_length(&self, folder: &Path) -> anyhow::Result<usize> {
        Ok(match self {
            Source::Questions => {
                AnsweringTask::read(folder)?.map_or(DEFAULT_MAX_LENGTH, |task| task.windows.max_length)
            }
            Source::Intents => match IntentTask::read(folder)? {
                Some(task) => task.max_length,
                None => FinetuneRunConfig::for_intents().training.max_length,
            },
            _ => SavedTask::read(folder)?.map_or(Defaults::default().max_len, |saved| saved.max_length),
        })
    }

    fn kind(&self) -> Rows {
        match self {
            Source::Rows { problem: Problem::Regression, .. } => Rows::Scores,
            Source::Rows { .. } => Rows::Texts,
            Source::Words { problem: Problem::Tags, .. } => Rows::Tags,
            Source::Words { .. } => Rows::Entities,
            Source::Intents => Rows::Intents,
            Source::Questions => Rows::Questions,
        }
    }

    /// The split's file in a folder.
    fn find(&self, folder: &Path, split: Split) -> Result<PathBuf, DataError> {
        match self {
            Source::Rows { layout, task, problem } => scan(layout, task, *problem, split).find_file(folder),
            Source::Words { .. } => tagging::find_file(folder, split),
            Source::Intents => intents::folder_of(folder, split),
            Source::Questions => questions::find_file(folder, split),
        }
    }

    /// The files to look at, and what each is for: the first is for training, those after it to score on.
    fn files(&self, paths: &[PathBuf]) -> anyhow::Result<Vec<(Split, PathBuf)>> {
        let mut files: Vec<(Split, PathBuf)> = Vec::new();
        for path in paths {
            let is_one = !path.is_dir() || (matches!(self, Source::Intents) && path.join(intents::WORDS).is_file());
            if is_one {
                // A file after the first may be a test file, which may lack labels.
                files.push((if files.is_empty() { Split::Train } else { Split::Test }, path.clone()));
                continue;
            }
            for split in Split::ALL {
                match self.find(path, split) {
                    // MNLI alone has two halves; elsewhere they are the same file.
                    Ok(file) if files.iter().any(|(_, known)| *known == file) => {}
                    Ok(file) => files.push((split, file)),
                    Err(DataError::MissingFile { .. } | DataError::UnknownSplit { .. }) if split != Split::Train => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(files)
    }

    /// Looks at a file's rows; how many were left out.
    fn read(
        &self,
        split: Split,
        path: &Path,
        checking: &mut Checking<'_, '_>,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<usize, DataError> {
        match self {
            Source::Rows { layout, task, problem } => scan(layout, task, *problem, split).run(path, |row| {
                checking.row(row);
                goes_on()
            }),
            Source::Words { columns, problem } => {
                let skipped = tagging::scan(columns, *problem, path, |sentence| {
                    checking.sentence(sentence);
                    goes_on()
                });
                Ok(skipped?.len())
            }
            Source::Intents => match intents::load(path, split) {
                Ok(set) => {
                    set.utterances.iter().take_while(|_| goes_on()).for_each(|utterance| checking.utterance(utterance));
                    Ok(set.skipped.len())
                }
                Err(error) => unreadable(error, checking),
            },
            Source::Questions => match questions::read(path) {
                Ok(set) => {
                    checking.questions(&set, goes_on);
                    Ok(0)
                }
                Err(error) => unreadable(error, checking),
            },
        }
    }
}

fn scan(layout: &Layout, task: &str, problem: Problem, split: Split) -> Scan {
    Scan { layout: layout.clone(), task: task.to_owned(), problem, split }
}

/// A broken row, if that is what is wrong: the readers of these files go no further.
fn unreadable(error: DataError, checking: &mut Checking<'_, '_>) -> Result<usize, DataError> {
    match error {
        DataError::Io { .. } => Err(error),
        error => {
            checking.broken(&error);
            Ok(0)
        }
    }
}

fn describe(found: &FileCheck) -> String {
    let (rows, row) = match found.kind {
        Rows::Texts | Rows::Scores => ("rows", "line"),
        Rows::Entities | Rows::Tags => ("sentences", "line"),
        Rows::Intents => ("utterances", "line"),
        Rows::Questions => ("questions", "question"),
    };
    let mut text = format!("{}: {} {rows}\n", found.file, found.rows);
    // Writing to a string cannot fail.
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<14}{value}");
    };
    let share = |count: usize, of: usize| 100.0 * count as f64 / of.max(1) as f64;
    let is_of_rows = |label: &str| match found.kind {
        Rows::Texts | Rows::Scores | Rows::Questions => true,
        Rows::Intents => !label.starts_with(SLOT_PREFIX),
        Rows::Entities | Rows::Tags => false,
    };
    // Spans and words are many a row: their shares are of all of them.
    let spans: usize = found.labels.iter().filter(|(label, _)| !is_of_rows(label)).map(|(_, count)| count).sum();
    for (label, &count) in &found.labels {
        let all = if is_of_rows(label) { found.rows } else { spans };
        line("label", format!("{label}  {count} ({:.1} %)", share(count, all)));
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
    let quoted = |labels: &Vec<String>| labels.iter().map(|label| format!("{label:?}")).collect::<Vec<_>>().join(" = ");
    let alike: Vec<String> = found.alike_labels.iter().map(quoted).collect();
    count("alike labels", alike.len(), format!(" but for case and space: {}", alike.join(", ")));
    count("skipped", found.skipped, " lines that are no rows".to_owned());
    let empty: Vec<String> = found.empty.first.iter().map(usize::to_string).collect();
    count("empty texts", found.empty.count, format!(": {row} {}", listed(&empty, found.empty.count)));
    let pairs = |cases: &Cases<Pair>| {
        let lines: Vec<String> = cases.first.iter().map(|pair| format!("{} = {}", pair.line, pair.like)).collect();
        format!(": {row} {}", listed(&lines, cases.count))
    };
    count("duplicates", found.duplicates.count, pairs(&found.duplicates));
    count("near ones", found.near_duplicates.count, pairs(&found.near_duplicates));
    count("conflicts", found.conflicts.count, pairs(&found.conflicts));
    for leak in &found.leaks {
        let of = format!(" {rows} stand in {} too, {} of them letter by letter", leak.from, leak.exact.count);
        count("leaked", leak.near.count, of + &pairs(&leak.near));
    }
    for shared in &found.shared_contexts {
        count("contexts", shared.count, format!(" stand in {} too", shared.from));
    }
    count("misplaced", found.misplaced.count, " answers do not stand where the file says".to_owned());
    count("broken", found.broken.count, " rows".to_owned());
    for error in found.misplaced.first.iter().chain(&found.broken.first) {
        let _ = writeln!(text, "    {error}");
    }
    let Some(tokens) = &found.tokens else { return text };
    let max_length = tokens.max_length;
    let lengths = [("half up to", tokens.p50), ("90 % up to", tokens.p90), ("99 % up to", tokens.p99)];
    let lengths: Vec<String> = lengths.iter().map(|(name, length)| format!("{name} {length}")).collect();
    let _ = writeln!(text, "  {:<14}{}, longest {}", "tokens", lengths.join(", "), tokens.max);
    let (cut, part) = (tokens.cut, share(tokens.cut, found.rows));
    let (name, becomes) = match found.kind.in_windows() {
        true => ("long", format!("are read in windows of {max_length}")),
        false => ("cut", format!("lose {} tokens at {max_length}", tokens.cut_tokens)),
    };
    let _ = writeln!(text, "  {name:<14}{cut} {rows} ({part:.1} %) {becomes}");
    let _ = writeln!(
        text,
        "  {:<14}{:.2} % of the tokens, in {} {rows}",
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
