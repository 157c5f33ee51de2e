"""Whether teacher, student and tokenizer mean the same by a token, and the end is among them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from transformers import PreTrainedModel

from nexus import hub
from nexus.checking.seen import Seen
from nexus.kernels.lm_head import head_rows
from nexus.proofs import Outcome, Proof, told
from nexus.scene import Scene
from nexus.tokenizers import PROBES, template_difference

UNKNOWN_SHARE = 0.001
"""From which share of unknown tokens on one should know of it."""

MOST_UNKNOWN = 0.05
"""From which share on the tokenizer is not one of this text."""

_proof = partial(told, "tokens")


def token_proofs(scene: Scene, seen: Seen, *, in_memory: bool = False) -> Iterator[Proof]:
    """Token maps, special tokens, chat templates, heads, ends, and text that has no tokens.

    A student whose map from tokens to ids is another one has been refused before this.

    Args:
        scene: What the run has loaded.
        seen: Its first rows.
        in_memory: Teacher and student were given as models, with one tokenizer.
    """
    yield _one_map(scene, in_memory)
    yield _one_template(scene, in_memory)
    heads = {
        "teacher": head_rows(scene.teacher.model),
        "student": head_rows(scene.student),
    }
    padding = {name: rows - scene.vocabulary for name, rows in heads.items()}
    yield _proof(
        "each head has a row for every token",
        "proved",
        f"{scene.vocabulary:,} tokens"
        + "".join(f"; {count:,} rows of the {name}'s are padding without probability"
                  for name, count in padding.items() if count),
    )  # fmt: skip
    yield _one_end(scene)
    yield _proof(
        "the token that ends a text is trained",
        "proved" if seen.ended else "doubtful",
        f"in {seen.ended:,} of {seen.documents:,} documents looked at",
        "The student may never stop: let documents end (data.over_long: truncate cuts their ends)",
        value=seen.ended / max(1, seen.documents),
        limit=0.0,
    )
    yield _unknown(scene, seen)


def _one_map(scene: Scene, in_memory: bool) -> Proof:
    student = scene.recipe.student
    if in_memory:
        how = "one tokenizer was given for both"
    elif student.kind != "pretrained":
        how = "the student has the teacher's tokenizer"
    else:
        roles = ", special tokens, BOS and EOS" if student.tokenizer == "own" else ""
        how = f"map, merges{roles} and {len(PROBES)} difficult texts compared"
    detail = f"{len(scene.tokenizer.get_vocab()):,} tokens; {how}"
    return _proof("teacher and student read and write the same tokens", "proved", detail)


def _one_template(scene: Scene, in_memory: bool) -> Proof:
    name = "conversations are written the same way for both"
    if not scene.tokenizer.chat_template:
        return _proof(name, "skipped", "the tokenizer has no chat template")
    source = scene.recipe.student
    if in_memory or source.kind != "pretrained":
        return _proof(name, "proved", "the student has the teacher's chat template")
    own = hub.load_tokenizer(source, scene.folder)
    if difference := template_difference(scene.tokenizer, own):
        remedy = "The student is saved with the teacher's: use that one from then on"
        return _proof(name, "doubtful", difference, remedy)
    return _proof(name, "proved", "the chat templates are equal" if own.chat_template else
                  "the student has none, and gets the teacher's")  # fmt: skip


def _one_end(scene: Scene) -> Proof:
    """The token that the data ends with is one at which models stop to write."""
    name = "what ends a text ends it for both models"
    end = scene.tokenizer.eos_token_id
    if end is None:
        remedy = "Set eos_token in the tokenizer's configuration"
        return _proof(name, "doubtful", "the tokenizer names no end-of-text token", remedy)
    others = {
        which: ends
        for which, model in (("teacher", scene.teacher.pretrained), ("student", scene.student))
        if (ends := ends_of(model)) and end not in ends
    }
    token = repr(scene.tokenizer.eos_token)
    if not others:
        return _proof(name, "proved", f"{token} ({end})")
    which, ends = next(iter(others.items()))
    detail = f"the tokenizer's is {token} ({end}), but the {which} stops at {sorted(ends)}"
    remedy = f"Set eos_token_id of the {which} in generation_config.json, or the tokenizer's"
    return _proof(name, "doubtful", detail, remedy)


def ends_of(model: PreTrainedModel) -> set[int]:
    """The tokens at which a model stops to write, by any of its configurations."""
    found: set[int] = set()
    for value in (model.generation_config.eos_token_id, model.config.eos_token_id):
        match value:
            case int():
                found.add(value)
            case list() | tuple():
                found.update(value)
    return found


def _unknown(scene: Scene, seen: Seen) -> Proof:
    name = "the tokenizer has tokens for all of the text"
    if scene.tokenizer.unk_token_id is None or not seen.tokens:
        return _proof(name, "proved", "it knows no unknown token")
    share = seen.unknown / seen.tokens
    outcome: Outcome = "proved" if share <= UNKNOWN_SHARE else "doubtful"
    return _proof(
        name,
        "failed" if share > MOST_UNKNOWN else outcome,
        f"{seen.unknown:,} of {seen.tokens:,} tokens looked at are unknown ({share:.2%})",
        "Clean the text, or take a teacher that was trained on its language",
        value=share,
        limit=UNKNOWN_SHARE,
    )
