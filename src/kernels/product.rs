//! Matrix products. Every number of a product is one chain of multiply-adds in the order of the inner dimension, whichever
//! tile, block or thread computes it. So a row's results depend neither on the rows beside it nor on the number of threads,
//! and summing over tokens in pieces gives the same bits as summing over all at once.
//!
//! A tile of 8 × 32 numbers stays in registers while it is summed. The left side is read in place, in either direction. The
//! right side is read row by row, or from [`Panels`], which are stored in the order of reading. On the two AVX-512 cores on
//! which this was written, that is within a few percent of what the multiply-add units can do (`cargo bench --bench train`),
//! for matrices of 32 rows or more. General libraries first copy both sides.

use rayon::prelude::*;

/// Columns that are summed side by side.
pub const PANEL: usize = 32;

/// Rows of a tile.
pub const TILE_ROWS: usize = 8;

/// Steps of the inner dimension after which sums go back to memory, for a right side that is not in panels: that many steps of
/// 32 of its columns stay in the first-level cache.
const STEPS: usize = 256;

/// Multiply-adds that make a task worth handing to another thread.
const TASK: usize = 1 << 19;

/// The most rows whose numbers stay in a core's cache while the panels pass by.
const FEW: usize = 64;

/// A matrix view: row-major storage of `rows` × `columns`, or its transpose.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// A view of `rows` × `columns` numbers, row by row. Panics if `data` has another length.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Matrix<'a> {
        assert_eq!(data.len(), rows * columns, "a matrix has rows × columns numbers");
        Matrix { data, rows, columns, transposed: false }
    }

    /// The transpose, as a view of the same numbers.
    pub fn t(self) -> Matrix<'a> {
        Matrix { transposed: !self.transposed, ..self }
    }

    fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    /// Distances from one row and from one column to the next.
    fn strides(&self) -> (usize, usize) {
        if self.transposed { (1, self.columns) } else { (self.columns, 1) }
    }
}

/// A matrix \[inner, columns\] in panels of 32 columns. Each panel is stored row by row; the last is padded with zeros.
pub struct Panels {
    data: Vec<f32>,
    inner: usize,
    columns: usize,
}

impl Panels {
    /// Copies a matrix into panels, in parallel.
    pub fn of(matrix: Matrix) -> Panels {
        let (inner, columns) = matrix.shape();
        let (row, column) = matrix.strides();
        let mut data = vec![0f32; inner * columns.next_multiple_of(PANEL)];
        if inner > 0 {
            data.par_chunks_mut(inner * PANEL).enumerate().for_each(|(index, panel)| {
                let first = index * PANEL;
                let width = PANEL.min(columns - first);
                // Sixteen steps at a time: both sides then move by whole cache lines.
                for (block, lines) in panel.chunks_mut(16 * PANEL).enumerate() {
                    for at in 0..width {
                        let from = &matrix.data[(first + at) * column + block * 16 * row..];
                        for (line, number) in lines.chunks_exact_mut(PANEL).zip(from.iter().step_by(row)) {
                            line[at] = *number;
                        }
                    }
                }
            });
        }
        Panels { data, inner, columns }
    }

    fn panel(&self, index: usize) -> &[f32] {
        &self.data[index * self.inner * PANEL..][..self.inner * PANEL]
    }
}

