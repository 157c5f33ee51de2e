"""What was cut is loaded as what it is; where it is not, or cannot be tried, that is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from nexus.errors import NexusError
from nexus.pruning import saved
from nexus.pruning.saved import reread, said, survives


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "bert", "qwen3_moe"])
def test_every_architecture_survives_and_nothing_is_left(
    small: Callable[..., PreTrainedModel], kind: str, tmp_path: Path
) -> None:
    model = small(kind)
    before = said(model)
    proof = survives(model, tmp_path / "new")
    assert (proof.outcome, proof.value, proof.limit) == ("proved", 0.0, 0.0)
    assert not list((tmp_path / "new").iterdir())
    assert torch.equal(said(model), before)


def test_what_is_lost_on_the_way_is_an_error(
    small: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    """A buffer that is not saved: in memory it says one thing, loaded another."""
    model = small("llama")
    model.model.rotary_emb.inv_freq *= 2
    with pytest.raises(NexusError, match="saved and loaded it gives the same logits: they differ"):
        survives(model, tmp_path)
    told = said(model)
    model.save_pretrained(tmp_path / "kept")
    with pytest.raises(NexusError, match="they differ"):
        reread(told, tmp_path / "kept", model.device)


def test_without_room_it_is_not_tried_and_that_is_said(
    small: Callable[..., PreTrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, "_free", lambda folder: 10)
    proof = survives(small("llama"), tmp_path)
    assert proof.outcome == "skipped" and f"the disk of {tmp_path} has" in proof.detail
    monkeypatch.setattr(saved, "available_bytes", lambda device: 10)
    assert "memory has" in survives(small("llama")).detail
