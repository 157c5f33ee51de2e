"""The benchmark of fidelity: one command, all of its parts."""

from __future__ import annotations

import json
from pathlib import Path

import fidelity
import pytest
from fidelity import Plan, compared, goals
from turns import Outcome

from nexus.batch import IGNORED


def test_one_command_measures_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "fidelity"
    assert fidelity.main(tokens=500, rounds=1, precisions=("bf16",), tiny=True, output=output)
    facts = json.loads(output.with_suffix(".json").read_text())
    (one,) = facts["precisions"].values()
    assert one["tokens"] == 16 * 31 and one["tokens_of_fewer"] == 4 * 31
    assert one["ratios"] == [one["seconds"][0] / one["floor_seconds"][0]]
    assert one["forward_kl"] > 0
    assert "| bf16 |" in capsys.readouterr().out


def test_ratios_are_of_the_same_round_and_goals_of_their_median() -> None:
    def outcome(*seconds: float, memory: float) -> Outcome:
        turns = [{"seconds": each, "processor_seconds": each} for each in seconds]
        return Outcome([], turns, {"memory_mib": memory, "tokens": 8, "forward_kl": 0.1})

    found = compared(
        {
            "floor": outcome(1.0, 2.0, 4.0, memory=1),
            "fidelity": outcome(1.2, 2.2, 8.0, memory=150),
            "fewer": outcome(1.0, 1.0, 1.0, memory=100),
        }
    )
    assert found["ratios"] == [1.2, 1.1, 2.0]
    ratio, growth = goals({"fp32": found})
    assert (ratio["value"], ratio["met"]) == (1.2, True)
    assert (growth["value"], growth["met"]) == (50.0, False)


def test_every_position_but_the_last_has_the_next_token_for_a_target(
    tmp_path: Path,
) -> None:
    fidelity.write_teacher(None, tmp_path, tiny=True)
    batches = Plan(tmp_path, 150, 1, length=32).batches(150)
    assert [len(batch.input_ids) for batch in batches] == [4, 1]
    for batch in batches:
        assert batch.targets[:, :-1].equal(batch.input_ids[:, 1:])
        assert (batch.targets[:, -1] == IGNORED).all()
    assert len({key for batch in batches for (key,) in batch.keys}) == 5
