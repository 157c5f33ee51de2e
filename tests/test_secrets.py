"""Twenty secrets are planted wherever they could come from; no byte that is written holds one."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SMALL = runpy.run_path(str(HERE / "workspace.py"))

IN_ENVIRONMENT = {
    "HF_TOKEN": "hf_" + "qW3e" * 8,
    "OPENAI_API_KEY": "sk-proj-" + "zX9c" * 8,
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLE",
    "DB_PASSWORD": "p\"ss <&> w\\ord's",
    "TRACKIO_WRITE_TOKEN": "trackio-writes-with-this",
    "SIGNING_SECRET": "first-line-of-a-secret\nsecond-line-of-a-secret",
    "MY_PASSPHRASE": "Straße-über-Äpfel",
}
IN_HELDOUT = [
    "ghp_" + "a1B2" * 9,
    "https://somebody:Tr0ub4dor@example.org/data",
    "Authorization: Bearer " + "b7N" * 9,
    "AKIA" + "QWER1234" * 2,
    IN_ENVIRONMENT["DB_PASSWORD"],
]
IN_BAD_ROW = ["xoxb-123456789012-abcdefghij", IN_ENVIRONMENT["HF_TOKEN"], "glpat-" + "k8J" * 8]
IN_RECIPE = {
    "teacher.model": "https://me:hunter2-of-the-recipe@example.org/model",
    "data.sources.0.path": "rows.jsonl?access_token=parameter-of-a-path",
    "output": "runs/AIza" + "a1B2c" * 7,
    "student.model": IN_ENVIRONMENT["OPENAI_API_KEY"],
    "train.dashboard": "npm_" + "c4D5" * 9,
    "seed": "machine example.org login me password netrc-password-of-mine",
}
PASSWORDS = ["Tr0ub4dor", "b7N" * 9, "hunter2-of-the-recipe", "parameter-of-a-path",
             "netrc-password-of-mine"]  # fmt: skip
"""What of the longer texts is secret."""

WHOLE = [
    *IN_ENVIRONMENT.values(),
    *(text for text in (*IN_HELDOUT, *IN_BAD_ROW) if " " not in text and "://" not in text),
    IN_RECIPE["output"].removeprefix("runs/"),
    IN_RECIPE["train.dashboard"],
]
SECRETS = sorted({*WHOLE, *PASSWORDS, *IN_ENVIRONMENT["SIGNING_SECRET"].splitlines()})

FAILS = """
import nexus.pipeline, nexus.__main__, os
def load(*_, **__):
    raise RuntimeError(f"no answer from https://me:Tr0ub4dor@example.org: {dict(os.environ)}")
nexus.pipeline.load = load
nexus.__main__.main()
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    SMALL["write_workspace"](folder)
    SMALL["write_rows"](
        folder / "heldout.jsonl", [{"text": f"It is {text} ."} for text in IN_HELDOUT]
    )
    with (folder / "train.jsonl").open("a") as file:
        for text in IN_BAD_ROW:
            file.write(json.dumps({"text": 7, "secret": text}) + "\n")
    for name in ("home", "written"):
        (folder / name).mkdir()
    return folder


def nexus(workspace: Path, *arguments: str, program: str | None = None) -> tuple[int, str]:
    """The command with the secrets in its environment: exit code and all that it printed."""
    places = {
        "HOME": "home", "HF_HOME": "home/hf", "XDG_CACHE_HOME": "home/cache",
        "TRACKIO_DIR": "written/trackio",
    }  # fmt: skip
    kept = {
        name: os.environ[name]
        for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
        if name in os.environ
    }
    environment = {
        **kept, **IN_ENVIRONMENT, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        **{name: str(workspace / place) for name, place in places.items()},
    }  # fmt: skip
    start = ["-c", program] if program else ["-m", "nexus"]
    done = subprocess.run(
        [sys.executable, *start, "distill", str(workspace / "recipe.yaml"), "--set", *arguments],
        env=environment, capture_output=True, timeout=240,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).decode()


def spellings(secret: str) -> set[str]:
    plain, other = json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]
    html = secret.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {secret, plain, other, html, html.replace('"', "&#34;").replace("'", "&#39;")}


def leaked(content: bytes) -> list[str]:
    return [
        secret
        for secret in SECRETS
        if any(spelling.encode() in content for spelling in spellings(secret))
    ]


def leaked_files(workspace: Path) -> dict[str, list[str]]:
    """Of everything but what was planted."""
    found: dict[str, list[str]] = {}
    for top in ("home", "written"):
        for path in (workspace / top).rglob("*"):
            if path.is_file() and (names := leaked(path.read_bytes())):
                found[str(path.relative_to(workspace))] = names
    return found


def test_twenty_secrets_are_planted() -> None:
    assert len(SECRETS) >= 20
    assert all(leaked(secret.encode()) for secret in SECRETS)


def test_a_whole_run_writes_and_prints_none(workspace: Path) -> None:
    """Drop `redacted` from `_shown` in report/build.py, from `save` in results.py, or from
    rejected.py to see it fail."""
    code, said = nexus(
        workspace,
        *("output=written/run", "train.dashboard=trackio", "evaluate.samples=5"),
        *("evaluate.sample_tokens=120", "data.on_bad_row=skip"),
    )
    assert code == 0, said
    assert leaked(said.encode()) == [] and leaked_files(workspace) == {}
    run = workspace / "written" / "run"
    for name in ("report.html", "evaluation.json", "rejected.jsonl"):
        assert (
            "‹redacted " in (run / name).read_text()
            or r"\u2039redacted" in (run / name).read_text()
        )
    assert list((workspace / "written" / "trackio").rglob("*"))


def test_bad_rows_are_named_without_their_secrets(workspace: Path) -> None:
    code, said = nexus(workspace, "output=written/refused")
    assert code == 2 and "train.jsonl:51" in said
    assert leaked(said.encode()) == [] and leaked_files(workspace) == {}


def test_a_traceback_holds_none(workspace: Path) -> None:
    code, said = nexus(workspace, "output=written/failed", program=FAILS)
    assert code == 1 and "Traceback" in said and "RuntimeError: no answer from" in said
    for name in IN_ENVIRONMENT:
        assert f"‹redacted {name}›" in said
    assert leaked(said.encode()) == [] and leaked_files(workspace) == {}


@pytest.mark.parametrize("key", IN_RECIPE)
def test_a_recipe_with_a_secret_is_refused_by_its_key(
    key: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drop `_holds_no_secret` from recipe/schema.py to see it fail."""
    from nexus.errors import UsageError
    from nexus.recipe.load import load

    monkeypatch.setenv("OPENAI_API_KEY", IN_ENVIRONMENT["OPENAI_API_KEY"])
    changes: list[Any] = [f'{key}="{IN_RECIPE[key]}"']
    with pytest.raises(UsageError) as refusal:
        load(workspace / "recipe.yaml", changes)
    assert leaked(str(refusal.value).encode()) == []
    shown = key.replace(".0.", "[0].")
    assert f"'{shown}' holds what looks like a secret" in str(refusal.value)
    assert "put the secret into the environment" in str(refusal.value)
