//! Diversity of embeddings: mean distance, and the Vendi score.

/// Rotations stop if the entries off the diagonal are this share of the whole.
const CONVERGED: f64 = 1e-13;

/// The most sweeps over all pairs. Jacobi's method converges quadratically: ten are plenty.
const SWEEPS: usize = 50;

/// A vector of length 1 in the same direction; zeros stay zeros.
pub(crate) fn unit(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if length == 0.0 {
        vector.to_vec()
    } else {
        vector.iter().map(|x| (f64::from(*x) / length) as f32).collect()
    }
}

/// 1 − the mean cosine similarity over all pairs of different embeddings; 0 for fewer than two. With unit vectors u: Σ_{i≠j}
/// uᵢ·uⱼ = |Σ uᵢ|² − Σ |uᵢ|², which costs n·d instead of n²·d.
pub fn embedding_diversity(embeddings: &[&[f32]]) -> f64 {
    let n = embeddings.len() as f64;
    if embeddings.len() < 2 {
        return 0.0;
    }
    let mut sum = vec![0f64; embeddings[0].len()];
    let mut own = 0.0;
    for embedding in embeddings {
        for (sum, x) in sum.iter_mut().zip(unit(embedding)) {
            *sum += f64::from(x);
            own += f64::from(x).powi(2);
        }
    }
    1.0 - (sum.iter().map(|x| x * x).sum::<f64>() - own) / (n * (n - 1.0))
}

/// The Vendi score (Friedman and Dieng 2023): exp(−Σ λ·ln λ) over the eigenvalues λ of K/n, where K is the kernel of cosine
/// similarities. It is 1 if all are the same, n if all are orthogonal, 0 for none. UUᵀ/n has the eigenvalues of UᵀU/n, so the
/// smaller of the two is used.
pub fn vendi_score(embeddings: &[&[f32]]) -> f64 {
    let n = embeddings.len();
    let Some(first) = embeddings.first() else { return 0.0 };
    let rows: Vec<Vec<f32>> = embeddings.iter().map(|embedding| unit(embedding)).collect();
    let dot = |pairs: &mut dyn Iterator<Item = (f32, f32)>| {
        pairs.map(|(a, b)| f64::from(a) * f64::from(b)).sum::<f64>() / n as f64
    };
    let kernel = match n <= first.len() {
        true => symmetric(n, |i, j| dot(&mut rows[i].iter().copied().zip(rows[j].iter().copied()))),
        false => symmetric(first.len(), |i, j| dot(&mut rows.iter().map(|row| (row[i], row[j])))),
    };
    let entropy: f64 =
        eigenvalues(kernel).into_iter().filter(|value| *value > 0.0).map(|value| -value * value.ln()).sum();
    entropy.exp()
}

fn symmetric(size: usize, entry: impl Fn(usize, usize) -> f64 + Sync) -> Vec<Vec<f64>> {
    use rayon::prelude::*;
    let lower: Vec<Vec<f64>> =
        (0..size).into_par_iter().map(|i| (0..=i).map(|j| entry(i, j)).collect()).collect();
    (0..size).map(|i| (0..size).map(|j| lower[i.max(j)][i.min(j)]).collect()).collect()
}

/// The eigenvalues of a symmetric matrix, in no order, by cyclic Jacobi rotations (Golub and Van Loan, 8.5): each rotation makes
/// one pair of entries off the diagonal zero.
fn eigenvalues(mut matrix: Vec<Vec<f64>>) -> Vec<f64> {
    let size = matrix.len();
    let squares = |matrix: &[Vec<f64>], off: bool| {
        let of_row = |(i, row): (usize, &Vec<f64>)| {
            row.iter().enumerate().filter(|(j, _)| !off || i != *j).map(|(_, x)| x * x).sum::<f64>()
        };
        matrix.iter().enumerate().map(of_row).sum::<f64>()
    };
    let enough = CONVERGED.powi(2) * squares(&matrix, false);
    for _ in 0..SWEEPS {
        if squares(&matrix, true) <= enough {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                rotate(&mut matrix, p, q);
            }
        }
    }
    (0..size).map(|i| matrix[i][i]).collect()
}

/// Rotates rows and columns p and q so that their common entry becomes zero.
fn rotate(matrix: &mut [Vec<f64>], p: usize, q: usize) {
    if matrix[p][q] == 0.0 {
        return;
    }
    let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
    let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    for row in matrix.iter_mut() {
        (row[p], row[q]) = (cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]);
    }
    let (before, from_q) = matrix.split_at_mut(q);
    for (a, b) in before[p].iter_mut().zip(from_q[0].iter_mut()) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6, "{a} instead of {b}");
    }

    #[test]
    fn diversity_is_one_minus_the_mean_cosine_of_pairs() {
        let [a, b, c] = [[1.0f32, 0.0], [0.0, 2.0], [3.0, 3.0]];
        // The pairs have cosines 0, 1/√2 and 1/√2.
        close(embedding_diversity(&[&a, &b, &c]), 1.0 - 2f64.sqrt() / 3.0);
        close(embedding_diversity(&[&a, &a]), 0.0);
        close(embedding_diversity(&[&a, &[-1.0, 0.0]]), 2.0);
        assert_eq!((embedding_diversity(&[&a]), embedding_diversity(&[])), (0.0, 0.0));
    }

    #[test]
    fn the_vendi_score_counts_how_many_there_are_in_effect() {
        let axis = |i: usize| (0..8).map(|j| f32::from(u8::from(i == j))).collect::<Vec<f32>>();
        let axes: Vec<Vec<f32>> = (0..8).map(axis).collect();
        let of = |chosen: &[usize]| {
            let rows: Vec<&[f32]> = chosen.iter().map(|&i| axes[i].as_slice()).collect();
            vendi_score(&rows)
        };
        close(of(&[0, 1, 2, 3]), 4.0);
        close(of(&[2, 2, 2]), 1.0);
        // Shares 1/2, 1/4, 1/4: exp(1.5 ln 2). And more rows than columns: ten of each of eight.
        close(of(&[0, 0, 1, 2]), 2f64.powf(1.5));
        close(of(&(0..80).map(|i| i % 8).collect::<Vec<_>>()), 8.0);
        assert_eq!(vendi_score(&[]), 0.0);
        // Cosine c between two: eigenvalues (1 ± c) / 2.
        let entropy = |c: f64| -[1.0 + c, 1.0 - c].map(|x| x / 2.0 * (x / 2.0).ln()).iter().sum::<f64>();
        close(vendi_score(&[&[1.0, 0.0], &[1.0, 1.0]]), entropy(0.5f64.sqrt()).exp());
    }

    #[test]
    fn both_kernels_have_the_same_score() {
        let value = |i: usize, j: usize| ((i * 7 + j * 3) as f32 * 0.7).sin();
        let rows: Vec<Vec<f32>> = (0..24).map(|i| (0..23).map(|j| value(i, j)).collect()).collect();
        let padded: Vec<Vec<f32>> = rows.iter().map(|row| [&row[..], &[0.0; 9]].concat()).collect();
        let views = |rows: &[Vec<f32>]| vendi_score(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
        close(views(&rows), views(&padded));
    }
}
