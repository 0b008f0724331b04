use std::fs;

use super::super::examples::DataError;
use super::*;
use crate::tokenizer::Tokenizer;

fn write(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn tokenizer() -> Tokenizer {
    let letters = ('a'..='z').map(|letter| letter.to_string());
    let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "é"].map(str::to_owned);
    Tokenizer::from_vocabulary(tokens.into_iter().chain(letters).collect(), false).unwrap()
}

/// A set of one question whose context is the letters from `a` on, one a token.
fn letters(question: &str, tokens: usize) -> QuestionSet {
    let context: Vec<String> = ('a'..='z').cycle().take(tokens).map(String::from).collect();
    QuestionSet::single(question, context.join(" "))
}

fn windows(set: &QuestionSet, max_length: usize, doc_stride: usize) -> QuestionWindows {
    QuestionWindows::new(set, &tokenizer(), WindowConfig { max_length, doc_stride }, 2).unwrap()
}

#[test]
fn squads_json_is_read_with_character_offsets() {
    let (_folder, path) = write(
        "dev.json",
        r#"{"version": "2", "data": [{"title": "t", "paragraphs": [
            {"context": "Zoë  lives in Köln.", "qas": [
                {"id": "a", "question": "Where?", "answers": [{"text": "Köln", "answer_start": 14}]},
                {"id": 7, "question": "Who?", "is_impossible": true, "answers": [], "plausible_answers": [{"text": "Zoë", "answer_start": 0}]}]},
            {"context": "漢字", "qas": [{"id": "c", "question": "?"}]}]}]}"#,
    );
    let set = read(&path).unwrap();
    assert_eq!(set.contexts.len(), 2);
    let answers: Vec<_> = set.questions.iter().map(|question| question.answers.clone()).collect();
    assert_eq!(answers[0], Some(vec![Answer { text: "Köln".to_owned(), bytes: Some(15..20) }]));
    assert_eq!(&set.contexts[0][15..20], "Köln");
    assert_eq!((&answers[1], &answers[2]), (&Some(Vec::new()), &None));
    assert_eq!(set.questions[1].id, "7");
    assert!(set.has_unanswerable() && !set.is_labelled() && set.misplaced.is_empty());
}

#[test]
fn answers_that_stand_elsewhere_are_kept_and_reported() {
    let (_folder, path) = write(
        "dev.json",
        r#"{"data": [{"paragraphs": [{"context": "red green", "qas": [
            {"id": "x", "question": "?", "answers": [{"text": "green", "answer_start": 3}, {"text": "red", "answer_start": -1},
                {"text": "", "answer_start": 0}, {"text": "green", "answer_start": 400}]}]}]}]}"#,
    );
    let set = read(&path).unwrap();
    assert_eq!(set.questions[0].answers.as_ref().unwrap().iter().filter(|answer| answer.bytes.is_some()).count(), 0);
    let reasons: Vec<&str> = set.misplaced.iter().map(|skipped| skipped.reason.as_str()).collect();
    assert_eq!(reasons[0], r#"question `x`: expected "green" at character 3, found " green""#);
    assert_eq!(reasons.len(), 4);
}

#[test]
fn json_lines_may_hold_answers_as_a_list_or_as_columns() {
    let (_folder, path) = write(
        "train.jsonl",
        "{\"context\": \"a b\", \"question\": \"q\", \"answers\": {\"text\": [\"b\"], \"answer_start\": [2]}}\n\n\
         {\"context\": \"a b\", \"question\": \"r\", \"id\": \"second\", \"answers\": [{\"text\": \"a\", \"answer_start\": 0}]}\n\
         {\"context\": \"c\", \"question\": \"s\", \"answers\": {\"text\": [], \"answer_start\": []}}\n\
         {\"context\": \"a b\", \"question\": \"t\"}\n",
    );
    let set = load(path.parent().unwrap(), Split::Train).unwrap();
    let ids: Vec<&str> = set.questions.iter().map(|question| question.id.as_str()).collect();
    assert_eq!(ids, ["1", "second", "4", "5"]);
    assert_eq!(set.questions.iter().map(|question| question.context).collect::<Vec<_>>(), [0, 0, 1, 0]);
    let bytes = |index: usize| set.questions[index].answers.as_ref().unwrap().first()?.bytes.clone();
    assert_eq!((bytes(0), bytes(1), bytes(2)), (Some(2..3), Some(0..1), None));
}

#[test]
fn what_is_no_question_is_an_error_that_names_the_line() {
    let error = |name: &str, text: &str| read(&write(name, text).1).unwrap_err().to_string();
    assert!(error("a.json", "{\"data\":\n [{}]}").contains("a.json:2: expected SQuAD's JSON"));
    assert!(error("a.json", "{\"data\": []}").contains("expected at least one row, found none"));
    let message = error("a.jsonl", "{\"context\": \"a\", \"question\": \"b\"}\n{\"context\": 1}");
    assert!(message.contains("a.jsonl:2: expected `context`, `question`"), "{message}");
    let columns = r#"{"context": "a", "question": "b", "answers": {"text": ["a"], "answer_start": []}}"#;
    assert!(error("a.jsonl", columns).contains("one length"));
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(load(folder.path(), Split::Dev), Err(DataError::MissingFile { .. })));
    for name in ["dev-v1.1.json", "dev-v2.0.json"] {
        fs::write(folder.path().join(name), "{}").unwrap();
    }
    assert!(load(folder.path(), Split::Dev).unwrap_err().to_string().contains("name the file"));
}

