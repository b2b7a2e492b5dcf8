//! Splits a batch into pieces whose states stay in the processor's caches, forward and backward. Two lanes of pieces run in
//! parallel and meet once, when gradients are added. Pieces and lanes depend on the batch and the model, never on the number
//! of threads. If there are more threads than lanes, they share the work within operations.

use std::ops::Range;

use candle_core::Result;
use rayon::prelude::*;

use model::Compute;
use ops::Gradients;

/// Approximate number of tokens of a piece.
const PIECE: usize = 512;

/// Bytes of parameters up to which there are two lanes, each with its own gradients. Above, products are large enough to be
/// divided among threads, and there is one lane with larger pieces.
const SMALL: usize = 64 << 20;

/// Rows by lane and piece.
pub struct Lanes {
    lanes: Vec<Vec<Vec<usize>>>,
}

impl Lanes {
    /// Splits rows of these lengths, for parameters of `bytes` bytes. A piece has at most `most` rows. Only the fused kernels
    /// of the CPU gain from pieces: a GPU gets `most` rows at a time.
    pub fn new(compute: &Compute, lengths: &[usize], most: usize, bytes: usize) -> Lanes {
        let (count, piece) = match compute.fused() {
            true if bytes <= SMALL => (2, PIECE),
            true => (1, 4 * PIECE),
            false => (1, usize::MAX),
        };
        let mut lanes = vec![Vec::new(); count];
        let mut tokens = vec![0; count];
        for (row, length) in lengths.iter().enumerate() {
            let lane = (0..count).min_by_key(|&lane| tokens[lane]).unwrap_or(0);
            tokens[lane] += length;
            lanes[lane].push(row);
        }
        let cut = |rows: Vec<usize>| {
            let mut pieces: Vec<Vec<usize>> = Vec::new();
            let mut tokens = 0;
            for row in rows {
                match pieces.last_mut() {
                    Some(rows) if tokens < piece && rows.len() < most => rows.push(row),
                    _ => {
                        tokens = 0;
                        pieces.push(vec![row]);
                    }
                }
                tokens += lengths[row];
            }
            pieces
        };
        Lanes { lanes: lanes.into_iter().map(cut).collect() }
    }

    /// Calls `work` for every piece to add its gradients. Returns their sum and what `work` returned for the pieces.
    pub fn accumulate<R: Send>(
        &self,
        work: impl Fn(&[usize], &mut Gradients) -> Result<R> + Sync,
    ) -> Result<(Gradients, Vec<R>)> {
        let lane = |pieces: &Vec<Vec<usize>>| {
            let mut sum = Gradients::default();
            let results = pieces.iter().map(|rows| work(rows, &mut sum)).collect::<Result<Vec<R>>>()?;
            Ok((sum, results))
        };
        let done = self.lanes.par_iter().map(lane).collect::<Result<Vec<_>>>()?;
        let (mut sum, mut results) = (Gradients::default(), Vec::new());
        for (gradients, of_lane) in done {
            sum.merge(gradients)?;
            results.extend(of_lane);
        }
        Ok((sum, results))
    }
}

/// Splits rows, in order, into ranges of about one piece each.
pub fn pieces(compute: &Compute, lengths: &[usize], most: usize) -> Vec<Range<usize>> {
    let piece = if compute.fused() { PIECE } else { usize::MAX };
    let mut pieces: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (row, length) in lengths.iter().enumerate() {
        match pieces.last_mut() {
            Some(rows) if tokens < piece && rows.len() < most => rows.end = row + 1,
            _ => {
                tokens = 0;
                pieces.push(row..row + 1);
            }
        }
        tokens += length;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_piece_and_lanes_have_about_as_many_tokens() {
        let lengths: Vec<usize> = (0..101).map(|row| 10 + row * 37 % 90).collect();
        let lanes = Lanes::new(&Compute::default(), &lengths, 8, 1000).lanes;
        let mut rows: Vec<usize> = lanes.iter().flatten().flatten().copied().collect();
        rows.sort();
        assert_eq!(rows, (0..101).collect::<Vec<_>>());
        let tokens = |lane: &Vec<Vec<usize>>| lane.iter().flatten().map(|row| lengths[*row]).sum::<usize>();
        assert!(tokens(&lanes[0]).abs_diff(tokens(&lanes[1])) < 100);
        assert!(lanes.iter().flatten().all(|piece| piece.len() <= 8));
        assert_eq!(pieces(&Compute::default(), &[300, 300, 300, 1, 1], 9), [0..2, 2..5]);
        assert_eq!(pieces(&Compute::default(), &[1, 1, 1], 2), [0..2, 2..3]);
    }
}
