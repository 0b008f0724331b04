//! The header of a safetensors file, checked so that each error names its tensor.
//!
//! The `safetensors` crate's own reader neither names the tensor at fault nor survives offsets near `usize::MAX` with
//! overflow checks on; its types are used here, its validation is repeated.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorInfo;
use serde::Deserialize;

use super::CheckpointError;

/// Length field in front of the header.
const LENGTH_BYTES: usize = 8;

/// The format's own limit, against headers that would eat the memory.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A parsed and checked header.
#[derive(Debug)]
pub(super) struct Header {
    pub metadata: BTreeMap<String, String>,
    /// Offsets count from [`Header::data_start`]; each range lies within the file and matches shape and type.
    pub tensors: BTreeMap<String, TensorInfo>,
    pub data_start: usize,
}

#[derive(Deserialize)]
struct RawHeader {
    #[serde(rename = "__metadata__", default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    tensors: BTreeMap<String, TensorInfo>,
}

/// Parses the header of the file whose bytes are `file`; `path` is for messages.
pub(super) fn parse(file: &[u8], path: &Path) -> Result<Header, CheckpointError> {
    let bad = |reason: String| CheckpointError::Header { path: path.to_owned(), reason };
    let wrong_length = |expected_bytes: u64| CheckpointError::FileLength {
        path: path.to_owned(),
        expected_bytes,
        found_bytes: file.len() as u64,
    };

    let (length, rest) = file.split_first_chunk::<LENGTH_BYTES>().ok_or_else(|| wrong_length(LENGTH_BYTES as u64))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(bad(format!("its length is {length} bytes, more than the limit of {MAX_HEADER_BYTES}")));
    }
    // Below the limit, so it fits.
    let header_bytes = length as usize;
    let data_start = LENGTH_BYTES + header_bytes;
    let json = rest.get(..header_bytes).ok_or_else(|| wrong_length(data_start as u64))?;
    let raw: RawHeader = serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?;

    let mut by_offset: Vec<(&String, &TensorInfo)> = raw.tensors.iter().collect();
    by_offset.sort_by_key(|(name, info)| (info.data_offsets, *name));
    let mut end_of_last = 0;
    for (name, info) in by_offset {
        let (start, end) = info.data_offsets;
        if start != end_of_last || end < start {
            return Err(bad(format!("tensor `{name}`: expected data from byte {end_of_last}, found {start}..{end}")));
        }
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, &dim| bits.checked_mul(dim));
        if bits.is_none_or(|bits| bits % 8 != 0 || bits / 8 != end - start) {
            let (shape, dtype, found) = (&info.shape, info.dtype, end - start);
            return Err(bad(format!("tensor `{name}`: {found} bytes of data do not match shape {shape:?} of {dtype}")));
        }
        end_of_last = end;
    }
    let expected = (data_start as u64).saturating_add(end_of_last as u64);
    if expected != file.len() as u64 {
        return Err(wrong_length(expected));
    }
    Ok(Header { metadata: raw.metadata.unwrap_or_default(), tensors: raw.tensors, data_start })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn error(bytes: &[u8]) -> String {
        parse(bytes, Path::new("model.safetensors")).unwrap_err().to_string()
    }

    #[test]
    fn a_file_by_the_safetensors_crate_is_read() {
        let data = [0u8; 24];
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 3], &data).unwrap();
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let bytes = safetensors::serialize([("a", view)], Some(metadata)).unwrap();
        let header = parse(&bytes, Path::new("x")).unwrap();
        assert_eq!(header.tensors["a"].shape, [2, 3]);
        assert_eq!(header.metadata["format"], "pt");
        assert_eq!(header.data_start + 24, bytes.len());
    }

    #[test]
    fn every_cut_of_a_file_is_an_error() {
        let bytes = file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8);
        parse(&bytes, Path::new("x")).unwrap();
        for length in 0..bytes.len() {
            parse(&bytes[..length], Path::new("x")).unwrap_err();
        }
    }

    #[test]
    fn every_altered_byte_is_an_error_or_still_within_the_file() {
        let bytes = file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8);
        for at in 0..bytes.len() {
            for value in [0, 1, b'9', b'"', 0x7f, 0xff] {
                let mut altered = bytes.clone();
                altered[at] = value;
                if let Ok(header) = parse(&altered, Path::new("x")) {
                    for info in header.tensors.values() {
                        assert!(header.data_start + info.data_offsets.1 <= altered.len());
                    }
                }
            }
        }
    }

    #[test]
    fn a_header_longer_than_the_file_is_an_error() {
        let mut bytes = file("{}", 0);
        bytes[0] = 200;
        assert_eq!(error(&bytes), "model.safetensors: expected 208 bytes by its header, found 10");
    }

    #[test]
    fn an_absurd_header_length_is_an_error() {
        let mut bytes = file("{}", 0);
        bytes[..8].fill(0xff);
        assert!(error(&bytes).contains("more than the limit"));
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        assert!(error(&file("{}", 3)).contains("expected 10 bytes by its header, found 13"));
    }

    #[test]
    fn overlapping_tensors_are_an_error_that_names_one() {
        let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
        assert!(error(&file(header, 6)).contains("tensor `b`: expected data from byte 4, found 2..6"));
    }

    #[test]
    fn a_shape_that_does_not_match_its_bytes_is_an_error_that_names_it() {
        let header = r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#;
        assert!(error(&file(header, 8)).contains("tensor `a`: 8 bytes of data do not match shape [3] of F32"));
    }

    #[test]
    fn a_shape_that_overflows_is_an_error() {
        let header = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
        assert!(error(&file(header, 0)).contains("tensor `a`"));
    }

    #[test]
    fn sizes_near_the_largest_number_are_an_error() {
        let header = |size: usize| format!(r#"{{"a":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}"#);
        assert!(error(&file(&header(usize::MAX), 0)).contains("tensor `a`"));
        assert!(error(&file(&header(usize::MAX / 8), 0)).contains("bytes by its header, found"));
    }

    #[test]
    fn an_unknown_type_is_an_error() {
        assert!(error(&file(r#"{"a":{"dtype":"X9","shape":[],"data_offsets":[0,0]}}"#, 0)).contains("X9"));
    }
}
