use super::super::zip::testing::archive;
use super::*;

/// `pickle.dumps` of an ordered dictionary of tensors, written out instruction by instruction.
fn state_dict_pickle(tensors: &[(&str, &str)]) -> Vec<u8> {
    let mut program = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (name, tensor) in tensors {
        string(&mut program, name);
        program.extend(tensor.as_bytes());
    }
    program.extend(b"u.");
    program
}

fn string(program: &mut Vec<u8>, text: &str) {
    program.push(b'X');
    program.extend((text.len() as u32).to_le_bytes());
    program.extend(text.as_bytes());
}

/// A tensor view of storage `key` as protocol 2 instructions (all of them ASCII or below here).
fn tensor(storage: (&str, &str, u8), offset: u8, shape: &[u8], strides: &[u8]) -> String {
    let (kind, key, elements) = storage;
    let mut program = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    string(&mut program, "storage");
    program.extend(format!("ctorch\n{kind}\n").bytes());
    string(&mut program, key);
    string(&mut program, "cpu");
    program.extend([b'K', elements, b't', b'Q', b'K', offset]);
    for sizes in [shape, strides] {
        program.push(b'(');
        sizes.iter().for_each(|&size| program.extend([b'K', size]));
        program.push(b't');
    }
    program.extend(b"Nccollections\nOrderedDict\n)RtR");
    String::from_utf8(program).unwrap()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A zip checkpoint with one storage `0`.
fn zip_file(program: &[u8], storage: &[u8]) -> Vec<u8> {
    archive(&[("m/data.pkl", program), ("m/byteorder", b"little"), ("m/data/0", storage)], false)
}

fn legacy_file(program: &[u8], storage: &[f32]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    file.extend(program);
    file.extend(b"\x80\x02](");
    string(&mut file, "0");
    file.extend(b"e.");
    file.extend((storage.len() as i64).to_le_bytes());
    file.extend(floats(storage));
    file
}

/// Opens `bytes` as a file and reads tensor `a`.
fn read(bytes: &[u8]) -> Result<Vec<f32>, CheckpointError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    std::fs::write(&path, bytes).unwrap();
    crate::checkpoint::Tensors::open_pickle(&path)?.read_f32("a")
}

fn refusal(bytes: &[u8]) -> PickleError {
    match read(bytes).unwrap_err() {
        CheckpointError::Pickle { source, .. } => source,
        other => panic!("{other}"),
    }
}

const SIX: [f32; 6] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];

#[test]
fn a_plain_tensor_is_read_from_both_containers() {
    let program = state_dict_pickle(&[("a", &tensor(("FloatStorage", "0", 6), 0, &[2, 3], &[3, 1]))]);
    assert_eq!(read(&zip_file(&program, &floats(&SIX))).unwrap(), SIX);
    assert_eq!(read(&legacy_file(&program, &SIX)).unwrap(), SIX);
}

