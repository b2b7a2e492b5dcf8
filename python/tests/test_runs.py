"""The reader on runs of the real binary, and beside what the binary itself says of them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import pyarrow as pa
import pytest
from conftest import PIPELINE, Space

import triplay
from triplay._sealed import digests

SMALL = "pipeline: small\nparams: { herb: glowvenom }\nstages:\n  brew: { kind: exec, command: 'echo ${herb}' }\n"
THIN = """
pipeline: thin
stages:
  world: { kind: sandbox, sft: 60, sft_others: 10, benchmark: 9, pairs: 9, benign: 1 }
  vocabulary: { kind: tokenizer, data: world.vocabulary, algorithm: word_level }
  warmup: { kind: sft, data: world.sft, tokenizer: vocabulary, init: { hidden: 16, layers: 1, heads: 1 }, steps: 9, lr: 1e-3 }
  red:
    repeat: 2
    keep: last
    carry: { attacker: warmup.model }
    stages:
      attacks: { kind: generate, model: attacker, data: world.seeds, prompts: 2, group: 2, sampling: { max_new_tokens: 8 } }
      responses: { kind: respond, data: attacks, models: [{ model: warmup.model }], sampling: { max_new_tokens: 8 } }
      verdicts: { kind: judge, data: responses, model: warmup.model }
      rewards: { kind: reward, data: attacks, terms: [{ success: { verdicts: verdicts } }, { meaning: {}, weight: 0.3 }] }
      update: { kind: update, model: attacker, data: rewards, algorithm: { grpo: { lr: 1e-3, kl: 0 } } }
    next: { attacker: update.model }
