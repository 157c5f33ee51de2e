"""A local teacher is frozen, in eval mode and out of autograd, and says what its model says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from nexus.batch import IGNORED, Batch
from nexus.errors import UsageError
from nexus.hub import save
from nexus.signals import Headed, Signal
from nexus.teachers import AnyTeacher
from nexus.teachers.local import LocalTeacher, LocalTeacherSpec

WANTED = Signal.DISTRIBUTION | Signal.FULL_VOCABULARY


def gpt2(**changes: Any) -> GPT2LMHeadModel:
    """With much dropout, so that a teacher in train mode would show."""
    drop = {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}
    sizes = {"vocab_size": 20, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**{**sizes, **drop, **changes}))


@pytest.fixture
def batch() -> Batch:
    tokens = torch.randint(20, (2, 6))
    targets = torch.randint(20, (2, 6))
    targets[0, 2] = targets[1, 5] = targets[1, 0] = IGNORED
    zeros = torch.zeros_like(tokens)
    positions = torch.arange(6).expand(2, 6)
    return Batch(tokens, targets, positions, zeros, zeros, zeros)


def logits(teacher: LocalTeacher, batch: Batch) -> torch.Tensor:
    distribution = teacher.signals(batch, WANTED).distribution
    assert isinstance(distribution, Headed)
    return distribution.head.logits(distribution.hidden)


def test_it_says_what_its_model_says_at_each_target(batch: Batch) -> None:
    """To see it fail: in teachers/local.py, `self._trunk.hidden(batch)[batch.is_target]` →
    `self._trunk.hidden(batch).roll(1, 1)[batch.is_target]`.
    """
    model = gpt2()
    ours = logits(LocalTeacher(model), batch)
    whole = model(batch.input_ids).logits
    theirs = torch.stack(
        [whole[0, t] for t in (0, 1, 3, 4, 5)] + [whole[1, t] for t in range(1, 5)]
    )
    torch.testing.assert_close(ours, theirs)


def test_nothing_of_it_is_in_autograd(batch: Batch) -> None:
    teacher = LocalTeacher(gpt2())
    with torch.enable_grad():
        assert not logits(teacher, batch).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_its_states_can_be_used_in_a_students_backward(batch: Batch) -> None:
    """Tensors of inference mode could not."""
    distribution = LocalTeacher(gpt2()).signals(batch, WANTED).distribution
    assert isinstance(distribution, Headed)
    weight = torch.ones(8, requires_grad=True)
    (distribution.hidden * weight).sum().backward()
    assert weight.grad is not None


def test_it_stays_in_eval_mode_whatever_others_do(batch: Batch) -> None:
    """To see it fail: in teachers/local.py, drop `self.model.eval()`."""
    teacher = LocalTeacher(gpt2())
    first = logits(teacher, batch)
    teacher.model.train()
    assert torch.equal(logits(teacher, batch), first)


def test_nothing_wanted_is_nothing_run(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = LocalTeacher(gpt2())
    monkeypatch.setattr(teacher.model.transformer, "forward", None)
    assert teacher.signals(batch, Signal.NONE).distribution is None


def test_what_it_does_not_provide_is_refused(batch: Batch) -> None:
    with pytest.raises(UsageError, match="ATTENTION is wanted of LocalTeacher"):
        LocalTeacher(gpt2()).signals(batch, Signal.ATTENTION)


def test_rows_beyond_the_vocabulary_are_dropped(batch: Batch) -> None:
    teacher = LocalTeacher(gpt2(), vocabulary=17)
    assert teacher.vocabulary == 17
    assert logits(teacher, batch).shape == (9, 17)


def test_a_recipe_names_it(tmp_path: Path, batch: Batch) -> None:
    """The vocabulary is that of the tokenizer beside the model, not the head's 20 rows."""
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 12}, unk_token="<unk>"))
    save(gpt2(), PreTrainedTokenizerFast(tokenizer_object=inner), tmp_path / "teacher")
    spec = TypeAdapter(AnyTeacher).validate_python({"kind": "local", "model": "teacher"})
    assert isinstance(spec, LocalTeacherSpec)
    teacher = spec.load(tmp_path)
    assert teacher.pretrained.dtype == torch.bfloat16
    assert teacher.vocabulary == 13
    assert spec.load(tmp_path, vocabulary=20).vocabulary == 20
    assert logits(teacher, batch).shape == (9, 13)
