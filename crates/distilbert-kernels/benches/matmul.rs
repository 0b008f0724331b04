//! The matrix product against the peak of this machine: `cargo bench --bench matmul [-- [f32|bf16|int8] [ROWS...]]`.
//!
//! The peak is measured, not looked up: independent fused multiply-adds in registers, on as many threads. Peak and
//! products are timed in turns, each many times, and the fastest of each counts, so that other load on the machine
//! disturbs both alike.
//!
//! With `cold` the weights come from memory, as in a model that is larger than the caches: `-- cold 16`. Then the median
//! counts, since the fastest pass may have found some of them in a cache.
#![allow(missing_docs)]

use distilbert_kernels::matmul::{Epilogue, PackedMatrix, matmul, matmul_tn};
use distilbert_kernels::peak::peak_multiply_adds_per_second;
use distilbert_kernels::{Isa, Precision, Runtime};
use std::time::{Duration, Instant};

/// `[in, out]` of DistilBERT's Linear layers, and the vocabulary projection.
const SHAPES: [(usize, usize); 5] = [(768, 768), (768, 2304), (768, 3072), (3072, 768), (768, 30522)];

fn main() {
    let rows: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let rows = if rows.is_empty() { vec![1, 16, 128, 1024] } else { rows };
    let precision = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(Precision::F32);
    let isa = Isa::detect();
    precision.check(isa).expect("a precision that this CPU has");
    println!("instruction set: {isa}, {precision}");
    if std::env::args().any(|argument| argument == "cold") {
        return cold(isa, precision, &rows);
    }
    println!(
        "{:<8} {:>5} {:>12} {:>7} {:>9} {:>9} {:>6}",
        "product", "rows", "in x out", "threads", "GFLOP/s", "peak", "share"
    );
    for threads in [1, 2] {
        // The best so far: a peak that another load hid at one shape is seen at another.
        let mut peak: f64 = 0.0;
        let rt = Runtime::new(isa, threads).expect("the instruction set was detected and two threads can be started");
        for (inputs, outputs) in SHAPES {
            let w = numbers(outputs * inputs);
            let forward_weight = PackedMatrix::from_nk(&rt, precision, &w, outputs, inputs);
            // Training multiplies no int8.
            let mut backward_weight =
                (precision != Precision::Int8).then(|| PackedMatrix::from_kn(&rt, precision, &w, outputs, inputs));
            let mut dw = vec![0.0; outputs * inputs];
            for &m in &rows {
                let (mut x, mut y) = (numbers(m * inputs), numbers(m * outputs));
                let dy = y.clone();
                let work = (m * inputs * outputs) as f64;
                let rounds = ((3e10 / work) as usize).clamp(5, 200);
                let [mut forward, mut dx, mut dw_time] = [f64::MAX; 3];
                for round in 0..rounds {
                    if round % 20 == 0 {
                        peak = peak.max(peak_multiply_adds_per_second(&rt, precision));
                    }
                    forward = forward.min(seconds(|| matmul(&rt, &x, &forward_weight, &mut y, Epilogue::None)));
                    if let Some(weight) = &backward_weight {
                        dw_time = dw_time.min(seconds(|| matmul_tn(&rt, precision, &dy, &x, m, &mut dw)));
                        dx = dx.min(seconds(|| matmul(&rt, &dy, weight, &mut x, Epilogue::None)));
                        x.fill(0.5);
                    }
                }
                let measured = [("forward", forward), ("dX", dx), ("dW", dw_time)];
                for (name, time) in measured.into_iter().filter(|&(_, time)| time < f64::MAX) {
                    let (rate, peak) = (2e-9 * work / time, 2e-9 * peak);
                    let shape = format!("{inputs} x {outputs}");
                    let share = 100.0 * rate / peak;
                    println!("{name:<8} {m:>5} {shape:>12} {threads:>7} {rate:>9.1} {peak:>9.1} {share:>5.1}%");
                }
            }
            let bytes = size_of_val(&w[..]) as f64;
            let mut packed = forward_weight;
            let pack_nk = (0..20).map(|_| seconds(|| packed.repack_nk(&rt, &w))).fold(f64::MAX, f64::min);
            print!("packing {inputs} x {outputs}, {threads} threads: nk {:.1} GB/s", 1e-9 * bytes / pack_nk);
            if let Some(packed) = &mut backward_weight {
                let pack_kn = (0..20).map(|_| seconds(|| packed.repack_kn(&rt, &w))).fold(f64::MAX, f64::min);
                print!(", kn {:.1} GB/s", 1e-9 * bytes / pack_kn);
            }
            println!();
        }
    }
}

/// Products of different weights in turns, together larger than any cache.
fn cold(isa: Isa, precision: Precision, rows: &[usize]) {
    const BYTES: usize = 160_000_000;
    const ROUNDS: usize = 15;
    println!("{:>5} {:>12} {:>7} {:>9} {:>9} {:>6}", "rows", "in x out", "threads", "GFLOP/s", "weights", "");
    for threads in [1, 2] {
        let rt = Runtime::new(isa, threads).expect("the instruction set was detected and two threads can be started");
        for (inputs, outputs) in [(768, 3072), (3072, 768)] {
            let w = numbers(outputs * inputs);
            let first = PackedMatrix::from_nk(&rt, precision, &w, outputs, inputs);
            let bytes = first.size_bytes();
            let more = (1..BYTES.div_ceil(bytes)).map(|_| PackedMatrix::from_nk(&rt, precision, &w, outputs, inputs));
            let weights: Vec<_> = std::iter::once(first).chain(more).collect();
            for &m in rows {
                let (x, mut y) = (numbers(m * inputs), vec![0.0; m * outputs]);
                let mut pass =
                    || seconds(|| weights.iter().for_each(|weight| matmul(&rt, &x, weight, &mut y, Epilogue::None)));
                let mut times: Vec<f64> = (0..ROUNDS).map(|_| pass() / weights.len() as f64).collect();
                times.sort_by(f64::total_cmp);
                let (time, shape) = (times[ROUNDS / 2], format!("{inputs} x {outputs}"));
                let (rate, read) = (2e-9 * (m * inputs * outputs) as f64 / time, 1e-9 * bytes as f64 / time);
                println!("{m:>5} {shape:>12} {threads:>7} {rate:>9.1} {read:>9.1} GB/s");
            }
        }
    }
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 1000.0 - 0.5).collect()
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
}
