//! Bad input of every kind: one line that names the thing and what was expected, exit code 1, nothing left behind.

mod common;

use common::{error, lines, model, run, run_with, set_config, stderr, stdout};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A folder for one test, and what is in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), bytes).expect("a file");
        self.name(name)
    }

    /// A reference model that `spoil` has spoilt.
    fn model(&self, name: &str, reference: &str, spoil: impl FnOnce(&Path)) -> String {
        let path = self.path(name);
        model(reference, &path);
        spoil(&path);
        self.name(name)
    }

    /// Every path below, with the files' contents.
    fn contents(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let (mut found, mut folders) = (BTreeMap::new(), vec![self.0.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path.clone());
                    found.insert(path, None);
                } else {
                    found.insert(path.clone(), Some(fs::read(path).expect("a file")));
                }
            }
        }
        found
    }

    /// The program refuses these arguments in one line that has all of `parts`, and leaves the folder as it is.
    fn refuses(&self, arguments: &[&str], parts: &[&str]) {
        let before = self.contents();
        let message = error(&run(arguments));
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
        let after = self.contents();
        let new: Vec<&PathBuf> = after.keys().filter(|path| !before.contains_key(*path)).collect();
        assert!(new.is_empty(), "{arguments:?} left {new:?} behind");
        assert!(before == after, "{arguments:?} changed a file");
    }

    /// Refused wherever a classifier is asked for.
    fn refuses_model(&self, model: &str, parts: &[&str]) {
        let data = self.write("data.tsv", "text\tlabel\nw5 w6\tLABEL_0\nw7\tLABEL_1\nw8\tLABEL_2\n");
        self.refuses(&["predict", "classify", "--model", model, "w5"], parts);
        let own = ["--task", "own", "--text-column", "text", "--label-column", "label"];
        let output = self.name("out");
        self.refuses(
            &[&["finetune", "--model", model, "--data", &data, "--output", &output], &own[..]].concat(),
            parts,
        );
    }
}

#[test]
fn a_missing_model_is_named() {
    let folder = Folder::new();
    let model = folder.name("nowhere");
    folder.refuses_model(&model, &["nowhere", "no such folder"]);
    let file = folder.write("a-file", "x");
    folder.refuses_model(&file, &["a-file", "expected the folder that holds it"]);
    fs::create_dir(folder.path("empty")).expect("a folder");
    folder.refuses_model(&folder.name("empty"), &["config.json", "No such file"]);
}

#[test]
fn a_truncated_weight_file_is_named_with_both_lengths() {
    let folder = Folder::new();
    for (name, share) in [("most", 0.9), ("header", 0.001)] {
        let model = folder.model(name, "distilbert-classify", |path| {
            let path = path.join("model.safetensors");
            let bytes = fs::read(&path).expect("weights");
            fs::write(path, &bytes[..(bytes.len() as f64 * share) as usize]).expect("weights");
        });
        folder.refuses_model(&model, &[name, "model.safetensors", "bytes"]);
    }
}

#[test]
fn another_family_or_shape_is_refused_by_key_or_tensor() {
    let folder = Folder::new();
    let gpt = folder.model("gpt", "distilbert-classify", |path| set_config(path, "model_type", json!("gpt2")));
    folder.refuses_model(&gpt, &["config.json", "`model_type`", "one of `bert`, `distilbert`, `roberta`", "gpt2"]);
    let wide = folder.model("wide", "distilbert-classify", |path| set_config(path, "hidden_dim", json!(31)));
    folder.refuses_model(&wide, &["tensor `", "expected shape [31", "found [29"]);
    let odd = folder.model("odd", "distilbert-classify", |path| set_config(path, "n_heads", json!(4)));
    folder.refuses_model(&odd, &["config.json", "heads"]);
    let deep = folder.model("deep", "distilbert-classify", |path| set_config(path, "n_layers", json!(2_000_000_000)));
    folder.refuses_model(&deep, &["deep/config.json", "`n_layers`: expected at most 1024 layers, found 2000000000"]);
    // As many as a model may have: more than there is memory for.
    let large = folder.model("large", "distilbert-classify", |path| set_config(path, "hidden_dim", json!(50_000_000)));
    folder.refuses_model(&large, &["tensor `", "expected shape [50000000", "found [29"]);
    let none =
        folder.model("none", "distilbert-classify", |path| fs::write(path.join("config.json"), "{").expect("a file"));
    folder.refuses_model(&none, &["config.json"]);
}

