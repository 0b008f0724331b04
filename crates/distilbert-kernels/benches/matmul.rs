//! The matrix product against the peak of this machine: `cargo bench --bench matmul [-- ROWS...]`.
//!
//! The peak is measured, not looked up: independent fused multiply-adds in registers, on as many threads. Peak and
//! products are timed in turns, each many times, and the fastest of each counts, so that other load on the machine
//! disturbs both alike.
#![allow(missing_docs)]

use distilbert_kernels::matmul::{Epilogue, PackedMatrix, matmul, matmul_tn};
use distilbert_kernels::{Isa, Precision, Runtime};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// `[in, out]` of DistilBERT's Linear layers, and the vocabulary projection.
const SHAPES: [(usize, usize); 5] = [(768, 768), (768, 2304), (768, 3072), (3072, 768), (768, 30522)];

fn main() {
    let rows: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let rows = if rows.is_empty() { vec![1, 16, 128, 1024] } else { rows };
    let isa = Isa::detect();
    println!("instruction set: {isa}");
    println!(
        "{:<8} {:>5} {:>12} {:>7} {:>9} {:>9} {:>6}",
        "product", "rows", "in x out", "threads", "GFLOP/s", "peak", "share"
    );
    for threads in [1, 2] {
        // The best so far: a peak that another load hid at one shape is seen at another.
        let mut peak = f64::MAX;
        let rt = Runtime::new(isa, threads).expect("the instruction set was detected and two threads can be started");
        for (inputs, outputs) in SHAPES {
            let w = numbers(outputs * inputs);
            let forward_weight = PackedMatrix::from_nk(&rt, Precision::F32, &w, outputs, inputs);
            let backward_weight = PackedMatrix::from_kn(&rt, Precision::F32, &w, outputs, inputs);
            let mut dw = vec![0.0; outputs * inputs];
            for &m in &rows {
                let (mut x, mut y) = (numbers(m * inputs), numbers(m * outputs));
                let dy = y.clone();
                let work = (m * inputs * outputs) as f64;
                let rounds = ((3e10 / work) as usize).clamp(5, 200);
                let [mut forward, mut dx, mut dw_time] = [f64::MAX; 3];
                for _ in 0..rounds {
                    peak = peak.min(seconds_per_fma(&rt));
                    forward = forward.min(seconds(|| matmul(&rt, &x, &forward_weight, &mut y, Epilogue::None)));
                    dw_time = dw_time.min(seconds(|| matmul_tn(&rt, Precision::F32, &dy, &x, m, &mut dw)));
                    dx = dx.min(seconds(|| matmul(&rt, &dy, &backward_weight, &mut x, Epilogue::None)));
                    x.fill(0.5);
                }
                for (name, time) in [("forward", forward), ("dX", dx), ("dW", dw_time)] {
                    let (rate, peak) = (2e-9 * work / time, 2e-9 / peak);
                    let shape = format!("{inputs} x {outputs}");
                    let share = 100.0 * rate / peak;
                    println!("{name:<8} {m:>5} {shape:>12} {threads:>7} {rate:>9.1} {peak:>9.1} {share:>5.1}%");
                }
            }
            let bytes = size_of_val(&w[..]) as f64;
            let mut packed = forward_weight;
            let pack_nk = (0..20).map(|_| seconds(|| packed.repack_nk(&rt, &w))).fold(f64::MAX, f64::min);
            let mut packed = backward_weight;
            let pack_kn = (0..20).map(|_| seconds(|| packed.repack_kn(&rt, &w))).fold(f64::MAX, f64::min);
            println!(
                "packing {inputs} x {outputs}, {threads} threads: nk {:.1} GB/s, kn {:.1} GB/s",
                1e-9 * bytes / pack_nk,
                1e-9 * bytes / pack_kn
            );
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

/// Time over multiply-adds, all threads together.
fn seconds_per_fma(rt: &Runtime) -> f64 {
    const STEPS: usize = 20_000;
    let counts: Vec<std::sync::atomic::AtomicUsize> = (0..rt.threads()).map(|_| Default::default()).collect();
    let time = seconds(|| {
        rt.parallel_for(rt.threads(), |i| {
            let count = fused_multiply_adds(rt.isa(), black_box(STEPS));
            counts[i].store(count, std::sync::atomic::Ordering::Relaxed);
        });
    });
    time / counts.into_iter().map(|count| count.into_inner() as f64).sum::<f64>()
}

/// Runs `steps` rounds of independent multiply-adds; returns how many that were.
#[cfg(target_arch = "x86_64")]
fn fused_multiply_adds(isa: Isa, steps: usize) -> usize {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    fn avx512(steps: usize) -> usize {
        let mut sums = [_mm512_set1_ps(0.0); 24];
        let (x, y) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(0.25)));
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(x, y, *sum);
            }
        }
        sums.into_iter().for_each(|sum| {
            black_box(sum);
        });
        steps * 24 * 16
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2(steps: usize) -> usize {
        let mut sums = [_mm256_set1_ps(0.0); 12];
        let (x, y) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(0.25)));
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(x, y, *sum);
            }
        }
        sums.into_iter().for_each(|sum| {
            black_box(sum);
        });
        steps * 12 * 8
    }

    match isa {
        // SAFETY: a Runtime exists only for an instruction set that the CPU has.
        Isa::Avx512 => unsafe { avx512(steps) },
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2(steps) },
        Isa::Portable => portable(steps),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fused_multiply_adds(_: Isa, steps: usize) -> usize {
    portable(steps)
}

fn portable(steps: usize) -> usize {
    let mut sums = [0.0f32; 32];
    let (x, y) = (black_box(0.5f32), black_box(0.25f32));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum += x * y;
        }
        black_box(&mut sums);
    }
    steps * 32
}
