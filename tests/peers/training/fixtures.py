"""Holds the worker to the numbers of TRL and transformers in tests/fixtures, which hold triplay's own step too (tests/it/parity.rs).

    OMP_NUM_THREADS=2 PYTHONPATH=trainers/torch python tests/peers/training/fixtures.py
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file
from triplay_torch.batch import Batch
from triplay_torch.job import Reference, Trainer
from triplay_torch.losses import Grpo, Pairs, Supervised

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
GRPO = {
    "kl": 0.0, "loss_type": "dapo", "importance_sampling_level": "token", "epsilon": 0.2, "epsilon_high": None, "delta": None,
    "entropy_coef": 0.0, "temperature": None, "mask_truncated_completions": False, "max_completion_length": None,
}
PAIRS = {"beta": 0.1, "label_smoothing": 0.0, "loss_type": "sigmoid"}
trainer = Trainer(PartialState(cpu=True))


def model(name, dtype="f32"):
    at = {"folder": str(FIXTURES / name), "base": name, "adapter": None}
    return trainer.models.policy(at, dtype)


def check(name, decoder, batch, rows, loss, reference, expected):
    """The largest deviations over micro-batches of any size, with and without checkpointing."""
    worst = [0.0, 0.0]
    for most, checkpointing in [(256, False), (2, True)]:
        report = trainer.gradients(decoder, batch, rows, loss, reference, most, checkpointing)
        measures = {"loss": report["loss"], **report.get("pairs", {})}
        for measure, mine in measures.items():
            theirs = expected[measure]
            worst[0] = max(worst[0], abs(mine - theirs) / max(abs(theirs), 1.0))
        trained = decoder.trained()
        assert trained.keys() == expected["grad_norms"].keys(), trained.keys() ^ expected["grad_norms"].keys()
        for parameter, theirs in expected["grad_norms"].items():
            worst[1] = max(worst[1], abs(trained[parameter].grad.norm().item() - theirs) / theirs)
    print(f"{name}: loss {worst[0]:.1e}, gradient norms {worst[1]:.1e} relative")
    assert worst[0] < 1e-5 and worst[1] < 1e-5, name


def grpo(folder):
    expected = json.loads((folder / "expected.json").read_text())
    inputs = load_file(folder / "inputs.safetensors")
    decoder = model(expected["model"])
    prompts, completions = inputs["prompt_mask"].sum(1), inputs["completion_mask"].sum(1)
    rows = range(len(prompts))
    real = lambda name, row: inputs[f"{name}_ids"][row][inputs[f"{name}_mask"][row] == 1]
    tokens = torch.cat([torch.cat([real("prompt", row), real("completion", row)]) for row in rows])
    flat = lambda name: torch.cat([inputs[name][row][: completions[row]] for row in rows])
    for name, variant in expected["variants"].items():
        config = dict(variant["config"])
        more = {
            "old_logprobs": flat(f"{name}.old"),
            "advantages": inputs[f"advantages_{config.pop('advantages')}"],
            "finished": inputs.get("finished", torch.ones(len(prompts), dtype=torch.int64)),
        }
        config = GRPO | {"kl" if key == "beta" else key: value for key, value in config.items()}
        batch = Batch(tokens, prompts, completions, more)
        reference = Reference(list(flat(f"{name}.ref").split(completions.tolist())))
        loss = Grpo(config, batch)
        check(f"{folder.name}, {name}", decoder, batch, list(rows), loss, reference, variant)


def preferences(folder):
    expected = json.loads((folder / "expected.json").read_text())
    sides = [(pair["prompt"], pair[side]) for pair in expected["pairs"] for side in ("chosen", "rejected")]
    tokens = torch.tensor([token for prompt, completion in sides for token in prompt + completion])
    lengths = [torch.tensor([len(side[part]) for side in sides]) for part in (0, 1)]
    batch = Batch(tokens, *lengths, {})
    decoder, other = model(expected["model"]), model(expected["reference"])
    for name, variant in expected["preferences"].items():
        algorithm, config = next(iter(variant["algorithm"].items()))
        loss = Pairs(PAIRS | config, batch, algorithm == "ipo")
        reference = trainer.reference(other, batch, 1.0, 256, 2)
        check(f"{folder.name}, {name}", decoder, batch, list(range(len(sides))), loss, reference, variant)


def supervised(folder):
    expected = json.loads((folder / "expected.json").read_text())
    ids = expected["input_ids"][expected["nll_sequence"]]
    batch = Batch(torch.tensor(ids), torch.tensor([1]), torch.tensor([len(ids) - 1]), {})
    variant = {"loss": expected["nll"], "grad_norms": expected["grad_norms"]}
    decoder = model(folder.name)
    check(f"{folder.name}, sft", decoder, batch, [0], Supervised(batch, [0]), None, variant)


grpo(FIXTURES / "grpo")
grpo(FIXTURES / "grpo-more")
preferences(FIXTURES / "dpo")
for name in ["llama-tiny", "llama3-tiny", "qwen2-tiny", "qwen3-tiny"]:
    supervised(FIXTURES / name)
