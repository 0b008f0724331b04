//! Question answering from the command line: fine-tuning, scoring, answering and reporting on small files.

mod common;

use common::{error, lines, model, run, run_with, stderr, stdout};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A file in SQuAD's layout: each context with the word that answers its question, or none.
fn squad(path: &Path, contexts: &[(&str, Option<&str>)]) -> PathBuf {
    let paragraphs: Vec<Value> = (contexts.iter().enumerate())
        .map(|(index, (context, answer))| {
            let answers: Vec<Value> = (answer.iter())
                .map(|answer| json!({"text": answer, "answer_start": context.find(answer).unwrap()}))
                .collect();
            let id = format!("q{index}");
            json!({"context": context, "qas": [{"id": id, "question": "w7 w8", "answers": answers, "is_impossible": answer.is_none()}]})
        })
        .collect();
    fs::write(path, json!({"version": "test", "data": [{"title": "t", "paragraphs": paragraphs}]}).to_string())
        .unwrap();
    path.to_owned()
}

/// Contexts in which the answer is the word `w20`.
fn contexts(count: usize) -> Vec<String> {
    let word = |number: usize| format!("w{}", 21 + number % 30);
    (0..count)
        .map(|row| {
            let mut words: Vec<String> = (0..5 + row % 4).map(|at| word(row * 5 + at * 7)).collect();
            words.insert(row % 5, "w20".to_owned());
            words.join(" ")
        })
        .collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_question_answerer_is_trained_from_a_teacher_scored_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    model("distilbert-nohead", &at("model"));
    fs::create_dir(at("data")).unwrap();
    let train = contexts(60);
    let train: Vec<_> = train.iter().map(|context| (context.as_str(), Some("w20"))).collect();
    squad(&at("data/train.json"), &train);
    squad(&at("data/dev.json"), &train[..8]);
    let finetune = |output: &Path, model: &Path, more: &[&str]| {
        let base = ["finetune", "-q", "--task", "squad", "--model", text(model), "--output", text(output)];
        let data = at("data");
        let data = ["--data", text(&data), "--max-length", "18", "--doc-stride", "4", "--epochs", "6"];
        run(&[&base[..], &data, &["--learning-rate", "0.01", "--batch-size", "8", "--json"], more].concat())
    };
    let output = finetune(&at("teacher"), &at("model"), &[]);
    let result: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!((&result["task"], &result["n"]), (&json!("squad"), &json!(8)));

    // In a folder of languages MLQA's rules are those of each file: `der` counts for nothing in German alone.
    fs::create_dir(at("languages")).unwrap();
    let german: Vec<String> = contexts(8).iter().map(|context| context.replace("w20", "der w20")).collect();
    let german: Vec<_> = german.iter().map(|context| (context.as_str(), Some("der w20"))).collect();
    squad(&at("languages/dev-en.json"), &train[..8]);
    squad(&at("languages/dev-de.json"), &german);
    let (best, languages) = (at("teacher/best"), at("languages"));
    let scored = |rules: &[&str]| -> Value {
        let base = ["evaluate", "--model", text(&best), "--languages", text(&languages), "--json"];
        serde_json::from_str(&stdout(&run(&[&base[..], rules].concat()))).unwrap()
    };
    let [plain, ruled] = [scored(&[]), scored(&["--mlqa-language", "en"])];
    let exact = |found: &Value, place: usize| found["files"][place]["metrics"]["exact_match"].as_f64().unwrap();
    assert_eq!((exact(&plain, 0), exact(&ruled, 0)), (exact(&ruled, 0), exact(&plain, 0)));
    assert!(exact(&ruled, 1) > 0.5 && exact(&plain, 1) < 0.5, "{plain} {ruled}");
    let found: Vec<&String> = result["metrics"].as_object().unwrap().keys().collect();
    assert_eq!(found, ["f1", "exact_match"]);
    assert!(result["metrics"]["exact_match"].as_f64().unwrap() > 0.5, "{result}");
    let task: Value = serde_json::from_slice(&fs::read(at("teacher/best/task.json")).unwrap()).unwrap();
    assert_eq!((&task["problem"], &task["windows"]["doc-stride"]), (&json!("question-answering"), &json!(4)));

    let teacher = at("teacher/best");
    let output = finetune(&at("student"), &at("model"), &["--teacher", text(&teacher), "--temperature", "2"]);
    stdout(&output);
    let metrics = fs::read_to_string(at("student/metrics.jsonl")).unwrap();
    assert!(metrics.contains("\"soft\""), "{}", metrics.lines().next().unwrap_or_default());

    // The same scores from `evaluate`, with what was said of each question.
    let (teacher, data) = (text(&teacher), at("data"));
    let scored = run(&[
        "evaluate",
        "--model",
        teacher,
        "--data",
        text(&data),
        "--by-length",
        "--json",
        "--output",
        text(&at("scores")),
    ]);
    let again: Value = serde_json::from_str(&stdout(&scored)).unwrap();
    assert_eq!(again["metrics"], result["metrics"]);
    let parts = again["by_length"].as_array().unwrap();
    assert_eq!(parts.iter().map(|part| part["n"].as_u64().unwrap()).sum::<u64>(), 8);
    let said: Value = serde_json::from_slice(&fs::read(at("scores/predictions.json")).unwrap()).unwrap();
    assert_eq!(said.as_object().unwrap().len(), 8);
    let rows = lines(&fs::read_to_string(at("scores/predictions.jsonl")).unwrap());
    assert_eq!(rows.len(), 9, "a header and a line for each question");
    assert_eq!(rows[1]["n_best"][0]["text"], rows[1]["prediction"]);

    let (run_a, run_b) = (format!("teacher={}", text(&at("teacher"))), format!("student={}", text(&at("student"))));
    let report = run(&["report", &run_a, &run_b, "--no-speed", "--output", text(&at("report"))]);
    assert!(stdout(&report).contains("F1"), "{}", stdout(&report));
    let markdown = fs::read_to_string(at("report/report.md")).unwrap();
    assert!(markdown.contains("exact match") && !markdown.contains("is not tested"), "{markdown}");

    let inspected = stdout(&run(&["inspect", teacher]));
    assert!(inspected.contains("squad, windows of up to 18 tokens"), "{inspected}");
}

