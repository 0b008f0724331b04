//! Attention of DistilBERT's shape (12 heads of 64), forward and backward: `cargo bench --bench attention`.
//!
//! GFLOP/s count the matrix products only: two in the forward pass, five in the backward.
#![allow(missing_docs)]

use distilbert_kernels::attention::{AttentionShape, Queries, attention, attention_backward};
use distilbert_kernels::dropout::Dropout;
use distilbert_kernels::{Isa, Precision, Runtime};
use std::time::Instant;

fn main() {
    let shape = AttentionShape { heads: 12, head_dim: 64 };
    let hidden = shape.heads * shape.head_dim;
    let isa = Isa::detect();
    println!("instruction set: {isa}");
    println!(
        "{:>5} {:>5} {:>7} {:>7} {:>12} {:>8} {:>12} {:>8}",
        "batch", "seq", "dropout", "threads", "forward ms", "GFLOP/s", "backward ms", "GFLOP/s"
    );
    for threads in [1, 2] {
        let rt = Runtime::new(isa, threads).expect("the instruction set was detected and two threads can be started");
        for (batch, seq) in [(1, 16), (32, 32), (8, 128), (2, 512)] {
            let tokens = batch * seq;
            let cu_seqlens: Vec<u32> = (0..=batch).map(|i| (i * seq) as u32).collect();
            let slots: Vec<u64> = (0..batch as u64).collect();
            let dropout = Dropout { probability: 0.1, site_key: 1, slots: &slots };
            let (qkv, d_context) = (numbers(tokens * 3 * hidden), numbers(tokens * hidden));
            let (mut context, mut sums) = (vec![0.0; tokens * hidden], vec![0.0; tokens * shape.heads]);
            let mut d_qkv = vec![0.0; tokens * 3 * hidden];
            for dropout in [None, Some(&dropout)] {
                let [mut forward, mut backward] = [f64::MAX; 2];
                for _ in 0..100 {
                    let start = Instant::now();
                    attention(
                        &rt,
                        Precision::F32,
                        shape,
                        &qkv,
                        &cu_seqlens,
                        Queries::All,
                        dropout,
                        &mut context,
                        Some(&mut sums),
                    );
                    forward = forward.min(start.elapsed().as_secs_f64());
                    let start = Instant::now();
                    attention_backward(&rt, shape, &qkv, &cu_seqlens, dropout, &context, &sums, &d_context, &mut d_qkv);
                    backward = backward.min(start.elapsed().as_secs_f64());
                }
                let product = 2e-9 * (batch * seq * seq * hidden) as f64;
                println!(
                    "{batch:>5} {seq:>5} {:>7} {threads:>7} {:>12.3} {:>8.1} {:>12.3} {:>8.1}",
                    if dropout.is_some() { "0.1" } else { "none" },
                    1e3 * forward,
                    2.0 * product / forward,
                    1e3 * backward,
                    5.0 * product / backward,
                );
            }
        }
    }
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 1000.0 - 0.5).collect()
}