/// out = a·b, or out += a·b; `out` is row-major.
pub fn matmul(a: Matrix, b: Matrix, out: &mut [f32], accumulate: bool) {
    if b.transposed {
        return matmul_panels(a, &Panels::of(b), out, accumulate);
    }
    let ((rows, inner), (b_inner, columns)) = (a.shape(), b.shape());
    assert_eq!(inner, b_inner, "matrix shapes fit");
    // Columns beyond the last whole panel, as a panel.
    let whole = columns / PANEL * PANEL;
    let rest = (whole < columns).then(|| {
        let mut rest = vec![0f32; inner * PANEL];
        for (line, row) in rest.chunks_exact_mut(PANEL).zip(b.data.chunks_exact(columns)) {
            line[..columns - whole].copy_from_slice(&row[whole..]);
        }
        rest
    });
    for_row_blocks(out, rows, columns, inner, |first, out| {
        for start in (0..inner.max(1)).step_by(STEPS) {
            let steps = STEPS.min(inner - start);
            for column in (0..columns).step_by(PANEL) {
                let (numbers, step) = match &rest {
                    Some(rest) if column == whole => (&rest[start * PANEL..], PANEL),
                    _ => (&b.data[start * columns + column..], columns),
                };
                let left = Left::of(a, first, out.len() / columns, start, steps);
                let right = Right { numbers, columns: PANEL.min(columns - column), step };
                multiply(left, right, &mut out[column..], columns, accumulate || start > 0);
            }
        }
    });
}

/// out = a·b, or out += a·b, for a right side in panels; `out` is row-major.
pub fn matmul_panels(a: Matrix, b: &Panels, out: &mut [f32], accumulate: bool) {
    let (rows, inner) = a.shape();
    assert_eq!(inner, b.inner, "matrix shapes fit");
    if rows <= FEW {
        return matmul_by_panels(a, b, out, accumulate);
    }
    for_row_blocks(out, rows, b.columns, inner, |first, out| {
        for (index, column) in (0..b.columns).step_by(PANEL).enumerate() {
            let left = Left::of(a, first, out.len() / b.columns, 0, inner);
            let right =
                Right { numbers: b.panel(index), columns: PANEL.min(b.columns - column), step: PANEL };
            multiply(left, right, &mut out[column..], b.columns, accumulate);
        }
    });
}

/// The same for few rows, as when one token is sampled for each: each panel is read once, and tasks share the panels.
fn matmul_by_panels(a: Matrix, b: &Panels, out: &mut [f32], accumulate: bool) {
    /// Where the numbers of a product are.
    #[derive(Clone, Copy)]
    struct Out(*mut f32);
    // SAFETY: tasks write different columns.
    unsafe impl Send for Out {}
    // SAFETY: as above.
    unsafe impl Sync for Out {}
    impl Out {
        fn at(self, column: usize) -> *mut f32 {
            self.0.wrapping_add(column)
        }
    }

    let ((rows, inner), columns) = (a.shape(), b.columns);
    assert_eq!(out.len(), rows * columns, "the product has rows × columns numbers");
    if out.is_empty() {
        return;
    }
    let left = Left::of(a, 0, rows, 0, inner);
    let (whole, panels) = (Out(out.as_mut_ptr()), columns.div_ceil(PANEL));
    let work = |index: usize| {
        let column = index * PANEL;
        let right = Right { numbers: b.panel(index), columns: PANEL.min(columns - column), step: PANEL };
        // SAFETY: `out` has `columns` numbers for each row, and no other task writes those of this panel.
        unsafe { multiply_into(left, right, whole.at(column), columns, accumulate) }
    };
    // With few rows, weights come from memory, and two cores read them faster than one: smaller tasks are worth it.
    let together = (TASK / 4).div_ceil((rows * inner * PANEL).max(1));
    if together >= panels {
        return (0..panels).for_each(work);
    }
    (0..panels).into_par_iter().with_min_len(together).for_each(work);
}

/// Calls `work` for each block of rows of `out`, with the number of its first row, in parallel if there is enough work.
fn for_row_blocks(
    out: &mut [f32],
    rows: usize,
    columns: usize,
    inner: usize,
    work: impl Fn(usize, &mut [f32]) + Sync,
) {
    assert_eq!(out.len(), rows * columns, "the product has rows × columns numbers");
    if out.is_empty() {
        return;
    }
    let block = (TASK / (columns * inner.max(1))).max(1).next_multiple_of(4 * TILE_ROWS);
    if block >= rows {
        return work(0, out);
    }
    out.par_chunks_mut(block * columns).enumerate().for_each(|(index, out)| work(index * block, out));
}

