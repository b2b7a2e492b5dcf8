"""Models in memory: a base is read once and kept, the numbers that are trained come with each job."""

import os
import tempfile
from collections import OrderedDict
from pathlib import Path

import peft
import torch
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

# The log is for what is wrong.
logging.disable_progress_bar()

# Tokens whose distributions over the vocabulary are in memory at the same time.
TOKENS_AT_ONCE = 4096

# Bases that are kept: a policy's and a reference's.
KEPT = 2

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f64": torch.float64}


class Decoder(torch.nn.Module):
    """A causal language model, with an adapter if one is trained, that scores tokens."""

    def __init__(self, folder: str, adapter: str | None, dtype: str, device, shards: bool):
        super().__init__()
        # Trained numbers are f32 also where activations are bf16: updates are smaller than bf16 can hold.
        self.wide = torch.float64 if dtype == "f64" else torch.float32
        self.bf16, self.shards = dtype == "bf16", shards
        frozen = DTYPES[dtype] if adapter and not shards else self.wide
        causal = read(folder, frozen)
        self.adapted = None
        if adapter:
            config = peft.PeftConfig.from_pretrained(adapter)
            config.inference_mode = False
            self.adapted = peft.get_peft_model(causal, config)
        causal.to(device)
        self.causal = causal
        self.train()
        if shards:
            shard(self, causal)

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that training changes, by the names that triplay's files have."""
        model = self.adapted or self.causal
        named = sorted((name.replace(".default.", "."), p) for name, p in model.named_parameters() if p.requires_grad)
        return dict(named)

    def set(self, path: str) -> "Decoder":
        """Sets the trained parameters to the numbers of a file."""
        values, trained = load_file(path), self.trained()
        if values.keys() != trained.keys():
            odd = sorted(values.keys() ^ trained.keys())[0]
            raise ValueError(f"{path} must have the tensors of the adapter that its configuration describes, found or missed `{odd}`")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(like(values[name].to(self.wide), parameter))
        return self

    def autocast(self):
        return torch.autocast(next(self.parameters()).device.type, torch.bfloat16, enabled=self.bf16)

    def forward(self, packed, checkpointing: bool = False):
        """The hidden states [M, D] from which completion tokens are predicted."""
        inner = self.causal.model
        if checkpointing and not inner.is_activation_checkpointing:
            inner.activation_checkpointing_enable({"use_reentrant": False})
        elif inner.is_activation_checkpointing and not checkpointing:
            inner.activation_checkpointing_disable()
        with self.autocast():
            return inner(input_ids=packed.tokens, use_cache=False).last_hidden_state[packed.at]

    def log_softmax(self, hidden, temperature: float):
        """Log-probabilities of the whole vocabulary [M, V] at a temperature."""
        with self.autocast():
            logits = self.causal.lm_head(hidden)
        logits = logits.to(self.wide)
        return torch.log_softmax(logits if temperature == 1.0 else logits / temperature, -1)

    def scored(self, hidden, targets, temperature: float, wants_entropy: bool, beside=None):
        """Log-probabilities and entropies of M tokens, and the divergences from `beside`, another decoder and its hidden states."""

        def part(hidden, targets, *theirs):
            own = self.log_softmax(hidden, temperature)
            chosen = own.gather(-1, targets[:, None])[:, 0]
            with torch.set_grad_enabled(torch.is_grad_enabled() and wants_entropy):
                p = own.exp()
                entropies = -(p * own).sum(-1)
            with torch.no_grad():
                other = [beside[0].log_softmax(hidden, temperature) for hidden in theirs]
                divergences = [(p * (own - other)).sum(-1) for other in other] or [torch.zeros_like(chosen)]
            return chosen, entropies, divergences[0].detach()

        if len(targets) <= TOKENS_AT_ONCE:
            return part(hidden, targets, *([beside[1]] if beside else []))
        pieces = zip(*(piece.split(TOKENS_AT_ONCE) for piece in (hidden, targets, *([beside[1]] if beside else []))))
        parts = [checkpoint(part, *piece, use_reentrant=False) for piece in pieces]
        return tuple(torch.cat(column) for column in zip(*parts))


def read(folder: str, dtype):
    """The model of a folder without the adapter that may be beside it, which transformers would put on it."""
    with tempfile.TemporaryDirectory() as base:
        for path in Path(folder).resolve().iterdir():
            if not path.name.startswith("adapter_"):
                os.symlink(path, os.path.join(base, path.name))
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        config.use_cache, config.attention_dropout = False, 0.0
        return AutoModelForCausalLM.from_pretrained(
            base, config=config, dtype=dtype, attn_implementation="sdpa", local_files_only=True, use_safetensors=True
        )


def shard(decoder, causal):
    """Spreads the parameters over all processes (FSDP), which each compute a part of the batch. Gradients are sums."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if decoder.bf16 else None, reduce_dtype=decoder.wide)
    parts = [*causal.model.layers, decoder]
    for part in parts:
        fully_shard(part, mp_policy=policy)
    for part in parts:
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    for method in ("log_softmax", "scored"):
        register_fsdp_forward_method(decoder, method)


def like(whole, parameter):
    """A tensor laid out as a parameter is: on its device, and its shard if it is sharded."""
    whole = whole.to(parameter.device).reshape(parameter.shape)
    if not hasattr(parameter, "device_mesh"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, parameter.device_mesh, parameter.placements)


def full(tensor):
    """The whole of a tensor that may be sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class Models:
    """The decoders of this process. All that is kept of one is what its base's digest says."""

    def __init__(self, device, shards: bool):
        self.device, self.shards, self.kept = device, shards, OrderedDict()

    def policy(self, at: dict, dtype: str) -> Decoder:
        """The model to train. All weights of one without an adapter change, so that it is read anew."""
        if at["adapter"] is None:
            return Decoder(at["folder"], None, dtype, self.device, self.shards)
        return self.base(at, dtype).set(f"{at['adapter']}/adapter_model.safetensors")

    def base(self, at: dict, dtype: str) -> Decoder:
        """The base of a model, with room for an adapter like its own."""
        settings = None
        if at["adapter"] is not None:
            settings = peft.PeftConfig.from_pretrained(at["adapter"])
            settings = (settings.r, settings.lora_alpha, tuple(sorted(settings.target_modules)))
        key = (at["base"], dtype, settings)
        if key not in self.kept:
            while len(self.kept) >= KEPT:
                self.kept.popitem(last=False)
            self.kept[key] = Decoder(at["folder"], at["adapter"], dtype, self.device, self.shards)
        self.kept.move_to_end(key)
        return self.kept[key]
