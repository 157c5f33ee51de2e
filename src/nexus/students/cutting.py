"""Cutting: scores, a shape, and the cut, each kept on disk so that none is done twice."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from nexus import durable
from nexus.batch import PADDING, Batch
from nexus.errors import UsageError
from nexus.fingerprint import of_facts
from nexus.proofs import Proof
from nexus.pruning.budget import Budget
from nexus.pruning.depth_search import DepthStrategy, require_next_tokens
from nexus.pruning.families import Family, family_of
from nexus.pruning.importance import Strategy
from nexus.pruning.latency import Latency
from nexus.pruning.layer_choice import LayerChoice
from nexus.pruning.norms import Norms
from nexus.pruning.prune import Pruned, prune
from nexus.pruning.saved import survives
from nexus.pruning.scored import scored
from nexus.pruning.search import Axis
from nexus.pruning.shortlist import shortlist
from nexus.pruning.sizes import Sizes
from nexus.pruning.target import Met, Target, fitted, meet
from nexus.pruning.watching import Aggregate
from nexus.students.ranking import Ranking, Search, rank
from nexus.voice import Say

SCORES = "scores.safetensors"
RECORD = "pruning.json"
TOKENS = 24_000
"""How much text importance and repair look at: more changes little."""


@dataclass(frozen=True)
class Plan:
    """How a student is cut, in terms of the model that it is cut out of."""

    strategy: Strategy
    aggregate: tuple[Aggregate, Aggregate]
    depth: DepthStrategy | None
    axes: Collection[Axis]
    multiple: int
    repair: bool
    search: Search | None
    seed: int
    tokens: int = TOKENS
    """How much text importance and repair look at."""
    norms: Norms = "rescaled"
    """What makes up for channels that go."""

    @property
    def carving(self) -> dict[str, Any]:
        """What a search cuts its candidates by, as the student is cut in the end."""
        chosen: dict[str, Any] = {"depth": self.depth, "repair": self.repair}
        return chosen | ({} if self.norms == "rescaled" else {"norms": self.norms})


@dataclass(frozen=True)
class Cut:
    """A student, and how its shape was found."""

    pruned: Pruned
    ranking: Ranking | None


def make(
    model: PreTrainedModel,
    text: Sequence[Batch],
    aim: Target | Sizes,
    plan: Plan,
    *,
    scores: Path | None = None,
    workspace: Path | None = None,
    anew: bool = False,
    any_text: bool = False,
    dtype: torch.dtype | None = None,
    say: Say = lambda text: None,
) -> Cut:
    """Score, choose a shape and cut.

    Args:
        model: which is left as it is.
        text: the first `plan.tokens` of it for importance and repair, the rest for the search.
        aim: a target or the very shape.
        plan: how.
        scores: the file of importance scores, there already or not.
        workspace: where a search and a trial of layers keep what they measured.
        anew: measure importance where the file is of something else, in place of refusing it.
        any_text: take the scores in the file whatever text they were measured on.
        dtype: of the student.
        say: told in a sentence what begins.

    Raises:
        UsageError: The target or the shape cannot be had, or the scores are of something else.
    """
    require_next_tokens(model, plan.depth)
    if plan.search is not None and not model.can_generate():
        raise UsageError(
            "search tells shapes apart by distilling next tokens, but "
            f"{type(model).__name__} predicts none: leave search out"
        )
    if isinstance(aim, Target):
        aim = aim.saved_in(dtype)
    looked_at, rest = apart(text, plan.tokens)
    found = scored(
        model, looked_at, scores, strategy=plan.strategy, aggregate=plan.aggregate,
        seed=plan.seed, anew=anew, any_text=any_text, say=say,
    )  # fmt: skip
    choice = LayerChoice(model, looked_at, found, plan.depth, say, workspace)
    ranking: Ranking | None = None
    goal: Met | Target | Sizes = aim
    if isinstance(aim, Target):
        goal, ranking = _shape(model, choice, looked_at, rest, aim, plan, workspace, say)
    pruned = prune(
        model, looked_at, target=goal if isinstance(goal, Met) else None,
        sizes=goal if isinstance(goal, Sizes) else None, strategy=plan.strategy, depth=plan.depth,
        axes=plan.axes, multiple=plan.multiple, repair=plan.repair, norms=plan.norms, dtype=dtype,
        scores=found, choice=choice, seed=plan.seed, say=say,
    )  # fmt: skip
    return Cut(pruned, ranking)


def apart(text: Sequence[Batch], tokens: int) -> tuple[list[Batch], list[Batch]]:
    """The first batches that hold so many tokens, and the others."""
    held = 0
    for number, batch in enumerate(text, 1):
        held += int((batch.documents != PADDING).sum())
        if held >= tokens:
            return list(text[:number]), list(text[number:])
    return list(text), []


def _shape(
    model: PreTrainedModel,
    choice: LayerChoice,
    calibration: Sequence[Batch],
    text: Sequence[Batch],
    target: Target,
    plan: Plan,
    workspace: Path | None,
    say: Say,
) -> tuple[Met, Ranking | None]:
    """The shape for a target: the best guess, or the best of a search."""
    family = family_of(model)
    limits: Any = {"multiple": plan.multiple, "axes": plan.axes}
    if target.budget == "latency":
        say("timing how long a token takes at a few shapes")
    if plan.search is None:
        return meet(target, model, family, **limits), None
    cost = target.cost(model, family, **limits)
    whole = target.whole(cost, model, family)
    wanted = target.value(whole)
    guessed = shortlist(
        model, family, plan.search.shortlisted, target=wanted, budget=cost, **limits
    )
    first = Met(target.budget, guessed[0], cost, wanted, cost(guessed[0]), whole)
    candidates = _exact(first, guessed, choice, family, limits)
    if len(candidates) == 1:
        say("search: only one shape meets the target, so there is nothing to choose")
        return meet(target, model, family, **limits), None
    with _folder(workspace) as folder:
        ranking = rank(
            model, choice.scores, candidates, text, plan.search, calibration=calibration,
            folder=Path(folder), settings=plan.carving, choice=choice, say=say,
        )  # fmt: skip
    sizes = candidates[ranking.winner]
    taken = cost.measure(sizes) if isinstance(cost, Latency) else cost(sizes)
    return Met(target.budget, sizes, cost, wanted, taken, whole), ranking


def _exact(
    met: Met, guessed: Sequence[Sizes], choice: LayerChoice, family: Family, limits: dict[str, Any]
) -> list[Sizes]:
    """The candidates with the layers that they would keep, where these are of two kinds."""
    if not isinstance(met.cost, Budget) or met.cost.is_even:
        return list(guessed)
    found: dict[Sizes, None] = {}
    refused: list[UsageError] = []
    for sizes in guessed:
        one = replace(met, sizes=sizes)
        try:
            found[fitted(one, choice.model, family, choice, **limits).sizes] = None
        except UsageError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    return list(found)


def _folder(workspace: Path | None) -> AbstractContextManager[str | Path]:
    if workspace is None:
        return tempfile.TemporaryDirectory(prefix="nexus-search-")
    return nullcontext(workspace)


def with_saving(cut: Cut, place: Path | None) -> Cut:
    """With the proof that it is loaded as what it is, where nobody is about to save it.

    Args:
        cut: what was cut.
        place: a folder on whose disk it is written for that.

    Raises:
        NexusError: Loaded again it says something else.
    """
    findings = (*cut.pruned.findings, survives(cut.pruned.model, place))
    return replace(cut, pruned=replace(cut.pruned, findings=findings))


@dataclass(frozen=True)
class Decision:
    """The shape that was chosen before, for a run that begins again or for its other processes."""

    path: Path
    key: str

    @classmethod
    def of(cls, folder: Path, facts: dict[str, Any]) -> Decision:
        """In a run's folder, for one way of asking."""
        return cls(folder / RECORD, of_facts(facts))

    @property
    def sizes(self) -> Sizes | None:
        """The shape, if it was chosen and asked for in the same way."""
        said = json.loads(self.path.read_text()) if self.path.is_file() else {}
        return Sizes(**said["after"]) if said.get("key") == self.key else None

    def keep(self, cut: Cut) -> None:
        """Write down what was found."""
        pruned = cut.pruned
        target = None if pruned.met is None else pruned.met.facts
        search = None if cut.ranking is None else cut.ranking.facts
        self.write(
            pruned.sizes, pruned.findings, layers=pruned.kept.layers, target=target, search=search
        )

    def write(self, sizes: Sizes, findings: Sequence[Proof], **facts: Any) -> None:
        """Write down a shape and what was proved of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        proofs = [proof.model_dump() for proof in findings]
        told = {"key": self.key, "after": asdict(sizes), **facts, "proofs": proofs}
        durable.write(self.path, json.dumps(told, indent=1) + "\n")


def note_proof(workspace: Path, proof: Proof) -> None:
    """Add to the record of a cut what was proved when it was saved."""
    path = workspace / RECORD
    told = json.loads(path.read_text())
    others = [one for one in told["proofs"] if one["name"] != proof.name]
    durable.write(
        path, json.dumps(told | {"proofs": [*others, proof.model_dump()]}, indent=1) + "\n"
    )
