//! `distilbert evaluate` on the reference models.

mod common;

use common::{error, lines, model, run, run_with, set_labels, stderr, stdout, texts};
use distilbert::evaluate::Predictions;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// What `predict` says of each text: its label.
fn labels(model: &Path, texts: &[String]) -> Vec<String> {
    let name = model.to_str().unwrap();
    let output = run_with(&["predict", "classify", "--model", name, "--json"], texts.join("\n").as_bytes());
    lines(&stdout(&output)).iter().map(|line| line["label"].as_str().unwrap().to_owned()).collect()
}

fn evaluate(model: &Path, more: &[&str]) -> Value {
    let base = ["evaluate", "--json", "--model", model.to_str().unwrap()];
    let text = stdout(&run(&[&base[..], more].concat()));
    assert_eq!(text.matches('\n').count(), 1, "exactly one line: {text}");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn own_columns_are_scored_by_the_models_own_labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model("distilbert-classify", &path);
    let texts = texts(20);
    let mut labels = labels(&path, &texts);
    // Five of twenty made wrong.
    for label in labels.iter_mut().take(5) {
        *label = if label == "LABEL_0" { "LABEL_1" } else { "LABEL_0" }.to_owned();
    }
    let rows = texts.iter().zip(&labels).map(|(text, label)| format!("{},{text}\n", &label["LABEL_".len()..]));
    let file = folder.path().join("reviews.csv");
    fs::write(&file, format!("stars,review\n{}", rows.collect::<String>())).unwrap();
    let file = file.to_str().unwrap();
    let columns = ["--file", file, "--text-column", "review", "--label-column", "stars"];
    let found = evaluate(&path, &columns);
    assert_eq!((&found["task"], &found["split"], &found["n"]), (&"reviews".into(), &"dev".into(), &20.into()));
    assert_eq!(found["metrics"]["accuracy"], 0.75);
    assert_eq!(found.as_object().unwrap().keys().take(4).collect::<Vec<_>>(), ["task", "split", "n", "metrics"]);

    let output = run(&[&["evaluate", "--model", path.to_str().unwrap()], &columns[..]].concat());
    assert!(
        stdout(&output).starts_with("reviews dev: 20 examples, in f32\n  accuracy            75.00  ["),
        "{}",
        stdout(&output)
    );
}

#[test]
fn labels_in_another_order_are_matched_by_name_in_both_halves_of_mnli() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model("bert-classify", &path);
    set_labels(&path, &["CONTRADICTION", "ENTAILMENT", "NEUTRAL"]);
    let texts = texts(12);
    let pairs: Vec<String> = texts.iter().map(|text| format!("{text}\tw9 w8")).collect();
    let name = path.to_str().unwrap();
    let output = run_with(
        &["predict", "classify", "--model", name, "--json", "--input-format", "tsv"],
        pairs.join("\n").as_bytes(),
    );
    let said: Vec<String> =
        lines(&stdout(&output)).iter().map(|line| line["label"].as_str().unwrap().to_lowercase()).collect();
    let row = |(pair, label): (&String, &String)| format!("{pair}\t{label}\n");
    let file = |rows: String| format!("sentence1\tsentence2\tgold_label\n{rows}");
    fs::write(folder.path().join("dev_matched.tsv"), file(pairs.iter().zip(&said).map(row).collect())).unwrap();
    let data = ["--task", "mnli", "--data", folder.path().to_str().unwrap()];
    assert_eq!(evaluate(&path, &data).get("also"), None);

    let wrong: Vec<String> =
        said.iter().map(|label| if label == "neutral" { "entailment" } else { "neutral" }.to_owned()).collect();
    fs::write(folder.path().join("dev_mismatched.tsv"), file(pairs.iter().zip(&wrong).map(row).collect())).unwrap();
    let found = evaluate(&path, &data);
    assert_eq!((&found["split"], &found["metrics"]["accuracy"]), (&"dev".into(), &1.0.into()));
    let other = &found["also"][0];
    assert_eq!((&other["split"], &other["metrics"]["accuracy"]), (&"dev_mismatched".into(), &0.0.into()));

    let output = run(&[&["evaluate", "--model", name], &data[..]].concat());
    assert!(stderr(&output).starts_with("note: the model's labels stand in another order: entailment = output 1, "));
    assert_eq!(stdout(&output).matches(" examples, in f32\n").count(), 2);
}

