from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nexus.batch import IGNORED, PADDING, Batch
from nexus.durable import Damaged
from nexus.errors import NexusError
from nexus.evaluation.fidelity import COLUMNS, Fidelity, layout, measure
from nexus.kernels.lm_head import Trunk, split_head
from nexus.teachers.local import LocalTeacher

VOCABULARY = 100


@pytest.fixture
def letters() -> PreTrainedTokenizerFast:
    """Tokens 4 to 7 are letters of one to four bytes; token 0 is special."""
    vocabulary = {f"<{number}>": number for number in range(VOCABULARY)}
    for number, letter in enumerate(("a", "é", "漢", "🙂"), start=4):
        del vocabulary[f"<{number}>"]
        vocabulary[letter] = number
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<99>"))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<0>", unk_token="<99>")


def documents(*lengths: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, VOCABULARY, (length,), generator=generator) for length in lengths]


def pack(rows: Sequence[Sequence[tuple[str, Tensor]]], length: int) -> Batch:
    """Documents with their keys, one after another; every token but a document's first counts."""
    shape = (len(rows), length)
    ids, owners = torch.zeros(shape, dtype=torch.long), torch.full(shape, PADDING)
    targets, positions = torch.full(shape, IGNORED), torch.zeros(shape, dtype=torch.long)
    for r, row in enumerate(rows):
        start = 0
        for number, (_, tokens) in enumerate(row):
            stop = start + len(tokens)
            ids[r, start:stop] = tokens
            owners[r, start:stop] = number
            targets[r, start : stop - 1] = tokens[1:]
            positions[r, start:stop] = torch.arange(len(tokens))
            start = stop
        positions[r, start:] = torch.arange(length - start)
    nothing = torch.zeros(shape, dtype=torch.long)
    keys = tuple(tuple(key for key, _ in row) for row in rows)
    return Batch(ids, targets, positions, owners, nothing, nothing, keys=keys)


@pytest.fixture
def teacher(tiny_model: Any) -> LocalTeacher:
    return LocalTeacher(sharpened(tiny_model(layers=2, seed=1, tied=False)))


@pytest.fixture
def student(tiny_model: Any) -> Trunk:
    return split_head(sharpened(tiny_model(layers=1, seed=2, tied=False)), VOCABULARY)


def sharpened(model: torch.nn.Module) -> torch.nn.Module:
    """Fresh models are all but uniform, which would make every test pass."""
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40)
    return model


