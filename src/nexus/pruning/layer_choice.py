"""Which layers stay, asked for several shapes and told once for each depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel

from nexus import fingerprint
from nexus.batch import Batch
from nexus.pruning.choose import most_important
from nexus.pruning.depth_search import (
    CLEARLY,
    SHORTLIST,
    TRIED_TOKENS,
    DepthStrategy,
    Trials,
    rank_layers,
    require_next_tokens,
)
from nexus.pruning.families import family_of
from nexus.pruning.importance import BASELINES, Scores
from nexus.pruning.progress import Notebook
from nexus.pruning.sizes import Sizes
from nexus.voice import Say

FILE_NAME = "layers.json"


@dataclass(frozen=True)
class LayerChoice:
    """Which layers stay where some go, told once for each number of them.

    Args:
        model: whose layers they are.
        batches: calibration text.
        scores: importance, measured on it.
        depth: how they are told apart; by default scores decide, unless a trial says otherwise.
        say: told in a sentence what begins.
        folder: where what was tried is kept, so that nothing is tried again after an interruption.
    """

    model: PreTrainedModel
    batches: Sequence[Batch]
    scores: Scores
    depth: DepthStrategy | None = None
    say: Say = lambda text: None
    folder: Path | None = None

    def __call__(self, count: int) -> tuple[int, ...] | None:
        """So many layers, in the order in which they lie; nothing if these are all."""
        if count >= Sizes.of(self.model.config, family_of(self.model)).layers:
            return None
        known = self._notes.facts.get("kept", {})
        if str(count) not in known:
            self._notes.keep(kept=known | {str(count): list(self._told(count))})
        return tuple(self._notes.facts["kept"][str(count)])

    @cached_property
    def _notes(self) -> Notebook:
        if self.folder is None:
            return Notebook()
        facts = {
            "model": fingerprint.of_model(self.model),
            "text": fingerprint.of_text(self.batches) if self.batches else "",
            "scores": self.scores.digest,
            "depth": self.depth,
            "tried": [TRIED_TOKENS, CLEARLY, SHORTLIST],
        }
        return Notebook(self.folder / FILE_NAME, fingerprint.of_facts(facts))

    @cached_property
    def _trials(self) -> Trials:
        """On the text; what they found serves every number of layers."""
        make = Trials.short if self.depth is None else Trials.of
        return make(self.model, self.batches, self._notes)

    def _told(self, count: int) -> tuple[int, ...]:
        model, batches, say = self.model, self.batches, self.say
        if self.depth is not None:
            say(f"choosing {count} layers by {self.depth}")
            if self.depth == "perplexity":
                require_next_tokens(model, self.depth)
                return self._trials.singly(count, say)
            return rank_layers(model, batches, self.depth, count)
        likely = most_important(self.scores, count)
        can_be_tried = model.can_generate() and any(int(batch.target_count) for batch in batches)
        if self.scores.strategy in BASELINES or not can_be_tried:
            return likely
        say(f"trying on the text which {count} layers to keep")
        return self._trials.better(likely, say)
