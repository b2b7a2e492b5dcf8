//! Who broke whom: `results table --league`, `results panel`, and the first figure of a report.

use serde_json::Value;

use crate::space::Space;

/// small.yaml with an evaluation before it trains, and two ablations. Its own meeting is drawn as that of `results panel` is.
fn pipeline() -> String {
    let before = "  before:
    kind: evaluate
    phase: warm-up
    attacker: warmup.model
    defender: warmup.model
    evaluator: warmup.model
    others: [{ model: \"others[c].model\", name: c }]
    seeds: world.seeds
    benchmark: world.benchmark
    benign: world.benign
    pairs: world.pairs
    world: world.world
    group: 1
    sampling: { max_new_tokens: 12 }
  play:
";
    let panel = "  panel:
    kind: cross_play
    attackers: { own: play.attacker, warm-up: warmup.model }
    defenders: { own: play.defender, warm-up: warmup.model }
    seeds: world.seeds
    world: world.world
    group: 1
    seed: 77
    sampling: { max_new_tokens: 12 }
ablations: { full: {}, flat: { diversity: 0 } }
";
    let small = include_str!("small.yaml").replace("  play:\n", before);
    small.trim_end().to_owned() + "\n" + panel
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
    assert_eq!(names(league, "attackers"), ["flat", "full", "warm-up"]);
    assert_eq!(names(league, "defenders"), ["flat", "frozen c", "full", "warm-up"]);
    assert_eq!(league["attacker_means"][1]["count"], 2, "an interval is over seeds: {league}");
    let nodes = std::fs::read_to_string(space.path(panel["panel"].as_str().unwrap()).join("nodes.jsonl"));
    let nodes = nodes.unwrap();
    assert_eq!(nodes.lines().count(), 2, "nothing is trained, and no seed meets another: {nodes}");
    assert!(nodes.contains("\"s5/panel\"") && nodes.contains("\"s6/panel\""), "{nodes}");

    // Who is called `full` on the panel is who `full` came to.
    let own = space.triplay(&["results", "table", "--league", "--json"]).json();
    let own = own["leagues"].as_array().unwrap();
    assert_eq!(own.len(), 2, "`latest` is the run and not its panel: {own:?}");
    for league_of in own {
        let ablation = league_of["ablation"].as_str().unwrap();
        for (here, there) in [("own", ablation), ("warm-up", "warm-up")] {
            assert_eq!(success(league_of, here, here), success(league, there, there), "{ablation}");
        }
        let cells: Vec<f64> = ["own", "warm-up"]
            .iter()
            .map(|defender| success(league_of, "own", defender)["mean"].as_f64().unwrap())
            .collect();
        let mean = league_of["attacker_means"][0]["mean"].as_f64().unwrap();
        assert!((mean - (cells[0] + cells[1]) / 2.0).abs() < 1e-12, "{league_of}");
    }

    // Again there is nothing to do, and what is shown is what `results table` shows of its run.
    let text = space.triplay(&["results", "panel", run]);
    let folder = panel["panel"].as_str().unwrap();
    let said =
        format!("3 attackers and 4 defenders of {run} met, the world's oracle judged\npanel: {folder}\n");
    let table = space.triplay(&["results", "table", "games-panel/latest", "--league"]);
    assert_eq!((text.code, text.out), (Some(0), said + &table.out), "{}{}", text.err, table.err);
    let table = table.out;
    assert!(table.contains("\npanel: attack success, percent\nattacker \\ defender  "), "{table}");
    assert!(table.contains("± half of its 95 % interval over seeds, of which there are 2\n"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let one = ["results", "table", run, "--league", "--ablation", "flat", "--markdown"];
    let one = space.triplay(&one).out;
    assert!(
        one.contains(
            "\nFlat/panel: attack success, percent:\n\n| attacker \\ defender | mean | own | warm-up |\n"
        ),
        "{one}"
    );
    assert!(!one.contains("ull/panel"), "{one}");

    // A model may judge in the oracle's place.
    let judge = format!("{run}:full-s5/warmup");
    let judged = space.triplay(&["results", "panel", run, "--with", &judge]);
    assert!(judged.out.contains(&format!(" met, {judge} judged\n")), "{}{}", judged.out, judged.err);

    // The report begins with it, with the same numbers.
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

    space.triplay(&["results", "panel", "games-panel/latest"]).fails(2, "must have evaluated its models");
    space
        .triplay(&["results", "panel", "latest@full"])
        .fails(2, "must be a whole run, whose ablations meet, found latest@full");
    let removed = space.triplay(&["runs", "rm", run]);
    assert_eq!(removed.code, Some(0), "the panel's file is triplay's own: {}", removed.err);
}

#[test]
fn a_run_without_a_meeting_has_no_league_and_says_how_to_have_one() {
    let space = Space::new();
    space.run(&[]);
    space.triplay(&["results", "table", "latest", "--league"]).fails(
        2,
        "--league shows `cross_play` stages, of which one must be done here, found none; `triplay results panel RUN` \
         lets the ablations of a run meet",
    );
    // One ablation, evaluated once: there is no warm-up to show.
    let panel = space.triplay(&["results", "panel", "--json"]).json();
    let league = &panel["leagues"][0];
    assert_eq!(names(league, "attackers"), ["as it stands"], "{panel}");
    assert_eq!(names(league, "defenders"), ["as it stands", "frozen c"], "{panel}");
}
