from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from nexus.data.chat import Example, stable_key
from nexus.data.corpus import Corpus, DataSummary
from nexus.data.examples import Examples
from nexus.data.loader import DataSpec, load
from nexus.data.mixture import Mixture
from nexus.data.rows import Packed
from nexus.data.trainable import refuse_untrainable
from nexus.errors import UsageError

LENGTH = 16


@pytest.fixture
def loaded(
    tmp_path: Path, write_jsonl: Callable[..., Path], tokenizer: PreTrainedTokenizerFast
) -> Callable[..., Any]:
    def run(rows: list[dict[str, Any]], template: str | None = None, **spec: Any) -> Any:
        write_jsonl("rows.jsonl", rows)
        values = {"sources": [{"kind": "jsonl", "path": "rows.jsonl"}], "sequence_length": LENGTH}
        used = tokenizer
        if template:
            used = PreTrainedTokenizerFast(
                tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|im_end|>"
            )
            used.chat_template = template
        return load(
            DataSpec.parse(values | spec), used, tmp_path,
            seed=0, tokens_per_step=LENGTH, micro_batch_rows=1,
        )  # fmt: skip

    return run


LONG = {"prompt": "p", "completion": "c" * 40}
SHORT = {"prompt": "p", "completion": "c"}


def test_answers_that_are_all_cut_teach_no_end(loaded: Callable[..., Any]) -> None:
    """Break the last `if` of `refuse_untrainable` to see a student trained that never stops."""
    with pytest.raises(UsageError) as caught:
        loaded([LONG] * 3, over_long="truncate")
    for part in ("no end is ever trained", "rows.jsonl:2", "sequence_length"):
        assert part in str(caught.value)


def test_one_end_among_the_first_rows_is_enough(loaded: Callable[..., Any]) -> None:
    loaded([LONG] * 3 + [SHORT], over_long="truncate")


def test_pieces_of_texts_need_no_end(loaded: Callable[..., Any]) -> None:
    loaded([{"text": "t" * (LENGTH * 300)}], over_long="split")
    with pytest.raises(UsageError, match="no end is ever trained"):
        loaded([{"text": "t" * 40}], over_long="truncate")


def test_a_template_without_an_end_of_turn_is_refused(loaded: Callable[..., Any]) -> None:
    """To see it fail: in data/trainable.py, `if endless and not ended:` → `if False:`."""
    template = (
        "{% for m in messages %}{{ m.role[0] + ':' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
    )
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    with pytest.raises(UsageError, match=r"no end is ever trained.*ends a turn with a special"):
        loaded([{"messages": turns}], template)


def _example(targets: list[bool], place: str) -> Example:
    ids = np.arange(len(targets), dtype=np.int32)
    return Example(
        ids=ids,
        is_target=np.array(targets),
        parts=np.zeros(len(ids), dtype=np.int8),
        task="",
        key=stable_key(ids, ""),
        place=place,
    )


def test_rows_without_a_target_are_named(tokenizer: PreTrainedTokenizerFast) -> None:
    """Break the first `if` of `refuse_untrainable` to let a row pass that teaches nothing.

    To see it fail: in data/trainable.py, `if empty:` → `if False:`.
    """
    examples = Examples()
    for number, targets in enumerate(([True] * 4, [False] * 4, [True, False, False, False])):
        examples.append(_example(targets, f"f:{number}"))
    packed = Packed(examples, np.arange(3), 4)
    summary = DataSummary((), (), 0, 0, 3, 1.0, 0)
    corpus = Corpus({"": packed}, None, ("",), b"", summary)
    with pytest.raises(UsageError, match=r"^2 of the first 100 rows have no target.*f:\d; f:\d"):
        refuse_untrainable(corpus, Mixture({"": 3}, {}, 0), 100, tokenizer)
