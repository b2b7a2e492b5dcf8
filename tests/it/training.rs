//! Trainers: what computes a step. The worker of `torch` is played by scripts here, so that no Python is needed;
//! `tests/peers/training` has the real one.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use triplay::data::{self, MetricRow};

use crate::space::{Seen, Space, WARMUP};

/// A game of one step, after [`WARMUP`].
const STEP: &str = "    trainer: here
  attacks: { kind: generate, model: warmup.model, data: world.seeds, prompts: 4, group: 4, sampling: { max_new_tokens: 12 } }
  rewards: { kind: reward, data: attacks, terms: [{ overlong: { free: 2, longest: 12 } }] }
  update: { kind: update, model: warmup.model, data: rewards, lora: { rank: 4 }, MORE algorithm: { grpo: { lr: 1e-3, kl: 0.1 } } }
";

/// The pipeline, with more keys of its update.
fn step(more: &str) -> String {
    format!("pipeline: step\n{WARMUP}{}", STEP.replace("MORE ", more))
}

/// A worker that says HELLO, and answers to each job with REPLY. Its words are those of `python -u -m triplay_torch JOBS ANSWERS …`.
const WORKER: &str = r#"#!/bin/sh
echo "$$" >> workers
echo a library prints this
exec 3< "$4" 4> "$5"
HELLO
while read -r job <&3; do
  id=$(printf '%s' "$job" | sed 's/.*"id":\([0-9]*\).*/\1/')
  out=$(printf '%s' "$job" | sed 's/.*"out":"\([^"]*\)".*/\1/')
  REPLY
done
"#;

const HELLO: &str =
    r#"echo '{"protocol": 1, "versions": {"torch": "0"}, "device": "cpu", "processes": 1}' >&4"#;
const FILES: &str =
    "cp here/adapter_model.safetensors $out/weights.safetensors; cp here/optimizer.safetensors $out/";

/// The end of a job, with this report.
fn done(report: &str) -> String {
    format!(
        r#"{FILES}; echo '{{"id": '$id', "reports": [{{{report}}}], "seconds": 2, "peak_bytes": 1000000000}}' >&4"#
    )
}

const GOOD: &str = r#""loss": 0.5, "kl": 9, "entropy": 1, "clipped": 0, "grad_norm": 1, "tokens": 100"#;

fn worker(space: &Space, hello: &str, reply: &str) {
    let text = WORKER.replace("HELLO", hello).replace("REPLY", reply);
    space.write("worker.sh", &text);
    fs::set_permissions(space.path("worker.sh"), fs::Permissions::from_mode(0o755)).unwrap();
}

fn run(space: &Space, more: &[&str]) -> Seen {
    space.triplay(&[&["pipeline", "run", "step.yaml", "--json"], more].concat())
}

/// A folder with a pipeline whose step was computed here, and the model after it in the folder `here`.
fn computed_here() -> (Space, String) {
    let space = Space::new();
    space.write("step.yaml", &step(""));
    let summary = run(&space, &[]).json();
    let digest = space.digests(&summary)["update.model"].clone();
    space.triplay(&["data", "get", "latest:update.model", "-o", "here"]).ok();
    space.write("triplay.yaml", "trainer: torch\ntorch: { python: ./worker.sh }\n");
    (space, digest)
}

