//! `distilbert report` on runs made of the reference models.

mod common;

use common::{error, model, run, set_labels, stdout, texts};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A finished run: model, metrics, and scores on one file for all runs.
fn finished(run_folder: &Path, golden: &str) {
    let best = run_folder.join("best");
    model(golden, &best);
    set_labels(&best, &["bad", "fair", "good"]);
    let data = run_folder.parent().unwrap().join("dev.csv");
    if !data.exists() {
        let labels = ["bad", "fair", "good"].into_iter().cycle();
        let rows: String = texts(30).iter().zip(labels).map(|(text, label)| format!("{text},{label}\n")).collect();
        fs::write(&data, format!("text,label\n{rows}")).unwrap();
    }
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (best, data, output) = (text(&best), text(&data), text(run_folder));
    let columns = ["--text-column", "text", "--label-column", "label", "--output", &output];
    stdout(&run(&[&["evaluate", "--model", &best, "--file", &data], &columns[..]].concat()));
    let metrics = r#"{"kind":"train","step":10,"loss":1.5,"grad_norm":1.0}
{"kind":"held_out","step":10,"accuracy":0.5}
{"kind":"train","step":20,"loss":1.25}
{"kind":"held_out","step":20,"loss":1.375}
{"kind":"train","st"#;
    fs::write(run_folder.join("metrics.jsonl"), metrics).unwrap();
    fs::write(run_folder.join("lineage.json"), r#"{"teacher": "big", "recipe": "three epochs"}"#).unwrap();
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

#[test]
fn runs_are_gathered_whole_and_written_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    finished(&folder.join("big"), "bert-classify");
    finished(&folder.join("small"), "distilbert-classify");
    let (big, small, out) = (path(folder, "big"), format!("tiny={}", path(folder, "small")), path(folder, "out"));
    let base = ["report", &big, &small, "--output", &out, "--title", "Two", "--no-speed"];
    let found: Value = serde_json::from_str(&stdout(&run(&[&base[..], &["--json"]].concat()))).unwrap();
    let models = found["models"].as_array().unwrap();
    let field = |name: &str| models.iter().map(|model| model[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("name"), ["big", "tiny"]);
    assert_eq!(field("role"), ["teacher", "student"]);
    assert_eq!(field("latency_ms_p50"), [Value::Null, Value::Null]);
    assert!(models[0]["parameters"].as_u64() > models[1]["parameters"].as_u64());
    assert_eq!(models[0]["lineage"]["teacher"], "big");
    assert_eq!(models[0]["evaluations"][0]["result"]["n"], 30);
    let curves: Value = serde_json::from_str(
        r#"[{"name": "training loss", "points": [[10.0, 1.5], [20.0, 1.25]]},
            {"name": "held-out loss", "points": [[20.0, 1.375]]}]"#,
    )
    .unwrap();
    assert_eq!(models[1]["loss_curves"], curves);

    let markdown = fs::read_to_string(path(folder, "out/report.md")).unwrap();
    let html = fs::read_to_string(path(folder, "out/report.html")).unwrap();
    assert!(markdown.starts_with("# Two\n") && html.contains("<svg"), "{markdown}");
    // The predictions were read: there is a paired test and a confusion matrix.
    for expected in ["p, paired", "fair", "three epochs"] {
        assert!(markdown.contains(expected), "{expected} in {markdown}");
    }
    let table = stdout(&run(&base));
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.contains("big") && table.contains("tiny") && table.contains("not measured"));
}

#[test]
fn a_run_that_measured_nothing_is_shown_by_its_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    finished(&folder.join("run"), "distilbert-classify");
    fs::create_dir(folder.join("run/checkpoints")).unwrap();
    model("distilbert-nohead", &folder.join("run/checkpoints/step-000009"));
    fs::rename(folder.join("run/best"), folder.join("run/checkpoints/step-000010")).unwrap();
    let (run_folder, out) = (path(folder, "run"), path(folder, "out"));
    let found = stdout(&run(&["report", &run_folder, "--output", &out, "--no-speed", "--json"]));
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["models"][0]["evaluations"][0]["result"]["n"], 30);
    let parameters = |name: &str| -> Value {
        serde_json::from_str(&stdout(&run(&["inspect", &path(folder, name), "--json"]))).unwrap()
    };
    assert_eq!(found["models"][0]["parameters"], parameters("run/checkpoints/step-000010")["parameters"]);
}

#[test]
fn a_run_whose_weights_were_deleted_has_its_scores_still() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    finished(&folder.join("run"), "distilbert-classify");
    fs::remove_dir_all(folder.join("run/best")).unwrap();
    let (run_folder, out) = (path(folder, "run"), path(folder, "out"));
    let output = run(&["report", &run_folder, "--output", &out, "--json"]);
    let found: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let model = &found["models"][0];
    assert_eq!(model["evaluations"][0]["result"]["n"], 30);
    assert_eq!(model["lineage"]["teacher"], "big");
    for unknown in ["parameters", "size_bytes", "latency_ms_p50"] {
        assert_eq!(model[unknown], Value::Null, "{unknown}");
    }
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(warning.contains("no weights are left"), "{warning}");
}

