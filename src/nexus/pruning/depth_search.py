"""Which layers to keep: by what each does to the stream, or by what the text loses without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from nexus.batch import PADDING, Batch, Targets, until_targets
from nexus.errors import UsageError
from nexus.kernels.chunked_head import observe
from nexus.kernels.decoder import decoder_layers, evaluated
from nexus.kernels.lm_head import head_rows, split_head
from nexus.pruning.activations import first, hooked, reader, states
from nexus.pruning.depth import block_influence
from nexus.pruning.families import family_of
from nexus.pruning.progress import Notebook, announced
from nexus.signals import Headed, Scores, Support
from nexus.voice import Say

DepthStrategy = Literal["block_influence", "perplexity", "contiguous", "norm_ratio"]
"""How layers are chosen:

    block_influence  those that turn their input most (arXiv:2403.03853): one forward pass
    norm_ratio       those that lengthen their input most: one forward pass
    perplexity       one goes at a time, the one whose loss hurts the text least given those that
                     are gone already: about layers × cut forward passes, half of each shared
    contiguous       the block without which the text fares best: a pass for each place of the
                     block, half of each shared
"""
DEPTH_STRATEGIES: tuple[DepthStrategy, ...] = get_args(DepthStrategy)

TRIED_TOKENS = 4_096
"""How much text is enough to tell by a trial which of some layers are missed less."""

CLEARLY = 0.2
"""By how many nats a token a trial must be better to overrule importance. Texts disagree by less:
of SmolLM2 without five layers one lost 0.12 nats less by the block, and another 0.12 more."""

SHORTLIST = 6
"""How many layers a round of `perplexity` tries at least: those that were missed least so far. Of
SmolLM2-135M the same ten layers went in the end with 4 and with 12."""


def require_next_tokens(model: PreTrainedModel, strategy: DepthStrategy | None) -> None:
    """Refuse to ask what next tokens lose of a model that sees them.

    Raises:
        UsageError: The model is an encoder, and the strategy deletes layers to see what text loses.
    """
    if strategy in ("perplexity", "contiguous") and not model.can_generate():
        raise UsageError(
            f"depth strategy '{strategy}' tells layers by what next tokens lose without them, but "
            f"{type(model).__name__} predicts none: choose block_influence or norm_ratio, or leave "
            "depth out: importance decides"
        )


def rank_layers(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    strategy: DepthStrategy,
    count: int,
    say: Say = lambda text: None,
) -> tuple[int, ...]:
    """The `count` layers to keep, in increasing order.

    Raises:
        UsageError: The model has fewer layers, or there is no text.
    """
    total = len(decoder_layers(model))
    if not 1 <= count <= total:
        raise UsageError(f"{count} layers cannot be kept of {total}: choose 1 to {total}")
    require_next_tokens(model, strategy)
    match strategy:
        case "block_influence":
            return _highest(block_influence(model, batches), count)
        case "norm_ratio":
            return _highest(norm_ratio(model, batches), count)
        case "perplexity":
            return Trials.of(model, batches).singly(count, say)
        case "contiguous":
            return Trials.of(model, batches).without_block(count)[0]


def _highest(scores: Float[Tensor, " n"], count: int) -> tuple[int, ...]:
    order = sorted(range(len(scores)), key=lambda layer: (-scores[layer].item(), layer))
    return tuple(sorted(order[:count]))


class Trials:
    """Which layers to keep, told by what the text loses without the others.

    What was found for one number of layers is of use for the next: the order in which they go one
    at a time is the same for all.

    Args:
        deletions: what the text loses.
        notes: where that order is kept, and is taken from as far as it is known.
    """

    def __init__(self, deletions: Deletions, notes: Notebook | None = None) -> None:
        self._deletions = deletions
        self._total = deletions.layers
        self._notes = notes or Notebook()
        known = self._notes.facts.get("one at a time", {})
        self._gone: list[int] = known.get("gone", [])
        left = [layer for layer in range(self._total) if layer not in self._gone]
        self._rises = dict(zip(left, known.get("rises", [-math.inf] * len(left)), strict=True))
        """Of the layers that are left: by how much the loss would rise without each, but perhaps
        from a round before."""
        self._lost: float | None = known.get("lost")
        """The text's loss without those that are gone."""

    @classmethod
    def of(
        cls, model: PreTrainedModel, batches: Iterable[Batch], notes: Notebook | None = None
    ) -> Trials:
        """On all of the text."""
        return cls(Deletions(model, batches), notes)

    @classmethod
    def short(
        cls, model: PreTrainedModel, batches: Iterable[Batch], notes: Notebook | None = None
    ) -> Trials:
        """On as much of it as tells which layers are missed less: about `TRIED_TOKENS`."""
        return cls.of(model, until_targets(batches, TRIED_TOKENS), notes)

    def better(self, likely: Sequence[int], say: Say = lambda text: None) -> tuple[int, ...]:
        """The layers to keep: `likely`, unless the text clearly misses others less.

        Every block of neighbours is tried, what comes before it computed once for all. If one is
        missed less than what `likely` leaves out, influence says little about so deep a cut, and
        layers are also let go one at a time, which costs more. Clearly is by `CLEARLY` nats a
        token. Of SmolLM2's 30 layers five are told by their influence and ten one at a time
        (benchmarks/pruning.py).

        Args:
            likely: which layers scores would keep.
            say: told how far it is.
        """
        clearly = CLEARLY * self._deletions.targets
        best, loss = tuple(likely), self._deletions.loss(likely)
        block, without = self.without_block(len(likely))
        if without > loss - clearly:
            return best
        best, loss = block, without
        say("scores say little about so deep a cut: letting layers go one at a time")
        singly = self.singly(len(likely), say)
        return singly if self._deletions.loss(singly) < loss - clearly else best

    def singly(self, count: int, say: Say = lambda text: None) -> tuple[int, ...]:
        """One goes at a time: the one without which the loss rises least.

        Tried anew are those that promise most, and all that promise more than the best of these
        keeps: what a layer is missed by mostly grows as others go.
        """
        rounds = range(len(self._gone), self._total - count)
        for _ in announced(rounds, say, "one at a time", "layers"):
            self._gone.append(self._next())
            known = {"gone": self._gone, "rises": [*self._rises.values()], "lost": self._lost}
            self._notes.keep(**{"one at a time": known})
        gone = self._gone[: self._total - count]
        return tuple(layer for layer in range(self._total) if layer not in gone)

    def _next(self) -> int:
        """The layer that goes next, which is told of those that are left no more."""
        if self._lost is None:
            self._lost = self._deletions.loss(range(self._total))
        tried: dict[int, float] = {}
        while some := self._promising(tried):
            without = self._deletions.without(tuple(self._rises), [(layer,) for layer in some])
            tried |= {layer: after - self._lost for (layer,), after in without.items()}
        self._rises |= tried
        gone = min(tried, key=lambda layer: (tried[layer], layer))
        self._lost += self._rises.pop(gone)
        return gone

    def _promising(self, tried: Mapping[int, float]) -> list[int]:
        rises = self._rises
        if not tried:
            return sorted(rises, key=lambda layer: (rises[layer], layer))[:SHORTLIST]
        least = min(tried.values())
        return [layer for layer in rises if layer not in tried and rises[layer] < least]

    def without_block(self, count: int) -> tuple[tuple[int, ...], float]:
        """The layers around the block that is missed least, and the text's loss without it."""
        every = tuple(range(self._total))
        if count == self._total:
            return every, self._deletions.loss(every)
        blocks = [every[start : start + self._total - count] for start in range(count + 1)]
        losses = self._deletions.without(every, blocks)
        gone = min(blocks, key=lambda block: losses[block])
        return tuple(layer for layer in every if layer not in gone), losses[gone]


