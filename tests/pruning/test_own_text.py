"""Text that a model writes itself: seeded, bounded, and padding is none of it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from nexus.batch import PADDING
from nexus.errors import UsageError
from nexus.pruning.own_text import own_text

TINY = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tiny.py"))
END = 258


def model() -> PreTrainedModel:
    made: PreTrainedModel = TINY["make_model"](layers=1, seed=1)
    return made


def test_it_is_that_of_its_seed() -> None:
    one, same, other = (own_text(model(), 300, 24, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0].input_ids[:, :5], other[0].input_ids[:, :5])


def test_other_randomness_goes_on_as_if_nothing_had_been_written() -> None:
    writer = model()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    own_text(writer, 100, 24)
    assert torch.equal(torch.rand(1), expected)


def test_documents_begin_with_the_token_that_begins_and_end_with_the_one_that_ends() -> None:
    for batch in own_text(model(), 600, 24):
        real = batch.documents != PADDING
        assert bool((batch.input_ids[:, 0] == END).all())  # it has no other to begin with
        lengths = real.sum(1)
        assert torch.equal(real, torch.arange(real.shape[1]) < lengths[:, None])
        for row, length in zip(batch.input_ids, lengths.tolist(), strict=True):
            assert END not in row[1 : length - 1]
            assert length == real.shape[1] or row[length - 1] == END


def test_it_is_as_much_as_asked_for_and_no_endless_writing() -> None:
    counts = [int((batch.documents != PADDING).sum()) for batch in own_text(model(), 600, 24)]
    assert sum(counts) >= 600 > sum(counts[:-1])
    silent = model()
    with torch.no_grad():
        silent.lm_head.weight.zero_()
        silent.lm_head.bias = torch.nn.Parameter(torch.where(torch.arange(259) == END, 50.0, 0.0))
    assert len(own_text(silent, 600, 24)) == 4 * 2  # documents of two tokens, and then no more


def test_a_model_with_nothing_to_begin_with_says_what_to_pass() -> None:
    mute: Any = model()
    for config in (mute.config, mute.generation_config):
        config.bos_token_id = config.eos_token_id = None
    with pytest.raises(UsageError, match="calibration_data="):
        own_text(mute, 100, 24)
