"""prune: a smaller model out of a bigger one in one call, proved on the way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.errors import NexusError, UsageError
from nexus.kernels.decoder import evaluated
from nexus.memory import give_back
from nexus.proofs import Proof
from nexus.pruning import latency
from nexus.pruning.budget import Budget
from nexus.pruning.choose import choose
from nexus.pruning.depth_search import DepthStrategy
from nexus.pruning.families import family_of
from nexus.pruning.importance import Scores, Strategy, measure
from nexus.pruning.layer_choice import LayerChoice
from nexus.pruning.norms import Norms, fit_norms
from nexus.pruning.repair import repair as refit
from nexus.pruning.search import AXES, TOLERANCE, Axis
from nexus.pruning.silenced import silenced, why_not
from nexus.pruning.sizes import Sizes
from nexus.pruning.slice import Kept, cut
from nexus.pruning.target import Met, Target, fitted, meet
from nexus.ties import check_tie, is_tied
from nexus.voice import Say

_ERRORS = {torch.float32: 1e-3, torch.float64: 1e-6}
_NARROWER_ERROR = 0.02
_COARSE_ERROR = 0.12
"""Relative differences of logits that another order of sums explains, in half precision too."""


@dataclass(frozen=True)
class Pruned:
    """A smaller model, and where it comes from."""

    model: PreTrainedModel
    kept: Kept
    sizes: Sizes
    scores: Scores
    findings: tuple[Proof, ...]
    """What was proved, with the numbers that decided."""
    met: Met | None = None
    """What the shape takes of the budget, where there was a target."""


@torch.no_grad()
def prune(
    model: PreTrainedModel,
    batches: Iterable[Batch] = (),
    *,
    target_params: float | None = None,
    target: Target | Met | None = None,
    sizes: Sizes | None = None,
    strategy: Strategy = "activation",
    depth: DepthStrategy | None = None,
    axes: Collection[Axis] = AXES,
    multiple: int = 32,
    repair: bool = True,
    norms: Norms = "rescaled",
    dtype: torch.dtype | None = None,
    scores: Scores | None = None,
    choice: LayerChoice | None = None,
    seed: int = 0,
    say: Say = lambda text: None,
) -> Pruned:
    """Cut a model to a size: score, choose, cut, refit what is left (arXiv:2407.14679).

    Proved on the model itself, every time: that with nothing cut, and lying in another order, it is
    the same model; that the smaller one says what the whole one says while all that goes is silent;
    that it has as many parameters as were counted and were asked for, and that its head is its
    embedding where it was.

    Args:
        model: which is left as it is.
        batches: calibration text, about 25,000 tokens.
        target_params: how many parameters in all, within 2 %.
        target: or so much of another budget: bytes, FLOPs, measured time per token, or a share;
            or a shape that was found for one.
        sizes: or the very shape.
        strategy: how importance is told.
        depth: how layers are told apart. If not given, those of the highest scores and others are
            tried on the text (`Trials.better`). Without text, and for baselines, scores decide
            alone.
        axes: which sizes a target may change.
        multiple: of which neurons and hidden channels are multiples.
        repair: refit down- and output-projections on the text.
        norms: what makes up for channels that go; `measured` needs the text.
        dtype: of the new weights; the model's own if not given.
        scores: measured before, for any target.
        choice: which layers stay, as far as that was told before, in place of `depth`.
        seed: of the strategy `random`.
        say: told in a sentence what begins.

    Raises:
        UsageError: The architecture is unknown, or the target or the shape cannot be had.
        NexusError: A proof failed: a bug of Nexus or of the versions installed.
    """
    counted = Target.asked(target_params)
    given = [one for one in (counted, target, sizes) if one is not None]
    if len(given) != 1:
        raise UsageError(
            "pruning needs either target_params or a shape, or another target: give one of them"
        )
    family = family_of(model)
    limits: Any = {"multiple": multiple, "axes": axes}
    goal = _goal(given[0], model, dtype, limits)
    held = list(batches)
    give_back()  # what measuring left
    findings = [_nothing(model), _order(model)]
    give_back()  # the copies that were compared
    if scores is None:
        say(f"measuring importance ({strategy})")
        scores = measure(model, held, strategy=strategy, seed=seed)
    say("cutting")
    choice = choice or LayerChoice(model, held, scores, depth, say)
    if isinstance(goal, Met):
        goal = fitted(goal, model, family, choice, **limits)
    met, sizes = (goal, goal.sizes) if isinstance(goal, Met) else (None, goal)
    layers = choice(sizes.layers)
    small, kept = carve(model, held, scores, sizes, layers, repair=False, dtype=dtype)
    findings += [_silent(model, small, kept)]  # which holds before what is left is refitted
    _fit(small, model, kept, held, repair, norms, say)
    expected = Budget(model, family, "parameters")(sizes, kept.layers)
    findings += [_count(small, expected), *_meets(small, met), _tie(model, small)]
    _refuse_failed(findings)
    return Pruned(small, kept, sizes, scores, tuple(findings), met)


def _goal(
    aim: Target | Met | Sizes,
    model: PreTrainedModel,
    dtype: torch.dtype | None,
    limits: dict[str, Any],
) -> Met | Sizes:
    """The best guess of a shape, unless it is given."""
    if isinstance(aim, Met | Sizes):
        return aim
    return meet(aim.saved_in(dtype), model, family_of(model), **limits)


@torch.no_grad()
def copied(
    model: PreTrainedModel, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, tuple[Proof, ...]]:
    """All of a model, its weights its own, and what is proved of it: of a student that has fewer
    tokens than the model its teacher comes from, and all else.

    Args:
        model: which is left as it is.
        dtype: of the new weights; the model's own if not given.

    Raises:
        UsageError: The architecture is unknown.
        NexusError: A proof failed: a bug of Nexus or of the versions installed.
    """
    family = family_of(model)
    sizes = Sizes.of(model.config, family)
    small = cut(model, Kept(), dtype=dtype)
    expected = Budget(model, family, "parameters")(sizes, range(sizes.layers))
    findings = (_nothing(model), _count(small, expected), _tie(model, small))
    _refuse_failed(findings)
    return small, findings


@torch.no_grad()
def carve(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    scores: Scores,
    sizes: Sizes,
    layers: tuple[int, ...] | None,
    *,
    repair: bool = True,
    norms: Norms = "rescaled",
    dtype: torch.dtype | None = None,
) -> tuple[PreTrainedModel, Kept]:
    """A model of some sizes, by scores that were measured before, and what was kept for it.

    Arguments as of `prune`, which proves besides; `layers` are those that stay, if any go.
    """
    kept = choose(scores, model, sizes, layers)
    small = cut(model, kept, dtype=dtype)
    _fit(small, model, kept, list(batches), repair, norms)
    return small, kept


def _refuse_failed(findings: Iterable[Proof]) -> None:
    for proof in findings:
        if proof.outcome == "failed":
            raise NexusError(f"Pruning proved wrong: {proof.name}: {proof.detail}. {proof.remedy}")


def _fit(
    small: PreTrainedModel,
    model: PreTrainedModel,
    kept: Kept,
    text: Sequence[Batch],
    repair: bool,
    norms: Norms,
    say: Say = lambda text: None,
) -> None:
    """What is left stands in for what is gone, as the text tells."""
    if norms == "measured":
        fit_norms(small, model, kept, text)
    if repair:
        give_back()
        refit(small, model, kept, text, say=say)


def _nothing(model: PreTrainedModel) -> Proof:
    """With nothing cut it is the same model: every tensor bit for bit, and what it says.

    Kernels may sum up in another order where weights lie elsewhere, so logits get a tolerance.
    """
    name, same = "with nothing cut it is the same model", cut(model, Kept())
    ours, theirs = model.state_dict(), same.state_dict()
    other = ours.keys() ^ theirs.keys()
    other |= {key for key in ours.keys() & theirs.keys() if not torch.equal(ours[key], theirs[key])}
    if other:
        return _proof(name, float(len(other)), 0.0, f"{min(other)} differs, of all tensors")
    limit = _ERRORS.get(model.dtype, _COARSE_ERROR)
    return _proof(name, _apart(_said(same), _said(model)), limit, "relative difference of logits")


def _order(model: PreTrainedModel) -> Proof:
    """With everything in another order it is the same model: every axis is where it is said."""
    return _proof(
        "in another order it is the same model",
        _apart(_said(cut(model, another_order(model))), _said(model)),
        _ERRORS.get(model.dtype, _COARSE_ERROR),
        "relative difference of its logits",
    )


def _silent(model: PreTrainedModel, small: PreTrainedModel, kept: Kept) -> Proof:
    """The whole model is the smaller one while all that goes is silent."""
    name = "what goes can be silenced instead, and the model is the smaller one"
    if reason := why_not(model, kept):
        return Proof(group="pruning", name=name, outcome="skipped", detail=reason)
    with silenced(model, kept):
        before = _said(model)
    # Of a narrower stream the small number that norms add to their mean of squares counts more.
    limit = _NARROWER_ERROR if kept.hidden is not None else _ERRORS[torch.float32]
    halves = {model.dtype, small.dtype} - set(_ERRORS)
    return _proof(
        name,
        _apart(_said(small), before),
        _COARSE_ERROR if halves else limit,
        "relative difference of its logits",
    )


def _said(model: PreTrainedModel) -> Tensor:
    """Its logits on a few random tokens that every model of the family has."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (1, 16), generator=torch.Generator().manual_seed(0))
    with evaluated(model), torch.no_grad():
        said: Tensor = model(input_ids=ids.to(model.device)).logits.float()
    return said


