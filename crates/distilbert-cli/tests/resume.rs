//! Runs that are killed, interrupted and continued, on the built program.

#![cfg(unix)]

mod common;

use common::{error, program_on, run, stderr, stdout};
use distilbert::data::synthetic::{self, SyntheticConfig, sst2_tsv};
use distilbert::random::Rng;
use distilbert_kernels::{Isa, Precision};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// No step of these runs takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A corpus, a teacher and a labelled task, all tiny.
struct Workshop {
    folder: tempfile::TempDir,
}

impl Workshop {
    fn new() -> Workshop {
        let workshop = Workshop { folder: tempfile::tempdir().expect("a folder") };
        let text = synthetic::generate(&SyntheticConfig {
            corpus_lines: 400,
            train: 120,
            dev: 40,
            ..SyntheticConfig::default()
        });
        let task = workshop.path("task");
        fs::create_dir(&task).expect("a folder");
        fs::write(workshop.path("text.txt"), text.corpus.join("\n")).expect("a text");
        fs::write(Path::new(&task).join("train.tsv"), sst2_tsv(&text.train)).expect("a task");
        fs::write(Path::new(&task).join("dev.tsv"), sst2_tsv(&text.dev)).expect("a task");
        let (text, corpus) = (workshop.path("text.txt"), workshop.path("tiny.tokens"));
        stdout(&run(&["corpus", "build", &text, "-o", &corpus, "--train-vocabulary", "200", "--max-length", "48"]));
        stdout(&run(&workshop.pretraining(&workshop.path("teacher"), &[]).each()));
        workshop
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// From scratch, 40 steps.
    fn pretraining(&self, output: &str, more: &[&str]) -> Arguments {
        let (corpus, tokenizer) = (self.path("tiny.tokens"), self.path("tiny-tokenizer"));
        Arguments::new("pretrain --layers 2 --hidden 32 --heads 2 --batch-tokens 256 --max-steps 40")
            .and("--checkpoint-every 5 --evaluate-every 10")
            .with(&["--corpus", &corpus, "--tokenizer", &tokenizer, "-o", output])
            .with(more)
    }

    /// Of the teacher into one layer, 60 steps with dropout.
    fn distillation(&self, output: &str, more: &[&str]) -> Arguments {
        let (corpus, teacher) = (self.path("tiny.tokens"), self.path("teacher/best"));
        Arguments::new("distil --layers 1 --batch-tokens 256 --accumulation 2 --max-steps 60")
            .and("--checkpoint-every 3 --evaluate-every 7")
            .with(&["--corpus", &corpus, "--teacher", &teacher, "-o", output])
            .with(more)
    }

    /// Of the teacher into a narrower student, through linears of the training's own.
    fn narrowing(&self, output: &str, more: &[&str]) -> Arguments {
        self.distillation(output, &["--objective", "tinybert", "--random-init", "--hidden", "16"]).with(more)
    }

    /// Of the teacher, 48 steps with dropout.
    fn finetuning(&self, output: &str, more: &[&str]) -> Arguments {
        let (task, model) = (self.path("task"), self.path("teacher/best"));
        Arguments::new("finetune --task sst2 --batch-size 4 --epochs 2 --checkpoint-every 3 --evaluate-every 7")
            .with(&["--data", &task, "--model", &model, "-o", output])
            .with(more)
    }

    /// The same with adapters over a frozen layer, whose states are kept from pass to pass.
    fn adapting(&self, output: &str, more: &[&str]) -> Arguments {
        self.finetuning(output, &["--lora", "3", "--freeze-layers", "1"]).with(more)
    }

    /// The same of the head alone.
    fn head_alone(&self, output: &str, more: &[&str]) -> Arguments {
        self.finetuning(output, &["--freeze-layers", "all"]).with(more)
    }
}

struct Arguments(Vec<String>);

impl Arguments {
    fn new(words: &str) -> Arguments {
        Arguments(Vec::new()).and(words)
    }

    fn and(mut self, words: &str) -> Arguments {
        self.0.extend(words.split(' ').map(str::to_owned));
        self
    }

    fn with(mut self, more: &[&str]) -> Arguments {
        self.0.extend(more.iter().map(|&word| word.to_owned()));
        self
    }

    fn each(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }

