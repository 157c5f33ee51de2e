from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nexus.data.chat import Example, stable_key
from nexus.data.examples import Examples


@st.composite
def any_example(draw: st.DrawFn) -> Example:
    size = draw(st.integers(1, 6))
    numbers = st.lists(st.integers(0, 2**31 - 1), min_size=size, max_size=size)
    flags = st.lists(st.booleans(), min_size=size, max_size=size)
    ids = np.array(draw(numbers), dtype=np.int32)
    task = draw(st.sampled_from(["", "math", "é"]))
    return Example(
        ids=ids,
        is_target=np.array(draw(flags)),
        parts=np.array(draw(flags), dtype=np.int8),
        task=task,
        key=stable_key(ids, task),
        place=draw(st.text(st.characters(codec="utf-8"), max_size=9)),
        is_text=draw(st.booleans()),
        truncated=draw(st.booleans()),
        escaped=draw(st.booleans()),
    )


@given(given_examples=st.lists(any_example(), max_size=8))
def test_what_goes_in_comes_out(given_examples: list[Example]) -> None:
    examples = Examples()
    for example in given_examples:
        examples.append(example)
    assert len(examples) == len(given_examples)
    for before, after in zip(given_examples, examples, strict=True):
        for field in fields(Example):
            one, other = getattr(before, field.name), getattr(after, field.name)
            assert np.array_equal(one, other), field.name
    assert examples.lengths.tolist() == [len(example) for example in given_examples]
    assert examples.tokens == sum(map(len, given_examples))
    assert list(examples.keys()) == [example.key for example in given_examples]
    for task in examples.task_names:
        numbers = [n for n, example in enumerate(given_examples) if example.task == task]
        assert examples.of_task(task).tolist() == numbers


def test_the_digest_tells_documents_apart_by_where_they_end() -> None:
    def digest(*lengths: int) -> bytes:
        examples = Examples()
        ids = iter(range(9))
        for length in lengths:
            array = np.fromiter(ids, np.int32, length)
            flags = np.ones(length, dtype=bool)
            parts = np.zeros(length, dtype=np.int8)
            examples.append(Example(array, flags, parts, "", stable_key(array, ""), "f:1"))
        return examples.digest

    assert digest(1, 2) == digest(1, 2) != digest(2, 1)
