//! AMX: tiles of 16 rows of 64 bytes, which one instruction multiplies and adds; bf16 and int8 beside AVX-512.
//!
//! A tile of the left factor is 16 rows of 16 units, one of the right factor 16 units of 16 columns as a panel has them.
//! Products whose depth is no whole number of tiles end with the instructions of AVX-512. In bf16 a tile's instruction
//! adds up its products in another order than `vdpbf16ps` does, so this is an instruction set of its own.
//!
//! The compiler has no names for these instructions yet, so they are written out. Nothing it makes itself uses the tile
//! registers; a product sets them up and gives them back, lest the system save them for ever after.

use super::avx512::{Avx512, Avx512Bf16, Avx512Int8};
use crate::matmul::bf16;
use crate::matmul::dot::{Dot, DotKernel, FloatDot, FloatKernel, SumsOf};
use crate::matmul::pack::{Layout, Source};
use crate::matmul::tile::{Left, TileOperands};
use crate::peak::Done;
use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __m512bh, __m512i};
use std::cell::Cell;
use std::sync::OnceLock;

/// Proof that the CPU has tiles of bf16 and int8 beside AVX-512 with BF16 and VNNI, and that the system keeps them.
#[derive(Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        let found = FOUND.get_or_init(|| {
            Avx512Bf16::detect().is_some()
                && Avx512Int8::<true>::detect().is_some()
                && cpu_has_tiles()
                && system_grants_tiles()
        });
        found.then_some(Amx(()))
    }
}

fn cpu_has_tiles() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    const ALL: u32 = AMX_BF16 | AMX_TILE | AMX_INT8;
    // Every CPU with AVX-512 has leaf 7.
    __cpuid_count(7, 0).edx & ALL == ALL
}

/// Linux grants the tile registers, which make a thread's state 8 KB larger, to processes that ask for them.
#[cfg(target_os = "linux")]
fn system_grants_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let status: i64;
    // SAFETY: the call changes nothing but what later instructions of this process may do; it reads and writes no
    // memory, and overwrites the registers that are named.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => status,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    status == 0
}

#[cfg(not(target_os = "linux"))]
fn system_grants_tiles() -> bool {
    false
}

/// Rows of a tile, and units of its depth.
pub(crate) const TILE: usize = 16;

/// As the instruction `ldtilecfg` reads it.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

thread_local! {
    /// Rows that this thread's tile registers are set up for, 0 where they are not: setting them up takes as long as a
    /// dozen products of tiles.
    static ROWS: Cell<usize> = const { Cell::new(0) };
}

impl Amx {
    /// Tiles 0 to 5, the sums, and tile 6, of the left factor, get so many rows; tile 7 is of the right factor.
    #[inline]
    fn set_up(self, rows: usize) {
        debug_assert!((1..=TILE).contains(&rows));
        if ROWS.replace(rows) == rows {
            return;
        }
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        configuration.row_bytes[..8].fill(64);
        configuration.rows[..7].fill(rows as u8);
        configuration.rows[7] = TILE as u8;
        // SAFETY: the CPU has tiles, as `self` proves; the 64 bytes describe eight of its only palette. The compiler keeps
        // nothing in tile registers.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &configuration, options(nostack, readonly, preserves_flags)) };
    }
}

/// Gives the tile registers back, if they are set up, when a kernel ends.
struct Release(Amx);

impl Drop for Release {
    #[inline]
    fn drop(&mut self) {
        if ROWS.replace(0) > 0 {
            // SAFETY: the CPU has tiles, as `Amx` proves; no later code counts on what they hold.
            unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
        }
    }
}

/// The sums of one or two tiles of rows by some vectors over the whole depth, written out.
macro_rules! sums {
    ($operands:ident, $zero:expr, $load:expr, $step:expr, $store:expr) => {
        asm!(
            "test {from}, {from}",
            "jnz 2f",
            $zero,
            "jmp 3f",
            "2:",
            $load,
            "3:",
            $step,
            "add {a}, 64",
            "add {a_second}, 64",
            "lea {b}, [{b} + {b_stride}*8]",
            "lea {b}, [{b} + {b_stride}*8]",
            "dec {tiles}",
            "jnz 3b",
            "mov {stride}, {sums_stride}",
            $store,
            "/* {a_second} {from_second} {sums_second}: of two tiles only */",
            a = inout(reg) $operands.a => _,
            a_second = inout(reg) $operands.a_second => _,
            a_stride = in(reg) $operands.a_stride,
            b = inout(reg) $operands.b => _,
            b_stride = in(reg) $operands.b_stride,
            from = in(reg) $operands.from,
            from_second = in(reg) $operands.from_second,
            // Of what the sums start from, then of the sums.
            stride = inout(reg) $operands.from_stride => _,
            sums = in(reg) $operands.sums,
            sums_second = in(reg) $operands.sums_second,
            sums_stride = in(reg) $operands.sums_stride,
            tiles = inout(reg) $operands.tiles => _,
            options(nostack),
        )
    };
}

