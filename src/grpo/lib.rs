//! Group Relative Policy Optimization (Shao et al. 2024) as TRL 1.16 computes it: advantages, the clipped
//! loss with its variants, the k3 KL estimate, the exact divergence that metrics and guards have, and the training
//! step. Also the supervised step, whose loss is the same log-probabilities.

mod advantage;
mod lanes;
mod loss;
mod repetition;
mod step;

pub use advantage::{ScaleRewards, advantages, decoupled_advantages};
pub use loss::{GrpoConfig, ImportanceLevel, LossType};
pub use repetition::repetition;
pub use step::{
    Reference, Sample, StepReport, SupervisedConfig, gradients, grpo_step, guarded_step,
    supervised_gradients, supervised_step,
};
