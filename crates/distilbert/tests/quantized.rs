//! Folders with weights in bf16 and int8: written, read back, and refused when they are not what they say.

use distilbert::checkpoint::model_folder::{HeadChoice, Loaded, ModelFolderError};
use distilbert::checkpoint::{Dtype, TensorData, TensorToWrite, Tensors, write_safetensors};
use distilbert::compress::{Difference, probe};
use distilbert::model::{Model, Purpose};
use distilbert_kernels::{Isa, Precision, Runtime};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model of each family and head.
const MODELS: [&str; 7] = [
    "bert-mlm",
    "bert-base-nohead",
    "bert-classify",
    "distilbert-mlm",
    "distilbert-nohead",
    "distilbert-sinusoidal",
    "distilbert-classify",
];

/// A matrix and a bias of `distilbert-classify`.
const MATRIX: &str = "distilbert.transformer.layer.1.ffn.lin2.weight";
const BIAS: &str = "distilbert.transformer.layer.1.ffn.lin2.bias";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn runtime() -> Runtime {
    Runtime::new(Isa::detect(), 2).expect("a runtime")
}

/// What is below f32 and can be run here.
fn precisions(isa: Isa) -> impl Iterator<Item = Precision> {
    [Precision::Bf16, Precision::Int8].into_iter().filter(move |precision| precision.is_available(isa))
}

fn saved(rt: &Runtime, name: &str, precision: Precision) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let model = Model::load(&golden(name), HeadChoice::AsSaved).expect("a model").model;
    model.save_in(rt, precision, folder.path()).expect("a smaller model");
    folder
}

fn load(rt: &Runtime, folder: &Path, precision: Option<Precision>) -> Loaded {
    Model::load_for_inference(folder, rt, precision).expect("a model for inference")
}

#[test]
fn a_saved_model_gives_the_bits_of_the_f32_folder_packed_at_run_time() {
    for isa in Isa::available() {
        let rt = Runtime::new(isa, 2).expect("a runtime");
        for (name, precision) in MODELS.into_iter().flat_map(|name| precisions(isa).map(move |p| (name, p))) {
            let folder = saved(&rt, name, precision);
            let from_saved = load(&rt, folder.path(), None);
            assert_eq!(from_saved.unused, Vec::<String>::new(), "{name} {precision}");
            let (from_saved, at_run_time) = (from_saved.model, load(&rt, &golden(name), Some(precision)).model);
            let mut in_memory = Model::load(&golden(name), HeadChoice::AsSaved).expect("a model").model;
            in_memory.pack(&rt, precision, Purpose::Inference);
            let probe = probe(&in_memory.config.encoder, 1);
            for other in [&from_saved, &at_run_time] {
                assert_eq!(other.precision(), precision);
                let difference = Difference::of(&rt, &in_memory, other, &probe);
                assert_eq!(difference.largest_difference, 0.0, "{name} in {precision} on {isa}");
                assert!(difference.largest_output > 0.0, "{name} in {precision} on {isa}");
            }
        }
    }
}

#[test]
fn an_f32_folder_loaded_for_inference_gives_the_bits_of_one_loaded_whole() {
    let rt = runtime();
    for name in MODELS.into_iter().chain(["bert-mlm-pickled", "bert-mlm-legacy", "distilbert-mlm-sharded"]) {
        let mut whole = Model::load(&golden(name), HeadChoice::AsSaved).expect("a model").model;
        whole.pack(&rt, Precision::F32, Purpose::Inference);
        let lean = load(&rt, &golden(name), None).model;
        let difference = Difference::of(&rt, &whole, &lean, &probe(&whole.config.encoder, 1));
        assert_eq!(difference.largest_difference, 0.0, "{name}");
    }
}

#[test]
fn bf16_weights_come_back_as_they_were_saved_and_save_again_to_the_same_bytes() {
    let (rt, folder) = (runtime(), saved(&runtime(), "distilbert-classify", Precision::Bf16));
    let tensors = Tensors::open_file(&folder.path().join("model.safetensors")).expect("tensors");
    let mut whole = Model::load(&golden("distilbert-classify"), HeadChoice::AsSaved).expect("a model").model;
    let weights = whole.parameters.weights_mut();
    for parameter in weights.table {
        let values = tensors.read_f32(&parameter.name).expect("numbers");
        for (weight, saved) in weights.values[parameter.range.clone()].iter_mut().zip(values) {
            assert!((*weight - saved).abs() <= weight.abs() / 256.0, "{}: {weight} became {saved}", parameter.name);
            *weight = saved;
        }
    }
    let again = tempfile::tempdir().expect("a folder");
    whole.save_in(&rt, Precision::Bf16, again.path()).expect("a smaller model");
    for file in ["model.safetensors", "config.json"] {
        let read = |folder: &Path| std::fs::read(folder.join(file)).expect("a file");
        assert!(read(folder.path()) == read(again.path()), "{file}");
    }
}