#[test]
fn a_split_shares_no_context_and_loses_no_question() {
    let mut set = QuestionSet { contexts: (0..10).map(|context| context.to_string()).collect(), ..Default::default() };
    for index in 0..40 {
        let (id, text, context) = (index.to_string(), format!("about {}", index % 10), index % 10);
        set.questions.push(Question { id, text, context, answers: Some(Vec::new()) });
    }
    let (train, validation) = set.clone().split(0.11);
    assert_eq!((train.contexts.len(), validation.contexts.len(), validation.questions.len()), (8, 2, 8));
    for part in [&train, &validation] {
        for question in &part.questions {
            assert_eq!(question.text, format!("about {}", part.contexts[question.context]));
        }
    }
    assert_eq!(set.clone().split(0.11), (train, validation), "the data alone decides");
    assert_eq!(set.clone().split(0.0).1.questions.len(), 0);
    assert_eq!(letters("a", 3).split(0.5).0.questions.len(), 1, "something is left to train on");
}

#[test]
fn windows_cover_the_context_and_overlap_by_the_doc_stride() {
    let set = letters("x y", 23);
    // Room for 12 - 3 - 2 = 7 tokens, step 7 - 3 = 4.
    let cut = windows(&set, 12, 3);
    let ranges: Vec<_> = cut.windows().iter().map(|window| window.tokens.clone()).collect();
    assert_eq!(ranges, [0..7, 4..11, 8..15, 12..19, 16..23]);
    assert_eq!(cut.lengths(), [12; 5]);
    let batch = cut.batch(&[4]);
    let names: Vec<_> = batch.input_ids().iter().map(|&id| tokenizer().token(id).unwrap().to_owned()).collect();
    assert_eq!(names.join(" "), "[CLS] x y [SEP] q r s t u v w [SEP]");
    assert_eq!(batch.token_types(), Some(&[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1][..]));
    assert_eq!(&set.contexts[0][cut.bytes(0, 16, 18)], "q r s");
    // What fits is one window, and so is nothing.
    assert_eq!(windows(&letters("x y", 7), 12, 3).windows().len(), 1);
    let empty = windows(&letters("x", 0), 12, 3);
    assert_eq!((empty.windows().len(), empty.lengths()), (1, vec![4]));
}

#[test]
fn a_question_is_cut_last_and_counted() {
    // 17 tokens of room; the question may have 12 of them, the context has 5 at least.
    let long = windows(&letters(&"q ".repeat(12), 9), 20, 8);
    assert_eq!((long.truncated_questions, long.windows().len()), (0, 3), "overlap by half of 5");
    let longer = windows(&letters(&"q ".repeat(13), 9), 20, 8);
    assert_eq!(longer.truncated_questions, 1);
    assert_eq!(longer.lengths()[0], 20);
    let config = |max_length, doc_stride| {
        let set = letters("q", 3);
        QuestionWindows::new(&set, &tokenizer(), WindowConfig { max_length, doc_stride }, 1).err()
    };
    assert_eq!(config(5, 1), Some(WindowError::MaxLength { expected: 6, found: 5 }));
    assert_eq!(config(10, 7), Some(WindowError::Overlap { limit: 7, found: 7 }));
    assert_eq!(config(10, 6), None);
}

#[test]
fn answers_become_the_tokens_that_hold_them() {
    let set = QuestionSet::single("q", "a b é c");
    let cut = windows(&set, 10, 2);
    let window = &cut.windows()[0];
    let target = |from: usize, to: usize| cut.target(window, Some(&(from..to)));
    // [CLS] q [SEP] a b é c [SEP]
    assert_eq!(target(0, 1), [3, 3]);
    assert_eq!(target(2, 6), [4, 5]);
    assert_eq!(target(4, 6), [5, 5]);
    assert_eq!(target(7, 8), [6, 6], "the last token, not the [SEP] behind it");
    assert_eq!(target(1, 2), [3, 4], "white space goes with what is around it");
    assert_eq!(cut.target(window, None), [0, 0]);
    // Of three windows over a to i, "e f" is whole in the second alone.
    let cut = windows(&letters("q", 9), 9, 2);
    let ranges: Vec<_> = cut.windows().iter().map(|window| window.tokens.clone()).collect();
    assert_eq!(ranges, [0..5, 3..8, 6..9]);
    let targets: Vec<_> = cut.windows().iter().map(|window| cut.target(window, Some(&(8..11)))).collect();
    assert_eq!(targets, [[0, 0], [4, 5], [0, 0]]);
}

#[test]
fn every_token_has_one_window_of_most_context() {
    for (tokens, max_length, doc_stride) in [(9, 9, 2), (23, 12, 3), (40, 15, 10), (5, 12, 3), (17, 11, 5)] {
        let cut = windows(&letters("q", tokens), max_length, doc_stride);
        for token in 0..tokens {
            let best = (0..cut.windows().len()).filter(|&window| cut.is_max_context(window, token)).count();
            assert_eq!(best, 1, "token {token} of {tokens}");
        }
        assert!((0..cut.windows().len()).all(|window| !cut.is_max_context(window, tokens)));
    }
}
