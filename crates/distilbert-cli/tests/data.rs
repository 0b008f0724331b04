//! `distilbert data` on small files.

mod common;

use common::{golden, lines, model, run, stderr, stdout};
use std::fs;
use std::path::Path;
use std::process::Output;

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).expect("a file");
    path.to_str().expect("a path").to_owned()
}

/// Standard output and error without the folder, of a run with this exit code.
fn outcome(output: &Output, folder: &Path, code: i32) -> (String, String) {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    let plain = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&*folder.to_string_lossy(), "F");
    (plain(&output.stdout), plain(&output.stderr))
}

#[test]
fn what_is_wrong_is_counted_and_named_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let train = "text,label\nGood film,p\n\"bad,\nfilm\",n\ngood film!,n\n\nw5,p,q\nb\u{fffd}d,n\n , p\n";
    let train = write(folder, "train.csv", train);
    let dev = write(folder, "dev.csv", "text,label\nBad film,n\nnew,x\n");
    let columns = ["--text-column", "text", "--label-column", "label"];
    let check = |more: &[&str]| run(&[&["data", "check", &train, &dev], &columns[..], more].concat());
    let (text, problems) = outcome(&check(&[]), folder, 1);
    for line in [
        "F/train.csv: 5 rows\n",
        "  label         n  3 (60.0 %)\n",
        "  label          p  1 (20.0 %)\n",
        "  skipped       1 lines that are no rows\n",
        "  empty texts   1: line 9\n",
        "  near ones     1: line 5 = 2\n",
        "  conflicts     1: line 5 = 2\n",
        "  broken        1 rows\n    F/train.csv:7: expected 2 columns as in the first line, found 3\n",
        "F/dev.csv: 2 rows\n",
        "  new labels    1: x\n",
        "  leaked        1 rows stand in F/train.csv too, 0 of them letter by letter: line 2 = 3\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert_eq!(
        problems,
        "error: F/train.csv: 1 broken rows; F/dev.csv: labels that the first file lacks: x; F/dev.csv: 1 rows stand in \
         F/train.csv too\n"
    );
    let found = lines(&outcome(&check(&["--json"]), folder, 1).0);
    assert_eq!((&found[0]["rows"], &found[0]["broken"]["count"], found[0].get("tokens")), (&5.into(), &1.into(), None));
    assert_eq!(found[1]["leaks"][0]["near"]["first"][0], serde_json::json!({"line": 2, "like": 3}));
}

#[test]
fn sound_files_pass_in_every_format_with_lengths_of_the_models_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model("distilbert-classify", &folder.join("model"));
    let name = folder.join("model").to_str().unwrap().to_owned();
    let long = ["w5"; 20].join(" ");
    let rows = [("w5 zzz", "a"), ("w6 w7 w8", "b"), (&long, "a")];
    let tsv: String = rows.iter().map(|(text, label)| format!("{text}\t{label}\n")).collect();
    let jsonl: String =
        rows.iter().map(|(text, label)| serde_json::json!({"text": text, "label": label}).to_string() + "\n").collect();
    let (tsv, jsonl) = (write(folder, "a.tsv", &tsv), write(folder, "a.jsonl", &jsonl));
    let numbered = ["--text-column", "1", "--label-column", "2", "--no-header"];
    let named = ["--text-column", "text", "--label-column", "label"];
    let tokens = |file: &str, columns: &[&str]| {
        let output = run(&[&["data", "check", file, "--model", &name, "--json"], columns].concat());
        lines(&stdout(&output))[0]["tokens"].clone()
    };
    let found = tokens(&tsv, &numbered);
    assert_eq!(found, tokens(&tsv, &[&numbered[..], &["--task", "mine"]].concat()), "a name of one's own");
    assert_eq!(found, tokens(&jsonl, &named));
    assert_eq!((&found["p50"], &found["max"], &found["max_length"]), (&5.into(), &22.into(), &18.into()));
    assert_eq!((&found["cut"], &found["cut_tokens"], &found["rows_with_unknown"]), (&1.into(), &4.into(), &1.into()));
    assert_eq!(found["unknown_share"], 1.0 / 25.0);
    let people = stdout(&run(&[&["data", "check", &tsv, "--model", &name], &numbered[..]].concat()));
    assert!(people.contains("  cut           1 rows (33.3 %) lose 4 tokens at 18\n"), "{people}");
}

