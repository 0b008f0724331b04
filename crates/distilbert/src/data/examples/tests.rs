use std::fs;
use std::path::PathBuf;

use super::*;

/// A folder with one file of this content.
fn file(name: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    fs::write(&path, content).expect("a writable file");
    (folder, path)
}

fn glue(task: &str, content: impl AsRef<[u8]>, split: Split) -> Result<DataSet, DataError> {
    let (_folder, path) = file("data.tsv", content);
    load(&Task::glue(task)?, &path, split)
}

/// The message without the folder, which differs on each run.
fn message(result: Result<DataSet, DataError>) -> String {
    let text = result.expect_err("a refusal").to_string();
    assert!(!text.contains('\n'), "{text}");
    text.rsplit_once('/').map_or(text.clone(), |(_, rest)| rest.to_owned())
}

fn columns_task(name: &str, content: &str, problem: Problem) -> Result<(Task, DataSet), DataError> {
    let (_folder, path) = file(name, content);
    let task = Task::from_columns("own", &path, &Columns::new("text", "label"), problem)?;
    let data = load(&task, &path, Split::Train)?;
    Ok((task, data))
}

#[test]
fn every_spelling_of_a_task_name_is_the_same_task() {
    for name in ["sst2", "sst-2", "SST-2", "SST_2"] {
        assert_eq!(Task::glue(name).expect("a task").name, "sst2");
    }
    let error = Task::glue("imdb").expect_err("not a GLUE task").to_string();
    assert_eq!(error, "unknown task `imdb`: expected one of cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli, ax");
}

#[test]
fn label_order_is_hugging_faces() {
    assert_eq!(Task::glue("mnli").expect("a task").labels, ["entailment", "neutral", "contradiction"]);
    assert_eq!(Task::glue("rte").expect("a task").labels, ["entailment", "not_entailment"]);
    assert_eq!(Task::glue("wnli").expect("a task").labels, ["not_entailment", "entailment"]);
    assert_eq!(Task::glue("stsb").expect("a task").outputs(), 1);
}

#[test]
fn quotes_are_ordinary_characters_in_glue() {
    let data = glue("sst2", "sentence\tlabel\n\"a bad film\t0\nsaid \"no\" \"\t1\n", Split::Train).expect("two rows");
    assert_eq!(data.examples[0].text_a, "\"a bad film");
    assert_eq!(data.examples[1].text_a, "said \"no\" \"");
    assert_eq!((data.examples[1].label.clone(), data.examples[1].line), (Label::Class(1), 3));
}

#[test]
fn mrpc_is_read_through_its_byte_order_mark_and_windows_line_ends() {
    let text = "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\tone\ttwo\r\n";
    let data = glue("mrpc", text, Split::Train).expect("one row");
    let expected = Example { text_a: "one".into(), text_b: Some("two".into()), label: Label::Class(1), line: 2 };
    assert_eq!(data.examples, [expected]);
}

#[test]
fn cola_has_no_header_but_its_test_file_has() {
    let labelled = glue("cola", "gj04\t0\t*\tHim sleeps.\n", Split::Dev).expect("one row");
    assert_eq!(labelled.examples[0].text_a, "Him sleeps.");
    assert_eq!(labelled.examples[0].label, Label::Class(0));
    let test = glue("cola", "index\tsentence\n0\tHe sleeps.\n", Split::Test).expect("one row");
    assert_eq!((test.examples[0].text_a.as_str(), &test.examples[0].label), ("He sleeps.", &Label::None));
}

#[test]
fn mnli_takes_the_gold_label_and_not_a_single_annotators() {
    let text = "index\tpromptID\tpairID\tgenre\ta\tb\tc\td\tsentence1\tsentence2\tlabel1\tgold_label\n\
                0\t-\t-\t-\t-\t-\t-\t-\tp\th\tneutral\tcontradiction\n";
    let data = glue("mnli", text, Split::Dev).expect("one row");
    assert_eq!((data.examples[0].text_a.as_str(), data.examples[0].text_b.as_deref()), ("p", Some("h")));
    assert_eq!(data.examples[0].label, Label::Class(2));
}

