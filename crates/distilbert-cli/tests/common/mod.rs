//! Small models in temporary folders, and the built program run on them.
// Each test file uses some of these.
#![allow(dead_code)]

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder of the library's reference models.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../distilbert/tests/goldens").join(name)
}

/// A copy of a reference model at `folder`, with a tokenizer whose words are `w5`, `w6`, ... up to its vocabulary.
pub fn model(name: &str, folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden(name).join(file), folder.join(file)).expect("a copy");
    }
    let size = config(folder)["vocab_size"].as_u64().expect("a size");
    let mut tokens: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).to_vec();
    tokens.extend((5..size).map(|id| format!("w{id}")));
    fs::write(folder.join("vocab.txt"), tokens.join("\n") + "\n").expect("a vocabulary");
    fs::write(folder.join("tokenizer_config.json"), r#"{"do_lower_case": true}"#).expect("a configuration");
}

pub fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).expect("a configuration")).expect("JSON")
}

pub fn set_config(folder: &Path, key: &str, value: Value) {
    let mut config = config(folder);
    config[key] = value;
    fs::write(folder.join("config.json"), config.to_string()).expect("a configuration");
}

/// Names the outputs of a classifier.
pub fn set_labels(folder: &Path, labels: &[&str]) {
    let names = labels.iter().enumerate().map(|(id, &label)| (id.to_string(), Value::from(label)));
    set_config(folder, "id2label", Value::Object(names.collect()));
}

/// Texts of a few words of the models' vocabularies, all different.
pub fn texts(count: usize) -> Vec<String> {
    let word = |number: usize| format!("w{}", 5 + number % 40);
    (0..count)
        .map(|text| (0..2 + text % 5).map(|at| word(text * 7 + at * 11 + text / 40)).collect::<Vec<_>>().join(" "))
        .collect()
}

/// Runs the program with nothing on standard input.
pub fn run(arguments: &[&str]) -> Output {
    run_with(arguments, b"")
}

/// Runs the program with `input` on standard input.
pub fn run_with(arguments: &[&str], input: &[u8]) -> Output {
    let mut program = program(arguments).stdin(Stdio::piped()).spawn().expect("the program");
    // A program that refuses its arguments reads nothing.
    let _ = program.stdin.take().expect("a pipe").write_all(input);
    program.wait_with_output().expect("an end")
}

pub fn program(arguments: &[&str]) -> Command {
    program_on(1, arguments)
}

/// The program on this many threads.
pub fn program_on(threads: usize, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_distilbert"));
    command.args(["--threads", &threads.to_string()]).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Standard output of a run that must succeed.
pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// The one line of error of a run that must fail with exit code 1.
pub fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", stderr(output));
    let text = stderr(output);
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && text.ends_with(&format!("{}\n", errors[0])), "one line of error: {text}");
    errors[0].to_owned()
}

/// The JSON of every line.
pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}
