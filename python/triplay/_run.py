"""A run, read from its folder and from its cache."""

from __future__ import annotations

import copy
import difflib
import fcntl
import json
import os
import re
import warnings
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ._sealed import digests, is_sealed_file, sealed_lines

RECORD, NODES, METRICS = "run.json", "nodes.jsonl", "metrics.parquet"

# The columns that `triplay results query` puts before the rows of all nodes have the same names.
_TEXT = pa.string()
_PLACE = [("run", _TEXT), ("ablation", _TEXT), ("variant", _TEXT), ("variant_seed", pa.uint64()), ("node", _TEXT)]
_OUTPUT = pa.struct([("name", _TEXT), ("artifact", _TEXT), ("digest", _TEXT), ("bytes", pa.uint64())])
_NODE = pa.schema(
    [
        *_PLACE,
        ("kind", _TEXT),
        ("key", _TEXT),
        ("cached", pa.bool_()),
        ("seconds", pa.float64()),
        ("position", pa.list_(pa.uint32())),
        ("outputs", pa.list_(_OUTPUT)),
    ]
)


class Error(Exception):
    """Says what must be and what was found and, on a line of its own, what to do."""

    def __init__(self, message: str, help: str = "") -> None:
        super().__init__(f"{message}\n  help: {help}" if help else message)


def nearest(given: str, known: Iterable[str], otherwise: str = "") -> str:
    """Asks for the known name that is most like the given one."""
    near = difflib.get_close_matches(given, known, 1)
    return f"did you mean `{near[0]}`?" if near else otherwise