#[test]
fn qnli_has_a_question_and_wnli_numbers_for_labels() {
    let text = "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tnot_entailment\n";
    let data = glue("qnli", text, Split::Train).expect("one row");
    let expected = Example { text_a: "Who?".into(), text_b: Some("He.".into()), label: Label::Class(1), line: 2 };
    assert_eq!(data.examples, [expected]);
    let data = glue("wnli", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n", Split::Train).expect("one row");
    assert_eq!((data.examples[0].text_b.as_deref(), &data.examples[0].label), (Some("b"), &Label::Class(1)));
}

#[test]
fn stsb_scores_are_numbers_from_0_to_5() {
    let row = |score: &str| format!("sentence1\tsentence2\tscore\na\tb\t{score}\n");
    let data = glue("stsb", row("3.800"), Split::Dev).expect("one row");
    assert_eq!(data.examples[0].label, Label::Score(3.8));
    for bad in ["5.1", "nan", "", "four"] {
        assert_eq!(
            message(glue("stsb", row(bad), Split::Dev)),
            format!("data.tsv:2: expected a score from 0 to 5, found {bad:?}")
        );
    }
}

#[test]
fn qqp_leaves_out_broken_rows_and_lists_them() {
    let text = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n\
                0\t1\t2\twho\twhat\t1\n1\t3\t4\tcut in\nhalf\t0\n2\t5\t6\twhen\twhere\t0\n";
    let data = glue("qqp", text, Split::Train).expect("two rows");
    assert_eq!(data.examples.len(), 2);
    let reason = |columns| format!("expected 6 tab-separated columns, found {columns}");
    assert_eq!(data.skipped, [Skipped { line: 3, reason: reason(4) }, Skipped { line: 4, reason: reason(2) }]);
}

#[test]
fn test_files_may_lack_labels_and_others_may_not() {
    let text = "index\tsentence1\tsentence2\n0\ta\tb\n";
    assert_eq!(glue("rte", text, Split::Test).expect("one row").examples[0].label, Label::None);
    assert_eq!(
        message(glue("rte", text, Split::Dev)),
        "data.tsv:1: no column `label`; found \"index\", \"sentence1\", \"sentence2\""
    );
}

#[test]
fn labels_of_texts_that_are_read_as_unlabelled_are_passed_over() {
    let odd = "sentence1\tsentence2\tlabel\na\tb\tperhaps\n";
    let cola = "gj04\t?\t*\tHim sleeps.\n";
    for (task, text) in [("rte", odd), ("cola", cola)] {
        assert_eq!(glue(task, text, Split::Unlabelled).expect("one row").examples[0].label, Label::None, "{task}");
        assert!(glue(task, text, Split::Test).is_err(), "{task}");
    }
    let columns = Columns::new("text", "label");
    let folder = tempfile::tempdir().expect("temporary folder");
    for (name, text) in [("a.csv", "text,label\none,perhaps\n"), ("a.jsonl", "{\"text\": \"one\", \"label\": 3}\n")] {
        let [train, path] = ["train.csv", name].map(|name| folder.path().join(name));
        fs::write(&train, "text,label\none,yes\ntwo,no\n").expect("train written");
        fs::write(&path, text).expect("file written");
        let task = Task::from_columns("mine", &train, &columns, Problem::Classification).expect("two labels");
        let data = load(&task, &path, Split::Unlabelled).expect("one row");
        assert_eq!((data.examples[0].text_a.as_str(), &data.examples[0].label), ("one", &Label::None), "{name}");
        assert!(load(&task, &path, Split::Test).is_err(), "{name}");
    }
}

#[test]
fn broken_glue_rows_are_refused_by_file_and_line() {
    assert_eq!(
        message(glue("sst2", "sentence\tlabel\na\t1\nb\n", Split::Train)),
        "data.tsv:3: expected 2 tab-separated columns, found 1"
    );
    assert_eq!(
        message(glue("sst2", "sentence\tlabel\na\t2\n", Split::Train)),
        "data.tsv:2: expected a label of \"0\", \"1\", found \"2\""
    );
    assert_eq!(message(glue("sst2", b"sentence\tlabel\na\t1\n\xff\t1\n", Split::Train)), "data.tsv:3: not valid UTF-8");
    for empty in ["", "sentence\tlabel\n"] {
        assert_eq!(message(glue("sst2", empty, Split::Train)), "data.tsv: expected at least one row, found none");
    }
}

#[test]
fn the_task_folder_is_found_under_the_glue_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("SST-2")).expect("a folder");
    fs::write(folder.path().join("SST-2/dev.tsv"), "sentence\tlabel\na\t1\n").expect("a file");
    let task = Task::glue("sst2").expect("a task");
    assert_eq!(load(&task, folder.path(), Split::Dev).expect("one row").examples.len(), 1);
    let error = load(&task, folder.path(), Split::Train).expect_err("no train.tsv").to_string();
    assert!(error.ends_with("expected a file train.tsv for split `train`, found none"), "{error}");
    let error = load(&task, folder.path(), Split::DevMismatched).expect_err("MNLI only").to_string();
    assert_eq!(error, "task `sst2`: no split `dev_mismatched`; expected one of train, dev, test");
}

