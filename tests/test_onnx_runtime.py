"""ONNX Runtime's session: it remembers, forgets, and says what it is not given."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from nexus.errors import NexusError
from nexus.onnx_runtime import NEEDED, Session

SHARED = runpy.run_path(str(Path(__file__).with_name("exported.py")))
IDS = SHARED["IDS"]

# What transformers' exporter and the libraries below it warn of is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = SHARED["exported"](
        tmp_path_factory.mktemp("model"), NEEDED, to="onnx", group_size=16
    )
    return made


def known(begin: int, end: int) -> dict[str, np.ndarray]:
    positions = np.tile(np.arange(begin, end), (2, 1))
    return {"input_ids": IDS[:, begin:end], "position_ids": positions}


def test_it_remembers_until_it_forgets(folder: Path) -> None:
    session = Session(folder, 1, exact=True)
    whole = session.run(known(0, 8))
    session.forget()
    SHARED["remembers"](session, known)
    assert np.abs(session.run(known(0, 8)) - whole).max() > 1e-3


def test_exactly_means_that_nothing_that_enters_a_layer_is_rounded(folder: Path) -> None:
    exact, fast = (Session(folder, 1, exact=exact).run(known(0, 8)) for exact in (True, False))
    away = np.linalg.norm(fast - exact) / np.linalg.norm(exact)
    assert 1e-4 < away < 0.05


def test_what_the_graph_is_not_given_is_named(folder: Path) -> None:
    with pytest.raises(NexusError, match="takes position_ids, too"):
        Session(folder, 1, exact=False).run({"input_ids": IDS})


def test_eight_bits_can_lie_in_groups_of_sixteen(folder: Path) -> None:
    own = SHARED["small"]().eval()
    with torch.no_grad():
        expected = own(torch.from_numpy(IDS)).logits.numpy()
    found = Session(folder, 1, exact=True).run(known(0, 8))
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.02
