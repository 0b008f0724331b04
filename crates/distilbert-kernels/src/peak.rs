//! The peak of this machine: how many multiply-adds a second the instruction that a matrix product is made of reaches
//! when its operands stay in registers. Measured, not looked up, so that a share of it means the same on every machine
//! and at whatever clock it runs just now.

#[cfg(target_arch = "x86_64")]
use crate::arch::amx;
use crate::{Isa, Precision, Runtime};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Rounds of the loop in one task: about 50 microseconds.
const ROUNDS: usize = 20_000;

/// Tasks of a run: so many that a worker which first has to wake up costs next to nothing.
const TASKS_PER_THREAD: usize = 64;

/// The fastest of these runs counts: other load on the machine makes a run slower, and nothing makes it faster.
const RUNS: usize = 4;

/// Multiply-adds a second, of all threads of `rt` together, in the instruction that products of this precision are
/// made of: the fused multiply-add for f32, `vdpbf16ps` for bf16; for int8 `vpdpbusd`, or `vpmaddwd` and an addition
/// where the CPU lacks it. One is two operations. Takes some milliseconds.
///
/// # Panics
/// If the precision is not available on the runtime's instruction set.
pub fn peak_multiply_adds_per_second(rt: &Runtime, precision: Precision) -> f64 {
    (0..RUNS).map(|_| run(rt, precision)).fold(0.0, f64::max)
}

fn run(rt: &Runtime, precision: Precision) -> f64 {
    let count = AtomicUsize::new(0);
    let start = Instant::now();
    rt.parallel_for(TASKS_PER_THREAD * rt.threads(), |_| {
        let done = multiply_adds(rt.isa(), precision, black_box(ROUNDS));
        black_box(done.sum);
        count.fetch_add(done.count, Ordering::Relaxed);
    });
    let seconds = start.elapsed().max(Duration::from_nanos(1)).as_secs_f64();
    count.into_inner() as f64 / seconds
}

/// What a loop did.
pub(crate) struct Done {
    /// Multiply-adds.
    pub(crate) count: usize,
    /// Sum of all accumulators. Every product is 1, so it is the count, as long as the accumulators hold it exactly.
    pub(crate) sum: f64,
}

