//! A pass over a batch like the ones before it allocates nothing, on any thread. The only test of this program, since it
//! counts what the whole process allocates.

use distilbert::data::batch::Batch;
use distilbert::model::{Model, ModelConfig};
use distilbert::predict::LogitsRunner;
use distilbert_kernels::{Isa, Precision, Runtime};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_pass_in_the_steady_state_allocates_nothing() {
    for (family, architecture) in [
        ("distilbert", "DistilBertForSequenceClassification"),
        ("bert", "BertForSequenceClassification"),
        ("bert", "BertForTokenClassification"),
        ("distilbert", "DistilBertForQuestionAnswering"),
    ] {
        let config = format!(
            r#"{{"model_type":"{family}","architectures":["{architecture}"],"vocab_size":60,"hidden_size":48,"dim":48,
            "num_hidden_layers":3,"n_layers":3,"num_attention_heads":3,"n_heads":3,"intermediate_size":96,
            "hidden_dim":96,"max_position_embeddings":200}}"#
        );
        let model = Model::random(ModelConfig::from_json(&config).unwrap(), 3);
        let ids: Vec<u32> = (0..200).map(|i| i % 60).collect();
        let batches = [&[200, 3, 17][..], &[16], &[64, 64, 64]]
            .map(|lengths| Batch::from_sequences(lengths.iter().map(|&length| &ids[..length])));
        for isa in Isa::available() {
            // On one thread every buffer has grown after a round. Of two, either may take any task, and a thread's scratch
            // memory grows when it first takes a larger one, which may be late.
            for threads in [1, 2] {
                let rt = Runtime::new(isa, threads).unwrap();
                for precision in Precision::ALL.into_iter().filter(|precision| precision.is_available(isa)) {
                    let model = model.for_inference(&rt, precision);
                    let mut runner = LogitsRunner::new(&model).unwrap();
                    let mut round = || {
                        let before = ALLOCATIONS.load(Ordering::Relaxed);
                        for batch in &batches {
                            runner.run(&rt, batch).unwrap();
                        }
                        ALLOCATIONS.load(Ordering::Relaxed) - before
                    };
                    round();
                    let rounds: Vec<usize> = (0..4).map(|_| round()).collect();
                    let case = format!("{architecture} in {precision} on {isa}, {threads} threads: {rounds:?}");
                    assert_eq!(rounds.iter().min(), Some(&0), "{case}");
                    assert!(threads > 1 || rounds.iter().all(|&count| count == 0), "{case}");
                }
            }
        }
    }
}
