//! One distillation step of a DistilBERT-base from a BERT-base (random weights): 8 sequences of 128 tokens, dropout on,
//! KL on all positions, masked-LM and cosine, AdamW. `reference/bench_training.py` times the same step in PyTorch.
//!
//! `cargo bench --bench training -- [THREADS [STEPS]] [f32|bf16] [--lengths FILE] [--recompute]` prints one line of JSON:
//! tokens per second (over all steps but the first, and the median, least and most of a step), the share of the optimiser,
//! and the peak of resident memory. With `--lengths` there is a sequence of each length in the file, one a line, in batches
//! of 8 in the order that training draws.

use distilbert::data::corpus::{self, By, Corpus, CorpusConfig, CorpusInputs, Field, HeldOut, InvalidUtf8};
use distilbert::data::masking::MaskingConfig;
use distilbert::loss::vocabulary::{DistilWeights, KlPositions};
use distilbert::model::encoder::Keeps;
use distilbert::model::student::{TokenTypes, from_teacher, uniform_with_ends};
use distilbert::model::{Model, ModelConfig, Purpose};
use distilbert::optim::{OptimizerConfig, OptimizerState, update};
use distilbert::random::Rng;
use distilbert::tokenizer::Tokenizer;
use distilbert::train::Workload;
use distilbert::train::language::{LanguageConfig, LanguageTraining, Normalise};
use distilbert::train::order::Batching;
use distilbert_kernels::{Isa, Precision, Runtime};
use std::time::Instant;

const VOCABULARY: usize = 30_522;
const SEQUENCES: usize = 8;
const LENGTH: usize = 128;
/// Specials and a word.
const SHORTEST: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<usize> = arguments.iter().map_while(|argument| argument.parse().ok()).collect();
    let lengths = match arguments.iter().position(|argument| argument == "--lengths") {
        Some(at) => read_lengths(arguments.get(at + 1).expect("--lengths FILE")),
        None => vec![LENGTH; SEQUENCES * 4],
    };
    let threads = numbers.first().copied().unwrap_or(2);
    let steps = numbers.get(1).copied().unwrap_or(8).max(2);
    let precision = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(Precision::F32);
    let rt = Runtime::new(Isa::detect(), threads).expect("a runtime");

    let folder = tempfile::tempdir().expect("a temporary folder");
    let (tokenizer, corpus) = corpus(folder.path(), &lengths);
    let config = r#"{"model_type":"bert","architectures":["BertForMaskedLM"]}"#;
    let whole = Model::random(ModelConfig::from_json(config).expect("BERT-base"), 1);
    let student = from_teacher(&whole, &uniform_with_ends(12, 6), TokenTypes::Drop).expect("a student");
    let teacher = whole.for_inference(&rt, precision);
    drop(whole);
    let config = LanguageConfig {
        seed: 1,
        epochs: steps,
        max_steps: Some(steps as u64),
        batching: Batching::Sequences { sequences: SEQUENCES },
        accumulation: 1,
        normalise: Normalise::Step,
        kl_positions: KlPositions::All,
        weights: DistilWeights::default(),
        layer_terms: Vec::new(),
        masking: MaskingConfig::default(),
        held_out_sequences: 0,
        teacher_top_k: 0,
    };
    let mut workload =
        LanguageTraining::new(student, &[&teacher], &tokenizer, &corpus, config).expect("parts that fit");
    let mut gradients = vec![0.0; workload.model().parameters.len()];
    let mut state = OptimizerState::new(gradients.len());
    let optimizer = OptimizerConfig::default();
    workload.model_mut().pack(&rt, precision, Purpose::Training);
    if arguments.iter().any(|argument| argument == "--recompute") {
        workload.model_mut().encoder.keeps = Keeps::Inputs;
    }

    let (mut rates, mut shares) = (Vec::new(), Vec::new());
    let (mut all_tokens, mut all_seconds) = (0, 0.0);
    for step in 1..=steps as u64 {
        let started = Instant::now();
        rt.parallel_chunks_mut(&mut gradients, 1 << 16, |_, part| part.fill(0.0));
        let report = workload.step(&rt, step, &mut gradients).expect("a step");
        let computed = started.elapsed().as_secs_f64();
        update(&rt, &optimizer, steps as u64, &mut workload.model_mut().parameters, &gradients, &mut state);
        workload.model_mut().repack_trainable(&rt);
        let seconds = started.elapsed().as_secs_f64();
        if step > 1 {
            all_tokens += report.tokens;
            all_seconds += seconds;
            rates.push(report.tokens as f64 / seconds);
            shares.push(1.0 - computed / seconds);
        }
    }
    rates.sort_by(f64::total_cmp);
    shares.sort_by(f64::total_cmp);
    println!(
        "{{\"threads\":{threads},\"precision\":\"{precision}\",\"isa\":\"{}\",\"steps\":{},\"tokens\":{all_tokens},\"tokens_per_second\":{:.1},\"tokens_per_second_median\":{:.1},\"min\":{:.1},\"max\":{:.1},\"optimizer_share_median\":{:.3},\"peak_resident_mb\":{}}}",
        rt.isa(),
        rates.len(),
        all_tokens as f64 / all_seconds,
        rates[rates.len() / 2],
        rates[0],
        rates[rates.len() - 1],
        shares[shares.len() / 2],
        peak_resident_mb().map_or("null".to_owned(), |mb| mb.to_string())
    );
}

/// The lengths in a file, one a line.
fn read_lengths(path: &str) -> Vec<usize> {
    let text = std::fs::read_to_string(path).expect("a file of lengths");
    let lengths: Vec<usize> = text.lines().map(|line| line.parse().expect("a length a line")).collect();
    assert!(lengths.iter().all(|length| (SHORTEST..=LENGTH).contains(length)), "lengths from {SHORTEST} to {LENGTH}");
    lengths
}

/// A vocabulary of BERT's size and sequences of exactly these lengths, of random words.
fn corpus(folder: &std::path::Path, lengths: &[usize]) -> (Tokenizer, Corpus) {
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let words = (0..VOCABULARY - specials.len()).map(|word| format!("w{word}"));
    let tokenizer =
        Tokenizer::from_vocabulary(specials.into_iter().chain(words).collect(), true).expect("a vocabulary");
    let mut rng = Rng::from_key(&[1]);
    let mut text = String::new();
    for length in lengths {
        let line: Vec<String> = (0..length - 2).map(|_| format!("w{}", rng.below(VOCABULARY - 5))).collect();
        text.push_str(&line.join(" "));
        text.push('\n');
    }
    let (input, output) = (folder.join("text.txt"), folder.join("corpus"));
    std::fs::write(&input, text).expect("a writable folder");
    let inputs =
        CorpusInputs { paths: vec![input], field: Field::All, by: By::Line, invalid_utf8: InvalidUtf8::Refuse };
    let config = CorpusConfig {
        max_length: LENGTH,
        min_length: SHORTEST,
        held_out: HeldOut::Share(0.0),
        ..CorpusConfig::default()
    };
    corpus::build(&inputs, &tokenizer, &config, &output, &()).expect("a corpus");
    (tokenizer, Corpus::open(&output).expect("the corpus just built"))
}

/// The high-water mark of resident memory, where the system tells it.
fn peak_resident_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}
