"""One text, one gradient: however its rows are padded, packed, split and ordered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nexus.batch import Batch
from nexus.data.chat import Example
from nexus.proofs import Proof
from nexus.training.invariants.pieces import in_rows, padded_left, singly
from nexus.training.invariants.subject import ONE, Subject, Taken, distance
from nexus.training.invariants.verdict import at_most, untried

ROOM = 7
"""By how much more a row is padded."""

FEWEST_PIECES = 3

DETAIL = "largest relative difference of loss and gradient"

REARRANGED = "another padding, split and order of the rows change neither loss nor gradient"
SIDE = "the side of padding changes neither loss nor gradient"
AMOUNT = "the amount of padding changes neither loss nor gradient"
PACKING = "packing documents into one row changes neither loss nor gradient"
SPLIT = "the split into micro-batches changes neither loss nor gradient"
ORDER = "the order of rows changes neither loss nor gradient"

PADDING_REMEDY = (
    "Padding is seen by the model or counted by the loss: use another attention implementation "
    "(sdpa), or rows without padding."
)
PACKING_REMEDY = (
    "Documents of one row see each other: set data.packing: false, or use attention that keeps "
    "them apart (sdpa)."
)
GROUPING_REMEDY = (
    "Rows of one step influence each other (a layer that mixes rows, or a mean of means): set "
    "train.micro_batch_rows so that a step is one micro-batch, and use another architecture."
)


def layout_proofs(subject: Subject, pieces: Sequence[Example], base: Taken) -> Iterator[Proof]:
    """The rows arranged in five other ways, one after another.

    Args:
        subject: what is put to the test.
        pieces: of real documents.
        base: the step over the pieces one a row, as little padded as can be.
    """

    def compared(name: str, group: list[Batch], remedy: str) -> Proof:
        if base.is_rounding:
            return untried("loss", name, ONE)
        gap = distance(subject.step(group), base)
        return at_most("loss", name, gap, subject.limit, DETAIL, remedy)

    device = subject.device
    yield compared(AMOUNT, [singly(pieces, device, ROOM)], PADDING_REMEDY)
    yield compared(SIDE, [padded_left(pieces, device, subject.vocabulary)], PADDING_REMEDY)
    if len(pieces) < FEWEST_PIECES:
        why = f"the first batches hold only {len(pieces)} pieces with targets"
        yield from (untried("loss", name, why) for name in (PACKING, SPLIT, ORDER))
        return
    if subject.packed:
        packed = in_rows([pieces], sum(map(len, pieces)) + ROOM, device)
        yield compared(PACKING, [packed], PACKING_REMEDY)
    else:
        yield untried("loss", PACKING, "data.packing is false: every row is one document")
    middle = len(pieces) // 2
    split = [singly(part, device) for part in (pieces[:middle], pieces[middle:])]
    yield compared(SPLIT, split, GROUPING_REMEDY)
    yield compared(ORDER, [singly(pieces[::-1], device)], GROUPING_REMEDY)


def rearranged(subject: Subject, pieces: Sequence[Example], base: Taken) -> Proof:
    """All at once, in one step: what a stage after the first is asked."""
    if base.is_rounding:
        return untried("loss", REARRANGED, ONE)
    middle, device = len(pieces) // 2, subject.device
    group = [singly([piece], device, ROOM) for piece in pieces[middle:][::-1]]
    if subject.packed and middle:
        group.append(in_rows([pieces[:middle]], sum(map(len, pieces[:middle])), device))
    elif middle:
        group.append(padded_left(pieces[:middle], device, subject.vocabulary))
    gap = distance(subject.step(group), base)
    return at_most("loss", REARRANGED, gap, subject.limit, DETAIL, GROUPING_REMEDY)
