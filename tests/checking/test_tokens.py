"""Where teacher, student and tokenizer disagree about tokens, it is said who and how."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nexus.checking.seen import Seen, look
from nexus.checking.tokens import ends_of, token_proofs
from nexus.proofs import Proof
from nexus.scene import Scene

TINY = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tiny.py"))
ENDS = "what ends a text ends it for both models"
TRAINED = "the token that ends a text is trained"
TEMPLATE = "conversations are written the same way for both"
UNKNOWN = "the tokenizer has tokens for all of the text"


def told(scene: Scene, seen: Seen) -> dict[str, Proof]:
    return {proof.name: proof for proof in token_proofs(scene, seen)}


def test_a_sound_pair_is_proved(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    proofs = told(scene, look(scene, 8))
    assert {proof.outcome for proof in proofs.values()} == {"proved"}
    assert "259 tokens" in proofs["each head has a row for every token"].detail


def test_what_differs_is_named(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    seen = look(scene, 8)
    end = scene.tokenizer.eos_token_id
    scene.student.config.eos_token_id = end + 1
    assert scene.student.generation_config is not None
    scene.student.generation_config.eos_token_id = None
    proofs = told(scene, replace(seen, ended=0))
    assert proofs[ENDS].outcome == proofs[TRAINED].outcome == "doubtful"
    assert f"the student stops at [{end + 1}]" in proofs[ENDS].detail and proofs[ENDS].remedy
    scene.tokenizer.chat_template = "another {{ messages }}"
    assert told(scene, seen)[TEMPLATE].outcome == "doubtful"
    scene.tokenizer.chat_template = None
    assert told(scene, seen)[TEMPLATE].outcome == "skipped"


@pytest.mark.parametrize(
    ("unknown", "outcome"), [(0, "proved"), (1, "proved"), (20, "doubtful"), (100, "failed")]
)
def test_a_share_of_unknown_tokens(
    scene_of: Callable[..., Scene], unknown: int, outcome: str
) -> None:
    scene = scene_of()
    scene.tokenizer.unk_token = "<|pad|>"
    proof = told(scene, Seen(tokens=1000, unknown=unknown, lengths=[1], ended=1))[UNKNOWN]
    assert proof.outcome == outcome and proof.value == unknown / 1000


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [(1, 1, {1}), ([1, 2], 3, {1, 2, 3}), (None, 0, {0}), (None, None, set())],
)
def test_ends_are_those_of_any_configuration(generation: Any, config: Any, ends: set[int]) -> None:
    model = TINY["make_model"](layers=1, seed=0)
    model.generation_config.eos_token_id, model.config.eos_token_id = generation, config
    assert ends_of(model) == ends
