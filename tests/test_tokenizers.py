"""Tokenizers are one when they give the same ids to the same text, whatever their sizes."""

from __future__ import annotations

import json
import runpy
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nexus.errors import UsageError
from nexus.hub import ModelSource, load_tokenizer
from nexus.tokenizers import (
    PROBES,
    compare_tokenizers,
    real_vocabulary,
    shared_vocabulary,
    template_difference,
    with_end,
)

WORKSPACE = runpy.run_path(str(Path(__file__).with_name("workspace.py")))

LETTERS = [chr(code) for code in range(33, 127)]
MERGES = [("t", "h"), ("th", "e"), ("a", "n"), ("1", "2")]


def tokenizer(
    change: Callable[[Tokenizer], None] = lambda _: None,
    merges: list[tuple[str, str]] = MERGES,
    swap: tuple[int, int] = (0, 0),
) -> PreTrainedTokenizerFast:
    """A small byte-pair tokenizer, with two of its ids swapped and `change` applied."""
    tokens = ["<unk>", "<s>", *LETTERS, "Ġ", *sorted(a + b for a, b in MERGES)]
    tokens[swap[0]], tokens[swap[1]] = tokens[swap[1]], tokens[swap[0]]
    ids = {token: number for number, token in enumerate(tokens)}
    inner = Tokenizer(models.BPE(ids, merges, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    change(inner)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def with_lowercase(inner: Tokenizer) -> None:
    inner.normalizer = normalizers.Lowercase()


def with_digits_apart(inner: Tokenizer) -> None:
    digits = pre_tokenizers.Digits(individual_digits=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([digits, inner.pre_tokenizer])


def with_prefix_space(inner: Tokenizer) -> None:
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def with_bos(inner: Tokenizer) -> None:
    inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])


def test_a_tokenizer_is_itself() -> None:
    compare_tokenizers(tokenizer(), tokenizer())


def test_permuted_ids_of_the_same_size_are_found() -> None:
    """Same size, same tokens, same merges: only the map tells them apart.

    To see it fail: in tokenizers.py, `_compare_maps(teacher.get_vocab(), student.get_vocab())` →
    `len(teacher.get_vocab()) == len(student.get_vocab())`.
    """
    a, b = LETTERS.index("q") + 2, LETTERS.index("Z") + 2
    with pytest.raises(UsageError, match=rf"token 'Z' is {b} in the teacher's and {a} in the stu"):
        compare_tokenizers(tokenizer(), tokenizer(swap=(a, b)))


@pytest.mark.parametrize("owner", ["teacher", "student"])
def test_an_added_token_is_found(owner: str) -> None:
    plain, more = tokenizer(), tokenizer()
    more.add_tokens(["<new>"])
    pair = (more, plain) if owner == "teacher" else (plain, more)
    with pytest.raises(UsageError, match=r"token '<new>'.*absent.*cross-tokenizer"):
        compare_tokenizers(*pair)


@pytest.mark.parametrize("change", [with_lowercase, with_digits_apart, with_prefix_space, with_bos])
def test_same_map_other_behaviour_is_found(change: Callable[[Tokenizer], None]) -> None:
    """To see it fail: in tokenizers.py, drop `_compare_probes(teacher, student)`."""
    ours = tokenizer(change)
    assert ours.get_vocab() == tokenizer().get_vocab()
    with pytest.raises(UsageError, match=r"encodes '.*' as \[.*\], the student's as \["):
        compare_tokenizers(tokenizer(), ours)


def test_merges_in_another_order_are_found() -> None:
    """`the` is one token only where t and h merge first."""
    merges = [("t", "h"), ("a", "n"), ("1", "2")]
    with pytest.raises(UsageError, match="the student's as"):
        compare_tokenizers(tokenizer(), tokenizer(merges=merges))


def test_there_are_fifty_probes_and_no_two_alike() -> None:
    assert len(set(PROBES)) == len(PROBES) >= 50


def test_the_real_vocabulary_ends_with_the_highest_id() -> None:
    ours = tokenizer()
    size = len(ours.get_vocab())
    assert real_vocabulary(ours) == size
    ours.add_tokens(["<new>"])
    assert real_vocabulary(ours) == size + 1


def test_rows_of_padding_are_noticed_on_both_sides() -> None:
    ours = tokenizer()
    size = real_vocabulary(ours)
    assert shared_vocabulary(ours, size, size) == (size, None)
    vocabulary, notice = shared_vocabulary(ours, size + 7, size + 5)
    assert vocabulary == size
    assert notice is not None
    assert "the teacher's 7 and the student's 5" in notice


@pytest.mark.parametrize(("teacher", "student", "name"), [(-1, 0, "teacher"), (0, -1, "student")])
def test_a_head_without_a_row_for_each_token_is_refused(
    teacher: int, student: int, name: str
) -> None:
    ours = tokenizer()
    size = real_vocabulary(ours)
    with pytest.raises(UsageError, match=f"The {name}'s head has {size - 1} rows"):
        shared_vocabulary(ours, size + teacher, size + student)


SPECIAL = ("<unk>", "<s>", "</s>", "<|mark|>")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer's folder, with a BOS and an EOS, beside a model."""
    folder = tmp_path_factory.mktemp("tokenizers") / "teacher"
    inner = Tokenizer(models.BPE({t: i for i, t in enumerate(SPECIAL[:3])}, [], unk_token="<unk>"))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: number for number, token in enumerate((*SPECIAL, *letters, "th", "the", "an"))}
    inner.model = models.BPE(ids, [("t", "h"), ("th", "e"), ("a", "n")], unk_token="<unk>")
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIAL))
    whole = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    WORKSPACE["save"](folder, WORKSPACE["make_model"](layers=1, seed=0), whole)
    return folder


