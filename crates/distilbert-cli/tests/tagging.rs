//! Words with tags, from the files to the spans of a text.

mod common;

use common::{error, golden, lines, run, run_with, stderr, stdout};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Sentences whose names are always tagged alike: in the scheme of CoNLL-2003 a span begins with `I-`.
fn sentences(count: usize) -> String {
    let mut text = "-DOCSTART- -X- O O\n\n".to_owned();
    for index in 0..count {
        let place = [("new X I-LOC\nyork X I-LOC\n"), ("berlin X I-LOC\n")][index % 2];
        let end = ["! X O\n", "the X O\nb X O\n", ". X O\n"][index % 3];
        text.push_str(&format!("wolfgang X I-PER\nlives X O\nin X O\n{place}{end}\n"));
    }
    text
}

fn string(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_tagger_is_trained_scored_reported_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let [train, dev, output] = ["eng.train", "eng.testa", "run"].map(|name| folder.path().join(name));
    fs::write(&train, sentences(60)).unwrap();
    fs::write(&dev, sentences(7)).unwrap();
    let base = golden("tagger");
    let arguments = |model: &str, output: &str, extra: &[&str]| -> Vec<String> {
        let fixed =
            ["finetune", "--model", model, "--task", "ner", "--data", string(folder.path()), "--output", output];
        let rest = ["--batch-size", "8", "--learning-rate", "0.02", "--epochs", "40", "--json"];
        fixed.iter().chain(&rest).chain(extra).map(|&text| text.to_owned()).collect()
    };
    let finetune = |model: &str, output: &Path, extra: &[&str]| -> Value {
        let arguments = arguments(model, string(output), extra);
        lines(&stdout(&run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())))[0].clone()
    };
    let trained = finetune(string(&base), &output, &[]);
    assert_eq!((&trained["metrics"]["entity_f1"], &trained["n"]), (&Value::from(1.0), &Value::from(7)), "{trained}");
    assert_eq!((&trained["by_type"]["LOC"]["support"], &trained["by_type"]["PER"]["f1"]), (&7.into(), &1.0.into()));
    let best = output.join("best");
    let predictions = lines(&fs::read_to_string(output.join("predictions.jsonl")).unwrap());
    assert_eq!(predictions[1]["words"][3], "new");
    assert_eq!(predictions[1]["prediction"].to_string(), r#"["B-PER","O","O","B-LOC","I-LOC","O"]"#);

    // A student learns from it, word by word.
    let soft = folder.path().join("soft");
    let taught = finetune(string(&base), &soft, &["--teacher", string(&best), "--soft-share", "0.9"]);
    assert_eq!(taught["metrics"]["entity_f1"], 1.0, "{taught}");
    let other = folder.path().join("other-teacher");
    fs::create_dir(&other).unwrap();
    for file in fs::read_dir(&best).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&file, other.join(file.file_name().unwrap())).unwrap();
    }
    let labels = ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG"];
    common::set_labels(&other, &labels);
    let refused = arguments(string(&base), string(&folder.path().join("none")), &["--teacher", string(&other)]);
    assert_eq!(
        error(&run(&refused.iter().map(String::as_str).collect::<Vec<_>>())),
        format!(
            "error: teacher {}: expected the labels O, B-LOC, I-LOC, B-PER, I-PER, found the labels {}",
            other.display(),
            labels.join(", ")
        )
    );
    let steps = fs::read_to_string(soft.join("metrics.jsonl")).unwrap();
    assert!(lines(&steps).iter().any(|line| line["soft"].is_f64()), "{steps}");
    let report = folder.path().join("report");
    let teacher = format!("teacher={}", output.display());
    let student = format!("student={}", soft.display());
    let table = run(&["report", &teacher, &student, "--output", string(&report), "--no-speed"]);
    assert!(table.status.success(), "{}", stderr(&table));

    // The same sentences in another form, another scheme, and windows shorter than they are.
    let other = folder.path().join("other.jsonl");
    let line = r#"{"tokens":["wolfgang","lives","in","new","york","the","berlin"],"tags":["S-PER","O","O","B-LOC","E-LOC","O","S-LOC"]}"#;
    fs::write(&other, format!("{line}\n")).unwrap();
    let evaluate = |extra: &[&str]| {
        let fixed = ["evaluate", "--model", string(&best), "--file", string(&other), "--json"];
        lines(&stdout(&run(&fixed.iter().chain(extra).copied().collect::<Vec<_>>())))[0].clone()
    };
    assert_eq!(evaluate(&[])["n"], 1);
    let windows = evaluate(&["--max-length", "6"]);
    assert_eq!(windows["by_type"]["LOC"]["support"], 2, "{windows}");

    // By length, and against predictions that miss one of the six spans of three sentences.
    let three = folder.path().join("three.txt");
    fs::write(&three, sentences(3)).unwrap();
    let kept = folder.path().join("kept");
    let score = |extra: &[&str]| {
        let fixed = ["evaluate", "--model", string(&best), "--file", string(&three), "--json"];
        lines(&stdout(&run(&fixed.iter().chain(extra).copied().collect::<Vec<_>>())))[0].clone()
    };
    let parts = score(&["--by-length", "--output", string(&kept)])["by_length"].clone();
    assert_eq!((&parts[0]["n"], &parts[0]["metrics"]["entity_f1"]), (&3.into(), &1.0.into()), "{parts}");
    let whole = fs::read_to_string(kept.join("predictions.jsonl")).unwrap();
    let worse = folder.path().join("worse.jsonl");
    fs::write(&worse, whole.replacen(r#""prediction":["B-PER""#, r#""prediction":["O""#, 1)).unwrap();
    let against = score(&["--against", string(&worse)])["against"].clone();
    assert_eq!(against["metric"], "entity_f1");
    let difference = against["difference"].as_f64().unwrap();
    assert!((difference - (1.0 - 10.0 / 11.0)).abs() < 1e-9, "{against}");
    let no_header = ["--no-header", "--text-column", "1"];
    let refused = run(&[&["evaluate", "--model", string(&best), "--file", string(&three)][..], &no_header].concat());
    assert!(error(&refused).contains("--no-header: expected a classifier of texts"), "{}", error(&refused));
    let refused = run(&["evaluate", "--model", string(&best), "--file", string(&three), "--by", "tags"]);
    assert_eq!(stderr(&refused), "error: --by: expected a classifier of texts, found a tagger of words\n");

    // A temperature is fitted to words, and used from then on.
    let text = "Wolfgang lives in New York!";
    let surest = || {
        let found = stdout(&run(&["predict", "tag", "--model", string(&best), "--json", text]));
        lines(&found)[0][0]["score"].as_f64().unwrap()
    };
    let before = surest();
    let mistaken = folder.path().join("mistaken.txt");
    fs::write(&mistaken, sentences(3).replacen("I-PER", "I-LOC", 1)).unwrap();
    let on_mistaken = |extra: &[&str]| {
        let fixed = ["evaluate", "--model", string(&best), "--file", string(&mistaken), "--json"];
        lines(&stdout(&run(&fixed.iter().chain(extra).copied().collect::<Vec<_>>())))[0].clone()
    };
    let fitted = on_mistaken(&["--calibrate"]);
    let number = |key: &str| fitted["calibration"][key].as_f64().unwrap();
    assert_eq!(fitted["calibration"]["n"], 18, "{fitted}");
    assert_eq!(fitted["calibration"]["calibration_error_before"], fitted["calibration_error"]);
    let temperature = number("temperature");
    assert!((temperature - 1.0).abs() > 0.01 && number("nll_after") < number("nll_before"), "{fitted}");
    let after = on_mistaken(&[]);
    let gap = after["calibration_error"].as_f64().unwrap() - number("calibration_error_after");
    assert!(gap.abs() < 1e-6 && after["metrics"] == fitted["metrics"], "{after}");
    assert_eq!(surest() < before, temperature > 1.0, "{before} became {}", surest());

    let found = stdout(&run(&["predict", "tag", "--model", string(&best), "--json", text]));
    let spans = lines(&found)[0].clone();
    let facts: Vec<(String, u64, u64)> = spans
        .as_array()
        .unwrap()
        .iter()
        .map(|span| {
            let number = |key: &str| span[key].as_u64().unwrap();
            (span["entity_group"].as_str().unwrap().to_owned(), number("start"), number("end"))
        })
        .collect();
    assert_eq!(facts, [("PER".to_owned(), 0, 8), ("LOC".to_owned(), 18, 26)]);
}

#[test]
fn texts_of_any_length_are_tagged_whole_and_in_order() {
    let folder = golden("tagger");
    let name = string(&folder);
    let long = "Wolfgang lives in — Berlin, the ".repeat(40);
    let input = format!("a b\n\n{long}\nwolfgang\n");
    let tag = |extra: &[&str]| {
        let fixed = ["predict", "tag", "--model", name, "--json", "--aggregation", "none", "--ignore-label", "nothing"];
        lines(&stdout(&run_with(&fixed.iter().chain(extra).copied().collect::<Vec<_>>(), input.as_bytes())))
    };
    for extra in [&[][..], &["--max-length", "9"]] {
        let found = tag(extra);
        assert_eq!(found.len(), 4, "one line an input");
        assert_eq!((found[0].as_array().unwrap().len(), found[1].as_array().unwrap().len()), (2, 0));
        let spans = found[2].as_array().unwrap();
        // Seven words and signs in each repeat; the dash is one.
        assert_eq!(spans.len(), 40 * 7, "no token is lost");
        let characters: Vec<char> = long.chars().collect();
        for (index, span) in spans.iter().enumerate() {
            assert_eq!(span["index"], index + 1);
            let place = |key: &str| span[key].as_u64().unwrap() as usize;
            let spelled: String = characters[place("start")..place("end")].iter().collect();
            assert_eq!(spelled.to_lowercase(), span["word"].as_str().unwrap());
        }
        assert_eq!(found[3][0]["word"], "wolfgang");
    }
    // Words that are split already, as a list or under a key.
    let words = concat!(r#"["wolfgang", "lives", "in", "berlin"]"#, "\n", r#"{"text": ["in", "berlin"]}"#, "\n");
    let split = ["predict", "tag", "--model", name, "--json", "--input-format", "jsonl"];
    let joined = ["predict", "tag", "--model", name, "--json", "wolfgang lives in berlin", "in berlin"];
    assert_eq!(stdout(&run_with(&split, words.as_bytes())), stdout(&run(&joined)));
    let refused = error(&run_with(&split, br#"{"text": ["in", 7]}"#));
    assert_eq!(refused, "error: line 1: expected a string or a list of words in `text`, found another kind of value");
}

#[test]
fn people_read_the_text_and_its_spans() {
    let folder = golden("tagger");
    let found = stdout(&run(&["predict", "tag", "--model", string(&folder), "--ignore-label", "nothing", "wolfgang"]));
    let mut found = found.lines();
    assert_eq!(found.next(), Some("wolfgang"));
    let columns: Vec<&str> = found.next().unwrap().split('\t').collect();
    assert_eq!((columns.len(), columns[2], columns[3], columns[4]), (5, "0", "8", "wolfgang"));
    assert_eq!((found.next(), found.next()), (Some(""), None));
}

#[test]
fn a_model_of_another_kind_is_refused_by_name() {
    let tagger = golden("tagger");
    let message = error(&run(&["predict", "classify", "--model", string(&tagger), "a"]));
    assert!(message.contains("expected a classification head, found ForTokenClassification"), "{message}");
    let folder = tempfile::tempdir().unwrap();
    common::model("distilbert-classify", folder.path());
    let message = error(&run(&["predict", "tag", "--model", string(folder.path()), "a"]));
    assert!(message.contains("expected a head for token classification"), "{message}");
}