class Run:
    """A run of a pipeline, as it was when it was opened: open a run under way again to see what it has done since.

    Attributes:
        folder: The run's folder, `results/<pipeline>/<run>/`.
        name: The name of that folder: when the run began, unless somebody renamed it.
        pipeline: The name of the pipeline.
        status: `running`, `done`, `failed`, `interrupted` or `killed`.
        cache: The folder that holds what the nodes wrote.
        variants: The parameters of each ablation and seed by its name, such as `full-s1`. The name is empty for the
            pipeline as it stands.
        record: All that `run.json` says: settings, machine, versions, seconds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.resolve().name
        self.record = _record(folder)
        self.status: str = self.record["status"]
        if self.status == "running" and not _is_under_way(folder):
            self.record = _record(folder)  # It may have ended just now, after its record was read.
            self.status = self.record["status"].replace("running", "killed")
        self.pipeline: str = self.record["pipeline"]
        self.variants: dict[str, dict[str, Any]] = self.record["params"]
        self.cache = _cache(self.record, folder)
        self._again = f"run `triplay pipeline run {self.record['file']}` again, with the same flags"

    def __repr__(self) -> str:
        return f"<triplay.Run {self.pipeline}/{self.name}: {self.status}>"

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of a run that has one variant, or of the one that `only` chose."""
        if len(self.variants) == 1:
            return next(iter(self.variants.values()))
        names, help = ", ".join(self.variants), "`run.only(NAME)` chooses one"
        raise Error(f"`params` must be of one variant, found {len(self.variants)}: {names}", help)

    @property
    def ablations(self) -> list[str]:
        """The names of the ablations. The pipeline as it stands has none."""
        return [name for name in dict.fromkeys(_variant(f"{name}/")[0] for name in self.variants) if name]

    @property
    def seeds(self) -> list[int]:
        """The random seeds, in ascending order."""
        return sorted({params["seed"] for params in self.variants.values() if "seed" in params})

    def only(self, variant: str) -> Run:
        """Chooses an ablation, a seed, or one of both, such as `full-s1`. Its nodes are named without it.

        An ablation with several seeds has all of them; its nodes are named `s1/…`.
        """
        exact = variant in self.variants

        def rest(name: str) -> str:
            ablation, seed, _ = _variant(name)
            is_meant = name.startswith(f"{variant}/") if exact else ablation == variant and seed is not None
            return name[len(variant) + 1 :] if is_meant else ""

        chosen = {name: params for name, params in self.variants.items() if rest(f"{name}/.")}
        if not variant or not chosen:
            known = [name for name in [*self.ablations, *self.variants] if name]
            help = nearest(variant, known, f"it has {', '.join(known) or 'one variant, without a name'}")
            raise Error(f"`{variant}` must be an ablation or a seed of run {self.name}, found none", help)
        run = copy.copy(self)
        run.variants = chosen if exact else {rest(f"{name}/.")[:-2]: chosen[name] for name in chosen}
        run._nodes = {rest(name): node for name, node in self._nodes.items() if rest(name)}
        return run

    def nodes(self) -> pa.Table:
        """Lists the nodes that are done, in the order of the pipeline.

        Columns: `run`, `ablation`, `variant`, `variant_seed`, `node` (without the variant), `kind`, `key`, `cached`,
        `seconds` (of work, also where it was done earlier), `position` (rounds of its loops, from 1), `outputs` (a list
        of name, artifact, digest, bytes).
        """
        return pa.Table.from_pylist([node | self._place(node["node"]) for node in self._nodes.values()], _NODE)

    def metrics(self) -> pa.Table:
        """Reads what the nodes measured, a row for each number; of a run under way, what there is so far.

        Columns: where a row comes from (the first five of `nodes`), then `phase`, `subject`, `metric`, `value`,
        `count`, `iteration`, `step`, `rng_seed`.
        """
        path = _inside(self.folder, METRICS)
        if not path.exists():
            return self.datasets("metrics")
        data, recorded = path.read_bytes(), self.record.get("files", {}).get(METRICS)
        if recorded and digests([data]) != [recorded]:
            raise Error(f"`{path}` must be as the run wrote it, found it changed", self._again)
        table = pq.read_table(pa.BufferReader(data))
        own = pa.array({node["node"] for node in self._nodes.values()}, _TEXT)
        table = table.filter(pc.is_in(table["node"], own))
        return self._placed(table, table["node"].combine_chunks())

    def datasets(self, artifact: str) -> pa.Table:
        """Reads all datasets of one type, such as `rewards` or `outcomes`, as one table in the order of the pipeline.

        Columns: where a row comes from (the first five of `nodes`), then those of the datasets. Warns of datasets that
        the cache no longer has.
        """
        outputs = [(node["node"], output) for node in self._nodes.values() for output in node["outputs"]]
        meant = [(node, output) for node, output in outputs if output["artifact"] == artifact]
        there = [(node, output) for node, output in meant if self._blob(output).exists()]
        if gone := len(meant) - len(there):
            warnings.warn(f"{gone} datasets of type `{artifact}` are not in the cache {self.cache}", stacklevel=2)
        if not there:
            known = sorted({output["artifact"] for _, output in outputs} - {artifact})
            raise Error(
                f"`{artifact}` must be a type of datasets that run {self.name} has, found none",
                self._again if meant else nearest(artifact, known, f"it has {', '.join(known) or 'none yet'}"),
            )
        tables = [(node, self._table(f"{node}.{output['name']}", output)) for node, output in there]
        placed = [self._placed(table, pa.array([node] * len(table), _TEXT)) for node, table in tables]
        return pa.concat_tables(placed, promote_options="permissive")

    def dataset(self, name: str) -> pa.Table:
        """Reads the dataset `NODE` or `NODE.OUTPUT`, such as `play[1]/red[20]/rewards`.

        Raises `Error` if it is no dataset, or if the cache no longer has it.
        """
        return self._table(name, self._output(name))

    def model(self, name: str) -> Path:
        """Finds the model that `NODE` or `NODE.OUTPUT` wrote: a Hugging Face folder, for reading only."""
        output = self._output(name)
        if output["artifact"] != "model":
            raise Error(f"`{name}` must be a model, found `{output['artifact']}`", f'see `run.path("{name}")`')
        return self._checked(name, output)

    def path(self, name: str) -> Path:
        """Finds the file or folder that `NODE` or `NODE.OUTPUT` wrote, of any type, for reading only."""
        return self._checked(name, self._output(name))

    @cached_property
    def _nodes(self) -> dict[str, dict[str, Any]]:
        """The lines of `nodes.jsonl` by the names that nodes go by here, which `only` shortens."""
        path = _inside(self.folder, NODES)
        lines, damaged = sealed_lines(path.read_bytes())
        if damaged and self.status != "running":
            warnings.warn(f"{path}: {damaged} torn or altered lines were skipped", stacklevel=4)
        nodes = sorted(map(json.loads, lines), key=lambda node: node.get("index", 0))
        return {node["node"]: node for node in nodes}

    def _place(self, node: str) -> dict[str, Any]:
        ablation, seed, rest = _variant(node)
        variant = node.removesuffix(rest).rstrip("/")
        return {"run": self.name, "ablation": ablation, "variant": variant, "variant_seed": seed, "node": rest}

    def _placed(self, table: pa.Table, nodes: pa.Array) -> pa.Table:
        """Puts the columns before a table that say where its rows come from."""
        nodes = nodes.dictionary_encode()
        places = [self._place(node) for node in nodes.dictionary.to_pylist()]
        placed = pa.Table.from_pylist(places, pa.schema(_PLACE)).take(nodes.indices)
        for field in table.schema:
            if field.name not in dict(_PLACE):
                placed = placed.append_column(field, table[field.name])
        return placed

    def _node(self, name: str) -> dict[str, Any] | None:
        bare = _bare(name)
        return self._nodes.get(name) or next((self._nodes[k] for k in self._nodes if _bare(k) == bare), None)

    def _output(self, name: str) -> dict[str, Any]:
        node, output = self._node(name), ""
        if node is None:
            before, _, output = name.rpartition(".")
            node = self._node(before)
        if node is None:
            same = [known for known in self._nodes if _bare(_variant(known)[2]) == _bare(name)][:1]
            done = f"the run is {self.status}: {len(self._nodes)} of {self.record['nodes']} nodes are done"
            help = nearest(same[0] if same else name, self._nodes, done if self.status != "done" else "")
            raise Error(f"`{name}` must be a finished node of run {self.name}, found none", help)
        names = [known["name"] for known in node["outputs"]]
        if output and output not in names:
            help = f"the outputs are {', '.join(names)}"
            raise Error(f"`{name}` must end in an output of the node, found `{output}`", help)
        found: dict[str, Any] = node["outputs"][names.index(output) if output else 0]
        return found

    def _blob(self, output: dict[str, Any]) -> Path:
        digest: str = output["digest"]
        return self.cache / "blobs" / digest[:2] / digest

    def _checked(self, name: str, output: dict[str, Any]) -> Path:
        """Finds an output in the cache and compares its size. `triplay cache verify` compares contents."""
        path, help = self._blob(output), self._again
        if not path.exists():
            if not path.parent.parent.is_dir():
                help = f"put the cache there or beside `results`, or {help}"
            elif output.get("passing"):
                help = f"triplay evicts the checkpoints of a loop: add `keep: all` to the loop, then {help}"
            raise Error(f"`{name}` must be in the cache {self.cache}, found it gone", help)
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        if (found := sum(file.stat().st_size for file in files)) != output["bytes"]:
            help = f"`triplay cache verify` puts aside what is damaged; then {help}"
            raise Error(f"`{name}` must have {output['bytes']} bytes, found {found} in {path}", help)
        return path

    def _table(self, name: str, output: dict[str, Any]) -> pa.Table:
        path, artifact = self._checked(name, output), output["artifact"]
        try:
            return pq.ParquetFile(path).read()
        except (pa.ArrowInvalid, OSError) as error:
            help = f'see `run.{"model" if artifact == "model" else "path"}("{name}")`'
            raise Error(f"`{name}` must be a dataset, which is a Parquet file, found `{artifact}`", help) from error


