"""Narrowing: a run whose student knows fewer tokens, and whose teacher therefore does as well.

The text is tokenised with the smaller tokenizer. The teacher gives up the same rows, and nothing
else: its softmax over those that are left is its own distribution gathered to them and
renormalised, so that the student learns from exactly that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nexus.data.loader import Batches
from nexus.evaluation.size import size
from nexus.hub import load_generation
from nexus.pruning.corpus import vocabulary_of
from nexus.pruning.narrow import Narrow, narrow
from nexus.pruning.token_ids import named_ids
from nexus.pruning.vocabulary import Vocabulary
from nexus.recipe.schema import Recipe
from nexus.results import Size
from nexus.students.pruned import Pruned

STREAMED = 2_000_000
"""How many tokens of streamed text are looked at."""


def fewer_tokens(
    recipe: Recipe,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    batches: Batches,
    folder: Path,
    teacher: PreTrainedModel | None = None,
) -> Vocabulary | None:
    """The tokens that a run keeps: those of its training text. Nothing if it keeps all.

    Args:
        recipe: what is to run.
        config: the teacher's.
        tokenizer: the teacher's.
        batches: the data, tokenised with it.
        folder: of the recipe.
        teacher: where it is in memory; else how it writes, which names tokens, too, is read.

    Raises:
        UsageError: The tokenizer cannot be cut, or not to this.
    """
    student = recipe.student
    if not isinstance(student, Pruned) or student.vocabulary is None:
        return None
    writes = teacher.generation_config if teacher else load_generation(recipe.teacher, folder)
    return vocabulary_of(
        tokenizer,
        batches.documents(STREAMED),
        student.vocabulary,
        named=named_ids(config) | (named_ids(writes) if writes else set()),
        heldout=batches.heldout_documents,
        multiple=student.multiple,
    )


@dataclass(frozen=True)
class Narrowing:
    """What becomes of a run's teacher before anything else is done with it."""

    teacher: PreTrainedModel
    recipe: Recipe
    """With the student's target in the budget's unit, not as a share of the smaller teacher."""
    notice: str = ""
    """What is to be known of it, for the record."""
    whole: Size | None = None
    """How large the teacher is with all its tokens, if it lost some."""


def narrowed_teacher(
    recipe: Recipe, teacher: PreTrainedModel, vocabulary: Vocabulary | None
) -> Narrowing:
    """The teacher with the tokens that a run keeps; as it is, if that is all.

    Raises:
        UsageError: The architecture is unknown.
        NexusError: A proof failed.
    """
    if vocabulary is None or not isinstance(recipe.student, Pruned):
        return Narrowing(teacher, recipe)
    settled = recipe.student.of_whole(teacher)
    result = narrow(teacher, vocabulary.ids)
    return Narrowing(
        result.model,
        recipe.model_copy(update={"student": settled}),
        described(vocabulary, result),
        size(teacher),
    )


def described(vocabulary: Vocabulary, result: Narrow) -> str:
    """What was cut, what it costs, and what numbers mean from then on."""
    corpus, heldout = vocabulary.corpus, vocabulary.heldout
    told = (
        f"The vocabulary was cut from {vocabulary.before:,} to {len(vocabulary.ids):,} tokens. "
        "The teacher that the student learns from, and that it is compared with here, is the "
        "teacher renormalised to these: what it would give to other tokens is shared out among "
        f"them. Its logits of kept tokens are its own ({result.findings[0].detail}). Of the "
        f"training text {corpus.share:.2%} of the bytes are tokenised as before, in "
        f"{corpus.longer:.2%} more tokens"
    )
    if heldout is not None:
        told += f"; of the held-out text {heldout.share:.2%}, in {heldout.longer:.2%} more tokens"
    findings = (*vocabulary.findings, *result.findings)
    proved = "; ".join(proof.name for proof in findings if proof.outcome == "proved")
    return (
        f"{told}. Proved of tokenizer and teacher: {proved}. "
        "Bits per byte can be compared with those of any other tokenizer, nats and "
        "perplexity per token only with this one."
    )
