//! Sentence encoders from the command line: scored, distilled, trained on pairs and triples.

mod common;

use common::{error, golden, lines, run, stderr, stdout};
use distilbert::checkpoint::Tensors;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const ENCODER: &str = "sentence-dense";

fn encoder(name: &str) -> String {
    golden(name).to_str().expect("UTF-8").to_owned()
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).unwrap();
    fs::write(&path, text).unwrap();
    path.to_str().expect("UTF-8").to_owned()
}

const NOUNS: [&str; 6] = ["man", "woman", "dog", "cat", "car", "guitar"];

/// Pairs with scores: the same noun scores high.
fn pairs(folder: &Path) -> String {
    let mut text = String::from("first\tsecond\tother\tscore\n");
    for row in 0..60 {
        let (a, b) = (NOUNS[row % 6], NOUNS[row / 10]);
        let score = if a == b { 5.0 } else { (row % 4) as f32 / 2.0 };
        text.push_str(&format!("the {a} is in the park\ta {b} sleeps\tred {}\t{score}\n", NOUNS[(row + 3) % 6]));
    }
    write(folder, "pairs.tsv", &text)
}

const COLUMNS: [&str; 4] = ["--text-column", "first", "--pair-column", "second"];

fn with<'a>(parts: &[&[&'a str]]) -> Vec<&'a str> {
    parts.concat()
}

#[test]
fn vectors_are_printed_in_order_and_written_as_numpys_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = encoder(ENCODER);
    let reference: serde_json::Value =
        serde_json::from_slice(&fs::read(golden(ENCODER).join("expected.json")).unwrap()).unwrap();
    let texts: Vec<&str> = reference["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let tensors = Tensors::open_file(&golden(ENCODER).join("expected.safetensors")).unwrap();
    let expected = tensors.read_f32("embeddings").unwrap();

    let output = run(&with(&[&["predict", "embed", "--model", &model, "--"], &texts]));
    let printed = lines(&stdout(&output));
    assert!(stderr(&output).contains("warning: text 6: cut to 16 tokens"), "{}", stderr(&output));
    let numbers = |row: &serde_json::Value| -> Vec<f32> {
        row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    };
    let found: Vec<f32> = printed.iter().flat_map(numbers).collect();
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} {expected:?}");

    let json = lines(&stdout(&run(&with(&[&["predict", "embed", "--model", &model, "--json", "--"], &texts]))));
    assert!(json[5]["truncated_tokens"].as_u64().unwrap() > 0 && json[5]["tokens"] == 16);
    assert_eq!(numbers(&json[0]["embedding"]), found[..9]);

    let file = folder.path().join("x.npy");
    let flags = ["--dimensions", "4", "--normalize", "false", "--output", file.to_str().unwrap()];
    stdout(&run(&with(&[&["predict", "embed", "--model", &model], &flags, &["--"], &texts])));
    assert_eq!(fs::metadata(&file).unwrap().len(), 128 + 4 * 4 * texts.len() as u64);

    let inputs = write(folder.path(), "inputs", "cat\n");
    let own = error(&run(&["predict", "embed", "--model", &model, "--input", &inputs, "--output", &inputs]));
    assert!(own.contains("inputs` is an input, and would be replaced"), "{own}");
    assert_eq!(fs::read_to_string(&inputs).unwrap(), "cat\n");

    let prompted = ["predict", "embed", "--model", &model, "--prompt", "query", "cat"];
    let spelled_out = ["predict", "embed", "--model", &model, "the cat"];
    assert_eq!(stdout(&run(&prompted)), stdout(&run(&spelled_out)));

    let small = folder.path().join("int8");
    let small = small.to_str().unwrap();
    stdout(&run(&["compress", "quantize", "--model", &model, "--precision", "int8", "--output", small]));
    let rounded = lines(&stdout(&run(&["predict", "embed", "--model", small, "--prompt", "query", "cat"])));
    let exact = numbers(&lines(&stdout(&run(&prompted)))[0]);
    assert!(numbers(&rounded[0]).iter().zip(&exact).all(|(a, b)| (a - b).abs() < 0.05), "{rounded:?} {exact:?}");

    let unknown = error(&run(&["predict", "embed", "--model", &model, "--prompt", "passage", "x"]));
    assert!(unknown.contains("prompt `passage`: expected one of the model's: document, query"), "{unknown}");
}

