//! `distilbert report`: models side by side.

use crate::console::Console;
use crate::gather::{gather, machine};
use crate::output;
use anyhow::{Context, bail};
use clap::Args;
use distilbert::checkpoint::write_atomic;
use distilbert::evaluate::statistics::Bootstrap;
use distilbert::progress::Progress;
use distilbert::report::{Report, ReportInput, Role};
use distilbert_kernels::Runtime;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Compare models: parameters, size, speed, scores with intervals, what is kept of the reference, where they disagree.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Runs of `finetune`, or models; NAME= sets the name shown. The first is the reference.
    #[arg(required = true, value_name = "[NAME=]RUN")]
    runs: Vec<String>,
    /// Folder for report.md and report.html.
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// Title of the report.
    #[arg(long, value_name = "TEXT", default_value = "Comparison of models")]
    title: String,
    /// Measure the others against the model of this name.
    #[arg(long, value_name = "NAME")]
    reference: Option<String>,
    /// Do not measure latency and throughput.
    #[arg(long)]
    no_speed: bool,
    /// Print one line of JSON: what was gathered, and the files written.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Written<'a> {
    markdown: PathBuf,
    html: PathBuf,
    #[serde(flatten)]
    input: &'a ReportInput,
}

/// Runs the command.
///
/// # Errors
/// If a run cannot be read, two have one name, or the report cannot be written.
pub fn run(args: &ReportArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let runs: Vec<(String, &Path)> = args.runs.iter().map(|run| named(run)).collect::<anyhow::Result<_>>()?;
    for (index, (name, _)) in runs.iter().enumerate() {
        if runs.iter().take(index).any(|(other, _)| other == name) {
            bail!("two runs are called `{name}`; name them apart: NAME=RUN");
        }
    }
    let reference = match &args.reference {
        None => 0,
        Some(reference) => runs.iter().position(|(name, _)| name == reference).with_context(|| {
            let names: Vec<&str> = runs.iter().map(|(name, _)| name.as_str()).collect();
            format!("--reference: expected one of {}, found {reference}", names.join(", "))
        })?,
    };

    console.begin("gathering", Some(runs.len() as u64), "models");
    let mut models = Vec::new();
    for (index, (name, path)) in runs.iter().enumerate() {
        if console.stop_requested() {
            bail!("stopped");
        }
        let role = if index == reference { Role::Teacher } else { Role::Student };
        models.push(gather(name, role, path, !args.no_speed, rt, console).with_context(|| name.clone())?);
        console.advance(1);
    }
    console.end();

    let input = ReportInput {
        title: args.title.clone(),
        machine: (!args.no_speed).then(|| machine(rt)),
        notes: runs.iter().map(|(name, path)| format!("{name}: {}", path.display())).collect(),
        models,
    };
    let report = Report::new(&input, &Bootstrap::default());
    let (markdown, html) = (args.output.join("report.md"), args.output.join("report.html"));
    // The larger one first: on a full disk there is neither.
    write_atomic(&html, report.html().as_bytes())?;
    write_atomic(&markdown, report.markdown().as_bytes())?;
    if args.json {
        return output::print_json(&Written { markdown, html, input: &input });
    }
    output::print(&report.terminal_table())?;
    console.say(&format!("wrote {} and {}", markdown.display(), html.display()));
    Ok(())
}

/// Name and path of an argument. A path that exists, and a package with its version (`pip:NAME==1.0`), may have a `=`.
fn named(run: &str) -> anyhow::Result<(String, &Path)> {
    let split = run.split_once('=').filter(|_| !Path::new(run).exists() && !run.starts_with("pip:"));
    let (name, path) = match split {
        Some(("", _) | (_, "")) => bail!("`{run}`: expected NAME=RUN"),
        Some((name, path)) => (name.to_owned(), path),
        None => {
            // `runs/teacher/..` has no name of its own.
            let name = Path::new(run).file_name().map(|name| name.to_string_lossy().into_owned());
            (name.unwrap_or_else(|| run.to_owned()), run)
        }
    };
    Ok((name, Path::new(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_before_the_first_equals_sign() {
        let name = |run| named(run).map(|(name, path)| (name, path.to_str().unwrap().to_owned())).ok();
        let pair = |name: &str, path: &str| Some((name.to_owned(), path.to_owned()));
        assert_eq!(name("teacher=runs/a=b"), pair("teacher", "runs/a=b"));
        assert_eq!(name("runs/student/"), pair("student", "runs/student/"));
        assert_eq!(name("owner/model@main"), pair("model@main", "owner/model@main"));
        assert_eq!(name("pip:package==1.0"), pair("pip:package==1.0", "pip:package==1.0"));
        assert_eq!(name("p=pip:package==1.0"), pair("p", "pip:package==1.0"));
        assert_eq!((name("=runs"), name("a=")), (None, None));
    }
}
