"""Text is for importance first and for the search then; a decision is that of one way of asking."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import torch

from nexus.data.loader import from_padded
from nexus.pruning.budget import Budget
from nexus.pruning.families import family_of
from nexus.pruning.layer_choice import LayerChoice
from nexus.pruning.search import AXES
from nexus.pruning.target import Target
from nexus.students.cutting import Decision, Plan, apart, make
from nexus.students.ranking import Search

TINY = runpy.run_path(str(Path(__file__).parents[1] / "pruning" / "test_slice.py"))["tiny"]


def test_the_first_tokens_are_for_importance() -> None:
    text = [from_padded(torch.zeros(1, 10, dtype=torch.long)) for _ in range(5)]
    first, rest = apart(text, 25)
    assert (len(first), len(rest)) == (3, 2)
    assert apart(text, 1_000) == (text, [])


def test_candidates_meet_the_target_with_the_layers_that_they_keep() -> None:
    """Layers of two kinds. To see it fail: in cutting._exact, return what was guessed."""
    settings = {"num_hidden_layers": 6, "mlp_only_layers": [0, 1], "intermediate_size": 96}
    model = TINY("qwen3_moe", **settings)
    text = [from_padded(torch.randint(60, (2, 24))) for _ in range(4)]
    search = Search(candidates=3, zero_shot_tokens=20, tokens=60, tokens_per_step=20)
    plan = Plan("activation", ("mean", "l2"), None, AXES, 4, False, search, 0, tokens=40)
    made = make(model, text, Target(0.5), plan)
    assert made.ranking is not None and made.pruned.met is not None
    count = Budget(model, family_of(model), "parameters")
    choice = LayerChoice(model, text[:1], made.pruned.scores)
    for sizes in made.ranking.candidates:
        there = count(sizes, choice(sizes.layers))
        assert abs(there / made.pruned.met.wanted - 1) <= 0.02
    winner = made.ranking.candidates[made.ranking.winner]
    assert made.pruned.sizes == winner and made.pruned.met.sizes == winner


def test_a_decision_holds_for_what_was_asked(tmp_path: Path) -> None:
    one = Decision.of(tmp_path, {"target": 0.5})
    assert one.sizes is None
    sizes = {"layers": 1, "hidden": 8, "neurons": 8, "heads": 2, "groups": 1, "head_dim": 4}
    record = {"key": one.key, "after": sizes | {"vocabulary": 9}}
    one.path.write_text(json.dumps(record))
    found = one.sizes
    assert found is not None and found == replace(found, layers=1, vocabulary=9)
    assert Decision.of(tmp_path, {"target": 0.6}).sizes is None