#[test]
fn a_saved_task_that_leaves_texts_no_room_is_refused() {
    let folder = Folder::new();
    let model = folder.model("model", "distilbert-classify", |path| {
        let task = distilbert::data::examples::Task::glue("mnli").expect("a task");
        let saved = distilbert::data::examples::SavedTask { task, max_length: 2 };
        fs::write(path.join("task.json"), saved.to_json()).expect("a task");
    });
    let parts = ["task.json", "`max_length`: expected at least 3 tokens, found 2"];
    folder.refuses(&["predict", "classify", "--model", &model, "w5"], &parts);
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_tensor() {
    let folder = Folder::new();
    for (name, value) in [("nan", f32::NAN), ("infinite", f32::NEG_INFINITY)] {
        let model = folder.model(name, "distilbert-classify", |path| {
            let path = path.join("model.safetensors");
            let mut bytes = fs::read(&path).expect("weights");
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&value.to_le_bytes());
            fs::write(path, bytes).expect("weights");
        });
        folder.refuses_model(&model, &[name, "tensor `", "expected finite numbers, found"]);
    }
}

#[test]
fn a_pickle_with_code_is_refused_and_not_run() {
    let folder = Folder::new();
    let witness = folder.name("witness");
    let model = folder.model("pickled", "distilbert-classify", |path| {
        fs::remove_file(path.join("model.safetensors")).expect("a removal");
        // PyTorch's older format: magic number, version, system, and then `os.system("touch WITNESS")`.
        let mut bytes = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
        bytes.extend(format!("cos\nsystem\n(S'touch {witness}'\ntR.").bytes());
        fs::write(path.join("pytorch_model.bin"), bytes).expect("a file");
    });
    folder.refuses_model(&model, &["pytorch_model.bin", "refused", "`os.system`"]);
    assert!(!folder.path("witness").exists());
}

#[test]
fn a_zip_bomb_is_refused_without_unpacking_it() {
    let folder = Folder::new();
    let model = folder.model("bomb", "distilbert-classify", |path| {
        fs::remove_file(path.join("model.safetensors")).expect("a removal");
        let archive = zip("archive/data.pkl", &[0; 1000], u32::MAX - 1);
        fs::write(path.join("pytorch_model.bin"), archive).expect("a file");
    });
    folder.refuses_model(&model, &["pytorch_model.bin", "`archive/data.pkl`: compression method 8 is not accepted"]);
}