    fn start(&self, threads: usize) -> Child {
        program_on(threads, &self.each()).stdin(Stdio::null()).spawn().expect("the program")
    }

    fn finish(&self, threads: usize) -> Output {
        self.start(threads).wait_with_output().expect("an end")
    }
}

/// Lines of the run's metrics; 0 before there are any.
fn lines_written(run: &Path) -> usize {
    fs::read(run.join("metrics.jsonl")).map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count())
}

/// Waits until the run has written more metrics than now and then a little longer; true if it is still running.
fn wait_for_progress(child: &mut Child, run: &Path, lines: usize, then: Duration) -> bool {
    let (started, before) = (Instant::now(), lines_written(run));
    let mut low = before;
    loop {
        // A resumed run first cuts its metrics back to the last checkpoint.
        let now = lines_written(run);
        low = low.min(now);
        if now >= low + lines && now != before {
            sleep(then);
            return child.try_wait().expect("a child").is_none();
        }
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        assert!(started.elapsed() < PATIENCE, "no progress in {}", run.display());
        sleep(Duration::from_micros(200));
    }
}

/// Everything of a finished run that must not depend on how often it was broken off, or on the number of threads.
#[derive(Debug, PartialEq)]
struct Finished {
    checkpoints: Vec<String>,
    best: PathBuf,
    metrics: Vec<Value>,
    state: Value,
}

/// That of the run at `path`, and the bytes of the last checkpoint's weights and moments.
fn finished(path: &Path) -> (Finished, Vec<Vec<u8>>) {
    let mut checkpoints: Vec<String> = fs::read_dir(path.join("checkpoints"))
        .expect("checkpoints")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    checkpoints.sort();
    let last = path.join("checkpoints").join(checkpoints.last().expect("a checkpoint"));
    let metrics = fs::read_to_string(path.join("metrics.jsonl")).expect("metrics");
    let mut metrics = common::lines(&metrics);
    for line in &mut metrics {
        // The one number that is a measurement of time.
        line.as_object_mut().expect("an object").shift_remove("tokens_per_second");
    }
    let mut state: Value = serde_json::from_slice(&fs::read(last.join("state.json")).expect("a state")).expect("JSON");
    let numbers = state["state"].as_object_mut().expect("an object");
    for length in ["metrics_bytes", "events_bytes"] {
        // Lengths of text that has times in it.
        assert!(numbers.shift_remove(length).is_some());
    }
    let bytes = ["model.safetensors", "optimizer.safetensors"].map(|name| fs::read(last.join(name)).expect("tensors"));
    let best = fs::read_link(path.join("best")).expect("a link");
    (Finished { checkpoints, best, metrics, state }, bytes.into())
}

fn assert_same_run(broken: &Path, unbroken: &Path) {
    let ((broken, broken_bytes), (unbroken, bytes)) = (finished(broken), finished(unbroken));
    assert_eq!(broken, unbroken);
    assert!(broken_bytes == bytes, "the last checkpoint's tensors differ");
}

/// Kills the run again and again, each time at another random moment and on another number of threads, then lets it end.
fn break_often(arguments: impl Fn(&[&str]) -> Arguments, path: &Path) {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_nanos() as u64;
    println!("moments of seed {seed}"); // Shown if the test fails.
    let mut rng = Rng::from_key(&[seed]);
    let mut alive = 0;
    for index in 0..7 {
        // Metrics between two kills, and microseconds more: before the first checkpoint, within one, between two. The first
        // kill comes early, so that most of them meet a run.
        let lines = 1 + (rng.next_u64() % if index == 0 { 2 } else { 9 }) as usize;
        let then = rng.next_u64() % 5000;
        let arguments = if index == 0 { arguments(&[]) } else { arguments(&["--resume"]) };
        let mut child = arguments.start(1 + index % 3);
        alive += usize::from(wait_for_progress(&mut child, path, lines, Duration::from_micros(then)));
        child.kill().expect("a kill");
        let output = child.wait_with_output().expect("an end");
        assert!(output.status.code().is_none_or(|code| code == 0), "{}", stderr(&output));
    }
    assert!(alive >= 3, "only {alive} of the kills came before the end");
    stdout(&arguments(&["--resume"]).finish(2));
}

