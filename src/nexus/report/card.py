"""The student's model card: the report's numbers in the words the hub understands."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from nexus.redaction import redacted
from nexus.report.card_tables import (
    economy_section,
    escaped,
    forms_section,
    quality_section,
    task_section,
)
from nexus.report.data import data_view
from nexus.report.reading import RunFiles, read_run
from nexus.report.summary import headline, teacher_name
from nexus.report.tasks import primary
from nexus.results import Estimate, Evaluation, Heldout
from nexus.visible import one_line, visible

MOST_CARD_BYTES = 10**6
MOST_LANGUAGES = 200
_LICENSE = re.compile(r"[\w.+-]{1,60}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model_card(run: Path) -> str:
    """The text of `student/README.md`: front matter for the hub, what the student is, its numbers.

    Raises:
        UsageError: if `run` is not a run directory.
    """
    files = read_run(run)
    name = one_line(redacted(f"{teacher_name(files.recipe)}-{run.resolve().name}"))
    # The metadata is made here, so the card's own template engine never sees a foreign word.
    text = f"---\n{_metadata(files, name).to_yaml()}\n---\n\n{_body(files, name)}"
    return visible(redacted(text))


def _metadata(files: RunFiles, name: str) -> ModelCardData:
    base = _base_model(files)
    results = _results(files)
    teachers = _teachers_card(files)
    # The only one of the hub's relations that holds: the weights started as the base model's.
    relation: dict[str, Any] = {"base_model_relation": "finetune"} if base else {}
    return ModelCardData(
        base_model=base,
        license=_license(files, teachers),
        language=_languages(teachers),
        datasets=_datasets(files.recipe),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["nexus", "knowledge-distillation"],
        model_name=name if results else None,
        eval_results=results or None,
        ignore_metadata_errors=False,
        **relation,
    )


def _base_model(files: RunFiles) -> str | None:
    """The hub name of the model whose weights the student started from, if it has one."""
    recipe = files.recipe
    match (recipe.get("student") or {}).get("kind"):
        case "scratch":
            return None
        case "pretrained":
            origin = recipe["student"].get("model")
        case _:
            origin = (recipe.get("teacher") or {}).get("model")
    origin = str(origin or "")
    return origin if _HUB_NAME.fullmatch(origin) and not _local(files, origin) else None


def _local(files: RunFiles, origin: str) -> Path | None:
    """Where a model lies: paths in a run's recipe are relative to the run directory, and names of
    models in memory to a folder above it."""
    run = files.path.resolve()
    places = [folder / origin for folder in (run, *run.parents)] if origin else []
    return next((place for place in places if os.path.isdir(place)), None)


def _license(files: RunFiles, card: dict[str, Any]) -> str | None:
    """The teacher's, where it is known: from the environment or from the teacher's own card."""
    teacher = files.environment.get("teacher")
    if isinstance(teacher, dict) and teacher.get("license"):
        return str(teacher["license"])
    found = card.get("license")
    return found if isinstance(found, str) and _LICENSE.fullmatch(found) else None


def _languages(card: dict[str, Any]) -> list[str] | None:
    found = card.get("language")
    names = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    kept = [name for name in names if isinstance(name, str) and _LANGUAGE.fullmatch(name)]
    return kept[:MOST_LANGUAGES] or None


def _datasets(recipe: dict[str, Any]) -> list[str] | None:
    """What was trained on, as far as it has a name that others can look up."""
    sources = (recipe.get("data") or {}).get("sources") or []
    names = [
        str(source.get("name"))
        for source in sources
        if isinstance(source, dict) and source.get("kind") == "hub"
    ]
    return list(dict.fromkeys(name for name in names if _HUB_NAME.fullmatch(name))) or None


def _teachers_card(files: RunFiles) -> dict[str, Any]:
    """What a stranger's card says of itself: cards are written by anybody."""
    folder = _local(files, str((files.recipe.get("teacher") or {}).get("model") or ""))
    card = folder / "README.md" if folder else None
    if card is None or not card.is_file() or card.stat().st_size > MOST_CARD_BYTES:
        return {}
    try:
        return dict(ModelCard.load(card, ignore_metadata_errors=True).data.to_dict())
    except (ValueError, yaml.YAMLError, RecursionError):
        return {}


