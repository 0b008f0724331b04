//! `distilbert predict` gives what the pipelines of `transformers` give, on the reference models.

mod common;

use common::{error, golden, lines, model, run, run_with, set_labels, stderr, stdout};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Largest difference of a score: float32 on both sides.
const TOLERANCE: f64 = 2e-6;

/// The cases of one task.
fn cases(task: &str) -> Vec<Value> {
    let text = fs::read_to_string(golden("pipelines.json")).expect("the goldens");
    let goldens: Value = serde_json::from_str(&text).expect("JSON");
    goldens[task].as_array().expect("a task").clone()
}

/// The case's model in a folder, with its labels.
fn case_model(case: &Value, folder: &Path) -> String {
    model(case["model"].as_str().expect("a model"), folder);
    if let Some(labels) = case["labels"].as_array() {
        set_labels(folder, &labels.iter().map(|label| label.as_str().expect("a label")).collect::<Vec<_>>());
    }
    folder.to_str().expect("a path").to_owned()
}

/// Equal but for the last digits of numbers.
fn assert_alike(found: &Value, expected: &Value, case: &Value) {
    match (found, expected) {
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{case}");
            found.iter().zip(expected).for_each(|(found, expected)| assert_alike(found, expected, case));
        }
        (Value::Object(found), Value::Object(expected)) => {
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{case}");
            found.values().zip(expected.values()).for_each(|(found, expected)| assert_alike(found, expected, case));
        }
        (Value::Number(found), Value::Number(expected)) => {
            let gap = (found.as_f64().unwrap() - expected.as_f64().unwrap()).abs();
            assert!(gap <= TOLERANCE, "{found} {expected} {case}");
        }
        _ => assert_eq!(found, expected, "{case}"),
    }
}

