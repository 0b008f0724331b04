//! `evaluate --languages DIR`: which file is which language's, by the codes in their names.
//!
//! `dev-de.tsv`, `xquad.de.json` and `test-context-de-question-de.json` are German, and so is whatever file for the split
//! the folder `de` holds.

use anyhow::{Context, bail};
use distilbert::data::examples::Split;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// ISO 639-1.
const CODES: &str = "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv \
                     dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig \
                     ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh \
                     mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru \
                     rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug \
                     uk ur uz ve vi vo wa wo xh yi yo za zh zu";

/// Names of splits among the words of a file's name.
const SPLITS: [(&[&str], &[Split]); 3] = [
    (&["train"], &[Split::Train]),
    (&["dev", "valid", "validation"], &[Split::Dev, Split::DevMismatched]),
    (&["test"], &[Split::Test, Split::TestMismatched]),
];

/// The languages' files (or folders) for a split, that of `first` in front, the others by their codes.
///
/// # Errors
/// If the folder cannot be read, a language has several files, or `first` has none.
pub fn files(folder: &Path, split: Split, first: &str) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Some(language) = language(&path, split) else { continue };
        if let Some(other) = found.insert(language.clone(), path.clone()) {
            let (one, two) = (other.display(), path.display());
            bail!("--languages: expected one file of {split} for `{language}`, found {one} and {two}");
        }
    }
    let own = found.remove(first).with_context(|| {
        let others =
            if found.is_empty() { "none".to_owned() } else { found.keys().cloned().collect::<Vec<_>>().join(", ") };
        let folder = folder.display();
        format!(
            "--languages: expected a file of {split} for `{first}` in {folder}, found {others}; see --source-language"
        )
    })?;
    Ok(std::iter::once((first.to_owned(), own)).chain(found).collect())
}

/// The language that a name says, unless it says several, or another split.
fn language(path: &Path, split: Split) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let words = || name.split(|character: char| !character.is_ascii_alphanumeric());
    let mut codes = words().filter(|word| CODES.split_whitespace().any(|code| code == *word));
    let code = codes.next()?;
    if codes.any(|other| other != code) || (path.is_dir() && name != code) {
        return None;
    }
    let named = SPLITS.iter().find(|(names, _)| words().any(|word| names.contains(&word)));
    named.is_none_or(|(_, splits)| splits.contains(&split)).then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[&str], folders: &[&str], split: Split, first: &str) -> Result<Vec<String>, String> {
        let place = tempfile::tempdir().unwrap();
        files.iter().for_each(|name| std::fs::write(place.path().join(name), "").unwrap());
        folders.iter().for_each(|name| std::fs::create_dir(place.path().join(name)).unwrap());
        let found = super::files(place.path(), split, first).map_err(|error| error.to_string())?;
        Ok(found.iter().map(|(code, path)| format!("{code} {}", path.file_name().unwrap().to_string_lossy())).collect())
    }

    #[test]
    fn languages_are_told_by_codes_in_names_and_folders() {
        let files = ["dev-de.tsv", "dev-en.tsv", "dev-zh.tsv", "train-en.tsv", "README.md", "notes.txt"];
        assert_eq!(names(&files, &[], Split::Dev, "en").unwrap(), ["en dev-en.tsv", "de dev-de.tsv", "zh dev-zh.tsv"]);
        assert_eq!(names(&files, &[], Split::Train, "en").unwrap(), ["en train-en.tsv"]);
        let squads =
            ["xquad.ar.json", "xquad.en.json", "dev-context-de-question-de.json", "dev-context-de-question-en.json"];
        assert_eq!(
            names(&squads, &[], Split::Dev, "ar").unwrap(),
            ["ar xquad.ar.json", "de dev-context-de-question-de.json", "en xquad.en.json"]
        );
        assert_eq!(names(&["en.conllu"], &["de", "older-fr"], Split::Test, "en").unwrap(), ["en en.conllu", "de de"]);
    }

    #[test]
    fn a_missing_or_a_second_file_of_a_language_is_refused() {
        let error = names(&["dev-de.tsv", "dev-fr.tsv"], &[], Split::Dev, "en").unwrap_err();
        assert!(error.contains("expected a file of dev for `en` in ") && error.contains("found de, fr;"), "{error}");
        let error = names(&["a.en.tsv", "b.en.tsv"], &[], Split::Dev, "en").unwrap_err();
        assert!(error.contains("expected one file of dev for `en`, found "), "{error}");
    }
}
