//! Run configurations: a preset, a TOML file over it, flags over that; the result is checked, and saved with the run.

use anyhow::{Context, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use toml::{Table, Value};

/// Layers a configuration: `preset`, then the TOML file if there is one, then `flags` as (`section.key`, value).
///
/// # Errors
/// If the file cannot be read or names a key the configuration does not have.
pub fn resolve<T: Serialize + DeserializeOwned>(
    preset: &T,
    file: Option<&Path>,
    flags: Vec<(String, Option<Value>)>,
) -> anyhow::Result<T> {
    let mut table = Table::try_from(preset).context("the preset is not a table")?;
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let over: Table = text.parse().with_context(|| format!("{}", path.display()))?;
        merge(&mut table, over);
    }
    for (path, value) in flags {
        if let Some(value) = value {
            set(&mut table, &path, value)?;
        }
    }
    let text = toml::to_string(&table).context("cannot write the configuration")?;
    // Through text, so that an error quotes the line it is about; its number would be none of the user's file.
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or_default());
        let line = text.lines().nth(before.matches('\n').count()).unwrap_or_default();
        anyhow::anyhow!("configuration: `{line}`: {}", one_line(error.message()))
    })
}

/// The resolved configuration as the text that is saved with the run.
///
/// # Errors
/// If it cannot be written as TOML.
pub fn to_text<T: Serialize>(config: &T) -> anyhow::Result<String> {
    toml::to_string(config).context("cannot write the configuration")
}

fn merge(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            // A tagged choice (`by = ...`, `kind = ...`) is replaced whole: its other keys belong to the old one.
            (Some(Value::Table(below)), Value::Table(over))
                if !over.contains_key("by") && !over.contains_key("kind") =>
            {
                merge(below, over);
            }
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

fn set(table: &mut Table, path: &str, value: Value) -> anyhow::Result<()> {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
            Ok(())
        }
        Some((section, rest)) => {
            let entry = table.entry(section.to_owned()).or_insert_with(|| Value::Table(Table::new()));
            match entry {
                Value::Table(inner) => set(inner, rest, value),
                other => bail!("configuration: `{section}`: expected a table, found {other}"),
            }
        }
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A flag's value as TOML, if the flag was given.
pub fn flag<T: Clone + Into<Value>>(value: &Option<T>) -> Option<Value> {
    value.clone().map(Into::into)
}

/// Micro-batches of this many tokens.
pub fn token_batches(tokens: u32) -> Value {
    let mut table = Table::new();
    table.insert("by".to_owned(), "tokens".into());
    table.insert("tokens".to_owned(), Value::Integer(tokens.into()));
    Value::Table(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        name: String,
        inner: Inner,
    }

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        a: i64,
        b: i64,
    }

    fn preset() -> Config {
        Config { name: "x".into(), inner: Inner { a: 1, b: 2 } }
    }

    #[test]
    fn a_file_overrides_the_preset_and_a_flag_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "[inner]\na = 10\nb = 20\n").unwrap();
        let config =
            resolve(&preset(), Some(&path), vec![("inner.b".into(), Some(Value::Integer(200))), ("name".into(), None)])
                .unwrap();
        assert_eq!(config, Config { name: "x".into(), inner: Inner { a: 10, b: 200 } });
    }

    #[test]
    fn an_unknown_key_is_refused_by_name_on_one_line() {
        let error =
            resolve(&preset(), None, vec![("inner.c".into(), Some(Value::Integer(1)))]).unwrap_err().to_string();
        assert_eq!(error, "configuration: `c = 1`: unknown field `c`, expected `a` or `b`");
    }
}
