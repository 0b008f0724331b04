//! Fine-tuning with little: settings found by a search, few examples, two heads on one encoder; and languages side by side.

mod common;

use common::{error, golden, lines, run, stderr, stdout};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn string(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Texts whose label is their first word's.
fn tsv(count: usize) -> String {
    let mut text = "text\tlabel\n".to_owned();
    for index in 0..count {
        let (word, label) = [("berlin", "place"), ("wolfgang", "name")][index % 2];
        text.push_str(&format!("{word} {}\t{label}\n", ["lives in the b", "!", "the . b", "in york"][index / 2 % 4]));
    }
    text
}

/// Texts whose label is their first word's, of these words.
fn labelled_by(words: &[(&str, &str)], count: usize) -> Vec<(String, String)> {
    let ends = ["in the b", "!", "the . b", "in in"];
    let row = |index: usize| {
        let (word, label) = words[index % words.len()];
        (format!("{word} {}", ends[index / words.len() % ends.len()]), label.to_owned())
    };
    (0..count).map(row).collect()
}

#[test]
fn a_teacher_labels_texts_that_nobody_labelled() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let [known, others] = [[("berlin", "place"), ("wolfgang", "name")], [("york", "place"), ("lives", "name")]];
    let all = [known, others].concat();
    let write = |name: &str, rows: &[(String, String)]| {
        let rows: String = rows.iter().map(|(text, label)| format!("{text}\t{label}\n")).collect();
        fs::write(at(name), format!("text\tlabel\n{rows}")).unwrap();
    };
    write("all.tsv", &labelled_by(&all, 64));
    write("known.tsv", &labelled_by(&known, 16));
    write("dev.tsv", &labelled_by(&others, 8));
    // Without a column of labels.
    let texts: String = labelled_by(&all, 64).iter().map(|(text, _)| format!("{text}\n")).collect();
    fs::write(at("texts.tsv"), format!("text\n{texts}")).unwrap();
    // A handful of labelled texts has none to spare for choosing a checkpoint: the last is taken.
    fs::write(at("all-of-them.toml"), "[training]\nvalidation-share = 0.0\n").unwrap();
    let base = golden("tagger");
    let finetune = |data: &str, output: &str, extra: &[&str]| {
        let (data, dev, output) = (at(data), at("dev.tsv"), at(output));
        let fixed = ["finetune", "--model", string(&base), "--task", "mine", "--data", string(&data)];
        let columns = ["--text-column", "text", "--label-column", "label", "--dev", string(&dev)];
        let rest = ["--batch-size", "8", "--learning-rate", "0.005", "--epochs", "20", "--json", "-o", string(&output)];
        run(&fixed.iter().chain(&columns).chain(&rest).chain(extra).copied().collect::<Vec<_>>())
    };
    let accuracy = |output: &std::process::Output| lines(&stdout(output))[0]["metrics"]["accuracy"].as_f64().unwrap();
    assert_eq!(accuracy(&finetune("all.tsv", "teacher", &[])), 1.0);
    let (teacher, texts, config) = (at("teacher/best"), at("texts.tsv"), at("all-of-them.toml"));
    let taught = ["--teacher", string(&teacher), "--config", string(&config)];
    // What it never saw it cannot know, unless the teacher says it of texts without labels.
    let alone = accuracy(&finetune("known.tsv", "alone", &taught));
    assert!(alone < 1.0, "{alone}");
    let unlabelled = ["--unlabelled", string(&texts)];
    let with = finetune("known.tsv", "with", &[&taught[..], &unlabelled].concat());
    assert_eq!(accuracy(&with), 1.0);
    assert!(stderr(&with).contains("64 texts for the teacher to label"), "{}", stderr(&with));

    let resumed = finetune("known.tsv", "with", &[&taught[..], &["--resume"]].concat());
    assert!(error(&resumed).contains("cannot resume"), "other data than the run's: {}", error(&resumed));
    let refused = finetune("known.tsv", "none", &unlabelled);
    assert!(!refused.status.success() && stderr(&refused).contains("--teacher"), "{}", stderr(&refused));
    let words = ["finetune", "--model", string(&base), "--task", "ner", "--data", string(&texts), "-o", "none"];
    let refused = run(&[&words[..], &taught, &unlabelled].concat());
    assert_eq!(error(&refused), "error: --unlabelled: expected a task of whole texts, found ner");
}

