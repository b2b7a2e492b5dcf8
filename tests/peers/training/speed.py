"""The worker's step beside the same step written plainly with PyTorch, transformers and PEFT: one GRPO update of SmolLM2-135M, LoRA 16
on all modules, KL on, groups of four completions of 48 tokens after prompts of 200, f32.

    OMP_NUM_THREADS=2 SMOLLM2=FOLDER PYTHONPATH=trainers/torch python tests/peers/training/speed.py [GROUPS [ROUNDS]]

Both start from the same adapter and give the same weights. They run in turns, and the least time of each counts.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import peft
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from triplay_torch.job import Trainer

GROUPS, ROUNDS = (int(word) for word in (sys.argv[1:] + ["8", "3"][len(sys.argv) - 1 :]))
ROWS, PROMPT, COMPLETION = 4 * GROUPS, 200, 48
FOLDER = os.environ["SMOLLM2"]
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KL, EPSILON, LR = 0.04, 0.2, 1e-4

torch.manual_seed(0)
prompts = torch.randint(100, 40000, (GROUPS, PROMPT)).repeat_interleave(4, 0)
completions = torch.randint(100, 40000, (ROWS, COMPLETION))
advantages = torch.randn(ROWS)
old = torch.full((ROWS, COMPLETION), -10.0) + torch.randn(ROWS, COMPLETION)
config = peft.LoraConfig(r=16, lora_alpha=32, target_modules=MODULES, task_type="CAUSAL_LM")


def read():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


# An adapter whose B is not zero, as after some steps.
scratch = Path(tempfile.mkdtemp())
first = peft.get_peft_model(read(), config)
for name, parameter in first.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter, std=0.01)
first.save_pretrained(scratch / "adapter")
del first


def plain(model, most):
    """A step as one writes it: left out is all that triplay needs besides, such as files, entropies and the exact divergence."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LR, weight_decay=0.0)
    ids = torch.cat([prompts, completions], 1)

    def logprobs(rows):
        logits = model(input_ids=ids[rows], logits_to_keep=COMPLETION + 1).logits[:, :-1]
        return logits.log_softmax(-1).gather(-1, completions[rows][..., None])[..., 0]

    for begin in range(0, ROWS, most):
        rows = slice(begin, begin + most)
        with torch.no_grad(), model.disable_adapter():
            reference = logprobs(rows)
        own = logprobs(rows)
        ratio, advantage = (own - old[rows]).exp(), advantages[rows, None]
        loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - EPSILON, 1 + EPSILON) * advantage)
        difference = reference - own
        loss = loss + KL * ratio * (difference.exp() - difference - 1)
        (loss.sum() / (ROWS * COMPLETION)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


batch = {
    "tokens": torch.cat([prompts, completions], 1).flatten(),
    "prompts": torch.full((ROWS,), PROMPT),
    "completions": torch.full((ROWS,), COMPLETION),
    "old_logprobs": old.flatten(),
    "advantages": advantages,
    "finished": torch.ones(ROWS, dtype=torch.int64),
}
save_file(batch, scratch / "batch.safetensors")
loss = {
    "kl": KL, "loss_type": "dapo", "importance_sampling_level": "token", "epsilon": EPSILON, "epsilon_high": None, "delta": None,
    "entropy_coef": 0.0, "temperature": None, "mask_truncated_completions": False, "max_completion_length": None,
    "max_grad_norm": 1.0, "micro_batch": 256, "gradient_checkpointing": False,
    "optimizer": {"betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": 0.0},
}
at = {"folder": FOLDER, "base": "smollm2", "adapter": str(scratch / "adapter")}
job = {
    "loss": "grpo", "config": loss, "rates": [LR], "dtype": "f32", "model": at, "reference": at | {"adapter": None}, "state": None,
    "batch": str(scratch / "batch.safetensors"), "out": str(scratch),
}
trainer = Trainer(PartialState(cpu=True))
base = read()
times = {"plain": [], "worker": []}
for turn in range(ROUNDS + 1):
    model = peft.PeftModel.from_pretrained(base, scratch / "adapter", is_trainable=True)
    begun = time.monotonic()
    plain(model, int(os.environ.get("MICRO_BATCH", 8)))
    times["plain"].append(time.monotonic() - begun)
    begun = time.monotonic()
    report = trainer.steps(job, lambda *_: None)["reports"][0]
    times["worker"].append(time.monotonic() - begun)
    plainly = {name.replace(".default.", "."): p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    base = model.unload()
    # The first round reads the base, which stays.
    print(f"round {turn}: plain {times['plain'][-1]:.2f} s, worker {times['worker'][-1]:.2f} s", flush=True)
weights = load_file(scratch / "weights.safetensors")
apart = max((weights[name] - plainly[name]).abs().max().item() for name in weights)
least = {name: min(all[1:]) for name, all in times.items()}
print(json.dumps({"rows": ROWS, "threads": torch.get_num_threads(), **{name: round(time, 2) for name, time in least.items()},
                  "worker / plain": round(least["worker"] / least["plain"], 3), "largest difference of a weight": apart}))
assert apart < 1e-4
