from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from nexus.evaluation import speed as module
from nexus.evaluation.speed import speed


def test_both_are_timed_in_turns_within_the_budget(tiny_model: Any) -> None:
    teacher, student = tiny_model(layers=2), tiny_model(layers=1)
    student.train()
    start = time.perf_counter()
    found = speed(teacher, student, prompt_tokens=16, new_tokens=4, seconds=3.0)
    assert time.perf_counter() - start < 15
    assert found.student.decode.n == found.teacher.prefill.n == found.speedup["decode"].n > 1
    assert student.training
    for estimate in (found.student.decode, found.teacher.prefill, found.speedup["prefill"]):
        assert estimate.low is not None and estimate.high is not None
        assert 0 < estimate.low <= estimate.value <= estimate.high
    assert found.student.dtype == "float32"
    assert found.threads == torch.get_num_threads()
    assert (found.prompt_tokens, found.new_tokens, found.batch) == (16, 4, 1)


def test_one_round_always_completes(tiny_model: Any) -> None:
    model = tiny_model()
    found = speed(model, model, prompt_tokens=8, new_tokens=2, seconds=0.0)
    assert found.student.decode.n == 1
    assert found.student.decode.low is None


def test_a_slower_model_is_measured_as_slower(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is replaced by one that ticks once a layer and call, so the ratio is exact."""
    clock = 0.0

    def tick(model: torch.nn.Module, *_: Any) -> None:
        nonlocal clock
        clock += len(model.model.layers)

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock)
    teacher, student = tiny_model(layers=4), tiny_model(layers=1)
    for model in (teacher, student):
        model.register_forward_hook(tick)
    found = speed(teacher, student, prompt_tokens=12, new_tokens=3, seconds=100.0, batch_sizes=[1])
    assert found.speedup["decode"].value == found.speedup["prefill"].value == 4
    assert found.teacher.prefill.value == 12 / 4
    assert found.student.decode.value == 3 / (3 * 1)


def test_a_frozen_teacher_is_timed_as_one_that_was_just_loaded(tiny_model: Any) -> None:
    """PyTorch reads prompts of several rows more slowly with a frozen head.

    To see it fail: in speed.speed, leave thawed out.
    """
    teacher, student = tiny_model(layers=1).requires_grad_(False), tiny_model(layers=1)
    seen: dict[str, set[bool]] = {}
    for name, model in (("teacher", teacher), ("student", student)):
        model.register_forward_hook(
            lambda module, *_, name=name: seen.setdefault(name, set()).update(
                parameter.requires_grad for parameter in module.parameters()
            )
        )
    speed(teacher, student, prompt_tokens=8, new_tokens=2, seconds=0.0, batch_sizes=[1, 2])
    assert seen == {"teacher": {True}, "student": {True}}
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_slow_machine_writes_less_a_round(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call takes a second: of 60 for three rounds, 2 are for reading and 18 for writing."""
    clock = 0.0

    def tick(*_: Any) -> None:
        nonlocal clock
        clock += 1.0

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock)
    teacher, student = tiny_model(), tiny_model()
    for model in (teacher, student):
        model.register_forward_hook(tick)
    found = speed(teacher, student, prompt_tokens=12, new_tokens=32, seconds=60.0, batch_sizes=[1])
    assert found.new_tokens == 9
    assert found.student.decode.n == 3
    assert found.seconds == 60.0


def test_decoding_reads_one_token_at_a_time_from_the_cache(tiny_model: Any) -> None:
    model, seen = tiny_model(), []

    def watch(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        cache = arguments.get("past_key_values")
        held = cache.get_seq_length() if isinstance(cache, DynamicCache) else 0
        seen.append((arguments["input_ids"].shape[1], held))

    model.register_forward_pre_hook(watch, with_kwargs=True)
    speed(model, model, prompt_tokens=10, new_tokens=3, seconds=0.0)
    assert seen[-4:] == [(10, 0), (1, 10), (1, 11), (1, 12)]


def test_a_short_context_shrinks_prompt_and_continuation(tiny_model: Any) -> None:
    short = tiny_model(context=32)
    found = speed(tiny_model(), short, prompt_tokens=56, new_tokens=8, seconds=0.0)
    assert (found.prompt_tokens, found.new_tokens) == (28, 4)


def test_all_batch_sizes_share_the_time_and_rates_count_the_whole_batch(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of the teacher takes a second and one of the student half of it, whatever it reads."""
    clock = 0.0

    def tick(model: torch.nn.Module, *_: Any) -> None:
        nonlocal clock
        clock += len(model.model.layers) / 2

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock)
    teacher, student = tiny_model(layers=2), tiny_model(layers=1)
    for model in (teacher, student):
        model.register_forward_hook(tick)
    found = speed(
        teacher, student, prompt_tokens=12, new_tokens=3, seconds=72.0, batch_sizes=[1, 4, 8]
    )
    assert (found.batch, found.left_out) == (1, ())
    assert [each.batch for each in found.batches] == [4, 8]
    assert found.student.decode.n == 4  # rounds of six seconds in a third of the time
    assert found.seconds <= 72
    for each in (found, *found.batches):
        assert each.student.first_token is not None and each.teacher.first_token is not None
        assert (each.teacher.first_token.value, each.teacher.first_token.unit) == (1.0, "s")
        assert each.student.first_token.value == 0.5
        assert each.teacher.prefill.value == each.batch * each.prompt_tokens
        assert each.student.decode.value == each.batch * 2
        assert each.speedup["decode"].value == 2


def test_a_batch_that_does_not_fit_into_its_time_is_left_out_and_named(tiny_model: Any) -> None:
    model = tiny_model()
    found = speed(model, model, prompt_tokens=8, new_tokens=2, seconds=0.0)
    assert found.batches == ()
    assert [reason[:14] for reason in found.left_out] == ["batch size 8: ", "batch size 32:"]
    assert all("and there were 0.0 s" in reason for reason in found.left_out)


def test_a_batch_that_does_not_fit_into_memory_is_left_out_and_named(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    monkeypatch.setattr(module, "available_bytes", lambda _: 50_000)
    arguments: dict[str, Any] = {"prompt_tokens": 8, "new_tokens": 2, "seconds": 5.0}
    found = speed(model, model, **arguments, batch_sizes=[1, 2, 32])
    assert [each.batch for each in found.batches] == [2]
    assert found.left_out == ("batch size 32: its cache needs 0.0 GiB, and 0.0 GiB are free",)


def test_want_of_memory_while_it_runs_is_no_failure(tiny_model: Any) -> None:
    model = tiny_model()

    def refuse(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        if len(arguments["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    found = speed(model, model, prompt_tokens=8, new_tokens=2, seconds=3.0, batch_sizes=[1, 2, 4])
    assert [each.batch for each in found.batches] == [2]
    assert found.left_out == ("batch size 4: it does not fit into memory",)
