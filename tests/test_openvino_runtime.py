"""OpenVINO's session and what its graph says of its layers."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from nexus.openvino_runtime import NEEDED, Session

SHARED = runpy.run_path(str(Path(__file__).with_name("exported.py")))
IDS = SHARED["IDS"]

# What transformers' exporter and the libraries below it warn of is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = SHARED["exported"](tmp_path_factory.mktemp("model"), NEEDED)
    return made


def known(begin: int, end: int) -> dict[str, np.ndarray]:
    return {
        "input_ids": IDS[:, begin:end],
        "attention_mask": np.ones((2, end), dtype=np.int64),
        "position_ids": np.tile(np.arange(begin, end), (2, 1)),
        "beam_idx": np.arange(2, dtype=np.int32),
        "nothing_of_the_graph": IDS,
    }


def test_it_remembers_until_it_forgets(folder: Path) -> None:
    SHARED["remembers"](Session(folder, 1, exact=True), known)


def test_layers_are_counted(folder: Path) -> None:
    facts = json.loads((folder / "export.json").read_text())
    assert facts["weights"] == {"u8": 9} and not facts["wider"] and facts["group_size"] is None