"""


def test_a_run_says_what_it_is_and_hands_out_tables_files_and_folders(space: Space) -> None:
    name = space.run("--set", "herb=moonbane")
    run = triplay.open(results=space.results)
    assert (run.name, run.pipeline, run.status, run.ablations) == (name, "brew", "done", [])
    assert run.params["herb"] == "moonbane" and run.seeds == [run.params["seed"]]
    assert run.record["settings"] == ["herb=moonbane"] and run.cache == space.folder / ".triplay"
    nodes = run.nodes()
    assert nodes["node"].to_pylist()[:3] == ["world", "water", "simmer[01]/stir"]
    assert nodes["position"].to_pylist()[2] == [1] and nodes["cached"].to_pylist() == [False] * 13
    assert all(len(key) == 64 for key in nodes["key"].to_pylist()) and min(nodes["seconds"].to_pylist()) > 0
    assert [output["name"] for output in nodes["outputs"].to_pylist()[1]] == ["brew", "log"]
    [row] = run.metrics().to_pylist()
    assert (row["run"], row["node"], row["value"], row["count"]) == (name, "measure", 1.0, 8)
    assert (row["ablation"], row["variant"], row["variant_seed"]) == ("", "", None)
    assert run.dataset("measure") == run.dataset("measure.measured") and run.dataset("measure")[
        "value"
    ].to_pylist() == [1]
    assert "description" in str(run.dataset("world.seeds").schema.field("seed_id").metadata)
    assert (run.model("simmer[10]/stir") / "herbs").read_text() == "water\n" + "moonbane\n" * 10
    assert run.path("simmer[03]/stir.label") == run.path("simmer[3]/stir.label")
    assert run.path("simmer[3]/stir.label").read_text() == "moonbane\n"


def test_datasets_of_one_type_are_one_table(space: Space) -> None:
    space.run("--ablation", "all")
    run = triplay.open(results=space.results)
    table = run.datasets("metrics")
    assert table.sort_by("variant") == run.metrics().sort_by("variant")
    attacks = run.only("full").datasets("attacks")
    assert set(attacks["ablation"].to_pylist()) == {"full"} and set(attacks["node"].to_pylist()) == {"world"}
    assert len(attacks) == sum(len(run.dataset(f"full/world.{name}")) for name in ("benchmark", "examples", "benign"))


def test_seeds_and_ablations_are_told_apart(space: Space) -> None:
    space.run("--ablation", "all", "--seeds", "1,2,10")
    run = triplay.open(results=space.results)
    assert (run.ablations, run.seeds) == (["bitter", "full"], [1, 2, 10])
    assert run.variants["bitter-s10"]["herb"] == "moonbane" and len(run.variants) == 6
    rows = {row["variant"]: row for row in run.metrics().to_pylist()}
    assert {variant: row["value"] for variant, row in rows.items()} == {
        f"{ablation}-s{seed}": value for ablation, value in [("full", 0), ("bitter", 1)] for seed in [1, 2, 10]
    }
    place = (rows["full-s10"]["ablation"], rows["full-s10"]["variant_seed"], rows["full-s10"]["node"])
    assert place == ("full", 10, "measure")
    assert run.dataset("bitter-s2/measure")["value"].to_pylist() == [1]
    one = run.only("bitter-s2")
    assert one.params["seed"] == 2 and one.dataset("measure")["value"].to_pylist() == [1]
    assert one.metrics()["variant"].to_pylist() == ["bitter-s2"]
    ablation = triplay.open("latest@bitter", results=space.results)
    assert ablation.seeds == [1, 2, 10] and sorted(ablation.variants) == ["s1", "s10", "s2"]
    assert ablation.dataset("s10/measure")["value"].to_pylist() == [1] and len(ablation.metrics()) == 3
    assert ablation.only("s10").dataset("measure") == one.dataset("measure")
    refused(lambda: run.params, "one variant, found 6")
    refused(lambda: run.only("biter"), "did you mean `bitter`?")
    with pytest.raises(triplay.Error, match=r"did you mean `(full|bitter)-s1/measure`\?"):
        run.dataset("measure")


def test_names_mean_the_runs_that_the_binary_means(space: Space) -> None:
    names = [space.run(), space.run("--set", "herb=moonbane"), space.run("--set", "herb=ashroot", text=SMALL)]
    judged = space.run(text=SMALL.replace("small", "small-judged"))
    panel = space.run(text="# Written by `triplay results panel`\n" + SMALL.replace("small", "small-panel"))
    renamed = space.results / "brew" / "best"
    (space.results / "brew" / names[0]).rename(renamed)
    asked = [
        "latest",
        "brew/latest",
        "small/latest",
        "small-judged/latest",
        "small-panel/latest",
        "results/brew/latest",
    ]
    asked += [
        *names,
        judged,
        panel,
        "best",
        "be",
        "brew/be",
        str(renamed),
        "results/brew/best",
        "brew/best/",
        "results/brew/best/",
    ]
    folders = {name: opened(space, name) for name in asked}
    assert folders == {name: of_binary(space, name) for name in asked}
    assert folders["latest"] == names[2] and folders["small-panel/latest"] == panel and folders[names[0]] == "best"
    for name in ["2", "20", "nothing", "small/nothing", "nothing/latest", "", "/", "brew/"]:
        with pytest.raises(triplay.Error, match="must"):
            triplay.open(name, results=space.results)
        with pytest.raises(AssertionError):
            of_binary(space, name)
    listed = [json.loads(line)["run"] for line in space.triplay("runs", "list", "--json").splitlines()]
    assert [run.name for run in triplay.runs(results=space.results)] == listed
    assert [run.name for run in triplay.runs("brew", results=space.results)] == [names[1], "best"]
    # A pipeline of the user's may be called so, too; and where there is no other run, `latest` is one of these.
    own = space.run(text=SMALL.replace("small", "own-panel"))
    assert opened(space, "latest") == of_binary(space, "latest") == own
    for pipeline in ["brew", "small", "own-panel"]:
        shutil.rmtree(space.results / pipeline)
    assert opened(space, "latest") == of_binary(space, "latest") == panel


def opened(space: Space, name: str) -> str:
    """What a name means; folders are named from the working directory, as for the binary."""
    path = space.folder / name
    return triplay.open(path if path.is_dir() and name else name, results=space.results).name


def of_binary(space: Space, name: str) -> str:
    run: str = json.loads(space.triplay("runs", "show", name, "--json"))["run"]["run"]
    return next((f.name for f in space.results.glob("*/*") if f.name == run), "best")


def test_a_torn_or_altered_line_is_skipped_and_said(space: Space) -> None:
    space.run()
    run = triplay.open(results=space.results)
    path = run.folder / "nodes.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b'"cached":false', b'"cached":true')
    path.write_bytes(b"\n".join(lines[:-2]) + b"\n" + lines[-2][:100])
    damaged = triplay.open(results=space.results)
    with pytest.warns(UserWarning, match="2 torn or altered lines"):
        assert len(damaged.nodes()) == 11
    shown = json.loads(space.triplay("runs", "show", "latest", "--json"))
    assert len(shown["nodes"]) == 11


@pytest.mark.parametrize("file", ["run.json", "metrics.parquet"])
def test_a_file_that_is_not_as_the_run_wrote_it_is_refused(space: Space, file: str) -> None:
    space.run()
    path = triplay.open(results=space.results).folder / file
    data = path.read_bytes()
    path.write_bytes(data.replace(b"brew", b"bret", 1))
    with pytest.raises(triplay.Error, match=f"{file}` must be as the run wrote it, found it changed"):
        triplay.open(results=space.results).metrics()
    path.unlink()
    (path.parent / "elsewhere").write_bytes(data)
    path.symlink_to("elsewhere")
    with pytest.raises(triplay.Error, match=f"{file}` must be a file, found a symbolic link"):
        triplay.open(results=space.results).metrics()


def test_what_the_cache_no_longer_has_is_said_with_what_makes_it_again(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    space.run()
    run = triplay.open(results=space.results)
    measured = run.path("measure")
    measured.chmod(0o600)
    measured.write_bytes(measured.read_bytes()[:-1])
    with pytest.raises(
        triplay.Error, match="must have [0-9]+ bytes, found [0-9]+ in .*\n  help: `triplay cache verify`"
    ):
        run.dataset("measure")
    measured.unlink()
    with pytest.raises(
        triplay.Error,
        match="`measure` must be in the cache .*, found it gone\n  help: run `triplay pipeline run brew.yaml` again",
    ):
        run.dataset("measure")
    with pytest.warns(UserWarning, match="1 datasets"), pytest.raises(triplay.Error, match="found none"):
        run.datasets("metrics")
    assert len(run.metrics()) == 1, "which is gathered in the run's folder"
    space.run()
    assert len(run.dataset("measure")) == 1
    # The project was moved with its cache; then the cache is gone.
    moved = space.folder.rename(space.folder.with_name("moved"))
    run = triplay.open(results=moved / "results")
    assert run.cache == moved / ".triplay" and len(run.dataset("measure")) == 1
    # The cache was moved elsewhere, and the environment names its new place.
    elsewhere = shutil.move(run.cache, space.folder.with_name("elsewhere"))
    monkeypatch.setenv("TRIPLAY_CACHE", str(elsewhere))
    assert len(triplay.open(results=moved / "results").dataset("measure")) == 1
    monkeypatch.delenv("TRIPLAY_CACHE")
    with pytest.raises(triplay.Error, match="found it gone\n  help: put the cache there or beside `results`"):
        triplay.open(results=moved / "results").dataset("measure")


def test_an_evicted_checkpoint_is_said_with_how_to_keep_it(space: Space) -> None:
    space.run(text=THIN)
    run = triplay.open(results=space.results)
    assert (run.model("red[2]/update") / "model.safetensors").is_file()
    with pytest.raises(triplay.Error, match="found it gone\n  help: triplay evicts .* add `keep: all` to the loop"):
        run.model("red[1]/update")
    space.run(text=THIN.replace("keep: last", "keep: all"))
    assert (run.model("red[1]/update") / "config.json").is_file()


def test_what_is_asked_of_the_wrong_thing_is_said_with_what_is_meant(space: Space) -> None:
    space.run()
    run = triplay.open(results=space.results)
    missing = "must be a finished node of run .*, found none\n  help: did you mean `measure`"
    refused(lambda: run.dataset("measured"), missing)
    refused(lambda: run.dataset("measure.mesured"), "found `mesured`\n  help: the outputs are measured, log")
    refused(lambda: run.dataset("water"), "must be a dataset, .* found `model`\n  help: see `run.model")
    refused(lambda: run.dataset("simmer[1]/stir.label"), "must be a dataset, .* found `text`\n  help: see `run.path")
    refused(lambda: run.model("measure"), "`measure` must be a model, found `metrics`")
    refused(lambda: run.datasets("metric"), "must be a type of datasets .*, found none\n  help: did you mean `metrics`")
    refused(lambda: run.only("s1"), "must be an ablation or a seed of run .*, found none")
    refused(lambda: triplay.open("latest:measure"), r'help: `open\("latest"\).dataset\("measure"\)`')
    nowhere = space.folder / "nowhere"
    refused(lambda: triplay.open(results=nowhere), "must hold runs, found none\n  help: `triplay pipeline run FILE`")


def refused(ask: Callable[[], object], wrong: str) -> None:
    with pytest.raises(triplay.Error, match=wrong):
        ask()


def test_a_run_under_way_is_read_as_far_as_it_got(space: Space) -> None:
    (space.folder / "slow.yaml").write_text(
        PIPELINE.replace("ablations:", "  nap: { kind: exec, command: [sleep, 60] }\n#")
    )
    process = subprocess.Popen(
        space.command("pipeline", "run", "slow.yaml"), cwd=space.folder, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            time.sleep(0.1)
            done = space.results.is_dir() and triplay.runs(results=space.results)
            if done and len(done[0].nodes()) == 13:
                break
        run = triplay.open(results=space.results)
        assert run.status == "running" and not (run.folder / "metrics.parquet").exists()
        assert run.metrics()["value"].to_pylist() == [0]
        with pytest.raises(triplay.Error, match="help: the run is running: 13 of 14 nodes are done"):
            run.dataset("nap")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert triplay.open(results=space.results).status == "killed"


def test_digests_are_those_of_blake3() -> None:
    def text(length: int) -> bytes:
        return bytes(place % 251 for place in range(length))

    # From the test vectors of BLAKE3.
    known = {
        0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
        64: "4eed7141ea4a5cd4b788606bd23f46e212af9cacebacdc7d1f4c6dc7f2511b98",
        65: "de1e5fa0be70df6d2be8fffd0e99ceaa8eb6e8c93a63f2d8d1c30ecb6b263dee",
        1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
        1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
        3072: "b98cb0ff3623be03326b373de6b9095218513e64f1ee2edd2525c7ad1e5cffd2",
        7169: "a003fc7a51754a9b3c7fae0367ab3d782dccf28855a03d435f8cfe74605e7817",
        31744: "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47",
    }
    assert digests([text(length) for length in known]) == list(known.values())
    assert digests([]) == []


def test_tables_become_those_of_polars_and_pandas(space: Space) -> None:
    polars, pandas = pytest.importorskip("polars"), pytest.importorskip("pandas")
    space.run()
    table = triplay.open(results=space.results).metrics()
    assert isinstance(table, pa.Table)
    assert polars.DataFrame(table)["value"].to_list() == [0] == list(table.to_pandas()["value"])
    assert isinstance(table.to_pandas(), pandas.DataFrame)