def test_sums_are_those_of_each_document_alone(teacher: LocalTeacher, student: Trunk) -> None:
    texts = documents(9, 14, 5)
    batch = pack([[("b", texts[1]), ("c", texts[2])], [("a", texts[0])]], length=20)
    table = measure(student, teacher, [batch]).documents
    assert list(table["key"]) == ["a", "b", "c"]
    for row, text in zip(table, texts, strict=True):
        with torch.no_grad():
            logits = [m(text[None]).logits[0, :-1].double() for m in (teacher.model, student.model)]
        p, q = (torch.log_softmax(values, -1) for values in logits)
        at = torch.arange(len(text) - 1)
        expected = {
            "tokens": len(text) - 1,
            "teacher_nll": -p[at, text[1:]].sum(),
            "student_nll": -q[at, text[1:]].sum(),
            "forward_kl": (p.exp() * (p - q)).sum(),
            "reverse_kl": (q.exp() * (q - p)).sum(),
            "agreement": (p.argmax(-1) == q.argmax(-1)).sum(),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(float(value), rel=1e-4), name


def test_grouping_and_padding_change_nothing(teacher: LocalTeacher, student: Trunk) -> None:
    texts = documents(9, 14, 5, 11)
    keyed = [(str(number), text) for number, text in enumerate(texts)]
    packed = measure(student, teacher, [pack([keyed[:2], keyed[2:]], 40)]).documents
    alone = measure(student, teacher, [pack([[one]], 16) for one in keyed]).documents
    for name in COLUMNS:
        assert packed[name] == pytest.approx(alone[name], rel=1e-4)
    for name in ("student_bins", "teacher_bins"):
        assert np.allclose(packed[name], alone[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("left", [0, 3, 9])
def test_padding_on_either_side_changes_nothing(
    teacher: LocalTeacher, student: Trunk, left: int
) -> None:
    """Neither sums nor bins of confidence."""
    texts = [(str(number), text) for number, text in enumerate(documents(9, 14))]
    plain = pack([[one] for one in texts], 14)
    columns = (plain.input_ids, plain.targets, plain.documents, plain.parts, plain.tasks)
    fills = (0, IGNORED, PADDING, 0, 0)
    ids, targets, owners, parts, tasks = (
        torch.nn.functional.pad(column, (left, 2), value=fill)
        for column, fill in zip(columns, fills, strict=True)
    )
    ahead = torch.arange(left).expand(2, left)
    positions = torch.cat([ahead, plain.position_ids, torch.arange(2).expand(2, 2)], dim=1)
    padded = Batch(ids, targets, positions, owners, parts, tasks, keys=plain.keys)
    expected = measure(student, teacher, [plain]).documents
    found = measure(student, teacher, [padded]).documents
    for name in COLUMNS:
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    for name in ("student_bins", "teacher_bins"):
        assert np.allclose(found[name], expected[name], rtol=1e-4, atol=1e-5), name


def test_a_document_in_two_rows_is_one_document(teacher: LocalTeacher, student: Trunk) -> None:
    first, second = documents(9, 14)
    found = measure(student, teacher, [pack([[("same", first)], [("same", second)]], 16)])
    assert len(found) == 1
    assert found.tokens == 8 + 13


def test_a_teacher_measured_against_itself_is_perfect(teacher: LocalTeacher) -> None:
    batch = pack([[("a", documents(30)[0])], [("b", documents(20, seed=1)[0])]], 32)
    found = measure(teacher.trunk, teacher, [batch])
    own = found.student()
    assert own.forward_kl is not None and own.reverse_kl is not None and own.agreement is not None
    assert abs(own.forward_kl.value) < 1e-5 and abs(own.reverse_kl.value) < 1e-5
    assert own.agreement.value == 1.0
    assert own.nll == found.teacher().nll
    assert found.teacher().forward_kl is None


def test_a_trunk_can_be_the_teacher(teacher: LocalTeacher, student: Trunk) -> None:
    batches = [pack([[("a", documents(12)[0])]], 12)]
    by_teacher = measure(student, teacher, batches).documents
    assert np.array_equal(measure(student, teacher.trunk, batches).documents, by_teacher)


def test_modes_come_back_and_no_gradient_is_kept(teacher: LocalTeacher, student: Trunk) -> None:
    student.model.train()
    measure(student, teacher, [pack([[("a", documents(12)[0])]], 12)])
    assert student.model.training
    assert all(parameter.grad is None for parameter in student.model.parameters())


def test_autocast_is_for_the_body_and_stays_close(teacher: LocalTeacher, student: Trunk) -> None:
    batches = [pack([[("a", documents(60)[0])]], 60)]
    exact = measure(student, teacher, batches).student().nll.value
    rough = measure(student, teacher, batches, autocast=torch.bfloat16).student().nll.value
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.02)


def test_bytes_are_those_of_the_decoded_targets(
    teacher: LocalTeacher, student: Trunk, letters: PreTrainedTokenizerFast
) -> None:
    text = torch.tensor([3, 4, 5, 6, 7, 0])
    batch = pack([[("a", text)]], 8)
    found = measure(student, teacher, [batch], letters)
    assert found.bytes == 1 + 2 + 3 + 4  # tokens 4 to 7; the first is no target, 0 is special
    bits = found.student().bits_per_byte
    assert bits is not None
    assert bits.value == pytest.approx(found.documents["student_nll"].sum() / math.log(2) / 10)
    assert measure(student, teacher, [batch]).student().bits_per_byte is None


def table(nll: Sequence[float], tokens: Sequence[float], sizes: Sequence[float]) -> Fidelity:
    rows = np.zeros(len(nll), dtype=layout(4))
    rows["key"] = [str(number) for number in range(len(nll))]
    rows["student_nll"] = rows["teacher_nll"] = nll
    rows["tokens"], rows["bytes"] = tokens, sizes
    rows["agreement"] = np.array(tokens) / 4
    rows["student_bins"][:, 3, 0] = rows["teacher_bins"][:, 3, 0] = tokens
    return Fidelity(rows)


def test_scores_in_closed_form() -> None:
    """A uniform model over 256 bytes: perplexity 256, 8 bits a byte, whatever the documents."""
    tokens = [10.0, 30.0, 25.0]
    found = table([count * math.log(256) for count in tokens], tokens, tokens).student()
    assert found.perplexity.value == pytest.approx(256)
    assert found.bits_per_byte is not None and found.agreement is not None
    assert found.bits_per_byte.value == pytest.approx(8)
    assert found.agreement.value == 0.25
    for estimate in (found.nll, found.perplexity, found.bits_per_byte):
        assert estimate.low == pytest.approx(estimate.value) == estimate.high
        assert estimate.n == 3
    assert (found.nll.unit, found.agreement.unit) == ("nats", "share")


def test_a_piece_without_bytes_is_left_out_of_bits_per_byte() -> None:
    """An end-of-text token that was cut off its text is a document of no bytes."""
    whole = table([10.0, 20.0, 1.0], [10.0, 20.0, 1.0], [30.0, 31.0, 0.0]).student().bits_per_byte
    assert whole is not None
    assert whole.value == pytest.approx(30 / 61 / math.log(2))
    assert table([1.0, 2.0], [1.0, 2.0], [0.0, 0.0]).student().bits_per_byte is None


def test_a_shares_interval_ends_where_shares_end() -> None:
    found = table([1.0] * 12, [4.0] * 12, [4.0] * 12)
    found.documents["agreement"] = [3.0] + [0.0] * 11
    agreement = found.student().agreement
    assert agreement is not None and agreement.low is not None and agreement.high is not None
    assert agreement.low == 0.0 < agreement.value < agreement.high < 1.0


def test_perplexity_is_over_all_tokens_and_its_interval_is_that_of_the_loss() -> None:
    found = table([10.0, 90.0, 40.0, 20.0], [10.0, 30.0, 20.0, 20.0], [40.0] * 4).student()
    assert found.nll.value == 2.0
    for own, of_loss in (("value", "value"), ("low", "low"), ("high", "high")):
        expected = math.exp(getattr(found.nll, of_loss))
        assert getattr(found.perplexity, own) == pytest.approx(expected, rel=1e-3)


def test_sums_can_be_kept_for_a_later_comparison(
    tmp_path: Path, teacher: LocalTeacher, student: Trunk
) -> None:
    found = measure(student, teacher, [pack([[("a", documents(12)[0])]], 12)])
    found.save(tmp_path / "sums.npy")
    assert np.array_equal(Fidelity.load(tmp_path / "sums.npy").documents, found.documents)
    assert np.array_equal(np.load(tmp_path / "sums.npy", allow_pickle=False), found.documents)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"x" * 100])
