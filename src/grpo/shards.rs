//! Splits a batch into shards of micro-batches. The states of a micro-batch stay in the processor's caches, forward and backward.
//! Two shards run in parallel and meet once, when gradients are added. Shards and micro-batches depend on the batch and the model,
//! never on the number of threads. If there are more threads than shards, they share the work within operations.

use std::ops::Range;

use candle_core::Result;
use rayon::prelude::*;

use model::Compute;
use ops::Gradients;

/// Approximate number of tokens of a micro-batch.
const TOKENS_PER_MICRO_BATCH: usize = 512;

/// Bytes of parameters up to which there are two shards, each with its own gradients. Above, products are large enough to be
/// divided among threads, and there is one shard with larger micro-batches.
const MAX_BYTES_FOR_TWO_SHARDS: usize = 64 << 20;

/// Rows by shard and micro-batch.
pub(crate) struct Shards {
    shards: Vec<Vec<Vec<usize>>>,
}

impl Shards {
    /// Splits rows of these lengths, for parameters of `bytes` bytes. A micro-batch has at most `most` rows. Only the fused
    /// kernels of the CPU gain from small ones: a GPU gets `most` rows at a time.
    pub(crate) fn new(compute: &Compute, lengths: &[usize], most: usize, bytes: usize) -> Shards {
        let (count, budget) = match compute.fused() {
            true if bytes <= MAX_BYTES_FOR_TWO_SHARDS => (2, TOKENS_PER_MICRO_BATCH),
            true => (1, 4 * TOKENS_PER_MICRO_BATCH),
            false => (1, usize::MAX),
        };
        let mut shards = vec![Vec::new(); count];
        let mut tokens = vec![0; count];
        for (row, length) in lengths.iter().enumerate() {
            let shard = (0..count).min_by_key(|&shard| tokens[shard]).unwrap_or(0);
            tokens[shard] += length;
            shards[shard].push(row);
        }
        let cut = |rows: Vec<usize>| {
            let mut micro_batches: Vec<Vec<usize>> = Vec::new();
            let mut tokens = 0;
            for row in rows {
                match micro_batches.last_mut() {
                    Some(rows) if tokens < budget && rows.len() < most => rows.push(row),
                    _ => {
                        tokens = 0;
                        micro_batches.push(vec![row]);
                    }
                }
                tokens += lengths[row];
            }
            micro_batches
        };
        Shards { shards: shards.into_iter().map(cut).collect() }
    }

    /// Calls `work` for every micro-batch to add its gradients. Returns their sum and what `work` returned for each.
    pub(crate) fn accumulate<R: Send>(
        &self,
        work: impl Fn(&[usize], &mut Gradients) -> Result<R> + Sync,
    ) -> Result<(Gradients, Vec<R>)> {
        let shard = |micro_batches: &Vec<Vec<usize>>| {
            let mut sum = Gradients::default();
            let results =
                micro_batches.iter().map(|rows| work(rows, &mut sum)).collect::<Result<Vec<R>>>()?;
            Ok((sum, results))
        };
        let done = self.shards.par_iter().map(shard).collect::<Result<Vec<_>>>()?;
        let (mut sum, mut results) = (Gradients::default(), Vec::new());
        for (gradients, of_shard) in done {
            sum.merge(gradients)?;
            results.extend(of_shard);
        }
        Ok((sum, results))
    }
}

/// Splits rows, in order, into ranges of about one micro-batch each.
pub(crate) fn micro_batches(compute: &Compute, lengths: &[usize], most: usize) -> Vec<Range<usize>> {
    let budget = if compute.fused() { TOKENS_PER_MICRO_BATCH } else { usize::MAX };
    let mut micro_batches: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (row, length) in lengths.iter().enumerate() {
        match micro_batches.last_mut() {
            Some(rows) if tokens < budget && rows.len() < most => rows.end = row + 1,
            _ => {
                tokens = 0;
                micro_batches.push(row..row + 1);
            }
        }
        tokens += length;
    }
    micro_batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_micro_batch_and_shards_have_about_as_many_tokens() {
        let lengths: Vec<usize> = (0..101).map(|row| 10 + row * 37 % 90).collect();
        let shards = Shards::new(&Compute::default(), &lengths, 8, 1000).shards;
        let mut rows: Vec<usize> = shards.iter().flatten().flatten().copied().collect();
        rows.sort();
        assert_eq!(rows, (0..101).collect::<Vec<_>>());
        let tokens = |shard: &Vec<Vec<usize>>| shard.iter().flatten().map(|row| lengths[*row]).sum::<usize>();
        assert!(tokens(&shards[0]).abs_diff(tokens(&shards[1])) < 100);
        assert!(shards.iter().flatten().all(|micro_batch| micro_batch.len() <= 8));
        assert_eq!(micro_batches(&Compute::default(), &[300, 300, 300, 1, 1], 9), [0..2, 2..5]);
        assert_eq!(micro_batches(&Compute::default(), &[1, 1, 1], 2), [0..2, 2..3]);
    }
}