/// A zip archive of one deflated entry that claims to have `size` bytes unpacked.
fn zip(name: &str, deflated: &[u8], size: u32) -> Vec<u8> {
    let number = |number: usize| u32::try_from(number).expect("a small file").to_le_bytes();
    // What the entry and the directory have in common: version 2.0, no flags, deflate, no time, date and checksum.
    let mut entry = vec![20, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    entry.extend(number(deflated.len()));
    entry.extend(size.to_le_bytes());
    // The length of the name, in two bytes, and no extra field.
    entry.extend(number(name.len()));
    let mut file = [b"PK\x03\x04", &entry[..], name.as_bytes(), deflated].concat();
    let directory = file.len();
    // No comment and attributes, the entry at the start of the file.
    file.extend([b"PK\x01\x02\x14\0", &entry[..], &[0; 14], name.as_bytes()].concat());
    let length = file.len() - directory;
    file.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    file.extend([number(length), number(directory)].concat());
    file.extend([0, 0]);
    file
}

/// Writes the vocabulary of a model's folder anew, its last two words exchanged.
fn exchange_words(path: &Path) {
    let path = path.join("vocab.txt");
    let text = fs::read_to_string(&path).expect("a vocabulary");
    let mut words: Vec<&str> = text.lines().collect();
    let last = words.len() - 1;
    words.swap(last - 1, last);
    fs::write(path, words.join("\n") + "\n").expect("a vocabulary");
}

#[test]
fn a_teacher_of_another_vocabulary_is_refused_by_its_first_token() {
    let folder = Folder::new();
    let student = folder.model("student", "distilbert-nohead", |_| ());
    let teacher = folder.model("teacher", "distilbert-classify", exchange_words);
    let data = folder.write("data.tsv", "text\tlabel\nw5 w6\ta\nw7\tb\nw8\tc\n");
    let own = ["--task", "own", "--text-column", "text", "--label-column", "label"];
    let output = folder.name("out");
    let base = ["finetune", "--model", &student, "--teacher", &teacher, "--data", &data, "--output", &output];
    folder.refuses(&[&base, &own[..]].concat(), &["teacher and student", "vocabular", "51", "w51", "w52"]);
}

#[test]
fn a_corpus_of_another_vocabulary_or_none_is_refused() {
    let folder = Folder::new();
    let ours = folder.model("ours", "distilbert-mlm", |_| ());
    let other = folder.model("other", "distilbert-mlm", exchange_words);
    let text = folder.write("text.txt", common::texts(50).join("\n"));
    let corpus = folder.name("a.tokens");
    stdout(&run(&["corpus", "build", &text, "-o", &corpus, "--model", &ours, "--min-tokens", "3"]));
    let output = folder.name("out");
    let vocabulary = ["corpus", "expected the tokenizer's vocabulary"];
    folder.refuses(&["pretrain", "--corpus", &corpus, "--init", &other, "--output", &output], &vocabulary);
    folder.refuses(&["pretrain", "--corpus", &corpus, "--tokenizer", &other, "-o", &output], &vocabulary);
    folder.refuses(
        &["distil", "--corpus", &corpus, "--teacher", &other, "--layers", "1", "--output", &output],
        &vocabulary,
    );

    let nothing = "max-steps: expected at least 1, found 0";
    folder.refuses(&["pretrain", "--corpus", &corpus, "--init", &ours, "-o", &output, "--max-steps", "0"], &[nothing]);
    let short = folder.write("short.toml", "[model]\nlayers = 1\nmax-positions = 4\n");
    folder.refuses(
        &["pretrain", "--corpus", &corpus, "--tokenizer", &ours, "--config", &short, "-o", &output],
        &["model: expected 8 positions, for the longest sequence of the corpus, found 4"],
    );
    // Cut off, altered, and no corpus at all.
    let whole = fs::read(&corpus).expect("a corpus");
    let train = |corpus: &str, parts: &[&str]| {
        folder.refuses(&["pretrain", "--corpus", corpus, "--init", &ours, "-o", &output], parts);
    };
    train(&folder.write("cut.tokens", &whole[..whole.len() - 5]), &["cut.tokens"]);
    let mut altered = whole.clone();
    *altered.last_mut().expect("bytes") ^= 1;
    train(&folder.write("altered.tokens", altered), &["altered.tokens"]);
    train(&text, &["text.txt"]);
    train(&folder.name("no.tokens"), &["no.tokens", "No such file"]);
}

#[test]
fn text_that_makes_no_corpus_leaves_none() {
    let folder = Folder::new();
    let model = folder.model("model", "distilbert-mlm", |_| ());
    let output = folder.name("a.tokens");
    let build = |input: &str, more: &[&str], parts: &[&str]| {
        folder.refuses(&[&["corpus", "build", input, "--output", &output], more].concat(), parts);
    };
    for (name, text) in [("empty.txt", ""), ("blank.txt", "\n \n\t\n")] {
        let input = folder.write(name, text);
        build(&input, &["--model", &model], &[name, "`: the corpus is empty: 0 texts"]);
        build(&input, &["--train-vocabulary", "200"], &[name, "`: cannot train a vocabulary: the text has no words"]);
    }
    build(&folder.name("missing.txt"), &["--model", &model], &["missing.txt"]);
    let latin = folder.write("latin.txt", b"w5 w6\nw7 \xe9t\xe9\n");
    build(&latin, &["--model", &model], &["latin.txt` line 2: not UTF-8 at byte 3"]);
    let long = folder.write("long.txt", common::texts(50).join("\n"));
    let held_out = ["--model", &model, "--min-tokens", "3", "--held-out", "9999"];
    build(&long, &held_out, &["long.txt`: the corpus is empty", "9999 to be held out"]);
    build(&long, &["--model", &model, "--join-to", "600"], &["at most the longest sequence's 512 tokens, found 600"]);
    // An input that is named is not overwritten by the output, as an earlier output in an input folder is.
    folder.refuses(
        &["corpus", "build", &latin, &long, "--model", &model, "--min-tokens", "3", "--output", &long],
        &["long.txt` is an input"],
    );
    // All of it is too short: neither a tokenizer nor a corpus.
    let short = folder.write("short.txt", "w5 w6\nw7 w8\n");
    build(&short, &["--train-vocabulary", "200", "--min-tokens", "50"], &["short.txt"]);
    let json = folder.write("a.jsonl", "{\"text\": \"w5 w6 w7\"}\n{\"text\": 7}\n");
    build(&json, &["--model", &model, "--field", "text"], &["a.jsonl` line 2", "text"]);
}

#[test]
fn a_row_that_is_not_as_the_task_says_is_named_by_file_and_line() {
    let folder = Folder::new();
    let model = folder.model("model", "distilbert-nohead", |_| ());
    let output = folder.name("out");
    let good = "sentence\tlabel\nw5 w6\t0\nw7\t1\n";
    for (name, bad, parts) in [
        ("range", "w8\t2\n", &["range.tsv:4", "expected a label of \"0\", \"1\", found \"2\""][..]),
        ("word", "w8\tpositive\n", &["word.tsv:4", "positive"]),
        ("short", "w8\n", &["short.tsv:4", "column"]),
        ("long", "w8\t1\tw9\t0\n", &["long.tsv:4", "column"]),
    ] {
        let data = folder.write(&format!("{name}.tsv"), format!("{good}{bad}"));
        folder.refuses(&["finetune", "--model", &model, "--task", "sst2", "--data", &data, "-o", &output], parts);
    }
    for (name, text, part) in
        [("headless", "w5 w6\t0\n", "headless.tsv"), ("bare", "sentence\tlabel\n", "at least one row")]
    {
        let data = folder.write(&format!("{name}.tsv"), text);
        folder.refuses(&["finetune", "--model", &model, "--task", "sst2", "--data", &data, "-o", &output], &[part]);
    }
    let own = folder.write("own.tsv", "text\tlabel\nw5\ta\nw6\tb\n");
    let columns = ["--text-column", "body", "--label-column", "label", "--task", "own"];
    folder.refuses(
        &[&["finetune", "--model", &model, "--data", &own, "-o", &output], &columns[..]].concat(),
        &["own.tsv", "`body`", "text"],
    );
    let finetune = |more: &[&str], parts: &[&str]| {
        folder.refuses(&[&["finetune", "--model", &model, "--data", &own, "-o", &output], more].concat(), parts);
    };
    finetune(&["--task", "sst3"], &["`sst3`", "sst2, ", "wnli, ner, pos, squad, intents, or the columns"]);
    finetune(&["--task", "ax"], &["--task: expected one of cola", "found `ax`"]);
    for (task, problem) in [("sst2", "regression"), ("stsb", "classification")] {
        finetune(&["--task", task, "--problem", problem], &["--problem goes with your own data", task]);
    }
    finetune(
        &["--task", "ner", "--problem", "classification"],
        &["--problem: expected entities or tags with --task ner, found classification"],
    );
    let columns = ["--task", "own", "--text-column", "text", "--label-column", "label"];
    for (flags, part) in [
        (["--max-length", "100000"], "--max-length: expected at most the model's 18 tokens, found 100000"),
        (["--batch-size", "0"], "error: batch-size: expected at least 1, found 0"),
        (["--epochs", "0"], "error: epochs: expected at least 1, found 0"),
        (["--learning-rate", "inf"], "`learning-rate`: expected a finite number, found inf"),
    ] {
        finetune(&[&columns[..], &flags].concat(), &[part]);
    }
    // Which of the two is meant cannot be known.
    let twice = folder.write("twice.tsv", "text\tlabel\tlabel\nw5\ta\tb\nw6\tb\ta\n");
    let ambiguous = "twice.tsv:1: expected one column `label`, found 2";
    folder.refuses(
        &[&["finetune", "--model", &model, "--data", &twice, "-o", &output], &columns[..]].concat(),
        &[ambiguous],
    );
    folder.refuses(&[&["data", "check", &twice], &columns[..]].concat(), &[ambiguous]);
    let classifier = folder.model("classifier", "distilbert-classify", |_| ());
    let predict = ["predict", "classify", "--model", &classifier, "--input", &twice, "--text-column", "label"];
    folder.refuses(&predict, &[ambiguous]);
    folder.refuses(
        &["corpus", "build", &twice, "--column", "label", "--model", &model, "-o", &output],
        &["twice.tsv", "expected one column `label` in the header, found 2"],
    );
}

#[test]
fn a_dev_file_that_cannot_be_scored_costs_no_training() {
    let folder = Folder::new();
    let output = folder.name("out");
    let own = ["--task", "own", "--text-column", "text", "--label-column", "label", "-o", &output];
    let train = folder.write("train.tsv", "text\tlabel\nw5\ta\nw6\tb\nw7\ta\nw8\tb\n");
    let model = folder.model("model", "distilbert-nohead", |_| ());
    let finetune = |dev: &str, more: &[&str], parts: &[&str]| {
        let fixed = ["finetune", "--model", &model, "--data", &train, "--dev", dev];
        folder.refuses(&[&fixed[..], &own[..], more].concat(), parts);
    };
    finetune(&folder.name("missing.tsv"), &[], &["missing.tsv"]);
    let unknown = folder.write("unknown.tsv", "text\tlabel\nw5\ta\nw6\tc\n");
    finetune(&unknown, &[], &["unknown.tsv:3: expected a label of"]);
    finetune(&unknown, &["--search", "2"], &["unknown.tsv:3"]);
    finetune(&unknown, &["--few-shot", "2"], &["unknown.tsv:3"]);
    for (task, name, text) in [("ner", "a.train", "w5 O\nw6 B-X\n"), ("squad", "squad.json", SQUAD)] {
        let data = folder.write(name, text);
        let dev = folder.write("dev.json", "{");
        let fixed = ["finetune", "--model", &model, "--task", task, "--data", &data, "--dev", &dev, "-o", &output];
        folder.refuses(&fixed, &["dev.json"]);
    }
}

const SQUAD: &str = r#"{"data": [{"paragraphs": [{"context": "w5 w6", "qas": [
    {"id": "1", "question": "w7", "answers": [{"text": "w6", "answer_start": 3}]}]}]}]}"#;

