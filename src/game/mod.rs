//! The game of three roles: what they are rewarded for, how diversity is measured, how experts vote, and
//! the sandbox world with its oracle. Pure functions; loads no model and reads no dataset.

mod answer;
mod class;
mod diversity;
mod expand;
mod experts;
mod labels;
mod oracle;
mod pool;
mod prompt;
mod reward;
mod role;
mod vote;
mod world;

pub use answer::Answer;
pub use class::{Class, label};
pub use diversity::{BleuReferences, cosine, distinct_n, self_bleu};
pub use expand::{SeedSpec, Split, Task, WarmupRow, WrappedPrompt};
pub use experts::Votes;
pub use labels::{Labels, Reader};
pub use oracle::Oracle;
pub use pool::{Eviction, PoolSimilarity, evict};
pub use prompt::{Prompt, PromptError, Question, Turn};
pub use reward::{
    AttackOutcome, AttackerComponents, AttackerReward, DefenderReward, evaluator_reward, keeps_words,
};
pub use role::{Role, SPECIAL_TOKENS};
pub use vote::{Tally, vote};
pub use world::{World, WorldError};
