//! Learning-rate schedules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate changes: a linear warm-up, then constant, linear or cosine decay to a floor.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Steps over which the rate rises linearly to its full value.
    pub warmup: usize,
    /// How the rate falls after the warm-up.
    pub decay: Decay,
    /// The rate at which decay ends, as a share of the full rate.
    pub floor: f64,
}

/// How the learning rate falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Not at all.
    #[default]
    Constant,
    /// Linearly to the floor at the last step.
    Linear,
    /// Along half a cosine to the floor at the last step.
    Cosine,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule { warmup: 0, decay: Decay::Constant, floor: 0.0 }
    }
}

impl Schedule {
    /// The share of the full rate at `step` (from 0) of `steps`.
    pub fn factor(&self, step: usize, steps: usize) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let progress = (step - self.warmup) as f64 / (steps.saturating_sub(self.warmup)).max(1) as f64;
        let left = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - progress,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        };
        self.floor + (1.0 - self.floor) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls_to_the_floor() {
        let schedule = Schedule { warmup: 10, decay: Decay::Cosine, floor: 0.1 };
        assert_eq!(schedule.factor(0, 110), 0.1);
        assert_eq!(schedule.factor(10, 110), 1.0);
        assert!((schedule.factor(60, 110) - 0.55).abs() < 1e-12);
        assert!(schedule.factor(109, 110) < 0.101);
        assert_eq!(Schedule::default().factor(7, 10), 1.0);
        let linear = Schedule { decay: Decay::Linear, ..Schedule::default() };
        assert_eq!(linear.factor(5, 10), 0.5);
    }
}
