"""`serve` answers as NVIDIA's Triton Inference Server has answered to the same requests (triton_requests.py)."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from triton_requests import ANSWERS, MODEL, Case, ask, cases

pytest.importorskip("starlette", reason="needs the extra serve")

# Triton reports these faults of a request as its own, with status 500 or 501.
OUR_STATUS = {
    "no JSON": 400,
    "no inputs": 400,
    "too few values": 400,
    "too many values": 400,
    "negative batch": 400,
    "text as values": 400,
    "unknown compression": 415,
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "inception_v3", "serve", f"pets={MODEL}", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            events = map(json.loads, server.stderr)
            yield next(event["address"] for event in events if event["event"] == "ready")
        finally:
            server.terminate()
            server.communicate(timeout=30)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    answers: dict[str, Any] = json.loads(ANSWERS.read_text())
    return answers


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case[0]))
def test_a_request_is_answered_as_by_triton(case: Case, url: str, recorded: dict[str, Any]) -> None:
    name = case[0]
    theirs, ours = recorded[name], ask(url, case)
    assert ours["status"] == OUR_STATUS.get(name, theirs["status"])
    if ours["status"] != 200:
        assert [*ours["json"]] == [*theirs["json"]] == ["error"]
    elif "outputs" in (theirs["json"] or {}) and "model_name" in theirs["json"]:
        check_outputs(ours, theirs)
    elif name == "config":
        check_configuration(ours["json"], theirs["json"])
    elif theirs["json"] is not None:  # Triton's health endpoints send nothing
        assert ours["json"] | {"platform": ""} == theirs["json"] | {"platform": ""}


def test_every_request_has_an_answer(recorded: dict[str, Any]) -> None:
    assert [case[0] for case in cases()] == [*recorded]


def check_outputs(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Everything is equal but the order of outputs, the labels of classes, and the last digits of numbers."""
    heads = [{key: value for key, value in each["json"].items() if key != "outputs"} for each in (ours, theirs)]
    assert heads[0] == heads[1]
    found = {output["name"]: output for output in ours["json"]["outputs"]}
    assert found.keys() == {output["name"] for output in theirs["json"]["outputs"]}
    for expected in theirs["json"]["outputs"]:
        output = found[expected["name"]]
        assert (output["datatype"], output["shape"]) == (expected["datatype"], expected["shape"])
        assert output.keys() == expected.keys()
        values = [each["binary"].get(expected["name"], side.get("data")) for each, side in
                  ((ours, output), (theirs, expected))]  # fmt: skip
        if expected["datatype"] == "BYTES":
            assert [text.split(":")[1] for text in values[0]] == [text.split(":")[1] for text in values[1]]
            scores = [[float(text.split(":")[0]) for text in texts] for texts in values]
            assert scores[0] == pytest.approx(scores[1], abs=2e-6)
        else:
            assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-4)


def check_configuration(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert (ours["name"], ours["max_batch_size"]) == (theirs["name"], theirs["max_batch_size"])
    for kind in ("input", "output"):
        for output, expected in zip(ours[kind], theirs[kind], strict=True):
            assert output.items() <= expected.items()
    assert ours["dynamic_batching"].keys() & theirs["dynamic_batching"].keys()
