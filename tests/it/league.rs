//! Attackers against defenders: `results table --league`, `results panel`, and the first figure of a report.

use serde_json::Value;

use crate::space::Space;

/// Attackers and defenders that continue from a warm-up, different ones in each ablation, evaluated before and after, with the
/// `cross_play` stage that `results panel` runs.
fn pipeline() -> String {
    let evaluate = |name: &str, phase: &str, attacker: &str, defender: &str| {
        format!(
            "  {name}:
    kind: evaluate
    phase: {phase}
    attacker: {attacker}.model
    defender: {defender}.model
    evaluator: warmup.model
    others: [{{ model: other.model, name: c }}]
    seeds: world.seeds
    benchmark: world.benchmark
    benign: world.benign
    pairs: world.pairs
    world: world.world
    group: 1
"
        )
    };
    let stages = "pipeline: games
params: { steps: 40, profile: b }
stages:
  world: { kind: sandbox, sft: 4000, sft_others: 400, benchmark: 8, pairs: 8, benign: 1 }
  vocabulary: { kind: tokenizer, data: world.vocabulary, algorithm: word_level }
  warmup:
    kind: sft
    data: world.sft
    tokenizer: vocabulary
    init: { hidden: 64, layers: 2, heads: 4, positions: 96 }
    steps: 200
    batch: 48
    lr: 4e-3
  attacker: { kind: sft, data: world.sft, model: warmup.model, steps: $steps, batch: 48, lr: 3e-3 }
  defender: { kind: sft, data: world.sft_others, subset: $profile, model: warmup.model, steps: $steps, batch: 16, lr: 2e-3 }
  other: { kind: sft, data: world.sft_others, subset: c, model: warmup.model, steps: 20, batch: 16, lr: 2e-3 }
";
    let panel = "  panel:
    kind: cross_play
    attackers: { own: attacker.model, warm-up: warmup.model }
    defenders: { own: defender.model, warm-up: warmup.model, frozen c: other.model }
    seeds: world.seeds
    world: world.world
    group: 1
    seed: 77
ablations: { long: {}, short: { steps: 10, profile: c } }
";
    let before = evaluate("before", "warm-up", "warmup", "warmup");
    stages.to_owned() + &before + &evaluate("after", "after", "attacker", "defender") + panel
}

fn names(league: &Value, key: &str) -> Vec<String> {
    league[key].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// The success of an attacker against a defender, over seeds.
fn success<'l>(league: &'l Value, attacker: &str, defender: &str) -> &'l Value {
    let place = |key: &str, name: &str| names(league, key).iter().position(|known| known == name).unwrap();
    &league["success"][place("attackers", attacker)][place("defenders", defender)]
}

