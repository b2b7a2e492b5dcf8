//! The types of artifacts that pass between stages, and how stages read and write them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use candle_core::DType;

use data::{self, AttackRow, Origin, PoolRow, Position, Row, Sample, SeedRow, Sparse};
use engine::{Artifact, ArtifactType, Context, Input};
use game::{self, PoolSimilarity};
use model::{Checkpoint, Compute, Params};
use store::read::{self, MAX_TEXT_BYTES};
use store::{Digest, Seed};

macro_rules! artifact_types {
    ($($(#[$doc:meta])* $name:ident: $($accepts:literal)|+ $(of $files:expr)? $(, served $served:literal)?;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;
        impl ArtifactType for $name {
            const ACCEPTS: &'static [&'static str] = &[$($accepts),+];
            $(const FILES: &'static [&'static str] = $files;)?
            $(const SERVED: bool = $served;)?
        }
    )*};
}

artifact_types! {
    /// A Hugging Face folder, with the optimizer's state beside the model after training; a GGUF file or a sentence encoder where
    /// these suffice.
    Model: "model" of model::FILES;
    /// A model to be asked: like [`Model`], or one behind a server.
    AskedModel: "model" of model::FILES, served true;
    /// A folder with tokenizer.json.
    Vocabulary: "tokenizer" of model::TOKENIZER_FILES;
    Texts: "texts";
    Seeds: "seeds";
    SftRows: "sft";
    Attacks: "attacks";
    /// Prompts for a defender.
    Prompts: "attacks" | "seeds";
    Responses: "responses";
    /// Pairs of attack and response to judge.
    Pairs: "pairs";
    /// Any dataset with an attack and a response in each row.
    Judgeable: "responses" | "labels";
    Verdicts: "verdicts";
    /// Verdicts on whether attacks keep the meaning of their seed prompts.
    Meanings: "meanings";
    Labels: "labels";
    /// Completions that can be rewarded.
    Completions: "attacks" | "responses" | "verdicts";
    /// Scores that another program gave to completions.
    ScoreFile: "scores";
    Rewards: "rewards";
    /// Completions, several of which may answer one prompt.
    Comparable: "attacks" | "responses";
    /// Datasets that a model learns from.
    TrainingData: "rewards" | "preferences";
    SuccessPool: "pool";
    Metrics: "metrics";
    /// The sandbox's world, whose grammar is the oracle.
    World: "world";
}

/// The rows of a dataset, kept in memory for the nodes that read them next.
pub(crate) fn rows<R: Row + Send + Sync + 'static, T>(
    context: &Context,
    input: &Input<T>,
) -> anyhow::Result<Arc<Vec<R>>> {
    context.load(context.input(input)?, |path| {
        let rows = data::read::<R>(path)?;
        let bytes = std::fs::metadata(path)?.len() as usize * 4;
        Ok((rows, bytes))
    })
}

/// Seed prompts. Each must have its own id, by which other datasets refer to it.
pub(crate) fn seeds<T>(context: &Context, input: &Input<T>) -> anyhow::Result<Arc<Vec<SeedRow>>> {
    context.load(context.input(input)?, |path| {
        let rows = data::read::<SeedRow>(path)?;
        let mut known: HashMap<&str, usize> = HashMap::new();
        for (row, seed) in rows.iter().enumerate() {
            let id = seed.seed_id.as_str();
            let remedy = "`triplay data import` makes missing ids and finds duplicates";
            anyhow::ensure!(!id.is_empty(), "{}: row {row} must have a `seed_id`, found none: {remedy}", path.display());
            if let Some(first) = known.insert(id, row) {
                anyhow::bail!(
                    "{}: each row must have its own `seed_id`, found `{id}` in rows {first} and {row}: {remedy}",
                    path.display()
                );
            }
        }
        let bytes = std::fs::metadata(path)?.len() as usize * 4;
        Ok((rows, bytes))
    })
}

/// The pool of successful attacks, counted and ready for comparisons. The stage `pool` keeps one in memory that only grew.
pub(crate) fn pool(context: &Context, input: &Input<SuccessPool>) -> anyhow::Result<Arc<PoolSimilarity>> {
    let rows = rows::<PoolRow, _>(context, input)?;
    context.load(context.input(input)?, |path| {
        let mut pool = PoolSimilarity::new();
        rows.iter()
            .try_for_each(|row| pool.add(&row.text, &row.embedding))
            .with_context(|| path.display().to_string())?;
        let bytes = pool.bytes();
        Ok((pool, bytes))
    })
}

/// The model in a folder. Adapters of one base share its weights in memory.
pub(crate) fn model<T>(context: &Context, input: &Input<T>) -> anyhow::Result<Arc<Checkpoint>> {
    let compute = compute(context)?;
    context.load(context.input(input)?, |path| {
        let has_adapter = model::is_there(&path.join("adapter_config.json"))?;
        anyhow::ensure!(
            !has_adapter || model::is_there(&path.join("config.json"))?,
            "{}: an adapter must be in a folder with its base, found the adapter alone: add config.json, \
             model.safetensors and tokenizer.json of the base, so that the results depend on nothing else",
            path.display()
        );
        let checkpoint = match has_adapter {
            true => {
                let base = base(context, path, &compute)?;
                let config = Checkpoint::config(path)?;
                Checkpoint::with_base(path, path, config, Params::clone(&base), &compute)?
            }
            false => Checkpoint::load(path, &compute)?,
        };
        let bytes = checkpoint.bytes();
        Ok((checkpoint, bytes))
    })
}

