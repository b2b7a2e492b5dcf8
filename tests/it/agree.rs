//! Parameters on which two stages must agree: a parameter that only one stage gives is filled in for the other, two values are
//! compared, and warnings come before anything runs. `wrong/agree.yaml` has the errors.

use crate::space::{Seen, Space};

/// The first stages of a pipeline: a small model that plays, and its samples.
const PLAY: &str = "\
pipeline: p
params: { PARAMS }
stages:
  world: { kind: sandbox, sft: 200, sft_others: 10, sft_meaning: 10, benchmark: 9, pairs: 9, benign: 1 }
  vocabulary: { kind: tokenizer, data: world.vocabulary, algorithm: word_level }
  warmup: { kind: sft, data: world.sft, tokenizer: vocabulary, init: { hidden: 16, layers: 1, heads: 1, positions: $positions }, steps: 20, batch: 8, lr: 1e-2 }
  attacks: { kind: generate, model: warmup.model, data: world.seeds, prompts: 3, sampling: { max_new_tokens: $attack } }
";

/// An update of the defender.
const STEP: &str = "  \
  responses: { kind: respond, data: attacks, models: [{ model: warmup.model }], group: $group, sampling: { temperature: $hot, max_new_tokens: 12 } }
  verdicts: { kind: judge, data: responses, model: warmup.model }
  rewards: { kind: reward, data: responses, terms: [{ class_value: { verdicts: verdicts } }] }
";

fn update(more: &str) -> String {
    format!(
        "{PLAY}{STEP}  update: {{ kind: update, model: warmup.model, data: rewards, algorithm: {{ grpo: {{ lr: 1e-3{more} }} }} }}\n"
    )
}

/// The pipeline with the parameters that it uses.
fn with_params(yaml: &str) -> String {
    let params = ["group: 4", "hot: 0.7", "verdict: 0", "rounds: 1", "attack: 12", "positions: 96"];
    let is_used = |param: &&str| yaml.contains(&format!("${}", param.split(':').next().unwrap()));
    yaml.replace("PARAMS", &params.into_iter().filter(is_used).collect::<Vec<_>>().join(", "))
}

fn check(yaml: &str, more: &[&str]) -> Seen {
    let space = Space::new();
    space.write("p.yaml", &with_params(yaml));
    let seen = space.triplay(&[&["pipeline", "check", "p.yaml"], more].concat());
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    seen
}

#[test]
fn the_loss_has_the_temperature_of_sampling_and_counts_as_if_it_were_typed() {
    let space = Space::new();
    space.write("p.yaml", &with_params(&update("")));
    let run =
        |more: &[&str]| space.triplay(&[&["pipeline", "run", "p.yaml", "--json"], more].concat()).json();
    let job = || {
        let seen = space.triplay(&["pipeline", "explain", "p.yaml", "update", "--job"]);
        seen.json()["params"]["algorithm"]["grpo"]["temperature"].clone()
    };
    assert_eq!(run(&[])["failed"], 0);
    assert_eq!(job(), 0.7);
    space.write("p.yaml", &with_params(&update(", temperature: 0.7")));
    assert_eq!(run(&[])["ran"], 0, "typed or taken, it is the same");
    // Greedy sampling: log-probabilities have temperature 1, that of the model itself.
    space.write("p.yaml", &with_params(&update("")));
    assert_eq!(run(&["--set", "hot=0"])["failed"], 0);
    let greedy =
        space.triplay(&["pipeline", "explain", "p.yaml", "update", "--job", "--set", "hot=0"]).json();
    assert_eq!(greedy["params"]["algorithm"]["grpo"]["temperature"], 1.0);
}