/// The products of one tile of rows with those of some vectors: `$sum` is the register, `$at` the offset in bytes.
macro_rules! step {
    ($dot:literal, $a:literal; $($sum:literal $at:literal),+) => {
        concat!(
            "tileloadd tmm6, [{", $a, "} + {a_stride}*1]\n",
            $("tileloadd tmm7, [{b} + {b_stride}*1 + ", $at, "]\n", $dot, " tmm", $sum, ", tmm6, tmm7\n",)+
        )
    };
    (again $dot:literal, $a:literal; $first:literal $there:literal $(, $sum:literal $at:literal)*) => {
        concat!(
            "tileloadd tmm6, [{", $a, "} + {a_stride}*1]\n",
            $dot, " tmm", $first, ", tmm6, tmm7\n",
            $("tileloadd tmm7, [{b} + {b_stride}*1 + ", $at, "]\n", $dot, " tmm", $sum, ", tmm6, tmm7\n",)*
        )
    };
}

/// The same for the sums of one tile of rows.
macro_rules! each {
    (zero $($sum:literal $at:literal),+) => { concat!($("tilezero tmm", $sum, "\n",)+) };
    (load $from:literal: $($sum:literal $at:literal),+) => {
        concat!($("tileloadd tmm", $sum, ", [{", $from, "} + {stride}*1 + ", $at, "]\n",)+)
    };
    (store $to:literal: $($sum:literal $at:literal),+) => {
        concat!($("tilestored [{", $to, "} + {stride}*1 + ", $at, "], tmm", $sum, "\n",)+)
    };
}

/// One or two tiles of rows by one, two or three vectors, which the instructions have to name.
macro_rules! multiply {
    ($dot:literal, $operands:ident, $row_tiles:expr, $vectors:expr) => {
        match ($row_tiles, $vectors) {
            (1, 1) => multiply!(one $dot, $operands, "0" "0"),
            (1, 2) => multiply!(one $dot, $operands, "0" "0", "1" "64"),
            (1, _) => multiply!(one $dot, $operands, "0" "0", "1" "64", "2" "128"),
            (_, 1) => multiply!(two $dot, $operands, "0" "0"; "3" "0"),
            (_, 2) => multiply!(two $dot, $operands, "0" "0", "1" "64"; "4" "64", "3" "0"),
            (_, _) => multiply!(two $dot, $operands, "0" "0", "1" "64", "2" "128"; "5" "128", "4" "64", "3" "0"),
        }
    };
    (one $dot:literal, $operands:ident, $($sum:literal $at:literal),+) => {
        sums!(
            $operands,
            each!(zero $($sum $at),+),
            each!(load "from": $($sum $at),+),
            step!($dot, "a"; $($sum $at),+),
            each!(store "sums": $($sum $at),+)
        )
    };
    (two $dot:literal, $operands:ident, $($sum:literal $at:literal),+; $($second:literal $also:literal),+) => {
        sums!(
            $operands,
            concat!(each!(zero $($sum $at),+), each!(zero $($second $also),+)),
            concat!(each!(load "from": $($sum $at),+), each!(load "from_second": $($second $also),+)),
            // The second tile of rows begins with the vector that is still there.
            concat!(step!($dot, "a"; $($sum $at),+), step!(again $dot, "a_second"; $($second $also),+)),
            concat!(each!(store "sums": $($sum $at),+), each!(store "sums_second": $($second $also),+))
        )
    };
}

/// What the instructions read, strides in bytes.
struct Operands {
    a: *const f32,
    a_second: *const f32,
    a_stride: usize,
    b: *const f32,
    b_stride: usize,
    /// Null where the sums start from zero.
    from: *const f32,
    from_second: *const f32,
    from_stride: usize,
    sums: *mut f32,
    sums_second: *mut f32,
    sums_stride: usize,
    /// Of the depth.
    tiles: usize,
}

