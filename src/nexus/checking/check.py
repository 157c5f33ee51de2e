"""check(): what can be proved of a recipe with its own models and data, before it is run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from nexus.checking.data import data_proofs
from nexus.checking.fit import fit
from nexus.checking.seen import Seen, look
from nexus.checking.teacher import teacher_better
from nexus.checking.tokens import token_proofs
from nexus.data.loader import Batches
from nexus.errors import UsageError
from nexus.evaluation.fidelity import Fidelity
from nexus.findings import Finding, note
from nexus.proofs import Check, Proof
from nexus.recipe.schema import Recipe
from nexus.rundir import RunDirectory
from nexus.scene import Models, Scene, load
from nexus.students.pruned import Pruned
from nexus.training.parallel import Parallel, processes
from nexus.training.selftest import invariants
from nexus.voice import Say

ROWS, FEW_ROWS = 512, 64
"""How many training rows are looked at, and how many at the start of a run."""

TRIED_TOKENS = 16_384
"""From how much of the training text the invariants choose their pieces."""

CHEAP_INVARIANTS = 4
"""How many invariants every run begins with: the first ones, which are cheap and telling."""

GROUPS = ("fit", "teacher", "tokens", "data", "loss")
"""What proofs are about, in the order in which they are told."""

Show = Callable[[Batches, Seen], None]
"""Is given the data as soon as it has been looked at."""


def _show_nothing(batches: Batches, seen: Seen) -> None:
    """For those who only want proofs."""


def check(
    recipe: Recipe,
    folder: Path,
    *,
    complete: bool = True,
    models: Models | None = None,
    show: Show = _show_nothing,
    say: Say = lambda text: None,
) -> Check:
    """Try everything on the recipe's own teacher, student, tokenizer and data.

    Nothing is written into the run directory, and nothing is left behind.

    Args:
        recipe: What is to run.
        folder: What relative paths are relative to.
        complete: Whether all of it is tried, or only what every run begins with.
        models: Teacher and student, if they are already in memory.
        show: Given the data as soon as it has been looked at.
        say: Told in a sentence what begins.

    Raises:
        UsageError: For anything in recipe, models or data that cannot even be loaded.
    """
    began = time.monotonic()
    with processes() as parallel, TemporaryDirectory() as place:
        proofs = fit(recipe, folder, parallel, models)
        if any(proof.outcome == "failed" for proof in proofs):
            why = "the models were not loaded, since the run would not fit"
            proofs.append(
                Proof(group="loss", name="everything else", outcome="skipped", detail=why)
            )
            return _done(proofs, began, complete=False)
        recipe = _roughly(recipe)
        directory = RunDirectory.open(Path(place) / "run", recipe, folder)
        scene = load(recipe, directory, folder, parallel, models, say)
        seen = look(scene, ROWS if complete else FEW_ROWS)
        show(scene.batches, seen)
        say("comparing teacher and untrained student, and proving what must hold")
        proofs += _tried(scene, seen, None, complete=complete, in_memory=models is not None)
    return _done(proofs, began, complete=complete)


def _roughly(recipe: Recipe) -> Recipe:
    """With a student that is cut at little cost, where it is: what is proved holds of any cut."""
    student = recipe.student
    if not isinstance(student, Pruned):
        return recipe
    return recipe.model_copy(update={"student": student.rough})


def foreseen(
    recipe: Recipe, folder: Path, parallel: Parallel, models: Models | None
) -> Sequence[Proof]:
    """What can be told before anything is loaded, on all processes alike.

    Raises:
        UsageError: The run would not fit in the memory of one of them.
    """
    proofs = fit(recipe, folder, parallel, models)
    memory = proofs[0]
    fails = memory.outcome == "failed" and recipe.check.stop
    if parallel.any(fails):
        if not fails:
            raise UsageError("the run does not fit in the memory of another process, which says so")
        raise UsageError(refusal([memory]))
    return proofs


def begin(
    scene: Scene,
    told: Sequence[Proof],
    untrained: Fidelity | None,
    *,
    in_memory: bool,
    say: Say,
) -> str:
    """The cheap part, before the first step of a new run. Leaves check.json if the run goes on.

    Args:
        scene: What the run has loaded. It is as it was afterwards.
        told: What was told before it was loaded.
        untrained: What was measured of the untrained student, if there is held-out data.
        in_memory: Whether teacher and student were given as models.
        say: Told what is doubtful.

    Returns:
        Why the run may not go on; nothing if it may.
    """
    began = time.monotonic()
    seen = look(scene, FEW_ROWS)
    proofs = [*told, *_tried(scene, seen, untrained, complete=False, in_memory=in_memory)]
    result = _done(proofs, began, complete=False)
    if result.failures and scene.recipe.check.stop:
        return refusal(result.failures)
    for proof in result.proofs:
        if proof.outcome == "doubtful":
            say(f"doubtful: {described(proof)}")
    for proof in result.failures:
        what = f"begun although this is not so: {proof.name} ({proof.detail})"
        note(scene.run.path, Finding(scene.recipe.all_stages[0].name, 0, what, proof.remedy))
    result.save(scene.run.path)
    return ""


def refusal(failures: Sequence[Proof]) -> str:
    """One line a failure, and how to begin all the same."""
    lines = [described(proof) for proof in failures]
    lines[-1] += ". To begin all the same: --set check.stop=false"
    return "\n".join(f"not proved: {line}" for line in lines)


def described(proof: Proof) -> str:
    """A proof that did not succeed in a line: what, how it was decided, and what to do."""
    remedy = f". {proof.remedy.rstrip('.')}" if proof.remedy else ""
    return " ".join(f"{proof.name}: {proof.detail}{remedy}".split())


def _tried(
    scene: Scene, seen: Seen, untrained: Fidelity | None, *, complete: bool, in_memory: bool
) -> Iterator[Proof]:
    yield teacher_better(scene, untrained)
    yield from token_proofs(scene, seen, in_memory=in_memory)
    yield from data_proofs(scene, seen)
    tried = invariants(
        teacher=scene.teacher,
        student=scene.student,
        stages=scene.recipe.all_stages,
        batches=[
            batch.to(scene.parallel.device) for batch in scene.batches.beginning(TRIED_TOKENS)
        ],
        vocabulary=scene.vocabulary,
        packed=scene.packed,
    )
    with closing(tried) as proofs:  # type: ignore[type-var]
        yield from islice(proofs, None if complete else CHEAP_INVARIANTS)


def _done(proofs: Sequence[Proof], began: float, *, complete: bool) -> Check:
    order = {group: number for number, group in enumerate(GROUPS)}
    proofs = sorted(proofs, key=lambda proof: order.get(proof.group, len(order)))
    return Check(proofs=tuple(proofs), seconds=time.monotonic() - began, complete=complete)
