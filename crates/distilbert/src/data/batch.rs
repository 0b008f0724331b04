//! Batches without padding: all tokens end to end, and where each sequence begins.

/// Sequences laid end to end. There is no attention mask, because there is no padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    input_ids: Vec<u32>,
    positions: Vec<u32>,
    token_types: Vec<u32>,
    cu_seqlens: Vec<u32>,
    has_token_types: bool,
}

/// Why padded input cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A tensor does not have `batch * seq` elements.
    #[error("`{name}`: expected {expected} elements, found {found}")]
    Length {
        /// The tensor.
        name: &'static str,
        /// `batch * seq`.
        expected: usize,
        /// Its elements.
        found: usize,
    },
    /// An id is negative or too large to be one.
    #[error("`{name}`: expected a token id, found {found}")]
    Id {
        /// The tensor.
        name: &'static str,
        /// The value.
        found: i64,
    },
    /// The attention mask hides tokens in front of or between real ones.
    #[error("`attention_mask`: row {row}: expected ones and then zeros")]
    Mask {
        /// The row.
        row: usize,
    },
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Batch {
    /// A batch of no sequences.
    pub fn new() -> Batch {
        let (input_ids, positions, token_types) = (Vec::new(), Vec::new(), Vec::new());
        Batch { input_ids, positions, token_types, cu_seqlens: vec![0], has_token_types: false }
    }

    /// A batch of sequences of one segment each.
    pub fn from_sequences<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Batch {
        let mut batch = Batch::new();
        for input_ids in sequences {
            batch.push(input_ids, None);
        }
        batch
    }

    /// Appends a sequence; `token_types` are 0 unless given.
    ///
    /// # Panics
    /// If `token_types` is not as long as `input_ids`.
    pub fn push(&mut self, input_ids: &[u32], token_types: Option<&[u32]>) {
        self.input_ids.extend_from_slice(input_ids);
        self.positions.extend(0..input_ids.len() as u32);
        match token_types {
            Some(token_types) => {
                assert_eq!(token_types.len(), input_ids.len(), "one token type a token");
                self.token_types.extend_from_slice(token_types);
                self.has_token_types |= token_types.iter().any(|&token_type| token_type != 0);
            }
            None => self.token_types.resize(self.input_ids.len(), 0),
        }
        self.cu_seqlens.push(self.input_ids.len() as u32);
    }

    /// Packs a padded batch: `input_ids`, `attention_mask` (1 = real token) and `token_types` are `[batch, seq]`.
    ///
    /// # Errors
    /// If the tensors differ in size, an id is negative, or the padding is not on the right.
    pub fn from_padded(
        input_ids: &[i64],
        attention_mask: &[i64],
        token_types: Option<&[i64]>,
        seq: usize,
    ) -> Result<Batch, BatchError> {
        let expected = input_ids.len();
        for (name, tensor) in [("attention_mask", Some(attention_mask)), ("token_type_ids", token_types)] {
            if let Some(found) = tensor.map(<[i64]>::len).filter(|&found| found != expected) {
                return Err(BatchError::Length { name, expected, found });
            }
        }
        let to_ids = |name, row: &[i64]| {
            row.iter().map(|&id| u32::try_from(id).map_err(|_| BatchError::Id { name, found: id })).collect()
        };
        let mut batch = Batch::new();
        for (row, mask) in attention_mask.chunks(seq.max(1)).enumerate() {
            let len = mask.iter().take_while(|&&keep| keep != 0).count();
            if mask[len..].iter().any(|&keep| keep != 0) {
                return Err(BatchError::Mask { row });
            }
            let real = row * seq..row * seq + len;
            let ids: Vec<u32> = to_ids("input_ids", &input_ids[real.clone()])?;
            let types: Option<Vec<u32>> =
                token_types.map(|types| to_ids("token_type_ids", &types[real])).transpose()?;
            batch.push(&ids, types.as_deref());
        }
        Ok(batch)
    }

    /// Token ids, `[tokens]`.
    pub fn input_ids(&self) -> &[u32] {
        &self.input_ids
    }

    /// Replaces the token at `index` of `[tokens]`, as masking does.
    pub fn set_input_id(&mut self, index: usize, id: u32) {
        self.input_ids[index] = id;
    }

    /// Position of each token in its sequence, `[tokens]`.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Segment of each token, `[tokens]`; `None` if all are 0.
    pub fn token_types(&self) -> Option<&[u32]> {
        self.has_token_types.then_some(&self.token_types[..])
    }

    /// Where each sequence begins, and the end of the last: `[batch + 1]`.
    pub fn cu_seqlens(&self) -> &[u32] {
        &self.cu_seqlens
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Index of the first token of each sequence, `[batch]`.
    pub fn first_tokens(&self) -> &[u32] {
        &self.cu_seqlens[..self.sequences()]
    }

    /// Length of each sequence.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.cu_seqlens.windows(2).map(|ends| (ends[1] - ends[0]) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_dropped_and_positions_restart() {
        let batch = Batch::from_padded(&[5, 6, 0, 7, 8, 9], &[1, 1, 0, 1, 1, 1], Some(&[0, 1, 0, 0, 0, 0]), 3).unwrap();
        assert_eq!(batch.input_ids(), [5, 6, 7, 8, 9]);
        assert_eq!(batch.positions(), [0, 1, 0, 1, 2]);
        assert_eq!(batch.cu_seqlens(), [0, 2, 5]);
        assert_eq!(batch.token_types(), Some(&[0, 1, 0, 0, 0][..]));
        assert_eq!(batch.first_tokens(), [0, 2]);
        assert_eq!(batch.lengths().collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn left_padding_and_bad_sizes_are_refused_by_name() {
        let message = |result: Result<Batch, BatchError>| result.unwrap_err().to_string();
        assert_eq!(
            message(Batch::from_padded(&[0, 5], &[0, 1], None, 2)),
            "`attention_mask`: row 0: expected ones and then zeros"
        );
        assert_eq!(
            message(Batch::from_padded(&[1, 5], &[1], None, 2)),
            "`attention_mask`: expected 2 elements, found 1"
        );
        assert_eq!(
            message(Batch::from_padded(&[1, -5], &[1, 1], None, 2)),
            "`input_ids`: expected a token id, found -5"
        );
    }
}
