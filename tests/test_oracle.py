"""The oracle benchmark, shortened: orderings that a wrong loss would upset."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

STEPS = 1200


@pytest.fixture(scope="module")
def oracle() -> Iterator[ModuleType]:
    folder = str(Path(__file__).parent.parent / "benchmarks")
    sys.path.insert(0, folder)
    import oracle

    yield oracle
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def results(oracle: ModuleType) -> dict[str, Any]:
    names = {
        "forward KL",
        "forward KL on 20 sampled ids",
        "cross-entropy only",
        "top 12 with tail",
        "top 12 with tail, alpha = 0.3",
        "top 12, others zero",
    }
    arms = [arm for arm in oracle.ARMS if arm.name in names]
    assert len(arms) == len(names)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {arm.name: oracle.train(arm, seed=0, steps=STEPS) for arm in arms}
    torch.set_num_threads(threads)
    return found


def test_the_language_is_that_of_the_published_table(oracle: ModuleType) -> None:
    log_p = oracle.language(0)
    assert log_p.exp().sum(-1).sub(1).abs().max() < 1e-5
    assert 2.9 < -(log_p.exp() * log_p).sum(-1).mean().item() < 3.4
    assert 0.65 < log_p.exp().topk(12, dim=-1).values.sum(-1).mean().item() < 0.78


def test_the_teacher_halves_the_distance_that_its_tokens_alone_leave(results: Any) -> None:
    assert results["forward KL"].kl < 0.7 * results["cross-entropy only"].kl


def test_sampled_ids_are_nearer_to_all_than_to_none(results: Any) -> None:
    every, none = results["forward KL"].kl, results["cross-entropy only"].kl
    assert results["forward KL on 20 sampled ids"].kl - every < 0.5 * (none - every)


def test_the_most_likely_ids_as_if_there_were_no_others_mislead(results: Any) -> None:
    zero = results["top 12, others zero"]
    assert zero.kept_mass > 0.99
    assert zero.overconfidence > 0.05
    assert zero.kl > 10 * results["cross-entropy only"].kl


def test_the_bucket_keeps_the_mass_right_and_the_task_fills_it(results: Any) -> None:
    tail, both = results["top 12 with tail"], results["top 12 with tail, alpha = 0.3"]
    assert tail.kept_mass == pytest.approx(0.71, abs=0.03)
    assert abs(tail.overconfidence) < 0.02
    assert both.kl < 0.5 * tail.kl < results["top 12, others zero"].kl
