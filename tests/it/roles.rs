//! `roles:` and `defaults:`: what they fill in counts as typed, and is shown with its place.

use std::path::Path;

use crate::space::Space;

const WORLD: &str = "
  world: { kind: sandbox, sft: 30, sft_others: 10, benchmark: 9, pairs: 9, benign: 9 }
  vocabulary: { kind: tokenizer, data: world.vocabulary, algorithm: word_level }
  warmup: { kind: sft, data: world.sft, tokenizer: vocabulary, init: { hidden: 32, layers: 1, heads: 2, positions: 96 }, steps: 1, lr: 1e-3 }
";

/// Every key where it counts.
const TYPED: &str = r#"
  attacks: { kind: generate, model: warmup.model, data: world.seeds, prompts: 4, prompt: "<attacker> {{ seed }} <sep>", sampling: { temperature: 0.7, max_new_tokens: 24 } }
  responses:
    kind: respond
    data: attacks
    models:
      - { model: warmup.model, weight: 0.5, prompt: "<defender> {{ prompt }} <sep>", too_long: skip }
      - { model: warmup.model, name: b, weight: 0.5, prompt: "<defender> {{ prompt }} <sep>", too_long: error }
    sampling: { temperature: 0.5, max_new_tokens: 16 }
  verdicts: { kind: judge, data: responses, model: warmup.model, labels: { choice: { negative: negative, rejective: rejective, positive: positive } }, too_long: skip }
  plain: { kind: judge, data: responses, model: warmup.model }
  meanings: { kind: meaning, data: attacks, model: warmup.model, labels: { choice: { kept: kept, lost: lost } } }
  rewards: { kind: reward, data: attacks, terms: [{ success: { verdicts: verdicts, meanings: meanings } }] }
  update: { kind: update, model: warmup.model, data: rewards, reference: warmup.model, algorithm: { grpo: { lr: 1e-3, kl: 0.1 } } }
  careful: { kind: update, model: warmup.model, data: rewards, reference: warmup.model, algorithm: { grpo: { lr: 1e-4, kl: 0.1 } } }
"#;

/// The same by roles and defaults.
const SHARED: &str = r#"
  attacks: { kind: generate, prompts: $prompts, sampling: { max_new_tokens: 24 } }
  responses:
    kind: respond
    data: attacks
    models: [{ weight: 0.5 }, { name: b, weight: 0.5, too_long: error }]
    sampling: { max_new_tokens: 16 }
  verdicts: { kind: judge, data: responses }
  plain: { kind: judge, role: null, data: responses, too_long: error }
  meanings: { kind: meaning, role: kept, data: attacks, model: warmup.model }
  rewards: { kind: reward, data: attacks, terms: [{ success: { verdicts: verdicts, meanings: meanings } }] }
  update: { kind: update, data: rewards }
  careful: { kind: update, data: rewards, algorithm: { grpo: { lr: 1e-4 } } }
"#;

const ROLES: &str = r#"
params: { prompts: 4, hot: { temperature: 0.7, max_new_tokens: 8 } }
roles:
  attacker: { model: warmup.model, prompt: "<attacker> {{ seed }} <sep>", sampling: $hot }
  defender: { model: warmup.model, prompt: "<defender> {{ prompt }} <sep>", too_long: skip, sampling: { temperature: 0.5 } }
  evaluator: { labels: { choice: { negative: negative, rejective: rejective, positive: positive } } }
  kept: { labels: { choice: { kept: kept, lost: lost } } }
defaults:
  generate: { data: world.seeds }
  judge: { model: warmup.model, too_long: skip }
  update: { model: warmup.model, reference: warmup.model, algorithm: { grpo: { lr: 1e-3, kl: 0.1 } } }
"#;

fn shared() -> String {
    format!("pipeline: p\n{ROLES}stages:\n{WORLD}{SHARED}")
}

#[test]
fn what_roles_and_defaults_fill_in_counts_as_typed() {
    let space = Space::new();
    space.write("typed.yaml", &format!("pipeline: p\nstages:\n{WORLD}{TYPED}"));
    space.write("shared.yaml", &shared());
    space.triplay(&["pipeline", "run", "typed.yaml", "--json"]).ok();
    let again = space.triplay(&["pipeline", "run", "shared.yaml", "--json"]).ok().json();
    assert_eq!(again["ran"], 0, "every node has the key that it has when all is typed: {again}");
    // A parameter in a role changes what takes it, and the role of an entry comes before its stage's.
    let other = space.triplay(&["pipeline", "plan", "shared.yaml", "--set", "hot={ temperature: 0.9 }"]).ok();
    assert!(other.out.contains("attacks"), "{}", other.out);
}

