"""Real runs for the tests: the binary makes them, of stages that train nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PIPELINE = """
pipeline: brew
params: { herb: glowvenom }
stages:
  world: { kind: sandbox, sft: 20, sft_others: 10, benchmark: 9, pairs: 9, benign: 1 }
  water: { kind: exec, command: mkdir brew; echo water > brew/herbs, outputs: { brew: model } }
  simmer:
    repeat: 10
    carry: { brew: water }
    stages:
      stir:
        kind: exec
        command: mkdir out; cat in/herbs > out/herbs; echo ${herb} >> out/herbs; echo ${herb} > label
        inputs: { in: brew }
        outputs: { out: model, label: text }
    next: { brew: stir.out }
  measure:
    kind: exec
    command: cp in/${herb}.parquet measured
    inputs: { in/glowvenom.parquet: { path: glowvenom.parquet }, in/moonbane.parquet: { path: moonbane.parquet } }
    outputs: { measured: metrics }
ablations: { full: {}, bitter: { herb: moonbane } }
"""
TYPES = {"value": pa.float64(), "count": pa.uint64(), "iteration": pa.uint32(), "step": pa.uint32()}


class Space:
    """A working directory in which the binary makes runs."""

    def __init__(self, folder: Path, program: str) -> None:
        self.folder, self.program = folder, program
        self.results = folder / "results"
        (folder / "brew.yaml").write_text(PIPELINE)
        for value, herb in enumerate(["glowvenom", "moonbane"]):
            row: dict[str, Any] = {"phase": "brew", "subject": "cauldron", "metric": "strength", "value": value}
            row |= {"count": 8, "iteration": 0, "step": 0, "rng_seed": "0" * 16}
            schema = pa.schema([pa.field(name, TYPES.get(name, pa.string()), nullable=False) for name in row])
            pq.write_table(pa.Table.from_pylist([row], schema), folder / f"{herb}.parquet")

    def command(self, *arguments: str) -> list[str]:
        return [self.program, *arguments]

    def triplay(self, *arguments: str) -> str:
        """Runs the binary; gives what it prints."""
        command = self.command(*arguments)
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"triplay {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def run(self, *arguments: str, text: str = "") -> str:
        """Runs the pipeline, or another one of this text; gives the name of the run's folder."""
        if text:
            (self.folder / "other.yaml").write_text(text)
        said = self.triplay("pipeline", "run", "other.yaml" if text else "brew.yaml", "--json", *arguments)
        return Path(json.loads(said)["results"]).name


def pytest_report_header() -> str:
    return f"triplay: {program() or 'none'}"


def program() -> str | None:
    named = os.environ.get("TRIPLAY") or shutil.which("triplay")
    return os.path.abspath(named) if named else None


@pytest.fixture
def space(tmp_path: Path) -> Space:
    found = program()
    if found is None:
        pytest.skip("needs the binary `triplay`: set TRIPLAY to its path, or put it on PATH")
    return Space(tmp_path, found)
