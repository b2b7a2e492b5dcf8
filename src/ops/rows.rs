//! Where the rows of a packed batch begin and end, and which of them continue another.

use std::ops::Range;

/// Where packed rows begin and end. A row may have a prefix: an earlier row that it continues. Its tokens see those of the prefix
/// and have the positions after them, so what several rows begin with is computed once.
#[derive(Clone, Debug)]
pub struct Rows {
    /// One more than there are rows; the last is N.
    offsets: Vec<usize>,
    /// The row that each row continues.
    prefixes: Vec<Option<usize>>,
}

impl Rows {
    /// Rows of these lengths, one after the other.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Rows {
        let mut rows = Rows { offsets: vec![0], prefixes: Vec::new() };
        lengths.into_iter().for_each(|length| rows.push(length, None));
        rows
    }

    /// Families of rows: each a prefix and the rows that continue it, given by their lengths.
    pub fn of_families<R: IntoIterator<Item = usize>>(
        families: impl IntoIterator<Item = (usize, R)>,
    ) -> Rows {
        let mut rows = Rows::new([]);
        for (prefix, lengths) in families {
            let row = rows.len();
            rows.push(prefix, None);
            lengths.into_iter().for_each(|length| rows.push(length, Some(row)));
        }
        rows
    }

    fn push(&mut self, length: usize, prefix: Option<usize>) {
        self.offsets.push(self.tokens() + length);
        self.prefixes.push(prefix);
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// N, the tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.offsets[self.len()]
    }

    /// The tokens of one row, as a range of 0..N.
    pub fn range(&self, row: usize) -> Range<usize> {
        self.offsets[row]..self.offsets[row + 1]
    }

    /// The tokens of the row's prefix; empty if it has none.
    pub(super) fn prefix(&self, row: usize) -> Range<usize> {
        self.prefixes[row].map_or(0..0, |prefix| self.range(prefix))
    }

    /// The position of the row's first token.
    pub(super) fn first(&self, row: usize) -> usize {
        self.prefix(row).len()
    }

    /// Positions of the row that reaches furthest.
    pub fn longest(&self) -> usize {
        (0..self.len()).map(|row| self.first(row) + self.range(row).len()).max().unwrap_or(0)
    }

    /// Each row without a prefix, together with the rows that continue it.
    pub(super) fn families(&self) -> Vec<Range<usize>> {
        let mut families: Vec<Range<usize>> = Vec::new();
        for (row, prefix) in self.prefixes.iter().enumerate() {
            match families.last_mut() {
                Some(family) if prefix.is_some() => family.end = row + 1,
                _ => families.push(row..row + 1),
            }
        }
        families
    }

    /// The same tokens, in one row for each of these ranges of rows.
    pub(super) fn joined(&self, ranges: &[Range<usize>]) -> Rows {
        Rows::new(ranges.iter().map(|rows| self.offsets[rows.end] - self.offsets[rows.start]))
    }

    pub(super) fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.offsets.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// Splits `data`, which has `width` numbers per token, by row.
    pub(super) fn split<'a>(&self, data: &'a [f32], width: usize) -> Vec<&'a [f32]> {
        (0..self.len()).map(|row| &data[self.offsets[row] * width..self.offsets[row + 1] * width]).collect()
    }

    pub(super) fn split_mut<'a>(&self, mut data: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let mut pieces = Vec::with_capacity(self.len());
        for length in self.lengths() {
            let (piece, rest) = data.split_at_mut(length * width);
            pieces.push(piece);
            data = rest;
        }
        pieces
    }
}

/// A run of tokens within each packed row: those whose results are needed.
#[derive(Clone, Debug)]
pub struct Spans {
    /// Where each run begins in its row.
    firsts: Vec<usize>,
    /// The runs, packed.
    rows: Rows,
}

impl Spans {
    /// The runs as one range per row, counted from the row's first token.
    pub fn new(ranges: impl IntoIterator<Item = Range<usize>>) -> Spans {
        let ranges: Vec<_> = ranges.into_iter().collect();
        let rows = Rows::new(ranges.iter().map(|range| range.len()));
        Spans { firsts: ranges.into_iter().map(|range| range.start).collect(), rows }
    }

    /// All tokens.
    pub fn whole(rows: &Rows) -> Spans {
        Spans { firsts: vec![0; rows.len()], rows: rows.clone() }
    }

    /// The runs as packed rows of their own.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    pub(super) fn firsts(&self) -> &[usize] {
        &self.firsts
    }

    /// The indices of the runs' tokens among all tokens of `rows`.
    pub fn indices(&self, rows: &Rows) -> Vec<u32> {
        let run = |row: usize| {
            let first = rows.range(row).start + self.firsts[row];
            first as u32..(first + self.rows.range(row).len()) as u32
        };
        (0..self.rows.len()).flat_map(run).collect()
    }

    pub(super) fn fit(&self, rows: &Rows) -> bool {
        let ends = self.firsts.iter().zip(self.rows.lengths()).map(|(first, length)| first + length);
        self.rows.len() == rows.len() && ends.zip(rows.lengths()).all(|(end, length)| end <= length)
    }
}
