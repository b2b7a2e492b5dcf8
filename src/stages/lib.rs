//! The stage kinds, one file each; larger kinds, and the code that asks models (`asking`), have a folder. A stage decodes its
//! parameters, calls the layers below and declares its outputs; algorithms live in `game`, `grpo` and `rollout`. A new kind is a
//! file here and a line in [`registry`].

mod artifact;
mod asking;
mod collect;
mod cross_play;
mod empty;
mod evaluate;
mod generate;
mod judge;
mod meaning;
mod measure;
mod pool;
mod prefer;
mod replay;
mod respond;
mod reward;
mod rollouts;
mod rows;
mod sandbox;
mod sft;
mod site;
mod tokenizer;
mod trainer;
mod trial;
mod turns;
mod until;
mod update;
mod vote;

pub use endpoint::unload_adapters;

use engine::Registry;
use model::Compute;

/// All stage kinds that a pipeline can name.
pub fn registry() -> Registry {
    let numerics =
        |device: &str, dtype: &str| Compute::parse(device, dtype).map(|compute| compute.to_string());
    Registry::default()
        .with_numerics(numerics)
        .with_endpoints(asking::check_endpoint)
        .with_trainers::<trainer::TrainedBy, _>(trainer::check_torch)
        .with::<sandbox::Sandbox>()
        .with::<tokenizer::Tokenizer>()
        .with::<sft::Sft>()
        .with::<generate::Generate>()
        .with::<respond::Respond>()
        .with::<judge::Judge>()
        .with::<meaning::Meaning>()
        .with::<vote::Vote>()
        .with::<collect::Collect>()
        .with::<reward::Reward>()
        .with::<prefer::Prefer>()
        .with::<pool::Pool>()
        .with::<replay::Replay>()
        .with::<empty::Empty>()
        .with::<update::Update>()
        .with::<evaluate::Evaluate>()
        .with::<measure::Measure>()
        .with::<cross_play::CrossPlay>()
        .with::<exec::Exec>()
        .with_until::<until::Until>()
}
