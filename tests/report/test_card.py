from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from nexus.report.card import model_card
from nexus.results import Evaluation, Sample


def with_recipe(run: Path, **changes: Any) -> Path:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe | changes))
    return run


def test_the_hub_reads_the_numbers_of_the_report(run: Path) -> None:
    data = ModelCard(model_card(run)).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-generation"
    assert "knowledge-distillation" in data.tags
    assert data.model_name == "SmolLM2-135M-Instruct-half"
    found = {
        (result.dataset_type, result.metric_type): result.metric_value
        for result in data.eval_results
    }
    saved = Evaluation.load(run)
    assert saved is not None and saved.heldout is not None
    trained = saved.heldout.trained
    assert trained.forward_kl and trained.reverse_kl and trained.agreement and trained.acceptance
    assert trained.bits_per_byte and trained.calibration
    assert found == {
        ("heldout", "perplexity"): trained.perplexity.value,
        ("heldout", "kl_divergence"): trained.forward_kl.value,
        ("heldout", "reverse_kl_divergence"): trained.reverse_kl.value,
        ("heldout", "agreement"): trained.agreement.value,
        ("heldout", "acceptance"): trained.acceptance.value,
        ("heldout", "nll"): trained.nll.value,
        ("heldout", "bits_per_byte"): trained.bits_per_byte.value,
        ("heldout", "ece"): trained.calibration.ece.value,
        **{
            (name, task.metric): task.scores["trained"][task.metric].value
            for name, task in saved.tasks.items()
        },
    }


@pytest.mark.parametrize(
    ("teacher", "student", "base"),
    [
        ("org/big", {"kind": "layers", "count": 2}, "org/big"),
        ("org/big", {"kind": "pretrained", "model": "org/small"}, "org/small"),
        ("org/big", {"kind": "scratch"}, None),
        ("/models/big", {"kind": "layers", "count": 2}, None),
    ],
)
def test_the_base_model_is_the_one_whose_weights_the_student_started_from(
    run: Path, teacher: str, student: dict[str, Any], base: str | None
) -> None:
    with_recipe(run, teacher={"kind": "local", "model": teacher}, student=student)
    data = ModelCard(model_card(run)).data.to_dict()
    assert data.get("base_model") == base
    assert data.get("base_model_relation") == ("finetune" if base else None)


def test_a_folder_that_looks_like_a_hub_name_is_a_folder(run: Path) -> None:
    with_recipe(run, teacher={"kind": "local", "model": "models/big"})
    assert ModelCard(model_card(run)).data.base_model == "models/big"
    (run.parent / "models" / "big").mkdir(parents=True)
    assert ModelCard(model_card(run)).data.base_model is None


def test_the_teachers_license_is_carried_over_where_it_is_known(run: Path, tmp_path: Path) -> None:
    assert ModelCard(model_card(run)).data.license is None
    teacher = tmp_path / "big"
    teacher.mkdir()
    (teacher / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Big\n")
    with_recipe(run, teacher={"kind": "local", "model": str(teacher)})
    assert ModelCard(model_card(run)).data.license == "apache-2.0"


def test_a_shared_card_does_not_say_where_things_lay(run: Path, tmp_path: Path) -> None:
    with_recipe(
        run,
        output=str(run),
        teacher={"kind": "local", "model": str(tmp_path / "big")},
        data={"sources": [{"kind": "jsonl", "path": str(tmp_path / "train.jsonl")}]},
    )
    card = model_card(run)
    assert str(tmp_path) not in card
    assert "train.jsonl" in card and "model: big" in card


def test_usage_is_four_plain_lines(run: Path) -> None:
    code = re.search(r"```python\n(.*?)```", model_card(run), re.DOTALL)
    assert code is not None
    assert len(code[1].splitlines()) == 4
    compile(code[1], "usage", "exec")
    assert "nexus" not in code[1]


def test_a_card_without_evaluation_claims_nothing(run: Path) -> None:
    (run / "evaluation.json").unlink()
    card = model_card(run)
    assert ModelCard(card).data.eval_results is None
    assert "has not been evaluated yet" in card
    assert "What is left" not in card


def test_foreign_words_cannot_become_markup(run: Path, evaluation: Evaluation) -> None:
    with_recipe(run, teacher={"kind": "local", "model": "<b>`x`</b>{{ 7 * 7 }}"}, note="```\n# hi")
    card = model_card(run)
    assert "49" not in card.split("---")[-1].split("##")[0]
    assert card.count("```") == 4
    evaluation.model_copy(update={"samples": (Sample(prompt="p", teacher="t", student="s"),)}).save(
        run
    )
    assert model_card(run)
