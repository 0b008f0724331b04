//! `distilbert predict classify` on the reference models.

mod common;

use common::{error, lines, model, run, run_with, set_labels, stderr, stdout, texts};
use distilbert::checkpoint::model_folder::HeadChoice;
use distilbert::data::encoded::EncodedSet;
use distilbert::data::examples::{Example, Label};
use distilbert::model::{Model, Purpose};
use distilbert::tokenizer::Tokenizer;
use distilbert_kernels::{Isa, Precision, Runtime};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

/// What the library says of the texts, `[texts, labels]`.
fn logits(folder: &Path, texts: &[String]) -> Vec<Vec<f32>> {
    let rt = Runtime::new(Isa::detect(), 1).expect("a runtime");
    let mut model = Model::load(folder, HeadChoice::AsSaved).expect("a model").model;
    model.pack(&rt, Precision::F32, Purpose::Inference);
    let tokenizer = Tokenizer::from_folder(folder).expect("a tokenizer");
    let example = |text: &String| Example { text_a: text.clone(), text_b: None, label: Label::None, line: 1 };
    let examples: Vec<Example> = texts.iter().map(example).collect();
    let set = EncodedSet::from_examples(&examples, &tokenizer, model.config.encoder.max_positions, 1);
    let all = distilbert::predict::logits(&rt, &model, &set, "", &()).expect("logits");
    (0..all.texts()).map(|text| all.of(text).to_vec()).collect()
}

#[test]
fn json_is_the_pipelines_shape_with_one_line_an_input_in_order() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    set_labels(folder.path(), &["no", "maybe", "yes"]);
    let texts = texts(75);
    let name = folder.path().to_str().unwrap();
    let input = texts.join("\n");
    let all = lines(&stdout(&run_with(
        &["predict", "classify", "--model", name, "--json", "--top-k", "9"],
        input.as_bytes(),
    )));
    let best = lines(&stdout(&run_with(&["predict", "classify", "--model", name, "--json"], input.as_bytes())));
    assert_eq!((all.len(), best.len()), (75, 75));
    for ((row, all), best) in logits(folder.path(), &texts).iter().zip(&all).zip(&best) {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        let mut expected: Vec<(f64, &str)> =
            row.iter().map(|&x| f64::from(x).exp() / sum).zip(["no", "maybe", "yes"]).collect();
        expected.sort_by(|a, b| b.0.total_cmp(&a.0));
        let all = all.as_array().expect("a list");
        assert_eq!(all.len(), 3);
        for (found, (score, label)) in all.iter().zip(&expected) {
            assert_eq!(found["label"], *label);
            assert!((found["score"].as_f64().unwrap() - score).abs() < 1e-6, "{found} {score}");
            assert_eq!(found.as_object().unwrap().keys().collect::<Vec<_>>(), ["label", "score"]);
        }
        assert_eq!(best, &all[0]);
    }
    // By another function; by none, the logits themselves.
    let by = |function: &str| {
        let arguments =
            ["predict", "classify", "--model", name, "--json", "--top-k", "9", "--function-to-apply", function];
        lines(&stdout(&run_with(&arguments, input.as_bytes())))
    };
    for (function, expected) in [("none", (|x| x) as fn(f64) -> f64), ("sigmoid", |x| 1.0 / (1.0 + (-x).exp()))] {
        for (row, found) in logits(folder.path(), &texts).iter().zip(by(function)) {
            let mut expected: Vec<f64> = row.iter().map(|&x| expected(f64::from(x))).collect();
            expected.sort_by(|a, b| b.total_cmp(a));
            for (found, expected) in found.as_array().unwrap().iter().zip(expected) {
                assert!((found["score"].as_f64().unwrap() - expected).abs() < 1e-6, "{function} {found} {expected}");
            }
        }
    }
    assert_eq!(by("softmax"), all);
}

