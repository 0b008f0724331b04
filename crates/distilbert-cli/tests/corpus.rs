//! `distilbert corpus build` from the command line.

mod common;

use common::{lines, model, run, run_with, stdout, texts};
use std::fs;

#[test]
fn standard_input_makes_the_same_corpus_as_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    model("distilbert-mlm", &folder.path().join("model"));
    let text = texts(60).join("\n");
    fs::write(name("text.txt"), &text).unwrap();
    let build = |input: &str, output: &str, bytes: &[u8]| {
        let (output, model) = (name(output), name("model"));
        let arguments = ["corpus", "build", input, "-o", &output, "--model", &model, "--min-tokens", "3"];
        stdout(&run_with(&arguments, bytes));
        fs::read(output).unwrap()
    };
    assert!(build(&name("text.txt"), "file.tokens", b"") == build("-", "stdin.tokens", text.as_bytes()));
}

#[test]
fn an_earlier_build_in_the_input_folder_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(folder.path().join("in")).unwrap();
    fs::write(name("in/text.txt"), texts(60).join("\n")).unwrap();
    let (input, output) = (name("in"), name("in/m.tokens"));
    let build = |input: &str, kind: &[&str]| {
        let fixed = ["corpus", "build", input, "-o", &output, "--min-tokens", "3", "--json"];
        let [summary] = &lines(&stdout(&run(&[&fixed[..], kind].concat())))[..] else { panic!("one line") };
        assert_eq!(summary["files"], 1);
        fs::read(&output).unwrap()
    };
    let trained = ["--train-vocabulary", "120"];
    let first = build(&input, &trained);
    assert!(folder.path().join("in/m-tokenizer/vocab.txt").is_file());
    assert!(build(&input, &trained) == first);
    assert!(build(&name("in/*"), &["--model", &name("in/m-tokenizer")]) == first);
}

#[test]
fn a_model_may_stand_for_its_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    model("distilbert-mlm", &folder.path().join("model"));
    fs::write(name("text.txt"), texts(60).join("\n")).unwrap();
    let (corpus, of_model, output) = (name("a.tokens"), name("model"), name("run"));
    stdout(&run(&["corpus", "build", &name("text.txt"), "-o", &corpus, "--model", &of_model, "--min-tokens", "3"]));
    let shape = ["--layers", "1", "--hidden", "8", "--heads", "2", "--max-steps", "1"];
    let fixed = ["pretrain", "--corpus", &corpus, "--tokenizer", &of_model, "-o", &output];
    stdout(&run(&[&fixed[..], &shape[..]].concat()));
}
