"""nexus evaluate: one model alone, or beside a teacher; what is kept is not measured again."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nexus.evaluating as evaluating
from nexus.errors import UsageError
from nexus.evaluating import FILE_NAME, evaluate
from nexus.examination import Request
from nexus.results import Estimate, Measured

WORK = runpy.run_path(str(Path(__file__).with_name("workspace.py")))


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    WORK["write_questions"](folder)
    return folder


def asked(work: Path, model: str, teacher: str | None = None, **others: Any) -> Request:
    return Request(
        str(work / model),
        None if teacher is None else str(work / teacher),
        text=(str(work / "heldout.jsonl"),),
        speed_seconds=0.0,
        rollouts=0,
        **others,
    )


def test_a_model_is_its_own_perfect_student(work: Path) -> None:
    quality = evaluate(asked(work, "teacher", "teacher"), say=silent).evaluation.heldout
    assert quality is not None and quality.teacher is not None
    trained = quality.trained
    assert trained.forward_kl and abs(trained.forward_kl.value) < 1e-6
    assert trained.agreement and trained.agreement.value == 1.0
    assert trained.acceptance and trained.acceptance.value == pytest.approx(1.0, abs=1e-5)
    assert trained.nll.value == pytest.approx(quality.teacher.nll.value, abs=1e-6)


def test_alone_it_scores_what_it_scores_beside_a_teacher(work: Path) -> None:
    alone = evaluate(asked(work, "student"), say=silent).evaluation.heldout
    beside = evaluate(asked(work, "student", "teacher"), say=silent).evaluation.heldout
    assert alone and beside and alone.teacher is None
    assert alone.trained.forward_kl is None and alone.trained.agreement is None
    assert (alone.documents, alone.tokens) == (beside.documents, beside.tokens)
    for measure in ("nll", "perplexity", "bits_per_byte", "entropy"):
        ours, theirs = (
            Estimate.model_validate(each.trained.model_dump()[measure]) for each in (alone, beside)
        )
        assert ours.value == pytest.approx(theirs.value, rel=1e-5)
        assert ours.low is not None and ours.n == alone.documents


def test_rates_and_sizes_of_one_model_alone(work: Path) -> None:
    request = replace(asked(work, "student"), text=(), speed_seconds=0.2, batch_sizes=(1, 2))
    found = evaluate(request, say=silent).evaluation
    assert found.heldout is None and set(found.size) == {"student"}
    assert found.speed and found.speed.teacher is None and not found.speed.speedup
    assert [each.teacher for each in found.speed.batches] == [None] * len(found.speed.batches)


def test_what_is_kept_is_not_measured_again(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(
        work, "student", "teacher", tasks=(str(work / "easy.jsonl"),), output=tmp_path / "kept"
    )
    first = evaluate(request, say=silent)

    def never(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(evaluating, "measure", never)
    monkeypatch.setattr("nexus.evaluation.exam.run", never)
    again = evaluate(request, say=silent)
    assert again.evaluation.heldout == first.evaluation.heldout
    assert again.evaluation.tasks["easy"].scores == first.evaluation.tasks["easy"].scores
    written = json.loads((tmp_path / "kept" / FILE_NAME).read_text())
    assert Measured.parse(written).evaluation == again.evaluation
    with pytest.raises(AssertionError, match="measured again"):
        evaluate(replace(request, dtype="bfloat16"), say=silent)


def test_sums_beside_one_teacher_are_not_those_beside_another(work: Path, tmp_path: Path) -> None:
    def kl(teacher: str | None) -> Estimate | None:
        found = evaluate(asked(work, "student", teacher, output=tmp_path / "kept"), say=silent)
        assert found.evaluation.heldout
        return found.evaluation.heldout.trained.forward_kl

    teacher, itself = kl("teacher"), kl("student")
    assert teacher and itself and teacher.value > 0.1 > itself.value
    assert kl(None) is None


def test_an_evaluation_that_dies_goes_on(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(
        work, "student", "teacher", tasks=(str(work / "easy.jsonl"),), output=tmp_path / "kept"
    )

    def dies(*arguments: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("nexus.evaluation.exam.run", dies)
        with pytest.raises(KeyboardInterrupt):
            evaluate(request, say=silent)
    monkeypatch.setattr(evaluating, "measure", dies)  # the text is done
    assert evaluate(request, say=silent).evaluation.tasks["easy"].items == 12


def test_models_of_other_vocabularies_have_no_fidelity(work: Path) -> None:
    tokenizer = WORK["make_tokenizer"]()
    tokenizer.add_tokens(["something"])
    model = WORK["make_model"](layers=1, seed=3, vocabulary=260)
    WORK["save"](work / "stranger", model, tokenizer)
    with pytest.raises(UsageError) as refused:
        evaluate(asked(work, "stranger", "teacher"), say=silent)
    said = str(refused.value)
    assert "260" in said and "259" in said and "\n" not in said
    assert "Leave out --text" in said and "leave out --teacher" in said
    tasks = asked(work, "stranger", "teacher", tasks=(str(work / "easy.jsonl"),))
    found = evaluate(replace(tasks, text=()), say=silent)
    assert set(found.evaluation.tasks["easy"].scores) == {"teacher", "trained"}


def test_output_that_is_a_file_is_refused(work: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match="is a file. Name a directory"):
        evaluate(asked(work, "student", output=tmp_path / "taken"), say=silent)
