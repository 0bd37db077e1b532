"""JSON from files may hold anything: one line names what is wrong, with the file."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.exported.description import Description, parse_description
from inception_v3.network.settings import Settings
from inception_v3.support import json_values
from inception_v3.support.json_values import parse_json, read_json

RUN = Path(__file__).parents[1] / "version_0_1" / "run" / "model.safetensors"


@dataclass(frozen=True)
class Point:
    x: float
    name: str | None = None
    size: tuple[int, int] = (1, 1)
    kind: Literal["a", "b"] = "a"
    labels: dict[int, str] | None = None


def test_an_object_fills_a_dataclass_with_the_types_of_its_fields() -> None:
    text = '{"x": 1, "name": null, "size": [3, 4], "kind": "b", "labels": {"7": "seven"}}'
    assert parse_json(text, Point) == Point(1, None, (3, 4), "b", {7: "seven"})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[]", "it must be an object, not [] (list)"),
        ("null", "it must be an object, not None"),
        ('"x"', "it must be an object, not 'x' (str)"),
        ("{}", "the keys must be x, name, size, kind, labels, not []"),
        ('{"x": 1, "y": 2}', "the keys must be x, name, size, kind, labels, not ['x', 'y']"),
        ('{"x": 1, "x": 2}', 'the key "x" occurs twice'),
        ('{"x": "1"}', "x must be a number, not '1' (str)"),
        ('{"x": true}', "x must be a number, not True (bool)"),
        ('{"x": 1e400}', "the number 1e400 is too large"),
        ('{"x": 1, "size": 3}', "size must be 2 whole numbers, not 3 (int)"),
        ('{"x": 1, "size": [3]}', "size must be 2 whole numbers, not [3]"),
        ('{"x": 1, "size": [3, 4.5]}', "size must be 2 whole numbers, not [3, 4.5] (list)"),
        ('{"x": 1, "name": 5}', "name must be a string or None, not 5 (int)"),
        ('{"x": 1, "kind": "c"}', "kind must be one of a, b, not 'c'"),
        (
            '{"x": 1, "labels": {"a": "b"}}',
            "labels must be a mapping from whole numbers to strings or None, not {'a': 'b'}",
        ),
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        (b'{"x": "\xff"}', "not UTF-8 (byte 7)"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str | bytes, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "point.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        read_json(file, Point)
    assert str(error.value).startswith(f"{file}: damaged: {fault}")
    assert "\n" not in str(error.value)


def test_a_file_larger_than_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "MAX_BYTES", 2**20)
    (file := tmp_path / "large.json").write_text('"' + "x" * 2**20 + '"')
    with pytest.raises(InputError, match=f"^{file}: damaged: more than 1 MiB"):
        read_json(file, str)


DESCRIPTION = Description(Settings(num_classes=2), Preprocessing(), ["a", "b"], ("Logits",), "fp32", False, "")


def test_a_description_survives_its_json() -> None:
    assert parse_description(DESCRIPTION.to_json(), Path("x.onnx")) == replace(
        DESCRIPTION, settings=parse_description(DESCRIPTION.to_json(), Path("x.onnx")).settings
    )


@pytest.mark.parametrize("value", [[], "x", None, 5, {"x": 1}, [5]], ids=json.dumps)
@pytest.mark.parametrize(
    "key", ["settings", "preprocessing", "class_names", "outputs", "precision", "check", "weights"]
)
def test_a_description_with_another_type_is_refused_with_the_file(key: str, value: Any) -> None:
    if (key, value) in (("class_names", None), ("check", None), ("outputs", []), ("weights", "x")):
        return
    values = json.loads(DESCRIPTION.to_json()) | {key: value}
    with pytest.raises(InputError, match=r"^x.onnx: its description cannot be read \(.+\); export it again$"):
        parse_description(json.dumps(values), Path("x.onnx"))


@pytest.mark.parametrize("text", ["[]", '"x"', "null", "5", "[[[", '{"num_classes": "10"}', '{"mean": 5}'])
@pytest.mark.parametrize("key", ["settings", "preprocessing", "training"])
def test_metadata_of_a_model_with_other_types_are_refused_with_the_file(key: str, text: str, tmp_path: Path) -> None:
    from safetensors import safe_open

    from inception_v3.weights.formats import native

    if key == "training" and text.startswith("{"):
        text = '{"base": [1]}'
    with safe_open(RUN, "np") as opened:
        metadata = opened.metadata()
    file = tmp_path / "model.safetensors"
    save_file({name: np.zeros(1, array.dtype) for name, array in load_file(RUN).items()}, file, metadata | {key: text})
    with pytest.raises(InputError, match=rf"^{file}: its settings cannot be read \(.+\); the file is damaged$"):
        native.read(file)
