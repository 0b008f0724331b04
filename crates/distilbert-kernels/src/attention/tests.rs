//! Attention and its gradient against their definitions in f64, and the bits that must not change.

use super::*;
use crate::runtime::Isa;
use crate::testing::{assert_close, numbers, runtime, wide};

/// Forward and backward of one batch by the definition, in f64, one number at a time.
struct Naive {
    context: Vec<f64>,
    log_sum_exp: Vec<f64>,
    d_qkv: Vec<f64>,
    /// Of all sequences, end to end, before dropout: `[heads, seq, seq]`.
    probabilities: Vec<f64>,
}

fn naive(
    shape: AttentionShape,
    qkv: &[f64],
    cu_seqlens: &[u32],
    dropout: Option<&Dropout>,
    d_context: &[f32],
) -> Naive {
    let AttentionShape { heads, head_dim } = shape;
    let hidden = heads * head_dim;
    let tokens = qkv.len() / (3 * hidden).max(1);
    let scale = 1.0 / (head_dim as f64).sqrt();
    let mut result = Naive {
        context: vec![0.0; tokens * hidden],
        log_sum_exp: vec![0.0; tokens * heads],
        d_qkv: vec![0.0; qkv.len()],
        probabilities: Vec::new(),
    };
    for (sequence, bounds) in cu_seqlens.windows(2).enumerate() {
        let (start, seq) = (bounds[0] as usize, (bounds[1] - bounds[0]) as usize);
        for head in 0..heads {
            let at = |part: usize, token: usize, i: usize| {
                (start + token) * 3 * hidden + part * hidden + head * head_dim + i
            };
            for query in 0..seq {
                let mut p: Vec<f64> = (0..seq)
                    .map(|key| (0..head_dim).map(|i| qkv[at(0, query, i)] * qkv[at(1, key, i)]).sum::<f64>() * scale)
                    .collect();
                let sum: f64 = p.iter().map(|x| x.exp()).sum();
                p.iter_mut().for_each(|x| *x = x.exp() / sum);
                result.log_sum_exp[(start + query) * heads + head] = sum.ln();
                result.probabilities.extend(&p);
                let by: Vec<f64> = (0..seq)
                    .map(|key| match dropout {
                        None => 1.0,
                        Some(dropout) => {
                            let element = ((head * seq + query) * seq + key) as u32;
                            let kept = dropout.keep(dropout.sequence_key(sequence), element);
                            if kept { f64::from(dropout.keep_scale()) } else { 0.0 }
                        }
                    })
                    .collect();
                let out_at = |i: usize| (start + query) * hidden + head * head_dim + i;
                for i in 0..head_dim {
                    result.context[out_at(i)] = (0..seq).map(|key| p[key] * by[key] * qkv[at(2, key, i)]).sum();
                }
                let d_out = |i: usize| f64::from(d_context[out_at(i)]);
                let d_p: Vec<f64> = (0..seq)
                    .map(|key| by[key] * (0..head_dim).map(|i| d_out(i) * qkv[at(2, key, i)]).sum::<f64>())
                    .collect();
                let sum: f64 = p.iter().zip(&d_p).map(|(p, d_p)| p * d_p).sum();
                for key in 0..seq {
                    let d_score = p[key] * (d_p[key] - sum) * scale;
                    for i in 0..head_dim {
                        result.d_qkv[at(0, query, i)] += d_score * qkv[at(1, key, i)];
                        result.d_qkv[at(1, key, i)] += d_score * qkv[at(0, query, i)];
                        result.d_qkv[at(2, key, i)] += p[key] * by[key] * d_out(i);
                    }
                }
            }
        }
    }
    result
}

