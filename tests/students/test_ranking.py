"""The search keeps who is nearest, spends what it was given, and is the same when done again."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.data.loader import from_padded
from nexus.errors import UsageError
from nexus.pruning.families import family_of
from nexus.pruning.importance import Scores, measure
from nexus.pruning.sizes import Sizes
from nexus.students import trial
from nexus.students.ranking import FILE_NAME, Ranking, Search, rank

TINY = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tiny.py"))
SEARCH = Search(candidates=4, zero_shot_tokens=20, tokens=400, tokens_per_step=40)


@pytest.fixture(scope="module")
def teacher() -> PreTrainedModel:
    model: PreTrainedModel = TINY["make_model"](layers=3, seed=1)
    return model


@pytest.fixture(scope="module")
def text() -> list[Batch]:
    torch.manual_seed(0)
    return [from_padded(torch.randint(200, (2, 24))) for _ in range(5)]


@pytest.fixture(scope="module")
def scores(teacher: PreTrainedModel, text: list[Batch]) -> Scores:
    return measure(teacher, text[:1])


def candidates(teacher: PreTrainedModel) -> list[Sizes]:
    whole = Sizes.of(teacher.config, family_of(teacher))
    return [
        replace(whole, layers=1, neurons=8),
        whole,  # nothing is cut: it must win
        replace(whole, neurons=48),
        replace(whole, neurons=16),
    ]


def ranked(
    teacher: PreTrainedModel, text: list[Batch], scores: Scores, folder: Path, **changes: Any
) -> Ranking:
    return rank(
        teacher, scores, candidates(teacher), text, SEARCH.model_copy(update=changes),
        calibration=text[:1], folder=folder, settings={"depth": None, "repair": True},
    )  # fmt: skip


def test_half_of_the_candidates_go_on_within_the_tokens() -> None:
    search = Search(candidates=8, tokens=200_000, tokens_per_step=1_000)
    assert search.survivors == (8, 4, 2) and search.steps == (8, 16, 33)
    spent = sum(n * steps * 1_000 for n, steps in zip(search.survivors, search.steps, strict=True))
    assert 190_000 <= spent <= 200_000 and search.longest == 57_000
    assert Search(candidates=5).survivors == (5, 3, 2)


def test_the_uncut_wins_and_the_order_is_told(
    teacher: PreTrainedModel, text: list[Batch], scores: Scores, tmp_path: Path
) -> None:
    found = ranked(teacher, text, scores, tmp_path / "one")
    assert found.winner == 1
    assert [len(rung) for rung in found.divergences] == [4, 4, 2]
    assert found.tokens == (0, 40, 120)
    assert found.divergences[0][1] == pytest.approx(0, abs=1e-5)
    assert found.ranks(0)[1] == 1 and sorted(found.ranks(0).values()) == [1, 2, 3, 4]
    json.dumps(found.facts)
    assert [path.name for path in (tmp_path / "one").iterdir()] == [FILE_NAME]


def test_who_is_far_as_cut_is_never_trained_nor_kept(
    teacher: PreTrainedModel,
    text: list[Batch],
    scores: Scores,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four are compared as cut, and the nearest two are trained. To see it fail: begin to drop
    candidates at the second rung."""
    keep, most = trial.Trial.keep, 0

    def counted(self: Any) -> None:
        nonlocal most
        keep(self)
        most = max(most, len(list((tmp_path / "two").glob("candidate-*"))))

    monkeypatch.setattr(trial.Trial, "keep", counted)
    found = ranked(teacher, text, scores, tmp_path / "two", candidates=2)
    assert [len(rung) for rung in found.divergences] == [4, 2]
    as_cut = found.divergences[0]
    assert set(found.divergences[1]) == set(sorted(as_cut, key=lambda n: as_cut[n])[:2])
    assert most == 3  # two, and the one that is compared with them
    assert Search(candidates=8).shortlisted == 16


def test_it_is_the_same_again_and_after_an_interruption(
    teacher: PreTrainedModel,
    text: list[Batch],
    scores: Scores,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = ranked(teacher, text, scores, tmp_path / "whole")
    train, calls = trial.Trial.train, 0

    def breaks(self: Any, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        train(self, *arguments)

    monkeypatch.setattr(trial.Trial, "train", breaks)
    with pytest.raises(KeyboardInterrupt):
        ranked(teacher, text, scores, tmp_path / "broken")
    monkeypatch.setattr(trial.Trial, "train", train)
    assert ranked(teacher, text, scores, tmp_path / "broken") == whole
    monkeypatch.setattr(trial.Trial, "train", None)
    assert ranked(teacher, text, scores, tmp_path / "whole") == whole  # nothing is done twice


def test_another_search_begins_anew(
    teacher: PreTrainedModel, text: list[Batch], scores: Scores, tmp_path: Path
) -> None:
    one = ranked(teacher, text, scores, tmp_path / "same")
    other = ranked(teacher, text, scores, tmp_path / "same", learning_rate=5e-2)
    assert one.divergences[0] == other.divergences[0] and one.divergences != other.divergences


def test_spearman_by_hand() -> None:
    found = Ranking(
        candidates=(),
        tokens=(0, 1, 2),
        divergences=({0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}, {0: 2.0, 1: 1.0, 2: 3.0, 3: 4.0},
                     {0: 1.0, 1: 2.0}),
    )  # fmt: skip
    first, second = found.stability
    assert first == (pytest.approx(0.8), pytest.approx(1.0))  # 1 - 6·2 / (4·15)
    assert second == (pytest.approx(-1.0), pytest.approx(-1.0))
    assert found.winner == 0


def test_too_little_text_is_one_line(
    teacher: PreTrainedModel, text: list[Batch], scores: Scores, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="Give more text, about"):
        ranked(teacher, text[:1], scores, tmp_path)
    with pytest.raises(UsageError, match="greater than or equal to 2"):
        Search.parse({"candidates": 1})
