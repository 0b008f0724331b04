//! Every golden of `tests/goldens`, on every instruction set of this CPU. Its README says what each is and why the
//! tolerances are what they are.

use distilbert::checkpoint::model_folder::HeadChoice;
use distilbert::checkpoint::{TensorData, TensorToWrite, Tensors, write_safetensors};
use distilbert::model::{HeadKind, Model, Purpose};
use distilbert::verify::{Comparison, LabelledCheck, replay_distillation, verify_labelled_batch, verify_outputs};
use distilbert_kernels::{Isa, Precision, Runtime};
use std::path::{Path, PathBuf};

const OUTPUTS: [&str; 32] = [
    "bert-mlm",
    "bert-mlm-pickled",
    "bert-mlm-legacy",
    "bert-base-nohead",
    "bert-classify",
    "distilbert-mlm",
    "distilbert-mlm-sharded",
    "distilbert-nohead",
    "distilbert-sinusoidal",
    "distilbert-classify",
    "distilbert-regress",
    "bert-tokens",
    "bert-qa",
    "distilbert-tokens",
    "distilbert-qa",
    "roberta-nohead",
    "roberta-mlm",
    "roberta-classify",
    "roberta-tokens",
    "roberta-qa",
    "xlm-roberta-mlm",
    "xlm-roberta-tokens",
    "electra-nohead",
    "electra-mlm",
    "electra-classify",
    "electra-tokens",
    "electra-qa",
    "albert-nohead",
    "albert-mlm",
    "albert-classify",
    "albert-tokens",
    "albert-qa",
];

const LABELLED: [&str; 26] = [
    "finetune-classify",
    "finetune-multilabel",
    "finetune-regress",
    "finetune-soft-labels",
    "finetune-bert-classify",
    "finetune-tokens",
    "finetune-bert-tokens",
    "finetune-tokens-soft-labels",
    "finetune-qa",
    "finetune-bert-qa",
    "finetune-qa-soft-labels",
    "finetune-intents",
    "finetune-intents-soft-labels",
    "finetune-bert-intents",
    "pretrain-bert-mlm",
    "finetune-roberta-classify",
    "finetune-roberta-tokens",
    "finetune-xlm-roberta-tokens",
    "finetune-electra-classify",
    "finetune-albert-classify",
    "finetune-albert-tokens",
    "finetune-albert-qa",
    "pretrain-roberta-mlm",
    "pretrain-electra-mlm",
    "pretrain-albert-mlm",
    "objective-finetune",
];

const RUNS: [&str; 3] = ["distil-run", "distil-run-masked", "distil-run-schedule"];

const OBJECTIVES: [&str; 7] = [
    "objective-hidden",
    "objective-hidden-alone",
    "objective-patient",
    "objective-tinybert",
    "objective-minilm",
    "objective-minilm-v2",
    "objective-two-teachers",
];

#[test]
fn outputs_are_the_references() {
    for_every_runtime(|rt| {
        for name in OUTPUTS {
            let folder = golden(name);
            let model = load(rt, &folder, Purpose::Inference);
            let comparisons = verify_outputs(rt, &model, &folder.join("expected.safetensors")).expect(name);
            assert!(comparisons.len() >= 3, "{name}: {comparisons:?}");
            assert_all_pass(rt, name, &comparisons);
        }
    });
}

/// A copy of tensors of a reference file: those that `keep` keeps, with the shape that it gives them, and another loss.
fn copy_tensors(from: &Path, to: &Path, loss: Option<f32>, keep: impl Fn(&str, &[usize]) -> Option<Vec<usize>>) {
    let source = Tensors::open_file(from).unwrap();
    let (mut floats, mut integers) = (vec![], vec![]);
    for name in source.names() {
        let Some(shape) = keep(name, source.shape(name).unwrap()) else { continue };
        let count = shape.iter().product();
        match source.read_i64(name) {
            Ok(values) => integers.push((name.to_owned(), shape, values[..count].to_vec())),
            Err(_) if name == "loss" && loss.is_some() => {
                floats.push((name.to_owned(), shape, loss.into_iter().collect()))
            }
            Err(_) => floats.push((name.to_owned(), shape, source.read_f32(name).unwrap()[..count].to_vec())),
        }
    }
    let floats = floats.iter().map(|(name, shape, values)| (name, shape, TensorData::F32(values)));
    let integers = integers.iter().map(|(name, shape, values)| (name, shape, TensorData::I64(values)));
    let tensors = floats.chain(integers).map(|(name, shape, data)| TensorToWrite {
        name: name.into(),
        shape: shape.clone(),
        data,
    });
    write_safetensors(to, tensors, &Default::default()).unwrap();
}

