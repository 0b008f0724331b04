//! Embeddings: sums of table rows, and their gradients.

use crate::elementwise::scatter_add;
use crate::matrix::{MatrixRef, bf16_value};
use crate::rows::task_rows;
use crate::runtime::Runtime;
use crate::simd::{Kernel, Simd, dispatch};

/// The tables whose rows a token's embedding is the sum of, each `[rows, hidden]` in any precision.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingTables<'a> {
    /// By input id.
    pub word: MatrixRef<'a>,
    /// By position in the sequence.
    pub position: Option<MatrixRef<'a>>,
    /// By token type (segment). DistilBERT has none.
    pub token_type: Option<MatrixRef<'a>>,
}

/// `out = word + token type + position`, added in this order, which is BERT's, in f32. Products with a row's scale are
/// rounded before they are added, so that every instruction set gives the same bits.
///
/// # Shapes
/// `input_ids`, `positions`, `token_types` (`None`: all 0): `[tokens]`; `out`: `[tokens, hidden]`
/// # Panics
/// If the lengths disagree or an index is beyond its table.
pub fn embed(
    rt: &Runtime,
    hidden: usize,
    tables: EmbeddingTables,
    input_ids: &[u32],
    positions: &[u32],
    token_types: Option<&[u32]>,
    out: &mut [f32],
) {
    let tokens = input_ids.len();
    assert_eq!(out.len(), tokens * hidden, "one row of out a token");
    assert_eq!(positions.len(), tokens, "one position a token");
    assert!(token_types.is_none_or(|types| types.len() == tokens), "one type a token");
    let task_rows = task_rows(hidden);
    rt.parallel_chunks_mut(out, (task_rows * hidden).max(1), |task, out| {
        let first = task * task_rows;
        dispatch(rt.isa(), Embed { hidden, tables, input_ids, positions, token_types, first, out });
    });
}

/// The embeddings of the tokens from `first` on.
struct Embed<'a> {
    hidden: usize,
    tables: EmbeddingTables<'a>,
    input_ids: &'a [u32],
    positions: &'a [u32],
    token_types: Option<&'a [u32]>,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Embed<'_> {
    type Output = ();

    // Plain loops, which the compiler turns into the vectors of the instruction set it is compiled for.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Embed { hidden, tables, input_ids, positions, token_types, first, out } = self;
        for (token, out) in (first..).zip(out.chunks_exact_mut(hidden)) {
            each(tables.word, hidden, input_ids[token], out, |_, x| x);
            if let Some(table) = tables.token_type {
                each(table, hidden, token_types.map_or(0, |types| types[token]), out, |sum, x| sum + x);
            }
            if let Some(table) = tables.position {
                each(table, hidden, positions[token], out, |sum, x| sum + x);
            }
        }
    }
}

/// `out = f(out, row)` for one row of a table.
#[inline(always)]
fn each(table: MatrixRef, hidden: usize, index: u32, out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    let index = index as usize;
    let row = index * hidden..(index + 1) * hidden;
    match table {
        MatrixRef::F32(table) => out.iter_mut().zip(&table[row]).for_each(|(out, &x)| *out = f(*out, x)),
        MatrixRef::Bf16(table) => out.iter_mut().zip(&table[row]).for_each(|(out, &x)| *out = f(*out, bf16_value(x))),
        MatrixRef::Int8 { values, scales } => {
            let scale = scales[index];
            out.iter_mut().zip(&values[row]).for_each(|(out, &x)| *out = f(*out, f32::from(x) * scale));
        }
    }
}