/// What the command prints for the case as JSON.
fn predict(task: &str, case: &Value, more: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let name = case_model(case, folder.path());
    let (text, format) = match &case["text"] {
        Value::String(text) => (text.clone(), "lines"),
        pair => (pair.to_string(), "jsonl"),
    };
    let base = ["predict", task, "--model", &name, "--json", "--input-format", format];
    let mut found = lines(&stdout(&run_with(&[&base, more].concat(), text.as_bytes())));
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[test]
fn masks_are_filled_as_by_the_pipeline() {
    for case in cases("fill_mask") {
        let arguments = &case["arguments"];
        let mut more = Vec::new();
        if let Some(top) = arguments["top_k"].as_u64() {
            more.extend(["--top-k".to_owned(), top.to_string()]);
        }
        for target in arguments["targets"].as_array().into_iter().flatten() {
            more.extend(["--targets".to_owned(), target.as_str().unwrap().to_owned()]);
        }
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        assert_alike(&predict("fill-mask", &case, &more), &case["expected"], &case);
    }
}

#[test]
fn labels_never_trained_are_chosen_as_by_the_pipeline() {
    for case in cases("zero_shot") {
        let arguments = &case["arguments"];
        let labels: Vec<&str> =
            arguments["candidate_labels"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
        let labels = labels.join(",");
        let mut more = vec!["--labels", &labels];
        if let Some(template) = arguments["hypothesis_template"].as_str() {
            more.extend(["--hypothesis-template", template]);
        }
        if arguments["multi_label"].as_bool() == Some(true) {
            more.push("--multi-label");
        }
        assert_alike(&predict("zero-shot", &case, &more), &case["expected"], &case);
    }
}

#[test]
fn texts_and_pairs_are_classified_as_by_the_pipeline() {
    for case in cases("classify") {
        assert_alike(&predict("classify", &case, &["--top-k", "9"]), &case["expected"], &case);
    }
}

#[test]
fn a_threshold_keeps_the_labels_that_reach_it() {
    let case = &cases("classify")[0];
    let expected = case["expected"].as_array().unwrap();
    // Between the second and the third score.
    let [second, third] = [1, 2].map(|place| expected[place]["score"].as_f64().unwrap());
    let threshold = ((second + third) / 2.0).to_string();
    let found = predict("classify", case, &["--threshold", &threshold]);
    assert_alike(&found, &expected[..2].into(), case);
    assert_eq!(predict("classify", case, &["--threshold", "1"]), Value::Array(Vec::new()));
    let folder = tempfile::tempdir().unwrap();
    let name = case_model(case, folder.path());
    let nothing = run(&["predict", "classify", "--model", &name, "--threshold", "1", "w5"]);
    assert_eq!(stdout(&nothing), "-\t-\tw5\n");
}

#[test]
fn ranking_orders_the_scores_of_the_pipeline_and_names_places() {
    let cases = cases("rerank");
    let folder = tempfile::tempdir().unwrap();
    let name = case_model(&cases[0], folder.path());
    let query = cases[0]["text"]["text"].as_str().unwrap();
    let texts: Vec<&str> = cases.iter().map(|case| case["text"]["text_pair"].as_str().unwrap()).collect();
    let mut expected: Vec<(usize, f64)> =
        cases.iter().map(|case| case["expected"]["score"].as_f64().unwrap()).enumerate().collect();
    expected.sort_by(|a, b| b.1.total_cmp(&a.1));
    let expected: Vec<Value> =
        expected.iter().map(|&(index, score)| serde_json::json!({"index": index, "score": score})).collect();
    let expected = Value::Array(expected);

    let base = ["predict", "rerank", "--model", &name, "--json"];
    let of_lines = run_with(&[&base[..], &["--query", query]].concat(), texts.join("\n").as_bytes());
    let of_lines = lines(&stdout(&of_lines));
    assert_eq!(of_lines.len(), 1);
    assert_alike(&of_lines[0], &expected, &cases[0]);
    // The same as objects, each a ranking of its own.
    let object = serde_json::json!({"query": query, "texts": texts}).to_string();
    let objects =
        run_with(&[&base[..], &["--input-format", "jsonl"]].concat(), format!("{object}\n{object}").as_bytes());
    assert_eq!(lines(&stdout(&objects)), [of_lines[0].clone(), of_lines[0].clone()]);

    let arguments = [&base[..4], &["--query", query, "--top-k", "1"], &texts[..]].concat();
    let people = stdout(&run(&arguments));
    let columns: Vec<&str> = people.trim_end().split('\t').collect();
    assert_eq!(columns[0], expected[0]["index"].to_string());
    assert_eq!((columns.len(), columns[2]), (3, texts[expected[0]["index"].as_u64().unwrap() as usize]));
    let raw = lines(&stdout(&run(&[&arguments[..], &["--raw-scores", "--json", "--return-text"]].concat())));
    let score = raw[0][0]["score"].as_f64().unwrap();
    assert!((1.0 / (1.0 + (-score).exp()) - expected[0]["score"].as_f64().unwrap()).abs() < TOLERANCE);
    assert_eq!(raw[0][0]["text"], columns[2]);
}

#[test]
fn what_cannot_be_answered_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        model(name, &folder.path().join(name));
        folder.path().join(name).to_str().unwrap().to_owned()
    };
    let (masked, classes) = (place("distilbert-mlm"), place("bert-classify"));
    let refusal = |arguments: &[&str]| error(&run(arguments)).replace(&*folder.path().to_string_lossy(), "F");
    assert_eq!(
        refusal(&["predict", "fill-mask", "--model", &masked, "w5"]),
        "error: text 1: expected at least one [MASK], found none"
    );
    let long = format!("{} [MASK]", "w5 ".repeat(30));
    assert_eq!(
        refusal(&["predict", "fill-mask", "--model", &masked, &long]),
        "error: text 1: expected at least one [MASK] in the first 18 tokens, found none"
    );
    assert_eq!(
        refusal(&["predict", "fill-mask", "--model", &classes, "[MASK]"]),
        "error: model `F/bert-classify`: expected a masked-LM head, found ForSequenceClassification"
    );
    let zero_shot = ["predict", "zero-shot", "--model", &classes, "--labels", "a,b", "w5"];
    assert_eq!(
        refusal(&zero_shot),
        "error: model `F/bert-classify`: expected a label that begins with `entail`, found LABEL_0, LABEL_1, LABEL_2"
    );
    let named = [&zero_shot[..], &["--multi-label", "--json"]].concat();
    let verdicts = ["--entailment-label", "LABEL_1", "--contradiction-label", "LABEL_2"];
    let of_verdicts = stdout(&run(&[&named[..], &verdicts].concat()));
    assert_eq!(
        refusal(&[&named[..], &["--entailment-label", "yes"]].concat()),
        "error: model `F/bert-classify`: expected a label \"yes\", found LABEL_0, LABEL_1, LABEL_2"
    );
    set_labels(Path::new(&classes), &["neutral", "entailment", "contradiction"]);
    assert_eq!(stdout(&run(&named)), of_verdicts);
    set_labels(Path::new(&classes), &["neutral", "entailment", "other"]);
    assert_eq!(
        refusal(&[&zero_shot[..], &["--multi-label"]].concat()),
        "error: model `F/bert-classify`: scores of single labels need one that begins with `contradict`, found neutral, \
         entailment, other"
    );
    assert_eq!(
        refusal(&[&zero_shot[..], &["--hypothesis-template", "about"]].concat()),
        "error: --hypothesis-template: expected {} for the label, found \"about\""
    );
    assert_eq!(
        refusal(&["predict", "rerank", "--model", &classes, "--query", "a", "w5"]),
        "error: model `F/bert-classify`: expected one output, found 3 (neutral, entailment, other)"
    );
}

