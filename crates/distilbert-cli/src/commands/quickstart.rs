//! `distilbert quickstart`: the whole main job on generated text, offline, in minutes. Every stage is the one that its
//! own command runs; only the data is made up.

use super::distil::{DistilConfig, first_student};
use super::finetune::{FinetuneRunConfig, Finetuned, LabelledJob, train_and_score, write_summary};
use super::pretrain::{PretrainConfig, Shape};
use crate::config;
use crate::console::Console;
use crate::gather::{gather, machine};
use crate::output;
use anyhow::{Context, bail};
use clap::Args;
use distilbert::checkpoint::model_folder::save_tokenizer;
use distilbert::checkpoint::{replace_folder, write_atomic};
use distilbert::data::corpus::{self, By, Corpus, CorpusConfig, CorpusInputs, Field, HeldOut, InvalidUtf8};
use distilbert::data::examples::Task;
use distilbert::data::synthetic::{SyntheticConfig, generate, sst2_tsv};
use distilbert::evaluate::statistics::Bootstrap;
use distilbert::loss::vocabulary::KlPositions;
use distilbert::model::{Family, HeadKind, Model, Purpose};
use distilbert::report::{ModelReport, Report, ReportInput, Role};
use distilbert::tokenizer::vocabulary::VocabularyConfig;
use distilbert::tokenizer::{Tokenizer, TokenizerClass};
use distilbert::train::language::LanguageTraining;
use distilbert::train::order::Batching;
use distilbert::train::run::{Resume, Run};
use distilbert::train::{End, Outcome, Workload, train};
use distilbert_kernels::{Precision, Runtime};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// See the whole thing work: distil a small teacher on generated text and compare, in minutes, offline.
///
/// Generates an English-like corpus and a sentiment task, trains a WordPiece vocabulary, pre-trains a teacher of 4 layers,
/// distils it into 2, fine-tunes both, and prints the comparison beside two controls: the student whose layers were
/// copied but never distilled, and the one from a random start. Everything lands in ordinary files.
#[derive(Debug, Args)]
pub struct QuickstartArgs {
    /// Where everything goes.
    #[arg(long, short, value_name = "DIR", default_value = "runs/quickstart")]
    output: PathBuf,
    /// Names every random number, the text's too.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Continue where an earlier quickstart in the folder ended.
    #[arg(long)]
    resume: bool,
}

const VOCABULARY_SIZE: usize = 1500;
const MAX_POSITIONS: usize = 128;

/// Shape of the teacher; the student is half as deep. In a run of a minute dropout costs more than it saves.
const TEACHER: Shape = Shape {
    family: Family::Bert,
    embedding: 0,
    layers: 4,
    hidden: 64,
    heads: 4,
    ffn: 256,
    max_positions: MAX_POSITIONS,
    dropout: 0.0,
    initializer_range: 0.02,
};

/// Tokens of a step of pre-training and distillation: few, because in a run of a minute it is steps that count.
const STEP_TOKENS: usize = 512;
/// Share of the tokens that are masked: more than BERT's, for the same reason.
const MASKED: f64 = 0.25;
/// How much more often rarer tokens are masked, as in distillation. A word's side saves a masked-LM step little while
/// words without one make up most of what is masked: without this some seeds end before they learn it.
const MASK_SMOOTHING: f64 = 0.7;
/// Seeds of fine-tuning, from the quickstart's own on: with 500 sentences chance moves a score by points.
const FINETUNE_SEEDS: u64 = 3;

/// Runs the command.
pub fn run(args: &QuickstartArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let started = Instant::now();
    let quickstart = Quickstart {
        output: &args.output,
        seed: args.seed,
        resume: if args.resume { Resume::Yes } else { Resume::No },
        rt,
        console,
    };
    if !args.resume && args.output.join("data").exists() {
        bail!(
            "{}: holds a quickstart already; name another folder with --output, or go on with --resume",
            args.output.display()
        );
    }
    let Some(report) = quickstart.run()? else {
        console.say(&format!(
            "stopped as asked; go on with `distilbert quickstart --resume --output {}`",
            args.output.display()
        ));
        return Ok(());
    };
    write_atomic(&args.output.join("report.md"), report.markdown().as_bytes())?;
    write_atomic(&args.output.join("report.html"), report.html().as_bytes())?;
    output::print(&report.terminal_table())?;
    console.say(&format!(
        "done in {:.0} s; open {} for plots and examples",
        started.elapsed().as_secs_f64(),
        args.output.join("report.html").display()
    ));
    Ok(())
}

struct Quickstart<'a> {
    output: &'a Path,
    seed: u64,
    resume: Resume,
    rt: &'a Runtime,
    console: &'a Console,
}

