"""A teacher whose weights are held in few bits: how far that moves what it says is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.batch import Batch
from nexus.calibration import TOKENS, calibrated
from nexus.evaluation.fidelity import measure
from nexus.quantization.quantize import plan
from nexus.quantization.scheme import Scheme
from nexus.teachers.local import LocalTeacher

MEASURED = 2_000
"""Tokens of the text on which it is compared with the teacher as it was."""


def in_few_bits(
    teacher: LocalTeacher,
    scheme: Scheme,
    text: Callable[[int], Iterable[Batch]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    compared: bool = True,
) -> tuple[PreTrainedModel, str]:
    """The teacher in few bits, fitted to the training text, and what is to be known of it.

    Args:
        teacher: with its weights whole; let go of it afterwards.
        scheme: into how many bits.
        text: the beginning of the training text, of so many tokens, on the teacher's device.
        tokenizer: the teacher's.
        compared: whether to measure how far its words moved; else the notice is empty.

    Raises:
        UsageError: nothing of it can be quantised, or it is already.
    """
    model = teacher.pretrained
    plan(model, scheme)
    found = calibrated(model, scheme, text(TOKENS))
    found.model.requires_grad_(False)
    if not compared:
        return found.model, ""
    few = LocalTeacher(found.model, teacher.vocabulary, teacher.trunk.packed)
    moved = measure(few.trunk, teacher, text(MEASURED), tokenizer).student(0)
    kept = f", {len(found.left_out)} others are whole" if found.left_out else ""
    distance = "" if moved.forward_kl is None else f"KL {moved.forward_kl.value:.2g} nats a token"
    agreed = "" if moved.agreement is None else f"{100 * moved.agreement.value:.1f} % agreement"
    return found.model, (
        f"The teacher's signals come from {len(found.layers)} layers in {scheme}{kept}, and every "
        f"comparison with it is with the teacher as it is then. On the first {MEASURED:,} tokens "
        f"of the training text that is {distance}, {agreed} from the teacher as it was."
    )
