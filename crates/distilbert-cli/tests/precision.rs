//! `--precision` of the commands that run a model.

mod common;

use common::{error, lines, model, run, run_with, stderr, stdout, texts};
use distilbert::checkpoint::model_folder::HeadChoice;
use distilbert::model::Model;
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn predict(folder: &Path, more: &[&str]) -> Output {
    let name = folder.to_str().unwrap();
    let arguments = [&["predict", "classify", "--model", name, "--json", "--top-k", "3"], more].concat();
    run_with(&arguments, texts(40).join("\n").as_bytes())
}

/// The name after `precision ` on standard error.
fn chosen(output: &Output) -> String {
    let said = stderr(output);
    let line = said.lines().find_map(|line| line.strip_prefix("precision ")).expect("a choice");
    line.split(':').next().unwrap().to_owned()
}

#[test]
fn a_precision_is_the_one_asked_for_and_otherwise_that_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, small) = (folder.path().join("whole"), folder.path().join("small"));
    model("distilbert-classify", &whole);
    let quantize = ["compress", "quantize", "--precision", "int8", "--model"];
    stdout(&run(&[&quantize[..], &[whole.to_str().unwrap(), "--output", small.to_str().unwrap()]].concat()));

    let said = |folder: &Path, more: &[&str]| stdout(&predict(folder, more));
    assert_eq!(said(&whole, &["--precision", "f32"]), said(&whole, &[]));
    assert_ne!(said(&whole, &["--precision", "int8"]), said(&whole, &[]));
    assert_eq!(said(&whole, &["--precision", "int8"]), said(&small, &[]));
    assert_eq!(said(&small, &["--precision", "auto"]), said(&small, &[]));
    assert_eq!(stderr(&predict(&small, &["--precision", "auto"])), "precision int8: the model is saved in int8\n");

    let message = error(&predict(&small, &["--precision", "f32"]));
    assert!(message.contains("expected to be run in int8, in which its weights are saved"), "{message}");
    let message = error(&predict(&whole, &["--isa", "portable", "--precision", "bf16"]));
    assert!(message.contains("`bf16`: needs AVX-512"), "{message}");
}

#[test]
fn auto_says_what_it_took_and_gives_the_answers_of_that() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let auto = predict(folder.path(), &["--precision", "auto"]);
    let (said, chosen) = (stderr(&auto), chosen(&auto));
    assert!(said.contains("within 5 % of f32's outputs on 32 texts (f32 ") && said.contains("; int8 "), "{said}");
    assert_eq!(stdout(&auto), stdout(&predict(folder.path(), &["--precision", &chosen])));
}

#[test]
fn auto_keeps_f32_where_eight_bits_change_too_much() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    // A huge weight in each row for a number that is always 0: f32 does not see it, and eight bits see nothing else.
    let mut whole = Model::load(folder.path(), HeadChoice::AsSaved).unwrap().model;
    let hidden = whole.config.encoder.hidden;
    let weights = whole.parameters.weights_mut();
    for parameter in weights.table {
        let values = &mut weights.values[parameter.range.clone()];
        if parameter.name.to_lowercase().contains("norm") {
            values[0] = 0.0;
        } else if ["q_lin.weight", "k_lin.weight", "v_lin.weight", "lin1.weight"]
            .iter()
            .any(|end| parameter.name.ends_with(end))
        {
            values.chunks_exact_mut(hidden).for_each(|row| row[0] = 1e4);
        }
    }
    whole.save(folder.path()).unwrap();
    let auto = predict(folder.path(), &["--precision", "auto"]);
    assert_ne!(chosen(&auto), "int8", "{}", stderr(&auto));
    assert_eq!(stdout(&auto), stdout(&predict(folder.path(), &["--precision", &chosen(&auto)])));
}

#[test]
fn an_evaluation_states_its_precision() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let file = folder.path().join("reviews.csv");
    let rows = texts(20).iter().enumerate().map(|(i, text)| format!("{},{text}\n", i % 3)).collect::<String>();
    std::fs::write(&file, format!("stars,review\n{rows}")).unwrap();
    let name = folder.path().to_str().unwrap();
    let base = ["evaluate", "--model", name, "--file", file.to_str().unwrap()];
    let columns = ["--text-column", "review", "--label-column", "stars", "--json"];
    let evaluate = |more: &[&str]| run(&[&base[..], &columns, more].concat());
    let precision = |output: &Output| match &lines(&stdout(output))[0]["precision"] {
        Value::String(name) => name.clone(),
        other => panic!("{other}"),
    };
    assert_eq!(precision(&evaluate(&[])), "f32");
    assert_eq!(precision(&evaluate(&["--precision", "int8"])), "int8");
    let auto = evaluate(&["--precision", "auto"]);
    assert_eq!(precision(&auto), chosen(&auto));
}
