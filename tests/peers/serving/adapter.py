"""A LoRA adapter by PEFT with small random weights, in a folder with the files of its base: a policy that training goes on with.

Usage: adapter.py BASE OUT [SEED]     (with the Python that has torch, transformers and peft)
"""
import os
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

base, out, seed = Path(sys.argv[1]), Path(sys.argv[2]), int((sys.argv[3:] or ["1"])[0])
config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
torch.manual_seed(seed)
for name, weights in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(weights, std=0.02)
model.save_pretrained(out)
for file in base.iterdir():
    if not (out / file.name).exists():
        os.link(file, out / file.name)
print(f"{out}: {model.peft_config['default'].r} ranks on {sorted(model.peft_config['default'].target_modules)}")