impl Quickstart<'_> {
    /// All stages; `None` if the user stopped one.
    fn run(&self) -> anyhow::Result<Option<Report>> {
        let sentiment = self.generate_text()?;
        let (tokenizer, corpus) = self.build_corpus()?;
        self.stage("pre-training the teacher by masked-language modelling");
        let Some(teacher) = self.pretrain(&tokenizer, &corpus)? else { return Ok(None) };
        self.stage("distilling the student: soft targets, masked words, hidden states");
        let Some(distilled) = self.distil(&teacher, &tokenizer, &corpus)? else { return Ok(None) };
        let copied = self.first_student(&teacher, &tokenizer, "student-copied", false)?;
        let random = self.first_student(&teacher, &tokenizer, "student-random", true)?;

        let models = [
            ("teacher", Role::Teacher, teacher),
            ("distilled student", Role::Student, distilled),
            ("copied, not distilled", Role::Control, copied),
            ("random start", Role::Control, random),
        ];
        let mut runs = Vec::new();
        for (name, _, model) in &models {
            self.stage(&format!("fine-tuning on sentiment: {name}"));
            let run = self.output.join(format!("sentiment-{}", name.replace([' ', ','], "-").replace("--", "-")));
            if !self.finetune(model, &sentiment, &run)? {
                return Ok(None);
            }
            runs.push(run);
        }
        self.stage("measuring: masked words, speed");
        let mut gathered = Vec::new();
        let mut teacher = load(&models[0].2)?;
        teacher.pack(self.rt, Precision::F32, Purpose::Inference);
        for ((name, role, model), run) in models.iter().zip(&runs) {
            let mut report = gather(name, *role, run, true, self.rt, self.console)?;
            self.measure_language(model, &teacher, &tokenizer, &corpus, &mut report)?;
            gathered.push(report);
        }
        let input = ReportInput {
            title: "Quickstart: a teacher of 4 layers distilled into 2".to_owned(),
            machine: Some(machine(self.rt)),
            notes: vec![format!("Generated text, seed {}; `distilbert quickstart --seed {0}`.", self.seed)],
            models: gathered,
        };
        Ok(Some(Report::new(&input, &Bootstrap::default())))
    }

    fn stage(&self, what: &str) {
        self.console.say(what);
    }

    /// Writes the corpus and the task as the files that anyone's data would come in.
    fn generate_text(&self) -> anyhow::Result<PathBuf> {
        let data = self.output.join("data");
        let sentiment = data.join("SST-2");
        self.stage("generating text");
        let text = generate(&SyntheticConfig { seed: self.seed, ..SyntheticConfig::default() });
        std::fs::create_dir_all(&sentiment).with_context(|| format!("cannot create {}", sentiment.display()))?;
        write_atomic(&data.join("corpus.txt"), (text.corpus.join("\n") + "\n").as_bytes())?;
        write_atomic(&sentiment.join("train.tsv"), sst2_tsv(&text.train).as_bytes())?;
        write_atomic(&sentiment.join("dev.tsv"), sst2_tsv(&text.dev).as_bytes())?;
        Ok(sentiment)
    }

    fn build_corpus(&self) -> anyhow::Result<(Tokenizer, Corpus)> {
        self.stage("training the vocabulary and building the corpus");
        let inputs = CorpusInputs {
            paths: vec![self.output.join("data/corpus.txt")],
            field: Field::All,
            by: By::Line,
            invalid_utf8: InvalidUtf8::Refuse,
        };
        let vocabulary = VocabularyConfig { size: VOCABULARY_SIZE, ..VocabularyConfig::default() };
        let path = self.output.join("corpus.tokens");
        let tokens = corpus::train_vocabulary(&inputs, &path, &vocabulary, self.console)?;
        let tokenizer = Tokenizer::from_vocabulary(tokens, vocabulary.lowercase)?;
        tokenizer.save(&self.output.join("tokenizer"), TokenizerClass::Bert, MAX_POSITIONS)?;
        let config = CorpusConfig {
            max_length: MAX_POSITIONS,
            held_out: HeldOut::Share(0.02),
            seed: self.seed,
            threads: self.rt.threads(),
            ..CorpusConfig::default()
        };
        corpus::build(&inputs, &tokenizer, &config, &path, self.console)?;
        Ok((tokenizer, Corpus::open(&path)?))
    }

    fn pretrain(&self, tokenizer: &Tokenizer, corpus: &Corpus) -> anyhow::Result<Option<PathBuf>> {
        let mut config = PretrainConfig { model: TEACHER, ..PretrainConfig::default() };
        config.training.seed = self.seed;
        config.training.epochs = 4;
        config.training.batching = Batching::Tokens { tokens: STEP_TOKENS };
        config.training.masking.probability = MASKED;
        config.training.masking.smoothing = MASK_SMOOTHING;
        config.optimizer.learning_rate = 2.5e-3;
        config.run_loop.evaluate_every = 1000;
        config.run_loop.checkpoint_every = 1000;
        let model = Model::random(TEACHER.config(tokenizer), self.seed);
        let workload = LanguageTraining::new(model, &[], tokenizer, corpus, config.training.clone())?;
        self.train(workload, &config, "teacher", corpus, &config.optimizer, &config.run_loop)
    }

    fn distil(&self, teacher: &Path, tokenizer: &Tokenizer, corpus: &Corpus) -> anyhow::Result<Option<PathBuf>> {
        let config = self.distil_config(teacher);
        let whole = load(teacher)?;
        let student = first_student(&config.student, config.training.seed, &whole)?;
        let teacher = whole.for_inference(self.rt, Precision::F32);
        drop(whole);
        let workload = LanguageTraining::new(student, &[&teacher], tokenizer, corpus, config.training.clone())?;
        self.train(workload, &config, "student-distilled", corpus, &config.optimizer, &config.run_loop)
    }

    fn train(
        &self,
        mut workload: LanguageTraining<'_>,
        config: &impl serde::Serialize,
        name: &str,
        corpus: &Corpus,
        optimizer: &distilbert::optim::OptimizerConfig,
        run_loop: &distilbert::train::LoopConfig,
    ) -> anyhow::Result<Option<PathBuf>> {
        let path = self.output.join(name);
        let mut run = Run::open(&path, self.rt, config::to_text(config)?, corpus.content_hash(), self.resume)?;
        let Outcome { end, best, .. } =
            train(self.rt, &mut workload as &mut dyn Workload, optimizer, run_loop, &mut run, self.console)?;
        Ok((end != End::Stopped).then_some(best))
    }

    fn distil_config(&self, teacher: &Path) -> DistilConfig {
        let mut config = DistilConfig::new();
        config.teacher = teacher.display().to_string();
        config.training.seed = self.seed;
        config.training.epochs = 3;
        config.training.batching = Batching::Tokens { tokens: STEP_TOKENS };
        config.training.kl_positions = KlPositions::Masked;
        // Fine-tuning reads the first token's state only, on which no masked word depends.
        config.training.weights.cosine = 5.0;
        config.training.masking.probability = MASKED;
        config.training.masking.smoothing = MASK_SMOOTHING;
        config.optimizer.learning_rate = 2e-3;
        config.run_loop.evaluate_every = 1000;
        config.run_loop.checkpoint_every = 1000;
        config
    }

    /// What a model says of the held-out text's masked words, the same ones for every model.
    fn measure_language(
        &self,
        model: &Path,
        teacher: &Model,
        tokenizer: &Tokenizer,
        corpus: &Corpus,
        report: &mut ModelReport,
    ) -> anyhow::Result<()> {
        let mut model = load(model)?;
        model.pack(self.rt, Precision::F32, Purpose::Inference);
        let config = self.distil_config(Path::new("")).training;
        let mut workload = LanguageTraining::new(model, &[teacher], tokenizer, corpus, config)?;
        let measured = workload.evaluate(self.rt)?.context("the corpus has no held-out part")?;
        let value = |name| measured.values.iter().find(|(found, _)| *found == name).map(|(_, value)| *value);
        (report.perplexity, report.teacher_agreement) = (value("perplexity"), value("teacher_agreement"));
        Ok(())
    }

    /// A student that never saw the corpus, as a model folder.
    fn first_student(
        &self,
        teacher: &Path,
        tokenizer: &Tokenizer,
        name: &str,
        random: bool,
    ) -> anyhow::Result<PathBuf> {
        let mut config = DistilConfig::new();
        config.training.seed = self.seed;
        config.student.random = random;
        let student = first_student(&config.student, config.training.seed, &load(teacher)?)?;
        let path = self.output.join(name);
        replace_folder(&path, |folder| {
            student.save(folder)?;
            save_tokenizer(tokenizer, &student.config, folder)?;
            anyhow::Ok(())
        })?;
        Ok(path)
    }

    /// Fine-tunes and scores one model with each seed; false if the user stopped it.
    fn finetune(&self, model: &Path, data: &Path, run: &Path) -> anyhow::Result<bool> {
        let task = Task::glue("sst2")?;
        let mut config = FinetuneRunConfig::for_task(&task);
        config.model = model.display().to_string();
        config.training.epochs = 8;
        config.training.batch_size = 8;
        config.optimizer.learning_rate = 5e-4;
        let job = LabelledJob { config, task, data, unlabelled: None, dev: None };
        let mut results = Vec::new();
        for seed in self.seed..self.seed + FINETUNE_SEEDS {
            let path = run.join(format!("seed-{seed}"));
            let Finetuned { outcome, result } = train_and_score(&job, seed, &path, self.resume, self.rt, self.console)?;
            if outcome.end == End::Stopped {
                return Ok(false);
            }
            results.push((seed, outcome, result));
        }
        write_summary(run, &results)?;
        Ok(true)
    }
}

fn load(folder: &Path) -> anyhow::Result<Model> {
    use distilbert::checkpoint::model_folder::HeadChoice;
    let model = Model::load(folder, HeadChoice::AsSaved)?.model;
    if model.config.head != HeadKind::MaskedLm {
        bail!("{}: expected a masked-LM head", folder.display());
    }
    Ok(model)
}
