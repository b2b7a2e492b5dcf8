//! Group Relative Policy Optimization (Shao et al. 2024) as TRL 1.16 computes it: advantages, the clipped loss with its
//! variants, the k3 KL estimate, the exact divergence for metrics and guards, and the training step. Also the step on pairs
//! (DPO and IPO) and the supervised step, whose losses are of the same log-probabilities.

mod advantage;
mod learn;
mod loss;
mod preference;
mod repetition;
mod shards;
mod step;

pub use advantage::{ScaleRewards, advantages, decoupled_advantages};
pub use learn::{PairReport, Reference, StepGuard, StepReport, unguarded};
pub use loss::{GrpoConfig, ImportanceLevel, LossType};
pub use preference::{DpoLoss, Pair, PairLoss, PreferenceConfig, preference_gradients, preference_step};
pub use repetition::repetition;
pub use step::{
    Sample, SupervisedConfig, gradients, grpo_step, guarded_step, supervised_gradients, supervised_step,
};
