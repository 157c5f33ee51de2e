"""What goes wrong in distillation without a word. Each test says which line to break to see it.

Everything is measured from rows to the loss and its gradient, on a model of a few thousand weights,
against the same model's logits for one document alone.
"""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nexus.batch import IGNORED, Batch
from nexus.data.chat import Encoder, Example
from nexus.data.faults import Faults
from nexus.data.ingest import Ingest
from nexus.data.loader import collate, from_padded
from nexus.data.packing import OverLong, pack
from nexus.data.sources import InMemory, Row
from nexus.errors import UsageError
from nexus.objectives.task import Task
from nexus.objectives.weighted_sum import WeightedSum
from nexus.signals import Signals
from nexus.training.module import DistillationModule

TINY = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tiny.py"))
MODEL = TINY["make_model"](layers=1, seed=3)
TOKENIZER: PreTrainedTokenizerFast = TINY["make_tokenizer"]()
VOCABULARY = 259
MODULE = DistillationModule(MODEL, WeightedSum((Task(weight=1.0),)), VOCABULARY, packed=True)
LENGTH = 64


def _examples(*rows: dict[str, Any]) -> list[Example]:
    given = [Row(columns, f"f:{number}") for number, columns in enumerate(rows)]
    return list(Encoder(TOKENIZER).examples(given, "", Faults()))


def _loss(batch: Batch) -> Tensor:
    """Summed over the targets."""
    return MODULE(batch, Signals(), (1.0,)).total


def _by_hand(example: Example) -> Tensor:
    """-log q of every target of a document, from plain logits of the document alone."""
    ids = torch.from_numpy(example.ids.astype(np.int64))
    log_q = MODEL(ids[None]).logits[0].log_softmax(-1)
    predicted = [at for at in range(1, len(ids)) if example.is_target[at]]
    return -torch.stack([log_q[at - 1, ids[at]] for at in predicted]).sum()


def _batch(rows: Sequence[Sequence[Example]], length: int = LENGTH) -> Batch:
    return collate(rows, length, 0, ("",))


ANSWERED = {"prompt": "2+2=", "completion": "4!"}


def test_the_first_answer_token_is_learnt_and_nothing_behind_the_end() -> None:
    """Which token each position is to predict, by hand: not shifted, or twice, is another token.

    Break: `collate`, `targets[row, start : stop - 1] = …[1:]`, by taking `example.ids[:-1]`.
    """
    (example,) = _examples(ANSWERED)
    logits = torch.zeros(1, LENGTH, VOCABULARY, requires_grad=True)
    batch = _batch([[example]])
    where = batch.is_target
    losses = torch.nn.functional.cross_entropy(logits[where], batch.targets[where])
    losses.backward()
    assert logits.grad is not None
    learning = logits.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    equals, four, bang = (len("2+2=") + n for n in (-1, 0, 1))
    assert learning == [equals, four, bang]
    wanted = [int(logits.grad[0, at].argmin()) for at in learning]
    assert TOKENIZER.decode(wanted) == "4!<|im_end|>"
    assert _loss(batch).item() == pytest.approx(_by_hand(example).item(), rel=1e-5)


_answers = st.lists(
    st.tuples(st.text("ab 12", max_size=20), st.text("xyz", min_size=1, max_size=8)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25)
@given(pairs=_answers, extra=st.integers(0, 9), seed=st.randoms(use_true_random=False))
def test_the_loss_does_not_depend_on_the_company(pairs: Any, extra: int, seed: Any) -> None:
    """Prompts of different length, padding, order, packing: each answer counts whole, and once.

    Break: `collate`, `start = stop`, by leaving out a token; or the padding's `IGNORED`; or cut all
    rows of a batch at the longest prompt.
    """
    examples = _examples(*({"prompt": p, "completion": c} for p, c in pairs))
    expected = sum(_by_hand(example).item() for example in examples)
    # Without a prompt there is nothing to predict the first token from.
    targets = sum(len(completion) + bool(prompt) for prompt, completion in pairs)
    longest = max(map(len, examples))
    shuffled = examples[:]
    seed.shuffle(shuffled)
    rows = pack([len(example) for example in shuffled], longest + extra)
    for batch in (
        _batch([[example] for example in shuffled], longest + extra),
        _batch([[shuffled[n] for n in row] for row in rows], longest + extra),
    ):
        assert int(batch.target_count) == targets
        assert _loss(batch).item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=10)
@given(pairs=_answers, extra=st.integers(0, 5), side=st.sampled_from(["left", "right"]))
def test_padding_is_never_learnt(pairs: Any, extra: int, side: str) -> None:
    """Padded on either side, with labels on the padding or without: the loss is that of no padding.

    Break: `from_padded`, `both = real[:, :-1] & real[:, 1:]`, by asking for one of the two.
    """
    examples = _examples(*({"prompt": p, "completion": c} for p, c in pairs))
    width = max(map(len, examples)) + extra
    shape = (len(examples), width)
    ids, labels, mask = torch.zeros(shape).long(), torch.full(shape, 7), torch.zeros(shape).long()
    for row, example in enumerate(examples):
        stop = width if side == "left" else len(example)
        at = slice(stop - len(example), stop)
        ids[row, at] = torch.from_numpy(example.ids).long()
        labels[row, at] = torch.from_numpy(np.where(example.is_target, example.ids, IGNORED)).long()
        mask[row, at] = 1
    expected = sum(_by_hand(example).item() for example in examples)
    assert _loss(from_padded(ids, labels, mask)).item() == pytest.approx(expected, rel=1e-5)


