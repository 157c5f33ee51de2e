"""What a run loads before its first step."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from nexus import scene
from nexus.scene import warn_of_bf16
from nexus.training.settings import TrainSpec


@pytest.mark.parametrize(
    ("precision", "parameters", "slower", "warned"),
    [
        ("bf16", 80e6, 40.0, True),
        ("pure_bf16", 80e6, 40.0, True),
        ("fp32", 80e6, 40.0, False),
        ("bf16", 80e6, 0.3, False),
        ("bf16", 1e5, 40.0, False),
    ],
)
def test_who_trains_in_bf16_where_it_is_slow_is_told(
    monkeypatch: pytest.MonkeyPatch,
    precision: Literal["bf16", "fp32", "pure_bf16"],
    parameters: float,
    slower: float,
    warned: bool,
) -> None:
    """To see it fail: in scene.warn_of_bf16, say nothing."""
    monkeypatch.setattr(scene, "bf16_over_fp32", lambda device: slower)
    trains = [TrainSpec(steps=1, precision="fp32"), TrainSpec(steps=1, precision=precision)]
    said: list[str] = []
    warn_of_bf16(trains, int(parameters), torch.device("cpu"), said.append)
    assert bool(said) == warned
    assert not said or ("40.0 times" in said[0] and "train.precision: fp32" in said[0])
