//! Where the commands that take a model get it from: the environment's settings, which are Python's `huggingface_hub`'s.
//! And how a model that is only run is loaded.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use distilbert::hub::{self, HubConfig, HubError};
use distilbert::model::Model;
use distilbert::progress::Progress;
use distilbert::tokenizer::Tokenizer;
use distilbert_kernels::{Precision, Runtime};

/// Shortest input that holds a text: `[CLS]`, a token, `[SEP]`.
const MIN_LENGTH: usize = 3;

/// The public hub.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The folder of the model called `name`: see [`hub::resolve`].
///
/// # Errors
/// A name that leads nowhere, a failed download, or no home folder to cache it in.
pub fn resolve(name: &str, progress: &dyn Progress) -> anyhow::Result<PathBuf> {
    let path = Path::new(name);
    if path.is_dir() {
        let best = path.join("best");
        if !path.join("config.json").exists() && best.join("config.json").is_file() {
            bail!("model `{name}`: expected a model's folder, found a run's: its model is {}", best.display());
        }
        // Needs no cache, and so no home folder.
        return Ok(path.to_owned());
    }
    match hub::resolve(name, &hub_config(|variable| env::var_os(variable))?, progress) {
        // Who meant a folder should not have to guess what an address has to do with it.
        Err(error @ (HubError::Transport { .. } | HubError::Tls { .. })) => {
            Err(error).with_context(|| format!("model `{name}`: there is no such folder, and the hub was not reached"))
        }
        found => Ok(found?),
    }
}

/// Model and tokenizer of the folder of the model called `name`, for inference alone, in the precision that it is saved
/// in.
///
/// # Errors
/// If either cannot be read, or the tokenizer has ids that the model lacks.
pub fn load_for_inference(name: &str, folder: &Path, rt: &Runtime) -> anyhow::Result<(Model, Tokenizer)> {
    load_in(None, name, folder, rt)
}

/// As [`load_for_inference`], in this precision.
///
/// # Errors
/// Also if the CPU lacks the precision, or the model is saved in another one below f32.
pub fn load_in(
    precision: Option<Precision>,
    name: &str,
    folder: &Path,
    rt: &Runtime,
) -> anyhow::Result<(Model, Tokenizer)> {
    let tokenizer = Tokenizer::from_folder(folder)?;
    let model = Model::load_for_inference(folder, rt, precision)?.model;
    let (tokens, vocab_size) = (tokenizer.vocab_size(), model.config.encoder.vocab_size);
    if tokens > vocab_size {
        bail!("model `{name}`: expected a tokenizer of at most {vocab_size} tokens, found {tokens}");
    }
    Ok((model, tokenizer))
}

/// Longest input in tokens: as asked, or else `otherwise`; at most what the model can take.
///
/// # Errors
/// If more is asked for than the model has positions, or too little for any text.
pub fn max_length(asked: Option<usize>, otherwise: usize, model: &Model) -> anyhow::Result<usize> {
    let positions = model.config.encoder.max_positions;
    match asked {
        Some(asked) if !(MIN_LENGTH..=positions).contains(&asked) => {
            bail!("--max-length: expected {MIN_LENGTH} to the model's {positions} positions, found {asked}")
        }
        asked => Ok(asked.unwrap_or(otherwise).min(positions)),
    }
}

