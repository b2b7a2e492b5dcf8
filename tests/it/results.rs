//! Results over seeds: `measure`, `cross_play`, `results table` and `results plot`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::space::Space;

/// small.yaml with every evaluating stage, and two ablations.
fn pipeline() -> String {
    let more = r#"
  cross:
    kind: cross_play
    attackers: { round *: "play[*].attacker", round 0: "play[0].attacker" }
    defenders: { round *: "play[*].defender", other: "others[b].model" }
    seeds: world.seeds
    world: world.world
    group: 1
    sampling: { max_new_tokens: 12 }
  judged: { kind: judge, data: after.responses, model: warmup.model }
  benign: { kind: respond, data: world.benign, models: [{ model: play.defender }], sampling: { max_new_tokens: 12 } }
  benign_judged: { kind: judge, data: benign, model: warmup.model }
  labels: { kind: vote, data: play.pairs, world: world.world, prompts: 12 }
  labels_judged: { kind: judge, data: labels, model: play.evaluator }
  measured:
    kind: measure
    phase: judged
    verdicts: judged
    attacks: after.attacks
    embedder: warmup.model
    benign: benign_judged
    evaluator: after.verdicts
    labelled: { experts: { labels: labels, verdicts: labels_judged } }
ablations: { full: {}, flat: { diversity: 0 } }
"#;
    let small = include_str!("small.yaml")
        .replace("    phase: $label\n", "    phase: $label\n    embedder: warmup.model\n");
    small.trim_end().to_owned() + more
}

fn metrics(space: &Space, node: &str) -> BTreeSet<(String, String)> {
    let shown = space.triplay(&["data", "show", node, "--json", "--rows", "1000"]);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    let rows = shown.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.map(|row| (text(&row, "subject"), text(&row, "metric"))).collect()
}

#[test]
fn seeds_and_ablations_stand_together_in_a_table_and_a_picture() {
    let space = Space::new();
    space.write("seeds.yaml", &pipeline());
    let run = ["pipeline", "run", "seeds.yaml", "--seeds", "5,6", "--ablation", "all"];
    let seen = space.triplay(&run);
    assert_eq!(seen.code, Some(0), "{}{}", seen.out, seen.err);
    for expected in [
        "after the last evaluation\n",
        "cross: attack success, percent\n",
        "difference from full after the last evaluation\n",
    ] {
        assert!(seen.out.contains(expected), "{}", seen.out);
    }
    let cross: Vec<&str> = seen.out.lines().filter(|line| line.starts_with("round ")).collect();
    assert_eq!(cross.len(), 6, "three attackers for each ablation: {}", seen.out);

    // Metrics of a judge have the same names as those of the oracle, and a change between the two is no change of a model.
    let table = space.triplay(&["results", "table", "latest"]);
    let note = "note: after and measured have different judges of ";
    assert_eq!(table.err.matches(note).count(), 1, "{}", table.err);
    assert!(table.err.contains(" (kind evaluate → measure): "), "{}", table.err);
    let by_oracle = metrics(&space, "latest@full-s5:after");
    let by_judge = metrics(&space, "latest@full-s5:measured");
    for name in ["attack_success", "rejective", "over_refusal", "judged_success"] {
        let found = ("defender".to_owned(), name.to_owned());
        assert!(by_oracle.contains(&found) && by_judge.contains(&found), "{name}: {by_judge:?}");
    }
    let only = by_judge.difference(&by_oracle).filter(|(subject, metric)| {
        // The judge decides which responses are undetermined and which attacks succeeded.
        let judged = metric.ends_with("determined") || *subject == "successful_attacks";
        !judged && !metric.contains(':') && !subject.contains('/')
    });
    assert_eq!(only.count(), 0, "{by_judge:?}\n{by_oracle:?}");
    for name in ["vendi", "embedding_diversity", "cell_coverage", "cell_entropy"] {
        assert!(by_oracle.contains(&("attacks".into(), name.into())), "{name}: {by_oracle:?}");
    }
    for name in ["accuracy_fresh", "kappa_experts", "accuracy_experts"] {
        assert!(by_oracle.contains(&("evaluator".into(), name.into())), "{name}: {by_oracle:?}");
    }

    let table = space.triplay(&["results", "table", "latest", "--metric", "cross_success"]);
    table.fails(2, "`cross_success` must have a subject: write ");
    let table = space.triplay(&["results", "table", "latest", "--markdown", "--metric", "attack_success"]);
    assert!(table.out.contains("| full | 2 | ") && table.out.contains("| flat | 2 | "), "{}", table.out);
    let json = space.triplay(&["results", "table", "latest@full", "--json"]).json();
    assert_eq!(json["lines"].as_array().unwrap().len(), 2, "{json}");
    assert_eq!(json["lines"][0]["estimates"][0]["count"], 2, "{json}");

    let plot = space.triplay(&["results", "plot", "attacker.kl", "latest", "-o", "kl.svg"]);
    assert_eq!((plot.code, plot.out.as_str()), (Some(0), "kl.svg: written\n"), "{}", plot.err);
    let svg = std::fs::read_to_string(space.path("kl.svg")).unwrap();
    assert!(
        svg.contains(">full</text>") && svg.contains(">flat</text>") && svg.contains("<polygon"),
        "{svg}"
    );
    let png = space.triplay(&["results", "plot", "attacker.kl", "--runs", "latest", "-o", "kl.png"]);
    assert_eq!((png.code, png.out.as_str()), (Some(0), "kl.png: written\n"), "{}", png.err);
    let png = std::fs::read(space.path("kl.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 5_000, "{} bytes", png.len());
    let drawn = space.triplay(&["results", "plot", "attacker.kl"]);
    assert!(drawn.out.contains("kl of attacker") && drawn.out.contains("iteration.step"), "{}", drawn.out);
    assert!(drawn.out.contains(" full") && drawn.out.contains(" flat"), "{}", drawn.out);
    space
        .triplay(&["results", "plot", "attacker.kl", "-o", "kl.gif"])
        .fails(2, "`--out` must end in .svg or .png");
    space
        .triplay(&["results", "plot", "flavour", "latest", "-o", "x.svg"])
        .fails(2, "no metric `flavour`; there are ");
    space.triplay(&["results", "table", "latest@none"]).fails(2, "has no ablation or seed `none`");
}
