"""A GGUF file as a Hugging Face folder in f32.

Usage: gguf_folder.py IN.gguf OUT     (needs torch, transformers 5 and gguf)

transformers takes a model that it loaded from a GGUF file for quantized and refuses to save it, so its unpacked weights go into a new
model of the same configuration.
"""
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

source, out = Path(sys.argv[1]), Path(sys.argv[2])
loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
left_out = ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version")
config = type(loaded.config)(**{key: value for key, value in loaded.config.to_dict().items() if key not in left_out})
config.architectures = [type(loaded).__name__]
model = type(loaded)(config).to(torch.float32)
model.load_state_dict(loaded.state_dict(), strict=False)
model.tie_weights()
model.generation_config = GenerationConfig(
    bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
model.save_pretrained(out)
AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(out)

path = out / "tokenizer_config.json"
tokenizer = json.loads(path.read_text())
tokenizer |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192}
for key in ("is_local", "local_files_only"):
    tokenizer.pop(key, None)
path.write_text(json.dumps(tokenizer, indent=2))