#[test]
fn a_search_keeps_the_best_of_its_trials_and_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let [train, dev, output] = ["train.tsv", "dev.tsv", "run"].map(|name| folder.path().join(name));
    fs::write(&train, tsv(60)).unwrap();
    fs::write(&dev, tsv(9)).unwrap();
    let base = golden("tagger");
    let search = |output: &Path, extra: &[&str]| {
        let fixed =
            ["finetune", "--model", string(&base), "--task", "mine", "--data", string(&train), "--dev", string(&dev)];
        let columns = ["--text-column", "text", "--label-column", "label", "--batch-size", "8"];
        let rest = ["--learning-rate", "0.02", "--epochs", "3", "--search", "5", "--json", "--output", string(output)];
        run(&fixed.iter().chain(&columns).chain(&rest).chain(extra).copied().collect::<Vec<_>>())
    };
    let said = lines(&stdout(&search(&output, &[])));
    let (table, result) = (&said[0], &said[1]);
    let trials = table["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 5);
    assert_eq!(trials[0]["trial"]["learning_rate"], 0.02, "the first is what was asked for");
    let score = |trial: &Value| trial["score"].as_f64().unwrap();
    let best = table["best"].as_u64().unwrap() as usize;
    let most = trials.iter().map(score).fold(f64::NEG_INFINITY, f64::max);
    assert_eq!(score(&trials[best - 1]), most);
    assert_eq!(result["n"], 9);
    // The best one is the result, with its settings, and the only one that keeps weights.
    let config = fs::read_to_string(output.join("config.toml")).unwrap();
    let epochs = trials[best - 1]["trial"]["epochs"].as_u64().unwrap();
    assert!(config.contains(&format!("epochs = {epochs}\n")), "{config}");
    for (index, _) in trials.iter().enumerate() {
        let trial = output.join(format!("trials/{:02}", index + 1));
        assert!(trial.join("metrics.jsonl").exists());
        for kept in ["checkpoints", "best"] {
            assert_eq!(trial.join(kept).symlink_metadata().is_ok(), index + 1 == best, "{kept} of trial {}", index + 1);
        }
    }
    let evaluated = run(&["evaluate", "--model", string(&output.join("best")), "--file", string(&dev), "--json"]);
    assert_eq!(lines(&stdout(&evaluated))[0]["metrics"], result["metrics"]);

    let lineage = fs::read_to_string(output.join("lineage.json")).unwrap();
    assert!(lineage.contains(", the best of 5 trials\""), "{lineage}");

    // Taken back to two trials, it finds the rest again.
    let path = output.join("search.json");
    let mut saved: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let whole = saved.clone();
    saved["trials"].as_array_mut().unwrap().truncate(2);
    fs::write(&path, saved.to_string()).unwrap();
    for trial in ["03", "04", "05"] {
        fs::remove_dir_all(output.join("trials").join(trial)).unwrap();
    }
    // The weights of an earlier best one are gone if a later one was better; the scores are not.
    stdout(&search(&output, &["--resume"]));
    let resumed: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(resumed, whole);
    let refused = error(&search(&output, &[]));
    assert!(refused.ends_with("run: holds a run; choose another directory, or continue it with --resume"), "{refused}");
    let refused = error(&search(&output, &["--resume", "--seed", "9"]));
    assert!(refused.ends_with("search.json: cannot resume: the search was for other settings"), "{refused}");
    fs::write(&train, tsv(61)).unwrap();
    let refused = error(&search(&output, &["--resume"]));
    assert!(refused.ends_with("search.json: cannot resume: the search was over other data"), "{refused}");

    // Its settings under another name of the task; labels of another name are other data.
    fs::write(&train, tsv(60)).unwrap();
    let (config, other) = (output.join("config.toml"), folder.path().join("other"));
    let again = |more: &[&str]| {
        let fixed =
            ["finetune", "--model", string(&base), "--task", "yours", "--data", string(&train), "--text-column"];
        let rest = ["text", "--label-column", "label", "--config", string(&config), "--epochs", "1", "--output"];
        run(&[&fixed[..], &rest, &[string(&other)], more].concat())
    };
    stdout(&again(&[]));
    assert!(fs::read_to_string(other.join("config.toml")).unwrap().contains("task = \"yours\"\n"));
    let renamed = fs::read_to_string(&train).unwrap().replace("\tname\n", "\tperson\n");
    fs::write(&train, renamed).unwrap();
    let refused = error(&again(&["--resume"]));
    assert!(refused.contains("cannot resume: the data's hash was"), "{refused}");
}