/// A result that cannot be written is an error of one line; one that nobody reads any more is none.
#[cfg(target_os = "linux")]
#[test]
fn standard_output_may_be_full_or_closed() {
    let folder = Folder::new();
    let model = folder.model("model", "distilbert-mlm", |_| ());
    let text = folder.write("text.txt", common::texts(50).join("\n"));
    let corpus = folder.name("a.tokens");
    let golden = common::golden("bert-mlm");
    let golden = golden.to_str().expect("UTF-8");
    let expected = format!("{golden}/expected.safetensors");
    let classifier = folder.model("classifier", "distilbert-classify", |_| ());
    let student = folder.name("student");
    for arguments in [
        &["corpus", "build", &text, "-o", &corpus, "--model", &model, "--min-tokens", "3"][..],
        &["pull", &model],
        &["inspect", &model],
        &["verify", golden, "--expected", &expected],
        &["predict", "classify", "--model", &classifier, "w5 w6"],
        &["distil", "--teacher", &model, "--init-only", "--output", &student],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
        let output = common::program(arguments).stdin(Stdio::null()).stdout(full).output().expect("an end");
        assert_eq!(error(&output), "error: standard output: No space left on device (os error 28)", "{arguments:?}");
        let _ = fs::remove_dir_all(&student);
        let mut child = common::program(arguments).stdin(Stdio::null()).spawn().expect("the program");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("an end");
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    }
}

