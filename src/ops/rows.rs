//! Where the rows of a packed batch begin and end.

/// Where packed rows begin and end.
#[derive(Clone, Debug)]
pub struct Rows {
    /// One more than there are rows; the last is N.
    offsets: Vec<usize>,
}

impl Rows {
    /// Rows of these lengths, one after the other.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Rows {
        let mut offsets = vec![0];
        let mut end = 0;
        for length in lengths {
            end += length;
            offsets.push(end);
        }
        Rows { offsets }
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
    pub fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.offsets[row]..self.offsets[row + 1]
    }

    /// Tokens of the longest row.
    pub fn longest(&self) -> usize {
        self.lengths().max().unwrap_or(0)
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
    /// The runs as one range of positions per row.
    pub fn new(ranges: impl IntoIterator<Item = std::ops::Range<usize>>) -> Spans {
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
