"""The student's model card: the report's numbers in the words the hub understands."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from nexus.redaction import redacted
from nexus.report.reading import RunFiles, read_run
from nexus.report.summary import comparison, gaps, headline, teacher_name
from nexus.report.words import ABSENT, Cell, count
from nexus.results import Estimate, Heldout
from nexus.visible import one_line, visible

MOST_CARD_BYTES = 10**6
_LICENSE = re.compile(r"[\w.+-]{1,60}")
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
    # The only one of the hub's relations that holds: the weights started as the base model's.
    relation: dict[str, Any] = {"base_model_relation": "finetune"} if base else {}
    return ModelCardData(
        base_model=base,
        license=_license(files),
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


def _license(files: RunFiles) -> str | None:
    """The teacher's, where it is known: from the environment or from the teacher's own card."""
    teacher = files.environment.get("teacher")
    if isinstance(teacher, dict) and teacher.get("license"):
        return str(teacher["license"])
    folder = _local(files, str((files.recipe.get("teacher") or {}).get("model") or ""))
    if folder is None or not (folder / "README.md").is_file():
        return None
    return _license_in(folder / "README.md")


def _license_in(card: Path) -> str | None:
    """What a stranger's card says, if that is a word: cards are written by anybody."""
    if card.stat().st_size > MOST_CARD_BYTES:
        return None
    try:
        found = ModelCard.load(card, ignore_metadata_errors=True).data.license
    except (ValueError, yaml.YAMLError, RecursionError):
        return None
    return found if isinstance(found, str) and _LICENSE.fullmatch(found) else None


def _results(files: RunFiles) -> list[EvalResult]:
    if files.evaluation is None or files.evaluation.heldout is None:
        return []
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="heldout",
            dataset_name="held-out documents of the run",
            metric_type=kind,
            metric_name=title,
            metric_value=round(estimate.value, 6),
        )
        for kind, title, estimate in _metrics(files.evaluation.heldout)
        if estimate is not None
    ]


def _metrics(heldout: Heldout) -> list[tuple[str, str, Estimate | None]]:
    trained = heldout.trained
    return [
        ("perplexity", "Perplexity", trained.perplexity),
        ("kl_divergence", "KL(teacher ‖ student), nats a token", trained.forward_kl),
        ("reverse_kl_divergence", "KL(student ‖ teacher), nats a token", trained.reverse_kl),
        ("agreement", "Top-1 agreement with the teacher", trained.agreement),
        ("bits_per_byte", "Bits per byte", trained.bits_per_byte),
    ]


def _body(files: RunFiles, name: str) -> str:
    parts = [
        f"# {_escaped(name)}",
        _escaped(" ".join(headline(files))),
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(PATH)\n"
        "model = AutoModelForCausalLM.from_pretrained(PATH)\n"
        'print(tokenizer.decode(model.generate(**tokenizer("Once", return_tensors="pt"))[0]))\n'
        "```",
        "`PATH` is this directory or its name on the hub. It is an ordinary transformers model.",
    ]
    if table := _table(files):
        parts += ["## What is left of the teacher", table, _measured(files)]
    parts += [
        "## How it was made",
        f"```yaml\n{_public_recipe(files.recipe)}```",
        "Made with Nexus. The whole report with its curves is `report.html` beside this directory.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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


def _table(files: RunFiles) -> str:
    if files.evaluation is None:
        return ""
    lines = ["| | teacher | untrained | trained |", "|---|---:|---:|---:|"]
    for row in comparison(files.evaluation):
        cells = (row.teacher, row.untrained, row.trained)
        lines.append(f"| {_escaped(row.label)} | {' | '.join(_cell(cell) for cell in cells)} |")
    for gap in gaps(files.evaluation):
        lines.append(f"| Gap closed, {_escaped(gap.label)} | | | {_cell(gap.cell)} |")
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    return _escaped(cell.line) or ABSENT


def _measured(files: RunFiles) -> str:
    if files.evaluation is None or files.evaluation.heldout is None:
        return ""
    heldout = files.evaluation.heldout
    said = (
        f"{count(heldout.documents)} held-out documents, {count(heldout.tokens)} target tokens; in "
        "brackets 95 % intervals from resampling documents (speeds: quartiles over rounds)."
    )
    refusals = [
        _escaped(f"Gap closed, {gap.label}, is not said: {gap.reason}.")
        for gap in gaps(files.evaluation)
        if gap.share is None
    ]
    return " ".join([said, *refusals])


def _escaped(text: str) -> str:
    """As Markdown, on one line, that means the letters it shows and links nothing."""
    flat = re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", one_line(text).replace("&", "&amp;"))
    return re.sub(r"(?i)(https?|ftp|www|mailto)(?=[:.])", r"\1<!-- -->", flat)
