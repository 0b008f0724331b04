//! `distilbert inspect` on the reference models.

mod common;

use common::{error, golden, model, run, set_config, stderr, stdout};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn inspect(folder: &Path) -> Value {
    serde_json::from_str(&stdout(&run(&["inspect", "--json", folder.to_str().unwrap()]))).expect("JSON")
}

fn parts(found: &Value) -> Vec<(&str, u64)> {
    let parts = found["parts"].as_array().unwrap().iter();
    parts.map(|part| (part["name"].as_str().unwrap(), part["parameters"].as_u64().unwrap())).collect()
}

#[test]
fn a_classifier_is_shown_part_by_part() {
    let folder = tempfile::tempdir().unwrap();
    model("bert-classify", folder.path());
    let found = inspect(folder.path());
    let (h, ffn) = (21, 29);
    let layer = 4 * (h * h + h) + 2 * h * ffn + ffn + h + 4 * h;
    assert_eq!(
        parts(&found),
        [
            ("word embeddings", 53 * h),
            ("position embeddings", 18 * h),
            ("type embeddings", 2 * h),
            ("embedding norm", 2 * h),
            ("layer 0", layer),
            ("layer 1", layer),
            ("pooler", h * h + h),
            ("head", 3 * h + 3),
        ]
    );
    assert_eq!(found["parameters"], parts(&found).iter().map(|part| part.1).sum::<u64>());
    assert_eq!((&found["family"], &found["architecture"]), (&"bert".into(), &"BertForSequenceClassification".into()));
    assert_eq!(found["labels"], Value::from(vec!["LABEL_0", "LABEL_1", "LABEL_2"]));
    assert_eq!(found["size_bytes"], fs::metadata(folder.path().join("model.safetensors")).unwrap().len());
    assert_eq!(found["dtypes"], Value::from(vec!["F32"]));
    assert_eq!((&found["cost"]["attention_length"], &found["cost"]["head_per"]), (&18.into(), &"sequence".into()));
    assert_eq!((&found["tokenizer"]["tokens"], &found["tokenizer"]["mask"]), (&53.into(), &4.into()));
    assert_eq!((found["unused"].as_array().unwrap().len(), found["fresh"].as_array().unwrap().len()), (0, 0));
}

#[test]
fn a_sentence_encoder_shows_how_its_vectors_are_made() {
    let folder = golden("sentence-dense");
    let found = inspect(&folder);
    let expected = serde_json::json!({
        "pooling": "mean", "dense": [11, 9], "dimensions": 9, "normalize": true, "similarity": "cosine", "max_length": 16
    });
    assert_eq!(found["embedding"], expected);
    let text = stdout(&run(&["inspect", folder.to_str().unwrap()]));
    let vectors =
        "mean of the tokens, a linear to 11, a linear to 9; 9 numbers of length one, compared by cosine, inputs";
    assert!(text.contains(&format!("  vectors    {vectors} of up to 16 tokens\n")), "{text}");
    assert!(inspect(&golden("bert-classify"))["embedding"].is_null());
}

#[test]
fn people_see_the_same_numbers_with_task_and_lineage() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let task = distilbert::data::examples::Task::glue("mnli").unwrap();
    let saved = distilbert::data::examples::SavedTask { task, max_length: 12 };
    fs::write(folder.path().join("task.json"), saved.to_json()).unwrap();
    let lineage =
        r#"{"teacher": "big", "corpus_sha256": null, "before": {"recipe": "masked-LM", "teacher": "bigger"}}"#;
    fs::write(folder.path().join("lineage.json"), lineage).unwrap();
    let text = stdout(&run(&["inspect", folder.path().to_str().unwrap()]));
    for expected in [
        ": DistilBertForSequenceClassification in ",
        "  labels     LABEL_0, LABEL_1, LABEL_2 (classification)\n",
        "  tokenizer  WordPiece, 53 tokens, lower-cases; [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4\n",
        "  task       mnli, inputs of up to 12 tokens\n",
        "  lineage    teacher: big\n",
        "  lineage    before that: masked-LM, teacher bigger\n",
        "  word embeddings              1,113",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
    assert!(!text.contains("corpus_sha256") && !text.contains("unused") && !text.contains("missing"));
    // Of a run's best checkpoint it lies beside that.
    let run_folder = tempfile::tempdir().unwrap();
    let best = run_folder.path().join("best");
    model("distilbert-classify", &best);
    fs::write(run_folder.path().join("lineage.json"), lineage).unwrap();
    assert!(stdout(&run(&["inspect", best.to_str().unwrap()])).contains("  lineage    teacher: big\n"));
}

#[test]
fn tensors_that_are_unused_or_missing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-mlm", folder.path());
    set_config(folder.path(), "architectures", vec!["DistilBertForSequenceClassification"].into());
    let found = inspect(folder.path());
    assert_eq!(
        found["fresh"],
        Value::from(vec!["pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "classifier.bias"])
    );
    let unused = found["unused"].as_array().unwrap();
    assert!(unused.contains(&"vocab_transform.weight".into()), "{unused:?}");
    let text = stdout(&run(&["inspect", folder.path().to_str().unwrap()]));
    assert!(text.contains("  missing    4 tensors: pre_classifier.weight, "), "{text}");
}

#[test]
fn shards_and_pickles_are_sized_and_a_missing_tokenizer_is_a_warning() {
    for (name, files) in [("distilbert-mlm-sharded", 2), ("bert-mlm-pickled", 1)] {
        let folder = golden(name);
        let found = inspect(&folder);
        let weights = |file: &fs::DirEntry| {
            let name = file.file_name().into_string().unwrap();
            name.starts_with("model-") || name.starts_with("pytorch_model")
        };
        let sizes = fs::read_dir(&folder).unwrap().flatten().filter(weights).map(|file| file.metadata().unwrap().len());
        assert_eq!((&found["size_bytes"], &found["files"]), (&sizes.sum::<u64>().into(), &files.into()));
        assert_eq!(found["tokenizer"], Value::Null);
        assert!(stderr(&run(&["inspect", folder.to_str().unwrap()])).starts_with("warning: no tokenizer in "));
    }
}

#[test]
fn a_name_that_leads_nowhere_is_refused_on_one_line() {
    let message = error(&run(&["inspect", "./no/such/folder"]));
    assert!(message.contains("./no/such/folder"), "{message}");
}