def _apart(one: Tensor, other: Tensor) -> float:
    """How far logits are from others, as a share of these; at most tokens."""
    error = (one - other).norm(dim=-1) / other.norm(dim=-1).clamp_min(1e-30)
    return float(error.nan_to_num(nan=torch.inf).median())


def another_order(model: PreTrainedModel, seed: int = 0) -> Kept:
    """All of a model, in a random order along every axis: the model that comes out is the same."""
    family = family_of(model)
    sizes = Sizes.of(model.config, family)
    generator = torch.Generator().manual_seed(seed)

    def some(count: int, rows: int | None = None) -> Tensor:
        if rows is None:
            return torch.randperm(count, generator=generator)
        return torch.stack([torch.randperm(count, generator=generator) for _ in range(rows)])

    each = sizes.heads // sizes.groups
    numbers = range(sizes.layers)
    groups = {layer: some(sizes.groups) for layer in numbers}
    return Kept(
        hidden=some(sizes.hidden),
        neurons={n: some(sizes.neurons) for n in numbers if "neurons" in family.names},
        heads={
            layer: (order[:, None] * each + some(each, sizes.groups)).flatten()
            for layer, order in groups.items()
        },
        groups=groups,
        experts={n: some(sizes.experts) for n in numbers if sizes.experts},
        expert_neurons={
            n: some(sizes.expert_neurons, sizes.experts) for n in numbers if sizes.experts
        },
    )


