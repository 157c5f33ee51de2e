"""MinitronPruner: a student of any size, cut out of its teacher."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.models.compression.distillation.text import (
    Texts,
    real_ids,
    require_floating,
    rows_of_text,
)
from nexus.pruning.families import family_of
from nexus.pruning.importance import STRATEGIES, WITHOUT_DATA
from nexus.pruning.norms import Norms
from nexus.pruning.own_text import own_text
from nexus.pruning.prune import Pruned, copied
from nexus.pruning.saved import survives
from nexus.pruning.search import AXES, Axis, explicit_shape
from nexus.pruning.sizes import Sizes
from nexus.pruning.target import Target, meet
from nexus.pruning.vocabulary import HowMany
from nexus.pruning.watching import aggregates_named
from nexus.spec import nearest, shown
from nexus.students.cutting import TOKENS, make, with_saving
from nexus.students.narrowed import Narrowed, narrowed
from nexus.students.pruned import Pruned as Asked
from nexus.students.ranking import Ranking, Search

IMPORTANCE = "importance"
"""The specification's name for what measures best, activations."""

WITHOUT = "the teacher writes its own"
"""What happens where no calibration data is given."""


class MinitronPruner:
    """Cuts a student out of a teacher by the importance of its parts (arXiv:2407.14679).

        pruner = MinitronPruner(teacher=teacher, target_params=80e6)
        student = pruner.prune_and_create_student()

    The student is an ordinary model of the teacher's class. Train it with `KnowledgeDistiller` or
    `distill` afterwards: what was cut comes back with surprisingly little text.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        target_params: float | None = None,
        pruning_strategy: str = IMPORTANCE,
        *,
        calibration_data: Texts | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        axes: Sequence[Axis] = AXES,
        multiple: int = 32,
        repair: bool = True,
        dtype: torch.dtype | None = None,
        seed: int = 0,
        target: float | None = None,
        budget: str = "parameters",
        vocabulary: HowMany | None = None,
        depth: str | None = None,
        aggregate: Sequence[str] = ("mean", "l2"),
        search: bool | Mapping[str, Any] | Search = False,
        norms: Norms = "rescaled",
        shape: Mapping[str, int] | None = None,
        scores: str | Path | None = None,
        calibration_tokens: int = TOKENS,
    ) -> None:
        """Check what can be checked before anything is computed.

        Args:
            teacher: a model of a known architecture; left as it is.
            target_params: how many parameters in all, within 2 %.
            pruning_strategy: `importance` (by activations), or any that a recipe can name.
            calibration_data: texts, which need a tokenizer, or tensors of token ids; padded ones in
                mappings of `input_ids` and `attention_mask`. Without it the teacher writes 8,000
                tokens itself.
            tokenizer: the teacher's.
            axes: which sizes may change.
            multiple: of which neurons and hidden channels are multiples.
            repair: refit what is left on the calibration data.
            dtype: of the student; the teacher's if not given.
            seed: of the teacher's own text.
            target: in place of `target_params`: so much of `budget`; up to 1, a share of the
                teacher's.
            budget: parameters, without_embeddings, bytes, flops, or latency: milliseconds a token,
                measured on this machine.
            vocabulary: how many tokens to keep, those that `calibration_data` uses most first, or
                `used`; alone, nothing else goes. `narrowed` then holds the tokenizer and the
                teacher that belong to the student.
            depth: how layers are told apart, where some go. If not given, the most important ones
                stay, or others if a trial on the text clearly says so.
            aggregate: how activations are summed up, over tokens and over rows.
            search: tell several shapes for the target apart by short distillation on
                `calibration_data`: True, or what a recipe can say of it, as
                `{"candidates": 8, "tokens": 200_000}`. `ranking` then says how they fared.
            norms: what becomes of norms' weights where hidden channels go: `rescaled` by
                sqrt(all / kept), or `measured` on the calibration data.
            shape: in place of a target: the very shape, as `{"neurons": 896, "layers": 24}`.
            scores: a file to keep importance in, or to take it from, for any other target.
            calibration_tokens: how many of the data importance and refitting look at; a search
                reads on.

        Raises:
            UsageError: for a name that is unknown or a value that is none, whichever it is, or data
                that cannot be used.
        """
        self.teacher, self.dtype = _model(teacher), dtype
        require_floating(dtype)
        _require_one_aim(target_params, target, vocabulary, shape)
        asked = self.asked = _asked(
            target_params=target_params, target=target, budget=budget, shape=shape,
            vocabulary=vocabulary, strategy=_strategy(pruning_strategy), depth=depth, axes=axes,
            aggregate=aggregates_named(aggregate or ()), multiple=multiple, repair=repair,
            norms=norms, calibration_tokens=calibration_tokens, scores=scores,
            search=_search(search, calibration_data),
        )  # fmt: skip
        """The same as a recipe would say it."""
        self.plan = asked.plan(seed)
        aims = asked.target is not None or asked.target_params is not None
        self.target = asked.aim().saved_in(dtype) if aims else None
        self.pruned: Pruned | None = None
        self.ranking: Ranking | None = None
        """How the shapes of a search fared."""
        self.narrowed: Narrowed | None = None
        """The teacher with the student's tokens, which its distribution is renormalised to, and
        their tokenizer (`narrowed.vocabulary.tokenizer`); only where `vocabulary` is given."""
        _require_text(vocabulary, calibration_data, tokenizer)
        self._data, self._tokenizer = calibration_data, tokenizer
        self._batches: list[Batch] | None = None
        if calibration_data is not None:
            self._batches = rows_of_text(calibration_data, tokenizer, teacher, without=WITHOUT)

    def prune_and_create_student(self) -> PreTrainedModel:
        """The student. What was kept and what was proved is in `pruned` afterwards; where nothing
        but tokens goes, in `narrowed`.

        Raises:
            UsageError: The architecture is unknown, or the target cannot be met; the nearest shape
                is named.
        """
        teacher, target, batches, plan = self.teacher, self.target, self._batches, self.plan
        if self.asked.vocabulary is not None:
            self.narrowed = self._fewer_tokens(self.asked.vocabulary)
            teacher = self.narrowed.model
            if not self.asked.is_sized:
                return self._whole(self.narrowed)
            target = target and target.absolute(self.teacher, family_of(teacher))
            tokenizer = self.narrowed.vocabulary.tokenizer
            batches = rows_of_text(self._texts(), tokenizer, teacher, without=WITHOUT)
        aim = self._aim(teacher, target)
        fitted = plan.repair or plan.norms == "measured"
        if batches is None and (fitted or plan.strategy not in WITHOUT_DATA):
            _say("no calibration data: the teacher writes its own text")
            batches = own_text(self.teacher, seed=plan.seed)
        text = [batch.to(teacher.device) for batch in batches or []]
        made = make(
            teacher, text, aim, plan, scores=self.asked.scores, any_text=self._data is None,
            dtype=self.dtype, say=_say,
        )  # fmt: skip
        made = with_saving(made, None)
        self.pruned, self.ranking = made.pruned, made.ranking
        return self.pruned.model

    def _aim(self, teacher: PreTrainedModel, target: Target | None) -> Target | Sizes:
        """What is to be met; what cannot be is refused here, before anything is written or read."""
        family, plan = family_of(teacher), self.plan
        if self.asked.shape is not None:
            return explicit_shape(teacher, family, self.asked.shape.given, plan.multiple)
        if target is None:
            raise UsageError("there is no target: pass target_params=, target= or shape=")
        if target.budget != "latency":
            meet(target, teacher, family, multiple=plan.multiple, axes=plan.axes)
        return target

    def _whole(self, fewer: Narrowed) -> PreTrainedModel:
        """All of the teacher with fewer tokens; what was proved is among their findings."""
        student, findings = copied(fewer.model, self.dtype)
        proved = (*fewer.findings, *findings, survives(student))
        self.narrowed = replace(fewer, findings=proved)
        return student

    def _fewer_tokens(self, size: HowMany) -> Narrowed:
        """The teacher with the tokens of the calibration data."""
        tokenizer: Any = self._tokenizer
        documents = [tokenizer(text)["input_ids"] for text in self._texts()]
        return narrowed(self.teacher, tokenizer, documents, size, multiple=self.plan.multiple)

    def _texts(self) -> list[str]:
        """The calibration data as text."""
        tokenizer: Any = self._tokenizer
        return [
            one if isinstance(one, str) else tokenizer.decode(real_ids(one))
            for one in self._data or ()
        ]


def _model(teacher: object) -> PreTrainedModel:
    if isinstance(teacher, PreTrainedModel):
        return teacher
    raise UsageError(
        f"teacher is {shown(teacher)}, no transformers model: pass one that is loaded, such as "
        "AutoModelForCausalLM.from_pretrained(...)"
    )


def _strategy(name: str) -> str:
    """By its name, or by the specification's."""
    known = (IMPORTANCE, *STRATEGIES)
    if name not in known:
        raise UsageError(f"pruning_strategy '{name}' is unknown{nearest(str(name), known)}")
    return "activation" if name == IMPORTANCE else name


