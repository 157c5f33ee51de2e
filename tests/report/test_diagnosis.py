from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nexus.report.diagnosis import diagnose
from nexus.report.reading import read_run


def test_serious_ones_come_first(run: Path) -> None:
    files = read_run(run)
    steps = [{**files.steps[0], "skipped": True}, *files.steps[1:]]
    found = diagnose(replace(files, steps=steps))
    weights = [symptom.weight for symptom in found]
    assert weights == sorted(weights, reverse=True) and len(set(weights)) == 2
    assert all(each.evidence and each.cause and each.remedy for each in found)


def test_nothing_known_is_nothing_said(run: Path) -> None:
    assert diagnose(replace(read_run(run), steps=[], evaluation=None, environment={})) == []
