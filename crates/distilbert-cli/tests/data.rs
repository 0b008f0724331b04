//! `distilbert data check` on small files.

mod common;

use common::{lines, model, run, stderr, stdout};
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
    assert_eq!(found, tokens(&jsonl, &named));
    assert_eq!((&found["p50"], &found["max"], &found["max_length"]), (&5.into(), &22.into(), &18.into()));
    assert_eq!((&found["cut"], &found["cut_tokens"], &found["rows_with_unknown"]), (&1.into(), &4.into(), &1.into()));
    assert_eq!(found["unknown_share"], 1.0 / 25.0);
    let people = stdout(&run(&[&["data", "check", &tsv, "--model", &name], &numbered[..]].concat()));
    assert!(people.contains("  cut           1 rows (33.3 %) lose 4 tokens at 18\n"), "{people}");
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