#[test]
fn resumed_run_equals_unbroken_run() {
    let workshop = Workshop::new();
    type Command = fn(&Workshop, &str, &[&str]) -> Arguments;
    let commands: [(&str, Command); 6] = [
        ("pretrain", Workshop::pretraining),
        ("distil", Workshop::distillation),
        ("narrow", Workshop::narrowing),
        ("finetune", Workshop::finetuning),
        ("lora", Workshop::adapting),
        ("head", Workshop::head_alone),
    ];
    for (name, command) in commands {
        let (unbroken, broken) = (workshop.path(&format!("{name}-a")), workshop.path(&format!("{name}-b")));
        stdout(&command(&workshop, &unbroken, &[]).finish(1));
        break_often(|more| command(&workshop, &broken, more), Path::new(&broken));
        assert_same_run(Path::new(&broken), Path::new(&unbroken));
    }
}

#[test]
fn an_interrupted_run_saves_ends_well_and_can_go_on() {
    let workshop = Workshop::new();
    let (unbroken, broken) = (workshop.path("a"), workshop.path("b"));
    stdout(&workshop.distillation(&unbroken, &[]).finish(1));
    let mut child = workshop.distillation(&broken, &["--json"]).start(2);
    assert!(wait_for_progress(&mut child, Path::new(&broken), 4, Duration::ZERO), "too fast to be interrupted");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
    let output = child.wait_with_output().expect("an end");
    let outcome: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let steps = outcome["steps"].as_u64().expect("steps");
    assert_eq!(outcome["end"], "stopped");
    assert!((4..60).contains(&steps), "{steps}");
    assert!(outcome["last"].as_str().expect("a folder").ends_with(&format!("step-{steps:06}")));
    let said = format!("stopped as asked; continue with --resume after {steps} steps\n");
    assert!(stderr(&output).ends_with(&said), "{}", stderr(&output));
    stdout(&workshop.distillation(&broken, &["--resume"]).finish(1));
    assert_same_run(Path::new(&broken), Path::new(&unbroken));
}

#[test]
fn a_run_is_continued_only_as_it_began_unless_forced() {
    let workshop = Workshop::new();
    let path = workshop.path("run");
    let again = |more: &[&str]| workshop.distillation(&path, more).finish(1);
    stdout(&again(&[]));
    let before = finished(Path::new(&path));

    // A checkpoint that a killed process was to remove goes with the next one.
    let left = Path::new(&path).join("checkpoints/step-000001");
    fs::create_dir(&left).expect("a folder");
    stdout(&again(&["--resume"]));
    assert!(!left.exists() && finished(Path::new(&path)) == before);
    let refused = error(&again(&[]));
    assert!(refused.ends_with("run: holds a run; choose another directory, or continue it with --resume"), "{refused}");
    let refused = error(&again(&["--resume", "--learning-rate", "0.001"]));
    assert!(
        refused
            .ends_with("cannot resume: the configuration was `learning-rate = 0.0005`, is now `learning-rate = 0.001`"),
        "{refused}"
    );
    let (corpus, text) = (workshop.path("tiny.tokens"), workshop.path("text.txt"));
    let tokenizer = workshop.path("tiny-tokenizer");
    stdout(&run(&["corpus", "build", &text, "-o", &corpus, "--model", &tokenizer, "--seed", "5"]));
    let refused = error(&again(&["--resume"]));
    assert!(refused.contains("cannot resume: the data's hash was `"), "{refused}");
    assert_eq!(finished(Path::new(&path)), before, "a refused run changed something");

    stdout(&again(&["--resume", "--force", "--learning-rate", "0.001"]));
    let config = fs::read_to_string(Path::new(&path).join("config.toml")).expect("a configuration");
    assert!(config.contains("learning-rate = 0.001\n"), "{config}");
}

