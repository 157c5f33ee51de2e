"""ONNX Runtime's session: it remembers, forgets, and says what it is not given."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from nexus.errors import NexusError
from nexus.exports import export
from nexus.onnx_runtime import NEEDED, Session

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
    export(path / "model", path / "out", to="onnx", bits=8, group_size=16)
    return path / "out"


def known(begin: int, end: int) -> dict[str, np.ndarray]:
    positions = np.tile(np.arange(begin, end), (2, 1))
    return {"input_ids": IDS[:, begin:end], "position_ids": positions}


def test_it_remembers_until_it_forgets(folder: Path) -> None:
    session = Session(folder, 1, exact=True)
    whole = session.run(known(0, 8))
    for _ in range(2):
        session.forget()
        parts = np.concatenate([session.run(known(0, 5)), session.run(known(5, 8))], axis=1)
        np.testing.assert_allclose(parts, whole, atol=1e-5, rtol=1e-4)
    assert np.abs(session.run(known(0, 8)) - whole).max() > 1e-3


def test_exactly_means_that_nothing_that_enters_a_layer_is_rounded(folder: Path) -> None:
    exact, fast = (Session(folder, 1, exact=exact).run(known(0, 8)) for exact in (True, False))
    away = np.linalg.norm(fast - exact) / np.linalg.norm(exact)
    assert 1e-4 < away < 0.05


def test_what_the_graph_is_not_given_is_named(folder: Path) -> None:
    with pytest.raises(NexusError, match="takes position_ids, too"):
        Session(folder, 1, exact=False).run({"input_ids": IDS})


def test_eight_bits_can_lie_in_groups_of_sixteen(folder: Path) -> None:
    own = SMALL["make_model"](layers=1, seed=2).eval()
    with torch.no_grad():
        expected = own(torch.from_numpy(IDS)).logits.numpy()
    found = Session(folder, 1, exact=True).run(known(0, 8))
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.02
