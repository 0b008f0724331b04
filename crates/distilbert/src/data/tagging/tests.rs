use super::*;
use std::fs;

fn write(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn columns(words: Option<&str>, tags: Option<&str>) -> WordColumns {
    WordColumns { words: words.map(str::to_owned), tags: tags.map(str::to_owned) }
}

fn read_all(name: &str, text: &str, columns: &WordColumns, problem: Problem) -> Result<TaggedSet, String> {
    let (_folder, path) = write(name, text);
    let task = Task::from_words("mine", &path, columns, problem).map_err(|error| error.to_string())?;
    load(&task, &path, Split::Train).map_err(|error| error.to_string())
}

fn tags(set: &TaggedSet) -> Vec<String> {
    set.sentences.iter().map(|sentence| sentence.tags.join(" ")).collect()
}

const CONLL_2003: &str = "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\nGerman JJ I-NP I-MISC\ncall NN I-NP \
                          B-MISC\n. . O O\n\n\nPeter NNP I-NP I-PER\nBlackburn NNP I-NP I-PER\n";

#[test]
fn conll_2003_is_read_from_any_of_its_columns_and_its_iob1_becomes_bio() {
    let set = read_all("eng.train", CONLL_2003, &WordColumns::default(), Problem::Entities).unwrap();
    assert_eq!(tags(&set), ["B-ORG O B-MISC B-MISC O", "B-PER I-PER"]);
    assert_eq!(set.sentences[1].words, ["Peter", "Blackburn"]);
    assert_eq!(set.sentences.iter().map(|sentence| sentence.line).collect::<Vec<_>>(), [3, 10]);
    assert_eq!(set.task.labels, ["O", "B-MISC", "I-MISC", "B-ORG", "I-ORG", "B-PER", "I-PER"]);

    let parts = read_all("eng.train", CONLL_2003, &WordColumns::default(), Problem::Tags).unwrap();
    assert_eq!(tags(&parts)[1], "NNP NNP");
    for chunk in ["3", "chunk"] {
        let set = read_all("eng.train", CONLL_2003, &columns(None, Some(chunk)), Problem::Entities).unwrap();
        assert_eq!(tags(&set), ["B-NP B-VP B-NP I-NP O", "B-NP I-NP"]);
    }
}

#[test]
fn words_before_a_tab_may_hold_spaces_and_other_schemes_say_the_same() {
    let set = read_all(
        "train.tsv",
        "10 000\tS-NUM\nof\tO\n\nNew\tB-LOC\nYork\tL-LOC\nX\tU-LOC\n",
        &WordColumns::default(),
        Problem::Entities,
    )
    .unwrap();
    assert_eq!(set.sentences[0].words, ["10 000", "of"]);
    assert_eq!(tags(&set), ["B-NUM O", "B-LOC I-LOC B-LOC"]);
}

const CONLL_U: &str = "# text = Don't go\n1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_\n1\tDo\tdo\tAUX\tVBP\t_\t3\taux\t_\t_\n2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_\n3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\t_\n3.1\tgo\tgo\tVERB\tVB\t_\t_\t_\t_\t_\n\n1\t#\t#\tSYM\tSYM\t_\t0\troot\t_\t_\n";

#[test]
fn conll_u_gives_its_words_without_multiword_tokens_and_empty_nodes() {
    let set = read_all("x.conllu", CONLL_U, &WordColumns::default(), Problem::Tags).unwrap();
    assert_eq!(set.sentences[0].words, ["Do", "n't", "go"]);
    assert_eq!(tags(&set), ["AUX PART VERB", "SYM"]);
    for column in ["xpos", "XPOS", "5"] {
        let set = read_all("x.conllu", CONLL_U, &columns(Some("lemma"), Some(column)), Problem::Tags).unwrap();
        assert_eq!((tags(&set)[0].as_str(), set.sentences[0].words[1].as_str()), ("VBP RB VB", "not"));
    }
}

#[test]
fn a_line_may_name_the_columns() {
    let text = "# global.columns = ID NER FORM\n1 O a\n2 B-X b\n";
    let set = read_all("train.txt", text, &columns(Some("form"), Some("ner")), Problem::Entities).unwrap();
    assert_eq!((set.sentences[0].words.join(" "), tags(&set)), ("a b".to_owned(), vec!["O B-X".to_owned()]));
}

#[test]
fn lists_are_read_from_jsonl() {
    let text = "{\"tokens\":[\"a\",\"b\"],\"tags\":[\"B-X\",\"I-X\"]}\n\n{\"tokens\":[],\"tags\":[]}\n";
    let set = read_all("train.jsonl", text, &WordColumns::default(), Problem::Entities).unwrap();
    assert_eq!(tags(&set), ["B-X I-X"]);
    assert_eq!((set.skipped.len(), set.skipped[0].line), (1, 3));
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let entities = |name: &str, text: &str, tag: Option<&str>| {
        read_all(name, text, &columns(None, tag), Problem::Entities).unwrap_err()
    };
    for (error, expected) in [
        (entities("train.txt", "a O\nb\n", None), "train.txt:2: expected a word and its tag, found one column"),
        (entities("train.txt", "a O\nb B-X\n", Some("7")), "train.txt:1: no column `7`; found 2 columns"),
        (entities("train.txt", "a O\nb B-X\n", Some("ner")), "train.txt:1: no column `ner`; found 2 columns"),
        (entities("train.txt", "\n\n", None), "train.txt: expected at least one row, found none"),
        (entities("train.txt", "a O\n", None), "train.txt: expected at least 2 different tags, found only O"),
        (
            entities("train.txt", "\na O\nb NN\n", None),
            "train.txt:2: expected tags `O`, or `B-`, `I-`, `E-`, `S-`, `L-` or `U-` with a type, found `NN` at word 2 \
             of the sentence that starts here",
        ),
        (entities("train.jsonl", "{\"tokens\":[\"a\"]}", None), "train.jsonl:1: no column `tags`; found tokens"),
        (
            entities("train.jsonl", "{\"tokens\":[\"a\"],\"tags\":[]}", None),
            "train.jsonl:1: expected a tag for each of 1 words, found 0",
        ),
        (
            entities("train.jsonl", "{\"tokens\":[\"a\"],\"tags\":[1]}", None),
            "train.jsonl:1: expected a list of strings as `tags`, none of them empty, found \"[1]\"",
        ),
    ] {
        assert!(error.ends_with(expected), "{error}\n{expected}");
    }
}

#[test]
fn a_type_that_the_task_lacks_is_refused_and_a_tag_in_bio_is_not() {
    let (_folder, path) = write("train.txt", "a B-X\nb O\n");
    let task = Task::from_words("mine", &path, &WordColumns::default(), Problem::Entities).unwrap();
    let (_folder, dev) = write("dev.txt", "a I-X\nb I-X\n\nc I-Y\n");
    let error = load(&task, &dev, Split::Train).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "dev.txt:4: expected one of the types X, found `Y` at the word `c` of the sentence that starts here"
        ),
        "{error}"
    );
    // As seqeval has it, it is one that no model finds.
    let set = load(&task, &dev, Split::Dev).unwrap();
    let found: Vec<_> = unknown(&task, &set.sentences).map(|unknown| (unknown.sentence.line, unknown.name)).collect();
    assert_eq!(found, [(4, "Y".to_owned())]);
    let (_folder, dev) = write("dev.txt", "a I-X\nb I-X\n");
    assert_eq!(tags(&load(&task, &dev, Split::Dev).unwrap()), ["B-X I-X"]);
}

#[test]
fn a_folders_files_are_found_by_the_words_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["en_ewt-ud-train-subset.conllu", "eng.testa", "test.txt"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    let name = |split| Some(find_file(folder.path(), split).ok()?.file_name()?.to_str()?.to_owned());
    assert_eq!(name(Split::Train).as_deref(), Some("en_ewt-ud-train-subset.conllu"));
    assert_eq!(name(Split::Dev).as_deref(), Some("eng.testa"));
    fs::write(folder.path().join("x.dev.txt"), "").unwrap();
    let error = find_file(folder.path(), Split::Dev).unwrap_err().to_string();
    assert!(error.ends_with("found eng.testa, x.dev.txt"), "{error}");
}
