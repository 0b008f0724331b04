//! Layer norm, alone and fused with the dropout and the residual in front of it.

use crate::dropout::{Dropout, RowSites};
use crate::rows::{Add, BLOCK_ROWS, Zip, add_blocks, load, row_count, store, sum, sum_zip, task_rows, zip};
use crate::runtime::{Runtime, SharedMut};
use crate::simd::{Kernel, Simd, dispatch};

/// What the backward needs of each row; the forward sets the lengths.
#[derive(Clone, Debug, Default)]
pub struct NormStats {
    /// The mean of the row.
    pub mean: Vec<f32>,
    /// `1 / sqrt(variance + eps)` of the row.
    pub rstd: Vec<f32>,
}

/// `y = (x - mean) / sqrt(variance + eps) * gamma + beta`, mean and (biased) variance of each row.
///
/// # Shapes
/// `x`, `y`: `[rows, hidden]`; `gamma`, `beta`: `[hidden]`
/// # Panics
/// If the lengths disagree.
/// # Source
/// Ba, Kiros, Hinton 2016 (arXiv:1607.06450).
pub fn layer_norm(
    rt: &Runtime,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
    y: &mut [f32],
    stats: Option<&mut NormStats>,
) {
    let norm = Norm::new(gamma, beta, eps);
    let rows = row_count(x.len(), norm.hidden());
    assert_eq!(x.len(), y.len(), "as many rows out as in");
    norm.run(rt, rows, y, stats, |task_rows| &x[task_rows.start * norm.hidden()..task_rows.end * norm.hidden()]);
}

/// `x = residual + dropout(x)`, then `y = layer_norm(x)`: the end of a sublayer, in one pass.
///
/// # Shapes
/// `x`, `residual`, `y`: `[tokens, hidden]`; `dropout`: with `cu_seqlens`, `[batch + 1]`
/// # Panics
/// If the lengths disagree.
#[allow(clippy::too_many_arguments)] // The operands of three fused operations; they have no meaning as a group.
pub fn residual_layer_norm(
    rt: &Runtime,
    x: &mut [f32],
    residual: &[f32],
    dropout: Option<(&Dropout, &[u32])>,
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
    y: &mut [f32],
    stats: Option<&mut NormStats>,
) {
    let norm = Norm::new(gamma, beta, eps);
    let hidden = norm.hidden();
    let rows = row_count(x.len(), hidden);
    assert_eq!(x.len(), residual.len(), "a residual for each number");
    assert_eq!(x.len(), y.len(), "as many rows out as in");
    let sites = dropout.map(|(dropout, cu_seqlens)| RowSites::new(dropout, cu_seqlens, rows, hidden));
    let x = SharedMut::new(x);
    norm.run(rt, rows, y, stats, |task_rows| {
        let (start, len) = (task_rows.start * hidden, task_rows.len() * hidden);
        // SAFETY: tasks have disjoint rows, and a task asks for its rows once.
        let x = unsafe { x.slice(start, len) };
        let residual = &residual[start..][..len];
        dispatch(rt.isa(), AddResidual { x, residual, hidden, sites: sites.as_ref(), first_row: task_rows.start });
        x
    });
}

struct AddResidual<'a> {
    x: &'a mut [f32],
    residual: &'a [f32],
    hidden: usize,
    sites: Option<&'a RowSites<'a>>,
    first_row: usize,
}

impl Kernel for AddResidual<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if let Some(sites) = self.sites {
            let rows = self.first_row..self.first_row + self.x.len() / self.hidden;
            for (row, (key, first)) in self.x.chunks_exact_mut(self.hidden).zip(sites.of(rows)) {
                sites.dropout.apply(key, first, row);
            }
        }
        zip(simd, self.residual, self.x, Add);
    }
}

/// The parameters of a layer norm.
#[derive(Clone, Copy)]
struct Norm<'a> {
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
}

impl<'a> Norm<'a> {
    fn new(gamma: &'a [f32], beta: &'a [f32], eps: f32) -> Self {
        assert_eq!(gamma.len(), beta.len(), "gamma and beta have one length");
        Norm { gamma, beta, eps }
    }

    fn hidden(&self) -> usize {
        self.gamma.len()
    }

