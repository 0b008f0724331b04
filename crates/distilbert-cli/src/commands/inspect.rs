//! `distilbert inspect`: what a model folder holds.

use crate::classifier::problem_name;
use crate::console::Console;
use crate::cost::Cost;
use crate::gather::{lineage_of, size_bytes};
use crate::model_source;
use crate::output;
use clap::Args;
use distilbert::checkpoint::Checkpoint;
use distilbert::checkpoint::model_folder::{HeadChoice, Loaded, ModelFolderError, read_config};
use distilbert::checkpoint::sentence_folder::SentenceSettings;
use distilbert::data::examples::SavedTask;
use distilbert::data::intents::IntentTask;
use distilbert::data::questions::AnsweringTask;
use distilbert::model::{Family, HeadKind, Model, Pooling};
use distilbert::report::{Lineage, grouped};
use distilbert::tokenizer::Tokenizer;
use distilbert_kernels::Runtime;
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Tensors named in the text; `--json` names all.
const NAMES_SHOWN: usize = 4;

/// Show a model's family, head, parameters by part, size, cost, tokenizer and origin.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The model.
    model: String,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Everything the command shows.
#[derive(Serialize)]
struct Inspection {
    folder: PathBuf,
    family: &'static str,
    architecture: String,
    problem: Option<distilbert::model::Problem>,
    labels: Vec<String>,
    /// Tags of the words, of a model for intents and slots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    slots: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<EmbeddingFacts>,
    layers: usize,
    /// Layers that have weights of their own.
    layer_groups: usize,
    hidden: usize,
    /// Width of the embedding tables.
    embedding_size: usize,
    heads: usize,
    ffn: usize,
    vocab_size: usize,
    max_positions: usize,
    parameters: u64,
    parts: Vec<Part>,
    /// What the matrices are saved in, and so what the model is run in.
    precision: &'static str,
    /// Of the weight files.
    size_bytes: u64,
    files: usize,
    /// Element types of the tensors in the files.
    dtypes: Vec<String>,
    cost: Cost,
    tokenizer: Option<TokenizerFacts>,
    /// Tensors of the files that the model does not use.
    unused: Vec<String>,
    /// Parameters that the files lack.
    fresh: Vec<String>,
    task: Option<SavedTask>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answering: Option<AnsweringTask>,
    #[serde(skip_serializing_if = "Option::is_none")]
    intents: Option<IntentTask>,
    lineage: Option<Lineage>,
}

/// Some of the parameters.
#[derive(Debug, PartialEq, Serialize)]
struct Part {
    name: String,
    parameters: u64,
    /// Of all, from 0 to 1.
    share: f64,
}

/// What a sentence encoder makes of a text.
#[derive(Serialize)]
struct EmbeddingFacts {
    pooling: Pooling,
    /// Widths of the linears behind the pooling.
    dense: Vec<usize>,
    /// Numbers in a vector.
    dimensions: usize,
    normalize: bool,
    similarity: &'static str,
    /// Longest input in tokens.
    max_length: usize,
}

#[derive(Serialize)]
struct TokenizerFacts {
    kind: &'static str,
    tokens: usize,
    lowercases: bool,
    pad: u32,
    unk: u32,
    cls: u32,
    sep: u32,
    mask: u32,
    /// How the vocabulary spells them, in the order above.
    spelled: [String; 5],
}

/// Runs the command.
///
/// # Errors
/// If there is no such model or a file of it cannot be used; a missing head or tokenizer is only reported.
pub fn run(args: &InspectArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let folder = model_source::resolve(&args.model, console)?;
    let inspection = inspect(&folder, rt, console)?;
    if args.json { output::print_json(&inspection) } else { output::print(&text(&args.model, &inspection)) }
}