/// The left side of a product: some of its rows, and some steps of the inner dimension.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    /// From the first row and step on.
    pub numbers: &'a [f32],
    /// The number of rows.
    pub rows: usize,
    /// Distance from one row to the next.
    pub row: usize,
    /// The number of steps of the inner dimension.
    pub steps: usize,
    /// Distance from one step to the next.
    pub step: usize,
}

impl<'a> Left<'a> {
    fn of(matrix: Matrix<'a>, first: usize, rows: usize, start: usize, steps: usize) -> Left<'a> {
        let (row, step) = matrix.strides();
        let numbers = matrix.data.get(first * row + start * step..).unwrap_or_default();
        Left { numbers, rows, row, steps, step }
    }
}

/// The right side of a product: up to 32 columns, with zeros or other numbers in the others.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    /// From the first step on: 32 for each step.
    pub numbers: &'a [f32],
    /// The columns that count, at most 32.
    pub columns: usize,
    /// Distance from one step to the next.
    pub step: usize,
}

/// out = left·right, or out += left·right; `out` has a row every `stride` numbers.
pub fn multiply(left: Left, right: Right, out: &mut [f32], stride: usize, accumulate: bool) {
    let rows = left.rows;
    if rows == 0 {
        return;
    }
    assert!(right.columns <= PANEL && out.len() >= (rows - 1) * stride + right.columns);
    // SAFETY: the lengths were checked.
    unsafe { multiply_into(left, right, out.as_mut_ptr(), stride, accumulate) }
}

/// The same for an `out` of which other threads write other columns.
///
/// SAFETY: `out` points to `right.columns` numbers for each row, every `stride` numbers, which nobody else uses.
unsafe fn multiply_into(left: Left, right: Right, out: *mut f32, stride: usize, accumulate: bool) {
    let rows = left.rows;
    if rows == 0 {
        return;
    }
    assert!(
        left.steps == 0
            || (left.numbers.len() > (rows - 1) * left.row + (left.steps - 1) * left.step
                && right.numbers.len() >= (left.steps - 1) * right.step + PANEL)
    );
    assert!(right.columns <= PANEL);
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m256, __m512};
        #[target_feature(enable = "avx512f")]
        unsafe fn avx512(left: Left, right: Right, out: *mut f32, stride: usize, accumulate: bool) {
            // SAFETY: as for `tiles`.
            unsafe { tiles::<__m512>(left, right, out, stride, accumulate) }
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(left: Left, right: Right, out: *mut f32, stride: usize, accumulate: bool) {
            // SAFETY: as for `tiles`.
            unsafe { tiles::<__m256>(left, right, out, stride, accumulate) }
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512, and the lengths were checked.
            return unsafe { avx512(left, right, out, stride, accumulate) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA, and the lengths were checked.
            return unsafe { avx2(left, right, out, stride, accumulate) };
        }
    }
    // SAFETY: the lengths were checked.
    unsafe { tiles::<[f32; 4]>(left, right, out, stride, accumulate) }
}

