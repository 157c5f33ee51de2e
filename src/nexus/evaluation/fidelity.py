"""How closely a student follows its teacher on held-out documents."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

from nexus import durable
from nexus.batch import PADDING, Batch
from nexus.disk import reading
from nexus.durable import Damaged
from nexus.errors import NexusError
from nexus.evaluation.bootstrap import Bootstrap
from nexus.evaluation.calibration import BINS, SUMMED, binned, calibration
from nexus.evaluation.mode import observing
from nexus.evaluation.retention import Totals
from nexus.kernels.chunked_head import Workspace, observe
from nexus.kernels.lm_head import Trunk
from nexus.objectives.observers import Compared, compared
from nexus.results import Estimate, Quality, Unit
from nexus.signals import Distribution, Headed, Signal
from nexus.teachers.teacher import Teacher

WANTED = Signal.DISTRIBUTION | Signal.FULL_VOCABULARY


MODELS = ("student", "teacher")

_DIGEST = hashlib.sha256().digest_size

COLUMNS = ("tokens", "bytes", *Compared._fields)
"""What is summed by document, all at temperature 1."""


@dataclass(frozen=True)
class Fidelity:
    """Sums by document, from which every score and every paired comparison is computed.

    `documents` is a structured array with a `key`, the `COLUMNS`, and for each of the `MODELS` its
    confidence by bin (`student_bins`, `teacher_bins`: `nexus.evaluation.calibration`). It is sorted
    by key, so that row i is the same document for every student measured on the same data.
    """

    documents: ndarray

    @property
    def tokens(self) -> int:
        return int(self.documents["tokens"].sum())

    @property
    def bytes(self) -> int:
        return int(self.documents["bytes"].sum())

    def __len__(self) -> int:
        return len(self.documents)

    def per_token(self, column: str) -> Totals:
        """A column as a mean over tokens, for `nexus.evaluation.retention`."""
        return Totals(self.documents[column], self.documents["tokens"])

    def student(self, seed: int = 0) -> Quality:
        """What the student scores against its teacher and on the text itself."""
        sums = _Sums(self.documents, seed)
        return Quality(
            forward_kl=sums.per_token("forward_kl", "nats"),
            reverse_kl=sums.per_token("reverse_kl", "nats"),
            agreement=sums.per_token("agreement", "share"),
            acceptance=sums.per_token("acceptance", "share"),
            nll=sums.per_token("student_nll", "nats"),
            perplexity=sums.perplexity("student_nll"),
            bits_per_byte=sums.bits_per_byte("student_nll"),
            entropy=sums.per_token("student_entropy", "nats"),
            calibration=calibration(self.documents["student_bins"], seed=seed),
        )

    def teacher(self, seed: int = 0) -> Quality:
        """What the teacher scores on the text."""
        sums = _Sums(self.documents, seed)
        return Quality(
            nll=sums.per_token("teacher_nll", "nats"),
            perplexity=sums.perplexity("teacher_nll"),
            bits_per_byte=sums.bits_per_byte("teacher_nll"),
            entropy=sums.per_token("teacher_entropy", "nats"),
            calibration=calibration(self.documents["teacher_bins"], seed=seed),
        )

    def only(self, keys: Iterable[str]) -> Fidelity:
        """The sums of some of the documents."""
        return Fidelity(self.documents[np.isin(self.documents["key"], list(keys))])

    def save(self, path: Path) -> None:
        """Keep the sums, so that a later student can be compared on the same documents.

        They are followed by their SHA-256, which whoever reads an array takes no notice of.
        """
        content = io.BytesIO()
        np.save(content, self.documents, allow_pickle=False)
        array = content.getvalue()
        durable.write(path, array + hashlib.sha256(array).digest())

    @classmethod
    def load(cls, path: Path) -> Fidelity:
        """What `save` wrote.

        Raises:
            Damaged: if the file holds something else, or other sums than are taken today.
            DiskFault: if the disk cannot be read.
        """
        with reading(path):
            content = path.read_bytes()
        array = content[:-_DIGEST]
        if hashlib.sha256(array).digest() != content[-_DIGEST:]:
            raise Damaged(f"{path} is not what was written: its SHA-256 differs")
        documents = np.load(io.BytesIO(array), allow_pickle=False)
        if documents.dtype.descr[1:] != layout(1)[1:]:
            raise Damaged(f"{path} is of another version of Nexus, which kept other sums")
        return cls(documents)


def measure(
    student: Trunk,
    teacher: Teacher | Trunk,
    batches: Iterable[Batch],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    autocast: torch.dtype | None = None,
) -> Fidelity:
    """Run teacher and student once over `batches` and sum up by document.

    The student runs in eval mode without gradient; its own modes are restored afterwards. Products
    with the heads and everything after them are fp32. A document that lies in several rows, by its
    key, is one document.

    Args:
        student: the student's body and head.
        teacher: must provide the distribution over the whole vocabulary; or a model cut in two; or
            `student` itself, to measure it alone, which costs one forward pass.
        batches: the held-out documents, packed.
        tokenizer: turns targets back into text, whose UTF-8 bytes bits per byte are counted over.
            A special token has no bytes. Without it bits per byte are absent.
        autocast: the type the student's body computes in; its weights' own when absent.

    Raises:
        NexusError: if there is no target at all, or a model's outputs are not finite.
    """
    sums: dict[str, ndarray] = {}
    workspace = Workspace()
    with observing(student.model):
        for batch in batches:
            values = _values(student, teacher, batch, autocast, workspace)
            for key, tokens, value in _by_document(batch, values):
                row = _row(tokens, value, tokenizer)
                sums[key] = sums[key] + row if key in sums else row
    if not sums:
        raise NexusError("The held-out data has no target token. Give `data.heldout` more text.")
    return Fidelity(_table(sums))


def layout(key_length: int) -> list[tuple[Any, ...]]:
    """The columns of `Fidelity.documents`, with room for keys of `key_length` characters."""
    columns = [(name, "<f8") for name in COLUMNS]
    bins = [(f"{of}_bins", "<f8", (BINS, len(SUMMED))) for of in MODELS]
    return [("key", f"<U{max(1, key_length)}"), *columns, *bins]


def _values(
    student: Trunk,
    teacher: Teacher | Trunk,
    batch: Batch,
    autocast: torch.dtype | None,
    workspace: Workspace,
) -> Float[ndarray, "compared n"]:
    batch = batch.to(student.head().weight.device)
    device = batch.targets.device.type
    with torch.autocast(device, dtype=autocast, enabled=autocast is not None):
        hidden = student.hidden(batch)[batch.is_target]
    with torch.autocast(device, enabled=False):
        said = Headed(hidden.float(), student.head())
        told = said if teacher is student else _told(teacher, batch)
        seen = observe(
            said,
            told,
            batch.at_targets(),
            [compared],
            workspace=workspace,
        )
    return seen.double().cpu().numpy()


def _told(teacher: Teacher | Trunk, batch: Batch) -> Distribution | None:
    if isinstance(teacher, Trunk):
        with observing(teacher.model):
            hidden = teacher.hidden(batch)[batch.is_target]
        return Headed(hidden.float(), teacher.head())
    told = teacher.signals(batch, WANTED).distribution
    return Headed(told.hidden.float(), told.head) if isinstance(told, Headed) else told


def _by_document(
    batch: Batch, values: Float[ndarray, "compared n"]
) -> Iterator[tuple[str, Int[ndarray, " tokens"], Float[ndarray, "compared tokens"]]]:
    """Each document of the batch that has targets: its key, its targets, their values."""
    targets = batch.targets[batch.is_target].cpu().numpy()
    numbers = batch.documents[batch.is_target].cpu().numpy()
    rows = batch.is_target.nonzero()[:, 0].cpu().numpy()
    for row in np.unique(rows):
        in_row = rows == row
        keys = _keys(batch, int(row))
        for number in np.unique(numbers[in_row]):
            here = in_row & (numbers == number)
            yield keys[int(number)], targets[here], values[:, here]


def _keys(batch: Batch, row: int) -> dict[int, str]:
    """From document numbers to keys, both in their order in the row."""
    numbers = [n for n in dict.fromkeys(batch.documents[row].tolist()) if n != PADDING]
    keys: Sequence[str] = batch.keys[row]
    if len(keys) != len(numbers):
        raise ValueError(f"row {row} has {len(numbers)} documents but {len(keys)} keys")
    return dict(zip(numbers, keys, strict=True))


def _row(
    tokens: Int[ndarray, " n"],
    values: Float[ndarray, "compared n"],
    tokenizer: PreTrainedTokenizerBase | None,
) -> Float[ndarray, " columns"]:
    """The sums of a document, bins last."""
    by_name = dict(zip(Compared._fields, values, strict=True))
    bins = [binned(by_name[f"{of}_confidence"], by_name[f"{of}_correct"]).ravel() for of in MODELS]
    return np.concatenate([[len(tokens), _byte_count(tokens, tokenizer)], values.sum(1), *bins])


def _byte_count(tokens: Int[ndarray, " n"], tokenizer: PreTrainedTokenizerBase | None) -> int:
    if tokenizer is None:
        return 0
    text = tokenizer.decode(
        tokens.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return len(str(text).encode("utf-8", errors="surrogatepass"))


def _table(sums: dict[str, ndarray]) -> ndarray:
    keys = sorted(sums)
    table = np.zeros(len(keys), dtype=layout(max(len(key) for key in keys)))
    table["key"] = keys
    rows = np.stack([sums[key] for key in keys])
    for name, column in zip(COLUMNS, rows.T, strict=False):
        table[name] = column
    for of, bins in zip(MODELS, np.split(rows[:, len(COLUMNS) :], 2, axis=1), strict=True):
        table[f"{of}_bins"] = bins.reshape(-1, BINS, len(SUMMED))
    for name in Compared._fields:
        bad = table["key"][~np.isfinite(table[name])]
        if len(bad):
            raise NexusError(
                f"{name} is not finite in {len(bad)} of {len(table)} held-out documents (first: "
                f"'{bad[0]}'). The model overflowed or is damaged: evaluate it in fp32."
            )
    return table


class _Sums:
    """One bootstrap of a table, and the statistics of its columns."""

    def __init__(self, documents: ndarray, seed: int) -> None:
        columns = np.stack([documents[name] for name in COLUMNS], axis=1)
        self._bootstrap = Bootstrap.of(columns, seed=seed)
        # A piece that is an end-of-text token alone has no bytes to spread its loss over.
        spelt = columns[documents["bytes"] > 0]
        self._spelt = Bootstrap.of(spelt, seed=seed) if len(spelt) else None

    def per_token(self, column: str, unit: Unit) -> Estimate:
        return self._ratio(column, "tokens", unit)

    def perplexity(self, column: str) -> Estimate:
        over, under = COLUMNS.index(column), COLUMNS.index("tokens")
        return self._bootstrap.estimate(lambda sums: sums[:, over] / sums[:, under], through=np.exp)

    def bits_per_byte(self, column: str) -> Estimate | None:
        if self._spelt is None:
            return None
        top, bottom, bits = COLUMNS.index(column), COLUMNS.index("bytes"), 1 / np.log(2)
        return self._spelt.estimate(lambda sums: bits * sums[:, top] / sums[:, bottom], "bits/byte")

    def _ratio(self, over: str, under: str, unit: Unit) -> Estimate:
        top, bottom = COLUMNS.index(over), COLUMNS.index(under)
        found = self._bootstrap.estimate(lambda sums: sums[:, top] / sums[:, bottom], unit)
        return _within_bounds(found) if unit == "share" else found


def _within_bounds(share: Estimate) -> Estimate:
    """A symmetric interval may reach beyond what a share can be, where the truth is not."""
    if share.low is None or share.high is None:
        return share
    return share.model_copy(update={"low": max(0.0, share.low), "high": min(1.0, share.high)})
