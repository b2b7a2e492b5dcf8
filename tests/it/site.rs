//! The site file: what a place has.

use crate::space::{Seen, Space};

/// A stage that takes a cauldron and notes when it begins and ends.
fn brew(name: &str, cauldron: &str) -> String {
    format!(
        "pipeline: {name}\nstages:\n  brew:\n    kind: exec\n    command: 'echo begun >> $DIARY; sleep 0.4; echo ended >> $DIARY; \
         echo {name}'\n    pass: [DIARY]\n    resources: {{ {cauldron}: 1 }}\n"
    )
}

#[test]
fn a_resource_of_the_host_is_shared_by_all_runs_and_one_of_a_run_is_not() {
    let space = Space::new();
    // Of the host: every test process needs a name of its own.
    let cauldron = format!("cauldron-{}", std::process::id());
    let diary = |of: &str| {
        let diary = space.path(&format!("diary-{of}"));
        space.write("lab.yaml", &format!("resources: {{ {cauldron}: {{ at_once: 1, of: {of} }} }}\n"));
        let names = [format!("one-{of}"), format!("two-{of}"), format!("three-{of}")];
        let runs: Vec<_> = names
            .iter()
            .map(|name| {
                space.write(&format!("{name}.yaml"), &brew(name, &cauldron));
                let file = format!("{name}.yaml");
                let mut command = space.command(&["pipeline", "run", &file, "--site", "lab.yaml", "--json"]);
                command.env("DIARY", &diary).spawn().unwrap()
            })
            .collect();
        let seen: Vec<Seen> = runs.into_iter().map(|run| run.wait_with_output().unwrap().into()).collect();
        assert!(seen.iter().all(|seen| seen.json()["ran"] == 1));
        (std::fs::read_to_string(diary).unwrap(), seen)
    };
    let (of_host, seen) = diary("host");
    assert_eq!(of_host, "begun\nended\n".repeat(3), "one after the other");
    let waits = format!("waiting: another process on this host has its {cauldron}");
    assert!(seen.iter().any(|seen| seen.err.contains(&waits)), "{}", seen[0].err);
    // Runs with a cauldron each may overlap; that they do is up to the machine.
    assert_eq!(diary("run").0.lines().count(), 6);
}

#[test]
fn the_site_file_beside_a_pipeline_counts_for_no_key_and_replaces_the_pipelines_limits() {
    let space = Space::new();
    let stages = "stages:\n  brew: { kind: exec, command: echo moss, resources: { cauldron: 3 } }\n";
    space.write("brew.yaml", &format!("pipeline: brew\n{stages}"));
    let run = |more: &[&str]| space.triplay(&[&["pipeline", "run", "brew.yaml", "--json"], more].concat());
    run(&[]).fails(2, "there is no resource `cauldron`");
    space.write("triplay.yaml", "resources: { cauldron: 4, gpu: 2 }\n");
    assert_eq!(run(&[]).json()["ran"], 1);
    space.write("triplay.yaml", "resources: { cauldron: 3 }\n");
    assert_eq!(run(&[]).json()["cached"], 1);
    space.write("brew.yaml", &format!("pipeline: brew\nresources: {{ cauldron: 9 }}\n{stages}"));
    space.write("small.yaml", "resources: { cauldron: 2 }\n");
    run(&["--site", "small.yaml"]).fails(2, "the stage takes 3 of `cauldron`, but the limit is 2");
    let mut command = space.command(&["pipeline", "check", "brew.yaml"]);
    let seen = Seen::from(command.env("TRIPLAY_SITE", "small.yaml").output().unwrap());
    seen.fails(2, "the limit is 2");
    // The report of a run needs no site.
    std::fs::remove_file(space.path("triplay.yaml")).unwrap();
    space.write("brew.yaml", &format!("pipeline: brew\n{stages}"));
    run(&[]).fails(2, "there is no resource `cauldron`");
    assert!(space.triplay(&["runs", "show", "latest"]).ok().out.contains("brew"));
    // A pipeline of this name is no site file.
    space.write("triplay.yaml", "pipeline: other\nstages:\n  brew: { kind: exec, command: echo rue }\n");
    assert_eq!(space.triplay(&["pipeline", "run", "triplay.yaml", "--json"]).json()["ran"], 1);
}

#[test]
fn what_is_wrong_in_a_site_file_is_named_with_its_place() {
    let space = Space::new();
    space.write("p.yaml", "pipeline: p\nstages:\n  a: { kind: exec, command: echo moss }\n");
    let check = |site: &str| {
        space.write("triplay.yaml", site);
        space.triplay(&["pipeline", "check", "p.yaml"])
    };
    for (site, error) in [
        ("resorces: { gpu: 1 }\n", "triplay.yaml:1:1: a site file has no key `resorces`"),
        ("- gpu\n", "a site file must be a map such as { resources: { gpu: 2 } }, found a list"),
        (
            "resources: { api: { at_once: 2, of: hst } }\n",
            "triplay.yaml:1:37: `of` must be `run` or `host`, found",
        ),
        (
            "resources: { api: { per_minute: 2, of: host } }\n",
            "`api` must have either `per_minute`, which counts for a run, or `of: host`",
        ),
        ("resources: { gpu: { at_once: 2, of: run } }\n", "the GPUs are always those of the host"),
        (
            "resources: { gpu: many }\n",
            "triplay.yaml:1:19: the amount of `gpu` must be a whole number from 1",
        ),
    ] {
        check(site).fails(2, error);
    }
    assert!(check("").ok().err.is_empty(), "an empty site file says nothing");
    space.write("p.yaml", "pipeline: p\nresources: { api: { at_once: 2, of: host } }\nstages:\n  a: { kind: exec, command: echo moss }\n");
    check("").fails(2, "`of` of `api` must be in a site file: it is about the machine");
    space
        .triplay(&["pipeline", "check", "p.yaml", "--site", "none.yaml"])
        .fails(2, "none.yaml: there is no such site file");
}

#[test]
fn jobs_limit_what_one_run_takes_of_the_hosts_cpus() {
    let space = Space::new();
    let cpu = "resources: { cpu: { at_once: 3, of: host } }\n";
    space.write("triplay.yaml", cpu);
    let command = "echo begun >> $DIARY; sleep 0.2; echo ended >> $DIARY; echo ${herb}";
    space.write(
        "p.yaml",
        &format!(
            "pipeline: p\nstages:\n  brew: {{ kind: exec, command: '{command}', pass: [DIARY], matrix: {{ herb: [moss, rue, fern] }} }}\n"
        ),
    );
    let diary = space.path("diary");
    let mut run = space.command(&["pipeline", "run", "p.yaml", "--jobs", "1", "--json"]);
    let seen = Seen::from(run.env("DIARY", &diary).output().unwrap());
    assert_eq!(seen.json()["ran"], 3);
    assert_eq!(std::fs::read_to_string(&diary).unwrap(), "begun\nended\n".repeat(3));
}