#[test]
fn output_holds_scores_and_predictions_that_belong_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model("distilbert-classify", &path);
    let rows: String = texts(6).iter().map(|text| format!("{{\"text\": \"{text}\", \"label\": \"1\"}}\n")).collect();
    let file = folder.path().join("dev.jsonl");
    fs::write(&file, rows).unwrap();
    let out = folder.path().join("out");
    let columns = ["--text-column", "text", "--label-column", "label"];
    let more = ["--data", folder.path().to_str().unwrap(), "--output", out.to_str().unwrap()];
    let printed = evaluate(&path, &[&columns[..], &more].concat());
    let written: Value = serde_json::from_slice(&fs::read(out.join("evaluation.json")).unwrap()).unwrap();
    assert_eq!(printed, written);
    let predictions = Predictions::read(fs::read(out.join("predictions.jsonl")).unwrap().as_slice()).unwrap();
    assert_eq!(predictions.rows.len(), 6);
    let right = predictions.rows.iter().filter(|row| row.scores[1] >= row.scores[0].max(row.scores[2])).count();
    assert_eq!(printed["metrics"]["accuracy"], right as f64 / 6.0);
}

#[test]
fn the_task_of_the_model_folder_is_the_default_and_cut_inputs_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model("distilbert-regress", &path);
    let mut task = distilbert::data::examples::Task::glue("stsb").unwrap();
    task.metrics.truncate(1);
    let saved = distilbert::data::examples::SavedTask { task, max_length: 10 };
    fs::write(path.join("task.json"), saved.to_json()).unwrap();
    let rows: String =
        texts(8).iter().enumerate().map(|(i, text)| format!("{text}\tw5 w6 w7\t{}.5\n", i % 5)).collect();
    fs::write(folder.path().join("dev.tsv"), format!("sentence1\tsentence2\tscore\n{rows}")).unwrap();
    let data = folder.path().to_str().unwrap();
    let output = run(&["evaluate", "--json", "--model", path.to_str().unwrap(), "--data", data]);
    let found: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(found["metrics"].as_object().unwrap().keys().collect::<Vec<_>>(), ["pearson"]);
    assert_eq!(found["task"], "stsb");
    // One text of 5 and one of 6 words: 3 specials and the pair's 3 words leave 4 of 10.
    assert_eq!(found["truncated"], 2);
    assert_eq!(stderr(&output), "warning: stsb dev: 2 of 8 inputs were cut to 10 tokens\n");
}

#[test]
fn a_test_split_without_labels_makes_a_submission_and_no_scores() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model("bert-classify", &path);
    set_labels(&path, &["entailment", "neutral", "contradiction"]);
    let rows: String = texts(4).iter().enumerate().map(|(i, text)| format!("{i}\t{text}\tw5\n")).collect();
    fs::write(folder.path().join("test_matched.tsv"), format!("index\tsentence1\tsentence2\n{rows}")).unwrap();
    let data = ["--task", "mnli", "--split", "test", "--data", folder.path().to_str().unwrap()];
    let name = path.to_str().unwrap();
    let message = error(&run(&[&["evaluate", "--model", name], &data[..]].concat()));
    assert!(message.contains("split test has no labels to score"), "{message}");
    let file = folder.path().join("MNLI-m.tsv");
    let found = evaluate(&path, &[&data[..], &["--submission", file.to_str().unwrap()]].concat());
    assert_eq!((&found["n"], &found["metrics"]), (&4.into(), &Value::Object(Default::default())));
    let text = fs::read_to_string(file).unwrap();
    assert!(text.starts_with("index\tprediction\n0\t") && text.lines().count() == 5, "{text}");
}