#[test]
fn pairs_are_scored_by_the_similarity_of_their_embeddings() {
    let folder = tempfile::tempdir().unwrap();
    let (file, model, other) = (pairs(folder.path()), encoder(ENCODER), encoder("sentence-max"));
    let out = folder.path().join("out");
    let command = with(&[
        &["evaluate", "--model", &model, "--against", &other, "--file", &file],
        &COLUMNS,
        &["--label-column", "score", "--json", "--output", out.to_str().unwrap()],
    ]);
    let result = &lines(&stdout(&run(&command)))[0];
    assert_eq!((result["n"].as_u64(), result["task"].as_str()), (Some(60), Some("pairs")));
    let names: Vec<&String> = result["metrics"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["spearman", "pearson"]);
    assert!(result["against"]["tests"]["spearman"]["p_value"].as_f64().unwrap() > 0.0);
    // Both texts of every pair are cut, which makes one input each.
    let short = ["--label-column", "score", "--max-length", "3"];
    let cut = stderr(&run(&with(&[&["evaluate", "--model", &model, "--file", &file], &COLUMNS, &short])));
    assert!(cut.contains("warning: pairs dev: 60 of 60 inputs were cut to 3 tokens"), "{cut}");
    let rows = fs::read_to_string(out.join("predictions.jsonl")).unwrap();
    assert_eq!(rows.lines().count(), 61);
    let similarity = lines(&rows)[1]["prediction"].as_f64().unwrap();
    assert!((-1.0..=1.0).contains(&similarity));

    let labels =
        with(&[&["evaluate", "--model", &model, "--file", &file], &COLUMNS[..2], &["--label-column", "score"]]);
    assert!(error(&run(&labels)).contains("expected pairs of texts with a number each"));
    assert!(error(&run(&["evaluate", "--model", &model, "--file", &file])).contains("--retrieval"));
}

