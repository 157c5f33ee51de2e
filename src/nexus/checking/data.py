"""Whether the data is what one would want to train on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from nexus.checking.seen import Seen
from nexus.proofs import Outcome, Proof, told
from nexus.scene import Scene

TRUNCATED_SHARE = 0.1
"""From which share of cut documents on one should know of it."""

CONTAMINATED_SHARE = 0.5
"""From which share of held-out documents on that are trained on nothing is held out any more."""

REPEATED_SHARE = 0.1
MOST_PASSES = 10
"""How often data may be repeated before the student learns it by heart rather than the teacher."""

_proof = partial(told, "data")


def data_proofs(scene: Scene, seen: Seen) -> Iterator[Proof]:
    """Targets, cut documents, rows left out, repetitions, and what is in both splits.

    Args:
        scene: What the run has loaded.
        seen: Its first rows.
    """
    summary = scene.batches.summary
    yield _proof(
        "every row has something to learn from",
        "failed" if seen.empty_rows else "proved",
        f"{seen.empty_rows:,} of {seen.rows:,} rows without a target; "
        f"{seen.targets / max(1, seen.tokens):.0%} of their tokens are targets",
        "Leave out rows without an answer, or raise data.sequence_length if answers are cut off",
        value=seen.empty_rows / max(1, seen.rows),
    )
    examples = sum(source.examples for source in summary.train)
    truncated = sum(source.truncated for source in summary.train)
    share = truncated / max(1, examples)
    yield _proof(
        "documents are whole",
        "doubtful" if share > TRUNCATED_SHARE else "proved",
        f"{truncated:,} of {examples:,} documents are cut at {scene.recipe.data.sequence_length} "
        "tokens",
        "Raise data.sequence_length",
        value=share,
        limit=TRUNCATED_SHARE,
    )
    skipped = sum(source.skipped for source in (*summary.train, *summary.heldout))
    yield _proof(
        "no row was left out",
        "doubtful" if skipped else "proved",
        f"{skipped:,} rows could not be used",
        "Look at the rows that rejected.jsonl of a run names, and mend or remove them",
        value=float(skipped),
    )
    share = seen.repeated / max(1, seen.documents)
    yield _proof(
        "training documents differ from each other",
        "doubtful" if share > REPEATED_SHARE else "proved",
        f"{seen.repeated:,} of {seen.documents:,} documents looked at are another one once more",
        "Remove duplicates from the training data",
        value=share,
        limit=REPEATED_SHARE,
    )
    yield _passes(scene)
    yield _held_out(scene)


def _passes(scene: Scene) -> Proof:
    rows, recipe = scene.batches.summary.rows, scene.recipe
    name = "the data is not repeated too often"
    if not rows or any(source.streamed for source in scene.batches.summary.train):
        return _proof(name, "skipped", "data is streamed, and nobody knows how long it is", "")
    taken = sum(stage.train.steps * stage.train.tokens_per_step for stage in recipe.all_training)
    passes = taken / recipe.data.sequence_length / rows
    return _proof(
        name,
        "doubtful" if passes > MOST_PASSES else "proved",
        f"{passes:.2f} passes over {rows:,} rows",
        "Give more training data, or fewer train.steps",
        value=passes,
        limit=float(MOST_PASSES),
    )


def _held_out(scene: Scene) -> Proof:
    summary = scene.batches.summary
    documents = sum(source.examples for source in summary.heldout)
    name = "no held-out document is trained on"
    if not documents:
        return _proof(name, "skipped", "there is no held-out data (data.heldout)", "")
    share = summary.contaminated / documents
    outcome: Outcome = "proved"
    if summary.contaminated:
        outcome = "failed" if share >= CONTAMINATED_SHARE else "doubtful"
    return _proof(
        name,
        outcome,
        f"{summary.contaminated:,} of {documents:,} are training documents word for word",
        "Remove them from one of the two: what is measured on them is memory",
        value=share,
        limit=CONTAMINATED_SHARE,
    )
