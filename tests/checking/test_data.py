"""What is said of the data is so: each fault is put in, and found by the proof meant for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nexus.checking.data import data_proofs
from nexus.checking.seen import look
from nexus.proofs import Proof
from nexus.scene import Scene

TEXTS = [{"text": f"{number} is a number of letters {'abcdefgh'[number]}"} for number in range(8)]
OTHER = [{"text": f"nobody has seen {number}"} for number in range(4)]
LONG = [{"text": f"{number}" * 400} for number in range(2)]
CUT, PASSES = "documents are whole", "the data is not repeated too often"
REPEATED = "training documents differ from each other"
HELD_OUT = "no held-out document is trained on"


def told(scene: Scene) -> dict[str, Proof]:
    return {proof.name: proof for proof in data_proofs(scene, look(scene, 64))}


def test_sound_data_is_proved(scene_of: Callable[..., Scene]) -> None:
    proofs = told(scene_of("train.steps=1", train=TEXTS, heldout=OTHER))
    assert {proof.outcome for proof in proofs.values()} == {"proved"}
    assert not any(proof.remedy for proof in proofs.values())


@pytest.mark.parametrize(
    ("name", "outcome", "value", "train", "heldout", "changes"),
    [
        (CUT, "doubtful", 0.2, TEXTS + LONG, OTHER, ["data.over_long=truncate"]),
        (REPEATED, "doubtful", 0.5, TEXTS * 2, OTHER, []),
        (HELD_OUT, "doubtful", 0.25, TEXTS, [*OTHER[:3], TEXTS[0]], []),
        (HELD_OUT, "failed", 0.5, TEXTS, [*OTHER[:2], *TEXTS[:2]], []),
    ],
)
def test_a_fault_is_found_and_measured(
    scene_of: Callable[..., Scene], name: str, outcome: str, value: float, train: Any,
    heldout: Any, changes: list[str],
) -> None:  # fmt: skip
    proof = told(scene_of(*changes, train=train, heldout=heldout))[name]
    assert proof.outcome == outcome and proof.remedy
    assert proof.value == pytest.approx(value)


def test_passes_are_tokens_by_rows(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of("train.steps=40", train=TEXTS, heldout=OTHER)
    proof = told(scene)[PASSES]
    rows = scene.batches.summary.rows
    assert proof.value == 40 * 256 / 128 / rows and proof.outcome == "doubtful"


def test_without_held_out_data_nothing_is_said_of_it(scene_of: Callable[..., Scene]) -> None:
    assert told(scene_of("data.heldout=[]", train=TEXTS))[HELD_OUT].outcome == "skipped"
