"""How much every layer, channel, neuron, head and expert of a model matters: one forward pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor
from transformers import PreTrainedModel

from nexus import durable
from nexus.batch import Batch
from nexus.disk import reading
from nexus.durable import Damaged
from nexus.errors import UsageError
from nexus.pruning.families import family_of
from nexus.pruning.magnitude import magnitudes, projections
from nexus.pruning.progress import Progress
from nexus.pruning.sizes import Sizes
from nexus.pruning.taylor import taylor
from nexus.pruning.watching import Aggregate, watch
from nexus.spec import nearest

Strategy = Literal["activation", "weighted", "taylor", "magnitude", "random", "reversed"]
"""What importance is:

    activation  how strong a channel is on calibration data (arXiv:2407.14679)
    weighted    the same, times the norm of the weights that read it (as in arXiv:2306.11695)
    taylor      what the loss should lose with it, to the first order (arXiv:2305.11627): forward
                and backward over the data
    magnitude   the norm of its weights; needs no data
    random      nothing: a baseline that needs no data
    reversed    the least active first: what the worst choice costs
"""
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
BASELINES: tuple[Strategy, ...] = ("random", "reversed")
WITHOUT_DATA: tuple[Strategy, ...] = ("magnitude", "random")

FORMAT = "nexus-importance-2"
_BY_LAYER = ("neurons", "heads", "groups", "experts", "expert_neurons")


@dataclass(frozen=True)
class Scores:
    """Importance along every axis: the higher, the later it goes. In fp32, on the CPU.

    Scores of one axis compare with each other and with nothing else.
    """

    layers: Float[Tensor, " n"]
    """Block influence (arXiv:2403.03853)."""
    hidden: Float[Tensor, " hidden"]
    neurons: dict[int, Float[Tensor, " neurons"]] = field(default_factory=dict)
    """By layer; layers that have none of a kind are left out."""
    heads: dict[int, Float[Tensor, " heads"]] = field(default_factory=dict)
    groups: dict[int, Float[Tensor, " groups"]] = field(default_factory=dict)
    experts: dict[int, Float[Tensor, " experts"]] = field(default_factory=dict)
    expert_neurons: dict[int, Float[Tensor, "experts width"]] = field(default_factory=dict)
    tokens: int = 0
    """How many were looked at."""
    strategy: str = "activation"
    aggregate: str = "mean l2"
    """How activations were summed up: over the tokens of a row, and over rows."""
    seed: int = 0
    """Of `random`."""

    def __post_init__(self) -> None:
        for name, value in self._tensors().items():
            if not bool(value.isfinite().all()):
                raise UsageError(
                    f"Importance by {self.strategy} is not finite ({name}): the model's weights or "
                    "what it computes are not. Load it in float32, or choose magnitude"
                )

    def save(self, path: Path, *, model_fingerprint: str, data_fingerprint: str) -> None:
        """Write one file, whole or not at all.

        Args:
            path: of the file; its folder must be there.
            model_fingerprint: of what was measured.
            data_fingerprint: of what it was measured on.

        Raises:
            DiskFull, DiskFault: if the disk refuses.
        """
        tensors = self._tensors()
        facts = {
            "format": FORMAT,
            "model": model_fingerprint,
            "data": data_fingerprint,
            "tokens": str(self.tokens),
            "strategy": self.strategy,
            "aggregate": self.aggregate,
            "seed": str(self.seed),
        }
        facts["sha256"] = _sum(tensors, facts)
        durable.write(path, serialised(tensors, metadata=facts))

    @classmethod
    def load(
        cls, path: Path, *, model_fingerprint: str, data_fingerprint: str | None = None
    ) -> Scores:
        """What `save` has written, if it was measured of this model and on this data.

        Args:
            path: of the file.
            model_fingerprint: of the model.
            data_fingerprint: of the data; any will do if none is given.

        Raises:
            UsageError: The file is not there, or of another model or other data.
            Damaged: It is not what was written.
        """
        if path.is_dir():
            raise UsageError(f"{path} is a directory: name the file that importance is kept in")
        if not path.is_file():
            raise UsageError(f"There are no importance scores at {path}: measure them first")
        tensors, facts = _read(path)
        for kind, wanted in (("model", model_fingerprint), ("data", data_fingerprint)):
            if wanted is not None and facts[kind] != wanted:
                of_what = "weights or settings" if kind == "model" else "data"
                raise UsageError(
                    f"The importance scores in {path} were measured with other {of_what} "
                    f"({facts[kind][:12]}, not {wanted[:12]}): give those that it was measured "
                    "with, or name another file, to measure anew"
                )
        layered: dict[str, dict[int, Tensor]] = {name: {} for name in _BY_LAYER}
        for name, value in tensors.items():
            axis, _, number = name.partition(".")
            if number:
                layered[axis][int(number)] = value
        return cls(
            tensors["layers"], tensors["hidden"], **layered,
            tokens=int(facts["tokens"]), strategy=facts["strategy"], aggregate=facts["aggregate"],
            seed=int(facts.get("seed", 0)),
        )  # fmt: skip

    @property
    def digest(self) -> str:
        """That of the scores along every axis: equal ones choose alike."""
        return _sum(self._tensors(), {})

    def _tensors(self) -> dict[str, Tensor]:
        return {"layers": self.layers, "hidden": self.hidden} | {
            f"{name}.{number}": value.contiguous()
            for name, by_layer in self._by_layer().items()
            for number, value in by_layer.items()
        }

    def _by_layer(self) -> Mapping[str, Mapping[int, Tensor]]:
        return {
            "neurons": self.neurons,
            "heads": self.heads,
            "groups": self.groups,
            "experts": self.experts,
            "expert_neurons": self.expert_neurons,
        }


def measured_on(path: Path) -> str:
    """The fingerprint of the text that scores in a file were measured on; empty if on none.

    Raises:
        UsageError, Damaged: As `Scores.load`.
    """
    return _read(path)[1]["data"]


def strategy_named(name: str) -> Strategy:
    """A strategy by its name.

    Raises:
        UsageError: There is none of that name.
    """
    for strategy in STRATEGIES:
        if strategy == name:
            return strategy
    raise UsageError(f"pruning strategy '{name}' is unknown{nearest(name, STRATEGIES)}")


@torch.no_grad()
def measure(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    strategy: Strategy = "activation",
    aggregate: tuple[Aggregate, Aggregate] = ("mean", "l2"),
    relative: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """Scores along all axes at once, from one forward pass without the head.

    Neurons are what enters the down-projection, heads what enters the output projection (the norm
    over a head's entries; a group's is that over its heads), channels of the residual stream what
    leaves the norms over it, summed over these. |activation| is aggregated over the real tokens of
    a row, then over rows: nothing but sums is held, padding never counts, and the split into
    batches does not matter. Statistics are fp32.

    Args:
        model: of an architecture that `families` knows.
        batches: calibration text, about 25,000 tokens of it. Unused by data-free strategies.
        strategy: what importance is.
        aggregate: over the tokens of a row, and over rows. The default is the best of
            arXiv:2407.14679, Table 11.
        relative: divide the activations of neurons, heads and experts at every token by the size
            of the residual stream that the layer gives there. False as in that paper.
        seed: of `random`.
        progress: where sums are put away now and then, to go on from.

    Raises:
        UsageError: The architecture is unknown, or there is no token.
    """
    family = family_of(model)
    sizes = Sizes.of(model.config, family)
    if strategy in WITHOUT_DATA:
        found = Scores(**magnitudes(model, family, sizes), strategy=strategy, aggregate="")
        if strategy == "magnitude":
            return found
        return replace(_each(found, _random(seed)), seed=seed)
    if strategy == "taylor":
        axes, tokens = taylor(model, family, sizes, batches, progress)
        return Scores(**axes, tokens=tokens, strategy=strategy, aggregate="")
    axes, tokens = watch(model, family, sizes, batches, aggregate, relative, progress)
    if tokens == 0:
        raise UsageError(
            f"pruning strategy '{strategy}' measures a model on calibration text, but there is "
            "none. Add text, or choose magnitude"
        )
    found = Scores(**axes, tokens=tokens, strategy=strategy, aggregate=" ".join(aggregate))
    if strategy == "reversed":
        return _each(found, lambda value: -value)
    if strategy == "weighted":
        return _weighted(found, sizes, projections(model, family, sizes))
    return found


def _each(scores: Scores, change: Callable[[Tensor], Tensor]) -> Scores:
    """The same with every vector changed."""
    layered: dict[str, Any] = {
        name: {number: change(value) for number, value in sorted(by_layer.items())}
        for name, by_layer in scores._by_layer().items()
    }
    return replace(scores, layers=change(scores.layers), hidden=change(scores.hidden), **layered)


def _random(seed: int) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda value: torch.rand(value.shape, generator=generator)


def _weighted(scores: Scores, sizes: Sizes, norms: Mapping[str, Mapping[int, Tensor]]) -> Scores:
    """Times the norms; a group is worth what its heads are then, as in `watch`."""
    layered: dict[str, Any] = {
        name: {number: value * norms[name][number] for number, value in by_layer.items()}
        for name, by_layer in scores._by_layer().items()
        if name in norms
    }
    layered["groups"] = {
        number: layered["heads"][number].view(sizes.groups, -1).norm(dim=1)
        for number in scores.groups
    }
    return replace(scores, **layered)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with reading(path):
        try:
            with safe_open(path, framework="pt") as file:
                facts = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise Damaged(f"{path} cannot be read ({error}): remove it, to measure anew") from None
    if facts.get("format") != FORMAT:
        raise UsageError(f"{path} holds no importance scores of this version: name another file")
    if facts.pop("sha256", "") != _sum(tensors, facts):
        raise Damaged(
            f"{path} is not what was written: its SHA-256 differs. Remove it, to measure anew"
        )
    return tensors, facts


def _sum(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        total.update(value.contiguous().numpy().tobytes())
    return total.hexdigest()
