"""The worker's process: `python -m triplay_torch JOBS ANSWERS`. It reads a job from each line of one pipe and writes its progress
and its answer as lines to the other. Whatever libraries print goes to standard error, which triplay keeps as a log."""

import argparse
import importlib
import json
import math
import os
import sys
import traceback

from . import PROTOCOL

NEEDED = ["torch", "transformers", "peft", "accelerate", "safetensors"]


def main():
    parser = argparse.ArgumentParser(prog="python -m triplay_torch")
    parser.add_argument("jobs", help="the pipe from which jobs are read")
    parser.add_argument("answers", help="the pipe to which answers are written")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    options = parser.parse_args()
    rank = int(os.environ.get("RANK", 0))
    answers = open(options.answers, "w", buffering=1) if rank == 0 else None

    def tell(message: dict):
        if answers:
            answers.write(json.dumps(as_json(message), allow_nan=False) + "\n")

    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        tell({"protocol": PROTOCOL, "missing": missing, "python": sys.executable})
        return
    if options.processes > 1 and "RANK" not in os.environ:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.processes}"]
        os.execv(sys.executable, [sys.executable, *launch, "-m", "triplay_torch", *sys.argv[1:]])
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    from .job import Trainer

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    if options.device == "cuda" and not torch.cuda.is_available():
        tell({"protocol": PROTOCOL, "error": "device", "message": "PyTorch finds no CUDA device"})
        return
    state = PartialState(cpu=options.device == "cpu")
    trainer = Trainer(state)
    versions = {name: importlib.metadata.version(name) for name in NEEDED}
    tell({"protocol": PROTOCOL, "versions": versions, "device": str(state.device), "processes": state.num_processes})
    jobs = open(options.jobs) if rank == 0 else None
    while True:
        line = [jobs.readline() if jobs else None]
        if state.num_processes > 1:
            broadcast_object_list(line)
        if not line[0]:
            return
        job = json.loads(line[0])
        answer = {"id": job["id"]}
        try:
            answer |= trainer.steps(job, lambda done, total, note: tell({**answer, "progress": [done, total, note]}))
        except (torch.OutOfMemoryError, MemoryError) as error:
            answer |= {"error": "memory", "message": str(error)}
        except Exception as error:
            traceback.print_exc()
            memory = "not enough memory" in str(error) or "can't allocate memory" in str(error)
            answer |= {"error": "memory" if memory else "failed", "message": f"{type(error).__name__}: {error}"}
        tell(answer)
        if "error" in answer:
            # What is in memory may be half of a step.
            return


def as_json(value):
    """JSON has no NaN: numbers that are not finite are text."""
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


if __name__ == "__main__":
    main()