/// `d_table[ids[i]] += d_out[i]` for every token, those of one id in the order of the batch. The row `skip` (padding)
/// gets no gradient.
///
/// # Shapes
/// `ids`: `[tokens]`; `d_out`: `[tokens, hidden]`; `d_table`: `[rows, hidden]`
/// # Panics
/// If the lengths disagree or an id is beyond the table.
pub fn embed_backward(rt: &Runtime, hidden: usize, ids: &[u32], d_out: &[f32], d_table: &mut [f32], skip: Option<u32>) {
    scatter_add(rt, d_out, hidden, ids, skip, d_table);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Matrix;
    use crate::precision::Precision;
    use crate::testing::{numbers, on_every_isa, runtime};

    fn indices(count: usize, below: u32, step: u32) -> Vec<u32> {
        (0..count as u32).map(|i| i * step % below).collect()
    }

    #[test]
    fn an_embedding_is_word_plus_type_plus_position_in_that_order() {
        let rt = runtime(crate::Isa::Portable, 1);
        for (hidden, precision) in [1, 7, 33, 768].into_iter().flat_map(|hidden| Precision::ALL.map(|p| (hidden, p))) {
            let tokens = 90;
            let table = |seed, rows: usize| Matrix::from_f32(&rt, precision, &numbers(seed, rows * hidden), hidden);
            let tables = [table(1, 50), table(2, 40), table(3, 2)];
            let [word, position, types] = tables.each_ref().map(Matrix::to_f32);
            let (ids, positions, token_types) = (indices(tokens, 50, 7), indices(tokens, 40, 1), indices(tokens, 2, 3));
            for (with_position, with_types, given_types) in
                [(true, true, true), (true, true, false), (true, false, false), (false, false, false)]
            {
                let tables = EmbeddingTables {
                    word: tables[0].view(),
                    position: with_position.then_some(tables[1].view()),
                    token_type: with_types.then_some(tables[2].view()),
                };
                let expected: Vec<f32> = (0..tokens * hidden)
                    .map(|i| {
                        let (token, column) = (i / hidden, i % hidden);
                        let at = |table: &[f32], row: u32| table[row as usize * hidden + column];
                        let mut sum = at(&word, ids[token]);
                        if with_types {
                            sum += at(&types, if given_types { token_types[token] } else { 0 });
                        }
                        if with_position { sum + at(&position, positions[token]) } else { sum }
                    })
                    .collect();
                let run = |rt: &Runtime| {
                    let mut out = vec![0.0; tokens * hidden];
                    let token_types = given_types.then_some(&token_types[..]);
                    embed(rt, hidden, tables, &ids, &positions, token_types, &mut out);
                    out
                };
                on_every_isa(run, |isa, out| assert_eq!(out, expected, "{isa}, {precision}, hidden {hidden}"));
            }
        }
    }

    #[test]
    fn gradients_of_one_id_add_up_in_token_order_and_padding_gets_none() {
        for (hidden, tokens) in [(5, 40), (130, 200), (768, 60)] {
            let (d_out, before) = (numbers(4, tokens * hidden), numbers(5, 30 * hidden));
            let ids = indices(tokens, 30, 13).iter().map(|id| id / 2).collect::<Vec<_>>();
            for skip in [None, Some(3)] {
                let mut expected = before.clone();
                for (&id, row) in ids.iter().zip(d_out.chunks(hidden)).filter(|(id, _)| Some(**id) != skip) {
                    for (sum, x) in expected[id as usize * hidden..].iter_mut().zip(row) {
                        *sum += x;
                    }
                }
                let run = |rt: &Runtime| {
                    let mut d_table = before.clone();
                    embed_backward(rt, hidden, &ids, &d_out, &mut d_table, skip);
                    d_table
                };
                on_every_isa(run, |isa, d_table| assert_eq!(d_table, expected, "{isa}, hidden {hidden}"));
            }
        }
    }

    #[test]
    fn no_tokens_are_no_work() {
        let tables = EmbeddingTables { word: MatrixRef::F32(&[1.0; 8]), position: None, token_type: None };
        on_every_isa(
            |rt| {
                embed(rt, 4, tables, &[], &[], None, &mut []);
                embed_backward(rt, 4, &[], &[], &mut [0.0; 8], None);
            },
            |_, ()| (),
        );
    }

    #[test]
    #[should_panic]
    fn an_id_beyond_the_table_is_refused() {
        let tables = EmbeddingTables { word: MatrixRef::F32(&[1.0; 8]), position: None, token_type: None };
        embed(&runtime(crate::Isa::Portable, 1), 4, tables, &[2], &[0], None, &mut [0.0; 4]);
    }
}