#[test]
fn several_labels_get_a_sigmoid_each_and_a_regression_its_value() {
    let folder = tempfile::tempdir().unwrap();
    let texts = texts(3);
    let (several, value) = (folder.path().join("several"), folder.path().join("value"));
    model("finetune-multilabel", &several);
    model("distilbert-regress", &value);
    let predict = |folder: &Path, text: &str| {
        let name = folder.to_str().unwrap().to_owned();
        lines(&stdout(&run(&["predict", "classify", "--model", &name, "--json", "--top-k", "4", text])))
    };
    for (text, row) in texts.iter().zip(logits(&several, &texts)) {
        let found = predict(&several, text);
        for entry in found[0].as_array().unwrap() {
            let output: usize = entry["label"].as_str().unwrap()["LABEL_".len()..].parse().unwrap();
            let expected = 1.0 / (1.0 + (-f64::from(row[output])).exp());
            assert!((entry["score"].as_f64().unwrap() - expected).abs() < 1e-6);
        }
    }
    for (text, row) in texts.iter().zip(logits(&value, &texts)) {
        let found = predict(&value, text);
        assert_eq!(found[0][0]["label"], "LABEL_0");
        assert!((found[0][0]["score"].as_f64().unwrap() - f64::from(row[0])).abs() < 1e-6);
    }
}

#[test]
fn people_get_label_score_and_text() {
    let folder = tempfile::tempdir().unwrap();
    model("bert-classify", folder.path());
    let name = folder.path().to_str().unwrap();
    let text = stdout(&run_with(&["predict", "classify", "--model", name], b"w5 w6\r\n\nw7"));
    let columns: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(columns.iter().map(|columns| columns[2]).collect::<Vec<_>>(), ["w5 w6", "", "w7"]);
    assert!(columns.iter().all(|columns| columns[0].starts_with("LABEL_") && columns[1].parse::<f32>().is_ok()));
}

#[test]
fn truncation_is_reported_on_both_streams() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let name = folder.path().to_str().unwrap();
    let input = format!("w5\n{}\n", ["w6"; 20].join(" "));
    let plain = run_with(&["predict", "classify", "--model", name], input.as_bytes());
    stdout(&plain);
    assert_eq!(stderr(&plain), "warning: line 2: cut to 18 tokens, 4 lost\n");
    let json = run_with(&["predict", "classify", "--model", name, "--json"], input.as_bytes());
    let found = lines(&stdout(&json));
    assert_eq!((found[0].get("truncated_tokens"), &found[1]["truncated_tokens"]), (None, &4.into()));
    assert_eq!(stderr(&json), "");
}

