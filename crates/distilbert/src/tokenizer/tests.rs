use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

fn vocabulary(words: &[&str]) -> Vec<String> {
    SPECIAL.iter().chain(words).map(|token| (*token).to_owned()).collect()
}

fn uncased() -> Tokenizer {
    let words =
        ["the", "cat", "##s", "cafe", "!", "漢", "a", "b", "c", "d", "##a", "🙂", "resume", "un", "##able", "x"];
    Tokenizer::from_vocabulary(vocabulary(&words), true).expect("complete")
}

fn tokens<'t>(tokenizer: &'t Tokenizer, encoding: &Encoding) -> Vec<&'t str> {
    encoding.input_ids.iter().map(|&id| tokenizer.token(id).expect("own id")).collect()
}

/// Tokens between `[CLS]` and `[SEP]`, with the text each covers.
fn pieces<'a>(tokenizer: &'a Tokenizer, text: &'a str) -> Vec<(&'a str, &'a str)> {
    let encoding = tokenizer.encode(text, None, None);
    let all = tokens(tokenizer, &encoding)
        .into_iter()
        .zip(&encoding.offsets)
        .map(|(token, range)| (token, &text[range.clone()]));
    let inner: Vec<_> = all.collect();
    inner[1..inner.len() - 1].to_vec()
}

#[test]
fn text_is_split_as_bert_splits_it() {
    let tokenizer = uncased();
    assert_eq!(pieces(&tokenizer, "The CATS!"), [("the", "The"), ("cat", "CAT"), ("##s", "S"), ("!", "!")]);
    // Accents go, composed or combining; the offsets keep them.
    assert_eq!(pieces(&tokenizer, "Café cafe\u{301}")[0], ("cafe", "Café"));
    assert_eq!(pieces(&tokenizer, "Café cafe\u{301}!")[1].0, "cafe");
    // A CJK ideograph is a word of its own, an emoji is not.
    assert_eq!(pieces(&tokenizer, "a漢a"), [("a", "a"), ("漢", "漢"), ("a", "a")]);
    assert_eq!(pieces(&tokenizer, "🙂 x🙂"), [("🙂", "🙂"), ("[UNK]", "x🙂")]);
    // Control characters vanish, even inside a word; every white space separates.
    assert_eq!(pieces(&tokenizer, "c\u{0}a\u{200d}t\u{fffd}\u{ad}s")[0].0, "cat");
    assert_eq!(pieces(&tokenizer, "a\tb\r\nc\u{3000}d\u{a0}a").len(), 5);
    assert_eq!(pieces(&tokenizer, " \u{0}\n "), []);
}

#[test]
fn a_word_with_an_unknown_tail_or_over_100_characters_is_one_unk() {
    let tokenizer = uncased();
    assert_eq!(pieces(&tokenizer, "the unablez"), [("the", "the"), ("[UNK]", "unablez")]);
    let long = "a".repeat(100);
    assert_eq!(pieces(&tokenizer, &long).len(), 100);
    let longer = "a".repeat(101);
    assert_eq!(pieces(&tokenizer, &longer), [("[UNK]", longer.as_str())]);
}

#[test]
fn special_tokens_in_the_text_are_recognised() {
    let tokenizer = uncased();
    assert_eq!(pieces(&tokenizer, "the [MASK]!")[1], ("[MASK]", "[MASK]"));
    let encoding = tokenizer.encode("[MASK]", None, None);
    assert!(tokenizer.special().contains(encoding.input_ids[1]));
}

#[test]
fn offsets_count_bytes_and_on_request_characters() {
    let tokenizer = uncased();
    let encoding = tokenizer.encode("é 漢 🙂 cat", Some("ü cats"), None);
    assert_eq!(encoding.offsets[2..5], [3..6, 7..11, 12..15]);
    let characters = encoding.character_offsets("é 漢 🙂 cat", Some("ü cats"));
    assert_eq!(characters, [0..0, 0..1, 2..3, 4..5, 6..9, 0..0, 0..1, 2..5, 5..6, 0..0]);
    let sequences: Vec<_> = encoding.sequence_ids.iter().map(|id| id.map_or('-', |id| char::from(b'A' + id))).collect();
    assert_eq!(sequences.iter().collect::<String>(), "-AAAA-BBB-");
    assert_eq!(encoding.token_type_ids, [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]);
}

