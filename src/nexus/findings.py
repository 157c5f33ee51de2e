"""findings.json: what went wrong in a run that its owner should know of, with the remedy."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from nexus import durable
from nexus.redaction import redacted

FILE_NAME = "findings.json"

MOST = 100
"""How many are kept: the first ones say what there is to be said."""


@dataclass(frozen=True)
class Finding:
    """Something that a person should look at."""

    stage: str
    step: int
    """Counted from 1."""
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.stage}, step {self.step}: {self.what}. {self.remedy}"


def note(run: Path, finding: Finding) -> None:
    """Add a finding, unless it is there already: a run that is resumed finds it again."""
    known = read(run)
    if finding not in known and len(known) < MOST:
        content = [asdict(each) for each in (*known, finding)]
        text = json.dumps(content, indent=1, ensure_ascii=False)
        durable.write(run / FILE_NAME, redacted(text) + "\n")


def read(run: Path) -> list[Finding]:
    """All findings of a run, in the order in which they came; none if there are none.

    A damaged file is a finding itself, and does not keep a run from going on.
    """
    file = run / FILE_NAME
    if not file.exists():
        return []
    try:
        return [Finding(**each) for each in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, RecursionError):
        return [Finding("run", 0, f"{FILE_NAME} is damaged", "What was found before is lost")]
