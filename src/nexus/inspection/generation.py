"""Whether a generation_config.json is one that can be used, and saved again after training."""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig

from nexus.errors import UsageError
from nexus.inspection.json_file import read_json


def check_generation(path: Path) -> None:
    """Read the settings as transformers will.

    Raises:
        UsageError: Naming the file and what transformers finds wrong with it.
    """
    values = read_json(path)
    try:
        GenerationConfig.from_dict(values)
    except Exception as error:  # a library's own checks, of whatever a stranger wrote
        said = " ".join(str(error).split())
        raise UsageError(
            f"{path} is refused: {type(error).__name__}: {said[:300]}. Correct the file, or delete "
            "it: the settings of config.json are used then."
        ) from None