/// Up to two tiles of rows by one panel.
///
/// # Safety
/// The operands must be as [`TileOperands`] says.
unsafe fn multiply<const INT8: bool>(amx: Amx, tile: TileOperands) {
    debug_assert!((1..=2 * TILE).contains(&tile.rows) && tile.depth > 0 && tile.depth.is_multiple_of(TILE));
    let row_tiles = tile.rows.div_ceil(TILE);
    // Two tiles are equally high. Where the rows are odd, both have the middle one, with equal sums.
    let rows = tile.rows.div_ceil(row_tiles);
    let second = tile.rows - rows;
    amx.set_up(rows);
    let (from, from_stride) = tile.from.unwrap_or((std::ptr::null(), 0));
    // SAFETY: the second tile begins inside the rows.
    let operands = unsafe {
        Operands {
            a: tile.a,
            a_second: tile.a.add(second * tile.a_stride),
            a_stride: tile.a_stride * size_of::<f32>(),
            b: tile.b,
            b_stride: tile.vectors * TILE * size_of::<f32>(),
            from,
            from_second: from.wrapping_add(second * from_stride),
            from_stride: from_stride * size_of::<f32>(),
            sums: tile.sums,
            sums_second: tile.sums.add(second * tile.sums_stride),
            sums_stride: tile.sums_stride * size_of::<f32>(),
            tiles: tile.depth / TILE,
        }
    };
    // SAFETY: the tiles are set up for so many rows; they read rows of the left factor and the panel up to the depth, and
    // the sums before they write them.
    unsafe {
        if INT8 {
            multiply!("tdpbusd", operands, row_tiles, tile.vectors);
        } else {
            multiply!("tdpbf16ps", operands, row_tiles, tile.vectors);
        }
    }
}

/// As [`crate::peak`] counts them: products of tiles in registers, six independent ones a round.
pub(crate) fn multiply_adds<const INT8: bool>(amx: Amx, rounds: usize) -> Done {
    const CHAINS: usize = 6;
    const NUMBERS: usize = TILE * TILE;
    let one = if INT8 { 0x0101_0101 } else { 0x3f80_3f80u32 };
    let ones = [one; NUMBERS];
    let mut sums = [[0u32; NUMBERS]; CHAINS];
    macro_rules! rounds {
        ($dot:literal) => {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", "tilezero tmm4", "tilezero tmm5",
                "tileloadd tmm6, [{ones} + {stride}*1]",
                "tileloadd tmm7, [{ones} + {stride}*1]",
                "test {rounds}, {rounds}",
                "jz 3f",
                "2:",
                concat!($dot, " tmm0, tmm6, tmm7"),
                concat!($dot, " tmm1, tmm6, tmm7"),
                concat!($dot, " tmm2, tmm6, tmm7"),
                concat!($dot, " tmm3, tmm6, tmm7"),
                concat!($dot, " tmm4, tmm6, tmm7"),
                concat!($dot, " tmm5, tmm6, tmm7"),
                "dec {rounds}",
                "jnz 2b",
                "3:",
                "tilestored [{sums} + {stride}*1], tmm0",
                "tilestored [{sums} + {stride}*1 + 1024], tmm1",
                "tilestored [{sums} + {stride}*1 + 2048], tmm2",
                "tilestored [{sums} + {stride}*1 + 3072], tmm3",
                "tilestored [{sums} + {stride}*1 + 4096], tmm4",
                "tilestored [{sums} + {stride}*1 + 5120], tmm5",
                ones = in(reg) ones.as_ptr(),
                stride = in(reg) TILE * size_of::<u32>(),
                sums = in(reg) sums.as_mut_ptr(),
                rounds = inout(reg) rounds => _,
                options(nostack),
            )
        };
    }
    let _release = Release(amx);
    amx.set_up(TILE);
    // SAFETY: the tiles are set up; the two factors are read from 16 rows of 64 bytes, and six tiles are written to as many.
    unsafe {
        if INT8 {
            rounds!("tdpbusd");
        } else {
            rounds!("tdpbf16ps");
        }
    }
    let number = |bits: u32| if INT8 { f64::from(bits) } else { f64::from(f32::from_bits(bits)) };
    let sum = sums.as_flattened().iter().map(|&bits| number(bits)).sum();
    Done { count: rounds * CHAINS * NUMBERS * TILE * if INT8 { 4 } else { 2 }, sum }
}