/// The size of files is limited in place of the disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let folder = Folder::new();
    let model = folder.model("model", "distilbert-mlm", |_| ());
    let text = folder.write("text.txt", common::texts(400).join("\n"));
    let corpus = folder.name("a.tokens");
    stdout(&run(&["corpus", "build", &text, "-o", &corpus, "--model", &model, "--min-tokens", "3"]));
    let (tokens, output) = (folder.name("b.tokens"), folder.name("run"));
    let classifier = folder.model("classifier", "distilbert-classify", |_| ());
    let fails_on_a_full_disk = |blocks: usize, arguments: &[&str]| {
        let before = folder.contents();
        // Blocks of 512 bytes; a write past the end is an error instead of a signal.
        let limit = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let limited = ["-c", &limit, env!("CARGO_BIN_EXE_distilbert")];
        let output = std::process::Command::new("sh").args(limited).args(arguments).output().expect("an end");
        let message = error(&output);
        assert!(message.contains("File too large"), "{message}");
        assert!(before == folder.contents(), "{arguments:?} left something behind");
    };
    for arguments in [
        &["corpus", "build", &text, "-o", &tokens, "--train-vocabulary", "200", "--min-tokens", "3"][..],
        &["distil", "--teacher", &model, "--init-only", "--output", &output],
        &["compress", "quantize", "--model", &model, "--precision", "int8", "--output", &output],
    ] {
        fails_on_a_full_disk(4, arguments);
    }
    // Not even room for the configuration, or for a short page.
    let data = folder.write("data.tsv", "text\tlabel\nw5 w6\t0\nw7 w8\t1\n");
    let (deep, evaluation) = (folder.name("runs/deep/run"), folder.name("made/evaluation"));
    let columns = ["--file", &data, "--text-column", "text", "--label-column", "label"];
    for arguments in [
        &["distil", "--teacher", &model, "--corpus", &corpus, "--output", &deep][..],
        &[&["evaluate", "--model", &classifier, "--output", &evaluation], &columns[..]].concat(),
        &["report", &model, "--no-speed", "--output", &evaluation],
    ] {
        fails_on_a_full_disk(0, arguments);
    }
}