#[test]
fn a_run_without_a_checkpoint_yet_is_also_continued_only_as_it_began() {
    let workshop = Workshop::new();
    let (unbroken, path) = (workshop.path("a"), workshop.path("b"));
    let mut child = workshop.pretraining(&path, &[]).start(1);
    while !Path::new(&path).join("config.toml").exists() {
        assert!(child.try_wait().expect("a child").is_none());
    }
    child.kill().expect("a kill");
    child.wait().expect("an end");
    let changed = workshop.pretraining(&path, &["--resume", "--seed", "9"]).finish(1);
    let refused = error(&changed);
    assert!(refused.ends_with("cannot resume: the configuration was `seed = 1`, is now `seed = 9`"), "{refused}");
    stdout(&workshop.pretraining(&path, &["--resume"]).finish(1));
    stdout(&workshop.pretraining(&unbroken, &[]).finish(1));
    assert_same_run(Path::new(&path), Path::new(&unbroken));
}

#[test]
fn a_run_whose_last_checkpoint_cannot_be_read_goes_on_from_the_one_before_and_says_so() {
    let workshop = Workshop::new();
    let (unbroken, path) = (workshop.path("a"), workshop.path("b"));
    stdout(&workshop.distillation(&unbroken, &[]).finish(1));
    stdout(&workshop.distillation(&path, &[]).finish(1));
    let spoil = |step: &str, file: &str, share: usize| {
        let file = Path::new(&path).join("checkpoints").join(step).join(file);
        let bytes = fs::read(&file).expect("a file");
        fs::write(&file, &bytes[..bytes.len() * share / 100]).expect("a file");
    };
    for (file, share) in
        [("model.safetensors", 90), ("optimizer.safetensors", 50), ("state.json", 60), ("state.json", 0)]
    {
        spoil("step-000060", file, share);
        let resumed = workshop.distillation(&path, &["--resume"]).finish(2);
        stdout(&resumed);
        let said = stderr(&resumed);
        let warning = said.lines().find(|line| line.starts_with("warning: ")).expect("a warning");
        for part in ["b/checkpoints/step-000060 cannot be read (", file, "going on from ", "b/checkpoints/step-000057"]
        {
            assert!(warning.contains(part), "`{part}` is not in: {warning}");
        }
        assert_same_run(Path::new(&path), Path::new(&unbroken));
    }

    let checkpoints = fs::read_dir(Path::new(&path).join("checkpoints")).expect("checkpoints");
    for checkpoint in checkpoints {
        let name = checkpoint.expect("an entry").file_name().into_string().expect("UTF-8");
        spoil(&name, "state.json", 0);
    }
    let refused = error(&workshop.distillation(&path, &["--resume"]).finish(1));
    for part in ["b/checkpoints: no checkpoint can be read: ", "step-000060/state.json", "step-000057/state.json"] {
        assert!(refused.contains(part), "`{part}` is not in: {refused}");
    }
}

#[test]
fn a_run_that_breaks_down_stops_at_once_and_names_the_last_good_checkpoint() {
    let workshop = Workshop::new();
    let (corpus, tokenizer) = (workshop.path("tiny.tokens"), workshop.path("tiny-tokenizer"));
    let pretrain = |output: &str, more: &[&str]| {
        let arguments = Arguments::new("pretrain --layers 2 --hidden 32 --heads 2 --batch-tokens 256 --max-steps 40")
            .with(&["--corpus", &corpus, "--tokenizer", &tokenizer, "-o", output]);
        error(&arguments.with(more).finish(1))
    };
    // Far too large a step: the loss explodes within the first ones.
    let path = workshop.path("exploded");
    let message = pretrain(&path, &["--learning-rate", "50", "--checkpoint-every", "2"]);
    let middle = ": the smoothed loss, far above that of the first steps, is ";
    assert!(message.starts_with("error: step ") && message.contains(middle), "{message}");
    let step: u64 =
        message["error: step ".len()..].split(':').next().and_then(|step| step.parse().ok()).expect("a step");
    assert!((4..20).contains(&step), "{message}");
    let good = format!("the last good checkpoint is {path}/checkpoints/step-{:06}", (step - 1) / 2 * 2);
    assert!(message.ends_with(&good), "{message}");

    // Weights without a bound: no loss can be told any more.
    let config = workshop.path("unbounded.toml");
    fs::write(&config, "[optimizer]\nmax-grad-norm = 0.0\nlearning-rate = 1e25\n").expect("a file");
    let path = workshop.path("unbounded");
    let message = pretrain(&path, &["--config", &config, "--checkpoint-every", "1"]);
    assert!(message.contains(" is NaN; ") || message.contains(" is inf; "), "{message}");
    assert!(message.contains("; the last good checkpoint is ") && message.contains("step-00000"), "{message}");
    assert!(Path::new(message.rsplit(' ').next().expect("a path")).join("model.safetensors").is_file());
}