def in_tokenizer(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def mutate(folder: Path) -> None:
        path = folder / "tokenizer.json"
        parts = json.loads(path.read_text())
        change(parts)
        path.write_text(json.dumps(parts))

    return mutate


def in_settings(**values: Any) -> Callable[[Path], None]:
    def mutate(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return mutate


def permute(parts: Any) -> None:
    ids = parts["model"]["vocab"]
    ids["A"], ids["B"] = ids["B"], ids["A"]


def resize(parts: Any) -> None:
    del parts["model"]["vocab"]["an"]
    parts["model"]["merges"].pop()


def add(parts: Any) -> None:
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    token = {"id": len(parts["model"]["vocab"]), "content": "<new>", "special": True, **flags}
    parts["added_tokens"].append(token)


def put_bos_in_front(parts: Any) -> None:
    front = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    parts["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [front, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }  # fmt: skip


MUTATIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "two ids permuted": (in_tokenizer(permute), "token 'A' is 36 in the teacher's and 37 in the"),
    "one token fewer": (in_tokenizer(resize), "token 'an' is 262 in the teacher's and absent in"),
    "an added token": (in_tokenizer(add), "token '<new>' is absent in the teacher's and 263"),
    "another normaliser": (
        in_tokenizer(lambda parts: parts.update(normalizer={"type": "Lowercase"})),
        "the teacher's encodes 'Hello, world!' as",
    ),
    "a BOS in front": (
        in_tokenizer(put_bos_in_front),
        r"encodes '' as \[\], the student's as \[1\]",
    ),
    "merges reordered": (
        in_tokenizer(
            lambda parts: parts["model"]["merges"].insert(0, parts["model"]["merges"].pop())
        ),
        r"model\.merges\[0\]\[0\] is 't' in the teacher's and 'a' in the student's",
    ),
    "another pre-tokeniser": (
        in_tokenizer(lambda parts: parts["pre_tokenizer"].update(use_regex=False)),
        "pre_tokenizer.use_regex is True in the teacher's and False",
    ),
    "a token no longer special": (
        in_tokenizer(lambda parts: parts["added_tokens"][3].update(special=False)),
        r"added token '<\|mark\|>'.special is True in the teacher's and False",
    ),
    "another EOS": (in_settings(eos_token="<|mark|>"), "eos_token is '</s>'.*and '<|mark|>'"),
    "another decoder": (
        in_tokenizer(lambda parts: parts.update(decoder={"type": "Fuse"})),
        "decoder.type is 'ByteLevel' in the teacher's and 'Fuse'",
    ),
    "bytes for what is unknown": (
        in_tokenizer(lambda parts: parts["model"].update(byte_fallback=True)),
        "model.byte_fallback is False in the teacher's and True",
    ),
    "a space in front": (
        in_tokenizer(lambda parts: parts["pre_tokenizer"].update(add_prefix_space=True)),
        "encodes .* as .*, the student's as",
    ),
}


def test_there_are_twelve_mutations() -> None:
    assert len(MUTATIONS) == 12


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutated_tokenizer_is_refused_within_ten_seconds(
    name: str, saved: Path, tmp_path: Path
) -> None:
    """As the run meets them: from folders. Break a line of `compare_tokenizers` to see it fail."""
    mutate, says = MUTATIONS[name]
    shutil.copytree(saved, tmp_path / "student")
    teacher, student = load(saved), load(tmp_path / "student")
    compare_tokenizers(teacher, student)
    mutate(tmp_path / "student")
    began = time.monotonic()
    with pytest.raises(UsageError, match=says):
        compare_tokenizers(teacher, load(tmp_path / "student"))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("name", ["a token no longer special", "another EOS", "another decoder"])
def test_roles_may_be_given_up_and_ids_may_not(name: str, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "student")
    MUTATIONS[name][0](tmp_path / "student")
    compare_tokenizers(load(saved), load(tmp_path / "student"), roles=False)
    MUTATIONS["two ids permuted"][0](tmp_path / "student")
    with pytest.raises(UsageError, match="token 'A'"):
        compare_tokenizers(load(saved), load(tmp_path / "student"), roles=False)


def test_what_one_call_sets_for_itself_is_no_difference(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "student")
    teacher, student = load(saved), load(tmp_path / "student")
    student("a text", truncation=True, max_length=2)
    student.pad_token = "<unk>"
    compare_tokenizers(teacher, student)


def test_the_first_difference_of_templates_is_shown() -> None:
    ours, theirs = tokenizer(), tokenizer()
    assert template_difference(theirs, ours) is None
    ours.chat_template = "{{ messages }}\n<a>"
    assert template_difference(theirs, ours) is None
    theirs.chat_template = "{{ messages }}\n<b>"
    said = template_difference(theirs, ours)
    assert said is not None and "after 18 characters" in said
    assert template_difference(ours, ours) is None


def load(folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(ModelSource(model=str(folder)), folder)


def test_documents_of_an_encoder_end_with_its_separator() -> None:
    """To see it fail: in with_end, give the tokenizer back as it is."""
    encoders = runpy.run_path(str(Path(__file__).with_name("encoders.py")))
    tokenizer = encoders["tokenizer"]()
    assert with_end(tokenizer).eos_token_id == tokenizer.sep_token_id
    assert tokenizer.eos_token is None
    assert with_end(with_end(tokenizer)).eos_token == "[SEP]"
