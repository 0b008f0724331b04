//! `distilbert compress quantize` on the reference models, and the commands that run what it makes.

mod common;

use common::{error, golden, lines, model, run, run_with, set_labels, stdout, texts};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn quantize(model: &Path, precision: &str, output: &Path) -> std::process::Output {
    let (model, output) = (model.to_str().unwrap(), output.to_str().unwrap());
    run(&["compress", "quantize", "--model", model, "--precision", precision, "--output", output, "--json"])
}

/// A classifier with everything that a fine-tuned one has beside it.
fn source(folder: &Path) {
    model("distilbert-classify", folder);
    set_labels(folder, &["no", "maybe", "yes"]);
    fs::write(folder.join("lineage.json"), r#"{"teacher":"big","corpus_sha256":"00ff","recipe":"a recipe"}"#).unwrap();
    let mut task = distilbert::data::examples::Task::glue("mnli").unwrap();
    task.labels = ["no", "maybe", "yes"].map(str::to_owned).to_vec();
    task.kind = distilbert::data::examples::TaskKind::Single;
    let saved = distilbert::data::examples::SavedTask { task, max_length: 12 };
    fs::write(folder.join("task.json"), saved.to_json()).unwrap();
}

#[test]
fn a_model_in_eight_bits_is_predicted_with_inspected_and_states_where_it_is_from() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, small) = (folder.path().join("whole"), folder.path().join("small"));
    source(&whole);
    let made = &lines(&stdout(&quantize(&whole, "int8", &small)))[0];
    let size = fs::metadata(small.join("model.safetensors")).unwrap().len();
    assert_eq!((&made["precision"], &made["size_bytes"]), (&"int8".into(), &size.into()));
    assert!(size < made["source_size_bytes"].as_u64().unwrap());
    let relative = made["relative_difference"].as_f64().unwrap();
    assert!(relative > 0.0 && relative < 0.1, "{made}");

    let read = |folder: &Path, name: &str| fs::read_to_string(folder.join(name)).unwrap();
    for file in ["vocab.txt", "tokenizer_config.json", "task.json"] {
        assert_eq!(read(&whole, file), read(&small, file), "{file}");
    }
    let json = |folder: &Path| serde_json::from_str::<Value>(&read(folder, "lineage.json")).unwrap();
    assert_eq!(json(&whole), json(&small));
    let card = read(&small, "README.md");
    for part in [whole.to_str().unwrap(), "int8", "**Difference to f32:** at most 0.", "**Teacher:** big", "00ff"] {
        assert!(card.contains(part), "`{part}` in {card}");
    }
    assert!(!card.contains("transformers"), "{card}");

    let input = texts(20).join("\n");
    let scores = |folder: &Path| {
        let arguments = ["predict", "classify", "--model", folder.to_str().unwrap(), "--json", "--top-k", "3"];
        lines(&stdout(&run_with(&arguments, input.as_bytes())))
    };
    let (exact, rounded) = (scores(&whole), scores(&small));
    let mut largest = 0.0f64;
    for (exact, rounded) in exact.iter().zip(&rounded) {
        let score = |found: &Value, label: &str| {
            let scored = found.as_array().unwrap().iter().find(|scored| scored["label"] == label);
            scored.unwrap()["score"].as_f64().unwrap()
        };
        for label in ["no", "maybe", "yes"] {
            largest = largest.max((score(exact, label) - score(rounded, label)).abs());
        }
    }
    assert!(largest > 0.0 && largest < 0.05, "{largest}");

    let inspect = |folder: &Path| lines(&stdout(&run(&["inspect", "--json", folder.to_str().unwrap()])))[0].clone();
    let (exact, found) = (inspect(&whole), inspect(&small));
    assert_eq!((&exact["precision"], &found["precision"]), (&"f32".into(), &"int8".into()));
    assert_eq!((&found["parameters"], &found["parts"]), (&exact["parameters"], &exact["parts"]));
    assert_eq!((&found["size_bytes"], &found["unused"]), (&size.into(), &Value::Array(Vec::new())));
    assert_eq!(found["dtypes"], Value::from(vec!["F32", "I8"]));
    let text = stdout(&run(&["inspect", small.to_str().unwrap()]));
    assert!(text.contains("F32 and I8, run in int8\n"), "{text}");

    let report = folder.path().join("report");
    let (one, other) = (format!("f32={}", whole.display()), format!("int8={}", small.display()));
    let report = stdout(&run(&["report", &one, &other, "--output", report.to_str().unwrap()]));
    assert!(report.contains("int8"), "{report}");
}

#[test]
fn the_best_checkpoint_of_a_run_brings_the_runs_lineage() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    source(&run.join("best"));
    fs::rename(run.join("best/lineage.json"), run.join("lineage.json")).unwrap();
    let small = folder.path().join("small");
    stdout(&quantize(&run.join("best"), "int8", &small));
    assert!(fs::read_to_string(small.join("lineage.json")).unwrap().contains("a recipe"));
}

#[test]
fn a_smaller_model_is_not_trained_nor_made_smaller_again() {
    let folder = tempfile::tempdir().unwrap();
    let (small, again) = (folder.path().join("small"), folder.path().join("again"));
    model("distilbert-mlm", &folder.path().join("whole"));
    stdout(&quantize(&folder.path().join("whole"), "int8", &small));
    let refused = error(&quantize(&small, "int8", &again));
    assert!(refused.contains("expected f32 weights, found int8 ones, which can only be run"), "{refused}");
    let name = small.to_str().unwrap();
    for arguments in [
        &["pretrain", "--init", name, "--corpus", "none", "--output", again.to_str().unwrap()][..],
        &["distil", "--teacher", name, "--init-only", "--output", again.to_str().unwrap()],
        &["finetune", "--model", name, "--task", "sst2", "--data", "none", "--output", again.to_str().unwrap()],
    ] {
        let refused = error(&run(arguments));
        assert!(refused.contains("found int8 ones"), "{}: {refused}", arguments[0]);
    }
    assert!(!again.join("model.safetensors").exists());
}

#[test]
fn only_a_smaller_model_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, small) = (folder.path().join("whole"), folder.path().join("small"));
    model("distilbert-mlm", &whole);
    fs::create_dir(&small).unwrap();
    stdout(&quantize(&whole, "int8", &small));
    let first = fs::read(small.join("model.safetensors")).unwrap();
    stdout(&quantize(&whole, "int8", &small));
    assert!(first == fs::read(small.join("model.safetensors")).unwrap(), "the same model gives the same bytes");
    for output in [&whole, &folder.path().to_owned(), &whole.join("config.json")] {
        let refused = error(&quantize(&whole, "int8", output));
        assert!(refused.contains("expected a new folder, or one of a bf16 or int8 model to replace"), "{refused}");
    }
    assert_eq!(
        fs::read(whole.join("model.safetensors")).unwrap(),
        fs::read(golden("distilbert-mlm").join("model.safetensors")).unwrap()
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
}
