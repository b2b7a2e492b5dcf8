//! `exec` stages from their author's view: real commands, run by the real program.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::space::{Seen, Space};

/// Runs a pipeline of these stages, with these variables added to triplay's environment.
pub(crate) fn play(space: &Space, stages: &str, variables: &[(&str, &str)]) -> Seen {
    space.write("p.yaml", &format!("pipeline: p\nstages:\n{stages}"));
    let mut command = space.command(&["pipeline", "run", "p.yaml", "--json"]);
    command.envs(variables.iter().copied()).output().unwrap().into()
}

/// The nodes that a run executed.
pub(crate) fn ran(space: &Space, stages: &str, variables: &[(&str, &str)]) -> Vec<String> {
    space.executed(&play(space, stages, variables).json())
}

/// The text of an output of the latest run.
pub(crate) fn text(space: &Space, output: &str) -> String {
    let seen = space.triplay(&["data", "show", &format!("latest:{output}")]);
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    seen.out
}

#[test]
fn a_command_runs_again_for_what_counts_and_for_nothing_else() {
    let space = Space::new();
    space.write("word.txt", "glowvenom\n");
    let with = |command: &str, word: &str| {
        format!(
            "  brew:\n    kind: exec\n    command: {command}\n    inputs: {{ in.txt: {{ path: word.txt }} }}\n    \
             outputs: {{ out: text }}\n    env: {{ WORD: {word} }}\n    inherit: [CAULDRON]\n    pass: [SECRET]\n"
        )
    };
    let stage = with("cat in.txt > out; echo $WORD $CAULDRON >> out", "moonbane");
    let variables = [("CAULDRON", "iron"), ("SECRET", "one")];
    assert_eq!(ran(&space, &stage, &variables), ["brew"]);
    assert_eq!(text(&space, "brew"), "glowvenom\nmoonbane iron\n");
    assert!(ran(&space, &stage, &variables).is_empty());
    assert!(ran(&space, &stage, &[("CAULDRON", "iron"), ("SECRET", "two")]).is_empty(), "what is passed on");
    let renamed = stage.replace("brew:", "simmer:").replace("[SECRET]", "[SECRET, HOME]");
    assert!(ran(&space, &renamed, &variables).is_empty(), "names");
    assert_eq!(ran(&space, &stage, &[("CAULDRON", "tin")]), ["brew"], "an inherited value");
    assert_eq!(ran(&space, &stage, &[]), ["brew"], "a variable that is not set");
    assert_eq!(ran(&space, &with("cat in.txt > out", "moonbane"), &variables), ["brew"], "the command");
    assert_eq!(ran(&space, &stage.replace("moonbane", "frost"), &variables), ["brew"], "a fixed value");
    space.write("word.txt", "nightfern\n");
    assert_eq!(ran(&space, &stage, &variables), ["brew"], "an input's content");
    assert_eq!(text(&space, "brew"), "nightfern\nmoonbane iron\n");
}

#[test]
fn the_names_of_inherited_variables_and_the_order_of_outputs_count() {
    let space = Space::new();
    let inherit = |name: &str| format!("  a: {{ kind: exec, command: [env], inherit: [{name}] }}\n");
    let variables = [("FERN", "x"), ("MOSS", "x")];
    assert_eq!(ran(&space, &inherit("FERN"), &variables), ["a"]);
    assert_eq!(ran(&space, &inherit("MOSS"), &variables), ["a"]);
    let outputs = |order: &str| {
        format!("  a: {{ kind: exec, command: echo 1 > x; echo 2 > y, outputs: {{ {order} }} }}\n")
    };
    play(&space, &outputs("x: text, y: text"), &[]).json();
    assert_eq!(text(&space, "a"), "1\n");
    play(&space, &outputs("y: text, x: text"), &[]).json();
    assert_eq!(text(&space, "a"), "2\n");
}

#[test]
fn a_command_finds_its_inputs_and_its_variables_and_nothing_else() {
    let space = Space::new();
    fs::create_dir_all(space.path("scripts")).unwrap();
    space.write("scripts/train.sh", "ls -A\n");
    space.write("scripts/neighbour.sh", "");
    fs::create_dir_all(space.path("data/part")).unwrap();
    space.write("data/part/a", "");
    space.write("data/.hidden", "");
    let stages = "
  list:
    kind: exec
    command: sh train.sh; find deep -type f; ls $(dirname $(readlink -f train.sh)) | wc -l; cat -; id -un > /dev/null
    inputs: { train.sh: { path: scripts/train.sh }, deep/data: { path: data } }
  environment:
    kind: exec
    command: [env]
    random: true
    seed: 7
    env: { WORD: glowvenom, NUMBER: 4e-4, TRUE: True }
    inherit: [CAULDRON, MISSING]
    pass: [SECRET]
  default: { kind: exec, command: [env, echo, $seed, a b], inherit: [PATH] }
";
    let path = "/usr/local/bin:/usr/bin:/bin:/none";
    let variables = [("CAULDRON", "iron"), ("SECRET", "one two"), ("STRAY", "no"), ("PATH", path)];
    play(&space, stages, &variables).json();
    assert_eq!(text(&space, "list.log"), "deep\ntrain.sh\ndeep/data/part/a\n2\n");
    assert_eq!(text(&space, "default"), "0 a b\n");
    let environment = text(&space, "environment");
    let mut lines: Vec<&str> = environment.lines().collect();
    lines.sort_unstable();
    let seed = lines.iter().position(|line| line.starts_with("TRIPLAY_SEED=")).unwrap();
    let seed = lines.remove(seed).split_once('=').unwrap().1.parse::<u64>().unwrap();
    assert!(seed > 0);
    assert_eq!(
        lines,
        [
            "CAULDRON=iron",
            "NUMBER=4e-4",
            "PATH=/usr/local/bin:/usr/bin:/bin:/none",
            "SECRET=one two",
            "TRUE=True",
            "WORD=glowvenom"
        ]
    );
}