fn workers(space: &Space) -> Vec<String> {
    fs::read_to_string(space.path("workers")).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_worker_computes_steps_that_are_recorded_like_our_own_and_it_is_started_once() {
    let (space, digest) = computed_here();
    worker(&space, HELLO, &done(GOOD));
    let matrix = step("matrix: { seeds: [1, 2, 3] }, ");
    space.write("step.yaml", &matrix);
    let seen = run(&space, &[]);
    let summary = seen.json();
    assert_eq!(summary["ran"], 3, "only what is trained has another trainer");
    let digests = space.digests(&summary);
    let is_model = |name: &&String| name.starts_with("update[") && name.ends_with(".model");
    let models: Vec<&String> = digests.keys().filter(is_model).collect();
    assert_eq!(models.len(), 3);
    assert!(models.iter().all(|name| digests[*name] == digest), "the layout is that of our own");
    assert_eq!(workers(&space).len(), 1);
    let metrics = models[0].replace(".model", ".metrics");
    space.triplay(&["data", "get", &format!("latest:{metrics}"), "-o", "metrics.parquet"]).ok();
    let metrics: Vec<MetricRow> = data::read(&space.path("metrics.parquet")).unwrap();
    let value = |name: &str| metrics.iter().find(|row| row.metric == name).unwrap().value;
    assert_eq!((value("loss"), value("kl"), value("grad_norm")), (0.5, 9.0, 1.0));
    assert!(value("update_norm") > 0.0);
    // The worker is gone, and the next run starts another only if there is something to do.
    let alive =
        |id: &String| std::process::Command::new("kill").args(["-0", id]).output().unwrap().status.success();
    let begun = std::time::Instant::now();
    while workers(&space).iter().any(alive) {
        assert!(begun.elapsed().as_secs() < 60, "the worker outlives triplay");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(run(&space, &[]).json()["ran"], 0);
    assert_eq!(workers(&space).len(), 1);
}

#[test]
fn the_default_trainer_stays_out_of_the_key_and_the_site_may_give_another() {
    let (space, _) = computed_here();
    let ran = |more: &[&str]| run(&space, more).json()["ran"].clone();
    space.write("here.yaml", "{}");
    space.write("step.yaml", &step("trainer: here, "));
    assert_eq!(ran(&["--site", "here.yaml"]), 0, "as if nothing were written");
    assert_eq!(ran(&[]), 0, "what a stage says counts more than the site");
    space.write("step.yaml", &step(""));
    let shown = |more: &[&str]| {
        let args = [&["pipeline", "show", "step.yaml", "update"], more].concat();
        let shown = space.triplay(&args).ok().out;
        shown
            .lines()
            .find(|line| line.contains("trainer:"))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    assert_eq!(shown(&[]).unwrap(), "trainer: torch # the site file");
    assert_eq!(shown(&["--site", "here.yaml"]), None);
    let plan = |more: &[&str]| space.triplay(&[&["pipeline", "plan", "step.yaml"], more].concat()).ok().out;
    assert!(plan(&[]).contains("update") && plan(&[]).contains("trainer"), "{}", plan(&[]));
    // Where and with what it computes does not count; the number type does.
    worker(&space, HELLO, &done(GOOD));
    assert_eq!(ran(&[]), 1);
    space.write("triplay.yaml", "trainer: torch\ntorch: { python: ./other, device: cuda, processes: 4 }\n");
    assert_eq!(ran(&[]), 0);
    space.write("triplay.yaml", "trainer: { torch: { dtype: bf16 } }\ntorch: { python: ./worker.sh }\n");
    assert_eq!(ran(&[]), 1);
    for (site, error) in [
        ("trainer: trch\n", "triplay.yaml:1:10: `trch` is not a value"),
        ("trainer: { torch: { dtype: f8 } }\n", "triplay.yaml:1:28: `f8` is not a value of `dtype`"),
        ("torch: { pyton: x }\n", "`torch` has no key `pyton`"),
        ("torch: { processes: 0 }\n", "triplay.yaml:1:21: `processes` must be at least 1, found 0"),
        ("torch: { device: tpu }\n", "`tpu` is not a value of `device`"),
    ] {
        space.write("triplay.yaml", site);
        run(&space, &[]).fails(2, error);
    }
}

#[test]
fn what_goes_wrong_with_a_worker_is_said_and_nothing_is_recorded() {
    let (space, digest) = computed_here();
    let late = |report: &str| done(&GOOD.replace("\"loss\": 0.5", report));
    let weights = |command: &str| done(GOOD).replace("cp here/adapter_model.safetensors", command);
    let hello = |text: &str| format!("echo '{text}' >&4");
    let cases: &[(&str, &str, &str)] = &[
        ("exit 3", "", "the PyTorch worker has ended with exit code 3"),
        (
            &hello(r#"{"protocol": 1, "missing": ["torch", "peft"], "python": "x"}"#),
            "",
            "`./worker.sh` must have torch, peft, and has not",
        ),
        (&hello(r#"{"protocol": 7}"#), "", "must speak version 1 of the protocol, found 7"),
        (&hello("ready"), "", "must answer with JSON of the protocol, found `ready`"),
        (
            &hello(r#"{"protocol": 1, "error": "device", "message": "PyTorch finds no CUDA device"}"#),
            "",
            "cannot compute on `auto`: PyTorch finds no CUDA device",
        ),
        (
            HELLO,
            "kill -9 $$",
            "has ended, killed by signal 9, as the system does with a process that takes too much memory",
        ),
        (
            HELLO,
            r#"echo '{"id": '$id', "error": "memory", "message": "tried to allocate 9 GiB"}' >&4"#,
            "is out of memory on cpu: tried to allocate 9 GiB",
        ),
        (
            HELLO,
            r#"echo Traceback: frost; echo '{"id": '$id', "error": "failed", "message": "KeyError: frost"}' >&4"#,
            "the PyTorch worker failed: KeyError: frost\n  | a library prints this\n  | Traceback: frost\n  the whole log: ",
        ),
        (HELLO, r#"echo '{"id": 99}' >&4"#, "must answer job 1, found an answer to 99"),
        (HELLO, r#"echo '{"id": '$id', "reports": []}' >&4"#, "must have `reports`, found none"),
        (HELLO, &late("\"loss\": NaN"), "must answer with JSON of the protocol, found `{\"id\": 1"),
        (HELLO, &late("\"loss\": \"nan\""), "loss and gradient norm must be finite, found NaN and 1"),
        (HELLO, &done(&format!("{GOOD}}}, {{{GOOD}")), "must report 1 steps, found 2"),
        (HELLO, &weights("cp here/model.safetensors"), "must have only what was trained, found `model."),
        (
            HELLO,
            &weights("head -c 900 here/adapter_model.safetensors >"),
            "must be a complete safetensors file",
        ),
        (HELLO, &weights("true"), "the worker's weights.safetensors cannot be read"),
        (
            HELLO,
            &done(GOOD).replace(
                "cp here/optimizer.safetensors $out/",
                "cp here/model.safetensors $out/optimizer.safetensors",
            ),
            "the worker's optimizer.safetensors must have only what was trained",
        ),
    ];
    for (hello, reply, expected) in cases {
        worker(&space, hello, if reply.is_empty() { ":" } else { reply });
        let seen = run(&space, &[]);
        seen.fails(1, expected);
        // Of what the worker computed, the report says all.
        assert!(seen.err.contains("the whole log: ") || expected.starts_with("loss and"), "{}", seen.err);
    }
    space.write("triplay.yaml", "trainer: torch\ntorch: { python: ./none }\n");
    run(&space, &[]).fails(1, "the PyTorch worker has ended: No such file or directory");
    space.write("triplay.yaml", "trainer: torch\ntorch: { python: no-such-python }\n");
    run(&space, &[]).fails(1, "cannot start the PyTorch worker with `no-such-python`: there is no program");
    space.write("triplay.yaml", "trainer: torch\ntorch: { python: ./worker.sh }\n");
    worker(&space, HELLO, &done(GOOD));
    let summary = run(&space, &[]).json();
    assert_eq!(summary["ran"], 1, "no failure was recorded");
    assert_eq!(space.digests(&summary)["update.model"], digest);
}

#[test]
fn a_guard_is_decided_on_the_workers_report_and_its_step_is_discarded() {
    let (space, _) = computed_here();
    worker(&space, HELLO, &done(GOOD));
    let guards = "guards: { kl: 5, previous: other.model }, ";
    let other =
        "  other: { kind: sft, data: world.sft, model: warmup.model, steps: 1, lr: 1e-9, trainer: here }\n";
    space.write("step.yaml", &(step(guards) + other));
    let seen = run(&space, &[]);
    assert!(seen.err.contains("halted: kl 9 above 5"), "{}", seen.err);
    let digests = space.digests(&seen.json());
    space.triplay(&["data", "get", "latest:update.model", "-o", "after"]).ok();
    assert!(space.path("after/halted.json").exists() && !space.path("after/adapter_config.json").exists());
    let bytes = |folder: &str| fs::read(space.path(folder).join("model.safetensors")).unwrap();
    space.triplay(&["data", "get", "latest:other.model", "-o", "before"]).ok();
    assert_eq!(bytes("after"), bytes("before"), "{digests:?}");
}

#[test]
fn a_worker_that_takes_too_long_ends_with_its_step() {
    let (space, _) = computed_here();
    worker(&space, HELLO, "sleep 600");
    space.write("step.yaml", &step("timeout: 2s, retry: 0, "));
    run(&space, &[]).fails(1, "timed out after 2s");
    let alive =
        |id: &String| std::process::Command::new("kill").args(["-0", id]).output().unwrap().status.success();
    assert_eq!(workers(&space).len(), 1);
    assert!(!workers(&space).iter().any(alive));
}