#[test]
fn a_reference_without_anything_to_compare_is_no_proof() {
    let rt = Runtime::new(Isa::detect(), 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (golden("distilbert-classify"), folder.path().join("expected.safetensors"));
    let model = load(&rt, &source, Purpose::Inference);
    let expected = source.join("expected.safetensors");
    let refusal = || verify_outputs(&rt, &model, &target).unwrap_err().to_string();
    copy_tensors(&expected, &target, None, |name, shape| name.starts_with("input.").then(|| shape.to_vec()));
    let error = refusal();
    assert!(error.ends_with("expected tensors besides `input.*` to compare with, found none"), "{error}");
    copy_tensors(&expected, &target, None, |name, shape| {
        Some(if name == "logits" { vec![1, 1] } else { shape.to_vec() })
    });
    let error = refusal();
    assert!(error.contains("`logits`: expected ") && error.ends_with("found shape [1, 1] with 1"), "{error}");

    // A run without steps, and a step without gradients or parameters.
    let run = golden("distil-run");
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(run.join("meta.json")).unwrap()).unwrap();
    let replay = |steps: Option<&str>| {
        let mut meta = meta.clone();
        for key in ["teacher", "student_init"] {
            meta[key] = run.join(meta[key].as_str().unwrap()).to_str().unwrap().into();
        }
        match steps {
            None => meta["steps"] = serde_json::json!([]),
            Some(without) => copy_tensors(
                &run.join("step0.safetensors"),
                &folder.path().join("step0.safetensors"),
                None,
                |name, shape| (!name.starts_with(without)).then(|| shape.to_vec()),
            ),
        }
        std::fs::write(folder.path().join("meta.json"), meta.to_string()).unwrap();
        replay_distillation(&rt, None, folder.path()).unwrap_err().to_string()
    };
    assert!(replay(None).ends_with("expected steps to compare with, found none"));
    assert!(replay(Some("grad.")).ends_with("expected gradients, `grad.*`, to compare with, found none"));
    assert!(
        replay(Some("param_after.")).ends_with("expected parameters, `param_after.*`, to compare with, found none")
    );
}

#[test]
fn losses_and_gradients_of_labelled_batches_are_the_references() {
    for_every_runtime(|rt| {
        for name in LABELLED {
            let folder = golden(name);
            let mut model = load(rt, &folder, Purpose::Training);
            let LabelledCheck { comparisons, not_compared } =
                verify_labelled_batch(rt, &mut model, &folder).expect(name);
            assert_eq!(not_compared, None, "{name}");
            let gradients = comparisons.iter().filter(|comparison| comparison.name.starts_with("grad.")).count();
            assert_eq!(gradients, model.parameters.table().len(), "{name}: every parameter has a gradient");
            assert_all_pass(rt, name, &comparisons);
        }
    });
}

#[test]
fn distillation_runs_are_the_references_step_by_step() {
    for_every_runtime(|rt| {
        for name in RUNS {
            let comparisons = replay_distillation(rt, None, &golden(name)).expect(name);
            for kind in ["step2.loss", "step2.grad_norm", "step0.grad.", "step2.param_after."] {
                assert!(comparisons.iter().any(|comparison| comparison.name.starts_with(kind)), "{name}: {kind}");
            }
            assert_all_pass(rt, name, &comparisons);
        }
    });
}

#[test]
fn objectives_between_layers_are_the_references_step_by_step() {
    for_every_runtime(|rt| {
        for name in OBJECTIVES {
            let comparisons = replay_distillation(rt, None, &golden(name)).expect(name);
            for kind in ["step1.loss", "step1.layer_term.0", "step1.grad_norm", "step0.grad.", "step1.param_after."] {
                assert!(comparisons.iter().any(|comparison| comparison.name.starts_with(kind)), "{name}: {kind}");
            }
            assert_all_pass(rt, name, &comparisons);
        }
    });
}

