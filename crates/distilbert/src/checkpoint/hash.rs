//! What a model folder is known by.

use super::CheckpointError;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;

/// SHA-256, in hexadecimal digits, of what decides the numbers of the model in a Hugging Face folder: the names and bytes
/// of its configuration and its files of weights.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn model_hash(folder: &Path) -> Result<String, CheckpointError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(CheckpointError::io("read", folder))? {
        let name = entry.map_err(CheckpointError::io("read", folder))?.file_name().to_string_lossy().into_owned();
        let weights = (name.starts_with("model") && name.ends_with(".safetensors"))
            || (name.starts_with("pytorch_model") && name.ends_with(".bin"));
        if weights || name == "config.json" {
            names.push(name);
        }
    }
    names.sort_unstable();
    let mut hash = Sha256::new();
    for name in names {
        let path = folder.join(&name);
        let file = File::open(&path).map_err(CheckpointError::io("read", &path))?;
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(&name);
        hash.update(file.metadata().map_err(CheckpointError::io("read", &path))?.len().to_le_bytes());
        let mut reader = BufReader::with_capacity(1 << 20, file);
        loop {
            let bytes = reader.fill_buf().map_err(CheckpointError::io("read", &path))?;
            if bytes.is_empty() {
                break;
            }
            hash.update(bytes);
            let read = bytes.len();
            reader.consume(read);
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_configuration_decide_the_hash_and_other_files_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut hashes = Vec::new();
        let mut write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).unwrap();
            hashes.push(model_hash(folder.path()).unwrap());
        };
        write("config.json", "{}");
        write("model.safetensors", "a");
        write("model.safetensors", "b");
        write("config.json", "{ }");
        write("optimizer.safetensors", "moments");
        write("README.md", "card");
        assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2] && hashes[2] != hashes[3]);
        assert_eq!(hashes[3..], [hashes[3].clone(), hashes[3].clone(), hashes[3].clone()]);
        assert!(model_hash(&folder.path().join("none")).is_err());
    }
}
