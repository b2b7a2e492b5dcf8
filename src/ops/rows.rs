//! Where the rows of a packed batch begin and end.

/// Where packed rows begin and end.
#[derive(Clone, Debug)]
pub struct Rows {
    /// One more than there are rows; the last is N.
    offsets: Vec<usize>,
}

impl Rows {
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Rows {
        let mut offsets = vec![0];
        let mut end = 0;
        for length in lengths {
            end += length;
            offsets.push(end);
        }
        Rows { offsets }
    }

    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

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

    fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.offsets.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// One piece of `data`, which has `width` numbers a token, for each row.
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
