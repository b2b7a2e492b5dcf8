//! The game of three roles: how their answers are read, how diversity is measured, how experts vote, and the sandbox's world with
//! its oracle. Pure functions: loads no model and reads no dataset.

mod answer;
mod class;
mod conversation;
mod coverage;
mod diversity;
mod expand;
mod experts;
mod labels;
mod meaning;
mod oracle;
mod pool;
mod prompt;
mod rates;
mod replay;
mod role;
mod seed_prompt;
mod vote;
mod warmup;
mod world;
mod wrap;

pub use answer::{Answer, has_no_text, is_right};
pub use class::{Class, label};
pub use coverage::{Frames, cell_counts, frame, most_similar, novelty_bonus};
pub use diversity::{
    BleuReferences, cell_coverage, cell_entropy, distinct_n, embedding_diversity, self_bleu, vendi_score,
};
pub use experts::Votes;
pub use labels::{Choice, Labels, Reader};
pub use meaning::Meaning;
pub use oracle::Oracle;
pub use pool::{Eviction, PoolSimilarity, WidthError, evict};
pub use prompt::{COMPARISON, Prompt, PromptError, Question, Turn};
pub use rates::{
    LabelPair, Outcome, Rate, Rates, UNDETERMINED, after_turns, cohens_kappa, kappa_of_table,
    succeeded_within, undetermined,
};
pub use replay::{Posterior, thompson};
pub use role::{Role, SPECIAL_TOKENS};
pub use seed_prompt::{SeedSpec, Split, Task};
pub use vote::{Tally, vote};
pub use warmup::WarmupRow;
pub use world::{Conversations, World, WorldError};
pub use wrap::WrappedPrompt;
