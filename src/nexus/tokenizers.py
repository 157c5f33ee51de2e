"""Whether two tokenizers are one: by their maps and by what they do, never by their size."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nexus.errors import UsageError
from nexus.spec import shown

Settings = dict[str, Any]

ONE_FOR_BOTH = (
    "Distilling distributions needs one tokenizer for both: give the student the teacher's, or use "
    "a cross-tokenizer method."
)

_ROLES_REMEDY = (
    "The student would learn the teacher's and be used with its own. Set tokenizer: teacher beside "
    "student.model, and it is given the teacher's; or name another student."
)

_EXCERPT = 40
_SPREAD = 200
"""How many tokens, spread evenly over the vocabulary, are themselves encoded as probes."""

PROBES = (
    "",
    " ",
    "   three spaces",
    "trailing space ",
    "a\tb\t\tc",
    "one\ntwo\n\nthree\r\nfour",
    "Hello, world!",
    "HELLO hello Hello hELLO",
    "The quick brown fox jumps over the lazy dog.",
    "don't can't I'll we've she'd it's I'M",
    "«Où est la bibliothèque ?» naïve façade",
    "Straße ÜBER Äpfel ß ẞ",
    "e\u0301 é ﬁ ﬀ ½ ² ™ Å Å",
    "\u200bzero\u200dwidth\ufeff",
    "non\u00a0breaking\u2003spaces\u3000here",
    "“curly” ‘quotes’ — dash – dash … dots",
    "日本語のテキストと漢字",
    "中文没有空格的句子。",
    "한국어 문장입니다.",
    "Привет, мир! ЁЖИК ёжик",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "🙂🚀👩‍👩‍👧‍👦🏳️‍🌈",
    "0 1 12 123 1234 12345 1234567890",
    "3.14159 -2.5e-10 1,000,000 50%",
    "2024-02-29T12:34:56+00:00",
    "٣٤٥ ４５６ Ⅷ",
    "def f(x: int) -> int:\n    return x ** 2  # square\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]; }",
    "\t\tif x:\n\t\t\treturn\n",
    "        eight spaces deep",
    "SELECT * FROM t WHERE a != 'b';",
    '<div class="x">&amp; &lt;</div>',
    "https://example.org/a/b?c=d&e=%20#f",
    "user.name+tag@example.co.uk",
    "C:\\Windows\\System32 /usr/local/bin ~/.config",
    "snake_case camelCase PascalCase kebab-case SCREAMING_CASE",
    "$x^2 + \\frac{a}{b} = \\sqrt{c}$",
    "∀x∈ℝ: x² ≥ 0 ⇒ √x² = |x|",
    '{"key": [1, 2.0, null, true]}',
    "!!! ??? ... --- *** ### @@@",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "antidisestablishmentarianism pneumonoultramicroscopic",
    "Q: What is 7 × 8?\nA: 56",
    "<s> </s> <unk> <pad> <mask> [CLS] [SEP]",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
    "[INST] <<SYS>> be kind <</SYS>> [/INST]",
    "<think>\nhm\n</think>",
    "\x00\x01\x7f control",
)
"""Strings that tell normalisers, pre-tokenisers, merges and special tokens apart."""


def compare_tokenizers(
    teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase, *, roles: bool = True
) -> None:
    """Make sure that both tokenizers give the same ids to the same text.

    Their maps from token to id are compared in full, added tokens included. What maps do not show
    (normaliser, pre-tokeniser, merges, a BOS put in front) is compared on probe strings, `PROBES`
    and tokens spread over the vocabulary, and in the settings themselves.

    Args:
        teacher: The one that is used.
        student: The one that the student was trained with.
        roles: Whether both must also agree on which tokens are special, which of them begins and
            ends a text, and how ids become text again.

    Raises:
        UsageError: They differ. Names the first difference and the remedy.
    """
    _compare_maps(teacher.get_vocab(), student.get_vocab())
    _compare_probes(teacher, student)
    _compare_settings(_machinery(teacher), _machinery(student), ONE_FOR_BOTH)
    if roles:
        _compare_settings(_roles(teacher), _roles(student), _ROLES_REMEDY)


def template_difference(
    teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase
) -> str | None:
    """Where two chat templates part, in one sentence; nothing where one of them has none."""
    ours, theirs = student.chat_template, teacher.chat_template
    if not ours or not theirs or ours == theirs:
        return None
    ours, theirs = json.dumps(ours), json.dumps(theirs)
    at = len(os.path.commonprefix([ours, theirs]))
    return (
        "The chat templates of teacher and student differ: after "
        f"{at} characters the teacher's goes on {theirs[at : at + _EXCERPT]!r}, the student's "
        f"{ours[at : at + _EXCERPT]!r}."
    )


def real_vocabulary(tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of head rows that stand for tokens: the tokenizer's highest id and one."""
    return int(max(tokenizer.get_vocab().values())) + 1


