from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from nexus.batch import IGNORED, PADDING, Batch
from nexus.errors import NexusError
from nexus.evaluation.rollouts import _Drawn, rollouts
from nexus.kernels.lm_head import Trunk, split_head
from nexus.teachers.local import LocalTeacher

WORDS = Tokenizer(WordLevel({f"<{number}>": number for number in range(95)}, unk_token="<94>"))
END = PreTrainedTokenizerFast(tokenizer_object=WORDS, eos_token="<7>", unk_token="<94>")


def text(rows: int = 5, length: int = 20) -> Batch:
    ids = torch.randint(1, 90, (rows, length), generator=torch.Generator().manual_seed(0))
    targets = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=IGNORED)
    zeros = torch.zeros_like(ids)
    keys = tuple((f"document {row}",) for row in range(rows))
    return Batch(ids, targets, torch.arange(length).expand_as(ids), zeros, zeros, zeros, keys=keys)


@pytest.fixture
def models(tiny_model: Any) -> tuple[Trunk, LocalTeacher]:
    made = [tiny_model(layers=1, seed=seed, tied=False) for seed in (1, 2)]
    for model in made:
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(20)
    return split_head(made[0], 95), LocalTeacher(made[1], 95)


def test_the_same_seed_writes_the_same_whatever_is_beside(models: Any) -> None:
    student, teacher = models
    student.model.train()
    state = torch.get_rng_state()
    sizes = {"prompt_tokens": 6, "new_tokens": 9}
    whole = rollouts(student, teacher, END, [text()], **sizes)
    assert torch.equal(torch.get_rng_state(), state)
    assert student.model.training
    few = rollouts(student, teacher, END, [text()], documents=2, **sizes)
    for name in ("tokens", "student_nll", "forward_kl"):
        kept = whole.own.only(few.own.documents["key"]).documents[name]
        assert few.own.documents[name] == pytest.approx(kept, rel=1e-4), name
    other = rollouts(student, teacher, END, [text()], seed=1, **sizes)
    assert not np.allclose(other.own.documents["student_nll"], whole.own.documents["student_nll"])


def test_results_are_paired_and_of_as_many_tokens_as_written(models: Any) -> None:
    found = rollouts(*models, END, [text()], prompt_tokens=6, new_tokens=9)
    assert list(found.own.documents["key"]) == list(found.text.documents["key"])
    assert found.text.tokens == 5 * 9
    assert 5 <= found.own.tokens <= 5 * 9
    said = found.results()
    assert said.trained.forward_kl is not None
    expected = said.trained.forward_kl.value - (
        found.text.documents["forward_kl"].sum() / found.text.tokens
    )
    assert said.exposure_gap["forward_kl"].value == pytest.approx(expected)
    assert said.documents == said.exposure_gap["nll"].n == 5


def test_a_student_is_likelier_to_write_what_it_writes(models: Any) -> None:
    """On its own text the loss is its entropy, on average; on random text far more."""
    found = rollouts(*models, END, [text()], prompt_tokens=6, new_tokens=14)
    own = found.results()
    assert own.trained.entropy is not None
    assert own.trained.nll.value == pytest.approx(own.trained.entropy.value, abs=0.6)
    assert own.exposure_gap["nll"].value < -0.5


def test_tokens_are_drawn_from_the_softmax_and_none_is_padding() -> None:
    keys = [str(number) for number in range(4000)]
    scores = torch.tensor([0.5, 0.3, 0.2, 1e9]).log().expand(4000, -1)
    drawn = _Drawn(keys, 3, 0)(torch.zeros(4000, 1).long(), scores).argmax(-1)
    counts = Counter(drawn.tolist())
    for token, share in enumerate((0.5, 0.3, 0.2)):
        assert counts[token] / 4000 == pytest.approx(share, abs=0.03)
    assert counts[3] == 0


def test_documents_without_a_continuation_are_an_error(models: Any) -> None:
    with pytest.raises(NexusError, match="more than 20 tokens"):
        rollouts(*models, END, [text()], prompt_tokens=20)


def test_padding_is_no_document(models: Any) -> None:
    batch = text()
    batch.documents[:, 15:] = PADDING
    found = rollouts(*models, END, [batch], prompt_tokens=6, new_tokens=14)
    assert found.text.tokens == 5 * 9