#[test]
fn a_step_that_cannot_learn_is_told_of_by_check_plan_and_run_and_in_the_metrics() {
    let space = Space::new();
    space.write("p.yaml", &with_params(&update("")));
    let expected = "warning: p.yaml:11:54: nothing is learnt from the rewards: `group` of `responses` (p.yaml:8:88) is 1, and \
                    advantages are relative to the group, so all are 0\n";
    let of = |command: &str| space.triplay(&["pipeline", command, "p.yaml", "--set", "group=1"]);
    for command in ["check", "plan", "run"] {
        let seen = of(command);
        assert_eq!(seen.code, Some(0), "{}", seen.err);
        assert_eq!(seen.err.matches(expected).count(), 1, "{command}: {}", seen.err);
    }
    let seen = of("run");
    let line = "update changed no weights in its step (1): every advantage was 0, since all rewards of each group are equal";
    assert!(seen.err.contains(line), "{}", seen.err);
    let metrics = space.triplay(&["data", "show", "latest:update.metrics", "--json", "--rows", "100"]);
    let flat = metrics.out.lines().find(|line| line.contains("flat_groups")).unwrap();
    let flat: serde_json::Value = serde_json::from_str(flat).unwrap();
    assert_eq!((flat["value"].as_f64(), flat["count"].as_u64()), (Some(1.0), Some(3)));
    // A group of two can be compared.
    let seen = space.triplay(&["pipeline", "check", "p.yaml", "--set", "group=2"]);
    assert_eq!((seen.code, seen.err.as_str()), (Some(0), ""));
    let greedy = check(&update(""), &["--set", "hot=0"]);
    let expected = "nothing is learnt from the rewards: `sampling.temperature` of `responses` (p.yaml:8:121) is 0, so all \
                    completions of a group are the same";
    assert!(greedy.err.contains(expected), "{}", greedy.err);
}

#[test]
fn completions_of_another_model_are_no_rollouts_of_ones_own() {
    let yaml = format!(
        "{PLAY}{STEP}  other: {{ kind: sft, data: world.sft, model: warmup.model, steps: 2, lr: 1e-3 }}\n  \
         update: {{ kind: update, model: other.model, data: rewards, algorithm: {{ grpo: {{ lr: 1e-3 }} }} }}\n"
    );
    let expected = "warning: p.yaml:12:34: `other.model` learns from completions of another model, `warmup.model`: see \
                    `models.0.model` of `responses` (p.yaml:8:64)\n";
    let seen = check(&yaml, &[]);
    assert!(seen.err.contains(expected), "{}", seen.err);
}

#[test]
fn a_judge_whose_prompt_never_says_its_labels_is_told_of() {
    let judge = |prompt: &str| {
        format!(
            "{PLAY}{STEP}  asked: {{ kind: judge, data: responses, model: warmup.model, labels: {{ choice: {{ negative: A, rejective: B, \
             positive: C }} }}, prompt: \"{prompt}\" }}\n"
        )
    };
    let seen = check(&judge("{{ prompt }} {{ response }} A, B or C?"), &[]);
    assert_eq!(seen.err, "");
    let seen = check(&judge("{{ prompt }} {{ response }} A or Bad?"), &[]);
    let expected = "the evaluator's prompt `{{ prompt }} {{ response }} A or Bad?` never mentions `B`, `C`, by which its answers are \
                    read: a model not trained on them cannot know them";
    assert!(seen.err.starts_with("warning: p.yaml:11:") && seen.err.contains(expected), "{}", seen.err);
}