def _results(files: RunFiles) -> list[EvalResult]:
    """The report's own numbers, unrounded, as the hub's `model-index` holds them."""
    evaluation = files.evaluation or Evaluation()
    found = [
        EvalResult(
            task_type="text-generation",
            dataset_type="heldout",
            dataset_name="held-out documents of the run",
            metric_type=kind,
            metric_name=title,
            metric_value=estimate.value,
        )
        for kind, title, estimate in (_metrics(evaluation.heldout) if evaluation.heldout else [])
        if estimate is not None
    ]
    found += [
        EvalResult(
            task_type="text-generation",
            dataset_type=one_line(name),
            dataset_name=one_line(name),
            metric_type=one_line(task.metric),
            metric_name=f"{one_line(task.metric)}, {task.items} items",
            metric_value=score.value,
        )
        for name, task in evaluation.tasks.items()
        if (score := primary(task, "trained")) is not None
    ]
    return found


def _metrics(heldout: Heldout) -> list[tuple[str, str, Estimate | None]]:
    trained = heldout.trained
    return [
        ("perplexity", "Perplexity", trained.perplexity),
        ("kl_divergence", "KL(teacher ‖ student), nats a token", trained.forward_kl),
        ("reverse_kl_divergence", "KL(student ‖ teacher), nats a token", trained.reverse_kl),
        ("agreement", "Top-1 agreement with the teacher", trained.agreement),
        ("acceptance", "Acceptance, sum of min(p, q)", trained.acceptance),
        ("nll", "Loss on the text, nats a token", trained.nll),
        ("bits_per_byte", "Bits per byte", trained.bits_per_byte),
        (
            "ece",
            "Expected calibration error, corrected for its bias",
            trained.calibration.ece if trained.calibration else None,
        ),
    ]


def _body(files: RunFiles, name: str) -> str:
    parts = [
        f"# {escaped(name)}",
        escaped(" ".join(headline(files))),
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(PATH)\n"
        "model = AutoModelForCausalLM.from_pretrained(PATH)\n"
        'print(tokenizer.decode(model.generate(**tokenizer("Once", return_tensors="pt"))[0]))\n'
        "```",
        "`PATH` is this directory or its name on the hub. It is an ordinary transformers model.",
    ]
    if files.evaluation:
        parts += quality_section(files.evaluation)
        parts += task_section(files.evaluation)
        parts += economy_section(files.evaluation)
        parts += forms_section(files.evaluation)
    parts += [
        "## Limits",
        _limits(files),
        "## How it was made",
        f"```yaml\n{_public_recipe(files.recipe)}```",
        "Made with Nexus. The whole report with its curves is `report.html` beside this directory.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _limits(files: RunFiles) -> str:
    """What the numbers do not say."""
    said = [
        "It was trained to repeat its teacher, so it may repeat its errors and biases too.",
        "Intervals tell how far other text or other items of the same kind could move a number; "
        "they say nothing of other kinds of text, other seeds or other machines.",
    ]
    evaluation = files.evaluation or Evaluation()
    if not evaluation.tasks:
        said.append("No task was put to it: what it can do is not known, only how it predicts.")
    unsure = [name for name, task in evaluation.tasks.items() if task.teacher_above_chance is False]
    if unsure:
        names = escaped(", ".join(unsure))
        said.append(f"The teacher itself is not above chance on {names}.")
    data = data_view(files.environment.get("data"))
    if data and data.warning:
        said.append(escaped(data.warning))
    said.append("Whether it is safe to use was not measured.")
    return "\n".join(f"- {sentence}" for sentence in said)


def _public_recipe(recipe: dict[str, Any]) -> str:
    """The recipe without where things lay on the machine it ran on: a card is made to be shared."""
    text = yaml.safe_dump(_without_folders(recipe), sort_keys=False, allow_unicode=True)
    return text.replace("```", "` ` `")


def _without_folders(value: Any) -> Any:
    match value:
        case dict():
            return {name: _without_folders(part) for name, part in value.items()}
        case list():
            return [_without_folders(part) for part in value]
        case str() if PurePath(value).is_absolute():
            return PurePath(value).name
        case _:
            return value
