"""Models of the hub are looked at in its cache before they are loaded, and loaded from there."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from nexus.download import snapshot
from nexus.errors import UsageError
from nexus.hub import ModelSource, code_of, load_model, load_tokenizer

HERE = Path(__file__).parent
WORKSPACE = runpy.run_path(str(HERE / "workspace.py"))
CORPUS = runpy.run_path(str(HERE / "hostile_models.py"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`org/name` as the hub's cache holds it: the folder of its files, still without links."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--org--name"
    files = repository / "snapshots" / COMMIT
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    WORKSPACE["save"](files, WORKSPACE["make_model"](layers=1, seed=0))
    snapshot.cache_clear()
    yield files
    snapshot.cache_clear()


def link_to_blobs(files: Path) -> None:
    blobs = files.parent.parent / "blobs"
    blobs.mkdir()
    for path in [path for path in files.iterdir() if path.is_file()]:
        path.rename(blobs / path.name)
        path.symlink_to(Path("../../blobs") / path.name)


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_a_sound_model_loads(cached: Path, tmp_path: Path, revision: str | None) -> None:
    link_to_blobs(cached)
    source = ModelSource(model="org/name", revision=revision)
    assert load_model(source, tmp_path).config.num_hidden_layers == 1
    assert len(load_tokenizer(source, tmp_path)) == 259


@pytest.mark.parametrize(
    "name",
    ["code: known type", "size: width", "weights: truncated", "index: parent", "json: deep",
     "code: tokenizer", "adapter of another model", "pickle: in the index"],
)  # fmt: skip
def test_a_hostile_one_is_refused(cached: Path, tmp_path: Path, name: str) -> None:
    case = CORPUS["HOSTILE"][name]
    case.spoil(cached)
    link_to_blobs(cached)
    with pytest.raises(UsageError, match=case.says):
        load_model(ModelSource(model="org/name"), tmp_path)
    assert not list(tmp_path.rglob(CORPUS["CANARY"]))


def test_pickled_weights_are_not_even_fetched(cached: Path, tmp_path: Path) -> None:
    (cached / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"has no model\.safetensors on the hub.*Convert them"):
        load_model(ModelSource(model="org/name"), tmp_path)


def test_code_runs_only_at_a_commit(cached: Path, tmp_path: Path) -> None:
    CORPUS["with_code"](**CORPUS["AUTO"])(cached)
    with pytest.raises(UsageError, match="no commit says which.*revision: COMMIT"):
        load_model(ModelSource(model="org/name", trust_remote_code=True), tmp_path)
    trusted = ModelSource(model="org/name", trust_remote_code=True, revision=COMMIT)
    said = code_of(trusted, tmp_path)
    assert said is not None and f"of commit {COMMIT}" in said and "own.py" in said
    assert code_of(ModelSource(model="org/name"), tmp_path) is None
    assert not list(tmp_path.rglob(CORPUS["CANARY"]))


@pytest.mark.parametrize("revision", ["main", "v1", COMMIT[:12], COMMIT.upper(), COMMIT + "0"])
def test_a_name_that_can_be_moved_is_no_commit(revision: str) -> None:
    with pytest.raises(UsageError, match="can be moved to other code"):
        ModelSource.parse({"model": "org/name", "trust_remote_code": True, "revision": revision})
    ModelSource.parse({"model": "org/name", "revision": revision})


@pytest.mark.parametrize("model", ["https://example.org/model", "hf://org/name", "file:///model"])
def test_code_of_an_address_never_runs(model: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="whose code is never run"):
        ModelSource.parse({"model": model, "trust_remote_code": True, "revision": COMMIT})
    with pytest.raises(UsageError, match="Correct the path"):
        load_model(ModelSource(model=model), tmp_path)


def test_settings_alone_are_fetched_for_settings(cached: Path) -> None:
    """Before data has been read, no weights are needed."""
    (cached / "model.safetensors").unlink()
    assert json.loads((snapshot("org/name") / "config.json").read_text())["model_type"] == "llama"