def with_end(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer by which documents end: an encoder's has only what separates them."""
    if tokenizer.eos_token is not None or tokenizer.sep_token is None:
        return tokenizer
    ending = copy.deepcopy(tokenizer)
    ending.eos_token = ending.sep_token
    return ending


def shared_vocabulary(
    tokenizer: PreTrainedTokenizerBase, teacher_rows: int, student_rows: int
) -> tuple[int, str | None]:
    """The real vocabulary of two heads, and a notice where a head has rows of padding beyond it.

    Raises:
        UsageError: A head has no row for some of the tokenizer's tokens.
    """
    vocabulary = real_vocabulary(tokenizer)
    heads = (("teacher", teacher_rows), ("student", student_rows))
    for name, rows in heads:
        if rows < vocabulary:
            raise UsageError(
                f"The {name}'s head has {rows} rows, but its tokenizer has ids up to "
                f"{vocabulary - 1}: the two do not belong together. Name the tokenizer that the "
                f"{name} was trained with, or resize the model's embeddings to it."
            )
    padded = [f"the {name}'s {rows - vocabulary}" for name, rows in heads if rows > vocabulary]
    if not padded:
        return vocabulary, None
    return vocabulary, (
        f"The tokenizer has {vocabulary} ids. Head rows beyond them ({' and '.join(padded)}) are "
        "padding and get probability zero."
    )


def _compare_maps(teacher: dict[str, int], student: dict[str, int]) -> None:
    for token, theirs in sorted(teacher.items(), key=lambda entry: entry[1]):
        if student.get(token) != theirs:
            ours = student.get(token, "absent")
            raise UsageError(_difference(token, theirs, ours))
    for token, ours in sorted(student.items(), key=lambda entry: entry[1]):
        if token not in teacher:
            raise UsageError(_difference(token, "absent", ours))


def _difference(token: str, theirs: int | str, ours: int | str) -> str:
    return (
        f"The tokenizers of teacher and student differ: token {token!r} is {theirs} in the "
        f"teacher's and {ours} in the student's. {ONE_FOR_BOTH}"
    )


def _compare_probes(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> None:
    spread = sorted(teacher.get_vocab().values())
    tokens = spread[:: max(1, len(spread) // _SPREAD)]
    for text in (*PROBES, *(teacher.decode([token]) for token in tokens)):
        ours, theirs = student(text)["input_ids"], teacher(text)["input_ids"]
        if ours != theirs:
            raise UsageError(
                f"The tokenizers of teacher and student differ: the teacher's encodes {text!r} as "
                f"{theirs}, the student's as {ours}. {ONE_FOR_BOTH}"
            )


def _compare_settings(teacher: Settings, student: Settings, remedy: str) -> None:
    for name in [*teacher, *(name for name in student if name not in teacher)]:
        theirs, ours = teacher.get(name, "absent"), student.get(name, "absent")
        if theirs != ours:
            raise UsageError(
                f"The tokenizers of teacher and student differ: {name} is {shown(theirs)} in the "
                f"teacher's and {shown(ours)} in the student's. {remedy}"
            )


def _machinery(tokenizer: PreTrainedTokenizerBase) -> Settings:
    """What makes ids of text, step by step. What one call sets for itself is no part of it."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return {"type": type(tokenizer).__name__}
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    names = ("normalizer", "pre_tokenizer", "model", "post_processor")
    found = _flat({name: parts[name] for name in names})
    return {name: value for name, value in found.items() if not name.startswith("model.vocab")}


def _roles(tokenizer: PreTrainedTokenizerBase) -> Settings:
    """Which tokens are special, what begins and ends a text, and how ids become text again."""
    added = tokenizer.added_tokens_decoder
    roles: Settings = {
        f"added token {token.content!r}.{flag}": getattr(token, flag)
        for _, token in sorted(added.items())
        for flag in ("special", "normalized", "lstrip", "rstrip", "single_word")
    }
    for name in ("bos_token", "eos_token", "unk_token", "add_bos_token", "add_eos_token"):
        value = getattr(tokenizer, name, None)
        roles[name] = value if isinstance(value, bool) or value is None else str(value)
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        roles |= _flat({"decoder": parts["decoder"]})
    return roles


def _flat(values: Any, prefix: str = "") -> Settings:
    """Every value by its dotted name; lists of strings or pairs, such as merges, by their place."""
    match values:
        case dict():
            items = [(f"{prefix}.{key}" if prefix else key, part) for key, part in values.items()]
        case list():
            items = [(f"{prefix}[{place}]", part) for place, part in enumerate(values)]
        case _:
            return {prefix: values}
    flat: Settings = {} if items else {prefix: values}
    for name, part in items:
        flat |= _flat(part, name)
    return flat
