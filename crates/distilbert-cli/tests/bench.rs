//! `distilbert bench` on the reference models: what it says, not how fast it is.

mod common;

use common::{error, golden, lines, model, run, stderr, stdout, texts};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Short, since no test looks at the times.
const SHORT: [&str; 5] = ["bench", "--seconds", "0", "--min-repeats", "2"];

fn bench(arguments: &[&str]) -> Vec<Value> {
    lines(&stdout(&run(&[&SHORT[..], &["--json"], arguments].concat())))
}

fn name(folder: &Path) -> &str {
    folder.to_str().unwrap()
}

#[test]
fn every_precision_and_shape_gets_a_line_whose_numbers_fit_together() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let rows = bench(&["--model", name(folder.path()), "--precision", "int8,f32", "--batch", "1,3", "--seq", "4,18"]);
    let shape = |row: &Value| (row["precision"].as_str().unwrap().to_owned(), row["batch"].clone(), row["seq"].clone());
    let expected: Vec<_> = ["int8", "f32"]
        .into_iter()
        .flat_map(|p| [(1, 4), (1, 18), (3, 4), (3, 18)].map(|(b, s)| (p.to_owned(), b.into(), s.into())))
        .collect();
    assert_eq!(rows.iter().map(shape).collect::<Vec<_>>(), expected);
    for row in &rows {
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} in {row}"));
        assert_eq!(number("tokens"), number("batch") * number("seq"));
        assert_eq!((&row["work"], &row["texts"], &row["repeats"]), (&"as-used".into(), &Value::Null, &2.into()));
        assert!(number("ms_min") <= number("ms_p10") && number("ms_p10") <= number("ms_p50"));
        assert!(number("ms_p50") <= number("ms_p90") && number("ms_min") > 0.0);
        assert!((number("tokens_per_second") - 1e3 * number("tokens") / number("ms_p50")).abs() < 1e-3);
        assert!((number("share_of_peak") - number("gflops") / number("peak_gflops")).abs() < 1e-9);
        assert!(number("load_seconds") > 0.0 && number("resident_bytes") > 1e6);
        assert_eq!((&row["threads"], &row["parameters"]), (&1.into(), &rows[0]["parameters"]));
    }
}

#[test]
fn all_states_count_no_head() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let rows = |work| bench(&["--model", name(folder.path()), "--batch", "1", "--seq", "1", "--work", work]);
    let gflop = |row: &Value| row["gflops"].as_f64().unwrap() * row["ms_p50"].as_f64().unwrap() / 1e3;
    let difference = gflop(&rows("as-used")[0]) - gflop(&rows("all-states")[0]);
    let config = common::config(folder.path());
    let (hidden, labels) = (config["dim"].as_f64().unwrap(), 3.0);
    assert!((difference * 1e9 - 2.0 * hidden * (hidden + labels)).abs() < 1e-3, "{difference}");
}

#[test]
fn texts_are_measured_at_their_own_lengths_and_cut_ones_counted() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let file = folder.path().join("texts.txt");
    let mut texts = texts(70);
    texts.push(["w6"; 40].join(" "));
    fs::write(&file, texts.join("\n")).unwrap();
    let output = run(&[&SHORT[..], &["--json", "--model", name(folder.path()), "--texts", name(&file)]].concat());
    let rows = lines(&stdout(&output));
    // Two specials each; the last is cut to the model's 18 positions.
    let tokens: usize = texts[..70].iter().map(|text| text.split(' ').count() + 2).sum::<usize>() + 18;
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0]["texts"], &rows[0]["batch"], &rows[0]["seq"]), (&71.into(), &32.into(), &Value::Null));
    assert_eq!(rows[0]["tokens"], tokens);
    assert_eq!(stderr(&output), "warning: 1 of 71 texts: cut to 18 tokens\n");
    let alone = bench(&["--model", name(folder.path()), "--texts", name(&file), "--batch", "1"]);
    assert_eq!((&alone[0]["batch"], &alone[0]["tokens"]), (&1.into(), &tokens.into()));
}

#[test]
fn a_configuration_alone_is_measured_with_random_weights() {
    let config = golden("bert-mlm").join("config.json");
    let rows = bench(&["--random", name(&config), "--batch", "2"]);
    assert_eq!(rows.iter().map(|row| row["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [16, 18], "18 positions");
    assert_eq!((&rows[0]["work"], &rows[0]["load_seconds"]), (&"all-states".into(), &Value::Null));
}

#[test]
fn people_get_a_table_under_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    model("bert-classify", folder.path());
    let text = stdout(&run(&[&SHORT[..], &["--model", name(folder.path()), "--batch", "1", "--seq", "4"]].concat()));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains(" parameters, classification as used; ") && lines[0].contains(", 1 thread, "), "{text}");
    assert!(lines[2].starts_with("precision") && lines[4].starts_with("f32 ") && lines.len() == 5, "{text}");
    assert!(lines[4].contains(" 1 x 4 "), "{text}");
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-mlm", folder.path());
    let empty = folder.path().join("empty.txt");
    fs::write(&empty, "").unwrap();
    let config = folder.path().join("config.json");
    let model = ["--model", name(folder.path())];
    let refused = |arguments: &[&str]| error(&run(&[&SHORT[..], arguments].concat()));
    for (arguments, expected) in [
        (
            &["--work", "as-used"][..],
            "expected a model with a head for classification, token classification, intents and slots or question answering, \
             found ForMaskedLM",
        ),
        (&["--seq", "4,19"], "--seq: expected 1 to the model's 18 positions, found 19"),
        (&["--batch", "0"], "--batch: expected 1 to 65536 sequences, found 0"),
        (&["--batch", "65536", "--seq", "2"], "batch of 65536 x 2: expected at most 65536 tokens, found 131072"),
        (&["--isa", "portable", "--precision", "f32,bf16"], "precision `bf16`: needs AVX-512"),
        (&["--texts", name(&empty)], "empty.txt: expected a text in each line, found no line"),
        (&["--texts", "no/such/file"], "cannot read no/such/file: No such file"),
    ] {
        let found = refused(&[&model[..], arguments].concat());
        assert!(found.contains(expected), "{found}");
    }
    fs::write(&config, "{}").unwrap();
    assert!(refused(&["--random", name(&config)]).contains("config.json: config: `model_type`"));
    for misused in [&["--precision", "fp8"][..], &["--seconds", "-1"], &["--random", name(&config)]] {
        assert_eq!(run(&[&["bench"], &model[..], misused].concat()).status.code(), Some(2), "{misused:?}");
    }
    assert_eq!(run(&["bench"]).status.code(), Some(2), "neither model nor configuration");
}