@torch.no_grad()
def norm_ratio(model: PreTrainedModel, batches: Iterable[Batch]) -> Float[Tensor, " n"]:
    """How much each layer lengthens the residual stream: the mean of |out| / |in| over tokens.

    As in the cascade distillation of Ministral 3 (arXiv:2601.08584), in fp32.
    """
    layers = decoder_layers(model)
    read = reader(model)
    sums = torch.zeros(len(layers), dtype=torch.float64)
    tokens = 0
    inside: Tensor

    def add(number: int, before: Tensor, after: Tensor) -> None:
        length = after[inside].float().norm(dim=-1) / before[inside].float().norm(dim=-1)
        sums[number] += length.sum(dtype=torch.float64).cpu()

    handles = [
        layer.register_forward_hook(
            lambda _, args, kwargs, output, number=number: add(
                number, first(args, kwargs), states(output)
            ),
            with_kwargs=True,
        )
        for number, layer in enumerate(layers)
    ]
    with hooked(handles), evaluated(model):
        for batch in batches:
            inside = (batch.documents != PADDING).to(model.device)
            tokens += int(inside.sum())
            read(batch)
    if tokens == 0:
        raise UsageError("depth strategy 'norm_ratio' needs calibration text, but there is none")
    return (sums / tokens).float()


