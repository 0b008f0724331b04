//! The kernels that are no matrix product, on one thread, in bytes of operands read and written a second: beside the
//! bandwidth of the memory they show whether arithmetic holds them back.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use distilbert_kernels::dropout::{Dropout, dropout_rows};
use distilbert_kernels::elementwise::{GeluKind, add_assign, column_sums, gelu, gelu_backward, softmax_rows};
use distilbert_kernels::embedding::embed_backward;
use distilbert_kernels::losses::{LogitLoss, cosine_rows, logit_losses};
use distilbert_kernels::norm::{NormStats, layer_norm, layer_norm_backward, residual_layer_norm};
use distilbert_kernels::optimizer::{AdamW, adamw, sum_of_squares};
use distilbert_kernels::{Isa, Runtime};

const TOKENS: usize = 1024;
const HIDDEN: usize = 768;
const VOCAB: usize = 30_522;

fn rows(criterion: &mut Criterion) {
    for isa in Isa::available().rev() {
        let rt = Runtime::new(isa, 1).expect("the instruction set is available");
        activations(criterion, &rt);
        norms(criterion, &rt);
        losses(criterion, &rt);
        updates(criterion, &rt);
    }
}

fn bench(criterion: &mut Criterion, rt: &Runtime, name: &str, numbers: usize, mut run: impl FnMut()) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(4 * numbers as u64));
    group.bench_function(rt.isa().name(), |bencher| bencher.iter(&mut run));
}

fn activations(criterion: &mut Criterion, rt: &Runtime) {
    let len = TOKENS * HIDDEN;
    let (x, mut y) = (numbers(len), vec![0.0; len]);
    for kind in [GeluKind::Erf, GeluKind::Tanh] {
        bench(criterion, rt, &format!("gelu {kind:?}"), 2 * len, || gelu(rt, &x, &mut y, kind));
        bench(criterion, rt, &format!("gelu_backward {kind:?}"), 3 * len, || gelu_backward(rt, &x, &mut y, kind));
    }
    bench(criterion, rt, "softmax of 128", 2 * len, || softmax_rows(rt, &mut y, 128));
    bench(criterion, rt, "add_assign", 3 * len, || add_assign(rt, &mut y, &x));
}

fn norms(criterion: &mut Criterion, rt: &Runtime) {
    let len = TOKENS * HIDDEN;
    let (x, dy, gamma, beta) = (numbers(len), numbers(len), numbers(HIDDEN), numbers(HIDDEN));
    let (mut y, mut dx, mut stats) = (vec![0.0; len], vec![0.0; len], NormStats::default());
    let (mut d_gamma, mut d_beta) = (vec![0.0; HIDDEN], vec![0.0; HIDDEN]);
    let dropout = Dropout { probability: 0.1, site_key: 1, slots: &[0] };
    let cu_seqlens = [0, TOKENS as u32];
    bench(criterion, rt, "layer_norm", 2 * len, || {
        layer_norm(rt, &x, &gamma, &beta, 1e-12, &mut y, Some(&mut stats));
    });
    bench(criterion, rt, "layer_norm_backward", 3 * len, || {
        layer_norm_backward(rt, &dy, &x, &stats, &gamma, &mut dx, &mut d_gamma, &mut d_beta);
    });
    bench(criterion, rt, "residual_layer_norm with dropout", 4 * len, || {
        let dropout = Some((&dropout, &cu_seqlens[..]));
        residual_layer_norm(rt, &mut dx, &x, dropout, &gamma, &beta, 1e-12, &mut y, None);
    });
    bench(criterion, rt, "dropout_rows", 2 * len, || dropout_rows(rt, &mut y, HIDDEN, &cu_seqlens, &dropout));
    bench(criterion, rt, "column_sums", len, || column_sums(rt, &x, HIDDEN, &mut d_beta));
}

fn losses(criterion: &mut Criterion, rt: &Runtime) {
    const ROWS: usize = 64;
    let (source, teacher) = (numbers(ROWS * VOCAB), numbers(ROWS * VOCAB));
    let targets = vec![7; ROWS];
    let mut student = source.clone();
    let mut run = |name: &str, operands: usize, teacher: Option<&[f32]>, targets: Option<&[i32]>, temperature: f32| {
        let loss = LogitLoss { temperature, kl_scale: 5.0, ce_scale: 2.0, mse_scale: 0.0 };
        bench(criterion, rt, name, operands * ROWS * VOCAB, || {
            // The logits are overwritten; their copy is timed too, as the product that makes them anew would be.
            student.copy_from_slice(&source);
            logit_losses(rt, &mut student, teacher, targets, None, VOCAB, &loss);
        });
    };
    run("logit_losses kl + ce", 3, Some(&teacher), Some(&targets), 2.0);
    run("logit_losses kl", 3, Some(&teacher), None, 2.0);
    run("logit_losses kl + ce at T = 1", 3, Some(&teacher), Some(&targets), 1.0);
    run("logit_losses ce", 2, None, Some(&targets), 1.0);
    let len = TOKENS * HIDDEN;
    let (x, y, mut gradient) = (numbers(len), numbers(len), vec![0.0; len]);
    bench(criterion, rt, "cosine_rows", 4 * len, || {
        cosine_rows(rt, &x, &y, HIDDEN, 1.0, &mut gradient);
    });
}

fn updates(criterion: &mut Criterion, rt: &Runtime) {
    const PARAMETERS: usize = 8 << 20;
    let gradients = numbers(PARAMETERS);
    let [mut parameters, mut first, mut second] = [numbers(PARAMETERS), vec![0.0; PARAMETERS], vec![0.0; PARAMETERS]];
    let config = AdamW {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-6,
        weight_decay: 0.01,
        step: 10,
        gradient_scale: 1.0,
    };
    bench(criterion, rt, "adamw", 7 * PARAMETERS, || {
        adamw(rt, &config, &mut parameters, &gradients, &mut first, &mut second);
    });
    bench(criterion, rt, "sum_of_squares", PARAMETERS, || {
        sum_of_squares(rt, &gradients);
    });
    let ids: Vec<u32> = (0..TOKENS as u32).map(|i| i * 7919 % VOCAB as u32 % 10_000).collect();
    let (d_out, mut d_table) = (numbers(TOKENS * HIDDEN), vec![0.0; 10_000 * HIDDEN]);
    bench(criterion, rt, "embed_backward", 3 * TOKENS * HIDDEN, || {
        embed_backward(rt, HIDDEN, &ids, &d_out, &mut d_table, Some(0));
    });
}

/// In about -2..2.
fn numbers(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 22) as f32 - 2.0).collect()
}

criterion_group!(benches, rows);
criterion_main!(benches);
