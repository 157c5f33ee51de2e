"""From the numbers of a run to what to try next: symptom → evidence → cause → remedy."""

from __future__ import annotations

from nexus.report import quality_symptoms, task_symptoms, training_symptoms
from nexus.report.reading import RunFiles
from nexus.report.symptom import Symptom


def diagnose(files: RunFiles) -> list[Symptom]:
    """Everything that the numbers of a run give reason to say, the serious first.

    Each rule is a function of the numbers alone: the same run gives the same advice. A rule whose
    numbers are not there says nothing.
    """
    rules = (*quality_symptoms.RULES, *task_symptoms.RULES, *training_symptoms.RULES)
    found = [symptom for rule in rules if (symptom := rule(files)) is not None]
    return sorted(found, key=lambda symptom: symptom.weight != "serious")