#[test]
fn a_few_examples_make_an_ordinary_classifier() {
    let folder = tempfile::tempdir().unwrap();
    let [train, dev, output] = ["train.tsv", "dev.tsv", "run"].map(|name| folder.path().join(name));
    fs::write(&train, tsv(60)).unwrap();
    fs::write(&dev, tsv(8)).unwrap();
    let base = golden("tagger");
    let few = |base: &Path, output: &Path, extra: &[&str]| {
        let fixed =
            ["finetune", "--model", string(base), "--task", "mine", "--data", string(&train), "--dev", string(&dev)];
        let columns =
            ["--text-column", "text", "--label-column", "label", "--few-shot", "4", "--learning-rate", "0.01"];
        let rest = ["--epochs", "3", "--json", "--output", string(output)];
        run(&fixed.iter().chain(&columns).chain(&rest).chain(extra).copied().collect::<Vec<_>>())
    };
    let result = lines(&stdout(&few(&base, &output, &[])))[0].clone();
    assert_eq!((&result["metrics"]["accuracy"], &result["n"]), (&Value::from(1.0), &Value::from(8)), "{result}");
    let best = output.join("best");
    let config = common::config(&best);
    assert_eq!(config["architectures"][0], "BertForSequenceClassification");
    assert_eq!(
        config["num_hidden_layers"].as_u64().unwrap(),
        common::config(&base)["num_hidden_layers"].as_u64().unwrap() + 1
    );
    let said = stdout(&run(&["predict", "classify", "--model", string(&best), "wolfgang the berlin", "berlin york"]));
    let labels: Vec<&str> = said.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(labels, ["name", "place"]);
    // The same seed, the same bits; it is resumed to the same end.
    let weights = fs::read(best.join("model.safetensors")).unwrap();
    stdout(&few(&base, &output, &["--resume"]));
    assert!(fs::read(best.join("model.safetensors")).unwrap() == weights);

    let albert = folder.path().join("albert");
    common::model("albert-mlm", &albert);
    let refused = error(&few(&albert, &folder.path().join("x"), &[]));
    assert!(refused.contains("--few-shot: model: expected layers with weights of their own"), "{refused}");
    assert!(!folder.path().join("x").exists());
}

#[test]
fn seeds_without_a_dev_file_are_compared_on_the_slice_that_chooses_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let [train, output] = ["train.tsv", "run"].map(|name| folder.path().join(name));
    fs::write(&train, tsv(40)).unwrap();
    let base = golden("tagger");
    let finetune = |extra: &[&str]| {
        let fixed = ["finetune", "--model", string(&base), "--task", "mine", "--data", string(&train), "--seeds", "2"];
        let rest = ["--text-column", "text", "--label-column", "label", "--epochs", "1", "--output", string(&output)];
        run(&fixed.iter().chain(&rest).chain(extra).copied().collect::<Vec<_>>())
    };
    let first = finetune(&[]);
    stdout(&first);
    assert!(stderr(&first).contains("new head, starting from random weights"));
    let summary: Value = serde_json::from_slice(&fs::read(output.join("summary.json")).unwrap()).unwrap();
    assert_eq!((&summary["metric"], &summary["seeds"]), (&"validation".into(), &Value::from(vec![1, 2])));
    assert_eq!(summary["scores"].as_array().unwrap().len(), 2);
    // Its weights are those of the checkpoint.
    let resumed = finetune(&["--resume"]);
    stdout(&resumed);
    assert!(!stderr(&resumed).contains("new head"), "{}", stderr(&resumed));
    let inspected = error(&run(&["inspect", string(&output.join("seed-1"))]));
    assert!(inspected.contains("expected a model's folder, found a run's: its model is"), "{inspected}");
    assert!(inspected.ends_with("seed-1/best"), "{inspected}");
}

/// Utterances whose intent and slots follow from their words.
fn utterances(folder: &Path, count: usize) {
    fs::create_dir_all(folder).unwrap();
    let (mut words, mut tags, mut intents) = (String::new(), String::new(), String::new());
    for index in 0..count {
        let place = [("berlin", "B-place"), ("new york", "B-place I-place")][index / 2 % 2];
        let (front, of_front, intent) =
            [("wolfgang lives in", "B-name O O", "say"), ("the b", "O O", "ask")][index % 2];
        words.push_str(&format!("{front} {}\n", place.0));
        tags.push_str(&format!("{of_front} {}\n", place.1));
        intents.push_str(&format!("{intent}\n"));
    }
    for (name, text) in [("seq.in", words), ("seq.out", tags), ("label", intents)] {
        fs::write(folder.join(name), text).unwrap();
    }
}