#[test]
fn a_model_and_a_task_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model("distilbert-classify", &path);
    let refused = |more: &[&str]| error(&run(&[&["evaluate", "--model", path.to_str().unwrap()], more].concat()));
    fs::write(folder.path().join("dev.tsv"), "sentence\tlabel\nw5\t1\n").unwrap();
    let data = folder.path().to_str().unwrap();
    let sst2 = ["--task", "sst2", "--data", data];
    assert_eq!(refused(&sst2), "error: task `sst2`: expected a model of 2 outputs, found 3");
    assert!(refused(&["--data", data]).contains("name a --task"));
    assert!(refused(&["--data", data, "--text-column", "sentence"]).contains("--label-column"));
    set_labels(&path, &["a", "b", "c"]);
    fs::write(folder.path().join("dev_matched.tsv"), "sentence1\tsentence2\tgold_label\nw5\tw6\tneutral\n").unwrap();
    let message = refused(&["--task", "mnli", "--data", data]);
    assert_eq!(
        message,
        "error: task `mnli`: expected a model of the labels entailment, neutral, contradiction, found a, b, c"
    );
    // A tokenizer with more tokens than the model has rows.
    let vocabulary = fs::read_to_string(path.join("vocab.txt")).unwrap();
    fs::write(path.join("vocab.txt"), vocabulary + "more\n").unwrap();
    assert!(refused(&sst2).contains("expected a tokenizer of at most 53 tokens, found 54"));
}

/// A model with a labelled file that it has two in three of right, with a column that says where each text is from.
fn sliced(folder: &Path) -> (std::path::PathBuf, String) {
    let path = folder.join("model");
    model("bert-classify", &path);
    let mut texts = texts(30);
    texts[1].push_str(" w5 w6 w7 w8 w9 w10 w11");
    let rows = texts.iter().zip(labels(&path, &texts)).enumerate().map(|(index, (text, label))| {
        let right = label["LABEL_".len()..].parse::<usize>().unwrap();
        let label = if index % 3 == 0 { (right + 1) % 3 } else { right };
        format!("{text},{label},{}\n", if index % 3 == 2 { "" } else { ["web", "mail"][index % 2] })
    });
    let file = folder.join("dev.csv");
    fs::write(&file, format!("text,label,source\n{}", rows.collect::<String>())).unwrap();
    (path, file.to_str().unwrap().to_owned())
}

const COLUMNS: [&str; 4] = ["--text-column", "text", "--label-column", "label"];

#[test]
fn scores_by_length_and_by_column_are_those_of_their_examples() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = sliced(folder.path());
    let ask = [&["--file", &file], &COLUMNS[..], &["--by-length", "--by", "source"]].concat();
    let found = evaluate(&path, &ask);
    let parts = |key: &str| found[key].as_array().unwrap().clone();
    let rights = |parts: &[Value]| -> f64 {
        parts.iter().map(|part| part["n"].as_f64().unwrap() * part["metrics"]["accuracy"].as_f64().unwrap()).sum()
    };
    for key in ["by_length", "by"] {
        assert!((rights(&parts(key)) - 20.0).abs() < 1e-9, "{key}");
    }
    assert!(parts("by_length").len() >= 2);
    let by = parts("by");
    let values: Vec<&str> = by.iter().map(|part| part["value"].as_str().unwrap()).collect();
    assert_eq!(values, ["", "mail", "web"]);
    assert_eq!((&by[0]["n"], &by[0]["metrics"]["accuracy"]), (&10.into(), &1.0.into()));
    let matrix: u64 = found["confusion"]["matrix"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .flat_map(Value::as_u64)
        .sum();
    assert_eq!(matrix, 30);

    let people = stdout(&run(&[&["evaluate", "--model", path.to_str().unwrap()], &ask[..]].concat()));
    assert!(people.contains("\n  true \\ predicted     0   1   2\n") && people.contains("\n  by value\n"), "{people}");
    let message = error(&run(&[&["evaluate", "--model", path.to_str().unwrap(), "--by", "from"], &ask[..6]].concat()));
    assert!(message.contains("dev.csv:1: no column `from`"), "{message}");
}

