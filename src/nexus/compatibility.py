"""Whether what others made fits together and is what it seems: models, tokenizers and rows."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from nexus import hub
from nexus.batch import Batch
from nexus.data.chats import has_chats
from nexus.data.loader import Batches
from nexus.errors import UsageError
from nexus.kernels.lm_head import split_head
from nexus.kernels.padding_mass import check_teacher_padding, padding_mass
from nexus.pruning.text import SEQUENCE, require_sequence
from nexus.recipe.schema import Recipe
from nexus.students.pruned import Pruned
from nexus.teachers.local import LocalTeacher
from nexus.tokenizers import template_difference


def refuse_other_template(recipe: Recipe, folder: Path, difference: str | None) -> None:
    """Conversations are written by one template, which a student with another would never see.

    Raises:
        UsageError: There are conversations, and the student's template is not given up.
    """
    kept = recipe.student.kind == "pretrained" and recipe.student.tokenizer == "own"
    rows = (*recipe.data.sources, *recipe.data.heldout)
    if difference and kept and has_chats(rows, folder):
        raise UsageError(
            f"{difference} The data holds conversations, which the teacher's writes. Set "
            "tokenizer: teacher beside student.model, and the student is given the teacher's; or "
            "name a student that has the same."
        )


def strangers(recipe: Recipe, folder: Path) -> list[str]:
    """What is to be known of models that others made: code that runs, a template given up."""
    sources = [recipe.teacher, *([recipe.student] if recipe.student.kind == "pretrained" else [])]
    notices = [note for source in sources if (note := hub.code_of(source, folder))]
    if recipe.student.kind == "pretrained":
        pair = (hub.load_tokenizer(source, folder) for source in sources)
        if difference := template_difference(*pair):
            notices.append(f"{difference} The student is saved with the teacher's.")
    return notices


def padding_noticed(teacher: LocalTeacher, student: PreTrainedModel, batch: Batch) -> str:
    """How much probability rows of padding get on a batch, which for the teacher is none.

    Raises:
        UsageError: The teacher gives them some.
    """
    mass = padding_mass(teacher.trunk, batch)
    check_teacher_padding(mass)
    ours = padding_mass(split_head(student, teacher.vocabulary, teacher.trunk.packed), batch)
    return (
        f"On the first batch the teacher gave them {mass:.1g} of its probability, the untrained "
        f"student {ours:.1g}."
    )


def trusts_code(recipe: Recipe) -> bool:
    """Whether the student may be made of Python code that came with a model."""
    match recipe.student.kind:
        case "pretrained":
            return recipe.student.trust_remote_code
        case "layers" | "pruned":
            return recipe.teacher.trust_remote_code
        case _:
            return False


def require_calibration(recipe: Recipe, batches: Batches, *, given: bool = False) -> None:
    """Refuse training text that is shorter than a row where a student is cut by what it says.

    Args:
        recipe: what is to run.
        batches: its data.
        given: whether the first student is there, and not cut.

    Raises:
        UsageError: There is less text than one sequence.
    """
    cut = [stage.student for stage in recipe.stages] + ([] if given else [recipe.student])
    if any(isinstance(student, Pruned) and student.is_sized for student in cut):
        length, tokens = min(SEQUENCE, recipe.data.sequence_length), 0
        for document in batches.documents(length):
            tokens += len(document)
            if tokens >= length:
                return
        require_sequence(tokens, length, "data.sources, which the student is cut by,")