#[test]
fn pairs_come_the_same_from_every_format() {
    let folder = tempfile::tempdir().unwrap();
    model("bert-classify", folder.path());
    let name = folder.path().to_str().unwrap();
    let base = ["predict", "classify", "--model", name, "--json"];
    let with = |more: &[&str], input: &str| stdout(&run_with(&[&base, more].concat(), input.as_bytes()));
    let expected = with(&["--input-format", "tsv"], "w5 w6\tw7\n");
    assert_eq!(with(&["--pair-separator", " || "], "w5 w6 || w7\n"), expected);
    assert_eq!(with(&["--input-format", "jsonl"], r#"{"text": "w5 w6", "text_pair": "w7"}"#), expected);
    assert_ne!(with(&[], "w5 w6 w7\n"), expected);
    assert_eq!(with(&["--input-format", "jsonl"], r#""w5 w6 w7""#), with(&[], "w5 w6 w7\n"));
}

#[test]
fn named_columns_and_keys_come_the_same_from_every_format() {
    let folder = tempfile::tempdir().unwrap();
    model("bert-classify", folder.path());
    let name = folder.path().to_str().unwrap();
    let base = ["predict", "classify", "--model", name, "--json"];
    let from = |file: &str, text: &str, more: &[&str]| {
        let path = folder.path().join(file);
        std::fs::write(&path, text).expect("a file");
        stdout(&run(&[&base[..], &["--input", path.to_str().unwrap()], more].concat()))
    };
    let expected =
        stdout(&run_with(&[&base[..], &["--input-format", "tsv"]].concat(), b"w5 w6\tw7\nw8, w9\tw10 w11\n"));
    let named = ["--text-column", "body", "--pair-column", "title"];
    let csv = "\u{feff}id,title,body\r\n1,w7,w5 w6\r\n\r\n2,\"w10\nw11\",\"w8, w9\"\r\n";
    assert_eq!(from("a.csv", csv, &named), expected);
    assert_eq!(from("a.tsv", "id\ttitle\tbody\n1\tw7\tw5 w6\n2\tw10 w11\tw8, w9", &named), expected);
    let objects = "{\"title\": \"w7\", \"body\": \"w5 w6\"}\n{\"body\": \"w8, w9\", \"title\": \"w10 w11\"}\n";
    assert_eq!(from("a.jsonl", objects, &named), expected);
    let numbered = ["--no-header", "--text-column", "2", "--pair-column", "1"];
    assert_eq!(from("b.csv", "w7,w5 w6\nw10 w11,\"w8, w9\"\n", &numbered), expected);
    // A CSV file's blank lines are no inputs, and that is said.
    let path = folder.path().join("a.csv");
    let output = run(&[&base[..], &["--input", path.to_str().unwrap()], &named].concat());
    assert_eq!(stderr(&output), "warning: 1 blank lines were left out\n");
}

#[test]
fn a_bad_row_of_a_file_is_named_by_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    model("bert-classify", folder.path());
    let refusal = |file: &str, text: &str, more: &[&str]| {
        let path = folder.path().join(file);
        std::fs::write(&path, text).expect("a file");
        let name = folder.path().to_str().unwrap();
        let path = path.to_str().unwrap();
        let output = run(&[&["predict", "classify", "--model", name, "--json", "--input", path], more].concat());
        (error(&output).replace(path, "FILE"), lines(std::str::from_utf8(&output.stdout).unwrap()).len())
    };
    let body = ["--text-column", "body"];
    let error = |text: &str, answers: usize| (format!("error: {text}"), answers);
    assert_eq!(
        refusal("a.csv", "id,body\n1,\"w5\nw6\"\n2\n", &body),
        error("FILE:4: expected 2 columns as in the first line, found 1", 1)
    );
    assert_eq!(
        refusal("a.csv", "id,body\n1,w5\n2,\"w6\n3,w7\n", &body),
        error("FILE:3: expected every quoted field closed, found a quote open to the end", 1)
    );
    assert_eq!(
        refusal("a.csv", "id,text\n1,w5\n", &body),
        error("FILE:1: expected a column `body`, found id, text", 0)
    );
    assert_eq!(refusal("a.csv", "id,text\n", &[]), error("CSV: expected --text-column, the column of the text", 0));
    assert_eq!(
        refusal("a.tsv", "w5\n", &["--no-header", "--text-column", "2"]),
        error("FILE:1: expected a column `2`, found columns 1 to 1, no header", 0)
    );
    assert_eq!(
        refusal("a.jsonl", "{\"body\": \"w5\"}\n{\"text\": \"w5\"}\n", &body),
        error("FILE:2: expected a key `body`, found text", 1)
    );
    assert_eq!(
        refusal("a.jsonl", "{\"body\": 5}\n", &body),
        error("FILE:1: expected a string in `body`, found another kind of value", 0)
    );
    assert_eq!(
        refusal("a.jsonl", "{\"body\": \"w5\"}\n", &["--text-column", "body", "--pair-column", "title"]),
        error("FILE:1: expected a string in `title`, found none", 0)
    );
}

#[test]
fn a_bad_line_is_named_after_the_results_before_it() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let name = folder.path().to_str().unwrap();
    let base = ["predict", "classify", "--model", name];
    let output = run_with(&base, b"w5\nw6\nab\xff\nw7\n");
    assert_eq!(error(&output), "error: line 3: expected UTF-8, found another encoding at byte 3");
    assert_eq!(output.stdout.iter().filter(|&&byte| byte == b'\n').count(), 2);
    let output = run_with(&[&base[..], &["--input-format", "tsv"]].concat(), b"a\tb\tc\n");
    assert_eq!(
        error(&output),
        "error: line 1: expected 1 or 2 tab-separated columns, found 3; name them by --text-column"
    );
    let output = run_with(&[&base[..], &["--input-format", "jsonl"]].concat(), b"[1]\n");
    assert!(error(&output).starts_with("error: line 1: expected a JSON string or {\"text\""));
    let output = run(&[&base[..], &["--max-length", "19"]].concat());
    assert_eq!(error(&output), "error: --max-length: expected 3 to the model's 18 positions, found 19");
}

#[test]
fn a_model_without_a_classifier_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-mlm", folder.path());
    let name = folder.path().to_str().unwrap();
    let message = error(&run(&["predict", "classify", "--model", name, "w5"]));
    assert!(message.contains("expected a classification head, found ForMaskedLM"), "{message}");
}

#[test]
fn a_result_comes_before_the_next_line_is_written() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let name = folder.path().to_str().unwrap();
    let mut child =
        common::program(&["predict", "classify", "--model", name]).stdin(Stdio::piped()).spawn().expect("the program");
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    for word in ["w5", "w6", "w7"] {
        writeln!(input, "{word}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.ends_with(&format!("\t{word}\n")), "{line}");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let name = folder.path().to_str().unwrap();
    let mut child =
        common::program(&["predict", "classify", "--model", name]).stdin(Stdio::piped()).spawn().expect("the program");
    drop(child.stdout.take());
    let _ = child.stdin.take().unwrap().write_all(texts(500).join("\n").as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn texts_are_ranked_by_a_model_that_scores_pairs() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-regress", folder.path());
    let name = folder.path().to_str().unwrap();
    let texts = texts(12);
    let input = texts.join("\n");
    let rerank = |more: &[&str]| {
        let command = [&["predict", "rerank", "--model", name, "--query", "w7 w9", "--json"], more].concat();
        lines(&stdout(&run_with(&command, input.as_bytes())))[0].clone()
    };
    let (ranked, raw) = (rerank(&["--return-text"]), rerank(&["--raw-scores", "--top-k", "5"]));
    let ranked = ranked.as_array().unwrap();
    assert_eq!((ranked.len(), raw.as_array().unwrap().len()), (12, 5));
    let scores: Vec<f64> = ranked.iter().map(|text| text["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    for (found, raw) in ranked.iter().zip(raw.as_array().unwrap()) {
        assert_eq!(found["text"], texts[found["index"].as_u64().unwrap() as usize]);
        assert_eq!((&raw["index"], raw.get("text")), (&found["index"], None));
        let sigmoid = 1.0 / (1.0 + (-raw["score"].as_f64().unwrap()).exp());
        assert!((sigmoid - found["score"].as_f64().unwrap()).abs() < 1e-6);
    }
    // A pair's score is what `classify` says of the pair, query first.
    let pair = format!("w7 w9\t{}\n", texts[ranked[0]["index"].as_u64().unwrap() as usize]);
    let classify = ["predict", "classify", "--model", name, "--input-format", "tsv", "--json"];
    let value = lines(&stdout(&run_with(&classify, pair.as_bytes())))[0]["score"].as_f64().unwrap();
    assert!((value - raw[0]["score"].as_f64().unwrap()).abs() < 1e-6);

    let other = folder.path().join("classes");
    model("distilbert-classify", &other);
    let refused = error(&run(&["predict", "rerank", "--model", other.to_str().unwrap(), "--query", "w5", "w6"]));
    assert!(refused.contains("expected one output, found 3"), "{refused}");
}

#[test]
fn blank_lines_of_jsonl_are_no_inputs_and_broken_json_is_said_to_be_broken() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let name = folder.path().to_str().unwrap();
    let base = ["predict", "classify", "--model", name, "--json", "--input-format", "jsonl"];
    let output = run_with(&base, b"\"w5\"\n\n{\"text\": \"w6\"}\n \r\n\n");
    assert_eq!(lines(&stdout(&output)).len(), 2);
    assert!(stderr(&output).contains("3 blank lines were left out"), "{}", stderr(&output));
    let message = error(&run_with(&base, b"\"w5\"\n{\"text\": \"w6\"\n"));
    assert!(message.starts_with("error: line 2: expected a JSON string or {\"text\""), "{message}");
    assert!(message.ends_with("found text that is not JSON: EOF while parsing an object at column 13"), "{message}");
}

#[test]
fn inputs_may_be_compressed_and_a_dash_is_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let name = folder.path().to_str().unwrap();
    let base = ["predict", "classify", "--model", name, "--input"];
    let expected = stdout(&run_with(&["predict", "classify", "--model", name], b"w5 w6\nw7\n"));
    assert_eq!(stdout(&run_with(&[&base[..], &["-"]].concat(), b"w5 w6\nw7\n")), expected);
    // `printf '"w5 w6"\n"w7"\n' | gzip -n`: the format follows from the name without `.gz`.
    let packed: &[u8] = &[
        31, 139, 8, 0, 0, 0, 0, 0, 0, 3, 83, 42, 55, 85, 40, 55, 83, 226, 82, 42, 55, 87, 226, 2, 0, 150, 115, 151,
        159, 13, 0, 0, 0,
    ];
    let file = folder.path().join("a.jsonl.gz");
    std::fs::write(&file, packed).unwrap();
    assert_eq!(stdout(&run(&[&base[..], &[file.to_str().unwrap()]].concat())), expected);
}