#[test]
fn the_longer_text_is_cut_first_and_the_cut_is_counted() {
    let tokenizer = uncased();
    let kept = |first: usize, second: usize, max_length: usize| {
        let encoding = tokenizer.encode(&"a ".repeat(first), Some(&"b ".repeat(second)), Some(max_length));
        let count = |sequence| encoding.sequence_ids.iter().filter(|&&id| id == Some(sequence)).count();
        assert_eq!(encoding.truncated_tokens, first + second - count(0) - count(1));
        (count(0), count(1))
    };
    assert_eq!(kept(4, 6, 13), (4, 6)); // fits
    assert_eq!(kept(4, 6, 12), (4, 5));
    assert_eq!(kept(9, 2, 10), (5, 2));
    assert_eq!(kept(9, 8, 10), (4, 3)); // odd: to the longer one
    assert_eq!(kept(8, 9, 10), (3, 4));
    assert_eq!(kept(8, 8, 10), (3, 4));
    assert_eq!(kept(3, 3, 3), (0, 0));
    assert_eq!(kept(3, 3, 0), (0, 0)); // the special tokens always stay
    assert_eq!(tokenizer.encode("a b c d", None, Some(5)).truncated_tokens, 1);
}

#[test]
fn a_batch_equals_its_texts_alone_on_any_number_of_threads() {
    let tokenizer = uncased();
    let texts: Vec<String> = (0..37).map(|i| "the cats ".repeat(i)).collect();
    let inputs: Vec<(&str, Option<&str>)> =
        texts.iter().enumerate().map(|(i, text)| (text.as_str(), (i % 3 == 0).then_some("a b"))).collect();
    let alone: Vec<Encoding> = inputs.iter().map(|(text, pair)| tokenizer.encode(text, *pair, Some(20))).collect();
    for threads in [0, 1, 2, 5, 64] {
        assert_eq!(tokenizer.encode_batch(&inputs, Some(20), threads), alone);
    }
    assert_eq!(tokenizer.encode_batch(&[], None, 4), []);
}

#[test]
fn decoding_glues_pieces_and_skips_special_tokens_on_request() {
    let tokenizer = uncased();
    let ids = tokenizer.encode("The cats!", None, None).input_ids;
    assert_eq!(tokenizer.decode(&ids, true), "the cats!");
    assert_eq!(tokenizer.decode(&ids, false), "[CLS] the cats! [SEP]");
    assert_eq!(tokenizer.decode(&[9999], false), "");
    let continues = |token| tokenizer.continues_word(tokenizer.id(token).expect("known"));
    assert!(continues("##s") && !continues("cat"));
}

#[test]
fn a_missing_special_token_is_named() {
    let mut tokens = vocabulary(&["a"]);
    tokens.retain(|token| token != "[MASK]");
    let error = Tokenizer::from_vocabulary(tokens, true).expect_err("incomplete");
    assert_eq!(error.to_string(), "special token `[MASK]` is missing in a vocabulary of 5 tokens");
}

#[test]
fn special_ids_come_from_the_vocabulary() {
    let mut tokens = vocabulary(&["a"]);
    tokens.rotate_left(2);
    let special = Tokenizer::from_vocabulary(tokens, true).expect("complete").special();
    assert_eq!(special, SpecialTokens { pad: 4, unk: 5, cls: 0, sep: 1, mask: 2 });
}

