"""Which model a table is about."""

from __future__ import annotations

from pathlib import Path

from nexus import fingerprint
from nexus.hub import ModelSource, load_config
from nexus.planning.hollow import Hollow


def subject(folder: Path) -> str:
    """Class, size and fingerprint of a model, whatever its folder is called."""
    source = ModelSource(model=str(folder.resolve()))
    config = load_config(source, Path())
    weights = fingerprint.of_source(source, Path()) or "unknown"
    (name,) = config.architectures or ("a model",)
    return f"{name} of {Hollow(config).parameters / 1e6:.1f}M parameters (weights {weights[:12]})"