/// Settings from the environment, which `var` reads.
///
/// `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH` and `HF_HUB_OFFLINE` mean what they mean to
/// Python; `HTTPS_PROXY` or `ALL_PROXY` is used unless `NO_PROXY` covers the hub.
fn hub_config(var: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<HubConfig> {
    // Set to nothing is as good as not set.
    let path = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let text = |name: &str| var(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());

    let home = path("HF_HOME")
        .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| path("HOME").or_else(|| path("USERPROFILE")).map(|home| home.join(".cache/huggingface")))
        .context("no folder for downloads: expected HF_HOME or HOME to be set")?;
    let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
    let token = text("HF_TOKEN").or_else(|| fs::read_to_string(token_file).ok());
    let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    let endpoint = endpoint.trim_end_matches('/').to_owned();
    let any = |names: [&str; 2]| names.iter().find_map(|name| text(name));
    let proxy = any(["HTTPS_PROXY", "https_proxy"]).or_else(|| any(["ALL_PROXY", "all_proxy"]));
    let no_proxy = any(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    let offline = text("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_uppercase();
    Ok(HubConfig {
        proxy: proxy.filter(|_| !is_covered(&no_proxy, &endpoint)),
        cache_dir: path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
        pip_cache_dir: home.join("distilbert-pip"),
        token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
        offline: matches!(offline.as_str(), "1" | "ON" | "YES" | "TRUE"),
        python: "python3".into(),
        retry_delay: Duration::from_secs(1),
        endpoint,
    })
}

/// True if the comma-separated list names the address's host, a domain above it, or `*`.
fn is_covered(no_proxy: &str, address: &str) -> bool {
    let authority = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    no_proxy.split(',').map(|entry| entry.trim().trim_start_matches('.')).any(|entry| {
        entry == "*"
            || entry == host
            || (!entry.is_empty() && host.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> HubConfig {
        let var = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        hub_config(var).unwrap()
    }

    #[test]
    fn the_defaults_are_those_of_python() {
        let config = config(&[("HOME", "/home/me")]);
        assert_eq!(config.endpoint, "https://huggingface.co");
        assert_eq!(config.cache_dir, Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(config.token, None);
        assert!(!config.offline);
    }

    #[test]
    fn the_cache_moves_with_its_variables_the_nearest_first() {
        let mut variables = vec![("HOME", "/home/me"), ("XDG_CACHE_HOME", "/cache")];
        assert_eq!(config(&variables).cache_dir, Path::new("/cache/huggingface/hub"));
        variables.push(("HF_HOME", "/hf"));
        assert_eq!(config(&variables).cache_dir, Path::new("/hf/hub"));
        variables.push(("HF_HUB_CACHE", "/models"));
        assert_eq!(config(&variables).cache_dir, Path::new("/models"));
        assert_eq!(config(&variables).pip_cache_dir, Path::new("/hf/distilbert-pip"));
    }

    #[test]
    fn the_token_comes_from_its_variable_or_its_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "from-file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(config(&[("HF_HOME", home)]).token.unwrap(), "from-file");
        assert_eq!(config(&[("HF_HOME", home), ("HF_TOKEN", " given ")]).token.unwrap(), "given");
    }

    #[test]
    fn offline_is_any_of_the_words_that_python_takes_for_true() {
        for (value, expected) in [("1", true), ("true", true), ("Yes", true), ("ON", true), ("0", false), ("", false)] {
            assert_eq!(config(&[("HOME", "/h"), ("HF_HUB_OFFLINE", value)]).offline, expected, "{value}");
        }
    }

    #[test]
    fn an_endpoint_may_end_in_a_slash() {
        assert_eq!(config(&[("HOME", "/h"), ("HF_ENDPOINT", "http://mirror/")]).endpoint, "http://mirror");
    }

    #[test]
    fn hosts_in_no_proxy_are_asked_directly() {
        let proxy = |no_proxy, endpoint| {
            let base =
                [("HOME", "/h"), ("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", no_proxy), ("HF_ENDPOINT", endpoint)];
            config(&base).proxy.is_some()
        };
        assert!(proxy("", "https://huggingface.co"));
        assert!(proxy("localhost,face.co", "https://huggingface.co"));
        assert!(!proxy("x, .corp.example", "http://hub.corp.example:8080/hf"));
        assert!(!proxy("localhost", "http://localhost:80"));
        assert!(!proxy("*", "https://huggingface.co"));
    }

    #[test]
    fn no_home_is_an_error_that_says_what_to_set() {
        assert!(hub_config(|_| None).err().unwrap().to_string().contains("HF_HOME"));
    }
}