#[test]
fn intents_and_slots_are_learnt_taught_scored_and_told() {
    let folder = tempfile::tempdir().unwrap();
    utterances(&folder.path().join("train"), 60);
    utterances(&folder.path().join("dev"), 8);
    let base = golden("tagger");
    let finetune = |output: &Path, extra: &[&str]| {
        let fixed = ["finetune", "--model", string(&base), "--task", "intents", "--data", string(folder.path())];
        let rest =
            ["--batch-size", "8", "--learning-rate", "0.02", "--epochs", "25", "--json", "--output", string(output)];
        lines(&stdout(&run(&fixed.iter().chain(&rest).chain(extra).copied().collect::<Vec<_>>())))[0].clone()
    };
    let [first, second, student] = ["first", "second", "student"].map(|name| folder.path().join(name));
    let scores = |result: &Value| {
        ["sentence_accuracy", "intent_accuracy", "slot_f1"].map(|name| result["metrics"][name].as_f64())
    };
    assert_eq!(scores(&finetune(&first, &[])), [Some(1.0); 3]);
    finetune(&second, &["--seed", "7", "--lora", "4", "--freeze-layers", "0"]);
    let lineage = fs::read_to_string(second.join("lineage.json")).unwrap();
    assert!(lineage.contains("seed 7, embeddings frozen, by adapters of rank 4\""), "{lineage}");
    let best = first.join("best");
    assert_eq!(common::config(&best)["slot_labels"].as_array().unwrap().len(), 5);
    let shown = lines(&stdout(&run(&["inspect", "--json", string(&best)])))[0].clone();
    assert_eq!((&shown["intents"]["name"], shown["slots"].as_array().unwrap().len()), (&"intents".into(), 5));
    let shown = stdout(&run(&["inspect", string(&best)]));
    assert!(shown.contains("  task       intents, inputs of up to "), "{shown}");
    assert!(shown.contains("  slots      O, B-name, I-name, B-place, I-place\n"), "{shown}");
    let data = string(folder.path());
    let evaluated =
        lines(&stdout(&run(&["evaluate", "--model", string(&best), "--data", data, "--by-length", "--json"])));
    assert_eq!(scores(&evaluated[0]), [Some(1.0); 3]);
    // A temperature for the intents, which whoever asks them from then on uses.
    let score = || {
        let told = stdout(&run(&["predict", "intents", "--model", string(&best), "--json", "the b berlin"]));
        lines(&told)[0]["intent"]["score"].as_f64().unwrap()
    };
    let before = score();
    let fitted = lines(&stdout(&run(&["evaluate", "--model", string(&best), "--data", data, "--calibrate", "--json"])));
    let fitted = &fitted[0]["calibration"];
    assert_eq!((&fitted["n"], &fitted["task"]), (&8.into(), &"intents".into()), "{fitted}");
    assert!(fitted["nll_after"].as_f64() < fitted["nll_before"].as_f64() && score() > before, "{fitted}");
    let after = lines(&stdout(&run(&["evaluate", "--model", string(&best), "--data", data, "--json"])))[0].clone();
    let gap = after["calibration_error"].as_f64().unwrap() - fitted["calibration_error_after"].as_f64().unwrap();
    assert!(gap.abs() < 1e-6 && scores(&after) == [Some(1.0); 3], "{after}");
    fs::remove_file(best.join("calibration.json")).unwrap();

    let parts = evaluated[0]["by_length"].as_array().unwrap();
    assert_eq!(parts.iter().map(|part| part["n"].as_u64().unwrap()).sum::<u64>(), evaluated[0]["n"]);
    assert_eq!(parts[0]["metrics"]["slot_f1"], 1.0);

    // Side by side, with a paired test of whole sentences; one utterance is made wrong in the other's file.
    let kept = fs::read_to_string(first.join("predictions.jsonl")).unwrap();
    let worse = folder.path().join("worse.jsonl");
    fs::write(&worse, kept.replacen(r#""predicted_intent":"say""#, r#""predicted_intent":"other""#, 1)).unwrap();
    let against = ["evaluate", "--model", string(&best), "--data", string(folder.path()), "--against", string(&worse)];
    let tested = lines(&stdout(&run(&[&against[..], &["--json"]].concat())))[0]["against"].clone();
    assert_eq!((&tested["metric"], &tested["difference"]), (&"sentence_accuracy".into(), &0.125.into()), "{tested}");
    assert_eq!(tested["mcnemar"]["only_first"], 1);
    let (of_first, of_second) = (format!("first={}", string(&first)), format!("second={}", string(&second)));
    let output = folder.path().join("report");
    stdout(&run(&["report", &of_first, &of_second, "--output", string(&output), "--no-speed"]));
    let report = fs::read_to_string(output.join("report.md")).unwrap();
    assert!(report.contains("| second | student | +0.0 [+0.0, +0.0] | 1.000 |"), "{report}");

    // Two teachers with both heads.
    let other = second.join("best");
    let teachers = ["--teacher", string(&best), "--teacher", string(&other), "--soft-share", "0.9"];
    assert_eq!(scores(&finetune(&student, &teachers)), [Some(1.0); 3]);
    let metrics = fs::read_to_string(student.join("metrics.jsonl")).unwrap();
    assert!(lines(&metrics).iter().any(|line| line["soft"].is_f64()));

    let text = "wolfgang lives in new york";
    let told = lines(&stdout(&run(&["predict", "intents", "--model", string(&best), "--json", text])))[0].clone();
    assert_eq!(told["intent"]["label"], "say");
    let slots: Vec<String> = told["slots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| format!("{} {} {}", s["entity_group"], s["start"], s["end"]))
        .collect();
    assert_eq!(slots, ["\"name\" 0 8", "\"place\" 18 26"]);
    let quantised = folder.path().join("int8");
    stdout(&run(&[
        "compress",
        "quantize",
        "--model",
        string(&best),
        "--precision",
        "int8",
        "--output",
        string(&quantised),
    ]));
    stdout(&run(&["predict", "intents", "--model", string(&quantised), text]));
    let refused = error(&run(&["predict", "classify", "--model", string(&best), text]));
    assert!(refused.contains("expected a classification head, found ForIntentsAndSlots"), "{refused}");
    let refused = error(&run(&["predict", "intents", "--model", string(&base), text]));
    assert!(refused.contains("expected heads for intents and slots, found ForTokenClassification"), "{refused}");
}

#[test]
fn a_folder_of_languages_is_one_table() {
    let folder = tempfile::tempdir().unwrap();
    for (name, count) in [("train-en.tsv", 60), ("dev-en.tsv", 8), ("dev-de.tsv", 6), ("dev-ar.tsv", 4)] {
        let rows: String = (0..count).map(|index| format!("{}\tX\n\n", ["berlin", "the"][index % 2])).collect();
        let tagged = rows.replace("berlin\tX", "berlin\tB-PLACE").replace("the\tX", "the\tO");
        fs::write(folder.path().join(name), tagged).unwrap();
    }
    let output = folder.path().join("run");
    let train = folder.path().join("train-en.tsv");
    let base = golden("tagger");
    let flags = ["--task", "ner", "--batch-size", "8", "--learning-rate", "0.02", "--epochs", "10"];
    let fixed = ["finetune", "--model", string(&base), "--data", string(&train), "--output", string(&output)];
    stdout(&run(&fixed.iter().chain(&flags).copied().collect::<Vec<_>>()));
    let best = output.join("best");
    let evaluate = |extra: &[&str]| {
        let fixed = ["evaluate", "--model", string(&best), "--languages", string(folder.path())];
        run(&fixed.iter().chain(extra).copied().collect::<Vec<_>>())
    };
    let found = lines(&stdout(&evaluate(&["--json"])))[0].clone();
    let languages: Vec<&str> =
        found["files"].as_array().unwrap().iter().map(|file| file["language"].as_str().unwrap()).collect();
    assert_eq!(languages, ["en", "ar", "de"]);
    assert_eq!((&found["metric"], &found["files"][2]["n"]), (&"entity_f1".into(), &6.into()));
    let table = stdout(&evaluate(&["--source-language", "de"]));
    assert!(table.starts_with("language"), "{table}");
    assert!(table.lines().nth(1).unwrap().starts_with("de "), "{table}");
    assert!(error(&evaluate(&["--source-language", "fr"])).contains("for `fr`"));
}
