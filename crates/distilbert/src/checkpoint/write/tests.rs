use super::*;
use crate::checkpoint::Tensors;

fn f32s<'a>(name: &'a str, shape: &[usize], data: &'a [f32]) -> TensorToWrite<'a> {
    TensorToWrite { name: name.into(), shape: shape.to_vec(), data: TensorData::F32(data) }
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_read_back_by_us_and_by_the_safetensors_crate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let metadata = BTreeMap::from([("step".to_owned(), "7".to_owned())]);
    let step = TensorToWrite { name: "z.step".into(), shape: vec![], data: TensorData::I64(&[-7]) };
    let tensors = [f32s("b", &[1], &[3.5]), step, f32s("a", &[2, 1], &[1.0, f32::MIN_POSITIVE])];
    write_safetensors(&path, tensors, &metadata).unwrap();

    let ours = Tensors::open_file(&path).unwrap();
    assert_eq!(ours.read_f32("a").unwrap(), [1.0, f32::MIN_POSITIVE]);
    assert_eq!(ours.read_i64("z.step").unwrap(), [-7]);
    assert_eq!(ours.metadata()["format"], "pt");
    assert_eq!(ours.metadata()["step"], "7");

    let bytes = fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("a").unwrap().shape(), [2, 1]);
    assert_eq!(theirs.tensor("z.step").unwrap().data(), (-7i64).to_le_bytes());
    assert_eq!(names(folder.path()), ["model.safetensors"]);
}

#[test]
fn the_order_of_the_tensors_given_does_not_reach_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("1"), folder.path().join("2"));
    let metadata = BTreeMap::new();
    write_safetensors(&one, [f32s("a", &[1], &[1.0]), f32s("b", &[1], &[2.0])], &metadata).unwrap();
    write_safetensors(&two, [f32s("b", &[1], &[2.0]), f32s("a", &[1], &[1.0])], &metadata).unwrap();
    assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
}

#[test]
fn a_shape_that_does_not_match_the_elements_is_an_error_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let error = write_safetensors(&folder.path().join("m"), [f32s("a", &[3], &[1.0])], &BTreeMap::new()).unwrap_err();
    assert_eq!(error.to_string(), "tensor `a`: expected 3 elements by its shape, found 1");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_name_given_twice_or_reserved_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let twice = [f32s("a", &[1], &[1.0]), f32s("a", &[1], &[1.0])];
    let reserved = [f32s("__metadata__", &[1], &[1.0])];
    for error in
        [write_safetensors(&path, twice, &BTreeMap::new()), write_safetensors(&path, reserved, &BTreeMap::new())]
    {
        assert!(matches!(error, Err(CheckpointError::TensorName { .. })));
    }
}

#[test]
fn a_failed_write_leaves_the_old_file_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    write_atomic(&path, b"old").unwrap();
    let full = |file: &mut File| {
        file.write_all(b"ne")?;
        Err(io::ErrorKind::StorageFull.into())
    };
    let error = write_through_sibling(&path, full).unwrap_err().to_string();
    assert!(error.starts_with("cannot write ") && error.contains("state.json") && !error.contains('\n'), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["state.json"]);
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_that_names_the_target() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), b"").unwrap();
    let target = folder.path().join("file/model.safetensors");
    let error = write_safetensors(&target, [], &BTreeMap::new()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot write {}: ", target.display())), "{error}");
    let error = replace_folder(&target, |_| Ok::<_, CheckpointError>(())).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot write {}: ", target.display())), "{error}");
}

#[test]
fn leftovers_of_a_killed_writer_are_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for leftover in [".m.aB3dEf.partial", ".m.other.bin.partial", ".mm.aB3dEf.partial", "m.x"] {
        fs::write(folder.path().join(leftover), b"torn").unwrap();
    }
    write_atomic(&folder.path().join("m"), b"new").unwrap();
    assert_eq!(names(folder.path()), [".m.other.bin.partial", ".mm.aB3dEf.partial", "m", "m.x"]);
}

#[cfg(unix)]
#[test]
fn others_may_read_what_is_written() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (plain, path) = (folder.path().join("plain"), folder.path().join("m"));
    fs::write(&plain, b"").unwrap();
    write_atomic(&path, b"").unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&plain));
}

fn fill(content: &'static str) -> impl FnOnce(&Path) -> Result<(), CheckpointError> {
    move |folder| write_atomic(&folder.join("config.json"), content.as_bytes())
}

#[test]
fn a_folder_appears_and_is_replaced_whole() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("runs/best");
    replace_folder(&path, fill("old")).unwrap();
    fs::write(path.join("only-in-old"), b"").unwrap();
    replace_folder(&path, fill("new")).unwrap();
    assert_eq!(names(&path), ["config.json"]);
    assert_eq!(fs::read(path.join("config.json")).unwrap(), b"new");
    assert_eq!(names(&parent.path().join("runs")), ["best"]);
}

#[test]
fn a_failed_build_leaves_the_old_folder_and_no_other() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("best");
    replace_folder(&path, fill("old")).unwrap();
    let broken = |folder: &Path| {
        fill("new")(folder)?;
        write_safetensors(&folder.join("m"), [f32s("a", &[2], &[1.0])], &BTreeMap::new())
    };
    replace_folder(&path, broken).unwrap_err();
    assert_eq!(fs::read(path.join("config.json")).unwrap(), b"old");
    assert_eq!(names(parent.path()), ["best"]);
}

#[test]
fn a_file_in_the_place_of_the_folder_is_not_replaced() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("best");
    fs::write(&path, b"precious").unwrap();
    replace_folder(&path, fill("new")).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert_eq!(names(parent.path()), ["best"]);
}

#[test]
fn a_crash_between_two_renames_is_mended() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("best");
    let crashed = parent.path().join(".best.aB3dEf.replaced");
    fs::create_dir(&crashed).unwrap();
    fs::write(crashed.join("config.json"), b"old").unwrap();
    fs::create_dir(parent.path().join(".best.gH1jKl.partial")).unwrap();
    let failed = |_: &Path| Err(CheckpointError::NoWeights { folder: PathBuf::new() });
    replace_folder(&path, failed).unwrap_err();
    assert_eq!(fs::read(path.join("config.json")).unwrap(), b"old");
    assert_eq!(names(parent.path()), ["best"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_reader_never_finds_the_folder_missing() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("best");
    replace_folder(&path, fill("first")).unwrap();
    let probe = parent.path().join("probe");
    fs::create_dir(&probe).unwrap();
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    if rustix::fs::renameat_with(rustix::fs::CWD, &probe, rustix::fs::CWD, &path, flags).is_err() {
        return; // this file system cannot exchange folders
    }
    replace_folder(&path, fill("second")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                assert!(path.join("config.json").exists(), "after {looks} looks");
                looks += 1;
            }
        });
        for _ in 0..100 {
            replace_folder(&path, fill("next")).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}