#[test]
fn splits_have_their_usual_names() {
    for (name, split) in [
        ("dev", Split::Dev),
        ("validation", Split::Dev),
        ("dev_matched", Split::Dev),
        ("validation-mismatched", Split::DevMismatched),
        ("test_matched", Split::Test),
    ] {
        assert_eq!(name.parse::<Split>().expect("a split"), split, "{name}");
    }
    assert!("devel".parse::<Split>().is_err());
}

#[test]
fn labels_are_sorted_by_number_or_name_whatever_the_row_order() {
    let (task, data) = columns_task("a.csv", "label,text\n10,a\n9,b\n10,c\n", Problem::Classification).expect("a task");
    assert_eq!(task.labels, ["9", "10"]);
    assert_eq!(data.examples[0].label, Label::Class(1));
    let (task, _) = columns_task("a.tsv", "text\tlabel\na\tspam\nb\tham\n", Problem::Classification).expect("a task");
    assert_eq!(task.labels, ["ham", "spam"]);
    let stored = serde_json::to_string(&task).expect("a task is JSON");
    assert_eq!(serde_json::from_str::<Task>(&stored).expect("the same task"), task);
}

#[test]
fn csv_fields_may_hold_commas_quotes_and_line_breaks() {
    let text = "id,text,label\r\n1,\"one, \"\"two\"\"\nthree\",x\r\n\r\n2,5\" pipe,y\r\n";
    let (_, data) = columns_task("a.csv", text, Problem::Classification).expect("two rows");
    assert_eq!(data.examples[0].text_a, "one, \"two\"\nthree");
    assert_eq!((data.examples[1].text_a.as_str(), data.examples[1].line), ("5\" pipe", 5));
}

#[test]
fn a_csv_quote_that_is_never_closed_is_refused() {
    let text = "label,text\nx,a\ny,\"b\nx,c\ny,d\n";
    assert_eq!(
        message(columns_task("a.csv", text, Problem::Classification).map(|(_, data)| data)),
        "a.csv:3: expected every quoted field closed, found a quote open to the end of the file"
    );
}

#[test]
fn jsonl_labels_may_be_strings_numbers_or_truths() {
    for (one, other, names) in
        [("\"b\"", "\"a\"", ["a", "b"]), ("1", "0", ["0", "1"]), ("true", "false", ["false", "true"])]
    {
        let text = format!("{{\"text\":\"x\",\"label\":{one}}}\n\n{{\"text\":\"y\",\"label\":{other}}}\n");
        let (task, data) = columns_task("a.jsonl", &text, Problem::Classification).expect("two rows");
        assert_eq!(task.labels, names);
        assert_eq!(
            data.examples.iter().map(|example| example.label.clone()).collect::<Vec<_>>(),
            [Label::Class(1), Label::Class(0)]
        );
        assert_eq!(data.skipped.len(), 1);
    }
}

#[test]
fn several_labels_come_separated_or_as_an_array() {
    let csv = "text,label\na,\"joy, anger\"\nb,\nc,joy\n";
    let json = "{\"text\":\"a\",\"label\":[\"joy\",\"anger\"]}\n{\"text\":\"b\",\"label\":[]}\n{\"text\":\"c\",\"label\":\"joy\"}";
    let arrays = "text,label\na,\"[\"\"joy\"\", \"\"anger\"\"]\"\nb,[]\nc,joy\n";
    for (name, text) in [("a.csv", csv), ("b.csv", arrays), ("a.jsonl", json)] {
        let (task, data) = columns_task(name, text, Problem::MultiLabel).expect("three rows");
        assert_eq!(task.labels, ["anger", "joy"]);
        let labels: Vec<_> = data.examples.iter().map(|example| example.label.clone()).collect();
        let expected = [[true, true], [false, false], [false, true]];
        assert_eq!(labels, expected.map(|applies| Label::Classes(applies.to_vec())));
    }
}