def _count(small: PreTrainedModel, expected: int) -> Proof:
    count = sum(parameter.numel() for parameter in small.parameters())
    return _proof(
        "it has as many parameters as its shape says",
        float(abs(count - expected)),
        0.0,
        f"{count:,} are there and {expected:,} expected; difference",
    )


def _meets(small: PreTrainedModel, met: Met | None) -> list[Proof]:
    """Whether the target is met, counted on the smaller model itself.

    One that was measured is as sure as the measurement.
    """
    if met is None:
        return []
    taken, cost = met.taken, met.cost
    if isinstance(cost, Budget):
        family = family_of(small)
        there = Budget(small, family, cost.measure, cost.dtype)
        taken = there(Sizes.of(small.config, family))
    measured = met.budget == "latency"
    proof = _proof(
        "it meets the target",
        abs(taken / met.wanted - 1),
        latency.TOLERANCE if measured else TOLERANCE,
        f"{taken:,.10g} {met.cost.unit} for a target of {met.wanted:,.10g}; difference as a share",
    )
    if measured and proof.outcome == "failed":
        remedy = "No shape came closer here, or the machine was busy: measure again when it is idle"
        proof = proof.model_copy(update={"outcome": "doubtful", "remedy": remedy})
    return [proof]


def _tie(model: PreTrainedModel, small: PreTrainedModel) -> Proof:
    if small.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
        return Proof(group="pruning", name="its head is its embedding as before",
                     outcome="skipped", detail="it has no head over tokens")  # fmt: skip
    check_tie(small)
    return _proof(
        "its head is its embedding as before",
        float(is_tied(model) != is_tied(small)),
        0.0,
        "tied" if is_tied(small) else "not tied",
    )


def _proof(name: str, value: float, limit: float, what: str) -> Proof:
    holds = value <= limit
    return Proof(
        group="pruning",
        name=name,
        outcome="proved" if holds else "failed",
        detail=f"{what} {value:.2g}, at most {limit:g}",
        value=value,
        limit=limit,
        remedy="" if holds else "Report this with the model's configuration",
    )