#[test]
fn a_temperature_is_fitted_stored_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = sliced(folder.path());
    let ask = [&["--file", &file], &COLUMNS[..]].concat();
    let before = evaluate(&path, &ask);
    let score = || {
        let name = path.to_str().unwrap();
        lines(&stdout(&run(&["predict", "classify", "--model", name, "--json", "--top-k", "3", "w5 w6"])))[0].clone()
    };
    let scores_before = score();
    let fitted = evaluate(&path, &[&ask[..], &["--calibrate"]].concat());
    let calibration = &fitted["calibration"];
    let stored: Value = serde_json::from_slice(&fs::read(path.join("calibration.json")).unwrap()).unwrap();
    assert_eq!(*calibration, stored);
    let number = |key: &str| calibration[key].as_f64().unwrap();
    assert!(number("nll_after") < number("nll_before"));
    assert_eq!(calibration["calibration_error_before"], before["calibration_error"]);
    // Fitted again it is the same: the first fit plays no part in the second.
    assert_eq!(evaluate(&path, &[&ask[..], &["--calibrate"]].concat())["calibration"], *calibration);

    let after = evaluate(&path, &ask);
    assert_eq!(after["metrics"], before["metrics"]);
    let gap = after["calibration_error"].as_f64().unwrap() - number("calibration_error_after");
    assert!(gap.abs() < 1e-6, "{gap}");
    let scores_after = score();
    let ratio = |scores: &Value| {
        let score = |at: usize| scores[at]["score"].as_f64().unwrap();
        (score(0) / score(2)).ln()
    };
    let temperature = number("temperature");
    assert!((ratio(&scores_before) / ratio(&scores_after) / temperature - 1.0).abs() < 1e-4, "{temperature}");

    fs::write(path.join("calibration.json"), stored.to_string().replace("\"temperature\":", "\"temperature\":-"))
        .unwrap();
    let message = error(&run(&["predict", "classify", "--model", path.to_str().unwrap(), "w5"]));
    assert!(message.contains("calibration.json: expected a temperature above 0, found -"), "{message}");
}

#[test]
fn two_models_are_compared_from_a_predictions_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = sliced(folder.path());
    let other = folder.path().join("other");
    model("distilbert-classify", &other);
    let out = folder.path().join("out");
    let ask = [&["--file", &file], &COLUMNS[..]].concat();
    let theirs = evaluate(&other, &[&ask[..], &["--output", out.to_str().unwrap()]].concat());
    let predictions = out.join("predictions.jsonl");
    let against = ["--against", predictions.to_str().unwrap()];
    let ours = evaluate(&path, &[&ask[..], &against].concat());
    let accuracy = |found: &Value| found["metrics"]["accuracy"].as_f64().unwrap();
    let found = &ours["against"];
    assert!((found["difference"].as_f64().unwrap() - (accuracy(&ours) - accuracy(&theirs))).abs() < 1e-12);
    let alone = |key: &str| found["mcnemar"][key].as_f64().unwrap();
    assert_eq!((alone("only_first") - alone("only_second")) / 30.0, found["difference"].as_f64().unwrap());
    let same = evaluate(&other, &[&ask[..], &against].concat());
    assert_eq!((&same["against"]["difference"], &same["against"]["p_value"]), (&0.0.into(), &1.0.into()));
}