#[test]
fn regression_takes_finite_numbers_only() {
    let (task, data) = columns_task("a.csv", "text,label\na,-1.5\nb,2\n", Problem::Regression).expect("two rows");
    assert_eq!((task.outputs(), &data.examples[0].label), (1, &Label::Score(-1.5)));
    let refused = columns_task("a.csv", "text,label\na,inf\n", Problem::Regression).map(|(_, data)| data);
    assert_eq!(message(refused), "a.csv:2: expected a finite number, found \"inf\"");
}

#[test]
fn labels_unknown_to_the_task_are_refused() {
    let (task, _) = columns_task("a.csv", "text,label\na,0\nb,1\n", Problem::Classification).expect("a task");
    let (_folder, path) = file("dev.csv", "text,label\na,0\nb,7\n");
    assert_eq!(message(load(&task, &path, Split::Dev)), "dev.csv:3: expected a label of \"0\", \"1\", found \"7\"");
}

#[test]
fn files_that_define_no_task_are_refused() {
    let refusal =
        |name: &str, text: &str| message(columns_task(name, text, Problem::Classification).map(|(_, data)| data));
    assert_eq!(
        refusal("a.csv", "text,label\na,x\nb,x\n"),
        "a.csv: expected at least 2 different labels, found only \"x\""
    );
    assert_eq!(
        refusal("a.csv", "text,label\na,0.5\nb,1\n"),
        "a.csv: expected class labels (or the regression problem to be asked for), found fractional numbers such as 0.5"
    );
    assert_eq!(refusal("a.csv", "text,class\na,x\n"), "a.csv:1: no column `label`; found \"text\", \"class\"");
    assert_eq!(refusal("a.csv", "text,label\na\n"), "a.csv:2: expected 2 columns as in the first line, found 1");
    assert_eq!(refusal("a.csv", "text,label\na,\n"), "a.csv:2: expected a label, found none");
    assert_eq!(refusal("a.jsonl", "[1]\n"), "a.jsonl:1: expected a JSON object, found an array");
    assert_eq!(
        refusal("a.jsonl", "{\"text\":3,\"label\":\"x\"}\n"),
        "a.jsonl:1: expected a string in `text`, found a number"
    );
    assert_eq!(refusal("a.jsonl", ""), "a.jsonl: expected at least one row, found none");
    assert_eq!(refusal("a.xlsx", "x"), "a.xlsx: expected a file ending in .csv, .tsv, .jsonl, .json or .txt");
    assert!(refusal("a.jsonl", "{\"text\":").starts_with("a.jsonl:1: expected a JSON object, found"));
}

#[test]
fn columns_of_a_file_without_a_header_are_numbers() {
    let numbered = Columns { header: false, ..Columns::new("2", "1") };
    for (name, content) in [("data.tsv", "yes\ta b\nno\tc\n"), ("data.csv", "yes,a b\nno,c\n")] {
        let (_folder, path) = file(name, content);
        let task = Task::from_columns("own", &path, &numbered, Problem::Classification).expect("two labels");
        assert_eq!(task.labels, ["no", "yes"]);
        let data = load(&task, &path, Split::Train).expect("two rows");
        let rows: Vec<_> = data.examples.iter().map(|row| (&row.text_a[..], row.label.clone(), row.line)).collect();
        assert_eq!(rows, [("a b", Label::Class(1), 1), ("c", Label::Class(0), 2)]);
        for wrong in ["0", "3", "text"] {
            let columns = Columns { text: wrong.to_owned(), ..numbered.clone() };
            let refused = Task::from_columns("own", &path, &columns, Problem::Classification).expect_err("no column");
            let expected = format!("{name}:1: no column `{wrong}`; found columns 1 to 2, no header");
            assert!(refused.to_string().ends_with(&expected), "{refused}");
        }
    }
}
