//! `distilbert finetune --objective similarity|contrastive|margin`: a sentence encoder on pairs or triples of texts.

use super::finetune::{FinetuneArgs, NO_DEV_SPLIT, check_max_length, find_dev_split};
use super::training;
use super::{evaluate, similarity};
use crate::classifier::Classifier;
use crate::config;
use crate::console::Console;
use crate::model_source;
use crate::sentence_encoder::{HeadFlags, SentenceEncoder, embedding_head};
use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use distilbert::checkpoint::model_folder::{HeadChoice, read_config};
use distilbert::checkpoint::sentence_folder::SentenceSettings;
use distilbert::data::encoded::EncodedSet;
use distilbert::data::examples::{self, Columns, DataSet, Label, Split};
use distilbert::model::HeadKind;
use distilbert::optim::{OptimizerConfig, Schedule};
use distilbert::predict::{self, EmbeddingRunner};
use distilbert::report::Lineage;
use distilbert::tokenizer::Tokenizer;
use distilbert::train::run::Run;
use distilbert::train::sentence::{Objective, SentenceTuning, SentenceTuningConfig, TextGroups};
use distilbert::train::{End, LoopConfig, train};
use distilbert_kernels::Runtime;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What pairs or triples of texts are to teach, as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ObjectiveChoice {
    /// Pairs with a number: the cosine of the pair's embeddings is the number, mapped to 0 to 1.
    Similarity,
    /// Pairs (or triples with --negative-column): each text is nearer to its partner than to the rest of the batch.
    Contrastive,
    /// Triples: the first is nearer to the second than to the third by as much as --teacher says.
    Margin,
}

impl From<ObjectiveChoice> for Objective {
    fn from(choice: ObjectiveChoice) -> Objective {
        match choice {
            ObjectiveChoice::Similarity => Objective::Similarity,
            ObjectiveChoice::Contrastive => Objective::Contrastive,
            ObjectiveChoice::Margin => Objective::Margin,
        }
    }
}

/// Everything that decides a run on pairs or triples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct EmbeddingTuningConfig {
    /// The model.
    model: String,
    /// The teacher of margins; none if empty.
    teacher: String,
    /// The task, if the data is one of GLUE's.
    task: String,
    /// Data and loss.
    training: SentenceTuningConfig,
    /// Updates.
    optimizer: OptimizerConfig,
    /// Measurements and checkpoints; `evaluate-every` 0 means twice a pass.
    #[serde(rename = "loop")]
    run_loop: LoopConfig,
}

impl EmbeddingTuningConfig {
    fn of(objective: Objective) -> EmbeddingTuningConfig {
        EmbeddingTuningConfig {
            model: String::new(),
            teacher: String::new(),
            task: String::new(),
            training: SentenceTuningConfig {
                seed: 1,
                objective,
                epochs: if objective == Objective::Similarity { 4 } else { 1 },
                batch_size: if objective == Objective::Contrastive { 64 } else { 32 },
                max_length: 128,
                validation_share: 0.05,
                // A temperature of 0.05 for contrasts; margins are compared as they are.
                scale: if objective == Objective::Contrastive { 20.0 } else { 1.0 },
            },
            optimizer: OptimizerConfig {
                learning_rate: 5e-5,
                schedule: Schedule::Linear { warmup_ratio: 0.1 },
                ..OptimizerConfig::default()
            },
            run_loop: LoopConfig { evaluate_every: 0, checkpoint_every: 0, patience: 0, ..LoopConfig::default() },
        }
    }
}