#[test]
fn a_changed_weight_is_noticed() {
    let rt = Runtime::new(Isa::detect(), 1).expect("one thread of a detected instruction set");
    let folder = golden("distilbert-mlm");
    let mut model = load(&rt, &folder, Purpose::Inference);
    let at = model.encoder.layers[1].feed_forward.lin1.weight.start + 3;
    model.parameters.weights_mut().values[at] += 0.05;
    model.pack(&rt, Precision::F32, Purpose::Inference);
    let comparisons = verify_outputs(&rt, &model, &folder.join("expected.safetensors")).expect("the golden");
    let failed: Vec<&str> = comparisons.iter().filter(|c| !c.passed).map(|c| c.name.as_str()).collect();
    assert_eq!(failed, ["hidden.2", "logits"]);
}

fn for_every_runtime(check: impl Fn(&Runtime)) {
    for isa in Isa::available() {
        for threads in [1, 3] {
            check(&Runtime::new(isa, threads).expect("an available instruction set"));
        }
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn load(rt: &Runtime, folder: &Path, purpose: Purpose) -> Model {
    let mut model = Model::load(folder, HeadChoice::AsSaved).expect("a golden model").model;
    model.disable_dropout();
    model.pack(rt, Precision::F32, purpose);
    model
}

fn assert_all_pass(rt: &Runtime, name: &str, comparisons: &[Comparison]) {
    let failed: Vec<&Comparison> = comparisons.iter().filter(|comparison| !comparison.passed).collect();
    assert!(failed.is_empty(), "{name} on {} with {} threads: {failed:#?}", rt.isa(), rt.threads());
}

#[test]
fn a_head_that_a_folder_lacks_starts_as_that_of_a_random_model_and_the_rest_as_saved() {
    let head = || HeadKind::TokenClassification { labels: vec!["a".to_owned(), "b".to_owned()] };
    let folder = golden("distilbert-mlm");
    let loaded = Model::load(&folder, HeadChoice::Replace { head: head(), seed: 7 }).unwrap();
    let random = Model::random(loaded.model.config.clone(), 7);
    let saved = Model::load(&folder, HeadChoice::AsSaved).unwrap().model;
    assert_eq!(loaded.fresh, ["classifier.weight", "classifier.bias"]);
    for parameter in loaded.model.parameters.table() {
        let from = if loaded.fresh.contains(&parameter.name) { &random.parameters } else { &saved.parameters };
        let same = from.table().iter().find(|other| other.name == parameter.name).unwrap();
        assert!(loaded.model.parameters.tensor(parameter) == from.tensor(same), "{}", parameter.name);
    }
}

#[test]
fn a_loss_of_answers_that_counts_padding_is_known_for_what_it_is() {
    let rt = Runtime::new(Isa::detect(), 1).unwrap();
    let source = Tensors::open_file(&golden("finetune-qa").join("expected.safetensors")).unwrap();
    let width = source.shape("start_logits").unwrap()[1];
    // As in transformers: the softmax is over all tokens of the padded batch, a position past its end is ignored.
    let side = |side: &str| {
        let logits = source.read_f32(&format!("{side}_logits")).unwrap();
        let positions = source.read_i64(&format!("{side}_positions")).unwrap();
        let inside = logits.chunks_exact(width).zip(positions).filter(|(_, position)| (*position as usize) < width);
        let losses = inside.map(|(row, position)| {
            row.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln() - f64::from(row[position as usize])
        });
        let losses: Vec<f64> = losses.collect();
        losses.iter().sum::<f64>() / losses.len() as f64
    };
    let padded = ((side("start") + side("end")) / 2.0) as f32;
    let check = |loss: f32| {
        let folder = tempfile::tempdir().unwrap();
        let expected = golden("finetune-qa").join("expected.safetensors");
        let keep = |_: &str, shape: &[usize]| Some(shape.to_vec());
        copy_tensors(&expected, &folder.path().join("expected.safetensors"), Some(loss), keep);
        let mut model = load(&rt, &golden("finetune-qa"), Purpose::Training);
        verify_labelled_batch(&rt, &mut model, folder.path()).unwrap()
    };
    let LabelledCheck { comparisons, not_compared } = check(padded);
    assert!(not_compared.is_some_and(|why| why.contains("gradients are not compared")));
    let names: Vec<&str> = comparisons.iter().map(|comparison| comparison.name.as_str()).collect();
    assert_eq!(names, ["start_logits", "end_logits", "loss"]);
    assert_all_pass(&rt, "padded", &comparisons);
    // Any other loss is wrong.
    let LabelledCheck { comparisons, not_compared } = check(padded + 0.01);
    assert!(not_compared.is_none() && comparisons.iter().any(|comparison| !comparison.passed));
}
