"""nexus prune: a smaller checkpoint out of a bigger one, with a record of how it came about."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus import durable, fingerprint, hub
from nexus.batch import PADDING, Batch
from nexus.candidates import Candidate, candidate
from nexus.data.texts import texts
from nexus.errors import UsageError
from nexus.examination import source as text_source
from nexus.hub import Dtype
from nexus.kernels.lm_head import can_be_packed
from nexus.memory import give_back
from nexus.pruning.depth_search import DEPTH_STRATEGIES, DepthStrategy
from nexus.pruning.families import family_of
from nexus.pruning.importance import STRATEGIES, WITHOUT_DATA, Strategy, measured_on
from nexus.pruning.norms import Norms
from nexus.pruning.own_text import own_text
from nexus.pruning.saved import reread, said
from nexus.pruning.search import AXES, Axis, explicit_shape
from nexus.pruning.sizes import Sizes
from nexus.pruning.target import BUDGETS, Target, budget_named, meet
from nexus.pruning.text import SEQUENCE, require_sequence
from nexus.pruning.vocabulary import HowMany, byte_pairs
from nexus.pruning.watching import aggregates_named
from nexus.spec import nearest
from nexus.students.cutting import TOKENS, Plan, make
from nexus.students.cutting import Cut as Made
from nexus.students.narrowed import Narrowed, narrowed
from nexus.students.ranking import Search
from nexus.tokenizers import with_end
from nexus.voice import Say

FILE_NAME = "pruning.json"
DOCUMENT = 2**20
"""Tokens of the longest document that is looked at in one piece for the vocabulary."""


@dataclass(frozen=True)
class Cut:
    """What a user asks for. Paths are relative to the working directory."""

    model: str
    out: Path
    target_params: float | None = None
    target: float | None = None
    """Of `budget`; up to 1, a share of what the model takes."""
    budget: str = "parameters"
    shape: tuple[str, ...] = ()
    """`neurons=896`, …"""
    text: tuple[str, ...] = ()
    strategy: str = "activation"
    depth: str | None = None
    axes: tuple[str, ...] = AXES
    multiple: int = 32
    repair: bool = True
    dtype: Dtype = "auto"
    aggregate: tuple[str, ...] = ("mean", "l2")
    scores: Path | None = None
    search: Search | None = None
    seed: int = 0
    vocabulary: HowMany | None = None
    """How many tokens are kept of those that the text uses most; `used`: all that it uses."""
    norms: str = "rescaled"
    calibration_tokens: int | None = None
    """Of the text, that importance and refitting look at."""
    heldout: tuple[str, ...] = ()
    """Text on which is measured how many more tokens it takes."""

    @property
    def looked_at(self) -> int:
        """How much text importance and refitting look at."""
        return TOKENS if self.calibration_tokens is None else self.calibration_tokens

    @property
    def sized(self) -> bool:
        """Whether anything but the vocabulary is to be smaller."""
        return self.target_params is not None or self.target is not None or bool(self.shape)


def prune_checkpoint(asked: Cut, say: Say) -> dict[str, Any]:
    """Write the smaller model, its tokenizer and pruning.json; returns what that says.

    Raises:
        UsageError: for anything that the user can put right, in one line.
        NexusError: a proof failed.
    """
    begin = time.perf_counter()
    if asked.out.exists() and (not asked.out.is_dir() or any(asked.out.iterdir())):
        raise UsageError(f"--out {asked.out} is there and not empty. Choose another directory")
    strategy, depth, axes, shape = _known(asked)
    source = candidate(asked.model, asked.dtype, encoders=True)
    _ = source.tokenizer
    say(f"loading {asked.model}")
    whole = source.model
    fewer = None if asked.vocabulary is None else _narrowed(asked, source, say)
    model = whole if fewer is None else fewer.model
    tokenizer = source.tokenizer if fewer is None else fewer.vocabulary.tokenizer
    family = family_of(model)
    made, data = None, "none"
    if asked.sized:
        aim = _aim(asked, whole, model, shape, axes)
        batches, data = _calibration(asked, model, tokenizer, source.context_limit, strategy, say)
        plan = _plan(asked, strategy, depth, axes)
        made = make(
            model, [batch.to(model.device) for batch in batches], aim, plan,
            scores=asked.scores, workspace=_beside(asked.scores), any_text=not asked.text,
            say=say,
        )  # fmt: skip
    small = model if made is None else made.pruned.model
    say(f"writing {asked.out}")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "model": asked.model,
        "model_fingerprint": fingerprint.of_model(whole),
        "data": data,
        **_of_cut(asked, made),
        "scores_data": measured_on(asked.scores) if asked.scores and made else None,
        "before": asdict(Sizes.of(whole.config, family)),
        "after": asdict(Sizes.of(small.config, family)),
        "parameters": {"before": _count(whole), "after": _count(small)},
        "vocabulary": None if fewer is None else fewer.vocabulary.facts,
    }
    with durable.directory(asked.out) as aside:
        hub.save(small, tokenizer, aside)
        findings = () if fewer is None else fewer.findings
        findings += () if made is None else made.pruned.findings
        told, device = said(small), small.device
        del source, whole, fewer, model, made, small
        give_back()  # so that what was saved is there alone
        findings += (reread(told, aside, device),)
        facts["proofs"] = [proof.model_dump() for proof in findings]
        facts["seconds"] = round(time.perf_counter() - begin, 1)
        durable.write(aside / FILE_NAME, json.dumps(facts, indent=1) + "\n")
    return facts


def searching(asked: bool, candidates: int | None, tokens: int | None) -> Search | None:
    """The search that the command names, if it names one.

    Raises:
        UsageError: for fewer than two candidates, too few tokens, or either without a search.
    """
    given = {"candidates": candidates, "tokens": tokens}
    named = {name: value for name, value in given.items() if value is not None}
    if named and not asked:
        option = "--candidates" if candidates is not None else "--search-tokens"
        raise UsageError(f"{option} is of a search, but there is none: add --search")
    return Search.parse(named) if asked else None


def _known(
    asked: Cut,
) -> tuple[Strategy, DepthStrategy | None, tuple[Axis, ...], dict[Axis, int]]:
    """What was asked for by names, of which each is known."""
    given = [asked.target_params is not None, asked.target is not None, bool(asked.shape)]
    if sum(given) > 1 or not (any(given) or asked.vocabulary is not None):
        raise UsageError(
            "give either --target-params 80e6, --target 0.75 --budget latency (parameters, "
            "without_embeddings, bytes, flops) or --shape neurons=896, and not both; or only "
            "--vocabulary 16384"
        )
    _require_text(asked)
    _ = Target.asked(asked.target_params, asked.target)
    if asked.target is None and asked.budget != "parameters":
        raise UsageError(
            f"--budget {asked.budget} says what --target counts, but there is none: add --target "
            "0.75, say, for three quarters of what the model takes"
        )
    names: list[tuple[str, str, tuple[str, ...]]] = [("--strategy", asked.strategy, STRATEGIES)]
    names.append(("--budget", asked.budget, BUDGETS))
    names.append(("--norms", asked.norms, get_args(Norms)))
    if asked.depth is not None:
        names.append(("--depth", asked.depth, DEPTH_STRATEGIES))
    names += [("--axes", axis, get_args(Axis)) for axis in asked.axes]
    shape: dict[Any, int] = {}
    for one in asked.shape:
        found = re.fullmatch(r"(\w+)=(\d+)", one)
        if not found:
            raise UsageError(f"--shape {one} is no size: write it as neurons=896")
        names.append(("--shape", found[1], get_args(Axis)))
        shape[found[1]] = int(found[2])
    for option, name, known in names:
        if name not in known:
            raise UsageError(f"{option} {name} is unknown{nearest(name, known)}")
    aggregates_named(asked.aggregate)
    if asked.looked_at < 1:
        raise UsageError(f"--calibration-tokens is {asked.looked_at}: give at least 1")
    if asked.search is not None and shape:
        raise UsageError(
            "--search chooses among shapes for a target, but --shape is the very shape: drop one"
        )
    known_names: Any = (asked.strategy, asked.depth, asked.axes)
    return *known_names, shape


def _require_text(asked: Cut) -> None:
    if asked.vocabulary is not None and not asked.text:
        raise UsageError(
            "--vocabulary keeps the tokens that a text uses, but there is none: give it with --text"
        )
    if asked.search is not None and not asked.text and not asked.shape:
        tokens = asked.looked_at + asked.search.zero_shot_tokens + asked.search.longest
        raise UsageError(
            "--search distils candidates on text, but there is none: give about "
            f"{tokens:,} tokens with --text"
        )
    if asked.heldout and asked.vocabulary is None:
        raise UsageError(
            "--heldout is what a smaller vocabulary is measured on, but none is asked for: add "
            "--vocabulary 16384, or drop it"
        )


def _narrowed(asked: Cut, source: Candidate, say: Say) -> Narrowed:
    """The model with the tokens that the text needs."""
    _ = byte_pairs(source.tokenizer)  # before any text is read
    say("choosing the tokens that the text needs")
    size: Any = asked.vocabulary
    read = (
        texts([text_source(path) for path in paths], source.tokenizer, Path(), length=DOCUMENT,
              packing=False).documents if paths else ()
        for paths in (asked.text, asked.heldout)
    )  # fmt: skip
    documents, heldout = read
    return narrowed(
        source.model, source.tokenizer, documents, size, heldout=heldout, multiple=asked.multiple
    )


def _of_cut(asked: Cut, made: Made | None) -> dict[str, Any]:
    """How what was cut besides the vocabulary was chosen."""
    if made is None:
        return {"target": None, "search": None}
    scores = made.pruned.scores
    return {
        "strategy": asked.strategy,
        "aggregate": scores.aggregate,
        "depth": asked.depth,
        "repair": asked.repair,
        "norms": asked.norms,
        "tokens": scores.tokens,
        "scores_fingerprint": scores.digest,
        "layers": made.pruned.kept.layers,
        "target": None if made.pruned.met is None else made.pruned.met.facts,
        "search": None if made.ranking is None else made.ranking.facts,
    }


def _plan(
    asked: Cut, strategy: Strategy, depth: DepthStrategy | None, axes: tuple[Axis, ...]
) -> Plan:
    """How to cut what was asked for."""
    aggregate: Any = asked.aggregate
    norms: Any = asked.norms
    return Plan(
        strategy, aggregate, depth, axes, asked.multiple, asked.repair, asked.search, asked.seed,
        asked.looked_at, norms,
    )  # fmt: skip


def _aim(
    asked: Cut,
    whole: PreTrainedModel,
    model: PreTrainedModel,
    shape: dict[Axis, int],
    axes: tuple[Axis, ...],
) -> Target | Sizes:
    """What is to be met; what cannot be is refused here, before any text is read."""
    family = family_of(model)
    if shape:
        return explicit_shape(model, family, shape, asked.multiple)
    aim = Target.asked(asked.target_params, asked.target, budget_named(asked.budget)) or Target(0.0)
    if asked.vocabulary is not None:
        aim = aim.absolute(whole, family)
    if aim.budget != "latency":
        meet(aim, model, family, multiple=asked.multiple, axes=axes)
    return aim


def _calibration(
    asked: Cut,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    context_limit: int | None,
    strategy: Strategy,
    say: Say,
) -> tuple[Iterable[Batch], str]:
    """Text to measure on, and what it is."""
    measured = strategy not in WITHOUT_DATA and not (asked.scores and asked.scores.exists())
    fitted = asked.repair or asked.norms == "measured"
    if not (fitted or measured or asked.depth or asked.search or asked.text):
        return [], "none"
    if not asked.text:
        if not model.can_generate():
            raise UsageError(
                f"{asked.model} is a {type(model).__name__}, which writes no text of its own: give "
                "calibration text with --text"
            )
        there = asked.scores is not None and asked.scores.exists()
        what = f"importance is taken from {asked.scores}, and for all else " if there else ""
        say(f"no --text: {what}the model writes its own calibration text")
        return own_text(model, seed=asked.seed), "written by the model itself"
    length = min(SEQUENCE, context_limit or SEQUENCE)
    read = texts(
        [text_source(path) for path in asked.text], with_end(tokenizer), Path(), length=length,
        rows=4, packing=can_be_packed(model),
    )  # fmt: skip
    held: list[Batch] = []
    tokens, search = 0, asked.search
    wanted = asked.looked_at + (0 if search is None else search.zero_shot_tokens + search.longest)
    for batch in read:
        held.append(batch)
        tokens += int((batch.documents != PADDING).sum())
        if tokens >= wanted:
            break
    otherwise = ", or none, and the model writes its own"
    require_sequence(tokens, length, f"--text {' '.join(asked.text)}", otherwise)
    return held, read.fingerprint


def _beside(scores: Path | None) -> Path | None:
    """Where a search and a trial of layers keep what they measured, if anything is kept."""
    return None if scores is None else scores.with_name(f"{scores.name}.search")


def _count(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