#[test]
fn a_run_that_stopped_improving_stays_ended_when_it_is_resumed() {
    let workshop = Workshop::new();
    let path = workshop.path("run");
    // Steps too small to change any prediction.
    let still = ["--patience", "2", "--learning-rate", "1e-12"];
    stdout(&workshop.finetuning(&path, &still).finish(1));
    let before = finished(Path::new(&path));
    assert_eq!(before.0.state["state"]["step"], 21, "the first measurement and two without a better one");
    stdout(&workshop.finetuning(&path, &[&["--resume"], &still[..]].concat()).finish(1));
    assert_eq!(finished(Path::new(&path)), before);
}

#[test]
fn a_second_process_is_kept_out_of_a_run() {
    let workshop = Workshop::new();
    let path = workshop.path("run");
    let mut first = workshop.distillation(&path, &[]).start(1);
    assert!(wait_for_progress(&mut first, Path::new(&path), 1, Duration::ZERO));
    let stop = Command::new("kill").args(["-STOP", &first.id().to_string()]).status().expect("kill");
    assert!(stop.success());
    let second = workshop.distillation(&path, &["--resume"]).finish(1);
    let forced = workshop.distillation(&path, &["--resume", "--force"]).finish(1);
    Command::new("kill").args(["-CONT", &first.id().to_string()]).status().expect("kill");
    for output in [second, forced] {
        assert!(error(&output).ends_with("run: another process is writing this run"));
    }
    stdout(&first.wait_with_output().expect("an end"));
}

/// The training losses of a run.
fn losses(run: &Path) -> Vec<f64> {
    let metrics = common::lines(&fs::read_to_string(run.join("metrics.jsonl")).expect("metrics"));
    metrics.iter().filter(|line| line["kind"] == "train").map(|line| line["loss"].as_f64().expect("a loss")).collect()
}

#[test]
fn a_run_in_bf16_follows_f32_on_any_number_of_threads_and_continues_bit_for_bit() {
    if !Precision::Bf16.is_available(Isa::detect()) {
        return;
    }
    let workshop = Workshop::new();
    let path = |name: &str| PathBuf::from(workshop.path(name));
    let bf16 = ["--precision", "bf16", "--teacher-precision", "int8"];
    // The same teacher: its own rounding would make the losses differ whatever the student is trained in.
    stdout(&workshop.distillation(&workshop.path("f32"), &["--teacher-precision", "int8"]).finish(1));
    stdout(&workshop.distillation(&workshop.path("bf16"), &bf16).finish(1));
    stdout(&workshop.distillation(&workshop.path("threads"), &bf16).finish(3));
    assert_same_run(&path("threads"), &path("bf16"));

    let (exact, rounded) = (losses(&path("f32")), losses(&path("bf16")));
    assert_eq!(exact.len(), rounded.len());
    for (step, (exact, rounded)) in exact.iter().zip(&rounded).enumerate() {
        // Measured: at most a fifth of this.
        assert!((exact - rounded).abs() < 2e-4 * exact, "step {step}: {exact} in f32, {rounded} in bf16");
    }
    assert_ne!(exact, rounded, "bf16 was not used");
    stdout(&workshop.distillation(&workshop.path("teacher-f32"), &["--precision", "bf16"]).finish(1));
    assert_ne!(losses(&path("teacher-f32")), rounded, "the teacher's int8 was not used");

    let mut child = workshop.distillation(&workshop.path("killed"), &bf16).start(2);
    assert!(wait_for_progress(&mut child, &path("killed"), 9, Duration::from_millis(5)));
    child.kill().expect("a kill");
    child.wait().expect("an end");
    let resume = [&bf16[..], &["--resume"]].concat();
    stdout(&workshop.distillation(&workshop.path("killed"), &resume).finish(3));
    assert_same_run(&path("killed"), &path("bf16"));
    let refused = error(&workshop.distillation(&workshop.path("killed"), &["--resume"]).finish(1));
    assert!(refused.contains("precision"), "{refused}");
}