#[test]
fn a_plain_model_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model("distilbert-mlm", &folder.join("plain"));
    let (plain, out) = (path(folder, "plain"), path(folder, "out"));
    let found: Value = serde_json::from_str(&stdout(&run(&["report", &plain, "--output", &out, "--json"]))).unwrap();
    let model = &found["models"][0];
    assert_eq!(model["latency_by_length"].as_array().unwrap().len(), 2);
    assert_eq!(model["latency_by_length"][1][0], 18);
    for field in ["latency_ms_p50", "tokens_per_second", "sequences_per_second"] {
        assert!(model[field].as_f64().unwrap() > 0.0, "{field}");
    }
    assert!(found["machine"].as_str().unwrap().contains(", 1 thread, "), "{}", found["machine"]);
    assert_eq!(model["evaluations"], Value::Array(Vec::new()));
}

#[test]
fn of_several_seeds_the_first_is_shown_with_the_scores_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let seeds = folder.join("seeds");
    for (seed, golden) in [("seed-10", "bert-classify"), ("seed-9", "distilbert-classify")] {
        finished(&seeds.join(seed), golden);
    }
    fs::write(seeds.join("summary.json"), r#"{"metric": "accuracy", "scores": [0.5, 0.25]}"#).unwrap();
    let (runs, out) = (path(folder, "seeds"), path(folder, "out"));
    let report = ["report", &runs, "--output", &out, "--no-speed", "--json"];
    let found: Value = serde_json::from_str(&stdout(&run(&report))).unwrap();
    let model = &found["models"][0];
    assert_eq!(model["seed_scores"], Value::from(vec![0.5, 0.25]));
    let first = common::golden("distilbert-classify").join("model.safetensors");
    assert_eq!(model["size_bytes"], fs::metadata(first).unwrap().len());
    assert_eq!(model["evaluations"].as_array().unwrap().len(), 1);

    fs::write(seeds.join("summary.json"), r#"{"metric": "f1", "scores": [0.5, 0.25]}"#).unwrap();
    let output = run(&report);
    assert!(common::stderr(&output).contains("the seeds' scores are f1"), "{}", common::stderr(&output));
    let found: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(found["models"][0]["seed_scores"], Value::Array(Vec::new()));
}

#[test]
fn the_reference_may_be_another_than_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in ["a", "b"] {
        model("distilbert-mlm", &folder.join(name));
    }
    let (a, b, out) = (path(folder, "a"), path(folder, "b"), path(folder, "out"));
    let base = ["report", &a, &b, "--output", &out, "--no-speed", "--json", "--reference"];
    let found: Value = serde_json::from_str(&stdout(&run(&[&base[..], &["b"]].concat()))).unwrap();
    assert_eq!((&found["models"][0]["role"], &found["models"][1]["role"]), (&"student".into(), &"teacher".into()));
    assert_eq!(error(&run(&[&base[..], &["c"]].concat())), "error: --reference: expected one of a, b, found c");
}

#[test]
fn runs_that_cannot_be_compared_are_refused_by_name_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let out = path(folder, "out");
    let refused = |runs: &[&str]| {
        let message = error(&run(&[&["report", "--output", &out, "--no-speed"], runs].concat()));
        assert!(!Path::new(&out).exists());
        message
    };
    let good = folder.join("good");
    finished(&good, "bert-classify");
    let good = good.to_str().unwrap();
    assert_eq!(refused(&[good, good]), "error: two runs are called `good`; name them apart: NAME=RUN");
    let unfinished = folder.join("unfinished");
    fs::create_dir(&unfinished).unwrap();
    let message = refused(&[good, unfinished.to_str().unwrap()]);
    assert!(
        message.ends_with(
            "expected a finished run (`best`), a model (`config.json`) or scores (`evaluation.json`), found none of them"
        ),
        "{message}"
    );

    // Predictions of another evaluation.
    let file = Path::new(good).join("predictions.jsonl");
    let predictions = fs::read_to_string(&file).unwrap();
    let cut = predictions.lines().take(20).collect::<Vec<_>>().join("\n");
    fs::write(&file, cut).unwrap();
    assert!(refused(&[good]).ends_with("expected 30 predictions of dev dev, found 19 of dev dev"));
    fs::write(Path::new(good).join("metrics.jsonl"), "{}\n").unwrap();
    fs::write(&file, predictions).unwrap();
    assert!(refused(&[good]).contains("metrics.jsonl line 1: missing field `kind`"));
}