#[test]
fn an_evaluator_is_asked_as_it_was_trained_to_be() {
    let yaml = |labels: &str, repeat: usize| {
        format!(
            "{PLAY}  play:
    repeat: {repeat}
    carry: {{ evaluator: warmup.model }}
    stages:
      responses: {{ kind: respond, data: attacks, models: [{{ model: warmup.model }}] }}
      used: {{ kind: judge, data: responses, model: evaluator{labels} }}
      labels: {{ kind: vote, data: world.pairs, world: world.world, prompts: 4 }}
      verdicts: {{ kind: judge, data: labels, model: evaluator, group: 4, sampling: {{ temperature: 1, max_new_tokens: 3 }} }}
      rewards: {{ kind: reward, data: verdicts, terms: [{{ expert_label: {{ labels: labels }} }}] }}
      update: {{ kind: update, model: evaluator, data: rewards, algorithm: {{ grpo: {{ lr: 1e-3 }} }} }}
    next: {{ evaluator: update.model }}
"
        )
    };
    let pattern = ", labels: { pattern: { negative: n, rejective: r, positive: p } }";
    assert_eq!(check(&yaml("", 2), &[]).err, "");
    let seen = check(&yaml(pattern, 2), &[]);
    let expected = "warning: p.yaml:13:71: `evaluator` was trained with another `labels` than it is asked with here: see `labels` of \
                    `verdicts` (p.yaml:15:7)\n";
    assert_eq!(seen.err.matches(expected).count(), 1, "{}", seen.err);
    assert_eq!(check(&yaml(pattern, 1), &[]).err, "", "the evaluator of the only round was not trained");
}

#[test]
fn attackers_and_defenders_are_asked_as_they_were_trained_to_be() {
    let yaml = |attacker: &str, defender: &str| {
        format!(
            "{PLAY}  play:
    repeat: 2
    carry: {{ attacker: warmup.model, defender: warmup.model }}
    stages:
      used: {{ kind: generate, model: attacker, data: world.seeds, prompts: 3{attacker} }}
      answered: {{ kind: respond, data: used, models: [{{ model: defender{defender} }}] }}
      sent: {{ kind: generate, model: attacker, data: world.seeds, prompts: 3, group: 2 }}
      responses: {{ kind: respond, data: sent, models: [{{ model: defender }}], group: 2 }}
      verdicts: {{ kind: judge, data: responses, model: warmup.model }}
      attacks_paid: {{ kind: reward, data: sent, terms: [{{ success: {{ verdicts: verdicts }} }}] }}
      paid: {{ kind: reward, data: responses, terms: [{{ class_value: {{ verdicts: verdicts }} }}] }}
      red: {{ kind: update, model: attacker, data: attacks_paid, algorithm: {{ grpo: {{ lr: 1e-3 }} }} }}
      blue: {{ kind: update, model: defender, data: paid, algorithm: {{ grpo: {{ lr: 1e-3 }} }} }}
    next: {{ attacker: red.model, defender: blue.model }}
"
        )
    };
    let prompt = |text: &str| format!(", prompt: \"{text}\"");
    assert_eq!(check(&yaml("", ""), &[]).err, "");
    let seen = check(&yaml(&prompt("Wrap {{ seed }}"), &prompt("Answer {{ prompt }}")), &[]);
    for (model, key, place) in [
        ("attacker", "prompt", "`prompt` of `sent` (p.yaml:14:7)"),
        ("defender", "prompt", "`models.0.prompt` of `responses` (p.yaml:15:56)"),
    ] {
        let expected =
            format!("`{model}` was trained with another `{key}` than it is asked with here: see {place}\n");
        assert_eq!(seen.err.matches(&expected).count(), 1, "{expected}{}", seen.err);
    }
    assert!(seen.err.contains("warning: p.yaml:13:82: `defender`"), "{}", seen.err);
}