/// Neither a student nor its teacher's folder, nor one with other files, gives way to a new student; nor does a device to a
/// file.
#[test]
fn an_output_that_holds_something_else_is_refused() {
    let folder = Folder::new();
    let model = folder.model("model", "distilbert-mlm", |_| ());
    fs::create_dir(folder.path("notes")).expect("a folder");
    folder.write("notes/thesis.txt", "precious");
    let notes = folder.name("notes");
    for objective in [&[][..], &["--objective", "embedding"]] {
        for output in [&model, &notes] {
            let arguments = [&["distil", "--teacher", &model, "--init-only", "--output", output], objective].concat();
            folder.refuses(&arguments, &["expected a new folder, found another"]);
        }
    }
    let text = folder.write("text.txt", common::texts(50).join("\n"));
    let device = ["corpus", "build", &text, "--model", &model, "--min-tokens", "3", "--output"];
    // A link, so that not even a broken program harms the machine.
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/dev/null", folder.path("null")).expect("a link");
        let message = error(&run(&[&device[..], &[&folder.name("null")]].concat()));
        assert!(message.contains("null`: expected a file, found a device or pipe"), "{message}");
        // A link to a file is followed.
        let corpus = folder.write("corpus", "old");
        std::os::unix::fs::symlink(&corpus, folder.path("link")).expect("a link");
        stdout(&run(&[&device[..], &[&folder.name("link")]].concat()));
        assert!(folder.path("link").is_symlink() && fs::read(&corpus).expect("a corpus") != b"old");
    }
}