#[test]
fn differing_vocabularies_are_refused_by_the_first_differing_token() {
    let left = uncased();
    assert!(left.check_same_vocabulary(&uncased()).is_ok());
    let right = Tokenizer::from_vocabulary(vocabulary(&["the", "dog"]), true).expect("complete");
    let error = left.check_same_vocabulary(&right).expect_err("different").to_string();
    assert_eq!(error, "vocabularies differ: token 6 is `cat` in one and `dog` in the other (21 and 7 tokens)");
    assert_ne!(left.vocabulary_hash(), right.vocabulary_hash());
    let shorter = Tokenizer::from_vocabulary(vocabulary(&["the"]), true).expect("complete");
    assert!(
        right.check_same_vocabulary(&shorter).expect_err("shorter").to_string().contains("`dog` in one and absent")
    );
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("write");
    }
    folder
}

fn load(files: &[(&str, &str)]) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_folder(folder(files).path())
}

const PLAIN: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n[unused1]\nthe\ncat\n##s\n";
const CASED: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nThe\n";

#[test]
fn a_vocabulary_without_a_config_is_lower_cased_only_if_it_holds_no_capitals() {
    assert!(load(&[("vocab.txt", PLAIN)]).expect("loads").is_lowercasing());
    assert!(!load(&[("vocab.txt", CASED)]).expect("loads").is_lowercasing());
    let cased = r#"{"do_lower_case": false}"#;
    assert!(!load(&[("vocab.txt", PLAIN), ("tokenizer_config.json", cased)]).expect("loads").is_lowercasing());
}

#[test]
fn tokenizer_config_settles_accents_ideographs_and_special_names() {
    let config = r#"{"do_lower_case": true, "strip_accents": false, "tokenize_chinese_chars": false,
                     "unk_token": {"content": "<unk>"}, "pad_token": "[PAD]"}"#;
    let vocabulary = PLAIN.replace("[UNK]", "<unk>").replace("cat", "café") + "漢字\n";
    let tokenizer = load(&[("vocab.txt", &vocabulary), ("tokenizer_config.json", config)]).expect("loads");
    assert_eq!(
        pieces(&tokenizer, "CAFÉ 漢字 zzz").iter().map(|piece| piece.0).collect::<Vec<_>>(),
        ["café", "漢字", "<unk>"]
    );
}

#[test]
fn windows_line_ends_and_repeated_tokens_keep_line_numbers_as_ids() {
    let vocabulary = PLAIN.replace('\n', "\r\n") + "the\r\n";
    let tokenizer = load(&[("vocab.txt", &vocabulary)]).expect("loads");
    assert_eq!((tokenizer.token(6), tokenizer.token(9), tokenizer.id("the")), (Some("the"), Some("the"), Some(9)));
    assert_eq!((tokenizer.vocab_size(), tokenizer.token(10)), (10, None));
}

#[test]
fn a_saved_tokenizer_loads_equal_from_either_file() {
    let original = uncased();
    let saved = tempfile::tempdir().expect("temporary folder");
    original.save(saved.path(), TokenizerClass::DistilBert, 512).expect("saves");
    let text = "The cafés, unable! [MASK] 漢 zzz";
    let expected = original.encode(text, Some("cats"), None);
    let check = |path: &Path| {
        let loaded = Tokenizer::from_folder(path).expect("loads");
        assert_eq!(loaded.encode(text, Some("cats"), None), expected);
        assert_eq!(loaded.special(), original.special());
        assert!(loaded.check_same_vocabulary(&original).is_ok() && loaded.is_lowercasing());
    };
    check(saved.path());
    fs::remove_file(saved.path().join("tokenizer.json")).expect("remove");
    check(saved.path());
    let mut names: Vec<_> =
        fs::read_dir(saved.path()).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["special_tokens_map.json", "tokenizer_config.json", "vocab.txt"]); // no temporary file is left
}

#[test]
fn stored_truncation_and_padding_are_ignored_and_the_config_overrules_the_case() {
    let saved = tempfile::tempdir().expect("temporary folder");
    uncased().save(saved.path(), TokenizerClass::Bert, 512).expect("saves");
    let path = saved.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    json["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = serde_json::json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
                                          "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"});
    fs::write(&path, json.to_string()).expect("write");
    let loaded = Tokenizer::from_folder(saved.path()).expect("loads");
    assert_eq!(loaded.encode("the cat the cat", None, None).len(), 6);
    fs::write(saved.path().join("tokenizer_config.json"), r#"{"do_lower_case": false}"#).expect("write");
    assert!(!Tokenizer::from_folder(saved.path()).expect("loads").is_lowercasing());
}