fn cumulative(lengths: &[usize]) -> Vec<u32> {
    let ends = lengths.iter().scan(0, |end, len| {
        *end += *len as u32;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

fn runtimes() -> impl Iterator<Item = Runtime> {
    Isa::available().flat_map(|isa| [1, 3].map(|threads| runtime(isa, threads)))
}

/// Context, log-sum-exp and the gradient of `qkv`.
fn forward_and_backward(
    rt: &Runtime,
    shape: AttentionShape,
    qkv: &[f32],
    cu_seqlens: &[u32],
    dropout: Option<&Dropout>,
    d_context: &[f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let tokens = cu_seqlens[cu_seqlens.len() - 1] as usize;
    let mut context = vec![f32::NAN; tokens * shape.heads * shape.head_dim];
    let mut log_sum_exp = vec![f32::NAN; tokens * shape.heads];
    let mut d_qkv = vec![f32::NAN; qkv.len()];
    attention(rt, Precision::F32, shape, qkv, cu_seqlens, Queries::All, dropout, &mut context, Some(&mut log_sum_exp));
    attention_backward(rt, shape, qkv, cu_seqlens, dropout, &context, &log_sum_exp, d_context, &mut d_qkv);
    (context, log_sum_exp, d_qkv)
}

/// Times (1 + |expected|); measured: a third of this.
const TOLERANCE: f64 = 1e-5;

const CASES: [(usize, usize, &[usize]); 7] = [
    (1, 1, &[1]),
    (2, 5, &[7, 0, 3, 1]),
    (3, 8, &[0, 33, 16]),
    (2, 33, &[17, 64]),
    (1, 64, &[130, 1]),
    (2, 32, &[9, 48, 31]),
    (2, 20, &[0, 0]),
];

#[test]
fn attention_and_its_gradient_agree_with_the_definition() {
    for rt in runtimes() {
        for (heads, head_dim, lengths) in CASES {
            let (shape, cu_seqlens) = (AttentionShape { heads, head_dim }, cumulative(lengths));
            let tokens = lengths.iter().sum::<usize>();
            let qkv = numbers(1, tokens * 3 * heads * head_dim);
            let d_context = numbers(2, tokens * heads * head_dim);
            let slots: Vec<u64> = (0..lengths.len() as u64).map(|i| 100 + i).collect();
            let dropout = Dropout { probability: 0.1, site_key: 77, slots: &slots };
            for dropout in [None, Some(&dropout)] {
                let what = format!("{}, {shape:?}, {lengths:?}, dropout {}", rt.isa(), dropout.is_some());
                let exact = wide(&qkv);
                let expected = naive(shape, &exact, &cu_seqlens, dropout, &d_context);
                let found = forward_and_backward(&rt, shape, &qkv, &cu_seqlens, dropout, &d_context);
                assert_close(&found.0, &expected.context, TOLERANCE, format!("context, {what}"));
                assert_close(&found.1, &expected.log_sum_exp, TOLERANCE, format!("log_sum_exp, {what}"));
                assert_close(&found.2, &expected.d_qkv, TOLERANCE, format!("d_qkv, {what}"));
                let mut probabilities = Vec::new();
                for (sequence, len) in lengths.iter().enumerate() {
                    let mut part = vec![f32::NAN; heads * len * len];
                    attention_probabilities(&rt, shape, &qkv, &cu_seqlens, sequence, &mut part);
                    probabilities.extend(part);
                }
                assert_close(&probabilities, &expected.probabilities, TOLERANCE, format!("probabilities, {what}"));
            }
        }
    }
}

#[test]
fn the_naive_gradient_agrees_with_finite_differences() {
    let (shape, cu_seqlens) = (AttentionShape { heads: 2, head_dim: 3 }, cumulative(&[4, 0, 2]));
    let qkv: Vec<f64> = numbers(3, 6 * 18).into_iter().map(f64::from).collect();
    let d_context = numbers(4, 6 * 6);
    let dropout = Dropout { probability: 0.3, site_key: 5, slots: &[1, 2, 3] };
    let expected = naive(shape, &qkv, &cu_seqlens, Some(&dropout), &d_context).d_qkv;
    for i in 0..qkv.len() {
        let objective = |step: f64| {
            let mut moved = qkv.clone();
            moved[i] += step;
            let context = naive(shape, &moved, &cu_seqlens, Some(&dropout), &d_context).context;
            context.iter().zip(&d_context).map(|(c, d)| c * f64::from(*d)).sum::<f64>()
        };
        let difference = (objective(1e-5) - objective(-1e-5)) / 2e-5;
        assert!((difference - expected[i]).abs() < 1e-8, "element {i}: {}, difference {difference}", expected[i]);
    }
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_in_any_batch() {
    for rt in runtimes() {
        let shape = AttentionShape { heads: 3, head_dim: 20 };
        let (lengths, hidden) = ([40, 1, 0, 133, 22], 60);
        let cu_seqlens = cumulative(&lengths);
        let tokens = lengths.iter().sum::<usize>();
        let (qkv, d_context) = (numbers(5, tokens * 3 * hidden), numbers(6, tokens * hidden));
        let slots = [9, 8, 7, 6, 5];
        let with = |slots| Dropout { probability: 0.1, site_key: 3, slots };
        let all = forward_and_backward(&rt, shape, &qkv, &cu_seqlens, Some(&with(&slots)), &d_context);
        for (sequence, bounds) in cu_seqlens.windows(2).enumerate() {
            let part = |width: usize| bounds[0] as usize * width..bounds[1] as usize * width;
            let alone = forward_and_backward(
                &rt,
                shape,
                &qkv[part(3 * hidden)],
                &[0, bounds[1] - bounds[0]],
                Some(&with(&slots[sequence..=sequence])),
                &d_context[part(hidden)],
            );
            let inside = (&all.0[part(hidden)], &all.1[part(3)], &all.2[part(3 * hidden)]);
            assert_eq!((&alone.0[..], &alone.1[..], &alone.2[..]), inside, "{}, sequence {sequence}", rt.isa());
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for isa in Isa::available() {
        let (shape, cu_seqlens) = (AttentionShape { heads: 2, head_dim: 16 }, cumulative(&[150, 7, 64]));
        let (qkv, d_context) = (numbers(7, 221 * 96), numbers(8, 221 * 32));
        let results = [1, 2, 3, 7].map(|threads| {
            let rt = runtime(isa, threads);
            forward_and_backward(&rt, shape, &qkv, &cu_seqlens, None, &d_context)
        });
        assert!(results.iter().all(|result| *result == results[0]), "{isa}");
    }
}

#[test]
fn large_scores_neither_overflow_nor_underflow() {
    for rt in runtimes() {
        let (shape, cu_seqlens) = (AttentionShape { heads: 1, head_dim: 4 }, [0, 5]);
        let qkv: Vec<f32> = numbers(9, 5 * 12).into_iter().map(|x| 60.0 * x).collect();
        let exact = wide(&qkv);
        let mut out = [0.0; 25];
        attention_probabilities(&rt, shape, &qkv, &cu_seqlens, 0, &mut out);
        for (row, out) in out.chunks_exact(5).enumerate() {
            let score = |key: usize| (0..4).map(|i| exact[row * 12 + i] * exact[key * 12 + 4 + i]).sum::<f64>() / 2.0;
            let largest = (0..5).map(score).fold(f64::MIN, f64::max);
            let sum: f64 = (0..5).map(|key| (score(key) - largest).exp()).sum();
            for (key, p) in out.iter().enumerate() {
                // Scores of several thousand leave 1e-4 of a score to f32.
                assert!((f64::from(*p) - (score(key) - largest).exp() / sum).abs() < 1e-3, "{}", rt.isa());
            }
        }
    }
}

#[test]
#[should_panic(expected = "cu_seqlens rises")]
fn lengths_below_zero_are_refused() {
    let rt = runtime(Isa::Portable, 1);
    let shape = AttentionShape { heads: 1, head_dim: 1 };
    attention(&rt, Precision::F32, shape, &[0.0; 3], &[0, 2, 1], Queries::All, None, &mut [0.0], None);
}

/// Runtimes that can multiply bf16: none on a CPU without it.
fn bf16_runtimes() -> impl Iterator<Item = Runtime> {
    runtimes().filter(|rt| Precision::Bf16.is_available(rt.isa()))
}

#[test]
fn attention_in_bf16_agrees_with_the_definition_within_its_eight_bits() {
    /// Times (1 + |expected|). Four operands are rounded by up to 2^-9; measured: half of this.
    const TOLERANCE: f64 = 2e-2;
    for rt in bf16_runtimes() {
        for (heads, head_dim, lengths) in CASES {
            let (shape, cu_seqlens) = (AttentionShape { heads, head_dim }, cumulative(lengths));
            let tokens = lengths.iter().sum::<usize>();
            let qkv = numbers(1, tokens * 3 * heads * head_dim);
            let mut context = vec![f32::NAN; tokens * heads * head_dim];
            attention(&rt, Precision::Bf16, shape, &qkv, &cu_seqlens, Queries::All, None, &mut context, None);
            let expected = naive(shape, &wide(&qkv), &cu_seqlens, None, &context).context;
            assert_close(&context, &expected, TOLERANCE, format!("{shape:?}, {lengths:?}"));
        }
    }
}

#[test]
fn a_sequence_has_the_same_bits_in_bf16_alone_and_in_any_batch() {
    for rt in bf16_runtimes() {
        let shape = AttentionShape { heads: 3, head_dim: 20 };
        let (lengths, hidden) = ([40, 1, 0, 133, 22], 60);
        let cu_seqlens = cumulative(&lengths);
        let qkv = numbers(5, lengths.iter().sum::<usize>() * 3 * hidden);
        let run = |qkv: &[f32], cu_seqlens: &[u32]| {
            let mut context = vec![f32::NAN; qkv.len() / 3];
            attention(&rt, Precision::Bf16, shape, qkv, cu_seqlens, Queries::All, None, &mut context, None);
            context
        };
        let all = run(&qkv, &cu_seqlens);
        for bounds in cu_seqlens.windows(2) {
            let part = |width: usize| bounds[0] as usize * width..bounds[1] as usize * width;
            assert_eq!(run(&qkv[part(3 * hidden)], &[0, bounds[1] - bounds[0]]), all[part(hidden)]);
        }
    }
}

#[test]
fn first_tokens_alone_have_the_bits_they_have_among_all() {
    for rt in runtimes() {
        for precision in [Precision::F32, Precision::Bf16].into_iter().filter(|p| p.is_available(rt.isa())) {
            let (shape, lengths, hidden) = (AttentionShape { heads: 3, head_dim: 20 }, [40, 1, 133, 22], 60);
            let cu_seqlens = cumulative(&lengths);
            let tokens = lengths.iter().sum::<usize>();
            let qkv = numbers(11, tokens * 3 * hidden);
            let (mut all, mut first) = (vec![f32::NAN; tokens * hidden], vec![f32::NAN; lengths.len() * hidden]);
            attention(&rt, precision, shape, &qkv, &cu_seqlens, Queries::All, None, &mut all, None);
            attention(&rt, precision, shape, &qkv, &cu_seqlens, Queries::First, None, &mut first, None);
            for (sequence, first) in first.chunks(hidden).enumerate() {
                let at = cu_seqlens[sequence] as usize * hidden;
                assert_eq!(first, &all[at..at + hidden], "{} {precision}, sequence {sequence}", rt.isa());
            }
        }
    }
}
