"""Latency: the fit finds what makes a model slow, and a shape takes the time that was asked for."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from nexus.errors import UsageError
from nexus.pruning.budget import Budget
from nexus.pruning.families import family_of
from nexus.pruning.latency import TOLERANCE, Latency, seconds_a_token
from nexus.pruning.sizes import Sizes
from nexus.pruning.target import Target, meet

TINY = runpy.run_path(str(Path(__file__).with_name("test_slice.py")))["tiny"]


def machine(model: PreTrainedModel) -> float:
    """One on which a token takes 1 ms, 0.5 ms a layer and 1 ns a weight that is read."""
    family = family_of(model)
    sizes = Sizes.of(model.config, family)
    return 1e-3 + 5e-4 * sizes.layers + 5e-10 * Budget(model, family, "flops")(sizes)


def test_the_law_of_a_machine_is_found_from_a_few_shapes() -> None:
    model = TINY("llama")
    family = family_of(model)
    before = Sizes.of(model.config, family)
    latency = Latency(model, family, multiple=2, stopwatch=machine)
    assert latency.own == pytest.approx(1e3 * machine(model))
    assert latency(before) == pytest.approx(latency.own, rel=1e-4)
    flops = Budget(model, family, "flops")
    for sizes in (replace(before, layers=2, neurons=20), replace(before, hidden=36)):
        assert latency(sizes) == pytest.approx(
            1 + 0.5 * sizes.layers + 5e-7 * flops(sizes), rel=1e-3
        )


@pytest.mark.parametrize("amount", [0.8, 2.0])
def test_a_share_or_milliseconds_are_met_as_measured(
    amount: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexus.pruning.latency.seconds_a_token", machine)
    model = TINY("llama")
    met = meet(Target(amount, "latency"), model, family_of(model), multiple=2)
    wanted = amount * 1e3 * machine(model) if amount <= 1 else amount
    assert met.wanted == pytest.approx(wanted) and met.whole == pytest.approx(1e3 * machine(model))
    assert met.taken == pytest.approx(wanted, rel=TOLERANCE)
    flops = Budget(model, family_of(model), "flops")(met.sizes)
    assert met.taken == pytest.approx(1 + 0.5 * met.sizes.layers + 5e-7 * flops)


def test_a_clock_that_disagrees_with_the_fit_corrects_it() -> None:
    model = TINY("llama")
    family = family_of(model)
    before = Sizes.of(model.config, family)
    odd = replace(before, layers=2, hidden=36)

    def clock(one: PreTrainedModel) -> float:
        return machine(one) * (1.4 if Sizes.of(one.config, family) == odd else 1.0)

    latency = Latency(model, family, multiple=2, stopwatch=clock)
    measured = latency.measure(odd)
    assert latency(odd) == pytest.approx(measured)


def test_a_real_clock_gives_seconds_and_an_encoder_has_none() -> None:
    assert 0 < seconds_a_token(TINY("llama")) < 10
    model = TINY("bert")
    with pytest.raises(UsageError, match="writes no text. Choose the budget parameters"):
        Latency(model, family_of(model))


def test_axes_of_which_nothing_can_go_are_said() -> None:
    model = TINY("llama")
    with pytest.raises(UsageError, match="could be timed: no axis among neurons"):
        Latency(model, family_of(model), multiple=4096, axes=("neurons",))