#[test]
fn labels_that_differ_in_case_or_space_are_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.tsv", "text\tlabel\nw5\ttech\nw6\ttech \nw7\tTech\nw8\tart\n");
    let text = stdout(&run(&["data", "check", &file, "--text-column", "text", "--label-column", "label"]));
    assert!(text.contains("  alike labels  1 but for case and space: \"tech\" = \"tech \" = \"Tech\"\n"), "{text}");
}

#[test]
fn a_task_of_glue_is_checked_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "train.tsv", "sentence\tlabel\nw5 w6\t0\nw7\t1\nw8\t2\n");
    write(folder, "dev.tsv", "sentence\tlabel\nw5 w6\t0\n");
    write(folder, "test.tsv", "index\tsentence\n0\tw9\n");
    let (text, problems) = outcome(&run(&["data", "check", folder.to_str().unwrap(), "--task", "sst2"]), folder, 1);
    assert!(text.contains("    F/train.tsv:4: expected a label of \"0\", \"1\", found \"2\"\n"), "{text}");
    assert!(text.contains("  unlabelled    1\n"), "{text}");
    assert!(text.contains("  label         negative  1 (50.0 %)\n"), "{text}");
    assert_eq!(problems, "error: F/train.tsv: 1 broken rows; F/dev.tsv: 1 rows stand in F/train.tsv too\n");
    let (_, misuse) = outcome(&run(&["data", "check", folder.to_str().unwrap()]), folder, 2);
    assert!(misuse.contains("--task"), "{misuse}");
    let columns = ["--text-column", "body", "--label-column", "label"];
    let file = folder.join("dev.tsv");
    let (_, error) = outcome(&run(&[&["data", "check", file.to_str().unwrap()], &columns[..]].concat()), folder, 1);
    assert_eq!(error, "error: F/dev.tsv:1: no column `body`; found \"sentence\", \"label\"\n");
}

#[test]
fn words_with_tags_are_checked_sentence_by_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model("distilbert-classify", &folder.join("model"));
    let name = folder.join("model").to_str().unwrap().to_owned();
    let long = "w7 O\n".repeat(30);
    // IOB1: one span each in the first and the second; the third has a line without a tag, the fourth an unknown scheme.
    write(folder, "eng.train", &format!("w5 I-PER\nw6 I-PER\n\nw7 I-LOC\n\nw8\nw9 O\n\nw5 Q-X\n\nw7 O\n\n{long}"));
    write(folder, "eng.testa", "w5 I-PER\nw6 I-PER\n\nw9 I-ORG\n");
    let path = folder.to_str().unwrap();
    let check = |more: &[&str]| run(&[&["data", "check", path, "--task", "ner", "--model", &name], more].concat());
    let (text, problems) = outcome(&check(&[]), folder, 1);
    for line in [
        "F/eng.train: 4 sentences\n",
        "  label         PER  1 (50.0 %)\n",
        "  conflicts     1: line 11 = 4\n",
        "  broken        2 rows\n    F/eng.train:6: expected a word and its tag, found one column\n",
        "found `Q-X` at word 1 of the sentence that starts here\n",
        "  long          1 sentences (25.0 %) are read in windows of 18\n",
        "F/eng.testa: 2 sentences\n",
        "  new labels    1: ORG\n",
        "  leaked        1 sentences stand in F/eng.train too, 1 of them letter by letter: line 1 = 1\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert_eq!(
        problems,
        "error: F/eng.train: 2 broken rows; F/eng.testa: labels that the first file lacks: ORG; F/eng.testa: 1 rows stand \
         in F/eng.train too\n"
    );
    // Tags are counted a word each, from whichever column.
    let tags = write(folder, "tags.txt", "w5 N x\nw6 V x\n\nw7 N x\n");
    let found = lines(&stdout(&run(&["data", "check", &tags, "--problem", "tags", "--label-column", "2", "--json"])));
    assert_eq!(found[0]["labels"], serde_json::json!({"N": 2, "V": 1}));
    assert_eq!((&found[0]["kind"], &found[0]["rows"]), (&"tags".into(), &2.into()));
    let (_, error) = outcome(&run(&["data", "check", &tags, "--task", "ner", "--pair-column", "1"]), folder, 1);
    assert_eq!(error, "error: --pair-column: words with tags have no pairs\n");
}

