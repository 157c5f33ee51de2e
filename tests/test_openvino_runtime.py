"""OpenVINO's session and what its graph says of its layers."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from nexus.exports import export
from nexus.openvino_runtime import NEEDED, Session

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))

# What transformers' exporter and the libraries below it warn of is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

IDS = np.arange(16).reshape(2, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in NEEDED:
        pytest.importorskip(name)
    path: Path = tmp_path_factory.mktemp("model")
    SMALL["save"](path / "model", SMALL["make_model"](layers=1, seed=2))
    export(path / "model", path / "out", bits=8)
    return path / "out"


def known(begin: int, end: int) -> dict[str, np.ndarray]:
    return {
        "input_ids": IDS[:, begin:end],
        "attention_mask": np.ones((2, end), dtype=np.int64),
        "position_ids": np.tile(np.arange(begin, end), (2, 1)),
        "beam_idx": np.arange(2, dtype=np.int32),
        "nothing_of_the_graph": IDS,
    }


def test_it_remembers_until_it_forgets(folder: Path) -> None:
    session = Session(folder, 1, exact=True)
    whole = session.run(known(0, 8))
    session.forget()
    parts = np.concatenate([session.run(known(0, 5)), session.run(known(5, 8))], axis=1)
    np.testing.assert_allclose(parts, whole, atol=1e-4, rtol=1e-4)


def test_layers_are_counted(folder: Path) -> None:
    facts = json.loads((folder / "export.json").read_text())
    assert facts["weights"] == {"u8": 9} and not facts["wider"] and facts["group_size"] is None
