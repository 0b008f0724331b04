//! `finetune --few-shot N`: from N examples of each class, by pairs and a logistic regression.
//!
//! ```text
//! OUTPUT/checkpoints/step-N        the sentence encoder that the pairs trained
//! OUTPUT/checkpoints/classifier    the classifier, an ordinary folder; `best` points to it
//! ```

use super::{FinetuneArgs, FinetuneRunConfig, Finetuned, Job, LabelledJob, find_dev_split, task, warn_skipped};
use crate::classifier::problem_name;
use crate::commands::training;
use crate::config;
use crate::console::Console;
use crate::model_source;
use crate::sentence_encoder::{HeadFlags, embedding_head};
use anyhow::{Context, ensure};
use distilbert::checkpoint::model_folder::{HeadChoice, read_config, save_tokenizer};
use distilbert::checkpoint::sentence_folder::SentenceSettings;
use distilbert::checkpoint::{link_folder, replace_folder, write_atomic};
use distilbert::data::encoded::EncodedSet;
use distilbert::data::examples::{Example, Label, Problem, SavedTask, Split, TASK_FILE, Task, load};
use distilbert::model::averaging::classifier_from_embedder;
use distilbert::model::{HeadKind, Model, Purpose};
use distilbert::optim::{OptimizerConfig, Schedule};
use distilbert::report::Lineage;
use distilbert::train::few_shot::{draw, fit_head, pairs};
use distilbert::train::run::Run;
use distilbert::train::sentence::{Objective, SentenceTuning, SentenceTuningConfig};
use distilbert::train::{End, LoopConfig, train};
use distilbert_kernels::{Precision, Runtime};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Everything that decides a run from a few examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FewShotConfig {
    /// The sentence encoder.
    model: String,
    /// The task.
    task: String,
    /// Examples of each class.
    examples: usize,
    /// How often each example is paired with one of its class and with one of another.
    rounds: usize,
    /// The training on pairs.
    training: SentenceTuningConfig,
    /// Updates.
    optimizer: OptimizerConfig,
    /// Checkpoints; there is nothing held out to measure.
    #[serde(rename = "loop")]
    run_loop: LoopConfig,
}

impl FewShotConfig {
    fn new(task: &str, examples: usize) -> FewShotConfig {
        FewShotConfig {
            model: String::new(),
            task: task.to_owned(),
            examples,
            rounds: 20,
            training: SentenceTuningConfig {
                seed: 1,
                objective: Objective::Similarity,
                epochs: 1,
                batch_size: 16,
                max_length: 128,
                validation_share: 0.0,
                scale: 1.0,
            },
            optimizer: OptimizerConfig {
                learning_rate: 2e-5,
                schedule: Schedule::Linear { warmup_ratio: 0.1 },
                ..OptimizerConfig::default()
            },
            run_loop: LoopConfig { evaluate_every: 0, checkpoint_every: 0, patience: 0, ..LoopConfig::default() },
        }
    }
}

/// Learning of one task from a few examples, with any seed.
pub struct FewShot<'a> {
    args: &'a FinetuneArgs,
    task: Task,
    config: FewShotConfig,
}