#[test]
fn an_added_token_with_a_space_in_it_is_one_token_for_the_word_encoder_too() {
    let saved = tempfile::tempdir().expect("temporary folder");
    uncased().save(saved.path(), TokenizerClass::Bert, 512).expect("saves");
    let path = saved.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    let added = serde_json::json!({"id": 21, "content": "New York", "single_word": false, "lstrip": false,
                                   "rstrip": false, "normalized": false, "special": false});
    json["added_tokens"].as_array_mut().expect("array").push(added);
    fs::write(&path, json.to_string()).expect("write");
    let loaded = Tokenizer::from_folder(saved.path()).expect("loads");
    assert_eq!((loaded.token(21), loaded.vocab_size()), (Some("New York"), 22));
    let mut ids = Vec::new();
    WordEncoder::new(&loaded).encode_into("the New York cat", &mut ids);
    assert_eq!(ids, [5, 21, 6]);
    assert_eq!(loaded.encode("the New York cat", None, None).input_ids[1..4], ids);
}

#[test]
fn bad_folders_are_refused_by_name() {
    let error = |files: &[(&str, &str)]| load(files).expect_err("refused").to_string();
    assert!(error(&[]).contains("expected tokenizer.json, vocab.txt, or vocab.json and merges.txt"));
    assert!(error(&[("vocab.txt", "a\nb\n")]).contains("`[PAD]` is missing in a vocabulary of 2 tokens"));
    assert!(error(&[("tokenizer.json", "{\"version\"")]).contains("tokenizer.json` is malformed"));
    assert!(
        error(&[("vocab.txt", PLAIN), ("tokenizer_config.json", "[1]")])
            .contains("tokenizer_config.json` is malformed")
    );
    assert!(error(&[("vocab.txt", PLAIN), ("added_tokens.json", "{\"new\": 9}")]).contains("found `new`"));
    let word_level = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;
    assert!(
        error(&[("tokenizer.json", word_level)]).contains("model must be WordPiece, BPE or Unigram, found WordLevel")
    );
    let other = word_level.replace(
        r#"{"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}"#,
        r####"{"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"a": 0}}"####,
    );
    assert!(error(&[("tokenizer.json", &other)]).contains("normalizer must be BertNormalizer, found none"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics_and_offsets_stay_in_the_text(text in "\\PC*|[a-z\\[\\]A-ZÀ-ÿ\u{300}-\u{30f}\u{0}-\u{20}漢🙂 ]{0,60}", max_length in 0usize..30) {
        let tokenizer = uncased();
        let encoding = tokenizer.encode(&text, Some(&text), Some(max_length));
        prop_assert!(encoding.len() <= max_length.max(3));
        for range in &encoding.offsets {
            prop_assert!(text.get(range.clone()).is_some(), "{range:?}");
        }
        let characters = text.chars().count();
        prop_assert!(encoding.character_offsets(&text, Some(&text)).iter().all(|range| range.end <= characters));
        tokenizer.decode(&encoding.input_ids, true);
    }

    #[test]
    fn remembering_words_changes_no_id(text in "\\PC*|[a-zA-Zé!漢 \t\u{301}]{0,60}|( ?(the|cats|\\[MASK\\]|\u{301}|unable)){0,9}") {
        let tokenizer = uncased();
        let expected = tokenizer.encode(&text, None, None).input_ids;
        let mut encoder = WordEncoder::new(&tokenizer);
        for _ in 0..2 {
            let mut ids = Vec::new();
            encoder.encode_into(&text, &mut ids);
            prop_assert_eq!(&ids[..], &expected[1..expected.len() - 1]);
        }
    }
}