/// Runs the command.
pub fn run(args: &FinetuneArgs, choice: ObjectiveChoice, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let objective = Objective::from(choice);
    check_flags(args, objective)?;
    let integer = |value: Option<u32>| value.map(|value| toml::Value::Integer(value.into()));
    let mut flags = args.run.flags("training");
    flags.extend([
        ("model".to_owned(), Some(toml::Value::from(args.model.as_str()))),
        ("teacher".to_owned(), args.teacher.first().map(|name| toml::Value::from(name.as_str()))),
        ("task".to_owned(), args.task.as_deref().map(toml::Value::from)),
        ("training.batch-size".to_owned(), integer(args.batch_size)),
        ("training.max-length".to_owned(), integer(args.max_length)),
        ("training.scale".to_owned(), args.scale.map(toml::Value::Float)),
        ("loop.patience".to_owned(), integer(args.patience)),
    ]);
    let mut config = config::resolve(&EmbeddingTuningConfig::of(objective), args.run.config.as_deref(), flags)?;

    let folder = model_source::resolve(&config.model, console)?;
    let pooling = HeadFlags { pooling: args.pooling, ..HeadFlags::default() };
    let head = embedding_head(&read_config(&folder)?, pooling, &config.model, console);
    let choice = HeadChoice::Replace { head: HeadKind::Embedding(head), seed: config.training.seed };
    let source = training::load_for(args.run.resume(), &config.model, choice, console)?;
    let mut settings = SentenceSettings::read(&folder)?;
    let longest = settings.max_length.unwrap_or(usize::MAX).min(source.model.config.encoder.max_positions);
    check_max_length(args, longest)?;
    config.training.max_length = config.training.max_length.min(longest);
    settings.max_length.get_or_insert(longest);

    let sets = load(args, objective)?;
    if objective == Objective::Similarity {
        // What is wrong with it is told before the training.
        dev_pairs(args)?;
    }
    let data = groups(&sets, &config, &source.tokenizer, rt, console)?;
    let hash = sets.iter().map(DataSet::content_hash).collect::<Vec<_>>().join("+");
    let mut workload = SentenceTuning::new(source.model, &source.tokenizer, settings, &data, config.training.clone())?;
    if config.run_loop.evaluate_every == 0 {
        config.run_loop.evaluate_every = workload.steps_per_epoch().div_ceil(2);
    }
    // Before there is a run: a value out of range leaves nothing behind.
    config.optimizer.validate()?;
    config.run_loop.validate(rt)?;
    let text = config::to_text(&config)?;
    let mut run = Run::open(&args.run.output, rt, text, hash.clone(), args.run.resume())?;
    let outcome = train(rt, &mut workload, &config.optimizer, &config.run_loop, &mut run, console)?;
    let result = match outcome.end {
        End::Stopped => None,
        _ if objective != Objective::Similarity => None,
        _ => score_dev(args, &outcome.best, rt, console)?,
    };
    if outcome.end != End::Stopped {
        let teacher = (!config.teacher.is_empty()).then(|| config.teacher.clone());
        let mut recipe = format!(
            "{} trained on {} groups of texts for {} epochs, learning rate {}, batch {}, seed {}",
            config.model,
            data.len(),
            config.training.epochs,
            config.optimizer.learning_rate,
            config.training.batch_size,
            config.training.seed
        );
        if outcome.steps < outcome.total_steps {
            recipe += &format!(", ended after {} of {} steps", outcome.steps, outcome.total_steps);
        }
        let lineage = Lineage {
            teacher,
            corpus_sha256: Some(hash),
            recipe: Some(recipe),
            before: training::before(&config.model),
        };
        training::write_lineage(&args.run.output, &outcome.best, &lineage, result.as_ref(), rt)?;
    }
    match result {
        Some(result) => similarity::show(&result, None, args.run.json),
        None => {
            args.run.report(&outcome, console)?;
            Ok(())
        }
    }
}