impl FewShot<'_> {
    /// What flags and files say.
    pub fn new(args: &FinetuneArgs, examples: usize) -> anyhow::Result<FewShot<'_>> {
        let task = task(args)?;
        ensure!(
            task.problem == Problem::Classification,
            "--few-shot: expected a task of one of several classes, found {}",
            problem_name(task.problem)
        );
        find_dev_split(args.dev.as_deref(), &args.data, args.data.is_dir(), |path| load(&task, path, Split::Dev))?;
        let integer = |value: Option<u32>| value.map(|value| toml::Value::Integer(value.into()));
        let mut flags = args.run.flags("training");
        flags.extend([
            ("model".to_owned(), Some(toml::Value::from(args.model.as_str()))),
            ("task".to_owned(), Some(toml::Value::from(task.name.as_str()))),
            ("training.batch-size".to_owned(), integer(args.batch_size)),
            ("training.max-length".to_owned(), integer(args.max_length)),
        ]);
        let config = config::resolve(&FewShotConfig::new(&task.name, examples), args.run.config.as_deref(), flags)?;
        ensure!(config.training.validation_share == 0.0, "validation-share: a few examples have no share to spare");
        Ok(FewShot { args, task, config })
    }

    /// The first seed.
    pub fn seed(&self) -> u64 {
        self.config.training.seed
    }

    /// Trains with one seed and scores the classifier on the dev file.
    pub fn run(&self, seed: u64, output: &Path, rt: &Runtime, console: &Console) -> anyhow::Result<Finetuned> {
        let FewShot { args, task, config } = self;
        let mut config = config.clone();
        config.training.seed = seed;

        let folder = model_source::resolve(&config.model, console)?;
        let flags = HeadFlags { pooling: args.pooling, ..HeadFlags::default() };
        let head = HeadKind::Embedding(embedding_head(&read_config(&folder)?, flags, &config.model, console));
        let choice = HeadChoice::Replace { head, seed };
        let source = training::load_for(args.run.resume(), &config.model, choice, console)?;
        // Before there is a run: an encoder that cannot become a classifier.
        classifier_from_embedder(&source.model, task.head()).context("--few-shot")?;
        let positions = source.model.config.encoder.max_positions;
        config.training.max_length = config.training.max_length.min(positions);

        let data = load(task, &args.data, Split::Train)?;
        warn_skipped(&data.skipped, data.split, console);
        let class = |example: &Example| match example.label {
            Label::Class(class) => class,
            _ => 0,
        };
        let all: Vec<usize> = data.examples.iter().map(class).collect();
        let drawn: Vec<Example> =
            draw(&all, config.examples, seed).iter().map(|&index| data.examples[index].clone()).collect();
        let classes: Vec<usize> = drawn.iter().map(class).collect();
        let of_class = |class: usize| classes.iter().filter(|&&other| other == class).count();
        for (class, label) in task.labels.iter().enumerate().filter(|&(class, _)| of_class(class) < config.examples) {
            console.warn(&format!("label `{label}`: {} of {} examples wished for", of_class(class), config.examples));
        }
        ensure!(classes.iter().any(|class| class != &classes[0]), "expected examples of two classes at least");
        let set = EncodedSet::from_examples(&drawn, &source.tokenizer, config.training.max_length, rt.threads());
        if !set.truncated.is_empty() {
            console.warn(&format!(
                "{} of {} examples were cut to {} tokens",
                set.truncated.len(),
                drawn.len(),
                config.training.max_length
            ));
        }
        let groups = pairs(&set, &classes, config.rounds, seed);
        console.say(&format!("{} examples of {} classes, {} pairs", drawn.len(), task.labels.len(), groups.len()));

        let settings = SentenceSettings::read(&folder)?;
        let mut workload =
            SentenceTuning::new(source.model, &source.tokenizer, settings, &groups, config.training.clone())?;
        config.optimizer.validate()?;
        config.run_loop.validate(rt)?;
        let mut run = Run::open(output, rt, config::to_text(&config)?, data.content_hash(), args.run.resume())?;
        let mut outcome = train(rt, &mut workload, &config.optimizer, &config.run_loop, &mut run, console)?;
        if outcome.end == End::Stopped {
            return Ok(Finetuned { outcome, result: None });
        }
        let encoder = Model::load(&outcome.last, HeadChoice::AsSaved)?.model;
        let mut model = classifier_from_embedder(&encoder, task.head())?;
        model.pack(rt, Precision::F32, Purpose::Inference);
        fit_head(rt, &mut model, &set, &classes)?;
        let classifier = Path::new("checkpoints").join("classifier");
        outcome.best = output.join(&classifier);
        let max_length = config.training.max_length;
        replace_folder(&outcome.best, |folder| {
            model.save(folder)?;
            save_tokenizer(&source.tokenizer, &model.config, folder)?;
            let saved = SavedTask { task: task.clone(), max_length };
            write_atomic(&folder.join(TASK_FILE), saved.to_json().as_bytes())?;
            anyhow::Ok(())
        })?;
        link_folder(&classifier, &output.join("best"))?;

        let mut scored = FinetuneRunConfig::for_task(task);
        scored.training.max_length = max_length;
        let job = LabelledJob {
            config: scored,
            task: task.clone(),
            data: &args.data,
            unlabelled: None,
            dev: args.dev.as_deref(),
        };
        let result = job.score(&job.config, &outcome.best, output, rt, console)?;
        let recipe = format!(
            "{} taught {} by at most {} examples a class: {} pairs, {} epochs, learning rate {}, batch {}, seed {seed}, and a logistic regression",
            config.model,
            config.task,
            config.examples,
            groups.len(),
            config.training.epochs,
            config.optimizer.learning_rate,
            config.training.batch_size,
        );
        let before = training::before(&config.model);
        let lineage = Lineage { teacher: None, corpus_sha256: Some(job.data_hash()?), recipe: Some(recipe), before };
        training::write_lineage(output, &outcome.best, &lineage, result.as_ref(), rt)?;
        Ok(Finetuned { outcome, result })
    }
}