#[test]
fn several_files_stand_in_one_table_with_the_gap_to_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = sliced(folder.path());
    let text = fs::read_to_string(&file).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    // One wrong, one right.
    lines.truncate(3);
    let part = folder.path().join("part.csv");
    fs::write(&part, lines.join("\n")).unwrap();
    let part = part.to_str().unwrap();
    let ask = [&["--file", &file, "--file", part, "--file", part], &COLUMNS[..]].concat();
    let found = evaluate(&path, &ask);
    let number = |key: &str| found[key].as_f64().unwrap();
    let accuracy = |file: usize| found["files"][file]["metrics"]["accuracy"].as_f64().unwrap();
    assert_eq!((accuracy(0), accuracy(1), accuracy(2)), (2.0 / 3.0, 0.5, 0.5));
    assert!((number("gap") - 1.0 / 6.0).abs() < 1e-12 && (number("mean") - 5.0 / 9.0).abs() < 1e-12);
    assert_eq!((&found["files"][1]["n"], &found["metric"]), (&2.into(), &"accuracy".into()));
    let name = path.to_str().unwrap();
    let people = stdout(&run(&[&["evaluate", "--model", name], &ask[..]].concat()));
    assert!(people.contains("gap to first") && people.contains("66.67 ["), "{people}");
    let message = error(&run(&[&["evaluate", "--model", name, "--calibrate"], &ask[..]].concat()));
    assert!(message.starts_with("error: expected one --file with --output"), "{message}");
}

#[test]
fn one_language_has_no_others_and_what_is_cut_is_told_by_language() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = sliced(folder.path());
    let languages = folder.path().join("languages");
    fs::create_dir(&languages).unwrap();
    fs::copy(&file, languages.join("dev-en.csv")).unwrap();
    let name = path.to_str().unwrap();
    let ask = |more: &[&str]| {
        let fixed = ["evaluate", "--model", name, "--languages", languages.to_str().unwrap()];
        run(&[&fixed[..], &COLUMNS, more].concat())
    };
    let found: Value = serde_json::from_str(&stdout(&ask(&["--json"]))).unwrap();
    assert_eq!((&found["mean_of_others"], &found["gap"]), (&Value::Null, &Value::Null));
    let people = stdout(&ask(&[]));
    let row = |name: &str| people.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().last();
    assert_eq!((row("mean of others"), row("gap to first")), (Some("-"), Some("-")), "{people}");

    let row = "w5 w6 w7 w8,1,web\n";
    fs::write(languages.join("dev-de.csv"), format!("text,label,source\nw5,0,web\n{row}")).unwrap();
    let cut = stderr(&ask(&["--max-length", "4"]));
    let german: Vec<&str> = cut.lines().filter(|line| line.starts_with("warning: de: ")).collect();
    let [german] = german[..] else { panic!("one line on German: {cut}") };
    assert!(german.ends_with(" dev: 1 of 2 inputs were cut to 4 tokens"), "{cut}");
}

/// Saves beside the model what it is said to be trained for.
fn save_task(model: &Path, name: &str) {
    let task = distilbert::data::examples::Task::glue(name).unwrap();
    let saved = distilbert::data::examples::SavedTask { task, max_length: 18 };
    fs::write(model.join("task.json"), saved.to_json()).unwrap();
}