#[test]
fn a_collection_is_searched_and_scored() {
    let folder = tempfile::tempdir().unwrap();
    let document =
        |index: usize, noun: &str| format!("{{\"_id\":\"d{index}\",\"title\":\"\",\"text\":\"the {noun}\"}}\n");
    let corpus: String = (0..600).map(|index| document(index, NOUNS[index % 6])).collect();
    write(folder.path(), "c/corpus.jsonl", &corpus);
    // The first query's own id is that of a document, which is passed over.
    let queries: String = NOUNS
        .iter()
        .enumerate()
        .map(|(i, noun)| format!("{{\"_id\":\"{}{i}\",\"text\":\"{noun}\"}}\n", if i == 0 { "d" } else { "q" }))
        .collect();
    write(folder.path(), "c/queries.jsonl", &queries);
    let mut qrels = String::from("query-id\tcorpus-id\tscore\n");
    for index in 0..600 {
        let query = index % 6;
        if query < 5 {
            qrels.push_str(&format!("{}{query}\td{index}\t{}\n", if query == 0 { "d" } else { "q" }, 1 + index % 2));
        }
    }
    write(folder.path(), "c/qrels/test.tsv", &qrels);
    let (collection, model) = (folder.path().join("c"), encoder(ENCODER));
    let out = folder.path().join("out");
    let collection = collection.to_str().unwrap();
    let command =
        ["evaluate", "--model", &model, "--retrieval", collection, "--json", "--output", out.to_str().unwrap()];
    let result = &lines(&stdout(&run(&command)))[0];
    assert_eq!(result["n"], 5, "the query without judgements is left out");
    // The prompt "the " makes query and document one text, so the first hundred are the relevant ones.
    let per_query = lines(&fs::read_to_string(out.join("queries.jsonl")).unwrap());
    for scores in &per_query {
        let own = scores["query"] == "d0";
        assert_eq!(scores["recall@100"], if own { 0.99 } else { 1.0 }, "{scores}");
        assert_eq!(scores["mrr@10"], 1.0);
    }
    let cut = stderr(&run(&[&command[..], &["--max-length", "3"]].concat()));
    assert!(cut.contains("of 605 documents and queries were cut to 3 tokens"), "{cut}");
    let missing = error(&run(&["evaluate", "--model", &model, "--retrieval", folder.path().to_str().unwrap()]));
    assert!(missing.contains("test.tsv"), "{missing}");

    // Judgements of another split, of which some are of documents that are not there.
    fs::write(folder.path().join("c/qrels/dev.tsv"), "q1\td1\t1\nq1\tgone\t1\nq2\tgone\t1\nq2\talso\t1\n").unwrap();
    let scored = run(&["evaluate", "--model", &model, "--retrieval", collection, "--split", "dev", "--json"]);
    let result = &lines(&stdout(&scored))[0];
    assert_eq!((&result["split"], &result["n"], &result["skipped"]), (&"dev".into(), &2.into(), &2.into()));
    let warning = "2 judged documents are not in corpus.jsonl and count as not found; the first: `also`\n";
    assert!(stderr(&scored).contains(&format!("dev.tsv: {warning}")), "{}", stderr(&scored));

    let own = error(&run(&["evaluate", "--model", &model, "--retrieval", collection, "--output", collection]));
    assert!(own.contains("queries.jsonl` is an input"), "{own}");
    fs::write(folder.path().join("c/corpus.jsonl"), corpus.repeat(2)).unwrap();
    let twice = error(&run(&command));
    assert!(twice.ends_with("c/corpus.jsonl:601: expected each `_id` once, found `d0` again"), "{twice}");
    fs::write(folder.path().join("c/queries.jsonl"), queries.repeat(2)).unwrap();
    let twice = error(&run(&command));
    assert!(twice.ends_with("c/queries.jsonl:7: expected each `_id` once, found `d0` again"), "{twice}");
}

fn corpus(folder: &Path, model: &str) -> String {
    let text: String = (0..400)
        .map(|row| {
            format!(
                "the {} runs in the park, a {} is {}\n",
                NOUNS[row % 6],
                NOUNS[row / 6 % 6],
                ["red", "fast", "slow"][row % 3]
            )
        })
        .collect();
    let (text, tokens) = (write(folder, "text.txt", &text), folder.join("tokens"));
    let tokens = tokens.to_str().unwrap().to_owned();
    let build =
        ["corpus", "build", &text, "--model", model, "--min-tokens", "3", "--max-length", "24", "--output", &tokens];
    stdout(&run(&build));
    tokens
}

fn metrics(run: &Path, kind: &str, name: &str) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    lines(&text).iter().filter(|line| line["kind"] == kind).filter_map(|line| line[name].as_f64()).collect()
}