#[test]
fn training_in_a_precision_that_cannot_be_trained_starts_no_run() {
    let workshop = Workshop::new();
    let output = workshop.path("run");
    for (run, isa) in [
        (workshop.pretraining(&output, &["--precision", "int8"]), "`int8`"),
        (workshop.distillation(&output, &["--precision", "int8"]), "`int8`"),
        (workshop.finetuning(&output, &["--precision", "int8"]), "`int8`"),
        (workshop.pretraining(&output, &["--precision", "bf16", "--isa", "portable"]), "`portable`"),
        (workshop.distillation(&output, &["--teacher-precision", "bf16", "--isa", "portable"]), "`portable`"),
    ] {
        let refused = error(&run.finish(1));
        assert!(refused.contains("precision") && refused.contains(isa), "{refused}");
        assert!(!Path::new(&output).exists(), "{refused} left something");
    }
}

#[test]
fn a_run_is_the_same_and_goes_on_with_or_without_computing_activations_again() {
    let workshop = Workshop::new();
    type Command = fn(&Workshop, &str, &[&str]) -> Arguments;
    for (name, command) in [("distil", Workshop::distillation as Command), ("finetune", Workshop::finetuning)] {
        let (kept, again) = (workshop.path(&format!("{name}-a")), workshop.path(&format!("{name}-b")));
        stdout(&command(&workshop, &kept, &[]).finish(1));
        let mut child = command(&workshop, &again, &["--recompute"]).start(2);
        wait_for_progress(&mut child, Path::new(&again), 9, Duration::ZERO);
        child.kill().expect("a kill");
        child.wait().expect("an end");
        assert!(lines_written(Path::new(&again)) > 0, "the first half did not run");
        stdout(&command(&workshop, &again, &["--resume"]).finish(1));
        assert_same_run(Path::new(&again), Path::new(&kept));
    }
}

#[test]
fn a_cache_of_the_teachers_answers_changes_no_number_and_is_refused_to_a_run_that_sees_something_else() {
    let workshop = Workshop::new();
    let cache = workshop.path("cache");
    let path = |name: &str| PathBuf::from(workshop.path(name));
    let cached = ["--cache-teacher", &cache, "--teacher-top-k", "8"];
    stdout(&workshop.distillation(&workshop.path("plain"), &["--teacher-top-k", "8"]).finish(1));

    // Killed and continued while the cache is filled.
    let mut child = workshop.distillation(&workshop.path("first"), &cached).start(2);
    wait_for_progress(&mut child, &path("first"), 9, Duration::from_micros(700));
    child.kill().expect("a kill");
    child.wait().expect("an end");
    assert!(lines_written(&path("first")) > 0, "the first half did not run");
    let first = workshop.distillation(&workshop.path("first"), &[&cached[..], &["--resume"]].concat()).finish(1);
    stdout(&first);
    assert_same_run(&path("first"), &path("plain"));

    let second = workshop.distillation(&workshop.path("second"), &cached).finish(2);
    stdout(&second);
    assert_same_run(&path("second"), &path("plain"));
    let said = stderr(&second);
    let line = said.lines().find(|line| line.contains("teacher's answers")).expect("the cache's size");
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers[0], numbers[1], "all answers are there: {line}");

    let whole = finished(&path("plain"));
    stdout(&workshop.distillation(&workshop.path("whole"), &[]).finish(1));
    assert_ne!(finished(&path("whole")).1, whole.1, "the answers were not abridged");

    for (more, what) in [
        (&["--seed", "2"][..], "`seed` 1, and this run has 2"),
        (&["--temperature", "3"], "`temperature` 2.0, and this run has 3.0"),
        (&["--kl-positions", "masked"], "`kl-positions`"),
        (&["--teacher-precision", "int8"], "`teacher-precision`"),
        (&["--cosine", "0"], "`kept`"),
    ] {
        let refused = error(&workshop.distillation(&workshop.path("other"), &[&cached[..], more].concat()).finish(1));
        assert!(refused.contains(what) && refused.contains("cache: "), "{refused}");
    }
    let refused =
        error(&workshop.distillation(&workshop.path("mse"), &[&cached[..], &["--mse", "1"]].concat()).finish(1));
    assert!(refused.contains("`mse`"), "{refused}");
}
