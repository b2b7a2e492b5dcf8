//! Splits a batch into shards of micro-batches. Sequences with one prompt stay together, since it is computed once for all of them in
//! a micro-batch. The states of a micro-batch stay in the processor's caches, forward and backward.
//! Two shards run in parallel and meet once, when gradients are added. Shards and micro-batches depend on the batch and the model,
//! never on the number of threads. If there are more threads than shards, they share the work within operations.

use candle_core::Result;
use rayon::prelude::*;

use super::learn::Sequence;
use model::{Compute, by_prompt};
use ops::Gradients;

/// Approximate number of tokens of a micro-batch.
const TOKENS_PER_MICRO_BATCH: usize = 512;

/// Bytes of gradients up to which there are two shards, each with its own. Above, products are large enough to be divided among
/// threads, and there is one shard with larger micro-batches.
const MAX_BYTES_FOR_TWO_SHARDS: usize = 64 << 20;

/// Units of sequences by shard and micro-batch.
pub(crate) struct Shards {
    shards: Vec<Vec<Vec<usize>>>,
}

impl Shards {
    /// Splits sequences, for gradients of so many bytes, or 0 if they are only scored. `unit_size` consecutive sequences of one prompt form a unit, and units
    /// with the same prompt stay together as far as shards and micro-batches have room. A micro-batch has at most `most` units.
    /// Only the fused kernels of the CPU gain from small ones: a GPU gets `most` units at a time.
    pub(crate) fn new(
        compute: &Compute,
        sequences: &[Sequence],
        unit_size: usize,
        most: usize,
        gradient_bytes: usize,
    ) -> Shards {
        let (count, budget) = match compute.fused() {
            true if gradient_bytes <= MAX_BYTES_FOR_TWO_SHARDS => (2, TOKENS_PER_MICRO_BATCH),
            true => (1, 4 * TOKENS_PER_MICRO_BATCH),
            false => (1, usize::MAX),
        };
        let units: Vec<&[Sequence]> = sequences.chunks(unit_size).collect();
        // What is computed for units of one prompt.
        let tokens = |of: &[usize]| {
            let own = of.iter().flat_map(|&unit| units[unit]).map(|(_, completion)| completion.len());
            of.first().map_or(0, |&unit| units[unit][0].0.len()) + own.sum::<usize>()
        };
        let groups = by_prompt(units.iter().map(|unit| unit[0].0));
        let share = groups.iter().map(|group| tokens(group)).sum::<usize>().div_ceil(count);
        let mut shards = vec![Vec::new(); count];
        let mut of_shards = vec![0; count];
        for group in &groups {
            // A group that is far larger than a micro-batch or a shard is cut, and its prompt computed in each piece.
            let room = budget.min(share).max(1);
            let pieces = ((tokens(group) + room / 2) / room).max(1);
            for piece in group.chunks(group.len().div_ceil(pieces).min(most.max(1))) {
                let shard = (0..count).min_by_key(|&shard| of_shards[shard]).unwrap_or(0);
                of_shards[shard] += tokens(piece);
                shards[shard].push(piece);
            }
        }
        let cut = |pieces: Vec<&[usize]>| {
            let mut micro_batches: Vec<Vec<usize>> = Vec::new();
            let mut of_micro_batch = 0;
            for piece in pieces {
                match micro_batches.last_mut() {
                    Some(units) if of_micro_batch < budget && units.len() + piece.len() <= most => {
                        units.extend_from_slice(piece);
                    }
                    _ => {
                        of_micro_batch = 0;
                        micro_batches.push(piece.to_vec());
                    }
                }
                of_micro_batch += tokens(piece);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The units of each micro-batch, by shard.
    fn shards(sequences: &[(Vec<u32>, Vec<u32>)], unit_size: usize, most: usize) -> Vec<Vec<Vec<usize>>> {
        let sequences: Vec<Sequence> =
            sequences.iter().map(|(prompt, completion)| (&prompt[..], &completion[..])).collect();
        Shards::new(&Compute::default(), &sequences, unit_size, most, 1000).shards
    }

    #[test]
    fn every_row_is_in_one_micro_batch_and_shards_have_about_as_many_tokens() {
        let length = |row: usize| 10 + row * 37 % 90;
        let sequences: Vec<_> = (0..101).map(|row| (vec![row as u32], vec![0; length(row) - 1])).collect();
        let shards = shards(&sequences, 1, 8);
        let mut rows: Vec<usize> = shards.iter().flatten().flatten().copied().collect();
        rows.sort();
        assert_eq!(rows, (0..101).collect::<Vec<_>>());
        let tokens = |shard: &Vec<Vec<usize>>| shard.iter().flatten().map(|row| length(*row)).sum::<usize>();
        assert!(tokens(&shards[0]).abs_diff(tokens(&shards[1])) < 100);
        assert!(shards.iter().flatten().all(|micro_batch| micro_batch.len() <= 8));
    }

    #[test]
    fn completions_of_one_prompt_stay_together_while_there_is_room() {
        // Four prompts of 200 tokens, whose completions of 48 come in turns.
        let sequences: Vec<_> = (0..16).map(|row| (vec![row % 4; 200], vec![7; 48])).collect();
        let expected = [[vec![0, 4, 8, 12, 2, 6, 10, 14]], [vec![1, 5, 9, 13, 3, 7, 11, 15]]];
        assert_eq!(shards(&sequences, 1, 256), expected);
        assert_eq!(shards(&sequences, 1, 2)[0][..2], [[0, 4], [1, 5]]);
        // Units of two, as pairs are.
        let pairs: Vec<_> = (0..16).map(|row| (vec![row / 2 % 2; 200], vec![7; 48])).collect();
        assert_eq!(shards(&pairs, 2, 256), [[vec![0, 2, 4, 6]], [vec![1, 3, 5, 7]]]);
        // A prompt that all have in common is computed once in each shard.
        let one: Vec<_> = (0..6).map(|_| (vec![1; 30], vec![7; 20])).collect();
        assert_eq!(shards(&one, 1, 256), [[vec![0, 1, 2]], [vec![3, 4, 5]]]);
    }
}