    /// Normalises `rows` rows in parallel; `input` gives the rows of a task.
    fn run<'x>(
        &self,
        rt: &Runtime,
        rows: usize,
        y: &mut [f32],
        stats: Option<&mut NormStats>,
        input: impl Fn(std::ops::Range<usize>) -> &'x [f32] + Sync,
    ) {
        let mut unused = NormStats::default();
        let stats = stats.unwrap_or(&mut unused);
        stats.mean.resize(rows, 0.0);
        stats.rstd.resize(rows, 0.0);
        let (y, mean, rstd) =
            (SharedMut::new(y), SharedMut::new(&mut stats.mean[..]), SharedMut::new(&mut stats.rstd[..]));
        let per_task = task_rows(self.hidden());
        rt.parallel_for(rows.div_ceil(per_task), |task| {
            let start = task * per_task;
            let len = per_task.min(rows - start);
            // SAFETY: tasks have disjoint rows.
            let (y, mean, rstd) = unsafe {
                (y.slice(start * self.hidden(), len * self.hidden()), mean.slice(start, len), rstd.slice(start, len))
            };
            dispatch(rt.isa(), Normalize { norm: *self, x: input(start..start + len), y, mean, rstd });
        });
    }
}

struct Normalize<'a> {
    norm: Norm<'a>,
    x: &'a [f32],
    y: &'a mut [f32],
    mean: &'a mut [f32],
    rstd: &'a mut [f32],
}

impl Kernel for Normalize<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let hidden = self.norm.hidden();
        let rows = self.x.chunks_exact(hidden).zip(self.y.chunks_exact_mut(hidden));
        for ((x, y), (mean, rstd)) in rows.zip(self.mean.iter_mut().zip(self.rstd)) {
            *mean = (sum(simd, x) / hidden as f64) as f32;
            let variance = sum_zip(simd, x, x, SquaredDeviation(*mean)) / hidden as f64;
            *rstd = (1.0 / (variance + f64::from(self.norm.eps)).sqrt()) as f32;
            normalize_row(simd, x, *mean, *rstd, self.norm, y);
        }
    }
}

#[derive(Clone, Copy)]
struct SquaredDeviation(f32);

impl Zip for SquaredDeviation {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, x: S::F32, _: S::F32) -> S::F32 {
        let deviation = simd.sub(x, simd.splat(self.0));
        simd.mul(deviation, deviation)
    }
}

#[inline(always)]
fn normalize_row<S: Simd>(simd: S, x: &[f32], mean: f32, rstd: f32, norm: Norm, y: &mut [f32]) {
    let (mean, rstd) = (simd.splat(mean), simd.splat(rstd));
    let operands = x.chunks(S::LANES).zip(norm.gamma.chunks(S::LANES)).zip(norm.beta.chunks(S::LANES));
    for (((x, gamma), beta), y) in operands.zip(y.chunks_mut(S::LANES)) {
        let normalized = simd.mul(simd.sub(load(simd, x), mean), rstd);
        store(simd, y, simd.mul_add(normalized, load(simd, gamma), load(simd, beta)));
    }
}

/// The gradients of [`layer_norm`]: `dx` is overwritten, `d_gamma` and `d_beta` are added to, their rows summed in
/// blocks of 64 and the blocks in their order.
///
/// # Shapes
/// `dy`, `x` (the norm's input), `dx`: `[rows, hidden]`; `gamma`, `d_gamma`, `d_beta`: `[hidden]`; `stats`: of `rows`
/// # Panics
/// If the lengths disagree.
#[allow(clippy::too_many_arguments)] // The forward's operands and their gradients.
pub fn layer_norm_backward(
    rt: &Runtime,
    dy: &[f32],
    x: &[f32],
    stats: &NormStats,
    gamma: &[f32],
    dx: &mut [f32],
    d_gamma: &mut [f32],
    d_beta: &mut [f32],
) {
    let hidden = gamma.len();
    let rows = row_count(x.len(), hidden);
    assert!(dy.len() == x.len() && dx.len() == x.len(), "as many gradients as numbers");
    assert!(stats.mean.len() == rows && stats.rstd.len() == rows, "statistics of {rows} rows");
    assert!(d_gamma.len() == hidden && d_beta.len() == hidden, "gradients of {hidden} parameters");
    let blocks = rows.div_ceil(BLOCK_ROWS);
    let (mut gamma_partials, mut beta_partials) = (vec![0.0; blocks * hidden], vec![0.0; blocks * hidden]);
    let (dx, gamma_parts, beta_parts) =
        (SharedMut::new(dx), SharedMut::new(&mut gamma_partials), SharedMut::new(&mut beta_partials));
    rt.parallel_for(blocks, |block| {
        let rows = block * BLOCK_ROWS..rows.min((block + 1) * BLOCK_ROWS);
        let numbers = rows.start * hidden..rows.end * hidden;
        // SAFETY: blocks have disjoint rows and each has its own partial sums.
        let (dx, d_gamma, d_beta) = unsafe {
            (
                dx.slice(numbers.start, numbers.len()),
                gamma_parts.slice(block * hidden, hidden),
                beta_parts.slice(block * hidden, hidden),
            )
        };
        let (mean, rstd) = (&stats.mean[rows.clone()], &stats.rstd[rows]);
        let (dy, x) = (&dy[numbers.clone()], &x[numbers]);
        dispatch(rt.isa(), NormBackward { dy, x, mean, rstd, gamma, dx, d_gamma, d_beta });
    });
    add_blocks(rt, &gamma_partials, d_gamma);
    add_blocks(rt, &beta_partials, d_beta);
}