#[test]
fn questions_and_intents_are_checked_by_what_they_have() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let question = |text: &str, answer: &str, start: usize| serde_json::json!({"id": text, "question": text, "answers": [{"text": answer, "answer_start": start}]});
    let squad = |questions: Vec<serde_json::Value>| {
        serde_json::json!({"data": [{"paragraphs": [{"context": "w5 w6 w7", "qas": questions}]}]}).to_string()
    };
    let mut none = question("w9", "", 0);
    none["answers"] = serde_json::json!([]);
    let train = vec![question("w8", "w6", 3), question("w8?", "w7", 6), none, question("w6", "w5", 4)];
    let train = write(folder, "train.json", &squad(train));
    let dev = write(folder, "dev.json", &squad(vec![question("w8", "w6", 3)]));
    let other = write(folder, "other.json", &squad(vec![question("w11", "w6", 3)]));
    let (text, problems) = outcome(&run(&["data", "check", &train, &dev, "--task", "squad"]), folder, 1);
    for line in [
        "F/train.json: 4 questions\n",
        "  label         answered  3 (75.0 %)\n  label         no answer  1 (25.0 %)\n",
        "  conflicts     1: question 2 = 1\n",
        "  misplaced     1 answers do not stand where the file says\n    question `w6`: expected \"w5\" at character 4, found",
        "  leaked        1 questions stand in F/train.json too, 1 of them letter by letter: question 1 = 1\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert_eq!(
        problems,
        "error: F/train.json: 1 answers do not stand where the file says; F/dev.json: 1 contexts stand in F/train.json \
         too; F/dev.json: 1 rows stand in F/train.json too\n"
    );
    // Other questions about the same text are known all the same.
    let (_, problems) = outcome(&run(&["data", "check", &dev, &other, "--task", "squad"]), folder, 1);
    assert_eq!(problems, "error: F/other.json: 1 contexts stand in F/dev.json too\n");
    let broken = write(folder, "broken.json", "{");
    let (text, _) = outcome(&run(&["data", "check", &broken, "--task", "squad"]), folder, 1);
    assert!(text.contains("F/broken.json:1: expected SQuAD's JSON"), "{text}");

    let train = folder.join("home/train");
    fs::create_dir_all(&train).unwrap();
    write(&train, "seq.in", "play w5\nplay w5\nstop\n");
    write(&train, "seq.out", "O B-song\nO O\nO\n");
    write(&train, "label", "Play\nPlay\nStop\n");
    let home = folder.join("home");
    let found = run(&["data", "check", home.to_str().unwrap(), "--task", "intents", "--json"]);
    let found = &lines(&stdout(&found))[0];
    assert_eq!(found["labels"], serde_json::json!({"Play": 2, "Stop": 1, "slot song": 1}));
    assert_eq!(found["conflicts"]["first"][0], serde_json::json!({"line": 2, "like": 1}));
    let people = stdout(&run(&["data", "check", home.to_str().unwrap(), "--task", "intents"]));
    for line in ["label         Play  2 (66.7 %)\n", "label         slot song  1 (100.0 %)\n"] {
        assert!(people.contains(line), "{line}{people}");
    }
    let (_, error) = outcome(
        &run(&["data", "check", home.to_str().unwrap(), "--task", "intents", "--label-column", "1"]),
        folder,
        1,
    );
    assert_eq!(error, "error: --task intents goes with neither columns nor --problem\n");
}

