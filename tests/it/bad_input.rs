//! Mistakes of users: one clear error each and an unharmed cache. The exit code is 2 if the mistake can be found before anything
//! runs, else 1.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use triplay::data::{Origin, Position, RewardRow, Sample, SeedRow};

use crate::space::{Seen, Space};

fn small(space: &Space, from: &str, to: &str) -> Seen {
    let text = include_str!("small.yaml").replacen(from, to, 1);
    assert_ne!(text, include_str!("small.yaml"), "{from}");
    space.write("bad.yaml", &text);
    space.triplay(&["pipeline", "run", "bad.yaml"])
}

#[test]
fn what_can_be_known_before_is_said_before() {
    let space = Space::new();
    for (from, to, expected) in [
        ("params: {", "params: [", "not valid YAML"),
        ("prompts: $prompts, group: 4", "promts: $prompts, group: 4", "help: did you mean `prompts`?"),
        ("kind: judge", "kind: jugde", "help: did you mean `judge`?"),
        ("data: world.sft\n", "data: wrld.sft\n", "help: did you mean `world`?"),
        ("data: world.sft\n", "data: world.stf\n", "help: did you mean `sft`?"),
        ("data: world.sft\n", "data: after.metrics\n", "a cycle: "),
        ("data: world.sft\n", "data: world.seeds\n", "`data` takes sft, but `world.seeds` is of type seeds"),
        ("steps: 60", "steps: many", "`steps` must be a whole number from 0, found text"),
        ("steps: 60", "steps: -1", "`steps` must be a whole number from 0, found -1"),
        ("steps: 60", "steps: 0", "`steps`, `batch` and `micro_batch` must be at least 1, found 0, "),
        ("reference: warmup.model, algorithm", "algorithm", "`reference` must be given for a KL penalty"),
        ("{ kind: sandbox, ", "{ kind: sandbox, spec: no.yaml, ", "there is no file no.yaml"),
        (
            "{ model: defender, weight: 0.6 }",
            "{ model: defender, weight: -0.6 }",
            "`weight` must be at least 0, found -0.6",
        ),
        (
            "model: evaluator }",
            "model: evaluator, chat: true }",
            "with `chat: true`, a `prompt` in words must be given, such as",
        ),
        ("lr: 4e-4, kl: 0.05", "lr: 4e-4, kl: -1", "`kl` must be at least 0, found -1"),
        (
            "heads: 2, positions: 96",
            "heads: 2, positions: 96, intermediate: 0",
            "`intermediate_size` must be at least 1",
        ),
        ("$rounds", "$runds", "help: did you mean `rounds`?"),
        ("heads: 2", "heads: 3", "`hidden` must be a multiple of 2 × `heads` = 6, found 32"),
        (
            "data: responses, model: evaluator }",
            "data: responses, model: evaluator, prompt: \"{{ x }}\" }",
            "there is no variable `x`; it can use prompt, response, seed, conversation",
        ),
    ] {
        let seen = small(&space, from, to);
        seen.fails(2, expected);
        assert!(seen.err.starts_with("error: bad.yaml:"), "{}", seen.err);
    }
    space.triplay(&["pipeline", "run", "none.yaml"]).fails(2, "error: none.yaml: cannot read the pipeline: ");
    space.triplay(&["pipeline", "run", "small.yaml", "--set", "step=3"]).fails(2, "did you mean `steps`?");
    space
        .triplay(&["pipeline", "run", "small.yaml", "--cache", "/sys/none"])
        .fails(2, "choose a cache folder you may write to");
    assert!(!space.path(".triplay/records").exists() || space.records(".triplay") == 0, "nothing has run");
}

#[test]
fn bombs_are_refused_quickly() {
    let space = Space::new();
    let begun = Instant::now();
    fs::File::create(space.path("huge.yaml")).unwrap().set_len(100 << 20).unwrap();
    space
        .triplay(&["pipeline", "run", "huge.yaml"])
        .fails(2, "huge.yaml: it must have at most 1 MiB, found 100 MiB");
    let mut text = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for (name, previous) in ('b'..'k').zip('a'..) {
        text += &format!("{name}: &{name} [{}]\n", vec![format!("*{previous}"); 10].join(","));
    }
    space.write("bomb.yaml", &text);
    space.triplay(&["pipeline", "run", "bomb.yaml"]).fails(2, "alias");
    space.write(
        "many.yaml",
        &include_str!("small.yaml").replace("rounds: 2, steps: 2", "rounds: 900000, steps: 900000"),
    );
    space.triplay(&["pipeline", "run", "many.yaml"]).fails(2, "unroll to at most 1000000 nodes, found more");
    assert!(begun.elapsed() < Duration::from_secs(60), "a bomb went off");
}

