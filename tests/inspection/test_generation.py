"""Generation settings that transformers refuses are refused before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from nexus.errors import UsageError
from nexus.inspection.generation import check_generation


@pytest.mark.parametrize(
    "values", [{"max_new_tokens": -5}, {"max_new_tokens": "many"}, {"cache_implementation": "evil"}]
)
def test_nonsense_is_named_with_its_file(tmp_path: Path, values: dict[str, Any]) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UsageError, match=r"generation_config\.json is refused.*Correct the file"):
        check_generation(path)


@pytest.mark.parametrize(
    "values", [{}, {"temperature": 0.6, "do_sample": False, "eos_token_id": [1, 2]}]
)
def test_what_models_are_published_with_passes(tmp_path: Path, values: dict[str, Any]) -> None:
    """And can be saved again with a student."""
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(values))
    check_generation(path)
    GenerationConfig.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