struct NormBackward<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    mean: &'a [f32],
    rstd: &'a [f32],
    gamma: &'a [f32],
    dx: &'a mut [f32],
    d_gamma: &'a mut [f32],
    d_beta: &'a mut [f32],
}

impl Kernel for NormBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let hidden = self.gamma.len();
        let rows = self.dy.chunks_exact(hidden).zip(self.x.chunks_exact(hidden));
        let rows = rows.zip(self.dx.chunks_exact_mut(hidden)).zip(self.mean.iter().zip(self.rstd));
        for (((dy, x), dx), (&mean, &rstd)) in rows {
            let row = Row { dy, x, gamma: self.gamma, mean: simd.splat(mean), rstd: simd.splat(rstd) };
            let [mean_g, mean_gx] = row.accumulate(simd, self.d_gamma, self.d_beta);
            row.gradient(simd, mean_g, mean_gx, dx);
        }
    }
}

/// A row of the backward. With `normalized = (x - mean) rstd` and `g = dy gamma`, the gradient by the normalised row:
///
/// - `d_gamma += dy normalized`, `d_beta += dy`
/// - `dx = rstd (g - mean(g) - normalized mean(g normalized))`
struct Row<'a, V> {
    dy: &'a [f32],
    x: &'a [f32],
    gamma: &'a [f32],
    mean: V,
    rstd: V,
}

impl<V: Copy> Row<'_, V> {
    /// Adds to `d_gamma` and `d_beta`; returns `mean(g)` and `mean(g normalized)`.
    #[inline(always)]
    fn accumulate<S: Simd<F32 = V>>(&self, simd: S, d_gamma: &mut [f32], d_beta: &mut [f32]) -> [f32; 2] {
        let mut sums = [[simd.splat(0.0); 2]; 2];
        let parameters = d_gamma.chunks_mut(S::LANES).zip(d_beta.chunks_mut(S::LANES));
        for (i, (d_gamma, d_beta)) in parameters.enumerate() {
            let [dy, g, normalized] = self.vectors(simd, i);
            // Beyond the end of the row dy is 0, and so are all terms.
            let gx = simd.mul_add(g, normalized, sums[i % 2][1]);
            sums[i % 2] = [simd.add(sums[i % 2][0], g), gx];
            store(simd, d_gamma, simd.mul_add(dy, normalized, load(simd, d_gamma)));
            store(simd, d_beta, simd.add(load(simd, d_beta), dy));
        }
        [0, 1].map(|which| simd.sum(simd.add(sums[0][which], sums[1][which])) / self.x.len() as f32)
    }

    #[inline(always)]
    fn gradient<S: Simd<F32 = V>>(&self, simd: S, mean_g: f32, mean_gx: f32, dx: &mut [f32]) {
        let (mean_g, minus_mean_gx) = (simd.splat(mean_g), simd.splat(-mean_gx));
        for (i, dx) in dx.chunks_mut(S::LANES).enumerate() {
            let [_, g, normalized] = self.vectors(simd, i);
            let centred = simd.mul_add(normalized, minus_mean_gx, simd.sub(g, mean_g));
            let value = simd.mul(self.rstd, centred);
            store(simd, dx, value);
        }
    }

    /// `dy`, `g` and `normalized` of the `i`-th vector of the row.
    #[inline(always)]
    fn vectors<S: Simd<F32 = V>>(&self, simd: S, i: usize) -> [V; 3] {
        let start = i * S::LANES;
        let (dy, x) = (load(simd, &self.dy[start..]), load(simd, &self.x[start..]));
        let gamma = load(simd, &self.gamma[start..]);
        [dy, simd.mul(dy, gamma), simd.mul(simd.sub(x, self.mean), self.rstd)]
    }
}

#[cfg(test)]
mod tests;