const FROM_FILES: &str = "
pipeline: files
stages:
  world: { kind: sandbox, sft: 10, sft_others: 10, benchmark: 9, pairs: 9, benign: 1 }
  attacks: { kind: generate, model: { path: model }, data: { path: seeds.parquet }, prompts: 2, sampling: { max_new_tokens: 4 } }
";

#[test]
fn what_shows_only_on_the_way_fails_its_stage_and_harms_nothing() {
    let space = Space::new();
    space.run(&[]);
    let output = |node: &str| {
        let seen = space.triplay(&["data", "show", &format!("latest:{node}"), "--rows", "1"]);
        seen.out.split(": ").next().unwrap().to_owned()
    };
    let models =
        fs::read_dir(space.path("results/small")).unwrap().next().unwrap().unwrap().path().join("models");
    let copy_model = || {
        let _ = fs::remove_dir_all(space.path("model"));
        fs::create_dir(space.path("model")).unwrap();
        for entry in fs::read_dir(models.join("warmup")).unwrap() {
            let from = entry.unwrap().path();
            fs::write(space.path("model").join(from.file_name().unwrap()), fs::read(&from).unwrap()).unwrap();
        }
    };
    copy_model();
    space.write("files.yaml", FROM_FILES);
    fs::copy(output("world.seeds"), space.path("seeds.parquet")).unwrap();
    let run = || space.triplay(&["pipeline", "run", "files.yaml"]);
    assert_eq!(run().code, Some(0));

    let seeds = fs::read(space.path("seeds.parquet")).unwrap();
    fs::remove_file(space.path("seeds.parquet")).unwrap();
    fs::copy(output("world.sft"), space.path("seeds.parquet")).unwrap();
    run().fails(1, "error: attacks: seeds.parquet is not a dataset of seeds: it has no column `seed_id`; its metadata says that it holds sft");
    fs::remove_file(space.path("seeds.parquet")).unwrap();
    fs::write(space.path("seeds.parquet"), &seeds[..seeds.len() / 2]).unwrap();
    run().fails(1, "error: attacks: seeds.parquet is not a readable Parquet file");
    fs::write(space.path("seeds.parquet"), &seeds).unwrap();

    let weights = fs::read(space.path("model/model.safetensors")).unwrap();
    fs::write(space.path("model/model.safetensors"), &weights[..weights.len() - 100]).unwrap();
    run().fails(1, "error: attacks: model/model.safetensors: not a complete safetensors file");
    copy_model();
    fs::write(space.path("model/config.json"), "{\"model_type\": \"qwen3\"}").unwrap();
    run().fails(1, "error: attacks: model/config.json: has no `num_hidden_layers`");
    copy_model();
    assert_eq!(run().out.lines().last().unwrap().split(" in ").next(), Some("ran 0, cached 2, failed 0"));

    space.write("world.yaml", "hazards: {}\n");
    space.write("world-only.yaml", "pipeline: w\nstages: { world: { kind: sandbox, spec: world.yaml } }\n");
    space
        .triplay(&["pipeline", "run", "world-only.yaml"])
        .fails(1, "error: world: world.yaml: not a world: ");
}

#[test]
fn a_write_that_fails_is_said_and_the_cache_goes_on_afterwards() {
    let space = Space::new();
    // A limit on the size of files stands for a full disk: writes fail with an error. 40 blocks of 512 bytes.
    let script =
        format!("trap '' XFSZ; ulimit -f 40; exec {} pipeline run small.yaml", env!("CARGO_BIN_EXE_triplay"));
    let output =
        Command::new("sh").args(["-c", &script]).current_dir(space.path("")).env("CI", "1").output().unwrap();
    Seen::from(output).fails(1, "error: ");
    let recorded = space.records(".triplay") as u64;
    let summary = space.run(&[]);
    assert_eq!(summary["cached"].as_u64(), Some(recorded));
    assert_eq!(space.run(&[])["ran"], 0);
}