#[test]
fn int8_weights_take_a_quarter_and_their_configuration_says_so() {
    let folder = saved(&runtime(), "distilbert-classify", Precision::Int8);
    let config: Value = serde_json::from_slice(&std::fs::read(folder.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(
        config["quantization_config"],
        json!({"format": "distilbert", "format_version": 1, "precision": "int8"})
    );
    let tensors = Tensors::open_file(&folder.path().join("model.safetensors")).expect("tensors");
    assert_eq!(tensors.metadata()["format"], "distilbert-int8");
    let rows = tensors.shape(MATRIX).unwrap()[0];
    assert_eq!((tensors.dtype(MATRIX).unwrap(), tensors.dtype(BIAS).unwrap()), (Dtype::I8, Dtype::F32));
    assert_eq!(tensors.shape(&format!("{MATRIX}_scale")).unwrap(), [rows]);
    assert_eq!(tensors.dtype("classifier.weight").unwrap(), Dtype::F32);
    assert!(!tensors.contains("classifier.weight_scale"));
}

#[test]
fn weights_below_f32_are_neither_trained_nor_run_in_something_else_nor_saved() {
    let rt = runtime();
    let folder = saved(&rt, "distilbert-classify", Precision::Int8);
    let refused = Model::load(folder.path(), HeadChoice::AsSaved).err().expect("a refusal");
    assert!(matches!(refused, ModelFolderError::BelowF32 { found: Precision::Int8, .. }), "{refused}");
    let refused = Model::load_for_inference(folder.path(), &rt, Some(Precision::F32)).err().expect("a refusal");
    assert!(refused.to_string().contains("in int8, in which its weights are saved, found a wish for f32"), "{refused}");
    let model = load(&rt, folder.path(), None).model;
    for refused in [model.save(folder.path()), model.save_in(&rt, Precision::Int8, folder.path())] {
        assert!(refused.unwrap_err().to_string().contains("keeps no f32 weights"));
    }
    assert_eq!(load(&rt, folder.path(), None).model.precision(), Precision::Int8, "what was there stays");
}

#[test]
fn bf16_is_refused_where_it_cannot_be_run_but_can_be_checked() {
    let folder = saved(&runtime(), "bert-mlm", Precision::Bf16);
    let rt = Runtime::new(Isa::Portable, 1).expect("a runtime");
    let refused = Model::load_for_inference(folder.path(), &rt, None).err().expect("a refusal").to_string();
    assert!(refused.contains("precision `bf16`: needs AVX-512"), "{refused}");
    let checked = Model::check_folder(folder.path(), &rt).expect("a whole folder");
    assert_eq!((checked.model.config.weights, checked.unused.len()), (Precision::Bf16, 0));
}

/// A tensor of a file, to be altered.
#[derive(Clone, Debug)]
enum Data {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    I8(Vec<i8>),
}

type Altered = BTreeMap<String, (Vec<usize>, Data)>;

/// The refusal of a model saved in `precision` whose tensors `alter` has changed; also by the check that keeps nothing.
fn refusal(precision: Precision, alter: impl FnOnce(&mut Altered)) -> String {
    let rt = runtime();
    let folder = saved(&rt, "distilbert-classify", precision);
    let path = folder.path().join("model.safetensors");
    let file = Tensors::open_file(&path).expect("tensors");
    let mut tensors: Altered = file
        .names()
        .map(|name| {
            let data = match file.dtype(name).unwrap() {
                Dtype::I8 => Data::I8(file.read_i8(name).unwrap()),
                Dtype::BF16 => Data::Bf16(file.read_bf16(name).unwrap()),
                _ => Data::F32(file.read_f32(name).unwrap()),
            };
            (name.to_owned(), (file.shape(name).unwrap().to_vec(), data))
        })
        .collect();
    alter(&mut tensors);
    let to_write = tensors.iter().map(|(name, (shape, data))| TensorToWrite {
        name: name.as_str().into(),
        shape: shape.clone(),
        data: match data {
            Data::F32(data) => TensorData::F32(data),
            Data::Bf16(data) => TensorData::Bf16(data),
            Data::I8(data) => TensorData::I8(data),
        },
    });
    write_safetensors(&path, to_write, &BTreeMap::new()).expect("a file");
    let refused = Model::check_folder(folder.path(), &rt).err().expect("a refusal").to_string();
    // A CPU that lacks the precision says that first.
    if precision.check(rt.isa()).is_ok() {
        let loaded = Model::load_for_inference(folder.path(), &rt, None).err().expect("a refusal").to_string();
        assert_eq!(loaded, refused);
    }
    let prefix = format!("{}: ", folder.path().display());
    refused.strip_prefix(&prefix).unwrap_or(&refused).to_owned()
}

fn scale_name() -> String {
    format!("{MATRIX}_scale")
}

#[test]
fn a_missing_scale_is_refused() {
    let refused = refusal(Precision::Int8, |tensors| drop(tensors.remove(&scale_name())));
    assert_eq!(refused, format!("tensor `{MATRIX}_scale` is missing"));
}

#[test]
fn a_missing_matrix_is_refused() {
    let refused = refusal(Precision::Int8, |tensors| drop(tensors.remove(MATRIX)));
    assert_eq!(refused, format!("tensor `{MATRIX}` is missing"));
}

#[test]
fn scales_of_another_shape_are_refused() {
    let refused = refusal(Precision::Int8, |tensors| {
        let (shape, Data::F32(scales)) = tensors.get_mut(&scale_name()).unwrap() else { panic!() };
        scales.pop();
        shape[0] -= 1;
    });
    assert!(refused.starts_with(&format!("tensor `{MATRIX}_scale`: expected shape [")), "{refused}");
}

#[test]
fn a_matrix_of_another_shape_is_refused() {
    let refused = refusal(Precision::Int8, |tensors| tensors.get_mut(MATRIX).unwrap().0.reverse());
    assert!(refused.starts_with(&format!("tensor `{MATRIX}`: expected shape [")), "{refused}");
}

#[test]
fn scales_that_no_quantisation_makes_are_refused() {
    for (value, message) in [
        (f32::NAN, "expected finite numbers, found NaN at element 2"),
        (f32::INFINITY, "expected finite numbers, found inf at element 2"),
        (-0.5, "expected scales of 0 and more, found -0.5 at element 2"),
    ] {
        let refused = refusal(Precision::Int8, |tensors| {
            let (_, Data::F32(scales)) = tensors.get_mut(&scale_name()).unwrap() else { panic!() };
            scales[2] = value;
        });
        assert_eq!(refused, format!("tensor `{MATRIX}_scale`: {message}"));
    }
}

#[test]
fn a_number_that_no_quantisation_makes_is_refused() {
    let refused = refusal(Precision::Int8, |tensors| {
        let (_, Data::I8(values)) = tensors.get_mut(MATRIX).unwrap() else { panic!() };
        values[5] = -128;
    });
    assert_eq!(refused, format!("tensor `{MATRIX}`: expected numbers from -127 to 127, found -128 at element 5"));
}

#[test]
fn a_bf16_number_that_is_not_finite_is_refused() {
    let refused = refusal(Precision::Bf16, |tensors| {
        let (_, Data::Bf16(values)) = tensors.get_mut(MATRIX).unwrap() else { panic!() };
        values[5] = 0x7f80;
    });
    assert_eq!(refused, format!("tensor `{MATRIX}`: expected finite numbers, found inf at element 5"));
}

#[test]
fn elements_of_another_type_than_the_precisions_are_refused() {
    for (precision, name, data, message) in [
        (Precision::Bf16, MATRIX, "I8", "expected BF16 in a model saved in bf16, found I8"),
        (Precision::Int8, MATRIX, "F32", "expected I8 in a model saved in int8, found F32"),
        (Precision::Int8, MATRIX, "BF16", "expected I8 in a model saved in int8, found BF16"),
        (Precision::Int8, BIAS, "BF16", "expected F32 in a model saved in int8, found BF16"),
        (Precision::Bf16, BIAS, "I8", "expected F32 in a model saved in bf16, found I8"),
    ] {
        let refused = refusal(precision, |tensors| {
            let (shape, found) = tensors.get_mut(name).unwrap();
            let count = shape.iter().product();
            *found = match data {
                "I8" => Data::I8(vec![1; count]),
                "BF16" => Data::Bf16(vec![0x3f80; count]),
                _ => Data::F32(vec![1.0; count]),
            };
        });
        assert_eq!(refused, format!("tensor `{name}`: {message}"));
    }
}

#[test]
fn a_torn_file_is_refused() {
    let (rt, folder) = (runtime(), saved(&runtime(), "bert-mlm", Precision::Int8));
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let refused = Model::load_for_inference(folder.path(), &rt, None).err().expect("a refusal").to_string();
        assert!(refused.contains("model.safetensors: expected"), "{refused}");
    }
}

#[test]
fn a_configuration_that_says_less_or_something_else_than_the_weights_is_refused() {
    let (rt, folder) = (runtime(), saved(&runtime(), "bert-mlm", Precision::Int8));
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut refused = |value: Value| {
        config["quantization_config"] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        Model::load_for_inference(folder.path(), &rt, None).err().expect("a refusal").to_string()
    };
    let found = refused(json!({"format": "distilbert", "format_version": 2, "precision": "int8"}));
    assert!(found.contains("`quantization_config.format_version`: expected 1"), "{found}");
    let found = refused(json!({"format": "distilbert", "format_version": 1, "precision": "bf16"}));
    let expected = match Precision::Bf16.check(rt.isa()) {
        Ok(()) => "expected BF16 in a model saved in bf16, found I8",
        Err(_) => "precision `bf16`: needs AVX-512",
    };
    assert!(found.contains(expected), "{found}");
    let found = refused(Value::Null);
    assert!(found.contains("expected floating point (F32, F16, BF16 or F64)"), "{found}");
    assert!(Model::load(folder.path(), HeadChoice::AsSaved).is_err(), "nor is it trained");
}