fn multiply_adds(isa: Isa, precision: Precision, rounds: usize) -> Done {
    assert!(precision.is_available(isa), "precision {precision} on {isa}");
    #[cfg(target_arch = "x86_64")]
    let tiles = || amx::Amx::detect().expect("`Isa::is_available`, which the assertion asks, found it");
    match (isa, precision) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx, Precision::Bf16) => amx::multiply_adds::<false>(tiles(), rounds),
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx, Precision::Int8) => amx::multiply_adds::<true>(tiles(), rounds),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa::is_available`, which the assertion asks, found the instructions.
        (Isa::Avx512 | Isa::Amx, Precision::F32) => unsafe { x86::avx512_f32(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above, and bf16 is available only with its instructions.
        (Isa::Avx512, Precision::Bf16) => unsafe { x86::avx512_bf16(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as for f32, and the guard found VNNI.
        (Isa::Avx512, Precision::Int8) if is_x86_feature_detected!("avx512vnni") => unsafe { x86::avx512_int8(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as for f32; AVX-512 here includes BW.
        (Isa::Avx512, Precision::Int8) => unsafe { x86::avx512_int16(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as for f32, and the guard found AVX-VNNI.
        (Isa::Avx2, Precision::Int8) if is_x86_feature_detected!("avxvnni") => unsafe { x86::avx2_int8(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as for f32.
        (Isa::Avx2, Precision::Int8) => unsafe { x86::avx2_int16(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as for f32.
        (Isa::Avx2, Precision::F32) => unsafe { x86::avx2_f32(rounds) },
        (_, Precision::Int8) => portable_int8(rounds),
        _ => portable_f32(rounds),
    }
}

/// The loops. So many accumulators are independent that the latency of the instruction is hidden, and no more than fit
/// into the registers.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Done;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    const AVX512_CHAINS: usize = 24;
    const AVX2_CHAINS: usize = 12;

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512_f32(rounds: usize) -> Done {
        let mut sums = [_mm512_setzero_ps(); AVX512_CHAINS];
        let (x, y) = (black_box(_mm512_set1_ps(1.0)), black_box(_mm512_set1_ps(1.0)));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(x, y, *sum);
            }
        }
        let sum = sums.into_iter().map(|sum| f64::from(_mm512_reduce_add_ps(sum))).sum();
        Done { count: rounds * AVX512_CHAINS * 16, sum }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn avx512_bf16(rounds: usize) -> Done {
        let mut sums = [_mm512_setzero_ps(); AVX512_CHAINS];
        let ones = _mm512_set1_ps(1.0);
        let (x, y) = (black_box(_mm512_cvtne2ps_pbh(ones, ones)), black_box(_mm512_cvtne2ps_pbh(ones, ones)));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, x, y);
            }
        }
        let sum = sums.into_iter().map(|sum| f64::from(_mm512_reduce_add_ps(sum))).sum();
        Done { count: rounds * AVX512_CHAINS * 32, sum }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn avx512_int8(rounds: usize) -> Done {
        let mut sums = [_mm512_setzero_si512(); AVX512_CHAINS];
        let (x, y) = (black_box(_mm512_set1_epi8(1)), black_box(_mm512_set1_epi8(1)));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, x, y);
            }
        }
        let sum = sums.into_iter().map(|sum| f64::from(_mm512_reduce_add_epi32(sum))).sum();
        Done { count: rounds * AVX512_CHAINS * 64, sum }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn avx512_int16(rounds: usize) -> Done {
        let mut sums = [_mm512_setzero_si512(); AVX512_CHAINS];
        let (x, y) = ([_mm512_set1_epi16(1); AVX512_CHAINS], black_box(_mm512_set1_epi16(1)));
        for _ in 0..rounds {
            // From memory, lest equal products be made once for all.
            let x = black_box(&x);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(*x, y));
            }
        }
        let sum = sums.into_iter().map(|sum| f64::from(_mm512_reduce_add_epi32(sum))).sum();
        Done { count: rounds * AVX512_CHAINS * 32, sum }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2_f32(rounds: usize) -> Done {
        let mut sums = [_mm256_setzero_ps(); AVX2_CHAINS];
        let (x, y) = (black_box(_mm256_set1_ps(1.0)), black_box(_mm256_set1_ps(1.0)));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(x, y, *sum);
            }
        }
        let mut lanes = [0.0f32; 8];
        let mut sum = 0.0;
        for chain in sums {
            // SAFETY: eight lanes fit.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), chain) };
            sum += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
        }
        Done { count: rounds * AVX2_CHAINS * 8, sum }
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn avx2_int8(rounds: usize) -> Done {
        let mut sums = [_mm256_setzero_si256(); AVX2_CHAINS];
        let (x, y) = (black_box(_mm256_set1_epi8(1)), black_box(_mm256_set1_epi8(1)));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, x, y);
            }
        }
        Done { count: rounds * AVX2_CHAINS * 32, sum: sum_of_integers(sums) }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn avx2_int16(rounds: usize) -> Done {
        let mut sums = [_mm256_setzero_si256(); AVX2_CHAINS];
        let (x, y) = ([_mm256_set1_epi16(1); AVX2_CHAINS], black_box(_mm256_set1_epi16(1)));
        for _ in 0..rounds {
            // From memory, as above.
            let x = black_box(&x);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*x, y));
            }
        }
        Done { count: rounds * AVX2_CHAINS * 16, sum: sum_of_integers(sums) }
    }

    #[target_feature(enable = "avx2")]
    fn sum_of_integers(sums: [__m256i; AVX2_CHAINS]) -> f64 {
        let mut lanes = [0i32; 8];
        let mut sum = 0.0;
        for chain in sums {
            // SAFETY: eight lanes fit.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), chain) };
            sum += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
        }
        sum
    }
}

/// Numbers of the portable loops' vectors.
const PORTABLE_LANES: usize = 32;

fn portable_f32(rounds: usize) -> Done {
    let mut sums = [0.0f32; PORTABLE_LANES];
    let (x, y) = ([1.0f32; PORTABLE_LANES], black_box(1.0f32));
    for _ in 0..rounds {
        let x = black_box(&x);
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x * y;
        }
    }
    Done { count: rounds * PORTABLE_LANES, sum: sums.into_iter().map(f64::from).sum() }
}

fn portable_int8(rounds: usize) -> Done {
    let mut sums = [0i32; PORTABLE_LANES];
    let (x, y) = ([1i8; PORTABLE_LANES], black_box(1i32));
    for _ in 0..rounds {
        let x = black_box(&x);
        for (sum, &x) in sums.iter_mut().zip(x) {
            *sum = sum.wrapping_add(i32::from(x) * y);
        }
    }
    Done { count: rounds * PORTABLE_LANES, sum: sums.into_iter().map(f64::from).sum() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases() -> impl Iterator<Item = (Isa, Precision)> {
        Isa::available()
            .flat_map(|isa| Precision::ALL.map(|precision| (isa, precision)))
            .filter(|c| c.1.is_available(c.0))
    }

    #[test]
    fn each_loop_does_as_many_multiply_adds_as_it_says() {
        for (isa, precision) in cases() {
            for rounds in [0, 1, 1000] {
                let done = multiply_adds(isa, precision, rounds);
                assert_eq!(done.sum, done.count as f64, "{precision} on {isa}, {rounds} rounds");
                assert!(rounds == 0 || done.count >= rounds * PORTABLE_LANES);
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_loops_for_cpus_without_vnni_do_as_many_as_they_say() {
        let loops = [(Isa::Avx512, x86::avx512_int16 as unsafe fn(usize) -> Done), (Isa::Avx2, x86::avx2_int16)];
        for (isa, run) in loops.into_iter().filter(|(isa, _)| isa.is_available()) {
            // SAFETY: the CPU has the instruction set.
            let done = unsafe { run(1000) };
            assert_eq!(done.sum, done.count as f64, "{isa}");
        }
    }

    #[test]
    fn a_peak_is_one_that_a_cpu_can_have() {
        for (isa, precision) in cases() {
            let rt = Runtime::new(isa, 2).unwrap();
            let peak = peak_multiply_adds_per_second(&rt, precision);
            // From a core of long ago under load to two of the future.
            assert!((1e8..1e14).contains(&peak), "{precision} on {isa}: {peak}");
        }
    }
}
