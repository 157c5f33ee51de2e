"""Trial: one candidate, distilled for a little while, and how far it is from its teacher."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from nexus import durable
from nexus.batch import Batch
from nexus.kernels.chunked_head import Workspace, chunked_head, observe
from nexus.kernels.decoder import evaluated
from nexus.kernels.lm_head import Trunk, head_rows, split_head
from nexus.kernels.sweeps import Losses
from nexus.objectives.observers import forward_kl
from nexus.objectives.output import Output
from nexus.pruning.families import family_of
from nexus.pruning.sizes import Sizes
from nexus.pruning.slice import blank
from nexus.signals import Headed

WARMUP_STEPS = 10
BETAS = (0.9, 0.95)
CLIP = 1.0

Carved = tuple[PreTrainedModel, tuple[int, ...] | None]
Steps = Callable[[int], Sequence[Batch]]
"""The batches of a step, by its number."""


class Trial:
    """A candidate in float32 with AdamW's moments, in memory or on disk.

    What is on disk is what was in memory, so that a trial that goes on later ends in the same
    weights as one that was never put away.
    """

    def __init__(self, teacher: PreTrainedModel, sizes: Sizes, folder: Path) -> None:
        """Nothing is in memory yet.

        Args:
            teacher: which the candidate is cut out of.
            sizes: of the candidate.
            folder: where its state is kept.
        """
        self._teacher, self._sizes, self._folder = teacher, sizes, folder
        self._layers: tuple[int, ...] | None = None
        self._workspace = Workspace()
        self._losses = Losses((Output().per_token,))
        self.steps = 0
        """How many it was trained for."""
        self.model: PreTrainedModel
        self._optimizer: torch.optim.Optimizer

    def resume(self, steps: int, carved: Callable[[Sizes], Carved]) -> None:
        """Take up what is on disk, if it was trained for as many steps; else begin anew."""
        facts = self._folder / "trial.json"
        said = json.loads(facts.read_text()) if facts.is_file() else {}
        if said.get("steps") != steps:
            self.model, self._layers = carved(self._sizes)
            self._optimizer = _adamw(self.model)
            return
        layers = said["layers"]
        self._layers = None if layers is None else tuple(layers)
        family = family_of(self._teacher)
        self.model = blank(self._teacher, family, self._sizes, torch.float32, self._layers)
        self.model.eval()  # type: ignore[no-untyped-call]
        self._optimizer = _adamw(self.model)
        self._load()
        self.steps = steps

    def keep(self) -> None:
        """Put it on disk, whole or not at all."""
        tensors = {name: value.contiguous() for name, value in _tensors(self.model).items()}
        for name, parameter in self.model.named_parameters():
            for kind, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{kind}:{name}"] = value
        with durable.directory(self._folder) as aside:
            save_file(tensors, aside / "state.safetensors")
            durable.write(
                aside / "trial.json", json.dumps({"steps": self.steps, "layers": self._layers})
            )

    def train(self, batches: Steps, until: int, learning_rate: float) -> None:
        """Distil with forward KL at T = 1, up to step `until`."""
        device = self.model.device
        student, teacher = _trunk(self.model), _trunk(self._teacher)
        one = torch.ones(1, device=device)
        for step in range(self.steps, until):
            group = [batch.to(device) for batch in batches(step)]
            tokens = sum(batch.target_count for batch in group)
            for batch in group:
                with torch.no_grad(), evaluated(self._teacher):
                    told = Headed(teacher.hidden(batch)[batch.is_target], teacher.head())
                own = Headed(student.hidden(batch)[batch.is_target], student.head())
                losses = chunked_head(
                    own, told, batch.at_targets(), self._losses, one, workspace=self._workspace
                )
                (losses.total / tokens).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            for settings in self._optimizer.param_groups:
                settings["lr"] = learning_rate * min(1.0, (step + 1) / WARMUP_STEPS)
            self._optimizer.step()
            self._optimizer.zero_grad()
            self.steps = step + 1

    @torch.no_grad()
    def _load(self) -> None:
        tensors = load_file(self._folder / "state.safetensors", device=str(self.model.device))
        for name, place in _tensors(self.model).items():
            place.copy_(tensors[name])
        for name, parameter in self.model.named_parameters():
            for key, value in tensors.items():
                kind, _, owner = key.removeprefix("adam.").partition(":")
                if key.startswith("adam.") and owner == name:
                    self._optimizer.state[parameter][kind] = value


def spoken(teacher: PreTrainedModel, held: Sequence[Batch]) -> list[Tensor]:
    """What a teacher says of some text, for any number of candidates: its final hidden states."""
    trunk = _trunk(teacher)
    with torch.no_grad(), evaluated(teacher):
        return [_said(trunk, batch.to(teacher.device)).hidden for batch in held]


@torch.no_grad()
def divergence(
    model: PreTrainedModel, teacher: PreTrainedModel, held: Sequence[Batch], told: Sequence[Tensor]
) -> float:
    """KL(teacher || model) at T = 1, in nats a token: the mean over the targets of some text."""
    trunk, head = _trunk(model), _trunk(teacher).head()
    total, count = 0.0, 0
    for batch, hidden in zip(held, told, strict=True):
        batch = batch.to(model.device)
        seen = observe(_said(trunk, batch), Headed(hidden, head), batch.at_targets(), (forward_kl,))
        total += float(seen.double().sum())
        count += seen.shape[1]
    return total / count


def _said(trunk: Trunk, batch: Batch) -> Headed:
    return Headed(trunk.hidden(batch)[batch.is_target], trunk.head())


def _trunk(model: PreTrainedModel) -> Trunk:
    return split_head(model, head_rows(model))


def _tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Everything that training changes, tied tensors once."""
    return {name: value.detach() for name, value in model.named_parameters()}


def _adamw(model: PreTrainedModel) -> torch.optim.Optimizer:
    parameters: list[Any] = list(model.parameters())
    return torch.optim.AdamW(parameters, lr=0.0, betas=BETAS, weight_decay=0.0, fused=True)
