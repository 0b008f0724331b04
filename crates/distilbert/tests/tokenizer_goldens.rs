//! Ids, token types, offsets and decoded text of `tests/goldens/tokenizers`, which Python's transformers made.

use distilbert::tokenizer::{Tokenizer, TokenizerClass, TokenizerKind, WordEncoder};
use serde_json::Value;
use std::path::{Path, PathBuf};

const FOLDERS: [(&str, TokenizerKind, TokenizerClass); 6] = [
    ("bert", TokenizerKind::WordPiece, TokenizerClass::Bert),
    ("distilbert-multilingual-cased", TokenizerKind::WordPiece, TokenizerClass::DistilBert),
    ("roberta", TokenizerKind::ByteLevelBpe, TokenizerClass::Roberta),
    ("roberta-prefix-space", TokenizerKind::ByteLevelBpe, TokenizerClass::Roberta),
    ("xlm-roberta", TokenizerKind::Unigram, TokenizerClass::Roberta),
    ("albert", TokenizerKind::Unigram, TokenizerClass::Albert),
];

/// One text or pair of `expected.json`.
#[derive(serde::Deserialize)]
struct Case {
    text: String,
    pair: Option<String>,
    max_length: Option<usize>,
    input_ids: Vec<u32>,
    token_type_ids: Vec<u32>,
    /// In characters.
    offsets: Vec<(usize, usize)>,
    decoded: String,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tokenizers").join(name)
}

fn cases(name: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(golden(name).join("expected.json")).expect("a golden");
    serde_json::from_str(&text).expect("cases")
}

fn assert_as_expected(tokenizer: &Tokenizer, name: &str) {
    for case in cases(name) {
        let shown = format!("{name}: {:?} and {:?} in {:?}", case.text, case.pair, case.max_length);
        let encoding = tokenizer.encode(&case.text, case.pair.as_deref(), case.max_length);
        assert_eq!(encoding.input_ids, case.input_ids, "{shown}");
        assert_eq!(encoding.token_type_ids, case.token_type_ids, "{shown}");
        let offsets: Vec<(usize, usize)> = encoding
            .character_offsets(&case.text, case.pair.as_deref())
            .into_iter()
            .map(|range| (range.start, range.end))
            .collect();
        assert_eq!(offsets, case.offsets, "{shown}");
        assert_eq!(tokenizer.decode(&encoding.input_ids, true), case.decoded, "{shown}");
        if case.pair.is_none() {
            let mut ids = Vec::new();
            WordEncoder::new(tokenizer).encode_into(&case.text, &mut ids);
            assert_eq!(ids, encoding.input_ids[1..encoding.len() - 1], "{shown}");
        }
    }
}

#[test]
fn texts_are_tokenised_as_the_reference_does_it() {
    for (name, kind, _) in FOLDERS {
        let tokenizer = Tokenizer::from_folder(&golden(name)).expect(name);
        assert_eq!(tokenizer.kind(), kind);
        assert_as_expected(&tokenizer, name);
    }
}

#[test]
fn a_saved_tokenizer_is_the_same_and_keeps_what_its_python_class_needs() {
    for (name, _, class) in FOLDERS {
        let saved = tempfile::tempdir().expect("temporary folder");
        Tokenizer::from_folder(&golden(name)).expect(name).save(saved.path(), class, 77).expect(name);
        assert_as_expected(&Tokenizer::from_folder(saved.path()).expect(name), name);
        let read = |folder: &Path| -> Value {
            let text = std::fs::read_to_string(folder.join("tokenizer_config.json")).expect("a configuration");
            serde_json::from_str(&text).expect("JSON")
        };
        let (before, after) = (read(&golden(name)), read(saved.path()));
        for key in ["tokenizer_class", "add_prefix_space", "do_lower_case", "keep_accents", "bos_token", "mask_token"] {
            assert_eq!(before.get(key), after.get(key), "{name}: {key}");
        }
        assert_eq!(after["model_max_length"], 77);
        let takes_types = after["model_input_names"].as_array().expect("names").contains(&"token_type_ids".into());
        assert_eq!(takes_types, [TokenizerClass::Bert, TokenizerClass::Albert].contains(&class));
    }
}

#[test]
fn byte_level_bpe_loads_from_its_two_files_alone() {
    for name in ["roberta", "roberta-prefix-space"] {
        let saved = tempfile::tempdir().expect("temporary folder");
        let tokenizer = Tokenizer::from_folder(&golden(name)).expect(name);
        tokenizer.save(saved.path(), TokenizerClass::Roberta, 512).expect(name);
        std::fs::remove_file(saved.path().join("tokenizer.json")).expect("remove");
        let loaded = Tokenizer::from_folder(saved.path()).expect(name);
        assert!(loaded.check_same_vocabulary(&tokenizer).is_ok());
        assert_as_expected(&loaded, name);
        // Without a word about special tokens, they are spelled as RoBERTa spells them; no space is put in front.
        std::fs::remove_file(saved.path().join("tokenizer_config.json")).expect("remove");
        std::fs::remove_file(saved.path().join("special_tokens_map.json")).expect("remove");
        assert_as_expected(&Tokenizer::from_folder(saved.path()).expect(name), "roberta");
    }
}