fn check_flags(args: &FinetuneArgs, objective: Objective) -> anyhow::Result<()> {
    let name = args.objective.and_then(|choice| choice.to_possible_value());
    let name = name.as_ref().map_or("", |value| value.get_name());
    let refused = [
        ("--teacher", !args.teacher.is_empty() && objective != Objective::Margin),
        ("--negative-column", args.negative_column.is_some() && objective == Objective::Similarity),
        ("--scale", args.scale.is_some() && objective == Objective::Similarity),
        ("--label-column", args.label_column.is_some() && objective != Objective::Similarity),
        ("--task", args.task.is_some() && objective != Objective::Similarity),
        ("--dev", args.dev.is_some() && objective != Objective::Similarity),
    ];
    if let Some((flag, _)) = refused.into_iter().find(|(_, given)| *given) {
        bail!("{flag} does not go with --objective {name}");
    }
    if objective == Objective::Margin {
        let [_] = &args.teacher[..] else {
            let found = args.teacher.len();
            bail!("--objective margin: expected --teacher, the one model whose margins are learned, found {found}")
        };
        ensure!(args.negative_column.is_some(), "--objective margin: expected --negative-column");
    }
    Ok(())
}

/// The data: pairs, and for triples the same rows again with the negatives in the second place.
fn load(args: &FinetuneArgs, objective: Objective) -> anyhow::Result<Vec<DataSet>> {
    let columns = |pair: &Option<String>| {
        let text = args.text_column.as_deref().context("name the columns: --text-column and --pair-column")?;
        ensure!(pair.is_some(), "expected --pair-column");
        let label = args.label_column.as_deref().unwrap_or_default();
        Ok(Columns { pair: pair.clone(), header: !args.no_header, ..Columns::new(text, label) })
    };
    if objective == Objective::Similarity {
        let columns = args.text_column.is_some().then(|| columns(&args.pair_column)).transpose()?;
        let task = similarity::task(args.task.as_deref(), columns, &args.data)?;
        return Ok(vec![examples::load(&task, &args.data, Split::Train)?]);
    }
    ensure!(args.data.is_file(), "--data: expected the file of pairs, found {}", args.data.display());
    let mut sets = Vec::new();
    for pair in [Some(&args.pair_column), args.negative_column.is_some().then_some(&args.negative_column)] {
        let Some(pair) = pair else { continue };
        let task = similarity::task(None, Some(columns(pair)?), &args.data)?;
        // Pairs and triples have no labels.
        sets.push(examples::load(&task, &args.data, Split::Unlabelled)?);
    }
    Ok(sets)
}

fn groups(
    sets: &[DataSet],
    config: &EmbeddingTuningConfig,
    tokenizer: &Tokenizer,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<TextGroups> {
    let first = sets.first().context("no data")?;
    let anchors: Vec<&str> = first.examples.iter().map(|example| example.text_a.as_str()).collect();
    let mut columns = vec![anchors];
    for set in sets {
        columns.push(set.examples.iter().map(|example| example.text_b.as_deref().unwrap_or_default()).collect());
    }
    let texts: Vec<EncodedSet> = columns
        .iter()
        .map(|column| {
            let column: Vec<(&str, Option<&str>)> = column.iter().map(|&text| (text, None)).collect();
            EncodedSet::from_texts(&column, tokenizer, config.training.max_length, rt.threads())
        })
        .collect();
    let truncated: usize = texts.iter().map(|set| set.truncated.len()).sum();
    if truncated > 0 {
        console.warn(&format!("{truncated} texts were cut to {} tokens", config.training.max_length));
    }
    if let Some(skipped) = first.skipped.first() {
        console.warn(&format!(
            "{} rows were left out; the first, line {}: {}",
            first.skipped.len(),
            skipped.line,
            skipped.reason
        ));
    }
    let targets = match config.training.objective {
        Objective::Contrastive => Vec::new(),
        Objective::Similarity => scores(first)?,
        Objective::Margin => margins(&config.teacher, &columns, rt, console)?,
    };
    Ok(TextGroups { texts, targets })
}

/// The labels, mapped from their least and largest to 0 and 1, which cosines can reach.
fn scores(data: &DataSet) -> anyhow::Result<Vec<f32>> {
    let scores: Vec<f32> = data
        .examples
        .iter()
        .filter_map(|example| match example.label {
            Label::Score(score) => Some(score),
            _ => None,
        })
        .collect();
    let (least, largest) = scores
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(least, largest), &score| (least.min(score), largest.max(score)));
    ensure!(largest > least, "scores: expected different ones, found {least} only");
    Ok(scores.into_iter().map(|score| (score - least) / (largest - least)).collect())
}