def test_documents_of_a_row_do_not_see_each_other() -> None:
    """Another first document, of the same length, leaves the second one's gradient bit-equal.

    Break: `collate`, `positions[row, start:stop] = np.arange(len(example))`, by counting on.
    """
    one, other, second = _examples({"text": "aaaaaa"}, {"text": "b 9 z!"}, ANSWERED)
    assert len(one) == len(other) and one.key != other.key

    def of_the_second(first: Example) -> tuple[float, Tensor]:
        batch = _batch([[first, second]])
        only = torch.where(batch.documents == 1, batch.targets, IGNORED)
        loss = _loss(Batch(**{**vars(batch), "targets": only}))
        MODEL.zero_grad()
        loss.backward()
        gradients = [weight.grad.flatten() for weight in MODEL.parameters()]
        return loss.item(), torch.cat(gradients)

    loss, gradient = of_the_second(one)
    again, same = of_the_second(other)
    assert loss == again and torch.equal(gradient, same)
    assert loss == pytest.approx(_by_hand(second).item(), rel=1e-5)


@pytest.mark.parametrize(
    "columns",
    [
        {"text": "ab"},
        {"prompt": "a", "completion": "b"},
        {"question": "a", "rationale": "b", "answer": "c"},
        {"prompt": "<s>", "completion": "<s>"},
        {"messages": [{"role": "user", "content": "<s>"}, {"role": "assistant", "content": "b"}]},
    ],
)
@pytest.mark.parametrize("escape", ["escape", "parse"])
def test_a_document_begins_once(make_tokenizer: Any, columns: dict[str, Any], escape: Any) -> None:
    """One BOS, whether the tokenizer, the template or the text puts it there.

    Break: `Cutter._cut`, the line that drops the second BOS; or `add_special_tokens=kind is not
    Chat`, by adding it to what the template has written.
    """
    template = "<s>" + make_tokenizer().chat_template
    tokenizer = make_tokenizer(template, adds_bos=True)
    encoder = Encoder(tokenizer, special_tokens=escape)
    (example,) = encoder.examples([Row(columns, "f:1")], "", Faults())
    assert example.ids[0] == tokenizer.bos_token_id
    begins = (example.ids == tokenizer.bos_token_id).sum()
    spelt = str(columns).count("<s>") if escape == "parse" else 0
    assert begins == 1 + (spelt if "messages" in columns else max(0, spelt - 1))


_pieces = st.sampled_from(["a", "b", " ", "\n", "é", "<|im_end|>", "1"])
_spelling = st.lists(_pieces, max_size=12).map("".join)


@settings(max_examples=50)
@given(prompt=_spelling, completion=_spelling.filter(str.strip))
def test_ids_are_carried_and_never_read_from_text_again(prompt: str, completion: str) -> None:
    """What the batch holds are the encoder's ids: the text, read again, would be other ones.

    Break: `Example.ids`, by decoding and encoding them once more in `_example`.
    """
    (example,) = _examples({"prompt": prompt, "completion": completion})
    batch = _batch([[example]], 256)
    assert batch.input_ids[0, : len(example)].tolist() == example.ids.tolist()
    byte_for_byte = len((prompt + completion).encode()) + 1
    assert len(example) == byte_for_byte
    assert TOKENIZER.decode(example.ids[:-1].tolist()) == prompt + completion


def _ingested(rows: list[Any], over_long: OverLong, length: int) -> tuple[list[Example], Ingest]:
    ingest = Ingest(
        InMemory(data=rows), Encoder(TOKENIZER), Path(),
        length=length, over_long=over_long, on_bad_row="skip",
    )  # fmt: skip
    return list(ingest.examples()), ingest


@settings(max_examples=60)
@given(
    pairs=st.lists(
        st.tuples(st.text("ab", max_size=30), st.text("xyz", max_size=30)), min_size=1, max_size=6
    ),
    over_long=st.sampled_from(["drop", "truncate"]),
)
def test_no_answer_is_cut_without_a_count(pairs: Any, over_long: Any) -> None:
    """Every answer is whole, or counted as cut, dropped, or skipped.

    Break: `Ingest._fitted`, any line that counts; or `_piece(…, truncated=True)`.
    """
    rows = [{"prompt": "p", "completion": "whole"}]
    rows += [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    examples, ingest = _ingested(rows, over_long, 24)
    summary = ingest.summary()
    assert summary.rows == len(rows) == summary.used + summary.skipped + summary.dropped
    cut = 0
    for example in examples:
        row = rows[int(example.place[5:-1])]
        said = TOKENIZER.decode(example.ids[example.is_target].tolist())
        assert example.truncated == (said != row["completion"] + "<|im_end|>")
        assert said and (row["completion"] + "<|im_end|>").startswith(said)
        cut += example.truncated
    assert summary.truncated == cut


def test_a_long_answer_stops_the_run_unless_told_otherwise() -> None:
    """Break: `fitted`, the case "error", by cutting as `truncate` does."""
    rows = [{"prompt": "p", "completion": "c" * 40}]
    with pytest.raises(UsageError, match=r"data\[0\]: 42 tokens, over sequence_length 24"):
        _ingested(rows, "error", 24)
