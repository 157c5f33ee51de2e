"""Which layers stay, asked for several shapes and told once for each depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.pruning.choose import most_important
from nexus.pruning.depth_search import (
    Deletions,
    DepthStrategy,
    Trials,
    rank_layers,
    require_next_tokens,
)
from nexus.pruning.families import family_of
from nexus.pruning.importance import BASELINES, Scores
from nexus.pruning.sizes import Sizes
from nexus.voice import Say


@dataclass(frozen=True)
class LayerChoice:
    """Which layers stay where some go, told once for each number of them."""

    model: PreTrainedModel
    batches: Sequence[Batch]
    scores: Scores
    depth: DepthStrategy | None = None
    say: Say = lambda text: None
    known: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @cached_property
    def trials(self) -> Trials:
        """On the text, made at the first; what they found serves every number of layers."""
        if self.depth is not None:
            return Trials(Deletions(self.model, self.batches))
        return Trials.short(self.model, self.batches)

    def __call__(self, count: int) -> tuple[int, ...] | None:
        """So many layers, in the order in which they lie; nothing if these are all."""
        if count >= Sizes.of(self.model.config, family_of(self.model)).layers:
            return None
        if count not in self.known:
            self.known[count] = self._told(count)
        return self.known[count]

    def _told(self, count: int) -> tuple[int, ...]:
        model, batches, say = self.model, self.batches, self.say
        if self.depth is not None:
            say(f"choosing {count} layers by {self.depth}")
            if self.depth == "perplexity":
                require_next_tokens(model, self.depth)
                return self.trials.singly(count, say)
            return rank_layers(model, batches, self.depth, count)
        likely = most_important(self.scores, count)
        can_be_tried = model.can_generate() and any(int(batch.target_count) for batch in batches)
        if self.scores.strategy in BASELINES or not can_be_tried:
            return likely
        say(f"trying on the text which {count} layers to keep")
        return self.trials.better(likely, say)