fn inspect(folder: &Path, rt: &Runtime, console: &Console) -> anyhow::Result<Inspection> {
    let Loaded { model, fresh, unused } = load(folder, rt)?;
    let config = &model.config;
    let encoder = &config.encoder;
    let checkpoint = Checkpoint::open(folder)?;
    let mut dtypes = checkpoint
        .names()
        .map(|name| Ok(format!("{:?}", checkpoint.dtype(name)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    dtypes.sort();
    dtypes.dedup();
    let tokenizer = match Tokenizer::from_folder(folder) {
        Ok(tokenizer) => Some(TokenizerFacts::of(&tokenizer)),
        Err(error) => {
            console.warn(&error.to_string());
            None
        }
    };
    let problem = match &config.head {
        HeadKind::Classification { problem, .. } => Some(*problem),
        _ => None,
    };
    let embedding = match &config.head {
        HeadKind::Embedding(head) => {
            let settings = SentenceSettings::read(folder)?;
            let dense: Vec<usize> = head.dense.iter().map(|dense| dense.outputs).collect();
            Some(EmbeddingFacts {
                pooling: head.pooling,
                dimensions: *dense.last().unwrap_or(&encoder.hidden),
                dense,
                normalize: head.normalize,
                similarity: settings.similarity.name(),
                max_length: settings.max_length.unwrap_or(usize::MAX).min(encoder.max_positions),
            })
        }
        _ => None,
    };
    let (answering, intents) = (AnsweringTask::read(folder)?, IntentTask::read(folder)?);
    Ok(Inspection {
        embedding,
        family: encoder.family.model_type(),
        architecture: config.architecture(),
        problem,
        labels: config.head.labels().to_vec(),
        slots: config.head.slots().to_vec(),
        layers: encoder.layers,
        layer_groups: encoder.layer_groups,
        hidden: encoder.hidden,
        embedding_size: encoder.embedding_size,
        heads: encoder.heads,
        ffn: encoder.ffn,
        vocab_size: encoder.vocab_size,
        max_positions: encoder.max_positions,
        parameters: model.parameters.count() as u64,
        parts: parts(&model),
        precision: config.weights.name(),
        size_bytes: size_bytes(&checkpoint)?,
        files: checkpoint.files().count(),
        dtypes,
        cost: Cost::of(config),
        tokenizer,
        unused,
        fresh,
        task: if answering.is_some() { None } else { SavedTask::read(folder)? },
        answering,
        intents,
        lineage: lineage_of(folder)?,
        folder: folder.to_owned(),
    })
}

/// The model as saved or, if its head's tensors are not all there, with a fresh head. Below f32 all must be there.
fn load(folder: &Path, rt: &Runtime) -> Result<Loaded, ModelFolderError> {
    match Model::load(folder, HeadChoice::AsSaved) {
        Err(ModelFolderError::BelowF32 { .. }) => Model::check_folder(folder, rt),
        Err(ModelFolderError::Missing { .. } | ModelFolderError::Shape { .. }) => {
            let head = read_config(folder)?.head;
            Model::load(folder, HeadChoice::Replace { head, seed: 0 })
        }
        loaded => loaded,
    }
}

/// The parameters by part, in the model's order.
fn parts(model: &Model) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for parameter in model.parameters.table() {
        let (name, count) = (part_of(&parameter.name), parameter.count() as u64);
        match parts.iter_mut().find(|part| part.name == name) {
            Some(part) => part.parameters += count,
            None => parts.push(Part { name, parameters: count, share: 0.0 }),
        }
    }
    let total = model.parameters.count() as f64;
    parts.iter_mut().for_each(|part| part.share = part.parameters as f64 / total);
    parts
}

fn part_of(tensor: &str) -> String {
    let plain = Family::ALL.iter().find_map(|family| tensor.strip_prefix(family.prefix())).unwrap_or(tensor);
    for (stack, name) in
        [("encoder.layer.", "layer"), ("transformer.layer.", "layer"), ("encoder.albert_layer_groups.", "shared layer")]
    {
        if let Some(rest) = plain.strip_prefix(stack) {
            return format!("{name} {}", rest.split('.').next().unwrap_or_default());
        }
    }
    let named = [
        ("embeddings.word", "word embeddings"),
        ("embeddings.position", "position embeddings"),
        ("embeddings.token_type", "type embeddings"),
        ("embeddings.", "embedding norm"),
        ("embeddings_project.", "embedding projection"),
        ("encoder.embedding_hidden_mapping_in.", "embedding projection"),
        ("pooler.", "pooler"),
    ];
    let name = named.iter().find(|(prefix, _)| plain.starts_with(prefix)).map_or("head", |(_, name)| name);
    name.to_owned()
}

impl TokenizerFacts {
    fn of(tokenizer: &Tokenizer) -> TokenizerFacts {
        let special = tokenizer.special();
        TokenizerFacts {
            kind: tokenizer.kind().name(),
            tokens: tokenizer.vocab_size(),
            lowercases: tokenizer.is_lowercasing(),
            pad: special.pad,
            unk: special.unk,
            cls: special.cls,
            sep: special.sep,
            mask: special.mask,
            spelled: [special.pad, special.unk, special.cls, special.sep, special.mask]
                .map(|id| tokenizer.token(id).unwrap_or_default().to_owned()),
        }
    }
}

fn text(name: &str, found: &Inspection) -> String {
    let mut text = format!("{name}: {} in {}\n", found.architecture, found.folder.display());
    // Writing to a string cannot fail.
    let mut line = |title: &str, value: String| {
        let _ = writeln!(text, "  {title:<11}{value}");
    };
    line(
        "encoder",
        format!(
            "{} layers{}, {} wide, {} heads, {} in the feed-forward block, {} positions",
            found.layers,
            match found.layer_groups {
                1 if found.layers > 1 => " of the same weights".to_owned(),
                groups if groups < found.layers => format!(" of {groups} sets of weights"),
                _ => String::new(),
            },
            found.hidden,
            found.heads,
            found.ffn,
            found.max_positions
        ),
    );
    if !found.labels.is_empty() {
        let problem = found.problem.map_or(String::new(), |problem| format!(" ({})", problem_name(problem)));
        line("labels", format!("{}{problem}", found.labels.join(", ")));
    }
    if !found.slots.is_empty() {
        line("slots", found.slots.join(", "));
    }
    if let Some(embedding) = &found.embedding {
        let pooling = match embedding.pooling {
            Pooling::Mean => "mean of the tokens",
            Pooling::Cls => "first token",
            Pooling::Max => "largest of the tokens",
        };
        let dense: String = embedding.dense.iter().map(|width| format!(", a linear to {width}")).collect();
        let length = if embedding.normalize { " of length one" } else { "" };
        let EmbeddingFacts { dimensions, similarity, max_length, .. } = embedding;
        line(
            "vectors",
            format!(
                "{pooling}{dense}; {dimensions} numbers{length}, compared by {similarity}, inputs of up to {max_length} tokens"
            ),
        );
    }
    let files = if found.files == 1 { "1 file".to_owned() } else { format!("{} files", found.files) };
    let dtypes = found.dtypes.join(" and ");
    line("weights", format!("{} bytes in {files}, {dtypes}, run in {}", grouped(found.size_bytes), found.precision));
    let cost = &found.cost;
    let mut work = format!(
        "{} MFLOP a token in the linear layers, {} in attention at {} tokens",
        short(cost.linear_mflop_per_token),
        short(cost.attention_mflop_per_token),
        cost.attention_length
    );
    if cost.head_per != "none" {
        let _ = write!(work, "; head {} a {}", short(cost.head_mflop), cost.head_per);
    }
    line("forward", work);
    line(
        "tokenizer",
        found.tokenizer.as_ref().map_or_else(
            || "none".to_owned(),
            |t| {
                let case = if t.lowercases { "lower-cases" } else { "keeps case" };
                let ids = [t.pad, t.unk, t.cls, t.sep, t.mask];
                let special: Vec<String> = t.spelled.iter().zip(ids).map(|(name, id)| format!("{name} {id}")).collect();
                format!("{}, {} tokens, {case}; {}", t.kind, grouped(t.tokens as u64), special.join(", "))
            },
        ),
    );
    for (title, names) in [("unused", &found.unused), ("missing", &found.fresh)] {
        if !names.is_empty() {
            let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(String::as_str).collect();
            let more = if names.len() > NAMES_SHOWN { ", ..." } else { "" };
            line(title, format!("{} tensors: {}{more}", names.len(), shown.join(", ")));
        }
    }
    if let Some(saved) = &found.answering {
        let none = if saved.rules.unanswerable { ", some questions without an answer" } else { "" };
        line("task", format!("{}, windows of up to {} tokens{none}", saved.name, saved.windows.max_length));
    }
    if let Some(saved) = &found.intents {
        line("task", format!("{}, inputs of up to {} tokens", saved.name, saved.max_length));
    }
    if let Some(saved) = &found.task {
        line("task", format!("{}, inputs of up to {} tokens", saved.task.name, saved.max_length));
    }
    if let Some(lineage) = &found.lineage {
        let Lineage { teacher, corpus_sha256, recipe, .. } = lineage;
        for (key, value) in [("teacher", teacher), ("corpus_sha256", corpus_sha256), ("recipe", recipe)] {
            if let Some(value) = value {
                line("lineage", format!("{key}: {value}"));
            }
        }
        lineage.history().into_iter().for_each(|before| line("lineage", format!("before that: {before}")));
    }
    let _ = writeln!(text, "\n  {:<20}{:>14}{:>9}", "part", "parameters", "share");
    for Part { name, parameters, share } in &found.parts {
        let _ = writeln!(text, "  {name:<20}{:>14}{:>7.1} %", grouped(*parameters), 100.0 * share);
    }
    let _ = writeln!(text, "  {:<20}{:>14}", "total", grouped(found.parameters));
    text
}

/// A tenth, or a thousandth of what is small.
fn short(number: f64) -> String {
    if number < 1.0 { format!("{number:.3}") } else { format!("{number:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use distilbert::model::ModelConfig;

    fn zeroed(family: &str, class: &str, vocab_size: usize) -> Model {
        // What the published files say and transformers' defaults do not.
        let more = match family {
            "roberta" | "xlm-roberta" => r#", "max_position_embeddings": 514, "type_vocab_size": 1"#,
            "albert" => r#", "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072"#,
            _ => "",
        };
        let text =
            format!(r#"{{"model_type": "{family}", "architectures": ["{class}"], "vocab_size": {vocab_size}{more}}}"#);
        // Untouched zeros take no memory: the system gives pages when they are first written.
        Model::zeroed(ModelConfig::from_json(&text).unwrap())
    }

    #[test]
    fn parameters_of_the_published_models_are_exact() {
        for (family, class, vocab_size, expected) in [
            ("distilbert", "DistilBertModel", 30522, 66_362_880),
            ("distilbert", "DistilBertForMaskedLM", 30522, 66_985_530),
            ("distilbert", "DistilBertForSequenceClassification", 30522, 66_955_010),
            ("distilbert", "DistilBertModel", 119_547, 134_734_080),
            ("bert", "BertModel", 30522, 109_482_240),
            ("bert", "BertForMaskedLM", 30522, 109_514_298),
            ("bert", "BertForSequenceClassification", 28996, 108_311_810),
            ("roberta", "RobertaForMaskedLM", 50265, 124_697_433),
            ("roberta", "RobertaForSequenceClassification", 50265, 124_647_170),
            ("xlm-roberta", "XLMRobertaForMaskedLM", 250_002, 278_295_186),
            ("albert", "AlbertModel", 30000, 11_683_584),
            ("bert", "BertForTokenClassification", 30522, 108_893_186),
            ("bert", "BertForQuestionAnswering", 30522, 108_893_186),
            ("distilbert", "DistilBertForTokenClassification", 30522, 66_364_418),
            ("distilbert", "DistilBertForQuestionAnswering", 30522, 66_364_418),
        ] {
            let model = zeroed(family, class, vocab_size);
            let parts = parts(&model);
            assert_eq!(model.parameters.len(), expected, "{class} {vocab_size}");
            assert_eq!(parts.iter().map(|part| part.parameters).sum::<u64>(), expected as u64);
            assert!((parts.iter().map(|part| part.share).sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn parts_of_the_base_size_are_exact() {
        let count =
            |model: &Model, name: &str| parts(model).iter().find(|part| part.name == name).map(|p| p.parameters);
        let bert = zeroed("bert", "BertModel", 30522);
        for (name, expected) in [
            ("word embeddings", 23_440_896),
            ("position embeddings", 393_216),
            ("type embeddings", 1_536),
            ("embedding norm", 1_536),
            ("layer 0", 7_087_872),
            ("layer 11", 7_087_872),
            ("pooler", 590_592),
        ] {
            assert_eq!(count(&bert, name), Some(expected), "{name}");
        }
        let distilled = zeroed("distilbert", "DistilBertForMaskedLM", 30522);
        assert_eq!(count(&distilled, "head"), Some(622_650));
        assert_eq!(count(&distilled, "type embeddings"), None);
    }
}