def _asked(**values: Any) -> Asked:
    """What a recipe would say: names are known there, and values are of their types."""
    return Asked.parse({name: _plain(value) for name, value in values.items()})


def _plain(value: Any) -> Any:
    """Without NumPy's types of numbers."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _require_text(vocabulary: HowMany | None, *given: Any) -> None:
    if vocabulary is not None and any(one is None for one in given):
        raise UsageError("vocabulary keeps what a text uses: pass calibration_data= and tokenizer=")


def _require_one_aim(
    target_params: float | None,
    target: float | None,
    vocabulary: HowMany | None,
    shape: Mapping[str, int] | None,
) -> None:
    given = (target_params is not None) + (target is not None) + bool(shape)
    if given > 1 or not (given or vocabulary is not None):
        raise UsageError(
            "MinitronPruner needs either target_params=80e6, target=0.75 (with budget='latency', "
            "say) or shape={'neurons': 896}, or only vocabulary=16384: give one of them"
        )


def _search(asked: bool | Mapping[str, Any] | Search, data: object) -> object:
    """The search that was asked for, if one was."""
    if not asked and not isinstance(asked, Mapping):
        return None
    if data is None:
        raise UsageError(
            "search distils shapes for a target on text: pass target_params= and calibration_data="
        )
    return {} if isinstance(asked, bool) else asked


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