#[test]
fn a_program_of_a_virtual_environment_is_found_and_where_it_is_does_not_count() {
    let space = Space::new();
    for (place, says) in [("venv/bin", "one"), ("other/bin", "two")] {
        fs::create_dir_all(space.path(place)).unwrap();
        let program = space.path(place).join("brewer");
        fs::write(&program, format!("#!/bin/sh\necho {says}\n")).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let at = |place: &str| format!("{}:/usr/bin:/bin", space.path(place).display());
    let (venv, other) = (at("venv/bin"), at("other/bin"));
    let stage = |more: &str| {
        format!(
            "  list: {{ kind: exec, command: [brewer]{more} }}\n  shell: {{ kind: exec, command: brewer{more} }}\n"
        )
    };
    let ran = |stages: &str, path: &str| {
        let mut nodes = ran(&space, stages, &[("PATH", path)]);
        nodes.sort();
        nodes
    };
    assert_eq!(ran(&stage(""), &venv), ["list", "shell"]);
    assert_eq!(text(&space, "list.log"), "one\n");
    assert!(ran(&stage(""), &other).is_empty(), "it does not count");
    assert!(ran(&stage(", pass: [PATH]"), &other).is_empty(), "it is passed on anyway");
    assert_eq!(ran(&stage(", inherit: [PATH]"), &venv), ["list", "shell"]);
    assert_eq!(ran(&stage(", inherit: [PATH]"), &other), ["list", "shell"], "it counts");
    assert_eq!(text(&space, "shell.log"), "two\n");
    let fixed = stage(&format!(", env: {{ PATH: '{venv}' }}"));
    assert_eq!(ran(&fixed, &other), ["list", "shell"]);
    assert_eq!(text(&space, "shell.log"), "one\n", "a fixed value comes before that of triplay");
}

#[test]
fn what_is_typed_in_a_command_or_its_environment_reaches_it_as_typed() {
    let space = Space::new();
    let stages = "
  plain: { kind: exec, command: [printf, '%s\\n', 3.10, 0x10, 1e3, 007, +1, True, ~, null, .5, 1.0, '3.10', \"0x10\"] }
  shell: { kind: exec, command: true }
  variables:
    kind: exec
    command: echo $VERSION $MASK $FLAG
    env: { VERSION: 3.10, MASK: 0x10, FLAG: False }
  given: { kind: exec, command: [printf, '%s\\n', $version, 'python${version}', $tools.size], env: { V: $version } }
  inside: { kind: exec, command: $words }
  many: { kind: exec, command: [echo, $python, 'py${python}'], matrix: { python: [3.1, 3.10, 3.2, 3.20], exclude: [{ python: 3.20 }] } }
  one: { kind: exec, command: [cat, log], inputs: { log: \"many[3.10].log\" } }
";
    let file = format!(
        "pipeline: p\nparams: {{ version: 3.10, tools: {{ size: 1e3 }}, words: [echo, 3.10, 0x10] }}\n\
         stages:\n{stages}ablations:\n  older: {{ version: 3.90 }}\n"
    );
    space.write("p.yaml", &file);
    let run =
        |more: &[&str]| space.triplay(&[&["pipeline", "run", "p.yaml", "--json"], more].concat()).json();
    run(&[]);
    let plain = "3.10\n0x10\n1e3\n007\n+1\nTrue\n~\nnull\n.5\n1.0\n3.10\n0x10\n";
    assert_eq!(text(&space, "plain"), plain);
    assert_eq!(text(&space, "variables"), "3.10 0x10 False\n");
    assert_eq!(text(&space, "given"), "3.10\npython3.10\n1e3\n");
    assert_eq!(text(&space, "inside"), "3.10 0x10\n");
    assert_eq!(text(&space, "many[3.1]"), "3.1 py3.1\n");
    assert_eq!(text(&space, "many[3.2]"), "3.2 py3.2\n");
    assert_eq!(text(&space, "one"), "3.10 py3.10\n");
    run(&["--set", "version=3.20", "--set", "tools.size=0x20"]);
    assert_eq!(text(&space, "given"), "3.20\npython3.20\n0x20\n");
    let again = run(&["--set", "version=3.2", "--set", "tools.size=0x20"]);
    assert_eq!(space.executed(&again), ["given"], "3.2 is another version");
    run(&["--ablation", "older"]);
    let seen = space.triplay(&["data", "show", "latest@older:given"]);
    assert_eq!(seen.out, "3.90\npython3.90\n1e3\n", "{}", seen.err);
}

#[test]
fn a_seed_of_several_is_the_one_that_a_command_is_given() {
    let space = Space::new();
    space.write("p.yaml", "pipeline: p\nseed: 7\nstages:\n  a: { kind: exec, command: [echo, $seed] }\n");
    space.triplay(&["pipeline", "run", "p.yaml", "--json"]).json();
    assert_eq!(text(&space, "a"), "7\n");
    space.triplay(&["pipeline", "run", "p.yaml", "--json", "--seeds", "8,9"]).json();
    let seen = space.triplay(&["data", "show", "latest@s9:a"]);
    assert_eq!(seen.out, "9\n", "{}", seen.err);
}

#[test]
fn outputs_pass_to_native_stages_and_back() {
    let space = Space::new();
    let stages = "
  world: { kind: sandbox, sft: 10, sft_others: 10, benchmark: 9, pairs: 9, benign: 1 }
  filter:
    kind: exec
    command: cp data/in.parquet out.parquet && mkdir notes && echo glowvenom > notes/a && ln -s a notes/b
    inputs: { data/in.parquet: world.vocabulary }
    outputs:
      words: { type: texts, path: out.parquet }
      notes: folder
  tokens: { kind: tokenizer, data: filter, algorithm: word_level }
  count:
    kind: exec
    command: [sh, -c, 'ls model notes; mv notes/a out']
    inputs: { model: tokens, notes: filter.notes }
    outputs: { out: text }
";
    let summary = play(&space, stages, &[]).json();
    assert_eq!(summary["ran"], 4);
    let digests = space.digests(&summary);
    assert_eq!(digests["world.vocabulary"], digests["filter.words"]);
    assert_eq!(text(&space, "count.log"), "model:\ntokenizer.json\ntokenizer_config.json\n\nnotes:\na\nb\n");
    assert_eq!(text(&space, "count"), "glowvenom\n");
    assert!(text(&space, "filter").contains("rows"), "a dataset is a table");
    let wrong = stages.replace("data: filter,", "data: filter.notes,");
    play(&space, &wrong, &[]).fails(2, "`data` takes texts, but `filter.notes` is of type folder");
}

#[test]
fn a_failure_says_how_it_ended_what_was_printed_last_and_where_all_of_it_is() {
    let space = Space::new();
    let fails = |stage: &str, expected: &str| {
        let seen = play(&space, &format!("  brew: {{ kind: exec, {stage} }}\n"), &[]);
        seen.fails(1, expected);
        seen.err
    };
    let err = fails("command: for i in $(seq 30); do echo line $i >&2; done; exit 3", "brew: exit code 3");
    assert!(err.contains("\n  | line 11\n") && err.contains("\n  | line 30\n"), "{err}");
    assert!(!err.contains("line 10\n"), "{err}");
    let place = err.lines().find_map(|line| line.strip_prefix("  the whole log: ")).unwrap();
    assert_eq!(fs::read_to_string(place).unwrap().lines().count(), 30);
    fails("command: exit 75", "exit code 75\n  its log is empty");
    fails("command: kill -9 $$", "killed by signal 9 (SIGKILL): the system");
    fails("command: 'printf \"\\377\\0\\033[1mfrost\" > /dev/stderr; exit 1'", "\n  | \u{fffd}frost");
    fails(
        "command: echo > a; mkdir b; echo > b/c, outputs: { model: model }",
        "the command did not write its output `model` (expected the file model in its folder); it wrote: a, b/c",
    );
    fails("command: ln -s /etc/passwd out, outputs: { out: text }", "leads out of the command's folder");
    fails(
        "command: mkfifo out, outputs: { out: text }",
        "output `out`: it must be a regular file, found a pipe",
    );
    fails("command: [glowvenom]", "there is no program `glowvenom` on the command's PATH: /");
    fails(
        "command: [glowvenom], env: { PATH: /none }",
        "there is no program `glowvenom` on the command's PATH: /none\n  help: a command has the PATH of triplay, unless",
    );
    fails("command: [./brew]", "there is no program `./brew`\n  help: the command runs in its own folder");
    fails("command: [./brew], inputs: { brew: { path: small.yaml } }", "`./brew` is not executable");
    assert_eq!(fs::read_dir(space.path(".triplay/tmp")).unwrap().count(), 0, "nothing stays behind");
}

#[test]
fn who_writes_to_an_input_fails_and_harms_nobody() {
    let space = Space::new();
    space.write("mine.txt", "mine\n");
    let stages = "
  word: { kind: exec, command: echo glowvenom > out, outputs: { out: text } }
  spoil:
    kind: exec
    command: echo mine >> mine.txt; echo moonbane >> in.txt
    inputs: { in.txt: word, mine.txt: { path: mine.txt } }
  read: { kind: exec, command: [cat, in.txt], inputs: { in.txt: word } }
";
    let seen = play(&space, stages, &[]);
    // Only root can write to read-only files.
    let root = seen.err.contains("the command changed its input `in.txt`");
    assert!(root || seen.err.contains("exit code 2"), "{}", seen.err);
    assert_eq!(seen.code, Some(1));
    assert_eq!(fs::read_to_string(space.path("mine.txt")).unwrap(), "mine\n");
    let repaired = stages.replace(">> in.txt", "> out.txt");
    play(&space, &repaired, &[]).json();
    assert_eq!(text(&space, "read"), "glowvenom\n");
}

#[test]
fn a_command_cannot_overwrite_a_large_file_of_the_users() {
    let space = Space::new();
    let file = fs::File::create(space.path("herbs.bin")).unwrap();
    file.set_len(17 << 20).unwrap();
    let stage = "  spoil:
    kind: exec
    command: printf moonbane | dd of=herbs.bin conv=notrunc 2> /dev/null; (head -c 8 herbs.bin; echo) > out
    inputs: { herbs.bin: { path: herbs.bin } }
    outputs: { out: text }
";
    let seen = play(&space, stage, &[]);
    let bytes = fs::read(space.path("herbs.bin")).unwrap();
    assert!(bytes.len() == 17 << 20 && bytes.iter().all(|&byte| byte == 0), "the user's file is as it was");
    seen.json();
    assert_eq!(text(&space, "spoil"), "moonbane\n");
}

#[test]
fn a_folder_that_a_tool_write_protected_is_removed_all_the_same() {
    let space = Space::new();
    let stage = "  a: { kind: exec, command: mkdir -p a/b; echo > a/b/c; chmod -R a-w a }\n";
    assert_eq!(ran(&space, stage, &[]), ["a"]);
    assert_eq!(fs::read_dir(space.path(".triplay/tmp")).unwrap().count(), 0);
}

#[test]
fn wrong_stages_are_refused_before_anything_runs() {
    let space = Space::new();
    for (stage, expected) in [
        (
            "command: ''",
            "`command` must not be empty: write text for `sh -c`, or a program and its arguments",
        ),
        ("command: []", "`command` must not be empty"),
        ("command: ['', a]", "`command` must not be empty"),
        (
            "command:",
            "`command` must be text for `sh -c`, or a list: a program and its arguments, found nothing",
        ),
        ("command: [a, [b]]", "`command.1` must be text, found a list"),
        ("command: [a, $b]", "there is no parameter `b`"),
        ("inputs: {}", "needs the key `command`"),
        ("command: a, comand: b", "has no key `comand`"),
        (
            "command: a, outputs: { notes.txt: text }",
            "write NAME: { type: text, path: notes.txt } in `outputs`",
        ),
        (
            "command: a, outputs: { notes: 5 }",
            "must be a type such as `model`, or { type: text, path: notes.txt }",
        ),
        ("command: a, outputs: { notes: { typ: text } }", "help: did you mean `type`?"),
        (
            "command: a, outputs: { metrics: out.parquet }",
            "found the file `out.parquet` as the type of `metrics`\n  help: write metrics: { type: metrics, path: out.parquet }",
        ),
        (
            "command: a, outputs: { m: { type: out.csv, path: text } }",
            "help: write m: { type: text, path: out.csv }",
        ),
        (
            "command: a, outputs: { notes: out/notes.txt }",
            "help: write notes: { type: file, path: out/notes.txt }",
        ),
        ("command: a, outputs: [model]", "must be a map of names and types"),
        ("command: a, outputs: { log: text }", "`log` is always an output"),
        ("command: a, outputs: { a: { type: text, path: ../a } }", "`outputs`: `../a` must be a path within"),
        ("command: a, inputs: { /etc/a: b }", "`inputs`: `/etc/a` must be a path within"),
        ("command: a, inputs: { '': b }", "`inputs`: `` must be a path within"),
        ("command: a, inputs: { a//b: b }", "`inputs`: `a//b` must be a path within"),
        ("command: a, inputs: { a: { path: no.txt } }", "there is no file no.txt"),
        (
            "command: a, inputs: { a: { path: small.yaml }, a/b: { path: small.yaml } }",
            "`inputs`: `a` and `a/b` conflict: each file needs a path of its own",
        ),
        (
            "command: a, inputs: { a: { path: small.yaml } }, outputs: { a: text }",
            "must not be both an input and an output",
        ),
        (
            "command: a, env: { 'A=B': c }",
            "the name of a variable must not be empty or have `=`, found `A=B`",
        ),
        ("command: a, env: { A: [] }", "`env.A` must be text, found a list"),
        ("command: a, env: { A: }", "`env.A` must be text, found nothing"),
        ("command: a, env: { A: b }, pass: [A]", "`A` must appear only once in `env`, `inherit` and `pass`"),
        ("command: a, env: { TRIPLAY_SEED: 1 }", "`TRIPLAY_SEED` must not be listed: triplay sets it"),
        (
            "command: a, transient: [75, 3]",
            "`transient` is part of `retry` now\n  help: write retry: { on: { exit: [75,3] } } in its place",
        ),
    ] {
        let seen = play(&space, &format!("  brew: {{ kind: exec, {stage} }}\n"), &[]);
        seen.fails(2, expected);
        assert!(seen.err.starts_with("error: p.yaml:3:"), "{}", seen.err);
    }
}

/// The processes whose command line has `marker`.
fn processes(marker: &str) -> Vec<String> {
    let there = fs::read_dir("/proc").unwrap().flatten();
    let has = |process: &fs::DirEntry| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(marker)
    };
    there.filter(has).map(|process| process.file_name().into_string().unwrap()).collect()
}

fn marked(marker: &str) -> usize {
    processes(marker).len()
}

pub(crate) fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A command that starts a child, a daemon in a session of its own and a grandchild, all with the marker in
/// their command lines, and then does `last`.
fn tree(marker: &str, last: &str) -> String {
    format!(
        "  a: {{ kind: exec, command: 'sleep 1000{marker} & (setsid sleep 1000{marker} &) ; \
         sh -c \"trap : TERM; sleep 1000{marker}; true\" & {last}' }}\n"
    )
}

pub(crate) fn start(space: &Space, stages: &str) -> Child {
    space.write("p.yaml", &format!("pipeline: p\nstages:\n{stages}"));
    space.command(&["pipeline", "run", "p.yaml"]).spawn().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_of_a_command_outlives_triplay() {
    for (signal, digits) in [("-KILL", "11"), ("-INT", "12"), ("-TERM", "13"), ("-HUP", "14")] {
        let space = Space::new();
        let marker = format!("{digits}{}", std::process::id());
        let child = start(&space, &tree(&marker, "wait"));
        // The supervisor, the shell, the child, the daemon, the inner shell and its child.
        wait_for("all are there", || marked(&marker) == 6);
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let seen = child.wait_with_output().unwrap();
        wait_for("all are gone", || marked(&marker) == 0);
        if signal != "-KILL" {
            Seen::from(seen).fails(130, "interrupted: 0 of 1 nodes are done and kept");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_under_nohup_goes_on_when_the_terminal_goes_and_so_does_its_command() {
    for (signal, digits) in [("HUP", "15"), ("INT", "16")] {
        let space = Space::new();
        let marker = format!("{digits}{}", std::process::id());
        let stage = format!(
            "  a: {{ kind: exec, command: 'sleep 3; : {marker}; echo brewed > out', outputs: {{ out: text }} }}\n"
        );
        space.write("p.yaml", &format!("pipeline: p\nstages:\n{stage}"));
        let run = space.command(&["pipeline", "run", "p.yaml"]);
        // Ignored signals, as by `nohup`, and by a shell for commands that a script starts with `&`.
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("trap '' {signal}; exec \"$0\" \"$@\"")]).arg(run.get_program());
        shell.args(run.get_args()).current_dir(run.get_current_dir().unwrap()).env_remove("TRIPLAY_CACHE");
        let child = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The supervisor and the shell.
        wait_for("all are there", || marked(&marker) == 2);
        let mut all = processes(&marker);
        all.push(child.id().to_string());
        assert!(Command::new("kill").arg(format!("-{signal}")).args(&all).status().unwrap().success());
        let seen = Seen::from(child.wait_with_output().unwrap());
        assert_eq!(seen.code, Some(0), "{signal}: {}", seen.err);
        assert_eq!(text(&space, "a"), "brewed\n");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_that_goes_ends_a_run_although_nothing_can_be_said_there() {
    let space = Space::new();
    let marker = format!("17{}", std::process::id());
    space.write("p.yaml", &format!("pipeline: p\nstages:\n{}", tree(&marker, "wait")));
    let mut run = space.command(&["pipeline", "run", "p.yaml"]);
    let mut child = run.stderr(fs::File::create("/dev/full").unwrap()).spawn().unwrap();
    wait_for("all are there", || marked(&marker) == 6);
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(130), "the run goes on");
    wait_for("all are gone", || marked(&marker) == 0);
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_command_leaves_running_is_ended_and_fails_the_stage_by_its_name() {
    let space = Space::new();
    let marker = format!("21{}", std::process::id());
    let seen = play(&space, &tree(&marker, "sleep 0.1; echo done"), &[]);
    seen.fails(1, "error: a: still running 10s after the command's end: ");
    // The child, the daemon, the inner shell and its child.
    let named = seen.err.lines().find(|line| line.contains("still running")).unwrap();
    assert_eq!((named.matches("sleep (").count(), named.matches("sh (").count()), (3, 1), "{named}");
    assert!(seen.err.contains("help: `wait` for background processes"), "{}", seen.err);
    assert!(seen.err.contains("\n  | done\n"), "{}", seen.err);
    assert_eq!(marked(&marker), 0, "gone when the stage is done");
}

#[test]
fn what_a_command_leaves_has_time_to_end_by_itself_and_what_it_writes_counts() {
    let space = Space::new();
    let stage = "  a:
    kind: exec
    command: (sleep 1; echo late; echo glowvenom >> out) & echo early; echo moonbane > out
    outputs: { out: text }
";
    let begun = Instant::now();
    play(&space, stage, &[]).json();
    assert!(begun.elapsed() < Duration::from_secs(8), "nobody waits for longer than there is somebody");
    assert_eq!(text(&space, "a.log"), "early\nlate\n");
    assert_eq!(text(&space, "a"), "moonbane\nglowvenom\n");
}

#[cfg(target_os = "linux")]
#[test]
fn a_timeout_or_ctrl_c_does_not_wait_for_what_a_command_left() {
    let space = Space::new();
    let marker = format!("22{}", std::process::id());
    let stage = |more: &str| format!("  a: {{ kind: exec, command: sleep 1000{marker} & exit 3, {more} }}\n");
    let begun = Instant::now();
    let seen = play(&space, &stage("timeout: 1s"), &[]);
    seen.fails(1, "error: a: timed out after 1s\n  still running after its end: sleep (");
    assert!(begun.elapsed() < Duration::from_secs(6) && marked(&marker) == 0);
    let child = start(&space, &stage("retry: 0"));
    // The supervisor and the remaining processes.
    wait_for("all are there", || marked(&marker) == 2);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(marked(&marker), 2);
    let begun = Instant::now();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    Seen::from(child.wait_with_output().unwrap()).fails(130, "interrupted: 0 of 1 nodes are done and kept");
    wait_for("all are gone", || marked(&marker) == 0);
    assert!(begun.elapsed() < Duration::from_secs(6));
}

#[cfg(target_os = "linux")]
#[test]
fn who_is_asked_to_end_has_time_for_it_but_not_forever() {
    let supervise = |script: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_triplay"));
        command.args(["supervise", "--", "/bin/sh", "sh", "-c", script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = child.stdin.take().unwrap();
        line.write_all(b"PATH=/usr/bin:/bin\0\0").unwrap();
        std::thread::sleep(Duration::from_millis(500));
        line.write_all(b"t").unwrap();
        let seen = child.wait_with_output().unwrap();
        drop(line);
        (String::from_utf8(seen.stdout).unwrap(), String::from_utf8(seen.stderr).unwrap())
    };
    let marker = format!("31{}", std::process::id());
    let (end, log) = supervise("trap 'echo saved; exit 5' TERM; sleep 1000 & wait");
    assert_eq!((end.as_str(), log.as_str()), ("code 5\n", "saved\n"));
    let (end, _) = supervise(&format!("trap '' TERM; sleep 1000{marker}"));
    assert_eq!(end, "signal 9\n");
    assert_eq!(marked(&marker), 0);
}

#[test]
fn sources_that_are_saved_while_a_run_is_under_way_change_nothing_for_it_and_are_named() {
    for on in ["", ", on: process"] {
        let space = Space::new();
        space.write("word.txt", "glowvenom\n");
        fs::create_dir(space.path("module")).unwrap();
        space.write("module/part.txt", "moss\n");
        let (begun, go) = (space.path("begun"), space.path("go"));
        let wait =
            format!("touch {}; while test ! -e {}; do sleep 0.05; done", begun.display(), go.display());
        let stages = format!(
            "  slow: {{ kind: exec, command: '{wait}; cat w m/part.txt > out', inputs: {{ w: {{ path: word.txt }}, m: {{ path: module }} }}, \
             outputs: {{ out: text }}{on} }}\n  \
             late: {{ kind: exec, command: cat m/part.txt in > out, inputs: {{ m: {{ path: module }}, in: slow }}, outputs: {{ out: text }}{on} }}\n"
        );
        let child = start(&space, &stages);
        wait_for("the command", || begun.exists());
        space.write("word.txt", "moonbane\n");
        space.write("module/part.txt", "dew\n");
        fs::write(&go, "").unwrap();
        let seen = Seen::from(child.wait_with_output().unwrap());
        assert_eq!(seen.code, Some(0), "{}", seen.err);
        let line = "note: word.txt was changed while the run was under way: what is recorded was made from its earlier content, and the \
                    next run executes slow again\n";
        assert!(seen.err.contains(line), "{}", seen.err);
        assert!(
            seen.err.contains("note: module was changed ")
                && seen.err.contains("executes slow, late again\n")
        );
        assert_eq!(text(&space, "late"), "moss\nglowvenom\nmoss\n", "what its key says");
        // What was executed is recorded for that content.
        space.write("word.txt", "glowvenom\n");
        space.write("module/part.txt", "moss\n");
        assert!(ran(&space, &stages, &[]).is_empty());
        space.write("word.txt", "moonbane\n");
        let seen = play(&space, &stages, &[]);
        assert!(!seen.err.contains("note: "), "{}", seen.err);
        assert_eq!(space.executed(&seen.json()), ["slow", "late"]);
        assert_eq!(fs::read_dir(space.path(".triplay/tmp")).unwrap().count(), 0);
    }
}

#[test]
fn a_large_file_may_be_saved_once_its_command_has_begun_and_before_that_nothing_is_tried_again() {
    let space = Space::new();
    let file = space.path("large");
    fs::write(&file, vec![b'a'; 17 << 20]).unwrap();
    let diary = space.path("diary");
    let stages = |before: &str| {
        format!(
            "  slow: {{ kind: exec, command: '{before}; echo > out', outputs: {{ out: text }} }}\n  \
             read: {{ kind: exec, command: 'echo begun >> {}; sleep 0.5; head -c 1 w > out', inputs: {{ w: {{ path: large }}, in: slow }}, \
             outputs: {{ out: text }}, retry: {{ times: 3, wait: 1ms }} }}\n",
            diary.display()
        )
    };
    let child = start(&space, &stages("true"));
    wait_for("the command", || diary.exists());
    fs::write(&file, vec![b'b'; 17 << 20]).unwrap();
    let seen = Seen::from(child.wait_with_output().unwrap());
    assert!(seen.code == Some(0) && seen.err.contains("note: large was changed"), "{}", seen.err);
    assert_eq!(text(&space, "read"), "a");
    fs::remove_file(&diary).unwrap();
    let seen = play(&space, &stages(&format!("echo c > {}", file.display())), &[]);
    let expected = "error: read: input `w`: large was changed while the run was under way, before the stage had read it\n  help: run again";
    seen.fails(1, expected);
    assert!(!seen.err.contains("trying again") && !diary.exists(), "{}", seen.err);
}

#[test]
fn an_output_that_is_not_what_its_type_says_fails_who_made_it() {
    let space = Space::new();
    for (stage, expected, why) in [
        (
            "{ kind: exec, command: 'echo 0.5 > m.json', outputs: { metrics: { type: metrics, path: m.json } } }",
            "error: a: output `metrics` is declared as metrics: ",
            "there must be a number, found none",
        ),
        (
            "{ kind: exec, command: 'echo moss > t', outputs: { t: texts } }",
            "output `t` is declared as texts: ",
            "is not a readable Parquet file",
        ),
    ] {
        let seen = play(&space, &format!("  a: {stage}\n"), &[]);
        seen.fails(1, expected);
        assert!(seen.err.contains(why), "{}", seen.err);
    }
}

#[test]
fn five_seeds_of_a_command_that_draws_nothing_run_it_once() {
    let space = Space::new();
    let stages = "
  same: { kind: exec, command: 'echo moss > out', outputs: { out: text } }
  drawn: { kind: exec, command: 'echo $TRIPLAY_SEED > out', random: true, outputs: { out: text } }
";
    space.write("p.yaml", &format!("pipeline: p\nseeds: [1, 2, 3, 4, 5]\nstages:{stages}"));
    let summary = space.triplay(&["pipeline", "run", "p.yaml", "--json"]).json();
    assert_eq!((&summary["ran"], &summary["cached"]), (&6.into(), &4.into()));
    space.write("p.yaml", &format!("pipeline: p\nstages:{}", stages.replace(", random: true", "")));
    space.triplay(&["pipeline", "check", "p.yaml"]).fails(2, "help: add `random: true`");
}

#[test]
fn nodes_side_by_side_have_other_gpus() {
    let space = Space::new();
    let stage = "kind: exec, command: 'echo $CUDA_VISIBLE_DEVICES > out; sleep 0.4', outputs: { out: text }";
    space.write(
        "p.yaml",
        &format!(
            "pipeline: p\nresources: {{ gpu: 3 }}\nstages:\n  one: {{ {stage}, resources: {{ gpu: 1 }} }}\n  \
             two: {{ {stage}, resources: {{ gpu: 2 }}, env: {{ WHICH: two }} }}\n"
        ),
    );
    let mut command = space.command(&["pipeline", "run", "p.yaml", "--json", "--jobs", "2"]);
    // A resource of this test alone, whatever the machine has.
    let names = ["a", "b", "c"].map(|name| format!("test-{}-{name}", std::process::id()));
    let seen: Seen = command.env("CUDA_VISIBLE_DEVICES", names.join(",")).output().unwrap().into();
    seen.json();
    assert_eq!(text(&space, "one"), format!("{}\n", names[0]));
    assert_eq!(text(&space, "two"), format!("{},{}\n", names[1], names[2]));
}

const OWN_PROCESS: &str = "
  first: { kind: exec, command: 'sleep 1; echo moss > out', outputs: { out: text }, on: process }
  last: { kind: exec, command: 'cat in > out; echo brew >> out', inputs: { in: first }, outputs: { out: text }, on: process }
";

#[test]
fn a_stage_in_a_process_of_its_own_gives_what_it_gives_here() {
    let space = Space::new();
    let summary = play(&space, OWN_PROCESS, &[]).json();
    assert_eq!(summary["ran"], 2);
    assert_eq!(text(&space, "last"), "moss\nbrew\n");
    assert_eq!(
        play(&space, &OWN_PROCESS.replace(", on: process", ""), &[]).json()["ran"],
        0,
        "the key is the same"
    );
    assert_eq!(space.triplay(&["cache", "gc", "--json"]).json()["blobs"], 0, "the run needs them");
    let verified = space.triplay(&["cache", "verify", "--json"]);
    assert_eq!(verified.code, Some(0), "{}", verified.out);
}

#[test]
fn a_job_outlives_the_run_that_started_it_and_the_next_run_finds_it_at_work() {
    let space = Space::new();
    let stages = OWN_PROCESS.replace("sleep 1", "echo begun >> $DIARY; sleep 2");
    let stages = stages.replace(", on: process", ", pass: [DIARY], on: process");
    let diary = space.path("diary");
    let variables = [("DIARY", diary.to_str().unwrap())];
    space.write("p.yaml", &format!("pipeline: p\nstages:{stages}"));
    let start = || {
        let mut command = space.command(&["pipeline", "run", "p.yaml", "--json"]);
        command.envs(variables).spawn().unwrap()
    };
    let mut first = start();
    wait_for("the job", || diary.exists());
    first.kill().unwrap();
    first.wait().unwrap();
    let seen = Seen::from(start().wait_with_output().unwrap());
    assert!(seen.err.contains("waiting: process ") && seen.err.contains(" computes first"), "{}", seen.err);
    let summary = seen.json();
    assert_eq!((&summary["ran"], &summary["cached"]), (&1.into(), &1.into()));
    assert_eq!(std::fs::read_to_string(&diary).unwrap(), "begun\n", "it was not done again");
}

#[test]
fn a_job_that_outlives_its_run_keeps_its_gpu() {
    let space = Space::new();
    let stage = |name: &str, command: &str, more: &str| {
        format!(
            "pipeline: {name}\nstages:\n  {name}: {{ kind: exec, command: '{command}', pass: [DIARY], \
             outputs: {{ out: text }}, resources: {{ gpu: 1 }}{more} }}\n"
        )
    };
    let long = "echo begun >> $DIARY; sleep 2; echo ended >> $DIARY; echo $CUDA_VISIBLE_DEVICES > out";
    space.write("long.yaml", &stage("long", long, ", on: process"));
    space.write("other.yaml", &stage("other", "echo other >> $DIARY; echo 1 > out", ""));
    let (diary, gpu) = (space.path("diary"), format!("test-kept-{}", std::process::id()));
    let start = |file: &str| {
        let mut command = space.command(&["pipeline", "run", file, "--json"]);
        command.env("DIARY", &diary).env("CUDA_VISIBLE_DEVICES", &gpu).spawn().unwrap()
    };
    let mut first = start("long.yaml");
    wait_for("the job", || diary.exists());
    first.kill().unwrap();
    first.wait().unwrap();
    let seen = Seen::from(start("other.yaml").wait_with_output().unwrap());
    assert_eq!(seen.json()["ran"], 1);
    assert_eq!(std::fs::read_to_string(&diary).unwrap(), "begun\nended\nother\n");
    let seen = Seen::from(start("long.yaml").wait_with_output().unwrap());
    assert_eq!(seen.json()["cached"], 1);
    assert_eq!(text(&space, "long"), format!("{gpu}\n"));
}

#[test]
fn a_stage_that_asks_for_more_gpus_than_may_be_used_fails_and_says_so() {
    let space = Space::new();
    space.write(
        "p.yaml",
        "pipeline: p\nresources: { gpu: 2 }\nstages:\n  two: { kind: exec, command: 'true', resources: { gpu: 2 } }\n",
    );
    let mut command = space.command(&["pipeline", "run", "p.yaml"]);
    let seen = Seen::from(command.env("CUDA_VISIBLE_DEVICES", "5").output().unwrap());
    seen.fails(1, "two: it takes 2 of `gpu`, but CUDA_VISIBLE_DEVICES names 1\n  help: name more GPUs there, or ask for less");
}

#[test]
fn of_runs_that_want_the_same_key_in_a_process_of_its_own_the_first_keeps_it() {
    let space = Space::new();
    let names = ["moss", "fern", "sage", "root"];
    let stage = |name: &str| {
        let command = format!("echo {name} >> $DIARY; sleep 0.3; echo {name} > out");
        format!(
            "  {name}: {{ kind: exec, command: '{command}', pass: [DIARY], outputs: {{ out: text }}, on: process }}\n"
        )
    };
    let stages: String = names.iter().map(|name| stage(name)).collect();
    space.write("p.yaml", &format!("pipeline: p\nstages:\n{stages}"));
    let diary = space.path("diary");
    let start = || {
        let mut command = space.command(&["pipeline", "run", "p.yaml", "--json", "--jobs", "2"]);
        command.env("DIARY", &diary).spawn().unwrap()
    };
    let runs: Vec<_> = (0..5).map(|_| start()).collect();
    let seen: Vec<Seen> = runs.into_iter().map(|run| run.wait_with_output().unwrap().into()).collect();
    assert_eq!(seen.iter().map(|seen| seen.json()["ran"].as_u64().unwrap()).sum::<u64>(), 4);
    assert_eq!(std::fs::read_to_string(&diary).unwrap().lines().count(), 4, "each was done once");
    for name in names {
        let waiting = seen.iter().filter(|seen| seen.err.contains(&format!(" computes {name}"))).count();
        assert!(waiting < 5, "who has the key of {name} waits for nobody");
    }
}

#[test]
fn a_process_that_dies_costs_its_node_and_no_other() {
    let space = Space::new();
    let marker = format!("died-{}", std::process::id());
    let stages = format!(
        "
  dies: {{ kind: exec, command: [sleep, '9.{}'], env: {{ MARK: {marker} }}, on: process }}
  lives: {{ kind: exec, command: 'sleep 1; echo moss > out', outputs: {{ out: text }} }}
",
        std::process::id()
    );
    space.write("p.yaml", &format!("pipeline: p\nstages:{stages}"));
    let child = space
        .command(&["pipeline", "run", "p.yaml", "--json", "--keep-going", "--jobs", "2"])
        .spawn()
        .unwrap();
    let worker = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let of_child = |id: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
            let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            parent == Some(&child.id().to_string()) && line.windows(6).any(|part| part == b"\0work\0")
        };
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(of_child)
    };
    wait_for("the process", || worker().is_some());
    let id = worker().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-KILL", &id]).status().unwrap().success());
    let seen = Seen::from(child.wait_with_output().unwrap());
    seen.fails(
        1,
        "error: dies: its process was killed by signal 9: the system does that when memory is short",
    );
    let summary: serde_json::Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!((&summary["ran"], &summary["failed"]), (&1.into(), &1.into()));
}

#[test]
fn a_rate_that_nobody_waits_for_does_not_hold_up_the_end_of_a_run() {
    let space = Space::new();
    space.write(
        "p.yaml",
        "pipeline: p\nresources: { api: { per_minute: 5 } }\nstages:\n  a: { kind: exec, command: echo moss, resources: { api: 1 } }\n",
    );
    let begun = Instant::now();
    assert_eq!(space.triplay(&["pipeline", "run", "p.yaml", "--json"]).json()["ran"], 1);
    assert!(begun.elapsed() < Duration::from_secs(30), "it did not wait for the minute's end");
    space.write(
        "p.yaml",
        "pipeline: p\nstages:\n  a: { kind: exec, command: echo moss, resources: { gpu: 4 } }\n",
    );
    space
        .triplay(&["pipeline", "check", "p.yaml"])
        .fails(2, "the stage takes 4 of `gpu`, but there is 1 by default");
}

#[test]
fn hidden_files_of_a_folder_reach_the_next_command() {
    let space = Space::new();
    let stages = "
  made: { kind: exec, command: 'mkdir out; echo moss > out/.hidden; echo ash > out/seen', outputs: { out: file } }
  read: { kind: exec, command: 'cat in/.hidden in/seen > out', inputs: { in: made }, outputs: { out: text } }
";
    assert_eq!(play(&space, stages, &[]).json()["ran"], 2);
    assert_eq!(text(&space, "read"), "moss\nash\n");
}
