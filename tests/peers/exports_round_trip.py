"""Reads what `triplay runs export` and `triplay results query -o` write with the programs that it is meant for, and
compares it with what triplay itself says of the run.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install -r tests/peers/requirements.txt
    /tmp/peers/bin/pip install --no-deps jailbreakbench
    (cd SOME-FOLDER && triplay pipeline run .../pipelines/quickstart.yaml)
    /tmp/peers/bin/python tests/peers/exports_round_trip.py target/release/triplay SOME-FOLDER [RUN]

The sandbox's pipeline of any size will do, such as tests/it/small.yaml. Exits with an error where anything differs.
"""

import csv
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"

TRIPLAY, FOLDER = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
RUN = sys.argv[3] if len(sys.argv) > 3 else "latest"
TABLES = ["metrics", "outcomes", "attacks", "responses", "verdicts", "labels", "meanings", "rewards"]


def triplay(*args):
    done = subprocess.run([TRIPLAY, *map(str, args)], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, f"{args}: {done.stderr}"
    return done.stdout


def query(sql):
    return [json.loads(line) for line in triplay("results", "query", sql, "--run", RUN, "--json").splitlines()]


def export(to, out, *more):
    triplay("runs", "export", RUN, "--to", to, "-o", out, *more)
    return out


def close(a, b):
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


def inspect(out):
    from inspect_ai.log import list_eval_logs, read_eval_log

    rates = query(
        "SELECT variant, node, phase, subject, metric, avg(value) AS rate, count(value) AS known, count(*) AS n"
        " FROM outcomes"
        " GROUP BY variant, node, phase, subject, metric"
    )
    outcomes = query("SELECT prompt, response, metric, value FROM outcomes WHERE value IS NOT NULL")
    logs = list_eval_logs(str(export("inspect", out)))
    found, samples = {}, 0
    said = set()
    for info in logs:
        log = read_eval_log(info)
        assert log.status == "success" and log.version == 2, info
        of = log.eval.metadata
        for score in log.results.scores:
            key = (of["variant"], of["node"], of["phase"], of["subject"], score.name)
            assert key not in found, key
            values = [s.scores[score.name].as_float() for s in log.samples if score.name in s.scores]
            assert score.scored_samples == len(values), key
            # What is undetermined has no score, and of nothing there is no mean.
            found[key] = (score.metrics["mean"].value if values else None, len(values), score.unscored_samples)
            assert not values or close(sum(values) / len(values), found[key][0]), key
        assert len({(s.id, s.epoch) for s in log.samples}) == len(log.samples)
        for sample in log.samples:
            user, assistant = sample.messages
            assert (user.role, assistant.role) == ("user", "assistant")
            assert sample.output.completion == assistant.text and sample.input == user.text
            said |= {(user.text, assistant.text, name, score.as_float()) for name, score in sample.scores.items()}
        samples += len(log.samples)
    for row in rates:
        key = tuple(row[name] for name in ("variant", "node", "phase", "subject", "metric"))
        rate, known, unknown = found.pop(key)
        assert (known, unknown) == (row["known"], row["n"] - row["known"]), key
        assert close(rate, row["rate"]) if known else rate is row["rate"] is None, key
    assert not found, found
    assert said == {(o["prompt"], o["response"], o["metric"], o["value"]) for o in outcomes}
    headers = read_eval_log(logs[0], header_only=True)
    return f"{len(logs)} logs with {samples} samples, {len(rates)} rates, such as of {headers.eval.model}"


def jbb(out):
    # The package's front door loads clients of models that reading needs nothing of.
    package = types.ModuleType("jailbreakbench")
    package.__path__ = importlib.util.find_spec("jailbreakbench").submodule_search_locations
    sys.modules["jailbreakbench"] = package
    from jailbreakbench.artifact import AttackArtifact, AttackParameters

    # JailbreakBench knows four models only: everything else of its schema is checked as it stands.
    class Parameters(AttackParameters):
        model: str

    class Artifact(AttackArtifact):
        parameters: Parameters

    files = sorted(export("jbb", out).glob("*.json"))
    broken = 0
    for file in files:
        artifact = Artifact.model_validate_json(file.read_text())
        of, breaks = artifact.parameters.method_parameters, [j for j in artifact.jailbreaks if j.jailbroken]
        rows = query(
            "SELECT seed_id, max(value) AS broken, count(value) AS known, count(*) AS n FROM outcomes"
            f" WHERE variant = '{of['variant']}' AND node = '{of['node']}' AND phase = '{of['phase']}'"
            f" AND metric = '{of['metric']}' AND subject = '{artifact.parameters.model}' GROUP BY seed_id"
        )
        # Of a behavior of which some attempt is not known nothing is said.
        told = [row for row in rows if row["known"] == row["n"]]
        assert artifact.parameters.total_number_of_jailbreaks == len(breaks) == sum(r["broken"] for r in told)
        assert artifact.parameters.total_number_of_queries == sum(r["n"] for r in rows)
        assert {j.behavior for j in artifact.jailbreaks} == {r["seed_id"] for r in told}
        assert {*filter(None, of["undetermined_behaviors"].split(", "))} == {r["seed_id"] for r in rows} - {r["seed_id"] for r in told}
        indices = [j.index for j in artifact.jailbreaks]
        assert indices == sorted(set(indices)) and set(indices) <= set(range(len(rows)))
        broken += len(breaks)
    return f"{len(files)} artifacts, {broken} jailbreaks"


def harmbench(out):
    export("harmbench", out)
    with open(out / "behaviors.csv", newline="") as file:
        behaviors = {row["BehaviorID"]: row for row in csv.DictReader(file)}
    cases, labels = 0, 0
    for folder in (path for path in out.iterdir() if path.is_dir()):
        tests = json.loads((folder / "test_cases.json").read_text())
        completions = json.loads((folder / "completions.json").read_text())
        assert tests.keys() == completions.keys() and tests.keys() <= behaviors.keys()
        for behavior, answers in completions.items():
            assert [answer["test_case"] for answer in answers] == tests[behavior]
            assert all(isinstance(answer["generation"], str) for answer in answers)
            cases += len(answers)
            labels += sum(answer.get("label", 0) for answer in answers)
    rows = query("SELECT count(*) AS n, sum(value) AS broken FROM outcomes WHERE metric LIKE '%_success'")
    assert (cases, labels) == (rows[0]["n"], rows[0]["broken"] or 0)
    return f"{len(behaviors)} behaviors, {cases} test cases, {labels} succeeded"


def tables(out):
    import pandas
    import pyarrow.parquet

    export("csv", out)
    rows = {}
    for table in TABLES:
        file = out / f"{table}.parquet"
        triplay("results", "query", f"SELECT * FROM {table}", "--run", RUN, "-o", file)
        whole = pyarrow.parquet.read_table(file)
        # "NA" may be an answer; an empty text is as empty as nothing.
        read = pandas.read_csv(out / f"{table}.csv", keep_default_na=False)
        assert list(read.columns) == whole.column_names, table
        assert len(read) == whole.num_rows, table
        for column in ["value", "reward", "logprob"]:
            if column in read and len(read):
                ours = [math.nan if v is None else v for v in whole[column].to_pylist()]
                theirs = [float(v) if v != "" else math.nan for v in read[column]]
                assert all(map(close, ours, theirs)), (table, column)
        for column in ["text", "prompt", "response"]:
            if column in read and len(read):
                assert [v or "" for v in whole[column].to_pylist()] == list(read[column].astype(str)), (table, column)
        rows[table] = len(read)
    return ", ".join(f"{table} {count}" for table, count in rows.items())


def curves():
    """What the last value of every metric of every variant is."""
    rows = query("SELECT variant, node, kind, phase, subject, metric, value FROM metrics")
    return {(row["variant"], row["subject"], row["metric"]) for row in rows}, len(rows), rows


def tensorboard(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    known, count, rows = curves()
    total, tags = 0, 0
    seen = {}
    for file in export("tensorboard", out).rglob("events.out.tfevents.*"):
        variant = "/".join(file.parent.relative_to(out).parts[1:])
        events = EventAccumulator(str(file.parent), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            scalars = events.Scalars(tag)
            assert [s.step for s in scalars] == sorted(s.step for s in scalars), tag
            total += len(scalars)
            tags += 1
            seen[(variant, tag)] = [s.value for s in scalars]
    assert total == count, (total, count)
    for variant in {row["variant"] for row in rows}:
        kl = [r["value"] for r in rows if (r["variant"], r["kind"], r["subject"], r["metric"]) == (variant, "update", "attacker", "kl")]
        if kl:
            assert all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(kl, seen[(variant, "update/attacker/kl")], strict=True))
    return f"{tags} tags with {total} values in {len({v for v, _ in seen})} variants"


def mlflow(out):
    from mlflow.entities import ViewType
    from mlflow.tracking import MlflowClient

    known, count, rows = curves()
    client = MlflowClient(tracking_uri=f"file://{export('mlflow-files', out)}")
    experiments = client.search_experiments(view_type=ViewType.ACTIVE_ONLY)
    runs = client.search_runs([e.experiment_id for e in experiments])
    params = query("SELECT variant, name, value FROM params")
    variants = {row["variant"] for row in params}
    assert {run.data.tags["triplay.variant"] for run in runs} == variants
    total = 0
    for run in runs:
        variant = run.data.tags["triplay.variant"]
        assert run.data.params == {p["name"]: p["value"] for p in params if p["variant"] == variant}
        assert run.info.status == "FINISHED" and run.info.end_time >= run.info.start_time
        for metric in run.data.metrics:
            total += len(client.get_metric_history(run.info.run_id, metric))
        kl = [r["value"] for r in rows if (r["variant"], r["kind"], r["subject"], r["metric"]) == (variant, "update", "attacker", "kl")]
        if kl:
            history = client.get_metric_history(run.info.run_id, "update/attacker/kl")
            assert [m.value for m in history] == kl, variant
    assert total == count, (total, count)
    return f"{len(experiments)} experiments, {len(runs)} runs, {total} values"


def redacted(out):
    texts = {row["text"] for row in query("SELECT DISTINCT text FROM responses WHERE text <> '' LIMIT 500")}
    texts = {text for text in texts if len(text) > 20}
    for to in ["inspect", "jbb", "harmbench", "csv"]:
        for file in export(to, out / to, "--redact").rglob("*"):
            held = file.read_text() if file.is_file() else ""
            assert not any(text in held for text in texts), file
    return f"none of {len(texts)} texts"


with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "redacted").mkdir()
    for check in [inspect, jbb, harmbench, tables, tensorboard, mlflow, redacted]:
        print(f"{check.__name__:12} {check(Path(folder) / check.__name__)}", flush=True)