#[test]
fn a_run_does_not_begin_among_other_things() {
    let folder = Folder::new();
    let model = folder.model("model", "distilbert-nohead", |_| ());
    let data = folder.write("data.tsv", "sentence\tlabel\nw5 w6\t0\nw7\t1\n");
    fs::create_dir_all(folder.path("seeds/seed-1")).expect("a folder");
    folder.write("seeds/seed-1/config.toml", "");
    fs::create_dir(folder.path("run")).expect("a folder");
    folder.write("run/config.toml", "");
    let (seeds, run) = (folder.name("seeds"), folder.name("run"));
    let finetune = ["finetune", "--model", &model, "--task", "sst2", "--data", &data, "--output"];
    for (more, reason) in [
        (&[&model[..]][..], "model: holds a model"),
        (&[&seeds], "seeds: holds the runs of several seeds"),
        (&[&seeds, "--resume"], "seeds: holds the runs of several seeds"),
        (&[&seeds, "--search", "2"], "seeds: holds the runs of several seeds"),
        (&[&run, "--seeds", "2"], "run: holds a run"),
    ] {
        folder.refuses(&[&finetune[..], more].concat(), &[reason, "choose another directory"]);
    }
}

#[test]
fn an_output_below_a_file_is_refused() {
    let folder = Folder::new();
    let model = folder.model("model", "distilbert-mlm", |_| ());
    let text = folder.write("text.txt", common::texts(50).join("\n"));
    let corpus = folder.name("a.tokens");
    stdout(&run(&["corpus", "build", &text, "-o", &corpus, "--model", &model, "--min-tokens", "3"]));
    let below = format!("{text}/below");
    for arguments in [
        &["corpus", "build", &text, "--model", &model, "--min-tokens", "3", "--output", &below][..],
        &["corpus", "build", &text, "--train-vocabulary", "200", "--output", &below],
        &["pretrain", "--corpus", &corpus, "--init", &model, "--output", &below],
        &["distil", "--corpus", &corpus, "--teacher", &model, "--output", &below],
        &["distil", "--teacher", &model, "--init-only", "--output", &below],
    ] {
        folder.refuses(arguments, &["text.txt/below", "ot a directory"]);
    }
}

#[test]
fn a_configuration_with_an_unknown_key_or_a_value_out_of_range_starts_no_run() {
    let folder = Folder::new();
    let model = folder.model("model", "distilbert-mlm", |_| ());
    let text = folder.write("text.txt", common::texts(50).join("\n"));
    let corpus = folder.name("a.tokens");
    stdout(&run(&["corpus", "build", &text, "-o", &corpus, "--model", &model, "--min-tokens", "3"]));
    let output = folder.name("out");
    let pretrain = |more: &[&str], parts: &[&str]| {
        let base = ["pretrain", "--corpus", &corpus, "--init", &model, "--output", &output];
        folder.refuses(&[&base, more].concat(), parts);
    };
    for (name, toml, parts) in [
        ("key", "[training]\nepoch = 3\n", &["`epoch = 3`: unknown field `epoch`", "`epochs`"][..]),
        ("section", "[trainning]\nepochs = 3\n", &["`[trainning]`: unknown field"]),
        ("type", "[training]\nepochs = \"three\"\n", &["`epochs = \"three\"`: invalid type"]),
        ("negative", "[training]\nepochs = -1\n", &["`epochs = -1`: invalid value"]),
        ("syntax", "[training\n", &["syntax.toml", "line 1", "expected `]`"]),
    ] {
        let file = folder.write(&format!("{name}.toml"), toml);
        pretrain(&["--config", &file], parts);
    }
    pretrain(&["--config", &folder.name("none.toml")], &["none.toml", "No such file"]);
    pretrain(&["--learning-rate", "0"], &["`learning-rate`: expected above 0, found 0"]);
    pretrain(&["--learning-rate", "NaN"], &["`learning-rate`: expected a finite number, found NaN"]);
    pretrain(&["--epochs", "0"], &["epochs", "at least 1"]);
    pretrain(&["--batch-tokens", "0"], &["batching: expected at least 1 token or sequence, found 0"]);
}