#[test]
fn pairs_and_single_texts_are_not_taken_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model("distilbert-regress", &path);
    save_task(&path, "stsb");
    let rows: String = texts(4).iter().enumerate().map(|(i, text)| format!("{text}\tw5\t{i}.5\n")).collect();
    let file = folder.path().join("dev.tsv");
    fs::write(&file, format!("sentence1\tsentence2\tscore\n{rows}")).unwrap();
    let (name, file) = (path.to_str().unwrap(), file.to_str().unwrap());
    let ask = ["evaluate", "--model", name, "--file", file, "--text-column", "sentence1", "--label-column", "score"];
    assert_eq!(error(&run(&ask)), "error: the model was trained on pairs of texts, found one text");

    let message = error(&run(&["evaluate", "--model", name, "--file", file, "--task", "stsb", "--calibrate"]));
    assert_eq!(message, "error: --calibrate: expected examples with classes, found regression");

    let classifier = folder.path().join("classifier");
    model("distilbert-classify", &classifier);
    let mut task = distilbert::data::examples::Task::glue("mnli").unwrap();
    task.kind = distilbert::data::examples::TaskKind::Single;
    let saved = distilbert::data::examples::SavedTask { task, max_length: 18 };
    fs::write(classifier.join("task.json"), saved.to_json()).unwrap();
    let mnli = folder.path().join("dev_matched.tsv");
    fs::write(&mnli, "sentence1\tsentence2\tgold_label\nw5\tw6\tneutral\n").unwrap();
    let pairs = ["--text-column", "sentence1", "--pair-column", "sentence2", "--label-column", "gold_label"];
    let base = ["evaluate", "--model", classifier.to_str().unwrap(), "--file", mnli.to_str().unwrap()];
    let message = error(&run(&[&base[..], &pairs].concat()));
    assert_eq!(message, "error: the model was trained on single texts, found a pair");

    // A teacher is asked what it knows, too.
    let base = folder.path().join("base");
    model("distilbert-classify", &base);
    let out = folder.path().join("run");
    let finetune = ["finetune", "--model", base.to_str().unwrap(), "--task", "mine", "--data", file, "--teacher", name];
    let columns = ["--text-column", "sentence1", "--label-column", "score", "--problem", "regression"];
    let message = error(&run(&[&finetune[..], &columns, &["--output", out.to_str().unwrap()]].concat()));
    let expected = format!("error: teacher {name}: the model was trained on pairs of texts, found one text");
    assert_eq!((message, out.exists()), (expected, false));
}

#[test]
fn what_cannot_be_written_or_read_is_told_before_anything_is_scored() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = sliced(folder.path());
    let (out, submission) = (folder.path().join("out"), folder.path().join("SST-2.tsv"));
    // Whoever scores says first how many inputs were cut.
    let ask = [&["evaluate", "--model", path.to_str().unwrap(), "--file", &file, "--max-length", "3"], &COLUMNS[..]];
    let refused = |more: &[&str]| {
        let output = run(&[&ask.concat()[..], more].concat());
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
        error(&output)
    };
    let (out_name, submission) = (out.to_str().unwrap(), submission.to_str().unwrap());
    let message = refused(&["--calibrate", "--submission", submission]);
    assert_eq!(message, "error: the GLUE server takes no predictions for task `dev`, split `dev`");
    refused(&["--output", out_name, "--submission", submission]);
    assert!(refused(&["--against", "nope"]).starts_with("error: nope: "));
    assert!(refused(&["--by", "from"]).contains("no column `from`"));
    assert!(!path.join("calibration.json").exists() && !out.exists());
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model("bert-classify", &path);
    set_labels(&path, &["entailment", "neutral", "contradiction"]);
    let file = folder.path().join("test_matched.tsv");
    let text = "index\tsentence1\tsentence2\n0\tw5\tw6\n";
    fs::write(&file, text).unwrap();
    let data = folder.path().to_str().unwrap();
    let (name, link) = (path.to_str().unwrap(), folder.path().join("link.tsv"));
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for output in [&file, &link] {
        let output = output.to_str().unwrap();
        let ask = ["evaluate", "--model", name, "--task", "mnli", "--split", "test", "--data", data];
        let message = error(&run(&[&ask[..], &["--submission", output]].concat()));
        let reason = "is an input, and would be replaced by the output: choose another output";
        assert_eq!(message, format!("error: `{output}` {reason}"));
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    // The predictions that it is compared with are read too.
    let (path, file) = sliced(&folder.path().join("sliced"));
    let (name, out) = (path.to_str().unwrap(), folder.path().join("out"));
    let ask = [&["evaluate", "--model", name, "--file", &file, "--output", out.to_str().unwrap()], &COLUMNS[..]];
    stdout(&run(&ask.concat()));
    let other = out.join("predictions.jsonl");
    let message = error(&run(&[&ask.concat()[..], &["--against", other.to_str().unwrap()]].concat()));
    assert!(message.contains("predictions.jsonl` is an input"), "{message}");
}

