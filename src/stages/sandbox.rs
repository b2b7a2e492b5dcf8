//! `sandbox`: expands a world file to datasets: seed prompts, warm-up examples, benchmarks, labelled pairs.

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact;
use data::{self, AttackRow, Origin, PairRow, PoolRow, Sample, SeedRow, SftRow, Sparse, TextRow};
use engine::{CheckError, Context, InputFile, Kind, Output, Purpose, Stage};
use game::{SeedSpec, WarmupRow, World, WrappedPrompt};
use store::read::{self, MAX_TEXT_BYTES};

/// Expands a world file to datasets: seed prompts, warm-up examples, benchmarks, labelled pairs.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sandbox {
    /// The world's YAML file. By default the world that is built into triplay.
    #[serde(default)]
    spec: Option<InputFile>,
    /// Warm-up examples for all three roles together.
    #[serde(default = "default_sft")]
    sft: usize,
    /// Warm-up examples for each of the other defenders.
    #[serde(default = "default_sft_others")]
    sft_others: usize,
    /// Warm-up examples for the meaning judge.
    #[serde(default = "default_sft_meaning")]
    sft_meaning: usize,
    /// Attacks in the fixed benchmark.
    #[serde(default = "default_benchmark")]
    benchmark: usize,
    /// Held-out pairs with their true class.
    #[serde(default = "default_benchmark")]
    pairs: usize,
    /// Wrapped prompts for each benign task.
    #[serde(default = "default_benign")]
    benign: usize,
    /// The turns of the conversations in the warm-up: 1 or 2. With 2, `sft` and `vocabulary` have further examples, and
    /// `sft_others` has defenders that comply only in a second turn. The other datasets are the same.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    turns: usize,
}

fn one() -> usize {
    1
}

fn is_one(turns: &usize) -> bool {
    *turns == 1
}

fn default_sft() -> usize {
    20_000
}

fn default_sft_others() -> usize {
    5_000
}

fn default_sft_meaning() -> usize {
    20_000
}

fn default_benchmark() -> usize {
    240
}

fn default_benign() -> usize {
    6
}

impl Stage for Sandbox {
    const KIND: Kind = Kind {
        name: "sandbox",
        // The outputs also change with the world that is built into triplay.
        version: World::EDITION.wrapping_add(3),
        outputs: &[
            Output::new("world", "world"),
            Output::new("seeds", "seeds"),
            Output::new("vocabulary", "texts"),
            Output::new("sft", "sft"),
            Output::new("sft_others", "sft"),
            Output::new("sft_meaning", "sft"),
            Output::new("benchmark", "attacks"),
            Output::new("examples", "attacks"),
            Output::new("benign", "attacks"),
            Output::new("pairs", "pairs"),
            Output::new("empty_pool", "pool"),
            Output::new("empty_pairs", "pairs"),
        ],
        numerics: false,
        draws: true,
        excluded_from_key: &[],
    };

    const PURPOSE: Purpose = Purpose::Data;

    fn check(&self) -> Result<(), CheckError> {
        match self.turns {
            1 | 2 => Ok(()),
            turns => Err(CheckError::at("turns", format!("`turns` must be 1 or 2, found {turns}"))),
        }
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let text = match &self.spec {
            None => World::embedded_text().to_owned(),
            Some(file) => {
                let path = &context.file(file)?.path;
                read::text(path, MAX_TEXT_BYTES).with_context(|| format!("cannot read {}", path.display()))?
            }
        };
        let world = World::parse(&text).map_err(|error| match &self.spec {
            None => anyhow::anyhow!(error),
            Some(file) => anyhow::anyhow!("{}: {error}", file.path().display()),
        })?;
        let in_turns = self.turns > 1;
        anyhow::ensure!(
            !in_turns || world.conversations.is_some(),
            "the world must have `conversations` where `turns` is {}, found none",
            self.turns
        );
        let seed = context.seed();
        let at = artifact::position(context);
        std::fs::write(context.output("world"), &text)?;

        let seeds: Vec<SeedRow> = world.seeds().iter().map(seed_row).collect();
        data::write(&context.output("seeds"), &seeds)?;
        let mut vocabulary = world.vocabulary();
        let mut sft = world.warmup_rows(self.sft, seed)?;
        let mut others = world.other_defender_rows(self.sft_others, seed)?;
        if in_turns {
            vocabulary.extend(world.conversation_vocabulary());
            sft.extend(world.conversation_rows(self.sft, seed)?);
            others.extend(world.guarded_defender_rows(self.sft_others, seed)?);
        }
        let vocabulary: Vec<TextRow> = vocabulary.into_iter().map(|text| TextRow { text }).collect();
        data::write(&context.output("vocabulary"), &vocabulary)?;
        let sft: Vec<SftRow> = sft.into_iter().map(sft_row).collect();
        data::write(&context.output("sft"), &sft)?;
        let others: Vec<SftRow> = others.into_iter().map(sft_row).collect();
        data::write(&context.output("sft_others"), &others)?;
        let judge: Vec<SftRow> = world.judge_rows(self.sft_meaning, seed)?.into_iter().map(sft_row).collect();
        data::write(&context.output("sft_meaning"), &judge)?;

        let attacks = |prompts: Vec<WrappedPrompt>| -> Vec<AttackRow> {
            prompts.into_iter().enumerate().map(|(index, prompt)| attack_row(index, prompt, &at)).collect()
        };
        data::write(&context.output("benchmark"), &attacks(world.benchmark(self.benchmark, seed)))?;
        data::write(&context.output("examples"), &attacks(world.examples()))?;
        data::write(&context.output("benign"), &attacks(world.benign_prompts(self.benign, seed)))?;
        let pairs: Vec<PairRow> = world
            .labelled_pairs(self.pairs, seed)
            .into_iter()
            .map(|pair| PairRow {
                origin: origin(&pair.prompt.seed),
                answer: pair.prompt.seed.answer.clone(),
                attack: pair.prompt.text,
                response: pair.response,
                defender: "template".into(),
                class: Some(pair.class.to_string()),
                at: at.clone(),
            })
            .collect();
        data::write(&context.output("pairs"), &pairs)?;
        data::write::<PoolRow>(&context.output("empty_pool"), &[])?;
        data::write::<PairRow>(&context.output("empty_pairs"), &[])?;
        context.progress(1, 1, format!("{} seeds, {} warm-up examples", seeds.len(), sft.len()));
        Ok(())
    }
}

fn seed_row(seed: &SeedSpec) -> SeedRow {
    SeedRow {
        seed_id: seed.id.clone(),
        category: seed.category.clone(),
        split: seed.split.name().into(),
        task: seed.task.name().into(),
        text: seed.text.clone(),
        answer: seed.answer.clone(),
    }
}

fn origin(seed: &SeedSpec) -> Origin {
    artifact::origin(&seed_row(seed))
}

fn sft_row(row: WarmupRow) -> SftRow {
    SftRow { role: row.role.to_string(), subset: row.subset, prompt: row.prompt, completion: row.completion }
}

fn attack_row(index: usize, prompt: WrappedPrompt, at: &data::Position) -> AttackRow {
    AttackRow {
        attack_id: index as u32,
        origin: origin(&prompt.seed),
        technique: Some(prompt.technique),
        group: index as u32,
        turns: Sparse::default(),
        sample: Sample::template(&prompt.text),
        text: prompt.text,
        answer: prompt.seed.answer,
        at: at.clone(),
    }
}
