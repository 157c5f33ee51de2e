"""Importance scores as a file: measured once, for any target afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from nexus import fingerprint
from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.pruning.importance import WITHOUT_DATA, Scores, Strategy, measure, measured_on
from nexus.pruning.progress import Progress, announced
from nexus.pruning.watching import Aggregate
from nexus.voice import Say


def scored(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    path: Path | None,
    *,
    strategy: Strategy = "activation",
    aggregate: tuple[Aggregate, Aggregate] = ("mean", "l2"),
    seed: int = 0,
    anew: bool = False,
    any_text: bool = False,
    say: Say = lambda text: None,
) -> Scores:
    """The scores in a file, or measured and written to it.

    A measurement that was interrupted goes on where it was: its sums lie beside the file. Without
    text, scores that are there are taken whatever they were measured on.

    Args:
        model: what is measured.
        batches: calibration text.
        path: of the file, which need not be there yet; nothing is kept without one.
        strategy: what importance is.
        aggregate: over the tokens of a row, and over rows.
        seed: of `random`.
        anew: measure where the file is of something else, in place of refusing it.
        any_text: take scores that are there whatever text they were measured on, and say which.
        say: told in a sentence what begins.

    Raises:
        UsageError: The file is of another model, other text, or another strategy.
    """
    if path is None:
        say(f"measuring importance ({strategy})")
        read = announced(batches, say, "importance")
        return measure(model, read, strategy=strategy, aggregate=aggregate, seed=seed)
    of_model = fingerprint.of_model(model)
    of_text = fingerprint.of_text(batches) if batches and strategy not in WITHOUT_DATA else ""
    if path.exists():
        try:
            named = of_text if batches and not any_text else None
            found = Scores.load(path, model_fingerprint=of_model, data_fingerprint=named)
            _require(found, path, strategy, aggregate, seed)
        except UsageError:
            if not anew:
                raise
        else:
            data = measured_on(path)
            say(f"importance as in {path}" + (f", of text {data[:12]}" if data else ""))
            return found
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"model": of_model, "data": of_text, "strategy": strategy}
    progress = Progress(
        path.with_name(f"{path.name}.part"), facts | {"aggregate": " ".join(aggregate)}
    )
    say(f"measuring importance ({strategy})")
    found = measure(
        model, announced(batches, say, "importance"), strategy=strategy, aggregate=aggregate,
        seed=seed, progress=progress,
    )  # fmt: skip
    found.save(path, model_fingerprint=of_model, data_fingerprint=of_text)
    progress.finish()
    return found


def _require(
    found: Scores,
    path: Path,
    strategy: Strategy,
    aggregate: tuple[Aggregate, Aggregate],
    seed: int,
) -> None:
    wanted = " ".join(aggregate) if found.aggregate else ""
    for what, is_, asked in (
        ("strategy", found.strategy, strategy),
        ("aggregate", found.aggregate, wanted),
        ("seed", found.seed, seed if strategy == "random" else 0),
    ):
        if is_ != asked:
            raise UsageError(
                f"The importance scores in {path} were measured with {what} '{is_}', not "
                f"'{asked}': ask for that, or name another file"
            )