#[test]
fn a_transposed_tensor_is_read_in_row_major_order() {
    let program = state_dict_pickle(&[("a", &tensor(("FloatStorage", "0", 6), 0, &[3, 2], &[1, 3]))]);
    assert_eq!(read(&zip_file(&program, &floats(&SIX))).unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
}

#[test]
fn tensors_share_a_storage_from_their_own_offsets() {
    let whole = tensor(("FloatStorage", "0", 6), 0, &[6], &[1]);
    let tail = tensor(("FloatStorage", "0", 6), 3, &[2], &[2]);
    let program = state_dict_pickle(&[("whole", &whole), ("a", &tail)]);
    assert_eq!(read(&zip_file(&program, &floats(&SIX))).unwrap(), [3.0, 5.0]);
}

#[test]
fn a_parameter_is_its_tensor() {
    let inner = tensor(("FloatStorage", "0", 6), 0, &[6], &[1]);
    let parameter = format!("ctorch._utils\n_rebuild_parameter\n({inner}Nccollections\nOrderedDict\n)RtR");
    let program = state_dict_pickle(&[("a", &parameter)]);
    assert_eq!(read(&zip_file(&program, &floats(&SIX))).unwrap(), SIX);
}

#[test]
fn a_scalar_and_an_empty_tensor_are_read() {
    let scalar = state_dict_pickle(&[("a", &tensor(("FloatStorage", "0", 6), 4, &[], &[]))]);
    assert_eq!(read(&zip_file(&scalar, &floats(&SIX))).unwrap(), [4.0]);
    let empty = state_dict_pickle(&[("a", &tensor(("FloatStorage", "0", 6), 0, &[0, 3], &[3, 1]))]);
    assert!(read(&zip_file(&empty, &floats(&SIX))).unwrap().is_empty());
}

#[test]
fn a_pickle_with_code_in_it_is_refused_by_name() {
    let mut code = b"cos\nsystem\n".to_vec();
    string(&mut code, "echo pwned");
    code.extend(b"\x85R");
    let program = state_dict_pickle(&[("a", str::from_utf8(&code[..code.len() - 2]).unwrap())]);
    for file in [zip_file(&program, &[]), legacy_file(&program, &[])] {
        assert!(matches!(refusal(&file), PickleError::Global { name, .. } if name == "os.system"));
    }
    // A bare pickle in place of the file.
    let mut bare = b"\x80\x02".to_vec();
    bare.extend(&code);
    bare.push(b'.');
    assert_eq!(refusal(&bare), PickleError::Global { name: "os.system".into(), offset: 2 });
}

#[test]
fn a_tensor_outside_its_storage_is_refused() {
    let cases: [(u8, &[u8], &[u8]); 4] = [(0, &[7], &[1]), (1, &[6], &[1]), (0, &[2, 3], &[4, 1]), (7, &[0], &[1])];
    for (offset, shape, strides) in cases {
        let program = state_dict_pickle(&[("a", &tensor(("FloatStorage", "0", 6), offset, shape, strides))]);
        let error = refusal(&zip_file(&program, &floats(&SIX)));
        assert!(matches!(error, PickleError::OutOfStorage { ref name, .. } if name == "a"), "{error}");
    }
}

#[test]
fn a_tensor_that_repeats_a_small_storage_is_refused() {
    let program = state_dict_pickle(&[("a", &tensor(("FloatStorage", "0", 1), 0, &[100, 100, 100], &[0, 0, 0]))]);
    assert!(matches!(refusal(&zip_file(&program, &floats(&[1.0]))), PickleError::OutOfStorage { .. }));
}

#[test]
fn a_storage_of_another_length_than_stated_is_refused() {
    let program = state_dict_pickle(&[("a", &tensor(("FloatStorage", "0", 6), 0, &[6], &[1]))]);
    let expected = PickleError::Storage { key: "0".into(), expected_bytes: 24, found_bytes: 20 };
    assert_eq!(refusal(&zip_file(&program, &floats(&SIX[..5]))), expected);
}

#[test]
fn a_missing_storage_is_refused_by_name() {
    let program = state_dict_pickle(&[("a", &tensor(("FloatStorage", "1", 6), 0, &[6], &[1]))]);
    let error = read(&zip_file(&program, &floats(&SIX))).unwrap_err().to_string();
    assert!(error.contains("no entry `m/data/1`"), "{error}");
}

#[test]
fn a_compressed_archive_is_refused() {
    // A thousand to one: unpacking before looking is how zip bombs work.
    let program = state_dict_pickle(&[]);
    let bomb = archive(&[("m/data.pkl", &program), ("m/data/0", &[0; 1_000_000])], true);
    let error = read(&bomb).unwrap_err().to_string();
    assert!(error.contains("`m/data.pkl`: compression method 8 is not accepted"), "{error}");
}

#[test]
fn a_big_endian_file_is_refused() {
    let file = archive(&[("m/data.pkl", &state_dict_pickle(&[])), ("m/byteorder", b"big")], false);
    assert_eq!(refusal(&file), PickleError::ByteOrder("big".into()));
}

#[test]
fn anything_but_a_flat_dictionary_of_tensors_is_refused() {
    let cases: [(&[u8], &str); 3] = [
        (b"\x80\x02K\x01.", "expected a dictionary"),
        (b"\x80\x02}K\x01Ns.", "keys to be strings"),
        (b"\x80\x02}X\x05\x00\x00\x00epochK\x01s.", "`epoch` is not a tensor"),
    ];
    for (program, expected) in cases {
        let error = refusal(&zip_file(program, &[])).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_file_that_is_no_checkpoint_is_refused() {
    for bytes in [&b""[..], b"version https://git-lfs.github.com/spec/v1\n", b"\x80\x02K\x01."] {
        assert_eq!(refusal(bytes), PickleError::NotPyTorch);
    }
}

#[test]
fn every_cut_of_a_file_is_an_error() {
    let program = state_dict_pickle(&[("a", &tensor(("FloatStorage", "0", 6), 0, &[2, 3], &[3, 1]))]);
    for file in [zip_file(&program, &floats(&SIX)), legacy_file(&program, &SIX)] {
        for length in 0..file.len() {
            parse(&file[..length], Path::new("x")).unwrap_err();
        }
    }
}

#[test]
fn files_by_pytorch_read_as_the_same_tensors_in_safetensors() {
    use crate::checkpoint::Tensors;
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pytorch");
    let expected = Tensors::open_file(&fixtures.join("expected.safetensors")).unwrap();
    for file in ["zip.bin", "zip-protocol-4.bin", "legacy.bin"] {
        let found = Tensors::open_pickle(&fixtures.join(file)).unwrap();
        assert_eq!(found.names().collect::<Vec<_>>(), expected.names().collect::<Vec<_>>(), "{file}");
        for name in expected.names() {
            assert_eq!(found.shape(name).unwrap(), expected.shape(name).unwrap(), "{file}: {name}");
            assert_eq!(found.dtype(name).unwrap(), expected.dtype(name).unwrap(), "{file}: {name}");
            match expected.read_f32(name) {
                Ok(values) => assert_eq!(found.read_f32(name).unwrap(), values, "{file}: {name}"),
                Err(_) => assert_eq!(found.read_i64(name).unwrap(), expected.read_i64(name).unwrap(), "{file}: {name}"),
            }
        }
    }
}

#[test]
fn every_altered_byte_is_an_error_or_still_reads_within_the_file() {
    // Legacy, since nothing there has a checksum; transposed, so that strides are used.
    let program = state_dict_pickle(&[("a", &tensor(("FloatStorage", "0", 6), 0, &[3, 2], &[1, 3]))]);
    let file = legacy_file(&program, &SIX);
    for at in 0..file.len() {
        for value in [0, 1, 2, 7, 0xff, file[at] ^ 0x20] {
            let mut altered = file.clone();
            altered[at] = value;
            if parse(&altered, Path::new("x")).is_ok() {
                let _ = read(&altered);
            }
        }
    }
}
