"""Scores as a file: measured once; another model's, other text's or another strategy's refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from nexus.data.loader import from_padded
from nexus.errors import UsageError
from nexus.pruning import scored as module
from nexus.pruning.scored import scored

Small = Callable[..., PreTrainedModel]


def test_they_are_measured_once(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = small(), [from_padded(torch.randint(40, (2, 9)))]
    path = tmp_path / "deeper" / "scores.safetensors"
    said: list[str] = []
    first = scored(model, text, path, say=said.append)
    monkeypatch.setattr(module, "measure", None)
    assert scored(model, text, path, say=said.append).digest == first.digest
    assert scored(model, [], path).digest == first.digest
    assert "measuring" in said[0] and "as in" in said[1]
    assert [one.name for one in path.parent.iterdir()] == ["scores.safetensors"]


def test_of_anything_else_they_are_refused_in_one_line(small: Small, tmp_path: Path) -> None:
    model, path = small(), tmp_path / "scores"
    text, other = ([from_padded(torch.randint(40, (2, 9)))] for _ in range(2))
    scored(model, text, path)
    cases: list[tuple[PreTrainedModel, list, dict, str]] = [  # type: ignore[type-arg]
        (small(intermediate_size=20), text, {}, "other weights"),
        (model, other, {}, "other data"),
        (model, text, {"strategy": "weighted"}, "strategy 'activation', not 'weighted'"),
        (model, text, {"aggregate": ("l2", "l2")}, "aggregate 'mean l2', not 'l2 l2'"),
    ]
    for one, looked_at, settings, said in cases:
        with pytest.raises(UsageError) as caught:
            scored(one, looked_at, path, **settings)
        assert said in str(caught.value) and "\n" not in str(caught.value)
        found = scored(one, looked_at, path, anew=True, **settings)
        assert found.digest == scored(one, looked_at, None, **settings).digest
        path.unlink()
        scored(model, text, path)


def test_a_directory_is_no_file_of_scores(small: Small, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory: name the file that importance is kept"):
        scored(small(), [], tmp_path, strategy="magnitude")


def test_another_draw_is_another_file(small: Small, tmp_path: Path) -> None:
    model, path = small(), tmp_path / "scores"
    first = scored(model, [], path, strategy="random", seed=1)
    assert scored(model, [], path, strategy="random", seed=1).digest == first.digest
    with pytest.raises(UsageError, match="with seed '1', not '2'"):
        scored(model, [], path, strategy="random", seed=2)
    path.unlink()
    scored(model, [], path, strategy="magnitude")
    scored(model, [], path, strategy="magnitude", seed=2)
