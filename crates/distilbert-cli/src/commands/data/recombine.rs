//! `distilbert data recombine`: the texts of labelled pairs in new pairs, for a teacher to label.

use crate::commands::similarity;
use crate::console::Console;
use crate::output;
use crate::sentence_encoder::{HeadFlags, SentenceEncoder};
use anyhow::{bail, ensure};
use clap::Args;
use distilbert::checkpoint::write_atomic;
use distilbert::data::examples::{Columns, Scan, Split, Task, TaskKind, load, pairs_as_file};
use distilbert::data::recombine::PairTexts;
use distilbert::predict::EmbeddingRunner;
use distilbert::progress::Progress;
use distilbert_kernels::matmul::{Epilogue, PackedMatrix, matmul};
use distilbert_kernels::{Precision, Runtime};
use std::path::PathBuf;

/// Numbers of nearness that are held at once: 64 MB.
const SCORES: usize = 16 << 20;

#[derive(Debug, Args)]
pub struct RecombineArgs {
    /// The pairs: a GLUE task's folder or training file; a file of your own.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// A GLUE task on pairs (stsb, mrpc, mnli, ...), for its official files.
    #[arg(long, value_name = "NAME", required_unless_present = "text_column", conflicts_with = "text_column")]
    task: Option<String>,
    /// Column of the first text: its name, or its number from 1 with --no-header.
    #[arg(long, value_name = "COLUMN", requires = "pair_column")]
    text_column: Option<String>,
    /// Column of the second text.
    #[arg(long, value_name = "COLUMN", requires = "text_column")]
    pair_column: Option<String>,
    /// The CSV or TSV file has no header line; columns are named by their numbers.
    #[arg(long, requires = "text_column")]
    no_header: bool,
    /// The sentence encoder that says which texts are near.
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// New pairs of each first text.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    each: u32,
    /// Decides which of the hundred nearest are taken beside the nearest.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// The file to write: .tsv with the two columns of a GLUE task, .jsonl for pairs of your own.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// If the pairs or the model cannot be read, there are no new pairs, or the file cannot be written.
pub fn run(args: &RecombineArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let (task, split) = match (&args.task, &args.text_column) {
        (Some(name), _) => (Task::glue(name)?, Split::Train),
        (None, text) => {
            ensure!(args.path.is_file(), "{}: expected a file of pairs, found none", args.path.display());
            let text = text.as_deref().unwrap_or_default();
            let columns = Columns { pair: args.pair_column.clone(), header: !args.no_header, ..Columns::new(text, "") };
            // Labels have no part in it.
            (similarity::task(None, Some(columns), &args.path)?, Split::Unlabelled)
        }
    };
    ensure!(
        task.kind == TaskKind::Pair,
        "task `{}`: expected one on pairs of texts, found one on single ones",
        task.name
    );
    // A name that does not do is said before the work.
    pairs_as_file(&task, &args.output, [])?;
    output::check_not_input(&args.output, &[Scan::of(&task, split).find_file(&args.path)?])?;
    let data = load(&task, &args.path, split)?;
    let texts = PairTexts::of(&data.examples);

    let encoder = SentenceEncoder::load(&args.model, HeadFlags::default(), None, rt, console)?;
    let mut runner = EmbeddingRunner::new(&encoder.model, None)?;
    let width = runner.dimensions();
    let firsts = encoder.vectors(&mut runner, "", &texts.firsts, "embedding first texts", rt, console)?;
    let seconds = encoder.vectors(&mut runner, "", &texts.seconds, "embedding second texts", rt, console)?;
    let (cut, all) = (firsts.truncated.len() + seconds.truncated.len(), texts.firsts.len() + texts.seconds.len());
    if cut > 0 {
        console.warn(&format!("{cut} of {all} texts were cut to {} tokens to say which are near", encoder.max_length));
    }

    let count = texts.seconds.len();
    let packed = PackedMatrix::from_nk(rt, Precision::F32, &seconds.vectors, count, width);
    let rows = (SCORES / count).max(1);
    let mut pairs = Vec::new();
    let mut nearness = Vec::new();
    console.begin("pairing", Some(texts.firsts.len() as u64), "texts");
    for (block, vectors) in firsts.vectors.chunks(rows * width).enumerate() {
        if console.stop_requested() {
            bail!("stopped");
        }
        nearness.resize(vectors.len() / width * count, 0.0);
        matmul(rt, vectors, &packed, &mut nearness, Epilogue::None); // [first texts, second texts]
        for (row, nearness) in nearness.chunks_exact(count).enumerate() {
            let first = block * rows + row;
            let partners = texts.partners(first, nearness, args.each as usize, args.seed);
            pairs.extend(partners.into_iter().map(|second| (texts.firsts[first], texts.seconds[second])));
            console.advance(1);
        }
    }
    console.end();
    ensure!(!pairs.is_empty(), "{}: every first text stands with every second one already", args.path.display());
    write_atomic(&args.output, pairs_as_file(&task, &args.output, pairs.iter().copied())?.as_bytes())?;
    output::print(&format!(
        "{}: {} pairs of {} first and {count} second texts\n",
        args.output.display(),
        pairs.len(),
        texts.firsts.len()
    ))
}
