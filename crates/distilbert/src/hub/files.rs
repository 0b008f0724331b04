//! Which files of a repository or package make up a model.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

/// What a model needs beside its weights, at the top of its folder.
const SIDE_FILES: [&str; 13] = [
    "added_tokens.json",
    "config.json",
    "config_sentence_transformers.json",
    "merges.txt",
    "modules.json",
    "sentence_bert_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Weight files in the order of preference of [`crate::checkpoint::Checkpoint::open`]: one file, or an index and the
/// shards named like it.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// The files of a model among `names` (paths with `/`, relative to its folder): configuration, tokenizer, the preferred
/// form of the weights, and the modules of a sentence encoder. `None` if it has no `config.json` or no weights.
pub(super) fn needed<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Vec<&'a str>> {
    let names: BTreeSet<&str> = names.into_iter().collect();
    if !names.contains("config.json") {
        return None;
    }
    let weights: Vec<&str> = WEIGHTS.iter().find_map(|whole| weights_of(&names, whole))?;
    let is_side_file = |name: &&str| SIDE_FILES.contains(name) || is_module_file(name);
    Some(names.iter().copied().filter(is_side_file).chain(weights).collect())
}

fn weights_of<'a>(names: &BTreeSet<&'a str>, whole: &str) -> Option<Vec<&'a str>> {
    if let Some(&whole) = names.get(whole) {
        return Some(vec![whole]);
    }
    let index = *names.get(format!("{whole}.index.json").as_str())?;
    let (stem, extension) = whole.split_once('.')?;
    let is_shard = |name: &&str| {
        let number = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(extension));
        number.is_some_and(|number| number.starts_with('-') && number.contains("-of-") && !number.contains('/'))
    };
    Some(names.iter().copied().filter(is_shard).chain([index]).collect())
}

/// `1_Pooling/config.json` and its like.
fn is_module_file(name: &str) -> bool {
    let Some((folder, file)) = name.split_once('/') else { return false };
    let Some((number, module)) = folder.split_once('_') else { return false };
    let is_module = !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && !module.is_empty()
        && module.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_module && (file == "config.json" || WEIGHTS.contains(&file))
}

/// True if the folder has a `config.json` and all files of one form of weights.
pub(super) fn is_model_folder(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let has_shards =
        |whole: &str| shards(&folder.join(format!("{whole}.index.json"))).is_some_and(|s| s.iter().all(|s| has(s)));
    has("config.json") && WEIGHTS.iter().any(|whole| has(whole) || has_shards(whole))
}

fn shards(index: &Path) -> Option<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(&std::fs::read(index).ok()?).ok()?;
    Some(index.weight_map.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safetensors_are_preferred_and_foreign_formats_left_out() {
        let names = [
            "config.json",
            "flax_model.msgpack",
            "model.safetensors",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tf_model.h5",
            "vocab.txt",
        ];
        assert_eq!(needed(names).unwrap(), ["config.json", "vocab.txt", "model.safetensors"]);
    }

    #[test]
    fn a_whole_pickle_is_taken_where_nothing_else_is() {
        assert_eq!(needed(["config.json", "pytorch_model.bin"]).unwrap(), ["config.json", "pytorch_model.bin"]);
    }

    #[test]
    fn shards_come_with_their_index() {
        let names = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model-extra.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
        ];
        let expected = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ];
        assert_eq!(needed(names).unwrap(), expected);
    }

    #[test]
    fn modules_of_a_sentence_encoder_are_taken_and_paths_out_of_the_folder_are_not() {
        let names = [
            "../config.json",
            "/config.json",
            "1_Pooling/config.json",
            "1_../config.json",
            "2_Dense/model.safetensors",
            "config.json",
            "model.safetensors",
            "modules.json",
            "x/config.json",
        ];
        let expected =
            ["1_Pooling/config.json", "2_Dense/model.safetensors", "config.json", "modules.json", "model.safetensors"];
        assert_eq!(needed(names).unwrap(), expected);
    }

    #[test]
    fn no_config_or_no_weights_is_no_model() {
        assert_eq!(needed(["model.safetensors"]), None);
        assert_eq!(needed(["config.json", "model.safetensors.index"]), None);
    }
}