#[test]
fn results_stay_beside_their_model_and_task() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = sliced(folder.path());
    let [other, run_of_other, out] = ["other", "run", "out"].map(|name| folder.path().join(name));
    model("distilbert-classify", &other);
    model("distilbert-classify", &run_of_other.join("best"));
    let ask = |model: &Path, file: &str, out: &Path| {
        let fixed = ["evaluate", "--model", model.to_str().unwrap(), "--file", file, "--output", out.to_str().unwrap()];
        run(&[&fixed[..], &COLUMNS].concat())
    };
    stdout(&ask(&path, &file, &out));
    stdout(&ask(&path, &file, &out));
    let kept = fs::read_to_string(out.join("evaluation.json")).unwrap();
    let refused = |output: &std::process::Output, out: &Path| {
        let start = format!("error: {}: expected no results but this model's on ", out.display());
        let message = error(output);
        message.strip_prefix(&start).unwrap_or_else(|| panic!("{message}")).to_owned()
    };
    let message = refused(&ask(&other, &file, &out), &out);
    assert_eq!(message, format!("dev, found those of {}", path.display()));
    let copy = folder.path().join("copy.csv");
    fs::copy(&file, &copy).unwrap();
    assert_eq!(refused(&ask(&path, copy.to_str().unwrap(), &out), &out), "copy, found those on dev");
    assert_eq!(fs::read_to_string(out.join("evaluation.json")).unwrap(), kept);
    let best = run_of_other.join("best");
    let message = refused(&ask(&path, &file, &run_of_other), &run_of_other);
    assert_eq!(message, format!("dev, found the place of {}", best.display()));
    // The run's own best checkpoint, also in the place of scores that do not name it.
    stdout(&ask(&best, &file, &run_of_other));
    let scores = run_of_other.join("evaluation.json");
    let mut unnamed: Value = serde_json::from_slice(&fs::read(&scores).unwrap()).unwrap();
    unnamed.as_object_mut().unwrap().remove("model").unwrap();
    fs::write(&scores, unnamed.to_string()).unwrap();
    stdout(&ask(&best, &file, &run_of_other));
}

#[test]
fn a_fit_that_ends_where_its_search_does_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model("bert-classify", &path);
    let texts = texts(6);
    let file = folder.path().join("dev.csv");
    let rows =
        texts.iter().zip(labels(&path, &texts)).map(|(text, label)| format!("{text},{}\n", &label["LABEL_".len()..]));
    fs::write(&file, format!("text,label\n{}", rows.collect::<String>())).unwrap();
    let ask = ["evaluate", "--model", path.to_str().unwrap(), "--file", file.to_str().unwrap(), "--calibrate"];
    let output = run(&[&ask[..], &COLUMNS].concat());
    stdout(&output);
    assert_eq!(
        stderr(&output),
        "warning: --calibrate: the temperature is 0.01, an end of the search from 0.01 to 100: a sharper one \
         would fit better still, as where every answer is right\n"
    );
}

#[test]
fn flags_of_another_mode_are_refused() {
    for flags in [
        &["--retrieval", "c", "--task", "stsb"][..],
        &["--retrieval", "c", "--text-column", "text"],
        &["--retrieval", "c", "--no-header"],
        &["--retrieval", "c", "--qrels", "q.tsv", "--split", "dev"],
        &["--retrieval", "c", "--source-language", "de"],
        &["--file", "f", "--qrels", "q.tsv"],
        &["--languages", "d", "--qrels", "q.tsv"],
        &["--file", "f", "--source-language", "de"],
        &["--data", "d", "--source-language", "de"],
    ] {
        let output = run(&[&["evaluate", "--model", "m"], flags].concat());
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("cannot be used with"), "{flags:?}: {}", stderr(&output));
    }
}
