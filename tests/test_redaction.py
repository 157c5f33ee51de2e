"""Nothing that this program writes holds a secret."""

from __future__ import annotations

import html
import json
import sys
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.redaction import guarded, redacted, redacted_values, secret_in

SHAPED = {
    "hf_" + "aB3" * 12: "Hugging Face token",
    "sk-proj-" + "a1B2" * 8: "API key",
    "sk-ant-api03-" + "a1B2" * 8: "API key",
    "ghp_" + "a1B2" * 9: "GitHub token",
    "github_pat_" + "a1B2" * 9: "GitHub token",
    "glpat-" + "a1B2" * 5: "GitLab token",
    "AKIA" + "ABCD1234" * 2: "AWS key",
    "AIza" + "a1B2c" * 7: "Google key",
    "xoxb-123456789012-abcdef": "Slack token",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF": "web token",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----": "private key",
    "machine example.org login me password correct-horse": "netrc entry",
}


@pytest.fixture(autouse=True)
def _no_secrets_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"PATH": "/bin", "HOME": "/nowhere"})


@pytest.mark.parametrize("secret", SHAPED)
def test_secrets_are_known_by_their_shape(secret: str) -> None:
    text = f"before {secret} after"
    assert redacted(text) == f"before ‹redacted {SHAPED[secret]}› after"
    assert redacted(redacted(text)) == redacted(text)
    assert secret_in({"a": [{"b": text}]}) == ("a[0].b", f"a {SHAPED[secret]}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:hunter2@example.org/x", "https://‹redacted password›@example.org/x"),
        ("Authorization: Bearer abcdefghijklmnop1234", "Bearer ‹redacted bearer token›"),
        ("https://x.org/a?token=abc&b=1", "?‹redacted parameter›&b=1"),
        ("https://x.org/a?b=1&X-Amz-Signature=00ff", "b=1&‹redacted parameter›"),
    ],
)
def test_only_the_secret_part_is_taken_out(text: str, shown: str) -> None:
    assert shown in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "the task-specific-distillation-of-large-language-models",
        "ssh://git@github.com/org/name.git and me@example.org",
        "sha256:" + "0f" * 32,
        "commit 0123456789abcdef0123456789abcdef01234567",
        "train.tokens_per_step: 2048, eos_token: </s>, bearer of news",
        "key=value; password: see the manual",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert redacted(text) == text
    assert secret_in(text) is None


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "OPENAI_API_KEY", "DB_PASSWORD", "MY_SECRET", "wandb_api_key", "AWS_PASSWD"],
)
def test_values_of_telling_variables_are_secrets(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "0f" * 20
    assert redacted(secret) == secret
    monkeypatch.setenv(name, secret)
    assert redacted(f"a{secret}b") == f"a‹redacted {name}›b"
    assert secret_in({"x": secret}) == ("x", name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false-or-true"),
        ("TOKENIZER", "SmolLM2-135M"),
        ("KEYBOARD", "de-latin1"),
        ("SOME_TOKEN", "short"),
        ("SSH_KEY_FILE", "/usr/bin"),
        ("LANG", "a-long-value"),
    ],
)
def test_other_variables_are_none(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redacted(f"x {value} y") == f"x {value} y"


@given(st.text(st.characters(codec="utf-8"), min_size=8, max_size=30))
def test_a_secret_is_found_however_it_is_written(secret: str) -> None:
    """In JSON, HTML, addresses and Python's own words."""
    secret = secret.strip()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.environ", {"A_SECRET": secret})
        if len(secret) < 8:
            return
        spellings = (
            secret, json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret),
            html.escape(secret), quote(secret),
        )  # fmt: skip
        for spelling in spellings:
            assert "‹redacted " in redacted(f"x={spelling};")


def test_lines_of_a_long_secret_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNING_KEY", "first-line-of-the-key\nsecond-line-of-the-key")
    assert redacted("  second-line-of-the-key") == "  ‹redacted SIGNING_KEY›"


def test_values_are_redacted_as_deep_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "topsecret")
    values = {"a": [{"b": "topsecret"}, 3, None, True], "c": ("topsecret",)}
    hidden = "‹redacted A_TOKEN›"
    assert redacted_values(values) == {"a": [{"b": hidden}, 3, None, True], "c": [hidden]}


def test_streams_and_tracebacks_are_redacted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("A_TOKEN", "topsecret")
    out, err = sys.stdout, sys.stderr
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with guarded():
        print("one topsecret", "topsecret")
        print("two topsecret", file=sys.stderr)
        sys.stdout.writelines(["three topsecret\n"])
        assert sys.stdout.isatty() is False
    assert (sys.stdout, sys.stderr) == (out, err)
    try:
        raise ValueError("four topsecret")
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    said = "".join(capsys.readouterr())
    assert "topsecret" not in said.replace('"four topsecret"', "")
    assert said.count("‹redacted A_TOKEN›") >= 5