#[test]
fn words_begin_at_each_kinds_own_mark() {
    let begins = |name: &str, text: &str| -> Vec<String> {
        let tokenizer = Tokenizer::from_folder(&golden(name)).expect(name);
        let encoding = tokenizer.encode(text, None, None);
        let first = |id: &&u32| !tokenizer.continues_word(**id);
        encoding.input_ids.iter().filter(first).map(|&id| tokenizer.token(id).expect("own id").to_owned()).collect()
    };
    // The first word of a text has no space in front of it; the token before it is special, so it is a word all the same.
    assert_eq!(begins("roberta", "the boats, the\nmen"), ["<s>", "Ġboat", "Ġthe", "Ċ", "</s>"]);
    let words = begins("xlm-roberta", "the boats");
    assert_eq!(words.len(), 4, "{words:?}");
    assert!(words[1].starts_with('▁') && words[2].starts_with('▁'), "{words:?}");
}

#[test]
fn special_tokens_have_their_roles_whatever_their_spelling() {
    for (name, spelled) in [
        ("roberta", ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]),
        ("xlm-roberta", ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]),
        ("albert", ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]),
    ] {
        let tokenizer = Tokenizer::from_folder(&golden(name)).expect(name);
        let special = tokenizer.special();
        let ids = [special.pad, special.unk, special.cls, special.sep, special.mask];
        assert_eq!(ids.map(|id| tokenizer.token(id).expect("own id")), spelled);
        assert_eq!(tokenizer.is_lowercasing(), name == "albert");
        let around = [false, true].map(|pair| tokenizer.special_tokens_around(pair));
        assert_eq!(around, if name == "albert" { [2, 3] } else { [2, 4] });
    }
}

/// The golden's `tokenizer.json`, changed, in a folder of its own.
fn changed(name: &str, change: impl Fn(&mut Value)) -> Result<Tokenizer, String> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let text = std::fs::read_to_string(golden(name).join("tokenizer.json")).expect("a golden");
    let mut json: Value = serde_json::from_str(&text).expect("JSON");
    change(&mut json);
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).expect("write");
    Tokenizer::from_folder(folder.path()).map_err(|error| error.to_string())
}

#[test]
fn a_tokenizer_that_would_lose_text_or_is_of_another_kind_is_refused_by_the_part() {
    let refused = |name: &str, change: fn(&mut Value)| changed(name, change).expect_err("refused");
    let found = refused("roberta", |json| json["pre_tokenizer"] = serde_json::json!({"type": "WhitespaceSplit"}));
    assert!(found.contains("pre_tokenizer must be ByteLevel (of a BPE model), found WhitespaceSplit"), "{found}");
    let found = refused("roberta", |json| json["model"]["dropout"] = 0.1.into());
    assert!(found.contains("dropout must be none: a text has one encoding, found 0.1"), "{found}");
    let found = refused("roberta", |json| json["model"]["end_of_word_suffix"] = "</w>".into());
    assert!(found.contains("end_of_word_suffix must be empty, found `</w>`"), "{found}");
    let found = refused("roberta", |json| {
        let vocabulary = json["model"]["vocab"].as_object_mut().expect("object");
        vocabulary.remove("ł");
        json["model"]["merges"] = serde_json::json!([]);
    });
    assert!(found.contains("vocabulary must be a token for each of the 256 bytes, found none for `ł`"), "{found}");
    let found = refused("roberta", |json| json["post_processor"] = Value::Null);
    assert!(found.contains("post_processor must be one that makes") && found.ends_with("found none"), "{found}");
    let found = refused("xlm-roberta", |json| {
        json["post_processor"]["pair"].as_array_mut().expect("pieces").swap(0, 1);
    });
    assert!(found.contains("found TemplateProcessing of"), "{found}");
    let found = refused("xlm-roberta", |json| json["model"]["unk_id"] = Value::Null);
    assert!(found.contains("unk_id must be an id of the vocabulary, found none"), "{found}");
    let found = refused("albert", |json| json["pre_tokenizer"] = serde_json::json!({"type": "WhitespaceSplit"}));
    assert!(found.contains("pre_tokenizer must be Metaspace"), "{found}");
    assert!(changed("albert", |_| ()).is_ok());
}

#[test]
fn sentencepieces_own_file_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().expect("temporary folder");
    std::fs::write(folder.path().join("spiece.model"), b"\n\x0e").expect("write");
    let error = Tokenizer::from_folder(folder.path()).expect_err("refused").to_string();
    assert!(error.contains("spiece.model` is SentencePiece's own format: expected tokenizer.json"), "{error}");
}

#[test]
fn what_is_unknown_inside_a_word_continues_it() {
    for name in ["xlm-roberta", "albert"] {
        let tokenizer = Tokenizer::from_folder(&golden(name)).expect(name);
        let text = "\u{2603} a\u{2603}b \u{2603}c";
        let encoding = tokenizer.encode(text, None, None);
        let unknown: Vec<(usize, bool)> = (encoding.input_ids.iter().zip(&encoding.offsets))
            .filter(|&(&id, _)| id == tokenizer.special().unk)
            .map(|(&id, bytes)| (bytes.start, tokenizer.continues_word_in(id, text, bytes.start)))
            .collect();
        assert_eq!(unknown, [(0, false), (5, true), (10, false)], "{name}: {encoding:?}");
    }
}