#[test]
fn each_value_is_shown_with_its_place() {
    let space = Space::new();
    space.write("p.yaml", &shared());
    let check = space.triplay(&["pipeline", "check", "p.yaml"]).ok();
    assert!(!check.err.contains("no stage uses"), "{}", check.err);
    assert!(
        check.out.contains("  attacks    1 value from defaults.generate, 2 values from roles.attacker\n"),
        "{}",
        check.out
    );
    let shown = space.triplay(&["pipeline", "show", "p.yaml", "attacks", "careful"]).ok().out;
    for (line, origin) in [
        ("attacks:", "p.yaml:19"),
        ("  prompts: 4", "p.yaml:19, $prompts"),
        ("  model: warmup.model", "roles.attacker (p.yaml:5)"),
        ("  data: world.seeds", "defaults.generate (p.yaml:10)"),
        ("    max_new_tokens: 24", "p.yaml:19"),
        ("    temperature: 0.7", "params.hot (p.yaml:3)"),
        ("    top_p: 1.0", "default of generate"),
        ("      lr: 1e-4", "p.yaml:30"),
        ("      kl: 0.1", "defaults.update (p.yaml:12)"),
    ] {
        let found = shown.lines().filter(|shown| {
            shown
                .split_once("  # ")
                .is_some_and(|(yaml, comment)| yaml.trim_end() == line && comment == origin)
        });
        assert_eq!(found.count(), 1, "`{line}  # {origin}` in\n{shown}");
    }
    assert!(!shown.contains("verdicts:"), "only the stages that are named: {shown}");
    let set =
        space.triplay(&["pipeline", "show", "p.yaml", "attacks", "--set", "hot.temperature=0.25"]).ok().out;
    assert!(set.contains("    temperature: 0.25"), "{set}");
}

#[test]
fn what_nothing_takes_is_a_warning() {
    let space = Space::new();
    let text = "pipeline: p\nroles: { sage: { chat: true } }\ndefaults: { judge: { chat: true } }\nstages:\n  a: { kind: exec, command: [echo] }\n";
    space.write("p.yaml", text);
    let err = space.triplay(&["pipeline", "check", "p.yaml"]).ok().err;
    assert!(err.contains("warning: p.yaml:2:10: no stage takes the role `sage`"), "{err}");
    assert!(err.contains("warning: p.yaml:3:13: no stage is of the kind `judge`"), "{err}");
}

/// A pipeline with two roles and the stages `attacks` and `a`.
fn with_roles(head: &str, stage: &str) -> String {
    let roles = "roles:\n  calm: { sampling: { temperature: 0.2, max_new_tokens: 8 } }\n  loud: { sampling: { temperature: 0.2, max_new_tokens: 64 } }\n";
    let attacks = "  attacks: { kind: generate, model: warmup.model, data: world.seeds, prompts: 4 }\n";
    format!("pipeline: p\n{roles}{head}stages:\n{WORLD}{attacks}  a: {{ {stage} }}\n")
}

#[test]
fn defenders_must_leave_one_sampling_to_their_stage() {
    let space = Space::new();
    let check = |roles: [&str; 2], sampling: &str| {
        let [one, other] = roles.map(|role| format!("role: {role}, model: warmup.model, weight: 0.5"));
        let models = format!("[{{ {one}, name: x }}, {{ {other}, name: y }}]");
        let stage = format!("kind: respond, data: attacks, models: {models}, sampling: {sampling}");
        space.write("p.yaml", &with_roles("", &stage));
        space.triplay(&["pipeline", "check", "p.yaml"])
    };
    let differs =
        "must have one `sampling.max_new_tokens` for all its entries, found 8 from the role `calm` and";
    check(["calm", "loud"], "{ temperature: 0.5 }").fails(2, &format!("{differs} 64 from the role `loud`"));
    check(["calm", "null"], "{ temperature: 0.5 }")
        .fails(2, &format!("{differs} nothing from entries without a role"));
    check(["calm", "loud"], "{ max_new_tokens: 16 }").ok();
    check(["calm", "null"], "{ temperature: 0.5, max_new_tokens: 16 }").ok();
}

#[test]
fn experts_and_arbiters_of_the_defaults_take_roles() {
    let space = Space::new();
    let show = |head: &str, stage: &str| {
        space.write("p.yaml", &with_roles(head, stage));
        space.triplay(&["pipeline", "show", "p.yaml", "a"]).ok().out
    };
    let safety =
        "defaults: { vote: { experts: { safety: [{ role: calm, name: s, model: warmup.model }] } } }\n";
    let vote =
        "kind: vote, data: world.pairs, prompts: 4, experts: { utility: [{ name: u, model: warmup.model }] }";
    let shown = show(safety, vote);
    assert!(shown.contains("max_new_tokens: 8 "), "{shown}");
    let judge = "defaults: { prefer: { by: { judge: { role: loud } } } }\n";
    let prefer = "kind: prefer, by: { judge: { data: attacks, model: warmup.model, prompt: '{{ prompt }} {{ first }} {{ second }}' } }";
    let shown = show(judge, prefer);
    assert!(shown.contains("max_new_tokens: 64"), "{shown}");
}

#[test]
fn the_pipelines_say_each_thing_once() {
    for (name, most) in [("quickstart", 130), ("huggingface", 200)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("pipelines/{name}.yaml"));
        let text = std::fs::read_to_string(&path).unwrap();
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let lines = text.lines().filter(is_code).count();
        assert!(lines <= most, "{name}: {lines} lines");
    }
}
