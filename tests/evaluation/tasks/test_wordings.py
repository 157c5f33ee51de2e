"""Well-known tasks are put in their usual words."""

from __future__ import annotations

from nexus.evaluation.tasks.wordings import QUESTION, is_known, wording_of


def test_what_is_not_known_is_a_question_with_an_answer() -> None:
    assert not is_known("anything")
    assert wording_of("anything") is QUESTION is wording_of("arc_easy")
    assert QUESTION.prompt == "Question: {question}\nAnswer:"


def test_words_of_labels_differ() -> None:
    for name in ("cola", "rte", "trec"):
        words = wording_of(name).words
        assert is_known(name)
        assert len(set(words.values())) == len(words) > 1