/// By how much the teacher scores each positive above its negative: a cross-encoder's output, or a sentence encoder's
/// similarity.
fn margins(teacher: &str, columns: &[Vec<&str>], rt: &Runtime, console: &Console) -> anyhow::Result<Vec<f32>> {
    let [anchors, positives, negatives] = columns else { bail!("expected triples") };
    let what = "asking the teacher";
    let head = read_config(&model_source::resolve(teacher, console)?)?.head;
    if matches!(head, HeadKind::Classification { .. }) {
        let teacher_model = Classifier::load(teacher, rt, console)?;
        let outputs = teacher_model.labels.len();
        ensure!(outputs == 1, "teacher {teacher}: expected one output, a pair's score, found {outputs}");
        let positions = teacher_model.model.config.encoder.max_positions;
        let max_length = teacher_model.max_length(None, positions)?;
        let ask = |others: &[&str]| {
            let pairs: Vec<(&str, Option<&str>)> = anchors.iter().zip(others).map(|(&a, &b)| (a, Some(b))).collect();
            let set = EncodedSet::from_texts(&pairs, &teacher_model.tokenizer, max_length, rt.threads());
            let scores = predict::logits(rt, &teacher_model.model, &set, what, console)?;
            ensure!(scores.texts() == others.len(), "stopped as asked, before the first step");
            Ok((0..others.len()).map(|row| scores.of(row)[0]).collect::<Vec<f32>>())
        };
        let (positive, negative) = (ask(positives)?, ask(negatives)?);
        return Ok(positive.iter().zip(&negative).map(|(positive, negative)| positive - negative).collect());
    }
    let encoder = SentenceEncoder::load(teacher, HeadFlags::default(), None, rt, console)?;
    let mut runner = EmbeddingRunner::new(&encoder.model, None)?;
    let mut vectors =
        |texts: &[&str]| Ok::<_, anyhow::Error>(encoder.vectors(&mut runner, "", texts, what, rt, console)?.vectors);
    let (anchors, positives, negatives) = (vectors(anchors)?, vectors(positives)?, vectors(negatives)?);
    let width = runner.dimensions();
    let rows = anchors.chunks_exact(width).zip(positives.chunks_exact(width).zip(negatives.chunks_exact(width)));
    Ok(rows.map(|(a, (p, n))| a.iter().zip(p.iter().zip(n)).map(|(a, (p, n))| a * (p - n)).sum()).collect())
}

/// The dev pairs, if there are any.
fn dev_pairs(args: &FinetuneArgs) -> anyhow::Result<Option<DataSet>> {
    let columns = args.text_column.as_deref().map(|text| Columns {
        pair: args.pair_column.clone(),
        header: !args.no_header,
        ..Columns::new(text, args.label_column.as_deref().unwrap_or_default())
    });
    let task = similarity::task(args.task.as_deref(), columns, &args.data)?;
    let load = |path: &Path| examples::load(&task, path, Split::Dev);
    Ok(find_dev_split(args.dev.as_deref(), &args.data, args.data.is_dir(), load)?)
}

/// Scores the best checkpoint on the dev file, once; `None` if there is none.
fn score_dev(
    args: &FinetuneArgs,
    best: &Path,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Option<distilbert::evaluate::EvaluationResult>> {
    let Some(data) = dev_pairs(args)? else {
        if args.data.is_dir() {
            console.warn(NO_DEV_SPLIT);
        }
        return Ok(None);
    };
    let encoder = SentenceEncoder::load(&best.to_string_lossy(), HeadFlags::default(), None, rt, console)?;
    let scored = similarity::score(&encoder, &data, None, rt, console)?;
    let result = scored.result.clone();
    evaluate::write(&args.run.output, &[scored])?;
    Ok(Some(result))
}