/// The digest of a folder's model without its adapter.
pub(crate) fn base_digest(context: &Context, folder: &Path) -> anyhow::Result<Digest> {
    let mut digests = String::new();
    for path in Checkpoint::base_files(folder)? {
        digests += &context.digest_of_file(&path)?.to_string();
    }
    Ok(Digest::of_bytes(digests.as_bytes()))
}

/// The weights of a folder, identified by their content.
fn base(context: &Context, folder: &Path, compute: &Compute) -> anyhow::Result<Arc<Params>> {
    let artifact = Artifact { digest: base_digest(context, folder)?, path: folder.to_owned() };
    context.load(&artifact, |path| {
        let params = Params::load(path, &Checkpoint::config(path)?, compute)?;
        let bytes = params.bytes();
        Ok((params, bytes))
    })
}

/// Writes a trained model and keeps it in memory.
pub(crate) fn publish(
    context: &mut Context,
    output: &'static str,
    trained: Checkpoint,
    from: Option<&Input<Model>>,
) -> anyhow::Result<()> {
    publish_at(context, &context.output(output), &trained, from)?;
    // Files have f32. A model in f64 is read back, so that a run that was interrupted continues with the same bits. So is one that
    // was trained elsewhere, without the weights of its base.
    if trained.compute.dtype != DType::F64 && trained.params.bytes() > 0 {
        let bytes = trained.bytes();
        context.remember(output, trained, bytes);
    }
    Ok(())
}

/// Writes a trained model to a new folder: all of it, or its adapter with the files of the base beside it.
pub(crate) fn publish_at(
    context: &Context,
    folder: &Path,
    trained: &Checkpoint,
    from: Option<&Input<Model>>,
) -> anyhow::Result<()> {
    match (&trained.adapter, from) {
        (Some(_), Some(from)) => {
            let artifact = context.input(from)?;
            trained.save_adapter(folder, &artifact.path, context.is_blob(from))?;
        }
        _ => trained.save(folder)?,
    }
    Ok(())
}

/// Hands a model's folder on unchanged, with the optimizer's state: as hard links if it is in the store.
pub(crate) fn publish_unchanged(context: &Context, output: &str, from: &Input<Model>) -> anyhow::Result<()> {
    let (artifact, folder) = (context.input(from)?, context.output(output));
    let path = &artifact.path;
    anyhow::ensure!(path.is_dir(), "{}: a model to train must be a folder", path.display());
    std::fs::create_dir(&folder)?;
    for entry in std::fs::read_dir(path)? {
        let (file, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let to = folder.join(&name);
        let linked = context.is_blob(from) && std::fs::hard_link(&file, &to).is_ok();
        // Files that do not count as content, and folders within, are not handed on.
        let counts = context.is_blob(from) || store::is_among(Model::FILES, &name.to_string_lossy());
        if !linked && counts && file.is_file() {
            std::fs::copy(&file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    Ok(())
}

/// The device and number type of the pipeline.
pub(crate) fn compute(context: &Context) -> anyhow::Result<Compute> {
    let numerics = context.numerics();
    Compute::parse(&numerics.device, &numerics.dtype).map_err(anyhow::Error::msg)
}

/// The position of a node in its loops, as the columns that every row has.
pub(crate) fn position(context: &Context) -> Position {
    let round = |depth: usize| context.position().get(depth).copied().unwrap_or(0);
    Position { iteration: round(0), step: round(1), rng_seed: context.seed().to_hex()[..16].to_owned() }
}

/// `count` draws from `0..available` without replacement; starts over when all are drawn.
pub(crate) fn draw(available: usize, count: usize, seed: Seed) -> Vec<usize> {
    use rand::seq::SliceRandom;
    let mut stream = seed.stream("draw");
    let mut drawn = Vec::new();
    while drawn.len() < count && available > 0 {
        let mut order: Vec<usize> = (0..available).collect();
        order.shuffle(&mut stream);
        drawn.extend(order.into_iter().take(count - drawn.len()));
    }
    drawn
}

/// The columns that follow a seed prompt through all datasets.
pub(crate) fn origin(seed: &SeedRow) -> Origin {
    Origin {
        seed_id: seed.seed_id.clone(),
        category: seed.category.clone(),
        split: seed.split.clone(),
        task: seed.task.clone(),
        seed: seed.text.clone(),
    }
}

/// Prompts for a defender: attacks, or seed prompts as they are.
pub(crate) fn prompts(context: &Context, input: &Input<Prompts>) -> anyhow::Result<Vec<AttackRow>> {
    let seeds = match rows::<AttackRow, _>(context, input) {
        Ok(attacks) => return Ok(attacks.to_vec()),
        // The type of a file that is given by its path is not known.
        Err(error) => {
            seeds(context, input).map_err(|other| if other.is::<data::Error>() { error } else { other })?
        }
    };
    Ok(seeds.iter().enumerate().map(|(index, seed)| prompt(index, seed, position(context))).collect())
}

/// A seed prompt as it is, as a prompt for a defender.
pub(crate) fn prompt(index: usize, seed: &SeedRow, at: Position) -> AttackRow {
    AttackRow {
        attack_id: index as u32,
        origin: origin(seed),
        technique: None,
        group: index as u32,
        text: seed.text.clone(),
        answer: seed.answer.clone(),
        turns: Sparse::default(),
        sample: Sample::template(&seed.text),
        at,
    }
}

/// The sandbox's world.
pub(crate) fn world(context: &Context, input: &Input<World>) -> anyhow::Result<Arc<game::World>> {
    context.load(context.input(input)?, |path| {
        let text = read::text(path, MAX_TEXT_BYTES)?;
        Ok((game::World::parse(&text)?, text.len() * 4))
    })
}