#[test]
fn pairs_are_recombined_into_a_file_that_a_teacher_can_label() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let encoder = golden("sentence-cls");
    let encoder = encoder.to_str().unwrap();
    let words = ["berlin", "wolfgang", "york", "lives", "in"];
    // Each word stands with itself and the next one, the first with itself twice.
    let rows: String = (0..11_usize)
        .map(|row| format!("{}\t{}\tno label\n", words[row / 2 % 5], words[row.div_ceil(2) % 5]))
        .collect();
    let pairs = write(folder, "pairs.tsv", &format!("a\tb\tscore\n{rows}"));
    let output = folder.join("more.jsonl");
    let recombine = |path: &str, output: &Path, more: &[&str]| {
        let output = output.to_str().unwrap();
        run(&[&["data", "recombine", path, "--model", encoder, "-o", output], more].concat())
    };
    let columns = ["--text-column", "a", "--pair-column", "b"];
    let said = stdout(&recombine(&pairs, &output, &columns));
    assert!(said.contains("15 pairs of 5 first and 5 second texts"), "{said}");
    let more = lines(&fs::read_to_string(&output).unwrap());
    let old: Vec<(&str, &str)> = rows
        .lines()
        .map(|row| row.split_once('\t').unwrap())
        .map(|(first, rest)| (first, rest.split('\t').next().unwrap()))
        .collect();
    for pair in &more {
        let (first, second) = (pair["a"].as_str().unwrap(), pair["b"].as_str().unwrap());
        assert!(!old.contains(&(first, second)) && first != second, "{pair}");
    }
    // The nearest come first, as `predict embed` has them.
    let vectors: Vec<Vec<f64>> =
        lines(&stdout(&run(&[&["predict", "embed", "--model", encoder], &words[..]].concat())))
            .iter()
            .map(|vector| serde_json::from_value(vector.clone()).unwrap())
            .collect();
    let near = |a: &str, b: &str| -> f64 {
        let of = |word: &str| &vectors[words.iter().position(|&other| other == word).unwrap()];
        of(a).iter().zip(of(b)).map(|(a, b)| a * b).sum()
    };
    for three in more.chunks(3) {
        let of: Vec<f64> =
            three.iter().map(|pair| near(pair["a"].as_str().unwrap(), pair["b"].as_str().unwrap())).collect();
        assert!(of.is_sorted_by(|a, b| a >= b), "{of:?}");
    }
    let one = folder.join("one.jsonl");
    stdout(&recombine(&pairs, &one, &[&columns[..], &["--each", "1"]].concat()));
    assert_eq!(lines(&fs::read_to_string(&one).unwrap()).len(), 5);

    // Official files stay such, so that `finetune` reads them with the task's name alone.
    let mrpc: String = rows.lines().map(|row| format!("1\t0\t0\t{}\n", row.trim_end_matches("\tno label"))).collect();
    let mrpc = write(folder, "train.tsv", &format!("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n{mrpc}"));
    let table = folder.join("more.tsv");
    stdout(&recombine(&mrpc, &table, &["--task", "mrpc"]));
    let text = fs::read_to_string(&table).unwrap();
    assert!(text.starts_with("#1 String\t#2 String\n") && text.lines().count() == 16, "{text}");
    let teacher = ["finetune", "--model", encoder, "--task", "mrpc", "--data", &mrpc, "--epochs", "1", "--quiet", "-o"];
    let [teacher_run, student_run] = ["teacher", "student"].map(|name| folder.join(name).to_str().unwrap().to_owned());
    stdout(&run(&[&teacher[..], &[&teacher_run]].concat()));
    let best = format!("{teacher_run}/best");
    let taught = ["--teacher", &best, "--unlabelled", table.to_str().unwrap()];
    let student = run(&[&teacher[..10], &["-o", &student_run], &taught].concat());
    assert!(stderr(&student).contains("15 texts for the teacher to label"), "{}", stderr(&student));

    let refused = |output: &Path, path: &str, more: &[&str]| outcome(&recombine(path, output, more), folder, 1).1;
    // A folder's training file, under whatever name it is found.
    let own = refused(Path::new(&mrpc), folder.to_str().unwrap(), &["--task", "mrpc"]);
    assert_eq!(own, "error: `F/train.tsv` is an input, and would be replaced by the output: choose another output\n");
    let single = refused(&table, &mrpc, &["--task", "sst2"]);
    assert_eq!(single, "error: task `sst2`: expected one on pairs of texts, found one on single ones\n");
    let name = refused(&folder.join("more.csv"), &mrpc, &["--task", "mrpc"]);
    assert_eq!(name, "error: F/more.csv: expected a name ending in .tsv for texts of task `mrpc`, found more.csv\n");
    let lone = write(folder, "lone.tsv", "a\tb\nberlin\tyork\n");
    let nothing = refused(&output, &lone, &columns);
    assert_eq!(nothing, "error: F/lone.tsv: every first text stands with every second one already\n");
    assert_eq!(lines(&fs::read_to_string(&output).unwrap()).len(), 15, "what was there is there still");
}
