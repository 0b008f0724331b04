//! Stand-in until the real masks are merged.

/// Dropout of one site.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// Share dropped.
    pub probability: f32,
    /// Seed, step, layer, site.
    pub site_key: u64,
    /// One a sequence.
    pub slots: &'a [u64],
}

impl Dropout<'_> {
    /// 1 / (1 - p)
    pub fn keep_scale(&self) -> f32 {
        1.0 / (1.0 - self.probability)
    }
    /// Key of a sequence.
    pub fn sequence_key(&self, sequence: usize) -> u64 {
        (self.site_key ^ self.slots[sequence].wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD134_2543_DE82_EF95)
    }
    /// Whether the element is kept.
    #[inline(always)]
    pub fn keep(&self, sequence_key: u64, element: u32) -> bool {
        let mut x = element ^ sequence_key as u32;
        x = (x ^ (x >> 16)).wrapping_mul(0x21F0_AAAD);
        x ^= (sequence_key >> 32) as u32;
        x = (x ^ (x >> 15)).wrapping_mul(0xD35A_2D97);
        x ^= x >> 15;
        (x >> 8) as f32 * (1.0 / 16_777_216.0) >= self.probability
    }
}