#[test]
fn questions_without_an_answer_fit_a_threshold_that_is_saved_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    model("distilbert-nohead", &at("model"));
    let train = contexts(40);
    let without: Vec<String> = train.iter().map(|context| context.replace("w20", "w6")).collect();
    let mut rows: Vec<_> = train.iter().map(|context| (context.as_str(), Some("w20"))).collect();
    rows.extend(without.iter().map(|context| (context.as_str(), None)));
    let (train, dev) = (squad(&at("train.json"), &rows), squad(&at("dev.json"), &rows[35..45]));
    let answered = squad(&at("answered.json"), &rows[35..40]);
    let (base, windows) = (at("model"), ["--max-length", "18", "--doc-stride", "4"]);
    let finetune = |dev: &Path, output: &Path, epochs: &str| -> Value {
        let fixed = ["finetune", "-q", "--task", "squad", "--model", text(&base), "--data", text(&train)];
        let rest =
            ["--dev", text(dev), "--output", text(output), "--epochs", epochs, "--learning-rate", "0.01", "--json"];
        serde_json::from_str(&stdout(&run(&[&fixed[..], &windows, &rest].concat()))).expect("JSON")
    };
    // A file whose questions all have an answer is scored as such, whatever the training file asks.
    let plain = finetune(&answered, &at("plain"), "1");
    assert_eq!(plain["metrics"].as_object().unwrap().keys().collect::<Vec<_>>(), ["f1", "exact_match"]);
    let result = finetune(&dev, &at("run"), "4");
    for metric in ["has_answer_f1", "no_answer_f1", "best_f1", "best_exact_match"] {
        assert!(result["metrics"][metric].is_f64(), "{metric}: {result}");
    }
    let task: Value = serde_json::from_slice(&fs::read(at("run/best/task.json")).unwrap()).unwrap();
    let fitted = task["fitted_null_threshold"].as_f64().unwrap();
    assert!((result["null_thresholds"]["used"].as_f64().unwrap() - fitted).abs() < 1e-6);
    assert_ne!(fitted, 0.0);

    // Beyond every odds: nothing is answered, and that is right for half.
    let best = at("run/best");
    let silent = run(&["evaluate", "--model", text(&best), "--file", text(&dev), "--json", "--null-threshold", "-1e9"]);
    let silent: Value = serde_json::from_str(&stdout(&silent)).unwrap();
    assert_eq!((&silent["metrics"]["f1"], &silent["metrics"]["has_answer_f1"]), (&json!(0.5), &json!(0.0)));
}

#[test]
fn answers_have_the_pipelines_shape_and_long_contexts_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-qa", folder.path());
    let name = text(folder.path());
    let context = (0..40).map(|at| format!("w{}", 10 + at)).collect::<Vec<_>>().join(" ");
    let file = folder.path().join("context.txt");
    fs::write(&file, &context).unwrap();
    let base = ["predict", "answer", "--model", name, "--json", "--doc-stride", "3"];
    let all = lines(&stdout(&run(&[&base[..], &["--context-file", text(&file), "w7", "w8 w9"]].concat())));
    assert_eq!(all.len(), 2);
    for answer in &all {
        assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["score", "start", "end", "answer"]);
        let (start, end) = (answer["start"].as_u64().unwrap() as usize, answer["end"].as_u64().unwrap() as usize);
        assert_eq!(answer["answer"], context[start..end]);
    }
    let input = format!(
        "{}\n{}\n",
        json!({"question": "w7", "context": context}),
        json!({"question": "w8 w9", "context": context})
    );
    let piped = run_with(&[&base[..], &["--input-format", "jsonl"]].concat(), input.as_bytes());
    assert_eq!(lines(&stdout(&piped)), all);
    // The last words can be answers: the context was read to its end.
    let many = lines(&stdout(&run(&[&base[..], &["--context", &context, "--top-k", "60", "w7"]].concat())));
    let ends = many[0].as_array().unwrap().iter().map(|answer| answer["end"].as_u64().unwrap());
    assert_eq!(ends.max(), Some(context.len() as u64));
    // No answer is one only where it is asked for.
    let empty = |answers: &Value| answers.as_array().unwrap().iter().filter(|answer| answer["answer"] == "").count();
    assert_eq!(empty(&many[0]), 0);
    let allowed = run(&[&base[..], &["--context", "w5", "--top-k", "9", "--allow-no-answer", "w7"]].concat());
    assert_eq!(empty(&lines(&stdout(&allowed))[0]), 1);
}

