//! What did nothing is named: phases of training that change no weights, and changed rewards that move no advantage.

use crate::space::Space;

/// A red phase of two steps whose reward is the attack's length alone, times `weight`.
const IDLE: &str = "pipeline: idle
seed: 5
params: { weight: 1, free: 0 }
stages:
  world: { kind: sandbox, sft: 600, sft_others: 9, benchmark: 24, pairs: 24, benign: 1 }
  vocabulary: { kind: tokenizer, data: world.vocabulary, algorithm: word_level }
  warmup:
    kind: sft
    data: world.sft
    tokenizer: vocabulary
    init: { hidden: 32, layers: 1, heads: 2, positions: 96 }
    steps: 60
    batch: 16
    lr: 1e-2
  red:
    repeat: 2
    carry: { attacker: warmup.model }
    stages:
      attacks: { kind: generate, model: attacker, data: world.seeds, prompts: 4, group: 4, sampling: { max_new_tokens: 24 } }
      rewards: { kind: reward, data: attacks, terms: [{ overlong: { free: $free, longest: 100 }, weight: $weight }] }
      update: { kind: update, model: attacker, data: rewards, algorithm: { grpo: { lr: 4e-4 } } }
    next: { attacker: update.model }
";

fn run(space: &Space, more: &[&str]) -> (String, String, serde_json::Value) {
    let seen = space.triplay(&[&["pipeline", "run", "idle.yaml", "--json"], more].concat());
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    let summary = seen.json();
    (summary["run"].as_str().unwrap().to_owned(), seen.err, summary)
}

#[test]
fn a_phase_that_changed_no_weights_is_named_with_its_cause_wherever_its_run_is_shown() {
    let space = Space::new();
    space.write("idle.yaml", IDLE);
    // No attack has so many tokens: all rewards are 0.
    let (idle, err, summary) = run(&space, &["--set", "free=90"]);
    let line = "red[*]/update changed no weights in all its steps (2): every advantage was 0, since all rewards of each \
                group are equal or unknown";
    assert!(err.contains(&format!("\n{line}\n")), "{err}");
    assert!(!err.contains("learnt nothing"), "said once: {err}");
    assert_eq!(summary["unchanged"], serde_json::json!([line]));
    let shown = space.triplay(&["runs", "show", &idle]).out;
    assert!(shown.contains(&format!("\nunchanged {line}\n")), "{shown}");

    let (trained, err, summary) = run(&space, &[]);
    assert!(!err.contains("changed no weights"), "{err}");
    assert_eq!(summary["unchanged"], serde_json::json!([]));
    // Without a reference there is no divergence, and so no chart of zeros.
    let metrics = |name: &str| space.triplay(&["results", "table", &trained, "--metric", name]);
    metrics("kl").fails(2, "no metric `kl`");
    let norm = metrics("attacker.update_norm");
    assert!(norm.code == Some(0) && !norm.out.contains(" 0.000\n"), "{}{}", norm.out, norm.err);

    let compared = space.triplay(&["runs", "compare", &idle, &trained]).out;
    assert!(
        compared.contains("\ndid nothing\n  - A: red[*]/update changed no weights in all its steps (2):"),
        "{compared}"
    );
}

#[test]
fn a_changed_reward_that_moves_no_advantage_is_named() {
    let space = Space::new();
    space.write("idle.yaml", IDLE);
    let (one, ..) = run(&space, &[]);
    let (two, ..) = run(&space, &["--set", "weight=2"]);
    let compared = space.triplay(&["runs", "compare", &one, &two]);
    let flat = compared.out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        flat.starts_with(&format!(
            "A {one} idle done B {two} idle done parameters weight: 1 → 2 nodes 4 the same,"
        )),
        "{flat}"
    );
    assert!(
        flat.contains("did nothing - red[*]/rewards: the rewards differ, but every advantage is the same ("),
        "{flat}"
    );
    let json = space.triplay(&["runs", "compare", &one, &two, "--json"]).json();
    assert!(json["without_effect"][0].as_str().unwrap().contains("relative to their group"), "{json:#}");
    // Rewards that are all the same with any weight: other parameters, the same outputs.
    let (zero, ..) = run(&space, &["--set", "free=90"]);
    let (zeros, ..) = run(&space, &["--set", "free=91"]);
    let json = space.triplay(&["runs", "compare", &zero, &zeros, "--json"]).json();
    let line = "red[*]/rewards: other parameters or inputs in B, and the same outputs (2 nodes)";
    assert_eq!(json["without_effect"][0], line);
}