#[test]
fn what_ablations_came_to_meets_on_a_panel_that_all_of_them_share() {
    let space = Space::new();
    space.write("games.yaml", &pipeline());
    let run = ["pipeline", "run", "games.yaml", "--seeds", "5,6", "--ablation", "all", "--json"];
    let run = space.triplay(&run).json();
    let run = run["run"].as_str().unwrap();

    let panel = space.triplay(&["results", "panel", "--json"]).json();
    assert_eq!(panel["run"], run, "{panel}");
    let [league] = &panel["leagues"].as_array().unwrap()[..] else { panic!("{panel}") };
    assert_eq!((&league["ablation"], &league["node"]), (&"".into(), &"panel".into()), "{league}");
    assert_eq!(names(league, "attackers"), ["long", "short", "warm-up"]);
    assert_eq!(names(league, "defenders"), ["frozen c", "long", "short", "warm-up"]);
    assert_eq!(league["attacker_means"][1]["count"], 2, "an interval is over seeds: {league}");
    let nodes = std::fs::read_to_string(space.path(panel["panel"].as_str().unwrap()).join("nodes.jsonl"));
    let nodes = nodes.unwrap();
    assert_eq!(nodes.lines().count(), 2, "nothing is trained, and no seed meets another: {nodes}");
    assert!(nodes.contains("\"s5/panel\"") && nodes.contains("\"s6/panel\""), "{nodes}");

    // `long` on the panel is the final model of the ablation `long`.
    let own = space.triplay(&["results", "table", "--league", "--json"]).json();
    let leagues = own["leagues"].as_array().unwrap();
    assert_eq!(leagues.len(), 2, "`latest` is the run and not its panel: {own}");
    for own in leagues {
        let ablation = own["ablation"].as_str().unwrap();
        let known = [("own", ablation), ("warm-up", "warm-up"), ("frozen c", "frozen c")];
        for ((attacker, called), (defender, named)) in
            known[..2].iter().flat_map(|attacker| known.iter().map(move |defender| (*attacker, *defender)))
        {
            let (here, there) = (success(own, attacker, defender), success(league, called, named));
            assert_eq!(here, there, "{attacker} against {defender} in {ablation}");
        }
        let cells: Vec<f64> = ["own", "warm-up", "frozen c"]
            .iter()
            .map(|defender| success(own, "own", defender)["mean"].as_f64().unwrap())
            .collect();
        let mean = own["attacker_means"][0]["mean"].as_f64().unwrap();
        assert!((mean - cells.iter().sum::<f64>() / 3.0).abs() < 1e-12, "{own}");
    }

    let rows = league["success"].as_array().unwrap();
    assert!(
        rows[0] != rows[1] && rows[0][1] != rows[0][2],
        "models differ, or who is who could not be told: {league}"
    );

    // A repeated panel has nothing to do, and prints what `results table` prints for its run.
    let text = space.triplay(&["results", "panel", run]);
    let folder = panel["panel"].as_str().unwrap();
    let said =
        format!("3 attackers played 4 defenders of {run}, the world's oracle judged\npanel: {folder}\n");
    let table = space.triplay(&["results", "table", "games-panel/latest", "--league"]);
    assert_eq!((text.code, text.out), (Some(0), said + &table.out), "{}{}", text.err, table.err);
    let table = table.out;
    assert!(table.contains("\npanel: attack success, percent\nattacker \\ defender  "), "{table}");
    assert!(table.contains("in brackets its 95 % interval over 2 seeds\n"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let one = ["results", "table", run, "--league", "--ablation", "short", "--markdown"];
    let one = space.triplay(&one).out;
    assert!(
        one.contains(
            "\nAttack success in percent, short/panel:\n\n| attacker \\ defender | mean | frozen c | own | warm-up |\n"
        ),
        "{one}"
    );
    assert!(!one.contains("long/panel"), "{one}");

    // The report begins with the same numbers.
    let seen = space.triplay(&["report", "games-panel/latest", "-o", "page.html"]);
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    let html = std::fs::read_to_string(space.path("page.html")).unwrap();
    let start = html.find(" id=\"report\">").unwrap() + " id=\"report\">".len();
    let report: Value = serde_json::from_str(html[start..].split("</script>").next().unwrap()).unwrap();
    let matrix = &report["matrices"][0];
    assert_eq!(
        (&matrix["section"], &matrix["title"]),
        (&"cross_play".into(), &"Attack success: panel".into())
    );
    assert_eq!(matrix["rows"], league["attackers"]);
    for (drawn, shown) in [("row_means", "attacker_means"), ("column_means", "defender_means")] {
        let values = |list: &Value, key: &str| -> Vec<Value> {
            list.as_array().unwrap().iter().map(|found| found[key].clone()).collect()
        };
        assert_eq!(values(&matrix[drawn], "value"), values(&league[shown], "mean"), "{matrix}");
    }

    // A model may judge instead of the oracle.
    let judge = format!("{run}:long-s5/warmup");
    let judged = space.triplay(&["results", "panel", run, "--with", &judge]);
    assert!(judged.out.contains(&format!(", {judge} judged\n")), "{}{}", judged.out, judged.err);

    space.triplay(&["results", "panel", "games-panel/latest"]).fails(2, "must have evaluated its models");
    space
        .triplay(&["results", "panel", "latest@long"])
        .fails(2, "must be a whole run, not one of its ablations or seeds, found latest@long");
    let removed = space.triplay(&["runs", "rm", run]);
    assert_eq!(removed.code, Some(0), "the panel's file is triplay's own: {}", removed.err);
}

#[test]
fn a_run_without_a_meeting_has_no_league_and_says_how_to_have_one() {
    let space = Space::new();
    space.run(&[]);
    space.triplay(&["results", "table", "latest", "--league"]).fails(
        2,
        "`--league` needs a finished `cross_play` stage, found none; `triplay results panel RUN` runs one on the \
         ablations of a run",
    );
    // One ablation, evaluated once: there is no warm-up to show.
    let panel = space.triplay(&["results", "panel", "--json"]).json();
    let league = &panel["leagues"][0];
    assert_eq!(names(league, "attackers"), ["as it stands"], "{panel}");
    assert_eq!(names(league, "defenders"), ["as it stands", "frozen c"], "{panel}");
}