#[test]
fn only_the_text_is_cut_in_front_of_a_hypothesis() {
    let folder = tempfile::tempdir().unwrap();
    model("bert-classify", folder.path());
    set_labels(folder.path(), &["contradiction", "neutral", "entailment"]);
    let name = folder.path().to_str().unwrap();
    let base = ["predict", "zero-shot", "--model", name, "--labels", "w7", "--hypothesis-template", "w8 w9 {}"];
    let long = ["w5"; 30].join(" ");
    // 18 positions, 3 special tokens, 3 of the hypothesis.
    let cut = ["w5"; 12].join(" ");
    let predict = |text: &str| run(&[&base[..], &["--json", text]].concat());
    let found = &lines(&stdout(&predict(&long)))[0];
    assert_eq!(found["truncated_tokens"], 18);
    assert_eq!(found["scores"], lines(&stdout(&predict(&cut)))[0]["scores"]);
    assert_eq!(stderr(&run(&[&base[..], &[&long]].concat())), "warning: text 1: cut to 18 tokens, 18 lost\n");
    let message = error(&run(&[&base[..], &["--max-length", "5", "w5"]].concat()));
    assert!(message.contains("expected a hypothesis that leaves room in 5 tokens, found \"w8 w9 w7\""), "{message}");
}

#[test]
fn attention_maps_are_those_of_the_reference_as_json_page_and_text() {
    for case in cases("attention") {
        let folder = tempfile::tempdir().unwrap();
        let name = case_model(&case, folder.path());
        let object = serde_json::json!({"text": case["text"], "text_pair": case["pair"]}).to_string();
        let base = ["predict", "attention", "--model", &name, "--input-format", "jsonl", &object];
        let found = lines(&stdout(&run(&[&base[..], &["--json"]].concat())));
        assert_alike(&found[0]["attention"], &case["attention"], &case);
        assert_eq!(found[0]["tokens"][0], "[CLS]");

        let page = folder.path().join("page.html");
        stdout(&run(&[&base[..], &["--html", page.to_str().unwrap()]].concat()));
        let page = fs::read_to_string(page).expect("a page");
        assert!(page.contains(r#"{"tokens":["[CLS]","w5""#) && !page.contains("ATTENTION_DATA"));
        assert!(!page.contains("http"), "nothing from outside");

        // A page is of one text, or is not written.
        let other = folder.path().join("other.html");
        let html = ["--html", other.to_str().unwrap()];
        let message = error(&run(&[&base[..], &[&object], &html].concat()));
        assert!(message.contains("--html: expected one text, found more"), "{message}");
        let message = error(&run(&[&base[..6], &html].concat()));
        assert!(message.contains("--html: expected one text, found none"), "{message}");
        assert!(!other.exists());

        let people = stdout(&run(&base));
        let last = case["attention"].as_array().unwrap().last().unwrap().as_array().unwrap();
        let mean = |row: usize, column: usize| {
            last.iter().map(|head| head[row][column].as_f64().unwrap()).sum::<f64>() / last.len() as f64
        };
        let tokens = found[0]["tokens"].as_array().unwrap();
        assert_eq!(people.lines().count(), tokens.len());
        for (row, line) in people.lines().enumerate() {
            let best = (0..tokens.len()).map(|column| mean(row, column)).fold(0.0, f64::max);
            let shown: f64 = line.split('\t').nth(1).unwrap().rsplit(' ').next().unwrap().parse().unwrap();
            assert!((shown - best).abs() < 1e-4, "{line} {best}");
        }
    }
}
