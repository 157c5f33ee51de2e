"""What flows through a model, summed up where a cut could take something away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from nexus.batch import PADDING, Batch
from nexus.errors import UsageError
from nexus.kernels.decoder import evaluated
from nexus.pruning.activations import (
    by_row,
    first,
    hooked,
    inverse_size,
    neurons_projection,
    norms,
    part,
    reader,
    states,
)
from nexus.pruning.depth import turned
from nexus.pruning.families import Family, layers_of
from nexus.pruning.progress import Progress
from nexus.pruning.sizes import Sizes
from nexus.spec import nearest

Aggregate = Literal["mean", "l2", "variance"]


def aggregates_named(names: Sequence[str]) -> tuple[Aggregate, Aggregate]:
    """How activations are summed up, by name: over the tokens of a row, and over rows.

    Raises:
        UsageError: There is none of that name, or there are not two.
    """
    known = get_args(Aggregate)
    for name in names:
        if name not in known:
            raise UsageError(f"aggregate '{name}' is unknown{nearest(name, known)}")
    if len(names) != 2:
        raise UsageError(
            f"aggregate {' '.join(names)} is not two: how to sum over the tokens of a row, and "
            "over rows. Write mean l2"
        )
    return cast(tuple[Aggregate, Aggregate], tuple(names))


def watch(
    model: PreTrainedModel,
    family: Family,
    sizes: Sizes,
    batches: Iterable[Batch],
    aggregate: tuple[Aggregate, Aggregate],
    relative: bool,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], int]:
    """Scores of all axes by name, and how many tokens they come from. See `importance.measure`."""
    watcher = _Watcher(family, sizes, aggregate, relative)
    _, layers = layers_of(model, family)
    read = reader(model)
    progress = progress or Progress()
    sums = progress.begin()
    if sums:
        watcher.restore(sums, model.device)
    with hooked(watcher.hooks(model, layers)), evaluated(model):
        for batch in progress.rest(batches):
            watcher.begin((batch.documents != PADDING).to(model.device))
            read(batch)
            progress.done(watcher.state)
    return watcher.scores(len(layers)), watcher.tokens


class _Sums:
    """A score per row of text, aggregated over rows."""

    def __init__(self) -> None:
        self._count: Tensor | int = 0
        self._total: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, rows: Float[Tensor, rows * n], real: Bool[Tensor, " rows"]) -> None:
        wide = rows.double()
        self._count = self._count + real.sum()
        self._total = self._total + wide.sum(0)
        self._squares = self._squares + wide.square().sum(0)

    @property
    def parts(self) -> dict[str, Tensor]:
        """What `of` makes the same sums from."""
        return {
            "count": torch.as_tensor(self._count),
            "total": torch.as_tensor(self._total),
            "squares": torch.as_tensor(self._squares),
        }

    @classmethod
    def of(cls, parts: Mapping[str, Tensor], device: torch.device) -> _Sums:
        sums = cls()
        sums._count = parts["count"].to(device)
        sums._total, sums._squares = parts["total"].to(device), parts["squares"].to(device)
        return sums

    def result(self, kind: Aggregate) -> Tensor:
        total, squares = torch.as_tensor(self._total), torch.as_tensor(self._squares)
        return _settled(kind, total, squares, torch.as_tensor(self._count)).float().cpu()


def _settled(kind: Aggregate, total: Tensor, squares: Tensor, count: Tensor) -> Tensor:
    """A mean, a norm or a variance, from sums."""
    match kind:
        case "mean":
            return total / count.clamp_min(1)
        case "l2":
            return squares.sqrt()
        case "variance":
            mean = total / count.clamp_min(1)
            return (squares / count.clamp_min(1) - mean.square()).clamp_min(0)


class _Watcher:
    def __init__(
        self, family: Family, sizes: Sizes, aggregate: tuple[Aggregate, Aggregate], relative: bool
    ) -> None:
        self._family, self._sizes, self._relative = family, sizes, relative
        self._over_tokens, self._over_rows = aggregate
        self._sums: dict[tuple[str, int | str], _Sums] = {}
        self._seen: dict[str, Any] = {}
        """What entered the projections of the layer that is at work."""
        self._turned: dict[int, Tensor] = {}
        self._inside = torch.zeros(0, 0, dtype=torch.bool)
        self._whole = True
        self._passed: dict[int, int] = {}
        self.tokens = 0

    def state(self) -> dict[str, Tensor]:
        """All sums so far, by names that `restore` understands."""
        found = {"tokens": torch.tensor(self.tokens)}
        for (axis, site), sums in self._sums.items():
            kind = "layer" if isinstance(site, int) else "norm"
            for name, value in sums.parts.items():
                found[f"{axis} {kind} {site} {name}"] = value.cpu()
        for layer, value in self._turned.items():
            found[f"turned layer {layer} total"] = torch.as_tensor(value).cpu()
            found[f"passed layer {layer} total"] = torch.tensor(self._passed[layer])
        return found

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on with sums that were put away."""
        self.tokens = int(state["tokens"])
        parts: dict[tuple[str, int | str], dict[str, Tensor]] = {}
        for name, value in state.items():
            if name == "tokens":
                continue
            axis, kind, site, of = name.split(" ")
            place = int(site) if kind == "layer" else site
            parts.setdefault((axis, place), {})[of] = value
        for (axis, place), found in parts.items():
            if axis == "turned":
                self._turned[int(place)] = found["total"].to(device)
            elif axis == "passed":
                self._passed[int(place)] = int(found["total"])
            else:
                self._sums[axis, place] = _Sums.of(found, device)

    def begin(self, inside: Bool[Tensor, "rows length"]) -> None:
        self._inside = inside
        count = int(inside.sum())
        self._whole = count == inside.numel()
        self.tokens += count

    def hooks(self, model: PreTrainedModel, layers: nn.ModuleList) -> list[Any]:
        handles = [
            norm.register_forward_hook(
                lambda _, __, output, name=name: self._add("hidden", name, output, None)
            )
            for name, norm in norms(model, self._family).items()
        ]
        for number, layer in enumerate(layers):
            for axis, name in self._places().items():
                if (module := part(layer, name)) is not None:
                    handles.append(module.register_forward_pre_hook(self._note(axis)))
            handles.append(
                layer.register_forward_hook(
                    lambda layer, args, kwargs, output, number=number: self._layer(
                        number, layer, first(args, kwargs), states(output)
                    ),
                    with_kwargs=True,
                )
            )
        return handles

    def _places(self) -> dict[str, str]:
        places = {"neurons": neurons_projection(self._family), "heads": self._family.heads}
        if self._family.expert_count:
            places["experts"] = self._family.neurons
        return {axis: name for axis, name in places.items() if name}

    def _note(self, axis: str) -> Callable[[nn.Module, Any], None]:
        def note(_: nn.Module, args: Any) -> None:
            self._seen[axis] = args

        return note

    def _layer(self, number: int, layer: nn.Module, before: Tensor, after: Tensor) -> None:
        inside = self._inside
        self._turned[number] = self._turned.get(number, 0) + turned(before, after, inside)
        self._passed[number] = self._passed.get(number, 0) + 1
        scale = None
        if self._relative:  # where padding is, it may be anything
            scale = inverse_size(by_row(after, inside)).masked_fill(~inside, 0)
        seen, self._seen = self._seen, {}
        if "neurons" in seen:
            self._add("neurons", number, seen["neurons"][0], scale)
        if "heads" in seen:
            entries = by_row(seen["heads"][0], inside)
            heads = entries.reshape(*entries.shape[:-1], self._sizes.heads, -1)
            size = torch.linalg.vector_norm(heads, dim=-1, dtype=torch.float32)
            self._add("heads", number, size, scale)
        if "experts" in seen:
            module = part(layer, self._family.neurons)
            hidden, chosen, gates = seen["experts"]
            self._experts(number, module, hidden, chosen, gates, scale)

    def _add(self, axis: str, site: int | str, value: Tensor, scale: Tensor | None) -> None:
        """Aggregate |value| over the tokens of each row, a row at a time: copies stay small."""
        value, weight = by_row(value, self._inside), self._inside.float()
        weight = weight if scale is None else weight * scale
        if not self._whole:
            value = value.masked_fill(~self._inside.unsqueeze(-1), 0)
        totals, squares = [], []
        for row, factor in zip(value, weight, strict=True):
            strength = row.abs().float()
            totals.append(factor @ strength)
            squares.append(self._squared(factor, strength))
        self._settle(axis, site, torch.stack(totals), torch.stack(squares))

    def _squared(self, factor: Tensor, strength: Tensor) -> Tensor:
        if self._over_tokens == "mean":
            return strength.new_zeros(())
        return factor.square() @ strength.square()

    def _settle(self, axis: str, site: int | str, totals: Tensor, squares: Tensor) -> None:
        counts = self._inside.sum(1)
        per_row = counts.view(-1, *[1] * (totals.dim() - 1))
        rows = _settled(self._over_tokens, totals, squares, per_row)
        self._sums.setdefault((axis, site), _Sums()).add(rows, counts > 0)

    def _experts(
        self,
        number: int,
        module: Any,
        hidden: Float[Tensor, "tokens hidden"],
        chosen: Int[Tensor, "tokens k"],
        gates: Float[Tensor, "tokens k"],
        scale: Tensor | None,
    ) -> None:
        """Of an expert, gate × norm of its output (arXiv:2510.13999); of its neurons, |activation|.

        Zero where a token is sent elsewhere. The experts' products are computed a second time.
        """
        weight = self._inside.float() if scale is None else self._inside * scale
        weight, rows = weight.flatten(), len(self._inside)
        owner = torch.arange(rows, device=weight.device).repeat_interleave(self._inside.shape[1])
        experts, _, width = module.down_proj.shape
        sums = [weight.new_zeros(rows, experts) for _ in range(2)]
        wide = [weight.new_zeros(rows, experts, width) for _ in range(2)]
        for expert in range(experts):
            token, slot = torch.where((chosen == expert) & (weight > 0).unsqueeze(1))
            gate, up = nn.functional.linear(hidden[token], module.gate_up_proj[expert]).chunk(2, -1)
            inner = module.act_fn(gate) * up
            size = nn.functional.linear(inner, module.down_proj[expert]).float().norm(dim=1)
            said = gates[token, slot].float() * size * weight[token]
            strength = inner.float().abs() * weight[token].unsqueeze(1)
            for power in (0, 1):
                sums[power][:, expert].index_add_(0, owner[token], said ** (power + 1))
                wide[power][:, expert].index_add_(0, owner[token], strength ** (power + 1))
        self._settle("experts", number, *sums)
        self._settle("expert_neurons", number, *wide)

    def scores(self, count: int) -> dict[str, Any]:
        if self.tokens and len({self._passed.get(number, 0) for number in range(count)}) > 1:
            raise UsageError(
                "Importance could not be measured: not every layer could be watched. Measure "
                "before the model's layers are compiled"
            )
        found: dict[str, Any] = {
            name: {} for name in ("neurons", "heads", "groups", "experts", "expert_neurons")
        }
        hidden = torch.zeros(self._sizes.hidden)
        for (axis, site), sums in self._sums.items():
            value = sums.result(self._over_rows)
            if axis == "hidden":
                hidden = hidden + value
            else:
                found[axis][site] = value
        for number, heads in found["heads"].items():
            found["groups"][number] = heads.view(self._sizes.groups, -1).norm(dim=1)
        layers = [self._turned.get(number, torch.zeros(())) for number in range(count)]
        turns = torch.stack([torch.as_tensor(each).cpu() for each in layers])
        return found | {"layers": (turns / max(1, self.tokens)).float(), "hidden": hidden}
