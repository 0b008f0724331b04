//! `distilbert`: the whole life of a small text encoder, one subcommand a stage.

mod answerer;
mod calibration;
mod classifier;
mod commands;
mod config;
mod console;
mod cost;
mod gather;
mod intent_model;
mod measure;
mod model_source;
mod output;
mod precision;
mod sentence_encoder;
mod traces;

use clap::builder::RangedU64ValueParser;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use console::Console;
use distilbert_kernels::{Isa, Runtime};
use std::process::ExitCode;

/// Distil, fine-tune, evaluate and use small text encoders (BERT, DistilBERT) on ordinary CPUs.
///
/// Wherever a MODEL is asked for, it may be a local folder, `owner/name[@revision]` on the Hugging Face hub, or
/// `pip:PACKAGE` for a Python package that carries a model. Results go to standard output, progress and warnings to
/// standard error. Exit code: 0 done, 1 failed, 2 misused.
#[derive(Parser)]
#[command(name = "distilbert", version, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    global: GlobalArguments,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every subcommand.
#[derive(clap::Args)]
pub struct GlobalArguments {
    /// Threads to compute with; results do not depend on it [default: the CPUs that this process may use].
    #[arg(long, global = true, value_name = "N", help_heading = "Global options",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    threads: Option<usize>,
    /// Instruction set: portable, avx2, avx512 or amx [default: the fastest this CPU has].
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    isa: Option<Isa>,
    /// No progress bars.
    #[arg(long, short, global = true, help_heading = "Global options")]
    quiet: bool,
}

/// What each does is said beside its flags.
#[derive(Subcommand)]
enum Command {
    Quickstart(commands::quickstart::QuickstartArgs),
    Pull(commands::pull::PullArgs),
    Verify(commands::verify::VerifyArgs),
    Corpus(commands::corpus::CorpusArgs),
    Data(commands::data::DataArgs),
    Pretrain(commands::pretrain::PretrainArgs),
    Distil(commands::distil::DistilArgs),
    Finetune(commands::finetune::FinetuneArgs),
    Compress(commands::compress::CompressArgs),
    Inspect(commands::inspect::InspectArgs),
    Evaluate(commands::evaluate::EvaluateArgs),
    Predict(commands::predict::PredictArgs),
    Serve(commands::serve::ServeArgs),
    Bench(commands::bench::BenchArgs),
    Report(commands::report::ReportArgs),
}

fn main() -> ExitCode {
    let matches = negative_numbers_are_values(Arguments::command()).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::line(&format!("error: {}", on_one_line(&error)));
            ExitCode::FAILURE
        }
    }
}

/// What is no option, such as -1, is the value of the one before it, which is then refused by the option's name.
fn negative_numbers_are_values(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let takes_values = arg.get_action().takes_values();
            arg.allow_negative_numbers(takes_values)
        })
        .mut_subcommands(negative_numbers_are_values)
}

/// The error and its causes, `outer: inner`; a cause that the outer message quotes already is not repeated.
fn on_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| cause.to_string()) {
        if !line.contains(&cause) {
            let separator = if line.is_empty() { "" } else { ": " };
            line.push_str(separator);
            line.push_str(&cause);
        }
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let console = Console::new(arguments.global.quiet)?;
    let global = &arguments.global;
    match arguments.command {
        Command::Quickstart(args) => commands::quickstart::run(&args, &global.runtime()?, &console),
        Command::Pull(args) => commands::pull::run(&args, &console),
        Command::Corpus(args) => commands::corpus::run(&args, global.threads()?, &console),
        Command::Data(args) => commands::data::run(&args, &global.runtime()?, &console),
        Command::Verify(args) => commands::verify::run(&args, &global.runtime()?, &console),
        Command::Pretrain(args) => commands::pretrain::run(&args, &global.runtime()?, &console),
        Command::Finetune(args) => commands::finetune::run(&args, &global.runtime()?, &console),
        Command::Distil(args) => commands::distil::run(&args, &global.runtime()?, &console),
        Command::Compress(args) => commands::compress::run(&args, &global.runtime()?, &console),
        Command::Inspect(args) => commands::inspect::run(&args, &global.runtime()?, &console),
        Command::Evaluate(args) => commands::evaluate::run(&args, &global.runtime()?, &console),
        Command::Predict(args) => commands::predict::run(&args, &global.runtime()?, &console),
        Command::Serve(args) => commands::serve::run(&args, global.runtime()?, console),
        Command::Bench(args) => commands::bench::run(&args, &global.runtime()?, &console),
        Command::Report(args) => commands::report::run(&args, &global.runtime()?, &console),
    }
}

impl GlobalArguments {
    fn runtime(&self) -> anyhow::Result<Runtime> {
        Ok(Runtime::new(self.isa.unwrap_or_else(Isa::detect), self.threads()?)?)
    }

    fn threads(&self) -> anyhow::Result<usize> {
        Ok(match self.threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism()?.get(),
        })
    }
}
