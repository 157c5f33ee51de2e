"""Tasks of lm-evaluation-harness by name, put by that library itself to a model in memory."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
from pydantic import Field, PrivateAttr, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.errors import UsageError
from nexus.evaluation.tasks.task import Item, Scored, TaskSpec, sample
from nexus.spec import shown

_SEED = 1234
_ITEMS_AT_A_TIME = 64
"""After so many their scores are kept."""

_REACH_SECONDS = 4.0
_INVALID = "[invalid]"
"""What the library's filters say where they find nothing of the form they look for."""


class LmEval(TaskSpec):
    """A task or group of lm-evaluation-harness (`pip install 'nexus-distillation[eval]'`).

    Its `name` is the library's. The score of each item is the library's own, by its own metrics. A
    task of one's own is found in `include_path`, and works offline if its data are local files.
    Tasks that run code which a model wrote are refused.
    """

    kind: Literal["lm_eval"] = "lm_eval"
    include_path: str | None = None
    """A folder with tasks in YAML, which go before the library's own. Their Python code runs."""
    metric: str | None = None
    """What comparisons are about: one that the task has and of which more is better. Else the first
    of `acc`, `exact_match` and all others that it has."""
    shots: int | None = Field(default=None, ge=0)
    """So many examples before each question. Else what the task says."""
    chat: bool = False
    """Ask through the tokenizer's chat template, as the library does."""
    batch_size: int = Field(default=8, ge=1)
    _place: str = PrivateAttr(default="")
    _metric: str = PrivateAttr(default="acc")
    """Known once the items are."""

    @model_validator(mode="after")
    def _is_named(self) -> LmEval:
        if not self.name:
            raise ValueError("lm_eval needs the 'name' of a task of lm-evaluation-harness")
        return self

    @property
    def headline(self) -> str:
        return self.metric or self._metric

    @property
    def wording(self) -> Mapping[str, Any]:
        # Which examples stand before a question depends on how many are asked before it.
        return {
            "lm_eval": _installed(),
            "name": self.name,
            "shots": self.shots,
            "chat": self.chat,
            "limit": self.limit if self.shots != 0 else None,
        }

    def items(self, folder: Path) -> Sequence[Item]:
        found = [
            _item(name, number, task, doc)
            for name, task in self._tasks(folder).items()
            for number, doc in enumerate(task.eval_docs)
        ]
        if not found:
            raise UsageError(f"task '{self.name}' of lm-eval has no items: check its data.")
        return sample(found, self.limit)

    def chance(self, items: Sequence[Item]) -> float:
        if not self.headline.startswith("acc"):
            return 0.0
        return float(
            np.mean([1 / len(one.answers) if len(one.answers) > 1 else 0 for one in items])
        )

    def score(
        self, items: Sequence[Item], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Iterator[Mapping[str, Scored]]:
        if self.chat and not tokenizer.chat_template:
            raise UsageError(
                f"task '{self.name}' has chat: true, but the tokenizer '{tokenizer.name_or_path}' "
                "has no chat template. Set chat: false."
            )
        tasks = _loaded(self.name, self._place, self.shots)
        with _silent():
            lm = import_module("lm_eval.models.huggingface").HFLM(
                pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=self.batch_size
            )
        drawn = any(task.config.num_fewshot for task in tasks.values())
        size = len(items) if drawn else _ITEMS_AT_A_TIME
        for start in range(0, len(items), size):
            yield self._scored([one.key for one in items[start : start + size]], tasks, lm)

    def _scored(
        self, keys: Sequence[str], tasks: Mapping[str, Any], lm: Any
    ) -> Mapping[str, Scored]:
        asked: dict[str, list[int]] = {}
        for key in keys:
            name, _, number = key.rpartition("/")
            asked.setdefault(name, []).append(int(number))
        # The library takes an empty list for everything, and numbers them as they come.
        asked = {name: sorted(numbers) for name, numbers in asked.items()}
        for name in asked:
            tasks[name].set_fewshot_seed(seed=_SEED)
        with _silent():
            found = import_module("lm_eval").evaluate(
                lm=lm,
                task_dict={"tasks": {name: tasks[name] for name in asked}, "groups": {}},
                samples=asked,
                bootstrap_iters=0,
                apply_chat_template=self.chat,
            )
        said: dict[str, list[dict[str, Any]]] = {}
        for name, samples in found["samples"].items():
            for one in samples:
                said.setdefault(f"{name}/{one['doc_id']}", []).append(one)
        return {key: _one(samples, tasks[key.rpartition("/")[0]]) for key, samples in said.items()}

    def _tasks(self, folder: Path) -> dict[str, Any]:
        place = ""
        if self.include_path:
            place = str((folder / Path(self.include_path).expanduser()).resolve())
        if place and not Path(place).is_dir():
            raise UsageError(
                f"task '{self.name}': include_path '{self.include_path}' is no folder. Name one "
                "that holds the task's YAML."
            )
        self._place = place
        tasks = _loaded(self.name, place, self.shots)
        for name, task in tasks.items():
            known = sorted(one for one, better in task.higher_is_better().items() if better)
            self._metric = next((one for one in ("acc", "exact_match", *known) if one in known), "")
            if self.headline not in known:
                raise UsageError(
                    f"task '{name}' of lm-eval has no metric {shown(self.headline)} of which more "
                    f"is better: set metric to one of {', '.join(known) or 'another task'}."
                )
        return tasks


@lru_cache(maxsize=32)
def _loaded(name: str, include_path: str, shots: int | None) -> dict[str, Any]:
    """The library's tasks behind a name: one, or those of a group."""
    _installed()
    with _silent():
        library = import_module("lm_eval.tasks")
        # The library's own are thousands of files, which take a while to read.
        manager = library.TaskManager(
            include_path=include_path or None, include_defaults=not include_path
        )
        if include_path and name not in manager.all_tasks:
            manager = library.TaskManager(include_path=include_path)
        if name not in manager.all_tasks:
            close = get_close_matches(name, manager.all_tasks, n=3, cutoff=0.5)
            hint = f": did you mean {' or '.join(map(repr, close))}?" if close else "."
            raise UsageError(
                f"lm-eval has no task {shown(name)}{hint} `lm-eval ls tasks` lists all; name one, "
                "or set include_path to a folder that holds its YAML."
            )
        try:
            with _not_waiting():
                tasks: dict[str, Any] = manager.load([name])["tasks"]
        except Exception as error:  # whatever a task's own code and a data set's loader can raise
            said = " ".join(str(error).split())[:200]
            raise UsageError(
                f"task '{name}' of lm-eval cannot be loaded ({type(error).__name__}: {said}). "
                "Offline, its data must lie in the cache of datasets, or in local files that a "
                "YAML in include_path names."
            ) from None
    for each in tasks.values():
        if getattr(each, "UNSAFE_CODE", False):
            raise UsageError(
                f"task '{name}' of lm-eval runs code that a model wrote: leave it out."
            )
        if shots is not None:
            each.set_config(key="num_fewshot", value=shots)
        elif each.config.num_fewshot is None:
            each.set_config(key="num_fewshot", value=0)
    return tasks


def _item(name: str, number: int, task: Any, doc: Any) -> Item:
    target = task.doc_to_target(doc)
    answers: tuple[str, ...] = (str(target),)
    label = 0
    if task.OUTPUT_TYPE == "multiple_choice":
        answers = tuple(map(str, task.doc_to_choice(doc)))
        label = target if isinstance(target, int) else 0
    return Item(f"{name}/{number}", str(task.doc_to_text(doc)), answers, label)


def _one(samples: Sequence[Mapping[str, Any]], task: Any) -> Scored:
    """An item's scores; where a task reads one text in several ways, the first goes by the name."""
    better = task.higher_is_better()
    scores: dict[str, float] = {}
    for one in samples:
        for metric in one["metrics"]:
            value = one[metric]
            if better.get(metric) and isinstance(value, bool | int | float | np.number):
                name = metric if metric not in scores else f"{metric} ({one['filter']})"
                scores[name] = float(value)
    first = samples[0]["filtered_resps"][0]
    return Scored(scores, answered=first != _INVALID, said={"answer": shown(first)})


def _installed() -> str:
    try:
        return version("lm-eval")
    except PackageNotFoundError:
        raise UsageError(
            "tasks of kind lm_eval need lm-evaluation-harness, which is not installed. Run: "
            "pip install 'nexus-distillation[eval]'"
        ) from None


@contextmanager
def _not_waiting() -> Iterator[None]:
    """Where the hub is not to be reached, it is not tried again and again: the cache will do."""
    import huggingface_hub
    from huggingface_hub import constants

    settings = import_module("datasets").config
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_REACH_SECONDS)
        reached = not constants.HF_HUB_OFFLINE
    except Exception:  # refused, not found, too slow, or offline by setting
        reached = False
    if reached:
        yield
        return
    with (
        patch.object(constants, "HF_HUB_OFFLINE", True),
        patch.object(settings, "HF_HUB_OFFLINE", True),
    ):
        yield


@contextmanager
def _silent() -> Iterator[None]:
    """Without the library's notes and progress bars, of which there is one for every step."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
