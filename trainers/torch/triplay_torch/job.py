"""A job: files to files. A model, an optimizer's state and a batch give the trained numbers, the state after and reports."""

import contextlib
import math
import time
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file

from .batch import Batch, Packed, micro_batches
from .decoder import Decoder, Models, full, like
from .losses import Grpo, Pairs, Supervised


@dataclass
class Reference:
    """What a loss is measured from: log-probabilities of each row's completion, and the states that they come from."""

    logprobs: list
    hidden: list | None = None
    decoder: Decoder | None = None

    def beside(self, rows, device):
        if self.hidden is None:
            return None
        return self.decoder, torch.cat([self.hidden[row] for row in rows]).to(device)


class Trainer:
    """The models, and where and among how many processes they compute."""

    def __init__(self, state):
        self.state, self.device = state, state.device
        self.models = Models(state.device, state.num_processes > 1)

    def cut(self, batch, rows, most, unit):
        """This process's micro-batches, each with whether it counts. All processes have as many: they meet in each."""
        count = self.state.num_processes
        most = min(most, math.ceil(len(rows) / unit / count))
        whole = micro_batches(batch, rows, most, unit, self.device.type == "cpu")
        own = [(rows, True) for rows in whole[self.state.process_index :: count]]
        return own + [(whole[-1], False)] * (math.ceil(len(whole) / count) - len(own))

    def summed(self, sums: dict) -> dict:
        """The sums over all processes."""
        if self.state.num_processes == 1:
            return sums
        names = sorted(sums)
        total = torch.tensor([sums[name] for name in names], dtype=torch.float64)
        total = total.to(self.device, torch.float32 if self.device.type == "mps" else torch.float64)
        torch.distributed.all_reduce(total)
        return dict(zip(names, total.tolist()))

    @torch.no_grad()
    def reference(self, decoder, batch, temperature, most, unit) -> Reference:
        """A model's log-probabilities on all rows."""
        logprobs, hidden = [None] * len(batch), [None] * len(batch)
        for rows, _ in self.cut(batch, list(range(len(batch))), most, unit):
            packed = Packed.of(batch, rows, self.device)
            states = decoder(packed)
            scored, _, _ = decoder.scored(states, packed.targets, temperature, False)
            lengths = packed.lengths.tolist()
            for row, of_row, of_states in zip(rows, scored.split(lengths), states.split(lengths)):
                logprobs[row], hidden[row] = of_row, of_states
        return Reference(logprobs, hidden, decoder)

    def gradients(self, decoder, batch, rows, loss, reference, most, checkpointing) -> dict:
        """Sets the gradient of each trained parameter, and returns the report of the model as it is."""
        sums: dict = {"loss": 0.0, "entropy": 0.0, "kl": 0.0, "tokens": 0.0}
        for parameter in decoder.trained().values():
            parameter.grad = None
        for rows, counts in self.cut(batch, rows, most, loss.unit):
            packed = Packed.of(batch, rows, self.device)
            hidden = decoder(packed, checkpointing)
            beside = reference and reference.beside(rows, self.device)
            logprobs, entropies, divergences = decoder.scored(
                hidden, packed.targets, loss.temperature, loss.wants_entropy, beside
            )
            theirs = reference and torch.cat([reference.logprobs[row] for row in rows]).to(logprobs)
            value, more = loss(packed, logprobs, entropies, theirs)
            (value if counts else value * 0.0).backward()
            more = {"loss": value.item(), "entropy": entropies.sum().item(), "tokens": len(packed.targets), **more}
            if beside:
                more["kl"] = divergences.sum().item()
            for name, number in more.items():
                sums[name] = sums.get(name, 0.0) + (number if counts else 0.0)
        sums = self.summed(sums)
        tokens = int(sums["tokens"])
        mean = {name: sums[name] / max(tokens, 1) for name in ("entropy", "kl")}
        return {"loss": sums["loss"], **mean, "tokens": tokens, "clipped": 0.0, **loss.report(sums, tokens)}

    def steps(self, job, progress) -> dict:
        """Takes the steps of a job. Stops before one whose loss or gradient is not finite."""
        begun = time.monotonic()
        batch = Batch.read(job["batch"])
        config = job["config"]
        decoder = self.models.policy(job["model"], job["dtype"])
        every = list(range(len(batch)))
        reference = None
        if job["loss"] == "sft":
            plans = [(rows, Supervised(batch, rows), rate) for rows, rate in zip(batch.more["order"].tolist(), job["rates"])]
        else:
            loss = Grpo(config, batch) if job["loss"] == "grpo" else Pairs(config, batch, job["loss"] == "ipo")
            plans = [(every, loss, rate) for rate in job["rates"]]
            if job["reference"] is not None:
                reference = self.reference_of(job, decoder, batch, loss)
        optimizer = adamw(decoder, config["optimizer"], job["state"])
        reports = []
        for step, (rows, loss, rate) in enumerate(plans):
            report = self.gradients(
                decoder, batch, rows, loss, reference, config["micro_batch"], config["gradient_checkpointing"]
            )
            gradients = [parameter.grad for parameter in decoder.trained().values()]
            norm = full(torch.nn.utils.get_total_norm(gradients)).item()
            reports.append(report | {"grad_norm": norm})
            if not (math.isfinite(norm) and math.isfinite(report["loss"])):
                break
            if norm > config["max_grad_norm"]:
                torch._foreach_mul_(gradients, config["max_grad_norm"] / (norm + 1e-6))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            progress(step + 1, len(plans), f"loss {report['loss']:.3f}")
        self.write(job["out"], decoder, optimizer)
        return {"reports": reports, "seconds": time.monotonic() - begun, "peak_bytes": peak(self.device)}

    def reference_of(self, job, policy, batch, loss) -> Reference:
        """The reference's log-probabilities. An adapter's base is the policy's decoder with the adapter off."""
        at, own, config = job["reference"], job["model"], job["config"]
        most, temperature = config["micro_batch"], loss.temperature
        shared = policy.adapted is not None and at["base"] == own["base"]
        if shared and at["adapter"] is None:
            with policy.adapted.disable_adapter():
                return self.reference(policy, batch, temperature, most, loss.unit)
        decoder = self.models.base(at, job["dtype"])
        if at["adapter"] is None:
            return self.reference(decoder, batch, temperature, most, loss.unit)
        decoder.set(f"{at['adapter']}/adapter_model.safetensors")
        made = self.reference(decoder, batch, temperature, most, loss.unit)
        if decoder is policy:
            policy.set(f"{own['adapter']}/adapter_model.safetensors")
        return made

    def write(self, folder, decoder, optimizer):
        """Writes the trained numbers and the optimizer's state, laid out as triplay's own are."""
        whole = lambda tensor: full(tensor).detach().to("cpu", torch.float32).contiguous()
        weights, state = {}, {}
        for name, parameter in decoder.trained().items():
            weights[name] = whole(parameter)
            moments = optimizer.state.get(parameter) or {}
            for part, key in (("mean", "exp_avg"), ("square", "exp_avg_sq")):
                state[f"{name}.{part}"] = whole(moments.get(key, torch.zeros_like(parameter))).flatten()
            steps = moments.get("step", 0)
        state["step"] = torch.tensor([int(steps)])
        if self.state.is_main_process:
            save_file(weights, f"{folder}/weights.safetensors", metadata={"format": "pt"})
            save_file(state, f"{folder}/optimizer.safetensors", metadata={"format": "pt"})


def adamw(decoder, config, path):
    """AdamW with the state of a file, if there is one. Norms and biases do not decay."""
    trained = decoder.trained()
    matrices = [parameter for parameter in trained.values() if parameter.dim() > 1]
    others = [parameter for parameter in trained.values() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=tuple(config["betas"]), eps=config["epsilon"])
    if path is None:
        return optimizer
    state = load_file(path)
    for name, parameter in trained.items():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(state["step"][0])),
            "exp_avg": like(state[f"{name}.mean"].to(parameter.dtype), parameter),
            "exp_avg_sq": like(state[f"{name}.square"].to(parameter.dtype), parameter),
        }
    return optimizer


def peak(device) -> int:
    """The most memory in use so far: the GPU's, or the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
