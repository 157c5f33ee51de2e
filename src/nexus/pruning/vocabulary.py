"""Vocabulary: a smaller tokenizer that writes a corpus as before, and which rows it needs."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nexus.errors import NexusError, UsageError
from nexus.proofs import Proof
from nexus.pruning.agreement import GONE, Agreement, agreement, encoded
from nexus.pruning.merges import Merges

HowMany = int | Literal["used"]
"""So many tokens, or those that a corpus uses."""


@dataclass(frozen=True)
class Vocabulary:
    """A smaller tokenizer and where its tokens were in the one it comes from."""

    tokenizer: PreTrainedTokenizerFast
    ids: Int[Tensor, " kept"]
    """The ids that the kept tokens had, in increasing order; the new ids are their places."""
    before: int
    """How many tokens there were."""
    used: int
    """How many of them the corpus uses."""
    corpus: Agreement
    """What both tokenizers make of the corpus."""
    heldout: Agreement | None
    """The same of other text, if there was some."""
    findings: tuple[Proof, ...]
    """What was proved, with the numbers that decided."""

    @property
    def places(self) -> dict[int, int]:
        """The new id of every kept token by its old one."""
        return {old: new for new, old in enumerate(self.ids.tolist())}

    @property
    def facts(self) -> dict[str, Any]:
        """What it keeps and what that costs, for a record."""
        told: dict[str, Any] = {"before": self.before, "after": len(self.ids), "used": self.used}
        for name, found in (("corpus", self.corpus), ("heldout", self.heldout)):
            told[name] = None if found is None else asdict(found) | {"share": found.share}
        return told


def smaller_vocabulary(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    size: HowMany = "used",
    *,
    counts: Mapping[int, int] | None = None,
    named: Collection[int] = (),
    heldout: Iterable[str] = (),
    multiple: int = 1,
) -> Vocabulary:
    """The tokens that a corpus uses, the most frequent first, with all that they are built from.

    Tokens for bytes, added tokens and `named` ones always stay, so that every text can still be
    written. Of tokens that are equally frequent, unused ones among them, those that the tokenizer
    learnt first are first. Proved on the corpus itself: wherever every token of a word is kept,
    the word is encoded as before.

    Args:
        tokenizer: a byte-pair tokenizer of the tokenizers library; is left as it is.
        texts: the corpus.
        size: how many tokens; `used` is all that the corpus uses.
        counts: how often the corpus uses each token, by its id; counted on `texts` if not given.
        named: further ids that stay, such as those that a configuration names.
        heldout: other text, on which is measured how many more tokens it takes.
        multiple: of which `used` becomes a multiple, by the tokens that would come next.

    Raises:
        UsageError: It is no byte-pair tokenizer, or cannot have this size; the nearest is named.
        NexusError: The proof failed: a bug of Nexus or of the versions installed.
    """
    fast, parts = byte_pairs(tokenizer)
    whole = _by_itself(fast)
    corpus = list(texts) if counts is None else texts
    if counts is None:
        counts = Counter(number for ids in encoded(whole, corpus) for number in ids)
    merges = Merges(parts)
    ids = _choose(fast, merges, parts, counts, size, set(named), multiple)
    small = _rebuilt(fast, parts, merges, ids)
    places = np.full(max(fast.get_vocab().values()) + 1, GONE)
    places[ids] = np.arange(len(ids))
    found = agreement(whole, _by_itself(small), places, corpus)
    other = agreement(whole, _by_itself(small), places, heldout)
    return Vocabulary(
        small,
        torch.tensor(ids),
        before=len(fast),
        used=sum(count > 0 for count in counts.values()),
        corpus=found,
        heldout=other if other.texts else None,
        findings=(_proof(found),),
    )


def byte_pairs(
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[PreTrainedTokenizerFast, dict[str, Any]]:
    """The tokenizer with what its file says, if it is one that can be cut.

    Raises:
        UsageError: It is none.
    """
    name = type(tokenizer).__name__
    remedy = (
        "Only a byte-pair (BPE) tokenizer of the tokenizers library can be cut: leave the "
        "vocabulary whole, or choose a teacher that has one"
    )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UsageError(f"{name} is a slow tokenizer, written in Python. {remedy}")
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = parts["model"]["type"]
    if kind != "BPE":
        raise UsageError(f"{name} is a {kind} tokenizer. {remedy}")
    if parts["model"].get("dropout"):
        raise UsageError(
            f"{name} leaves out merges at random (dropout {parts['model']['dropout']}), so that no "
            "text is encoded the same way twice. Set its dropout to null"
        )
    return tokenizer, parts


def _by_itself(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """What encodes, as it was saved: the last text that a tokenizer was given left its settings.

    That may have been one whose special tokens were spelt out as letters, or cut off at a length.
    """
    alone = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    alone.no_truncation()
    alone.no_padding()
    return alone


def _choose(
    tokenizer: PreTrainedTokenizerFast,
    merges: Merges,
    parts: dict[str, Any],
    counts: Mapping[int, int],
    size: HowMany,
    named: set[int],
    multiple: int,
) -> list[int]:
    """The old ids of what is kept, in increasing order."""
    whole = tokenizer.get_vocab()
    token_of = {number: token for token, number in whole.items()}
    kept = merges.alphabet | {entry["content"] for entry in parts["added_tokens"]}
    kept |= {token_of[one] for one in {*tokenizer.all_special_ids, *named} if one in token_of}
    kept |= {parts["model"]["unk_token"]} - {None}
    kept |= set().union(*(merges.ancestors(token) for token in kept))
    kept &= whole.keys()
    if isinstance(size, int) and not len(kept) <= size <= len(whole):
        least = size < len(kept)
        raise UsageError(
            f"vocabulary {size} is {'too few' if least else 'too many'}: this tokenizer has "
            f"{len(whole)} tokens, of which {len(kept)} stand for bytes or are special. The "
            f"nearest possible is {len(kept) if least else len(whole)}"
        )
    last = len(merges.order)
    ranking = sorted(
        whole.keys() - kept,
        key=lambda token: (
            -counts.get(whole[token], 0),
            merges.order.get(token, last),
            whole[token],
        ),
    )
    for token in ranking:
        full = len(kept) >= size if isinstance(size, int) else not counts.get(whole[token])
        if full and (isinstance(size, int) or len(kept) % multiple == 0):
            break
        more = ({token} | merges.ancestors(token)) - kept
        if not isinstance(size, int) or len(kept) + len(more) <= size:
            kept |= more
    return sorted(whole[token] for token in kept)


def _rebuilt(
    tokenizer: PreTrainedTokenizerFast, parts: dict[str, Any], merges: Merges, ids: list[int]
) -> PreTrainedTokenizerFast:
    """The tokenizer with some of its tokens, in all else the same."""
    places = {old: new for new, old in enumerate(ids)}
    changed = json.loads(json.dumps(parts))
    model = changed["model"]
    model["vocab"] = {
        token: places[old] for token, old in merges.vocabulary.items() if old in places
    }
    model["merges"] = merges.among(model["vocab"].keys())
    for entry in changed["added_tokens"]:
        entry["id"] = places[entry["id"]]
    _renumber_steps(changed["post_processor"], places)
    if changed["padding"]:
        changed["padding"]["pad_id"] = places[changed["padding"]["pad_id"]]
    with tempfile.TemporaryDirectory(prefix="nexus-tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        for path in Path(folder).iterdir():
            if path.name == "tokenizer_config.json":
                _renumber_config(path, places)
            elif path.suffix != ".jinja":
                path.unlink()
        (Path(folder) / "tokenizer.json").write_text(json.dumps(changed, ensure_ascii=False))
        small: PreTrainedTokenizerFast = type(tokenizer).from_pretrained(folder)
    small.name_or_path = tokenizer.name_or_path
    expected = {t: places[old] for t, old in tokenizer.get_vocab().items() if old in places}
    if small.get_vocab() != expected:
        raise NexusError(
            f"The smaller {type(tokenizer).__name__} came out with other ids than were meant. "
            "Report this with the tokenizer's files"
        )
    return small


def _renumber_steps(step: Any, places: dict[int, int]) -> None:
    """The ids that what is put around a text has in it."""
    match step:
        case {"type": "Sequence", "processors": processors}:
            for one in processors:
                _renumber_steps(one, places)
        case {"type": "TemplateProcessing", "special_tokens": tokens}:
            for token in tokens.values():
                token["ids"] = [places[one] for one in token["ids"]]
        case {"sep": sep, "cls": cls}:
            sep[1], cls[1] = places[sep[1]], places[cls[1]]


def _renumber_config(path: Path, places: dict[int, int]) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    if "added_tokens_decoder" in settings:
        entries = settings["added_tokens_decoder"].items()
        settings["added_tokens_decoder"] = {str(places[int(old)]): one for old, one in entries}
    path.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


def _proof(found: Agreement) -> Proof:
    """That nothing is written otherwise but what cannot be written as before."""
    name = "words whose tokens are all kept are encoded as before"
    detail = (
        f"{found.share:.2%} of {found.bytes:,} bytes are encoded alike; {found.broken} such words "
        "are not"
    )
    if found.broken:
        raise NexusError(
            f"Pruning proved wrong: {name}: {detail}. Report this with the tokenizer's files"
        )
    return Proof(group="pruning", name=name, outcome="proved", detail=detail, value=0.0, limit=0.0)