#[test]
fn a_sentence_encoder_is_distilled_and_resumed_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let model = encoder(ENCODER);
    let tokens = corpus(folder.path(), &model);
    let distil = |out: &str, steps: &str, more: &[&str]| {
        let out = folder.path().join(out);
        let command = with(&[
            &["distil", "--objective", "embedding", "--teacher", &model, "--layers", "1", "--corpus", &tokens],
            &[
                "--epochs",
                "8",
                "--max-steps",
                steps,
                "--batch-tokens",
                "128",
                "--checkpoint-every",
                "5",
                "--learning-rate",
                "3e-3",
            ],
            &["--output", out.to_str().unwrap()],
            more,
        ]);
        (run(&command), out)
    };
    let (output, whole) = distil("whole", "20", &[]);
    stdout(&output);
    let losses = metrics(&whole, "train", "loss");
    assert!(losses.len() == 20 && losses[19] < 0.8 * losses[0], "{losses:?}");
    for file in [
        "modules.json",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "config_sentence_transformers.json",
        "tokenizer.json",
    ] {
        assert!(whole.join("best").join(file).exists(), "{file}");
    }
    // A run that loses its last checkpoint goes on from the one before, and ends the same.
    let weights = |run: &Path| fs::read(run.join("checkpoints/step-000020/model.safetensors")).unwrap();
    let before = weights(&whole);
    fs::remove_dir_all(whole.join("checkpoints/step-000020")).unwrap();
    stdout(&distil("whole", "20", &["--resume"]).0);
    assert_eq!(weights(&whole), before);

    // What is distilled from it in turn says so.
    let again = folder.path().join("again");
    let best = whole.join("best");
    let (teacher, output) = (best.to_str().unwrap(), again.to_str().unwrap());
    let from_it = ["distil", "--objective", "embedding", "--teacher", teacher, "--layers", "1", "--corpus", &tokens];
    stdout(&run(&with(&[&from_it, &["--max-steps", "1", "--batch-tokens", "128", "--output", output]])));
    let lineage: Value = serde_json::from_slice(&fs::read(again.join("lineage.json")).unwrap()).unwrap();
    assert_eq!((&lineage["teacher"], &lineage["before"]["teacher"]), (&teacher.into(), &model.as_str().into()));
    let card = fs::read_to_string(again.join("best/README.md")).unwrap();
    assert!(
        card.contains(&format!("**Before that:** embeddings of the teacher, 20 of 20 steps, seed 1, teacher {model}")),
        "{card}"
    );

    let copied = folder.path().join("copied");
    let output = copied.to_str().unwrap();
    let init_only = ["distil", "--objective", "embedding", "--teacher", &model, "--layers", "1", "--init-only"];
    stdout(&run(&with(&[&init_only, &["--output", output]])));
    let score = |folder: &Path| {
        let pairs = pairs(folder.parent().unwrap());
        let name = folder.to_str().unwrap();
        let command =
            with(&[&["evaluate", "--model", name, "--file", &pairs], &COLUMNS, &["--label-column", "score", "--json"]]);
        lines(&stdout(&run(&command)))[0]["metrics"]["spearman"].as_f64().unwrap()
    };
    assert!(score(&copied).is_finite());

    let refused = error(&distil("x", "1", &["--temperature", "3"]).0);
    assert!(refused.contains("--temperature goes with --objective language"), "{refused}");
}

#[test]
fn another_model_becomes_a_student_behind_a_linear_to_the_teachers_width() {
    let folder = tempfile::tempdir().unwrap();
    let (teacher, student) = (encoder(ENCODER), encoder("sentence-max"));
    let tokens = corpus(folder.path(), &teacher);
    let out = folder.path().join("run");
    let command = [
        "distil",
        "--objective",
        "embedding",
        "--teacher",
        &teacher,
        "--student",
        &student,
        "--corpus",
        &tokens,
        "--max-steps",
        "10",
        "--batch-tokens",
        "128",
        "--learning-rate",
        "3e-3",
        "--output",
        out.to_str().unwrap(),
    ];
    stdout(&run(&command));
    let losses = metrics(&out, "train", "loss");
    assert!(losses[9] < losses[0], "{losses:?}");
    let dense: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("best/2_Dense/config.json")).unwrap()).unwrap();
    assert_eq!((dense["in_features"].as_u64(), dense["out_features"].as_u64()), (Some(15), Some(9)));
}

