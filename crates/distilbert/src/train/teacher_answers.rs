//! What a teacher says of a micro-batch, abridged: the largest logits of each position and what the others come to, and the
//! last hidden states in bf16. Small enough to keep on a disk ([`super::teacher_cache`]).

use crate::heads::masked_lm::{LOGIT_CHUNK_ROWS, MaskedLm, MaskedLmActivations};
use crate::model::Model;
use crate::model::encoder::Activations;
use distilbert_kernels::Runtime;
use distilbert_kernels::elementwise::gather_rows;
use distilbert_kernels::losses::{TopLogits, TopLogitsMut, top_logits};
use half::{bf16, f16};

/// Which parts of the answers are kept, which follows from the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Kept {
    /// Logits of a position; none if 0.
    pub top_k: usize,
    /// Width of the hidden states; none if 0.
    pub hidden: usize,
}

impl Kept {
    /// Bytes of the answers to `tokens` tokens with soft targets at `rows` positions.
    pub fn bytes(self, rows: usize, tokens: usize) -> usize {
        let row =
            if self.top_k == 0 { 0 } else { self.top_k * (size_of::<u32>() + size_of::<u16>()) + size_of::<f32>() };
        rows * row + tokens * self.hidden * size_of::<u16>()
    }
}

/// A teacher's abridged answers to one micro-batch, as they come back from their bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// Classes of the largest logits of each position, the largest first, `[rows, top_k]`.
    classes: Vec<u32>,
    /// Those logits less the largest, rounded to f16.
    below_top: Vec<f32>,
    /// As [`TopLogits::rest`].
    rest: Vec<f32>,
    /// Last hidden states `[tokens, hidden]`, rounded to bf16.
    states: Vec<f32>,
}

impl Answers {
    /// What the loss compares logits with, for some of the positions.
    pub fn logits(&self, rows: std::ops::Range<usize>) -> TopLogits<'_> {
        let k = self.classes.len().checked_div(self.rest.len()).unwrap_or(0);
        let numbers = rows.start * k..rows.end * k;
        TopLogits {
            classes: &self.classes[numbers.clone()],
            below_top: &self.below_top[numbers],
            rest: &self.rest[rows],
        }
    }

    /// The last hidden states, `[tokens, hidden]`.
    pub fn states(&self) -> &[f32] {
        &self.states
    }

    /// Answers from their bytes.
    ///
    /// # Panics
    /// If the bytes are not [`Kept::bytes`] of these counts.
    pub fn from_bytes(bytes: &[u8], kept: Kept, rows: usize, tokens: usize) -> Answers {
        assert_eq!(bytes.len(), kept.bytes(rows, tokens), "answers to {rows} of {tokens} positions");
        let (logits, rows) = if kept.top_k == 0 { (0, 0) } else { (rows * kept.top_k, rows) };
        let (classes, bytes) = bytes.split_at(logits * size_of::<u32>());
        let (below_top, bytes) = bytes.split_at(logits * size_of::<u16>());
        let (rest, states) = bytes.split_at(rows * size_of::<f32>());
        Answers {
            classes: numbers(classes, u32::from_le_bytes).collect(),
            below_top: numbers(below_top, |bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
            rest: numbers(rest, f32::from_le_bytes).collect(),
            states: numbers(states, |bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
        }
    }
}

fn numbers<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    bytes.as_chunks::<N>().0.iter().map(move |&chunk| read(chunk))
}

/// A teacher that is asked for abridged answers, with its memory.
pub struct Asked<'a> {
    /// Packed.
    pub model: &'a Model,
    /// The model's head, if logits are kept.
    pub head: Option<&'a MaskedLm>,
    /// Softens the distributions.
    pub temperature: f32,
    /// What is kept.
    pub kept: Kept,
}

/// Memory of [`Asked::answer`], which passes from step to step.
#[derive(Default)]
pub struct AnswerBuffers {
    head: MaskedLmActivations,
    rows: Vec<f32>,
    logits: Vec<f32>,
}

impl Asked<'_> {
    /// The bytes of the answers at `rows`, the positions of the soft targets. `activations` are those of the teacher's
    /// pass over the micro-batch.
    pub fn answer(
        &self,
        rt: &Runtime,
        activations: &Activations,
        rows: &[u32],
        buffers: &mut AnswerBuffers,
    ) -> Vec<u8> {
        let Asked { model, head, temperature, kept } = *self;
        let (states, width) = (activations.last_hidden_state(), model.config.encoder.hidden);
        let mut bytes = Vec::with_capacity(kept.bytes(rows.len(), states.len() / width));
        if let Some(head) = head {
            let k = kept.top_k;
            let (mut classes, mut below_top) = (vec![0; rows.len() * k], vec![0.0; rows.len() * k]);
            let mut rest = vec![0.0; rows.len()];
            let arena = model.parameters.weights();
            buffers.rows.resize(rows.len() * width, 0.0);
            gather_rows(rt, states, width, rows, &mut buffers.rows);
            head.forward(rt, arena, &buffers.rows, &mut buffers.head);
            for start in (0..rows.len()).step_by(LOGIT_CHUNK_ROWS) {
                let chunk = start..(start + LOGIT_CHUNK_ROWS).min(rows.len());
                head.logits(rt, arena, &buffers.head, chunk.clone(), &mut buffers.logits);
                let top = TopLogitsMut {
                    classes: &mut classes[chunk.start * k..chunk.end * k],
                    below_top: &mut below_top[chunk.start * k..chunk.end * k],
                    rest: &mut rest[chunk],
                };
                top_logits(rt, &mut buffers.logits, head.vocab_size(), temperature, top);
            }
            classes.iter().for_each(|class| bytes.extend(class.to_le_bytes()));
            below_top.iter().for_each(|&below| bytes.extend(f16::from_f32(below).to_le_bytes()));
            rest.iter().for_each(|rest| bytes.extend(rest.to_le_bytes()));
        }
        if kept.hidden > 0 {
            states.iter().for_each(|&state| bytes.extend(bf16::from_f32(state).to_le_bytes()));
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_as_many_as_said_and_come_back() {
        for (kept, expected) in [
            (Kept { top_k: 2, hidden: 3 }, 2 * (2 * 6 + 4) + 5 * 6),
            (Kept { top_k: 0, hidden: 3 }, 5 * 6),
            (Kept { top_k: 2, hidden: 0 }, 2 * (2 * 6 + 4)),
        ] {
            assert_eq!(kept.bytes(2, 5), expected);
            let answers = Answers::from_bytes(&vec![0; expected], kept, 2, 5);
            assert_eq!((answers.classes.len(), answers.states().len()), (kept.top_k * 2, kept.hidden * 5));
        }
        let kept = Kept { top_k: 2, hidden: 1 };
        let mut bytes = Vec::new();
        [7u32, 65_537].iter().for_each(|class| bytes.extend(class.to_le_bytes()));
        [0.0, -1.5].iter().for_each(|&below| bytes.extend(f16::from_f32(below).to_le_bytes()));
        bytes.extend((-0.25f32).to_le_bytes());
        [2.0, -3.0].iter().for_each(|&state| bytes.extend(bf16::from_f32(state).to_le_bytes()));
        let answers = Answers::from_bytes(&bytes, kept, 1, 2);
        let logits = answers.logits(0..1);
        assert_eq!((logits.classes, logits.below_top, logits.rest), (&[7, 65_537][..], &[0.0, -1.5][..], &[-0.25][..]));
        assert_eq!(answers.states(), [2.0, -3.0]);
    }
}
