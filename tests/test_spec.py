from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from nexus.errors import UsageError
from nexus.spec import Spec, nearest


class Local(Spec):
    kind: Literal["local"] = "local"
    model: str
    local: int = 0
    """Called like its own kind."""
    layers: Literal["first", "last"] | tuple[int, ...] = "first"


class Server(Spec):
    kind: Literal["server"] = "server"
    local: str = ""
    """Called like the other kind."""
    retries: int = Field(default=0, ge=0)


AnyTeacher = Annotated[Local | Server, Field(discriminator="kind")]


class Train(Spec):
    steps: int = Field(default=1, gt=0)
    rate: float = 0.1

    @model_validator(mode="after")
    def _fits(self) -> Train:
        if self.rate > self.steps:
            raise ValueError(f"rate {self.rate} exceeds steps {self.steps}: lower it")
        return self


class Whole(Spec):
    teacher: AnyTeacher = Server()
    teachers: tuple[AnyTeacher, ...] = ()
    train: Train = Train()
    maybe: Train | None = None
    shares: dict[str, Annotated[float, Field(ge=0)]] = {}
    server: str = "name of a kind"


def mistake(values: Any, where: str = "") -> str:
    with pytest.raises(UsageError) as caught:
        Whole.parse(values, where)
    return str(caught.value)


def test_what_is_right_is_parsed() -> None:
    whole = Whole.parse({"teacher": {"kind": "local", "model": "m"}, "shares": {"math": 1}})
    assert whole.teacher == Local(model="m")
    assert whole.shares == {"math": 1.0}
    assert Whole.parse(whole.model_dump()) == whole


@pytest.mark.parametrize(
    "values, key, right",
    [
        ({"trian": {}}, "trian", "train"),
        ({"train": {"stepz": 3}}, "train.stepz", "steps"),
        ({"maybe": {"stepz": 3}}, "maybe.stepz", "steps"),
        ({"teachers": [{"kind": "server"}, {"kind": "server", "retrys": 1}]}, "teachers[1].retrys",
         "retries"),
        ({"teacher": {"kind": "server", "retrys": 1}}, "teacher.retrys", "retries"),
        ({"teacher": {"kind": "local", "model": "m", "modle": "m"}}, "teacher.modle", "model"),
    ],
)  # fmt: skip
def test_misspelt_key_names_its_path_and_the_nearest(
    values: dict[str, Any], key: str, right: str
) -> None:
    assert mistake(values).startswith(f"unknown key '{key}': did you mean '{right}'? Known: ")


def test_only_keys_of_the_chosen_kind_are_known() -> None:
    message = mistake({"teacher": {"kind": "local", "model": "m", "retrys": 1}})
    assert message == "unknown key 'teacher.retrys'. Known: kind, layers, local, model"


def test_a_key_called_like_a_kind_stays_in_the_path() -> None:
    assert mistake({"server": 1}).startswith("'server' is 1, but it should be a valid string")
    message = mistake({"teacher": {"kind": "server", "local": 1}})
    assert message.startswith("'teacher.local' is 1, but it should be a valid string")
    message = mistake({"teacher": {"kind": "local", "model": "m", "local": "x"}})
    assert message.startswith("'teacher.local' is 'x', but it should be a valid integer")


def test_unknown_kind_names_the_known_ones() -> None:
    message = mistake({"teacher": {"kind": "sever"}})
    expected = "'teacher.kind' is 'sever', which does not exist: did you mean 'server'?"
    assert message == f"{expected} Known: local, server"
    assert mistake({"teachers": [{"kind": "x"}]}).startswith("'teachers[0].kind' is 'x'")


def test_kind_that_is_not_given() -> None:
    assert mistake({"teacher": {"model": "m"}}).startswith("'teacher' has no 'kind': add one")


def test_missing_key() -> None:
    message = mistake({"teacher": {"kind": "local"}})
    assert message == "'teacher.model' is missing: add it"


@pytest.mark.parametrize(
    "values, start",
    [
        ({"train": {"steps": "many"}}, "'train.steps' is 'many', but it should be a valid integer"),
        ({"train": {"steps": 0}}, "'train.steps' is 0, but it should be greater than 0"),
        ({"train": {"rate": "nan"}}, "'train.rate' is 'nan', but it should be a finite number"),
        ({"train": {"rate": float("inf")}}, "'train.rate' is inf, but it should be a finite"),
        ({"train": 3}, "'train' is 3, but it should be a mapping"),
        ({"teachers": 3}, "'teachers' is 3, but it should be a list"),
        ({"teachers": ["server"]}, "'teachers[0]' is 'server', but it should be a mapping"),
        ({"shares": {"math": -1}}, "'shares.math' is -1, but it should be greater than or equal"),
        ({"shares": 1}, "'shares' is 1, but it should be a mapping"),
    ],
)  # fmt: skip
def test_wrong_value_names_key_value_and_remedy(values: dict[str, Any], start: str) -> None:
    message = mistake(values)
    assert message.startswith(start)
    assert "\n" not in message


def test_rule_about_several_values_speaks_for_itself() -> None:
    message = mistake({"train": {"steps": 1, "rate": 2.0}})
    assert message == "'train': rate 2.0 exceeds steps 1: lower it"


def test_value_that_fits_no_member_of_a_union_is_one_mistake() -> None:
    message = mistake({"teacher": {"kind": "local", "model": "m", "layers": "frist"}})
    assert message.startswith("'teacher.layers' is 'frist', but it should be 'first' or 'last'")
    assert "did you mean 'first'?" in message
    assert "a list" in message
    assert "\n" not in message
    message = mistake({"teacher": {"kind": "local", "model": "m", "layers": [0, "x"]}})
    assert "'teacher.layers[1]' is 'x', but it should be a valid integer" in message


def test_several_mistakes_are_all_listed() -> None:
    values = {"trian": {}, "train": {"steps": 0, "rat": 1}, "teachers": [{"kind": "x"}]}
    lines = mistake(values, "recipe.yaml").splitlines()
    assert len(lines) == 4
    assert all(line.startswith("recipe.yaml: ") for line in lines)
    for key in ("'trian'", "'train.steps'", "'train.rat'", "'teachers[0].kind'"):
        assert sum(key in line for line in lines) == 1


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Train().steps = 2  # type: ignore[misc]


def test_unknown_names_are_mistakes_in_python_too() -> None:
    with pytest.raises(ValidationError, match="stepz"):
        Train(stepz=1)  # type: ignore[call-arg]


def test_nearest_names_nothing_that_is_far() -> None:
    assert nearest("colour", ["steps", "rate"]) == ". Known: steps, rate"
    assert nearest("step", ["steps", "rate"]) == ": did you mean 'steps'? Known: steps, rate"
    assert nearest("step", []) == "."


def test_docstrings_of_fields_are_their_descriptions() -> None:
    properties = Server.model_json_schema()["properties"]
    assert properties["local"]["description"] == "Called like the other kind."