class Deletions:
    """What text costs a model that leaves some of its layers out."""

    def __init__(self, model: PreTrainedModel, batches: Iterable[Batch]) -> None:
        family_of(model)  # whose layers are known to give a tensor, as a stand-in does
        self._layers = decoder_layers(model)
        self.layers = len(self._layers)
        self._model = model
        self._trunk = split_head(model, head_rows(model))
        self._batches = list(batches)
        self.targets = sum(int(batch.target_count) for batch in self._batches)
        if not self.targets:
            raise UsageError(
                "The choice of layers by what the text loses needs calibration text with something "
                "to predict, but there is none. Add text, or leave depth out: importance decides"
            )

    @torch.no_grad()
    def loss(self, kept: Sequence[int]) -> float:
        """The sum of -log q(target) with only the layers `kept`."""
        total = 0.0
        with evaluated(self._model), self._replaced() as put:
            for batch in self._batches:
                batch = batch.to(self._model.device)
                put({number: None for number in range(len(self._layers)) if number not in kept})
                total += self._of(batch)
        return total

    @torch.no_grad()
    def without(
        self, kept: Sequence[int], blocks: Sequence[tuple[int, ...]]
    ) -> dict[tuple[int, ...], float]:
        """The loss of the layers `kept` with each block of them gone as well, by the block.

        What comes before a block is the same for all and computed once.
        """
        missing = dict.fromkeys(n for n in range(len(self._layers)) if n not in kept)
        losses = dict.fromkeys(blocks, 0.0)
        with evaluated(self._model), self._replaced() as put:
            for batch in self._batches:
                batch = batch.to(self._model.device)
                put(missing)
                entered = self._entered(batch, [first for first, *_ in blocks])
                for block in blocks:
                    first, *rest = block
                    passed = dict.fromkeys([*range(first), *rest])
                    put(missing | passed | {first: entered.pop(first)})
                    losses[block] += self._of(batch)
        return losses

    def _entered(self, batch: Batch, numbers: Sequence[int]) -> dict[int, Tensor]:
        seen: dict[int, Tensor] = {}
        handles = [
            self._layers[number].register_forward_pre_hook(
                lambda _, args, kwargs, number=number: seen.update({number: first(args, kwargs)}),
                with_kwargs=True,
            )
            for number in numbers
        ]
        with hooked(handles):
            self._trunk.hidden(batch)
        return seen

    def _of(self, batch: Batch) -> float:
        hidden = self._trunk.hidden(batch)[batch.is_target]
        said = Headed(hidden, self._trunk.head())
        return float(observe(said, None, batch.at_targets(), (negative_log,)).double().sum())

    @contextmanager
    def _replaced(self) -> Iterator[Callable[[Mapping[int, Tensor | None]], None]]:
        """Puts stand-ins in the places of layers: which hand on what they get, or say the same."""
        layers = list(self._layers)

        def put(chosen: Mapping[int, Tensor | None]) -> None:
            for number, layer in enumerate(layers):
                self._layers[number] = (
                    _StandIn(layer, chosen[number]) if number in chosen else layer
                )

        try:
            yield put
        finally:
            put({})


class _StandIn(nn.Module):
    """In the place of a layer, and taken for it by whoever asks what kind it is."""

    def __init__(self, layer: nn.Module, said: Tensor | None) -> None:
        super().__init__()
        own = set(vars(self))
        self.__dict__.update({name: v for name, v in vars(layer).items() if name not in own})
        self._said = said

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states if self._said is None else self._said


def negative_log(own: Scores, _: Scores | Support | None, targets: Targets) -> Tensor:
    """-log q(target) in nats."""
    return own.normalizer() - own.logits.gather(1, targets.tokens.unsqueeze(1)).squeeze(1)