def test_a_damaged_file_of_sums_is_not_believed(
    tmp_path: Path, teacher: LocalTeacher, student: Trunk, content: bytes
) -> None:
    """Nor is any flipped bit. Leave out the comparison in `load` to see it fail."""
    file = tmp_path / "sums.npy"
    measure(student, teacher, [pack([[("a", documents(12)[0])]], 12)]).save(file)
    whole = file.read_bytes()
    flips = [whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :] for at in range(len(whole))]
    for damaged in (content, whole[:-1], *flips):
        file.write_bytes(damaged)
        with pytest.raises(Damaged, match=r"sums\.npy is not what was written"):
            Fidelity.load(file)


def test_sums_of_another_version_are_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused as damaged, upon which a run measures anew."""
    found = table([1.0], [2.0], [2.0])
    names = ["key", "tokens", "bytes", "forward_kl"]
    Fidelity(found.documents[names].copy()).save(tmp_path / "old.npy")
    with pytest.raises(Damaged, match="another version"):
        Fidelity.load(tmp_path / "old.npy")


def test_nothing_to_measure_is_an_error(teacher: LocalTeacher, student: Trunk) -> None:
    with pytest.raises(NexusError, match="no target token"):
        measure(student, teacher, [])


def test_a_broken_student_is_named_and_not_averaged(teacher: LocalTeacher, student: Trunk) -> None:
    with torch.no_grad():
        student.model.get_output_embeddings().weight[7] = float("nan")
    with pytest.raises(NexusError, match="not finite in 1 of 1 held-out documents"):
        measure(student, teacher, [pack([[("a", documents(12)[0])]], 12)])
