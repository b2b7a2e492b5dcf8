//! Products of 8 × 8 numbers that stay in registers, for attention: its matrices are too small for the
//! packing that `gemm` does first.

/// Rows and columns of a tile; matrices are padded to multiples of it.
pub const TILE: usize = 8;

pub type Tile = [[f32; TILE]; TILE];

/// Part of a row-major matrix: it begins at the part's first number and has `stride` numbers a row.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub numbers: &'a [f32],
    pub stride: usize,
}

pub fn part(numbers: &[f32], row: usize, column: usize, stride: usize) -> Part<'_> {
    Part { numbers: &numbers[row * stride + column..], stride }
}

impl<'a> Part<'a> {
    #[inline(always)]
    fn row(self, row: usize) -> &'a [f32] {
        &self.numbers[row * self.stride..][..TILE]
    }
}

/// Aᵀ·B over the first `depth` rows of both: eight columns of A by eight columns of B.
#[inline(always)]
pub fn transposed_product(a: Part, b: Part, depth: usize) -> Tile {
    let mut sum = [[0f32; TILE]; TILE];
    for step in 0..depth {
        let (a, b) = (a.row(step), b.row(step));
        for i in 0..TILE {
            for j in 0..TILE {
                sum[i][j] += a[i] * b[j];
            }
        }
    }
    sum
}

/// A·B over the first `depth` columns of A and rows of B: eight rows of A by eight columns of B.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // one index for nine slices
pub fn product(a: Part, b: Part, depth: usize) -> Tile {
    let rows: [&[f32]; TILE] = std::array::from_fn(|i| &a.numbers[i * a.stride..][..depth]);
    let mut sum = [[0f32; TILE]; TILE];
    for step in 0..depth {
        let b = b.row(step);
        for i in 0..TILE {
            for j in 0..TILE {
                sum[i][j] += rows[i][step] * b[j];
            }
        }
    }
    sum
}

/// Writes a tile at a place of a row-major matrix.
#[inline(always)]
pub fn store(tile: &Tile, out: &mut [f32], row: usize, column: usize, stride: usize) {
    for (i, numbers) in tile.iter().enumerate() {
        out[(row + i) * stride + column..][..TILE].copy_from_slice(numbers);
    }
}

/// Adds a tile at a place of a row-major matrix.
#[inline(always)]
pub fn store_sum(tile: &Tile, out: &mut [f32], row: usize, column: usize, stride: usize) {
    for (i, numbers) in tile.iter().enumerate() {
        let out = &mut out[(row + i) * stride + column..][..TILE];
        for j in 0..TILE {
            out[j] += numbers[j];
        }
    }
}