#[test]
fn pairs_and_triples_train_a_sentence_encoder() {
    let folder = tempfile::tempdir().unwrap();
    let (file, model) = (pairs(folder.path()), encoder("sentence-cls"));
    let mut partners = String::from("first\tsecond\n");
    for row in 0..90 {
        let (noun, adjective) = (NOUNS[row % 6], ["red", "fast", "slow"][row / 6 % 3]);
        partners.push_str(&format!("the {noun} is {adjective}\ta {adjective} {noun}\n"));
    }
    let partners = write(folder.path(), "partners.tsv", &partners);
    let train = |objective: &str, file: &str, more: &[&str]| -> PathBuf {
        let out = folder.path().join(objective);
        let command = with(&[
            &["finetune", "--objective", objective, "--model", &model, "--data", file, "--batch-size", "16"],
            &COLUMNS,
            &["--epochs", "6", "--learning-rate", "3e-3", "--output", out.to_str().unwrap()],
            more,
        ]);
        stdout(&run(&command));
        let losses = metrics(&out, "train", "loss");
        let half = losses.len() / 2;
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        assert!(mean(&losses[half..]) < mean(&losses[..half]), "{objective}: {losses:?}");
        out
    };
    let scored = train("similarity", &file, &["--label-column", "score", "--dev", &file]);
    assert!(scored.join("evaluation.json").exists());
    assert!(!metrics(&scored, "held_out", "spearman").is_empty());
    train("contrastive", &partners, &[]);
    let teacher = encoder("sentence-max");
    let margin = train("margin", &file, &["--negative-column", "other", "--teacher", &teacher, "--scale", "0.5"]);
    assert!(margin.join("best/modules.json").exists());

    let refused = |more: &[&str]| {
        let command = with(&[&["finetune", "--model", &model, "--data", &file, "--output", "x"], &COLUMNS, more]);
        error(&run(&command))
    };
    assert!(refused(&["--objective", "margin"]).contains("expected --teacher"));
    assert!(
        refused(&["--objective", "contrastive", "--label-column", "score"]).contains("--label-column does not go with")
    );
    // Nothing to tell a text apart from.
    let alone = refused(&["--objective", "contrastive", "--batch-size", "1"]);
    assert!(alone.contains("batch-size: expected at least 2, found 1"), "{alone}");
    let long = refused(&["--objective", "contrastive", "--max-length", "100000"]);
    assert!(long.contains("--max-length: expected at most the model's"), "{long}");
}

#[test]
fn a_plain_encoder_is_pooled_by_the_mean_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    common::model("distilbert-nohead", folder.path());
    let file = write(folder.path(), "pairs.tsv", "a\tb\ts\nw5 w6\tw7\t1\nw8\tw8\t2\nw9\tw6 w5\t0\n");
    let name = folder.path().to_str().unwrap();
    let columns = ["--text-column", "a", "--pair-column", "b", "--label-column", "s"];
    let output = run(&with(&[&["evaluate", "--model", name, "--file", &file], &columns]));
    stdout(&output);
    assert!(stderr(&output).contains("not a sentence encoder's folder; taking the mean of its states"));
    let flags = ["--pooling", "cls", "--normalize", "false"];
    let output = run(&with(&[&["predict", "embed", "--model", name, "w5"], &flags]));
    assert!(stderr(&output).contains("folder; taking the first token's state\n"), "{}", stderr(&output));
    let unknown = error(&run(&["predict", "embed", "--model", name, "--prompt", "query", "w5"]));
    assert!(unknown.ends_with("prompt `query`: expected none, for the model has no prompts"), "{unknown}");
}

#[test]
fn states_of_all_tokens_are_printed_as_the_pipeline_gives_them() {
    let folder = tempfile::tempdir().unwrap();
    common::model("distilbert-nohead", folder.path());
    let name = folder.path().to_str().unwrap();
    let embed = |flags: &[&str]| {
        let fixed = ["predict", "embed", "--model", name, "w5 w6 w7", "w9", "--json"];
        lines(&stdout(&run(&[&fixed[..], flags].concat())))
    };
    let (states, first) = (embed(&["--states"]), embed(&["--pooling", "cls", "--normalize", "false"]));
    for ((states, first), tokens) in states.iter().zip(&first).zip([5, 3]) {
        let [of_text] = &states.as_array().unwrap()[..] else { panic!("a list of one text") };
        assert_eq!((of_text.as_array().unwrap().len(), &of_text[0]), (tokens, &first["embedding"]));
        assert_ne!(of_text[1], of_text[0]);
    }
}
