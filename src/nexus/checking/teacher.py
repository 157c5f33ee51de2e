"""Whether the teacher knows more than the student that is to learn from it."""

from __future__ import annotations

import torch

from nexus.batch import until_targets
from nexus.evaluation.fidelity import Fidelity, measure
from nexus.evaluation.retention import difference
from nexus.kernels.lm_head import split_head
from nexus.milestones import needs_teacher
from nexus.proofs import Proof
from nexus.results import Estimate
from nexus.scene import Scene
from nexus.students.pruned import Pruned

NAME = "the teacher predicts held-out text better than the untrained student"

HELDOUT_TOKENS = 1500
"""How much held-out text both are compared on, where nothing else measures all of it."""

_UNASKED = "no stage learns from it: what teaches is the text, or the student of a stage before"
_WORSE = (
    "Name a better teacher, or one that was trained on such text; look whether its weights, its "
    "tokenizer and the data's language belong together; or train with the task's loss alone"
)
_SAME = (
    "Only the text can teach it more (a task objective); without training nexus prune --vocabulary "
    "writes the same student. Or add target_params"
)
_ITSELF = (
    "The student is the teacher itself: cut it (student: {kind: pruned, …}). If the text is to "
    "correct it first, give the stages that learn from what is left of it teacher: previous"
)
_UNSURE = "Give more held-out documents, from the same source as the training data"


def teacher_better(scene: Scene, untrained: Fidelity | None) -> Proof:
    """Compare their losses on the held-out text, paired by document.

    Args:
        scene: What the run has loaded.
        untrained: What was measured of the untrained student; measured here if nothing was.

    Raises:
        NexusError: A model's outputs are not finite.
    """
    if not scene.recipe.data.heldout:
        why = "there is no held-out data (data.heldout)"
        remedy = "Add data.heldout: without it nobody can tell what the student learnt"
        return Proof(group="teacher", name=NAME, outcome="skipped", detail=why, remedy=remedy)
    if not any(one.teacher == "original" and needs_teacher(one) for one in scene.recipe.all_stages):
        return Proof(group="teacher", name=NAME, outcome="skipped", detail=_UNASKED)
    if isinstance(student := scene.recipe.student, Pruned) and not student.is_sized:
        why = "the untrained student is the teacher itself, but for tokens that neither has"
        return Proof(group="teacher", name=NAME, outcome="doubtful", detail=why, remedy=_SAME)
    measured = untrained or compared(scene)
    gap = difference(
        measured.per_token("student_nll"), measured.per_token("teacher_nll"), unit="nats",
        seed=scene.recipe.seed,
    )  # fmt: skip
    return judged(gap, measured.tokens)


def judged(gap: Estimate, tokens: int) -> Proof:
    """What the untrained student's loss minus the teacher's says of the teacher."""
    interval = f", 95 % interval {gap.low:.3f} to {gap.high:.3f}" if gap.low is not None else ""
    detail = (
        f"its loss is {abs(gap.value):.3f} nats a token "
        f"{'below' if gap.value > 0 else 'above'} the student's{interval} "
        f"({gap.n:,} documents, {tokens:,} tokens)"
    )
    proof = Proof(
        group="teacher", name=NAME, outcome="proved", detail=detail, value=gap.value, limit=0.0
    )
    if gap.low is None or gap.high is None:
        detail += ": one document says nothing of others"
        update = {"outcome": "doubtful", "detail": detail, "remedy": _UNSURE}
        return proof.model_copy(update=update)
    if gap.high <= 0:
        remedy = _ITSELF if gap.low == gap.high == 0 else _WORSE
        return proof.model_copy(update={"outcome": "failed", "remedy": remedy})
    if gap.low <= 0:
        return proof.model_copy(update={"outcome": "doubtful", "remedy": _UNSURE})
    return proof


def compared(scene: Scene) -> Fidelity:
    """Teacher and student on the first `HELDOUT_TOKENS` of the held-out documents."""
    settings = scene.recipe.all_stages[-1].train
    return measure(
        split_head(scene.student, scene.vocabulary, scene.packed),
        scene.teacher,
        until_targets(scene.batches.heldout(), HELDOUT_TOKENS),
        scene.tokenizer,
        autocast=None if settings.precision == "fp32" else torch.bfloat16,
    )