/// SAFETY: the processor has `V`'s instructions; `left` has numbers for all its rows and steps,
/// `right` 32 for each step, and `out` `right.columns` for each row.
#[inline(always)]
unsafe fn tiles<V: Lanes>(left: Left, right: Right, out: *mut f32, stride: usize, accumulate: bool) {
    let mut row = 0;
    while row < left.rows {
        let height = match left.rows - row {
            TILE_ROWS.. if V::REGISTERS == 32 => TILE_ROWS,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        // SAFETY: `row` and the `height` rows from it on are rows of `left`.
        unsafe {
            let a = left.numbers.as_ptr().wrapping_add(row * left.row);
            let out = out.add(row * stride);
            for column in (0..right.columns).step_by(2 * V::N) {
                let b = right.numbers.as_ptr().wrapping_add(column);
                let width = right.columns - column;
                let out = out.add(column);
                match (height, width > V::N) {
                    (8, true) => tile::<V, 8, 2>(left, a, b, right.step, width, out, stride, accumulate),
                    (4, true) => tile::<V, 4, 2>(left, a, b, right.step, width, out, stride, accumulate),
                    (2, true) => tile::<V, 2, 2>(left, a, b, right.step, width, out, stride, accumulate),
                    (_, true) => tile::<V, 1, 2>(left, a, b, right.step, width, out, stride, accumulate),
                    // Few columns, such as those of a low-rank adapter.
                    (8, false) => tile::<V, 8, 1>(left, a, b, right.step, width, out, stride, accumulate),
                    (4, false) => tile::<V, 4, 1>(left, a, b, right.step, width, out, stride, accumulate),
                    (2, false) => tile::<V, 2, 1>(left, a, b, right.step, width, out, stride, accumulate),
                    (_, false) => tile::<V, 1, 1>(left, a, b, right.step, width, out, stride, accumulate),
                }
            }
        }
        row += height;
    }
}

/// R rows of C vectors of columns, of which the first `width` columns count.
///
/// SAFETY: as for [`tiles`], for the rows from `a` and `out` and the columns from `b` on.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<V: Lanes, const R: usize, const C: usize>(
    left: Left,
    mut a: *const f32,
    mut b: *const f32,
    b_step: usize,
    width: usize,
    out: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    // SAFETY: the caller guarantees every address. If fewer columns than the vectors have count, sums pass through `edge`, so that
    // memory beyond the columns is not touched.
    unsafe {
        let mut edge = [[0f32; PANEL]; R];
        let whole = width >= C * V::N;
        if accumulate && !whole {
            for (row, edge) in edge.iter_mut().enumerate() {
                std::ptr::copy_nonoverlapping(out.add(row * stride), edge.as_mut_ptr(), width);
            }
        }
        let mut sums = [[V::zero(); C]; R];
        if accumulate {
            for row in 0..R {
                let from = if whole { out.add(row * stride) } else { edge[row].as_mut_ptr() };
                sums[row] = std::array::from_fn(|vector| V::load(from.add(vector * V::N)));
            }
        }
        for _ in 0..left.steps {
            let numbers: [V; C] = std::array::from_fn(|vector| V::load(b.add(vector * V::N)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(*a.add(row * left.row));
                *sums = std::array::from_fn(|vector| sums[vector].add_product(x, numbers[vector]));
            }
            // After the last step these may point beyond the matrix; nothing is read there.
            a = a.wrapping_add(left.step);
            b = b.wrapping_add(b_step);
        }
        for row in 0..R {
            let to = if whole { out.add(row * stride) } else { edge[row].as_mut_ptr() };
            sums[row].iter().enumerate().for_each(|(vector, sum)| sum.store(to.add(vector * V::N)));
            if !whole {
                std::ptr::copy_nonoverlapping(edge[row].as_ptr(), out.add(row * stride), width);
            }
        }
    }
}

/// A vector register.
trait Lanes: Copy {
    const N: usize;
    /// How many the processor has.
    const REGISTERS: usize;

    /// SAFETY, of all: the processor has the instruction, and N numbers lie at a given address.
    unsafe fn zero() -> Self;
    unsafe fn splat(number: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    macro_rules! lanes {
        ($vector:ty, $n:literal, $registers:literal, $zero:ident, $splat:ident, $load:ident, $store:ident, $fma:ident) => {
            impl super::Lanes for $vector {
                const N: usize = $n;
                const REGISTERS: usize = $registers;

                // SAFETY, of all: the caller's.
                #[inline(always)]
                unsafe fn zero() -> Self {
                    unsafe { $zero() }
                }
                #[inline(always)]
                unsafe fn splat(number: f32) -> Self {
                    unsafe { $splat(number) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    unsafe { $store(to, self) }
                }
                #[inline(always)]
                unsafe fn add_product(self, a: Self, b: Self) -> Self {
                    unsafe { $fma(a, b, self) }
                }
            }
        };
    }

    lanes!(
        __m512,
        16,
        32,
        _mm512_setzero_ps,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps
    );
    lanes!(
        __m256,
        8,
        16,
        _mm256_setzero_ps,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps
    );
}

/// Any processor: four lanes, which compilers know how to vectorise. Multiply-adds are fused on architectures where every
/// processor has the instruction.
impl Lanes for [f32; 4] {
    const N: usize = 4;
    const REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; 4]
    }
    #[inline(always)]
    unsafe fn splat(number: f32) -> Self {
        [number; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        std::array::from_fn(|lane| {
            if cfg!(target_arch = "aarch64") {
                a[lane].mul_add(b[lane], self[lane])
            } else {
                self[lane] + a[lane] * b[lane]
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    /// The definition.
    fn plain(a: Matrix, b: Matrix, before: &[f32]) -> Vec<f32> {
        let ((rows, inner), (_, columns)) = (a.shape(), b.shape());
        let at = |m: Matrix, row: usize, column: usize| {
            let (r, c) = m.strides();
            f64::from(m.data[row * r + column * c])
        };
        let number = |i: usize| {
            let (row, column) = (i / columns, i % columns);
            let sum: f64 = (0..inner).map(|k| at(a, row, k) * at(b, k, column)).sum();
            (sum + f64::from(before[i])) as f32
        };
        (0..rows * columns).map(number).collect()
    }

    #[test]
    fn products_of_all_shapes_and_directions_are_the_definition() {
        let shapes = [
            (1, 1, 1),
            (8, 32, 4),
            (13, 45, 7),
            (70, 96, 33),
            (5, 7, STEPS + 9),
            (300, 40, 64),
            (3, 5, 0),
            (1, 1600, 600),
            (9, 700, 300),
            (300, 70, 600),
        ];
        for (rows, columns, inner) in shapes {
            let (a, b) = (numbers(rows * inner, 1), numbers(inner * columns, 2));
            let before = numbers(rows * columns, 3);
            for a in [Matrix::new(&a, rows, inner), Matrix::new(&a, inner, rows).t()] {
                for b in [Matrix::new(&b, inner, columns), Matrix::new(&b, columns, inner).t()] {
                    let mut out = before.clone();
                    matmul(a, b, &mut out, true);
                    let close = |x: &[f32], y: &[f32]| x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-4);
                    assert!(close(&out, &plain(a, b, &before)), "{rows} × {columns} × {inner}");
                    matmul(a, b, &mut out, false);
                    assert!(close(&out, &plain(a, b, &vec![0.0; before.len()])));
                    let through_memory = out.clone();
                    matmul_panels(a, &Panels::of(b), &mut out, false);
                    assert_eq!(out, through_memory, "panels change no bit");
                }
            }
        }
    }

    #[test]
    fn rows_do_not_depend_on_each_other_and_pieces_add_up_to_the_same_bits() {
        let (a, b) = (numbers(19 * 64, 1), numbers(64 * 48, 2));
        let mut whole = vec![0f32; 19 * 48];
        matmul(Matrix::new(&a, 19, 64), Matrix::new(&b, 64, 48), &mut whole, false);
        for row in 0..19 {
            let mut alone = vec![0f32; 48];
            matmul(Matrix::new(&a[row * 64..][..64], 1, 64), Matrix::new(&b, 64, 48), &mut alone, false);
            assert_eq!(alone, whole[row * 48..][..48]);
        }
        let mut pieces = vec![0f32; 64 * 48];
        let mut at_once = pieces.clone();
        let (x, y) = (numbers(40 * 64, 4), numbers(40 * 48, 5));
        matmul(Matrix::new(&x, 40, 64).t(), Matrix::new(&y, 40, 48), &mut at_once, false);
        for (x, y) in x.chunks(10 * 64).zip(y.chunks(10 * 48)) {
            matmul(Matrix::new(x, 10, 64).t(), Matrix::new(y, 10, 48), &mut pieces, true);
        }
        assert_eq!(pieces, at_once);
    }
}