/// Two bf16 a unit, by `tdpbf16ps`.
#[derive(Clone, Copy)]
pub(crate) struct AmxBf16(Avx512Bf16, Amx);

/// Four int8 a unit, by `tdpbusd`: the bits of `vpdpbusd`, since integers are exact.
#[derive(Clone, Copy)]
pub(crate) struct AmxInt8(Avx512Int8<true>, Amx);

impl AmxBf16 {
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        Some(AmxBf16(Avx512Bf16::detect()?, Amx::detect()?))
    }
}

impl AmxInt8 {
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        Some(AmxInt8(Avx512Int8::detect()?, Amx::detect()?))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
fn run_bf16<K: DotKernel>(dot: AmxBf16, kernel: K) -> K::Output {
    let _release = Release(dot.1);
    kernel.run(dot)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
fn run_bf16_float<K: FloatKernel>(dot: AmxBf16, kernel: K) -> K::Output {
    let _release = Release(dot.1);
    kernel.run(dot)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn run_int8<K: DotKernel>(dot: AmxInt8, kernel: K) -> K::Output {
    let _release = Release(dot.1);
    kernel.run(dot)
}

macro_rules! implement {
    ($name:ident, $inner:ty, $vector:ty, $run:ident, $int8:literal) => {
        impl Dot for $name {
            type Simd = Avx512;
            type Left = $vector;
            type Right = $vector;
            const GROUP: usize = <$inner>::GROUP;
            const TILE_ROWS: usize = <$inner>::TILE_ROWS;
            const TILE_DEPTH: usize = TILE;
            const TILE_MOST_ROWS: usize = 2 * TILE;

            #[inline(always)]
            fn simd(self) -> Avx512 {
                self.0.simd()
            }
            #[inline(always)]
            unsafe fn load_left(self, from: *const f32) -> $vector {
                // SAFETY: the caller's promise.
                unsafe { self.0.load_left(from) }
            }
            #[inline(always)]
            unsafe fn load_right(self, from: *const f32) -> $vector {
                // SAFETY: the caller's promise.
                unsafe { self.0.load_right(from) }
            }
            #[inline(always)]
            fn dot(self, left: $vector, right: $vector, sums: SumsOf<Self>) -> SumsOf<Self> {
                self.0.dot(left, right, sums)
            }
            #[inline(always)]
            unsafe fn multiply_tiles(self, tile: TileOperands) {
                // SAFETY: the caller's promise.
                unsafe { multiply::<$int8>(self.1, tile) }
            }
            #[inline(always)]
            fn vectorize<K: DotKernel>(self, kernel: K) -> K::Output {
                // SAFETY: the type exists only after `detect` found the instructions.
                unsafe { $run(self, kernel) }
            }
        }
    };
}

impl FloatDot for AmxBf16 {
    const LEFT_ROWS: usize = 2 * TILE;

    #[inline(always)]
    fn pack_right(self, from: Source, shape: (usize, usize), layout: Layout, first: usize, to: &mut [f32]) {
        bf16::pack_panels(self.0, from, shape, layout, first, to);
    }
    #[inline(always)]
    fn pack_left_transposed(self, from: &[f32], stride: usize, depth: usize, rows: usize, to: &mut [f32]) {
        bf16::pack_left_rows(self.0, from, stride, depth, rows, to);
    }
    #[inline(always)]
    fn left_transposed(self, packed: &[f32], units: usize) -> Left<'_> {
        Left::rows(packed, units)
    }
    #[inline(always)]
    fn left_rows<'a>(self, from: &'a [f32], stride: usize, shape: (usize, usize), scratch: &'a mut [f32]) -> Left<'a> {
        self.0.left_rows(from, stride, shape, scratch)
    }
    #[inline(always)]
    fn vectorize_float<K: FloatKernel>(self, kernel: K) -> K::Output {
        // SAFETY: the type exists only after `detect` found the instructions.
        unsafe { run_bf16_float(self, kernel) }
    }
}

implement!(AmxBf16, Avx512Bf16, __m512bh, run_bf16, false);
implement!(AmxInt8, Avx512Int8<true>, __m512i, run_int8, true);