#[test]
fn two_models_are_compared_and_several_files_stand_in_one_table() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    model("distilbert-qa", &at("qa"));
    model("bert-qa", &at("other"));
    let contexts = contexts(40);
    // Golds of a different word for each question, so that each model is right now and then.
    let rows: Vec<_> =
        (contexts.iter().enumerate()).map(|(at, context)| (context.as_str(), context.split(' ').nth(at % 4))).collect();
    let (file, part) = (squad(&at("dev.json"), &rows), squad(&at("part.json"), &rows[..10]));
    let (file, part, out) = (text(&file), text(&part), at("out"));
    let evaluate = |model: &str, more: &[&str]| -> Value {
        let (model, short) = (at(model), ["--doc-stride", "4", "--max-answer-length", "1"]);
        let all = [&["evaluate", "--json", "--model", text(&model)], &short[..], more].concat();
        serde_json::from_str(&stdout(&run(&all))).expect("JSON")
    };
    let theirs = evaluate("other", &["--file", file, "--output", text(&out)]);
    let predictions = out.join("predictions.jsonl");
    let against = ["--file", file, "--against", text(&predictions)];
    let ours = evaluate("qa", &against);
    let metric = |found: &Value, name: &str| found["metrics"][name].as_f64().unwrap();
    let found = &ours["against"];
    let difference = metric(&ours, "f1") - metric(&theirs, "f1");
    assert_ne!(difference, 0.0, "{ours}");
    assert!((found["difference"].as_f64().unwrap() - difference).abs() < 1e-12, "{found}");
    let alone = |key: &str| found["mcnemar"][key].as_f64().unwrap();
    let exact = metric(&ours, "exact_match") - metric(&theirs, "exact_match");
    assert!(((alone("only_first") - alone("only_second")) / 40.0 - exact).abs() < 1e-12, "{found}");
    let same = evaluate("other", &against);
    assert_eq!((&same["against"]["difference"], &same["against"]["p_value"]), (&json!(0.0), &json!(1.0)));

    let both = evaluate("qa", &["--file", file, "--file", part]);
    let f1 = |index: usize| both["files"][index]["metrics"]["f1"].as_f64().unwrap();
    assert_eq!((f1(0), &both["files"][1]["n"], &both["metric"]), (metric(&ours, "f1"), &json!(10), &json!("f1")));
    assert!((both["gap"].as_f64().unwrap() - (f1(0) - f1(1))).abs() < 1e-12, "{both}");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    model("distilbert-qa", &at("qa"));
    model("distilbert-classify", &at("classifier"));
    let file = squad(&at("dev.json"), &[("w9 w10", Some("w10"))]);
    let (qa, classifier) = (at("qa"), at("classifier"));
    let message = error(&run(&["predict", "answer", "--model", text(&qa), "w7"]));
    assert!(message.contains("expected a context beside the question"), "{message}");
    let message = error(&run(&["predict", "answer", "--model", text(&classifier), "--context", "w5", "w7"]));
    assert!(message.contains("expected a question-answering head, found ForSequenceClassification"), "{message}");
    let message = error(&run(&["evaluate", "--model", text(&classifier), "--file", text(&file), "--n-best", "3"]));
    assert!(message.contains("--n-best") && message.contains("found ForSequenceClassification"), "{message}");
    let finetune = ["finetune", "--task", "squad", "--model", text(&qa), "--data", text(&file), "--output", "unused"];
    let message = error(&run(&[&finetune[..], &["--text-column", "context"]].concat()));
    assert!(message.contains("--text-column does not go with --task squad"), "{message}");
    let base = ["evaluate", "--model", text(&qa), "--file", text(&file)];
    let message = error(&run(&[&base[..], &["--calibrate"]].concat()));
    assert!(message.contains("--calibrate: expected a classifier of texts"), "{message}");
    let message = error(&run(&[&base[..], &["--max-length", "400"]].concat()));
    assert!(message.contains("at most the model's 18 positions, found 400"), "{message}");
    let message = error(&run(&[&base[..], &["--max-length", "18", "--doc-stride", "15"]].concat()));
    assert!(message.contains("doc-stride: expected less than"), "{message}");
    fs::write(at("wrong.json"), fs::read_to_string(&file).unwrap().replace("\"answer_start\":3", "\"answer_start\":1"))
        .unwrap();
    let wrong = at("wrong.json");
    let output = run(&["evaluate", "--model", text(&qa), "--file", text(&wrong), "--doc-stride", "4"]);
    assert!(stderr(&output).contains("1 gold answers do not stand where the file says"), "{}", stderr(&output));
    assert!(stdout(&output).contains("exact_match"));
}
