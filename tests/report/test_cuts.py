"""How a student was cut, as the report shows it."""

from __future__ import annotations

from nexus.proofs import CutRecord, Proof
from nexus.pruning.sizes import Sizes
from nexus.report.cuts import cut_views
from nexus.results import Evaluation
from nexus.students.ranking import Ranking

SHAPES = tuple(
    Sizes(layers=layers, hidden=64, neurons=neurons, heads=4, groups=2, head_dim=16, vocabulary=99)
    for layers, neurons in ((4, 96), (3, 128), (2, 160))
)
RANKING = Ranking(
    SHAPES,
    (0, 20_000, 60_000),
    ({0: 3.0, 1: 2.0, 2: 2.5}, {0: 1.0, 1: 1.5, 2: 1.25}, {0: 0.5, 2: 0.75}),
)


def test_a_search_is_a_table_of_shapes_by_rung() -> None:
    record = CutRecord(search=RANKING.facts)
    (found,) = cut_views(Evaluation(cuts=(record,)))
    assert found.search is not None
    assert found.search.columns[0] == "KL at once"
    assert [row.shape for row in found.search.rows] == [
        "4 layers, 96 neurons", "2 layers, 160 neurons", "3 layers, 128 neurons"
    ]  # fmt: skip
    best, *_, worst = found.search.rows
    assert best.is_winner and best.values == ["3.00 (no. 3)", "1.00 (no. 1)", "0.500 (no. 1)"]
    assert worst.values[-1] == "–" and not worst.is_winner
    assert "The order of column 1 and of the next: Spearman" in found.search.note
    assert "1.00" in found.search.note  # of the last two, over the shapes that both have


def test_proofs_that_worry_stand_apart_and_the_target_is_said() -> None:
    target = {
        "budget": "latency", "unit": "ms per token", "wanted": 5.0, "taken": 5.5, "whole": 9
    }  # fmt: skip
    proofs = (
        Proof(group="pruning", name="in another order it is the same model", outcome="proved"),
        Proof(group="pruning", name="it meets the target", outcome="doubtful", remedy="Wait"),
    )
    (found,) = cut_views(Evaluation(cuts=(CutRecord(target=target, proofs=proofs),)))
    assert [row.name for row in found.urgent] == ["it meets the target"]
    assert [row.word for row in found.rest] == ["proved"]
    assert found.target == "Asked for 5.00 ms per token, which became 5.50, out of 9.00."


def test_what_was_not_recorded_is_not_shown() -> None:
    assert cut_views(Evaluation()) == []
    (found,) = cut_views(Evaluation(cuts=(CutRecord(search={"candidates": []}),)))
    assert (found.target, found.search, found.rest) == ("", None, [])