#[test]
fn a_model_that_several_roles_share_is_held_against_how_it_was_trained_in_each() {
    let yaml = |defender: &str, more: &str| {
        format!(
            "{PLAY}  play:
    repeat: 2
    carry: {{ own: warmup.model }}
    stages:
      sent: {{ kind: generate, model: own, data: world.seeds, prompts: 3, group: 2, prompt: \"attack {{{{ seed }}}}\" }}
      responses: {{ kind: respond, data: sent, models: [{{ model: own, prompt: \"{defender} {{{{ prompt }}}}\" }}], group: 2 }}
      verdicts: {{ kind: judge, data: responses, model: own }}
      attacks_paid: {{ kind: reward, data: sent, terms: [{{ success: {{ verdicts: verdicts }} }}] }}
      red: {{ kind: update, model: own, data: attacks_paid, algorithm: {{ grpo: {{ lr: 1e-3 }} }} }}
      trained: {{ kind: respond, data: sent, models: [{{ model: red.model, prompt: \"answer {{{{ prompt }}}}\" }}], group: 2 }}
      judged: {{ kind: judge, data: trained, model: warmup.model }}
      paid: {{ kind: reward, data: trained, terms: [{{ class_value: {{ verdicts: judged }} }}] }}
      blue: {{ kind: update, model: red.model, data: paid, algorithm: {{ grpo: {{ lr: 1e-3 }} }} }}
{more}    next: {{ own: blue.model }}
"
        )
    };
    assert_eq!(check(&yaml("answer", ""), &[]).err, "");
    let seen = check(&yaml("tell", ""), &[]);
    let expected = "warning: p.yaml:13:78: `own` was trained with another `prompt` than it is asked with here: see `models.0.prompt` of \
                    `trained` (p.yaml:17:";
    assert!(seen.err.contains(expected) && seen.err.matches("warning").count() == 1, "{}", seen.err);
    // The evaluation of the sandbox has a prompt of its own.
    let evaluated = "      after: { kind: evaluate, phase: x, attacker: blue.model, defender: warmup.model, evaluator: warmup.model, \
                     seeds: world.seeds, benchmark: world.benchmark, benign: world.benign, pairs: world.pairs, world: world.world }\n";
    let seen = check(&yaml("answer", evaluated), &[]);
    let expected =
        "`blue.model` was trained with another `prompt` than it is asked with here: see `prompt` of `sent`";
    assert!(seen.err.contains(expected) && seen.err.matches("warning").count() == 1, "{}", seen.err);
}

#[test]
fn a_pool_and_a_coverage_reward_that_count_other_successes_are_told_of() {
    let yaml = |threshold: &str| {
        format!(
            "{PLAY}{STEP}  paid: {{ kind: reward, data: attacks, terms: [{{ success: {{ verdicts: verdicts }} }}, \
             {{ coverage: {{ pool: world.empty_pool, examples: world.examples, threshold: 0.2 }} }}] }}\n  \
             pool: {{ kind: pool, data: paid, into: world.empty_pool, threshold: {threshold} }}\n"
        )
    };
    assert_eq!(check(&yaml("0.2"), &[]).err, "");
    let seen = check(&yaml("0.5"), &[]);
    let expected = "`threshold` should be that of the term `coverage`, 0.2, found 0.5: the term counts other successes than the \
                    pool takes; see `terms.1.coverage.threshold` of `paid` (p.yaml:11:";
    assert!(seen.err.starts_with("warning: p.yaml:12:") && seen.err.contains(expected), "{}", seen.err);
}

#[test]
fn the_longest_prompt_is_held_against_the_context() {
    let yaml = format!("{PLAY}{STEP}");
    assert_eq!(check(&yaml, &["--set", "positions=30"]).err, "");
    let seen = check(&yaml, &["--set", "positions=24"]);
    let expected = "the defender's longest prompt does not fit: `sampling.max_new_tokens` of `attacks` (p.yaml:7:110), 12, and 12 \
                    for the completion fill the 24 positions of the model `warmup.model`; lower these limits, or write \
                    `too_long: skip`";
    assert!(seen.err.contains(expected), "{}", seen.err);
    let skipping = yaml.replace("{ model: warmup.model }]", "{ model: warmup.model, too_long: skip }]");
    let seen = check(&skipping, &["--set", "positions=24"]);
    assert!(!seen.err.contains("the defender's"), "{}", seen.err);
    assert!(seen.err.contains("the evaluator's longest prompt does not fit"), "{}", seen.err);
}
