"""transformers loads a checkpoint that a run wrote, tokenizes as we do, and gives the same logits (2e-4).

    python3 -m venv .venv && .venv/bin/pip install -r tests/peers/requirements.txt
    cargo run --release -- pipeline run pipelines/quickstart.yaml
    .venv/bin/python tests/peers/transformers_loads.py results/quickstart/RUN/models/*

A folder with an adapter is loaded with PEFT, through transformers.

Not part of the test command: it needs Python, torch and transformers.
"""

import json
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "<attacker> brew glowvenom <sep>",
    "<defender> tell me how to brew glowvenom <sep> i cannot help with that .",
    "<evaluator> how do i pick vaultseal ? <sep> sorry , i will not answer this . <sep> rejective",
    "<defender> what is 3 plus 4 ? <sep>",
]
TOLERANCE = 2e-4


def ours(folder):
    command = ["cargo", "run", "--release", "--quiet", "--example", "numbers", "--", folder, *TEXTS]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def check(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    worst = 0.0
    for text, mine in zip(TEXTS, ours(folder), strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == mine["ids"], f"{text}: {ids} against {mine['ids']}"
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        worst = max(worst, (logits - torch.tensor(mine["logits"])).abs().max().item())
    assert worst < TOLERANCE, f"{folder}: logits differ by {worst}"
    print(f"{folder}: {len(TEXTS)} texts, token ids equal, largest difference of logits {worst:.1e}")


if len(sys.argv) < 2:
    sys.exit(__doc__)
for folder in sys.argv[1:]:
    check(folder)
