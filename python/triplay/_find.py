"""Finds runs, by the rules of the command line."""

from __future__ import annotations

import json
import os
import re
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ._run import NODES, RECORD, Error, Run, nearest

_PANEL_MARK = b"# Written by `triplay results panel`"


def open(run: str | os.PathLike[str] = "latest", *, results: str | os.PathLike[str] = "results") -> Run:
    """Opens a run.

    `run` is what `triplay` takes: a run's name, a beginning of it that no other run has, `latest`, `PIPELINE/RUN`, or
    the run's folder; `RUN@NAME` for one ablation or seed. A bare `latest` passes over runs of `triplay judge` and
    `triplay results panel`.

    Raises `Error` if there is no such run, or more than one.
    """
    text = os.fspath(run)
    if text and _is_run(Path(text)):
        return Run(Path(text))
    name, at, variant = text.partition("@")
    opened = Run(_locate(name, Path(results)))
    return opened.only(variant) if at else opened


def runs(pipeline: str | None = None, *, results: str | os.PathLike[str] = "results") -> list[Run]:
    """Opens all runs, or those of one pipeline, the newest first. Warns of those that cannot be read."""
    opened = []
    for found in reversed(_folders(Path(results), pipeline)):
        try:
            opened.append(Run(found.path))
        except Error as error:
            warnings.warn(f"left out a run: {error}", stacklevel=2)
    return opened


class _Found(NamedTuple):
    path: Path
    order: tuple[str, int]  # When it was made; empty if nothing says so.
    made_as: str | None  # What it was called then.

    @classmethod
    def at(cls, path: Path) -> _Found:
        if order := _order(path.name):
            return cls(path, order, path.name)
        # Somebody renamed it. Its record says what it was called, or at least when it began.
        record: Any = None
        if not (path / RECORD).is_symlink():
            try:
                record = json.loads((path / RECORD).read_bytes())
            except (OSError, ValueError):
                pass
        if not isinstance(record, dict) or not isinstance(record.get("run"), str):
            return cls(path, ("", 0), None)
        began = re.sub("[-:]", "", str(record.get("began", ""))[:19]).replace("T", "-")
        return cls(path, _order(record["run"]) or _order(began) or ("", 0), record["run"])

    @property
    def is_derived(self) -> bool:
        """Whether the run was made of another one, by `triplay judge` or `triplay results panel`."""
        pipeline, file = self.path.parent.name, self.path / "pipeline.yaml"
        if pipeline.endswith("-panel") and file.is_file() and not file.is_symlink():
            return file.read_bytes().startswith(_PANEL_MARK)
        return pipeline.endswith("-judged")


def _order(name: str) -> tuple[str, int] | None:
    """The time and the number that the name of a run says, if triplay gave it."""
    parts = re.fullmatch("([0-9]{8}-[0-9]{6})(?:-([1-9][0-9]*))?", name)
    if parts is None or parts[2] and not 2 <= int(parts[2]) < 2**32 - 1:
        return None
    try:
        datetime.strptime(parts[1], "%Y%m%d-%H%M%S")
    except ValueError:
        return None
    return parts[1], int(parts[2] or 1)


def _is_run(folder: Path) -> bool:
    """Whether a folder is that of a run. One that was killed as it began has no record, but a place and a name."""
    if not (folder / NODES).is_file():
        return False
    place = folder.resolve()
    return (folder / RECORD).is_file() or place.parent.parent.name == "results" and _order(place.name) is not None


def _folders(results: Path, pipeline: str | None) -> list[_Found]:
    """The folders of runs, the oldest first; a copy before the run that it is a copy of."""
    wanted = Path(pipeline or "").parts
    pipelines = [path for path in _below(results) if path.parts[len(path.parts) - len(wanted) :] == wanted]
    found = [_Found.at(path) for folder in pipelines for path in _below(folder) if _is_run(path)]
    return sorted(found, key=lambda run: (run.order, run.made_as == run.path.name, run.path))


def _below(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _locate(text: str, results: Path) -> Path:
    if text and _is_run(Path(text)):
        return Path(text)
    pipeline, slash, run = text.rstrip("/").rpartition("/")
    if not run:
        raise Error("`run` must be a run's name, the beginning of it, `latest` or its folder, found an empty text")
    if ":" in run:
        node = text.partition(":")[2]
        raise Error(
            f"`run` must be the name of a run, found `{text}`",
            f'`open("{text.partition(":")[0]}").dataset("{node}")`',
        )
    found = _folders(results, pipeline if slash else None)
    if not found:
        help = "`triplay pipeline run FILE` makes one; `results=` says where they are"
        raise Error(f"`{results / pipeline}` must hold runs, found none", help)
    if run == "latest":
        own = [one for one in found if slash or not one.is_derived]
        return (own or found)[-1].path
    now, before = [one.path.name for one in found], [one.made_as or "" for one in found]
    ways = [
        [path for (path, *_), name in zip(found, names) if (name == run if whole else name.startswith(run))]
        for whole in (True, False)
        for names in (now, before)
    ]
    meant = next(filter(None, ways), [])
    if len(meant) == 1:
        return meant[0]
    if meant:
        names = " or ".join(str(path) for path in meant)
        raise Error(f"`{run}` must be the beginning of one run's name, found {names}", "write more of the name")
    newest = "the newest are " + ", ".join(reversed(now[-5:]))
    raise Error(f"`{run}` must be a run, found none", nearest(run, now) or newest)