#[test]
fn a_link_that_leads_nowhere_is_named_with_where_it_leads() {
    let space = Space::new();
    fs::create_dir(space.path("model")).unwrap();
    symlink("gone.safetensors", space.path("model/weights")).unwrap();
    symlink("/nowhere/at all", space.path("lost")).unwrap();
    for (path, expected) in [
        ("model", "cannot read model: model/weights is a link to gone.safetensors, which does not exist\n"),
        ("lost", "lost is a link to /nowhere/at all, which does not exist\n"),
        ("none", "there is no file none (paths are relative to the working directory)\n"),
    ] {
        let stage = format!(
            "{{ kind: exec, command: 'true > out', inputs: {{ m: {{ path: {path} }} }}, outputs: {{ out: text }} }}"
        );
        space.write("p.yaml", &format!("pipeline: p\nstages:\n  a: {stage}\n"));
        space.triplay(&["pipeline", "plan", "p.yaml"]).fails(2, expected);
    }
    space.write("e.yaml", "pipeline: e\nextends: lost\n");
    space
        .triplay(&["pipeline", "check", "e.yaml"])
        .fails(2, "lost is a link to /nowhere/at all, which does not exist\n");
}

#[test]
fn rewards_that_cannot_be_learnt_from_are_named_by_row_and_column_before_anything_is_computed() {
    let space = Space::new();
    let origin = Origin {
        seed_id: "a".into(),
        category: "potions".into(),
        split: "train".into(),
        task: "hazard".into(),
        seed: "brew glowvenom".into(),
    };
    let reward = |advantage: f64, logprobs: &[f32]| RewardRow {
        sample_id: 0,
        group: 0,
        origin: origin.clone(),
        text: "brew".into(),
        reward: Some(1.0),
        advantage: Some(advantage),
        components: Default::default(),
        notes: Default::default(),
        undetermined: 0,
        sample: Sample {
            completion_ids: vec![1, 2],
            logprobs: logprobs.to_vec(),
            ..Sample::template("brew")
        },
        at: Position { iteration: 0, step: 0, rng_seed: "abc".into() },
    };
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/qwen3-tiny");
    let update =
        format!("{{ kind: update, model: {{ path: {model} }}, algorithm: {{ grpo: {{ lr: 1e-4, kl: 0 }} }}");
    space.write("direct.yaml", &format!("pipeline: p\nstages:\n  u: {update}, data: {{ path: r }} }}\n"));
    space.write(
        "made.yaml",
        &format!(
            "pipeline: p\nstages:\n  made: {{ kind: exec, command: cp r out, inputs: {{ r: {{ path: r }} }}, outputs: {{ out: \
             rewards }} }}\n  u: {update}, data: made }}\n"
        ),
    );
    for (bad, expected) in [
        (
            reward(f64::NAN, &[-0.5, -0.5]),
            "is not a dataset of rewards: column `advantage`, row 1: must be a finite number, found NaN",
        ),
        (
            reward(0.5, &[-0.5]),
            "is not a dataset of rewards: column `logprobs`, row 1: must have as many items as `completion_ids` (2), found 1",
        ),
    ] {
        triplay::data::write(&space.path("r"), &[reward(0.5, &[-0.5, -0.5]), bad]).unwrap();
        space.triplay(&["pipeline", "run", "direct.yaml"]).fails(1, &format!("error: u: r {expected}"));
        let seen = space.triplay(&["pipeline", "run", "made.yaml"]);
        seen.fails(1, "error: made: ");
        assert!(seen.err.contains(expected), "{}", seen.err);
    }
}

#[test]
fn seeds_without_an_id_of_their_own_are_refused_with_their_rows() {
    let space = Space::new();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/qwen3-tiny");
    space.write(
        "p.yaml",
        &format!(
            "pipeline: p\nstages:\n  attacks:\n    kind: generate\n    model: {{ path: {model} }}\n    data: {{ path: seeds.parquet }}\n    prompts: 1\n"
        ),
    );
    let seed = |id: &str| SeedRow {
        seed_id: id.into(),
        category: "potions".into(),
        split: "train".into(),
        task: "hazard".into(),
        text: "brew glowvenom".into(),
        answer: None,
    };
    for (ids, said) in [
        (
            ["a", "b", "a"],
            "seeds.parquet: each row must have its own `seed_id`, found `a` in rows 0 and 2: `triplay data import` makes",
        ),
        (
            ["a", "", "c"],
            "seeds.parquet: row 1 must have a `seed_id`, found none: `triplay data import` makes missing ids",
        ),
    ] {
        triplay::data::write(&space.path("seeds.parquet"), &ids.map(seed)).unwrap();
        space.triplay(&["pipeline", "run", "p.yaml"]).fails(1, said);
    }
}
