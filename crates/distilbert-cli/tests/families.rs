//! The whole life of a model of each family, on the built program: from scratch, distilled, fine-tuned, run and made
//! smaller. Half the families bring a tokenizer of another kind than WordPiece.

mod common;

use common::{error, golden, lines, model, run, run_with, stdout};
use distilbert::data::synthetic::{self, SyntheticConfig, sst2_tsv};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A family, the tokenizer of its kind, what has its student's name, and how many layers of weights the student has.
struct Case {
    family: &'static str,
    tokenizer: &'static str,
    student: &'static str,
    layer_groups: u64,
}

const CASES: [Case; 4] = [
    Case { family: "roberta", tokenizer: "roberta", student: "RobertaForMaskedLM", layer_groups: 2 },
    Case { family: "xlm-roberta", tokenizer: "xlm-roberta", student: "XLMRobertaForMaskedLM", layer_groups: 2 },
    Case { family: "electra", tokenizer: "albert", student: "ElectraForMaskedLM", layer_groups: 2 },
    Case { family: "albert", tokenizer: "albert", student: "AlbertForMaskedLM", layer_groups: 1 },
];

fn inspect(model: &Path) -> Value {
    lines(&stdout(&run(&["inspect", model.to_str().unwrap(), "--json"])))[0].clone()
}

#[test]
fn a_model_of_each_family_is_pretrained_distilled_fine_tuned_run_and_quantised() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let text = synthetic::generate(&SyntheticConfig { corpus_lines: 120, train: 40, dev: 20, ..Default::default() });
    fs::create_dir(path("task")).unwrap();
    fs::write(path("text.txt"), text.corpus.join("\n")).unwrap();
    fs::write(path("task/train.tsv"), sst2_tsv(&text.train)).unwrap();
    fs::write(path("task/dev.tsv"), sst2_tsv(&text.dev)).unwrap();
    for Case { family, tokenizer, student, layer_groups } in CASES {
        let at = |name: &str| path(&format!("{family}-{name}")).to_str().unwrap().to_owned();
        let go = |words: &str, more: &[&str]| {
            let arguments: Vec<&str> = words.split(' ').chain(more.iter().copied()).collect();
            stdout(&run(&arguments))
        };
        let [corpus, teacher, distilled, tuned, small] =
            ["corpus.tokens", "teacher", "student", "tuned", "int8"].map(&at);
        // A folder with a tokenizer alone is a model to `corpus build`.
        let tokenizer = golden(&format!("tokenizers/{tokenizer}")).to_str().unwrap().to_owned();
        let text = path("text.txt").to_str().unwrap().to_owned();
        let more = [&text, "--model", &tokenizer, "-o", &corpus];
        go("corpus build --max-length 48 --min-tokens 5", &more);

        // Whole words are hidden by the tokenizer's own marks.
        let recipe = format!("{teacher}.toml");
        fs::write(&recipe, "[training.masking]\nwhole-words = true\n").unwrap();
        let shape = "pretrain --layers 4 --hidden 24 --heads 3 --batch-tokens 512 --max-steps 4 --evaluate-every 2";
        let more = ["--family", family, "--tokenizer", &tokenizer, "--corpus", &corpus, "--config", &recipe];
        go(shape, &[&more[..], &["-o", &teacher]].concat());
        let best = format!("{teacher}/best");
        let found = inspect(Path::new(&best));
        assert_eq!((&found["family"], &found["layers"]), (&family.into(), &4.into()), "{found}");

        let more = ["--teacher", &best, "--corpus", &corpus, "-o", &distilled];
        go("distil --layers 2 --batch-tokens 512 --max-steps 4 --evaluate-every 2", &more);
        let distilled = format!("{distilled}/best");
        let found = inspect(Path::new(&distilled));
        assert_eq!(found["architecture"], student);
        assert_eq!((&found["layers"], &found["layer_groups"]), (&2.into(), &layer_groups.into()));

        let task = path("task").to_str().unwrap().to_owned();
        let more = ["--data", &task, "--model", &distilled, "-o", &tuned];
        go("finetune --task sst2 --batch-size 8 --epochs 1 --max-length 32", &more);
        let tuned = format!("{tuned}/best");
        let dev = path("task/dev.tsv").to_str().unwrap().to_owned();
        let scores = go("evaluate --json", &["--model", &tuned, "--file", &dev]);
        assert!(scores.contains("accuracy"), "{scores}");
        go("compress quantize --precision int8", &["--model", &tuned, "--output", &small]);
        let predictions = |model: &str| {
            let arguments = ["predict", "classify", "--model", model, "--json"];
            lines(&stdout(&run_with(&arguments, "a fine film\nMüller café 🍰 東京\n\n".as_bytes()))).len()
        };
        assert_eq!((predictions(&tuned), predictions(&small)), (3, 3));
    }
}

#[test]
fn the_student_of_a_bert_is_a_bert_if_token_types_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = folder.path().join("teacher");
    model("bert-mlm", &teacher);
    let of = |name: &str, extra: &[&str]| {
        let output = folder.path().join(name);
        let (teacher, output) = (teacher.to_str().unwrap(), output.to_str().unwrap());
        stdout(&run(&[&["distil", "--init-only", "--teacher", teacher, "--output", output], extra].concat()));
        let config: Value =
            serde_json::from_slice(&fs::read(folder.path().join(name).join("config.json")).unwrap()).unwrap();
        (config["model_type"].clone(), config["type_vocab_size"].clone())
    };
    assert_eq!(of("plain", &[]), ("distilbert".into(), Value::Null));
    assert_eq!(of("kept", &["--token-types", "keep"]), ("bert".into(), 2.into()));
}

#[test]
fn layers_that_are_the_same_weights_are_not_chosen_from() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = folder.path().join("teacher");
    model("albert-mlm", &teacher);
    let output = folder.path().join("student");
    let (teacher, output) = (teacher.to_str().unwrap(), output.to_str().unwrap());
    let words = ["distil", "--init-only", "--teacher", teacher, "--from-layers", "0,2", "--output", output];
    let message = error(&run(&words));
    assert!(message.contains("the 3 layers of a teacher of family albert are the same weights"), "{message}");
}