def _variant(node: str) -> tuple[str, int | None, str]:
    """Splits a node's name, such as `full-s1/play[1]/red[03]/update`, into its ablation, its seed and the rest."""
    name, slash, rest = node.partition("/")
    if not slash or "[" in name:
        return "", None, node
    seed = re.fullmatch("(?:(.*)-)?s([0-9]+)", name)
    return (seed[1] or "", int(seed[2]), rest) if seed else (name, None, rest)


def _bare(node: str) -> str:
    """Writes rounds without zeros in front: how many there are depends on how many rounds the loop has."""
    return re.sub(r"\[0*([0-9]+)\]/", r"[\1]/", node)


def _inside(folder: Path, name: str) -> Path:
    """Finds a file of a run's folder. A link is refused: the folder may be a stranger's, and lead anywhere."""
    if (folder / name).is_symlink():
        raise Error(f"`{folder / name}` must be a file, found a symbolic link", "put the file itself there")
    return folder / name


def _cache(record: dict[str, Any], folder: Path) -> Path:
    """The cache of a run: that of `TRIPLAY_CACHE`, one at the same path in a folder around, or the recorded one."""
    recorded, root = Path(record["cache"]), record.get("root")
    named = os.environ.get("TRIPLAY_CACHE")
    ends = [Path(*recorded.parts[-count:]) for count in (1, 2, 3)]
    near = [above / end for above in folder.resolve().parents for end in ends if not end.is_absolute()]
    places = [*([Path(named).absolute()] if named else []), *near, recorded]
    return next((place for place in places if root and (place / "roots" / root).is_dir()), recorded)


def _record(folder: Path) -> dict[str, Any]:
    path = _inside(folder, RECORD)
    try:
        text = path.read_bytes()
        record: dict[str, Any] = json.loads(text)
        [record[key] for key in ("pipeline", "status", "params", "cache", "file", "nodes")]
    except FileNotFoundError as error:
        raise Error(f"`{path}` must be there, found none: the run was killed as it began") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Error(f"`{path}` must be the record of a run, found {error!r}") from error
    if not is_sealed_file(text):
        raise Error(f"`{path}` must be as the run wrote it, found it changed", "run the pipeline again for a new run")
    return record


def _is_under_way(folder: Path) -> bool:
    """Says whether the process that makes a run lives: it holds a lock on the file that it writes."""
    with open(folder / NODES, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return isinstance(error, BlockingIOError)
    return False