#[test]
fn misuse_exits_with_2_and_says_how_to_use_it() {
    for arguments in
        [&["pretrain", "--no-such-flag"][..], &["no-such-command"], &[], &["predict", "classify"], &["corpus", "build"]]
    {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && stderr(&output).contains("Usage:"), "{}", stderr(&output));
    }
    let misused = |arguments: &str, parts: &[&str]| {
        let output = run(&arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "{arguments}: {}", stderr(&output));
        for part in parts {
            assert!(stderr(&output).contains(part), "`{part}` is not in: {}", stderr(&output));
        }
    };
    let finetune = |more: &str, parts: &[&str]| {
        misused(&format!("finetune --model m --task own --data d --output o {more}"), parts);
    };
    finetune("--seeds 2 --search 2", &["--search", "--seeds", "cannot be used with"]);
    finetune("--few-shot 4 --lora 4", &["--few-shot", "--lora", "cannot be used with"]);
    finetune("--seeds 0", &["--seeds", "0 is not in 1.."]);
    finetune("--seed 18446744073709551615", &["--seed", "is not in 0..=9223372036854775807"]);
    misused("distil --teacher t --output o --init-only --learning-rate 1", &["--init-only", "--learning-rate"]);
    misused("distil --teacher t --output o --init-only --max-steps 4", &["--init-only", "--max-steps"]);
    // A negative number is a value of the flag in front of it.
    for (arguments, flag) in [
        ("pretrain --corpus c --init m -o o --seed -1", "--seed <N>"),
        ("distil --teacher t --corpus c -o o --layers -1", "--layers <N>"),
        ("bench --model m --seconds -1", "--seconds <SECONDS>"),
        ("inspect m --threads -1", "--threads <N>"),
        ("inspect m --threads 0", "--threads <N>"),
    ] {
        misused(arguments, &["invalid value", flag]);
    }
    // Either of two.
    misused("bench", &["<--model <MODEL>|--random <CONFIG>>"]);
    misused("pretrain --corpus c -o o", &["<--init <MODEL>|--tokenizer <MODEL>>"]);
    misused("corpus build a.txt -o o", &["<--model <MODEL>|--train-vocabulary <SIZE>>"]);
    misused("data check a.tsv", &["--task <NAME>", "--text-column <COLUMN>", "--problem <PROBLEM>"]);
}

#[test]
fn any_text_is_classified_and_what_was_cut_is_said() {
    let folder = Folder::new();
    let model = folder.model("model", "distilbert-classify", |_| ());
    let naughty = [
        "w5 ".repeat(33_334),
        "x".repeat(100_000),
        "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467}".repeat(5_000),
        "e\u{301}".repeat(20_000) + " w5",
        String::new(),
        " \u{a0}\u{2003}\u{3000}".to_owned(),
        "\0\u{1}\u{7}\u{1b}[31m\u{7f}\u{85}\u{9f}".to_owned(),
        "a\rb\u{b}c\u{c}d\u{2028}e\u{2029}f".to_owned(),
        "\u{202e}w5 w6\u{202c} \u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{645}\u{631}\u{62d}\u{628}\u{627}".to_owned(),
        "\u{feff}w5\u{200b}w6\u{fffd}\u{fffe}\u{ffff}\u{10ffff}".to_owned(),
        "Z\u{334}\u{341}a\u{35c}l\u{489}g\u{337}o\u{321}".to_owned(),
        "\u{1d54b}\u{fb03}\u{130}\u{df}\u{3a3}\u{1c4}\u{ac00}\u{4e2d}\u{6587}".to_owned(),
        "[CLS] [SEP] [MASK] [PAD] [UNK] ##w5 w5##".to_owned(),
        "'; DROP TABLE t; -- <script>&amp;${x}`x`%s%n{}\\".to_owned(),
    ];
    let output = run_with(&["predict", "classify", "--model", &model, "--json"], naughty.join("\n").as_bytes());
    let found = lines(&stdout(&output));
    assert_eq!(found.len(), naughty.len());
    assert!(found.iter().all(|line| (0.0..=1.0).contains(&line["score"].as_f64().expect("a score"))));
    assert_eq!(found[0]["truncated_tokens"], 33_334 - 16);
    assert_eq!(found[1].get("truncated_tokens"), None, "a word too long is one unknown token");

    let plain = run_with(&["predict", "classify", "--model", &model], naughty.join("\n").as_bytes());
    assert_eq!(stdout(&plain).split('\n').count(), naughty.len() + 1);
    assert!(stderr(&plain).starts_with("warning: line 1: cut to 18 tokens, 33318 lost\n"), "{}", stderr(&plain));
}
