//! Replay of attacks that worked. The success of each attack has a Beta posterior, which decays slowly since defenders learn;
//! Thompson sampling (Thompson 1933) draws the attacks that may still work.

use rand_distr::{Beta, Distribution};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use store::Seed;

/// Beta(α, β) of the share of responses that an attack breaks; α = β = 1 before anything is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Posterior {
    /// α, which grows with each response that was broken.
    pub alpha: f64,
    /// β, which grows with each response that was not.
    pub beta: f64,
}

impl Posterior {
    /// The posterior of an attack that enters the pool with this success, from 0 to 1.
    pub fn of(success: f64) -> Posterior {
        let success = success.clamp(0.0, 1.0);
        Posterior { alpha: 1.0 + success, beta: 1.0 + (1.0 - success) }
    }

    /// α ← 1 + decay·(α − 1) + successes, and β likewise with failures.
    pub fn observe(self, decay: f64, successes: f64, failures: f64) -> Posterior {
        Posterior {
            alpha: 1.0 + decay * (self.alpha - 1.0) + successes,
            beta: 1.0 + decay * (self.beta - 1.0) + failures,
        }
    }
}

/// The `count` attacks with the largest θ ~ Beta(α, β), or all if there are fewer, the largest first. Each attack has its own
/// stream, so that no draw depends on the others. Attacks with an invalid posterior come last.
pub fn thompson(posteriors: &[Posterior], count: usize, seed: Seed) -> Vec<usize> {
    let theta = |(index, posterior): (usize, &Posterior)| {
        let drawn = Beta::new(posterior.alpha, posterior.beta)
            .map_or(f64::NEG_INFINITY, |beta| beta.sample(&mut seed.stream(format_args!("theta {index}"))));
        (drawn, index)
    };
    let mut drawn: Vec<(f64, usize)> = posteriors.iter().enumerate().map(theta).collect();
    drawn.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    drawn.into_iter().take(count).map(|(_, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_posterior_begins_with_its_success_and_concentrates() {
        assert_eq!(Posterior::of(0.75), Posterior { alpha: 1.75, beta: 1.25 });
        let mut posterior = Posterior::of(1.0);
        for _ in 0..400 {
            posterior = posterior.observe(1.0, 1.0, 3.0);
        }
        let (a, b) = (posterior.alpha, posterior.beta);
        assert!((a / (a + b) - 0.25).abs() < 0.01);
        let deviation = (a * b / ((a + b).powi(2) * (a + b + 1.0))).sqrt();
        assert!(deviation < 0.02, "{deviation}");
    }

    #[test]
    fn decay_forgets() {
        let mut posterior = Posterior { alpha: 101.0, beta: 1.0 };
        for _ in 0..200 {
            posterior = posterior.observe(0.95, 0.0, 0.0);
        }
        assert!((posterior.alpha - 1.0).abs() < 0.01 && posterior.beta == 1.0);
        // In the long run 1 / (1 − decay) rounds are remembered.
        for _ in 0..400 {
            posterior = posterior.observe(0.95, 0.0, 1.0);
        }
        assert!((posterior.beta - 21.0).abs() < 0.01, "{posterior:?}");
    }

    #[test]
    fn what_works_is_drawn_more_often_and_what_is_unknown_still_is() {
        let posteriors =
            [(20.0, 2.0), (2.0, 20.0), (1.0, 1.0)].map(|(alpha, beta)| Posterior { alpha, beta });
        let mut first = [0; 3];
        for round in 0..1000 {
            let drawn = thompson(&posteriors, 2, Seed::from_u64(round));
            assert!(drawn.len() == 2 && drawn[0] != drawn[1]);
            first[drawn[0]] += 1;
        }
        assert!(first[0] > 800 && first[1] == 0 && (50..200).contains(&first[2]), "{first:?}");
        assert_eq!(thompson(&posteriors, 9, Seed::from_u64(1)).len(), 3);
        assert_eq!(thompson(&[], 3, Seed::from_u64(1)), [] as [usize; 0]);
        let broken = [Posterior { alpha: f64::NAN, beta: 0.0 }, Posterior::of(0.0)];
        assert_eq!(thompson(&broken, 1, Seed::from_u64(1)), [1]);
    }
}
