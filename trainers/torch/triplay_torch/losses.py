"""The losses, as triplay computes them in `src/grpo` (and TRL 1.16): functions of the log-probabilities of completion tokens.

Each takes the log-probabilities [M] of a micro-batch's tokens, and returns its share of the loss and the sums that are reported.
"""

import torch
import torch.nn.functional as F


class Grpo:
    """The clipped policy loss and its variants, with the k3 estimate of the divergence (src/grpo/loss.rs)."""

    unit = 1

    def __init__(self, config: dict, batch):
        self.config, self.batch = config, batch
        self.temperature = config["temperature"] or 1.0
        self.wants_entropy = config["entropy_coef"] != 0
        high = config["epsilon"] if config["epsilon_high"] is None else config["epsilon_high"]
        cispo = config["loss_type"] == "cispo"
        self.least, self.most = (None, high) if cispo else (1 - config["epsilon"], 1 + high)
        left_out = (batch.more["finished"] == 0) & torch.tensor(config["mask_truncated_completions"])
        lengths = batch.completions
        self.tokens = max(int(lengths[~left_out].sum()), 1)
        longest = config["max_completion_length"] or int(lengths.max())
        divisor = {"grpo": len(batch) * lengths, "dr_grpo": torch.full_like(lengths, len(batch) * longest)}
        divisor = divisor.get(config["loss_type"], torch.full_like(lengths, self.tokens))
        # The loss is the weighted sum over all tokens.
        self.weights = (~left_out / divisor.clamp(min=1)).float()
        self.counted = (~left_out).float()

    def __call__(self, packed, logprobs, entropies, reference):
        of_rows = lambda values: self.batch.of_rows(values, packed.rows).to(logprobs)
        old = self.batch.of_tokens("old_logprobs", packed.rows).to(logprobs)
        advantages, weights = of_rows(self.batch.more["advantages"]), of_rows(self.weights)
        log_ratio = logprobs - old
        if self.config["importance_sampling_level"] == "sequence":
            log_ratio = means(log_ratio, packed.lengths)
        ratio = log_ratio.exp()
        clipped = ratio.clamp(self.least, self.most)
        if self.config["loss_type"] == "cispo":
            loss = -clipped.detach() * advantages * logprobs
        else:
            bounded = ratio if self.config["delta"] is None else ratio.clamp(max=self.config["delta"])
            loss = -torch.minimum(bounded * advantages, clipped * advantages)
        sums = {"kl": 0.0}
        if reference is not None:
            difference = reference - logprobs
            k3 = difference.exp() - difference - 1
            # With the ratio, the gradient of r·k3 is that of the divergence.
            loss = loss + self.config["kl"] * k3 * ratio
            sums["kl"] = k3.sum().item()
        loss = (loss * weights).sum()
        if self.wants_entropy:
            loss = loss - self.config["entropy_coef"] / self.tokens * (entropies * of_rows(self.counted)).sum()
        beyond = (ratio > self.most) & (advantages > 0)
        if self.least is not None:
            beyond |= (ratio < self.least) & (advantages < 0)
        return loss, sums | {"clipped": beyond.sum().item()}

    def report(self, sums: dict, tokens: int) -> dict:
        return {"clipped": sums["clipped"] / max(tokens, 1)}


class Pairs:
    """DPO and IPO (src/grpo/preference.rs): row 2i is the chosen completion of pair i, row 2i + 1 the rejected one."""

    unit = 2
    temperature = 1.0
    wants_entropy = False

    def __init__(self, config: dict, batch, ipo: bool):
        self.config, self.ipo, self.pairs = config, ipo, len(batch) // 2

    def __call__(self, packed, logprobs, entropies, reference):
        beta, smoothing = self.config["beta"], self.config["label_smoothing"]
        log_ratios = totals((logprobs - reference).double(), packed.lengths).view(-1, 2)
        # With IPO, log-ratios are means over tokens, as in TRL, which follows the authors.
        shares = log_ratios / packed.lengths.view(-1, 2).clamp(min=1) if self.ipo else log_ratios
        advantage = shares[:, 0] - shares[:, 1]
        z = beta * advantage
        if self.ipo:
            loss = (advantage - 1 / (2 * beta)) ** 2
        elif self.config["loss_type"] == "robust":
            loss = ((1 - smoothing) * F.softplus(-z) - smoothing * F.softplus(z)) / (1 - 2 * smoothing)
        else:
            loss = (1 - smoothing) * F.softplus(-z) + smoothing * F.softplus(z)
        chosen, rejected = (beta * log_ratios.detach()).unbind(1)
        sums = {"chosen_reward": chosen.sum().item(), "rejected_reward": rejected.sum().item()}
        sums["accuracy"] = (chosen > rejected).sum().item()
        return loss.sum() / self.pairs, sums

    def report(self, sums: dict, tokens: int) -> dict:
        means = {name: sums[name] / self.pairs for name in ("chosen_reward", "rejected_reward", "accuracy")}
        return {"pairs": means | {"margin": means["chosen_reward"] - means["rejected_reward"]}}


class Supervised:
    """The mean negative log-likelihood of the completion tokens of these rows."""

    unit = 1
    temperature = 1.0
    wants_entropy = False

    def __init__(self, batch, rows: list[int]):
        self.tokens = int(batch.completions[rows].sum())

    def __call__(self, packed, logprobs, entropies, reference):
        return -logprobs.sum() / self.tokens, {}

    def report(self, sums: dict, tokens: int) -> dict:
        return {}


def totals(values, lengths):
    """The sum over each completion's tokens."""
    row = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
    return torch.zeros(len(lengths), dtype=values.dtype, device=values.device).index_add(0, row, values)


def means(values, lengths):
    """Each token's value replaced by the mean over its completion."""
    return (totals(values, lengths) / lengths.clamp(min=1)).repeat_interleave(lengths)
