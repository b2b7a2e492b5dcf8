"""The rows of a job: prompts and completions as token ids, and how they are cut into micro-batches."""

from dataclasses import dataclass

import torch
from safetensors.torch import load_file

# On a CPU, a micro-batch has about this many tokens, so that its activations stay small. A GPU gets as many rows as the job allows.
TOKENS_ON_CPU = 2048


@dataclass
class Batch:
    """R rows. `tokens` are the prompt and the completion of row after row; what is of each token is of completions alone."""

    tokens: torch.Tensor
    prompts: torch.Tensor  # tokens of each prompt, R
    completions: torch.Tensor  # tokens of each completion, R
    more: dict  # what the loss needs besides, by name

    @staticmethod
    def read(path) -> "Batch":
        parts = load_file(path)
        return Batch(parts.pop("tokens"), parts.pop("prompts"), parts.pop("completions"), parts)

    def __post_init__(self):
        self.starts = [0, *torch.cumsum(self.prompts + self.completions, 0).tolist()]
        self.token_starts = [0, *torch.cumsum(self.completions, 0).tolist()]

    def __len__(self):
        return len(self.prompts)

    def row(self, row: int) -> torch.Tensor:
        return self.tokens[self.starts[row] : self.starts[row + 1]]

    def of_tokens(self, name: str, rows: list[int]) -> torch.Tensor:
        """A value of each completion token of these rows."""
        values = self.more[name]
        return torch.cat([values[self.token_starts[row] : self.token_starts[row + 1]] for row in rows])

    def of_rows(self, values: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """A value of each of these rows, repeated for its completion tokens."""
        return values[rows].repeat_interleave(self.completions[rows])


@dataclass
class Packed:
    """The rows of a micro-batch, padded on the right: causal attention keeps every token from what is behind it."""

    rows: list[int]
    tokens: torch.Tensor  # [rows, longest]
    at: tuple[torch.Tensor, torch.Tensor]  # row and column of the states that predict the M completion tokens
    targets: torch.Tensor  # these tokens, M
    lengths: torch.Tensor  # completion tokens of each row

    @staticmethod
    def of(batch: Batch, rows: list[int], device) -> "Packed":
        whole = [batch.row(row) for row in rows]
        tokens = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)
        lengths, prompts = batch.completions[rows], batch.prompts[rows].tolist()
        columns = [torch.arange(start, start + length) for start, length in zip(prompts, lengths.tolist())]
        columns = torch.cat(columns)
        line = torch.arange(len(rows)).repeat_interleave(lengths)
        targets = tokens[line, columns]
        at = (line.to(device), columns.to(device) - 1)
        return Packed(rows, tokens.to(device), at, targets.to(device), lengths.to(device))


def micro_batches(batch: Batch, rows: list[int], most: int, unit: int, on_cpu: bool) -> list[list[int]]:
    """Cuts rows into micro-batches of at most `most` units of `unit` consecutive rows, the longest first: equal lengths need no
    padding, and memory that suffices for the first suffices for all."""
    lengths = (batch.prompts + batch.completions).tolist()
    units = [rows[at : at + unit] for at in range(0, len(rows), unit)]
    units.sort(key=lambda unit: -max(lengths[row] for row in unit))
    cut: list[list[int]] = []
    for rows in units:
        longest = max(lengths[row] for row in (cut[-1] if cut else rows))
        full = not cut or len(cut[-1]) >= most * unit
        if full or (on_cpu and (len(cut[-1]) + unit) * longest > TOKENS_ON_CPU):
            cut.append([])
        cut[-1] += rows
    return cut
