"""Checkpoints of TensorFlow 2 with the weights of a Keras model: `model.save_weights` and `tf.train.Checkpoint`.

They store variables below the layers of the model, in Keras's order (keras.py has it), and nothing of what the layers
compute. So only Keras's own network is read, with or without one Dense layer after it, and the rest is assumed.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.errors import InputError
from inception_v3.network.settings import Settings
from inception_v3.support.protocol_buffers import messages, parse
from inception_v3.support.text import one_line
from inception_v3.weights.formats.base import Format
from inception_v3.weights.formats.function_graph import MAX_PARTS
from inception_v3.weights.formats.keras import ordered_layers, weights_without_configuration
from inception_v3.weights.formats.keras_config import MAX_DEPTH, ConfigurationError
from inception_v3.weights.formats.keras_network import UNSTATED, report_notes
from inception_v3.weights.formats.tensorflow_checkpoint import Checkpoint, open_checkpoint, read_object_graph
from inception_v3.weights.formats.tensorflow_objects import ROOT, children, variable_key
from inception_v3.weights.formats.weights import Weights

# Where a model lists its layers: Keras 2 in the model itself, Keras 3 in a list.
KERAS_2_LAYER = re.compile(r"layer-(\d{1,5})")
KERAS_3_LISTS = ("_layers", "_operations")
LINKS = re.compile(r"layer(_with_weights)?-\d+|_.*|root|keras_api|.*variables")  # no names of models of a user
REMEDY = 'give the whole model, as saved by model.save("model.keras")'


@dataclass(frozen=True)
class _Layer:
    """A layer with variables: its path in the checkpoint, and the names of its variables in the file by Keras's."""

    path: str
    variables: dict[str, str]


def recognises(path: Path) -> bool:
    """Whether the path belongs to a checkpoint of TensorFlow 2, which lists its objects."""
    try:
        return read_object_graph(path) is not None
    except InputError:
        return False  # the format of other checkpoints reports the damage


def read(path: Path) -> Weights:
    """Read the one model in a checkpoint. Warns of everything that is assumed.

    Raises InputError, naming the file: damaged, several models, not Inception V3, or layers of which the file does not
    state what they compute.
    """
    return _read(path, None)


def read_state(path: Path, state: str) -> Weights:
    """Read one of several models, by the name under which it was saved. Raises InputError as `read`."""
    return _read(path, state)


def _read(path: Path, state: str | None) -> Weights:
    checkpoint = open_checkpoint(path)
    graph = read_object_graph(path)
    try:
        nodes = messages(parse(graph or b"", MAX_PARTS), 1)
        weights, notes = _read_network(checkpoint, _choose(path, nodes, state))
        notes = [note for note in notes if note.startswith(UNSTATED)]
    except ConfigurationError as error:
        raise InputError(f"{path}: {one_line(error)}") from error
    except (LookupError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: damaged ({one_line(error)}); copy or download the checkpoint again") from error
    return replace(weights, assumed=report_notes(path, notes) | _assumptions(weights.settings))


def _assumptions(settings: Settings) -> dict[str, str]:
    """What no file of weights states, as `Weights.assumed`."""
    height, width = settings.image_size
    lines = {"image_size": f"it does not state the size of images; {height}x{width} is assumed"}
    if settings.final_endpoint is None:
        activation = settings.output_activation
        lines["output_activation"] = (
            f"it holds weights only; average pooling and {activation} outputs are assumed; --output replaces the latter"
        )
    return lines


def _choose(path: Path, nodes: list[memoryview], state: str | None) -> list[_Layer]:
    """The layers of the model to read. Raises ConfigurationError if there is none, or if there are several."""
    models = {name: layers for name, layers in _find_models(nodes) if layers}
    if state is not None:
        if state not in models:
            names = ", ".join(one_line(name) for name in models) or "none"
            raise InputError(f"--state {one_line(state)}: {path} has the models: {names}", exit_status=2)
        return models[state]
    if len(models) > 1:
        names = " and ".join(one_line(name) for name in models)
        raise ConfigurationError(f"it holds several models, {names}; choose one with --state")
    if not models:
        raise ConfigurationError(f"it holds no layers of a Keras model; {REMEDY}")
    return next(iter(models.values()))


def _find_models(nodes: list[memoryview]) -> Iterator[tuple[str, list[_Layer]]]:
    """The models that are nearest to the root, with their layers, by the names that lead to them; "" is the root."""
    seen, waiting = {ROOT}, deque([("", ROOT)])
    while waiting:
        name, number = waiting.popleft()
        if _layer_numbers(nodes, number):
            yield name, list(_layers_with_variables(nodes, number, name, 0))
            continue
        for child, inside in children(nodes[number]).items():
            if inside not in seen and not LINKS.fullmatch(child):
                seen.add(inside)
                waiting.append((f"{name}.{child}".lstrip("."), inside))


def _layer_numbers(nodes: list[memoryview], number: int) -> dict[str, int]:
    """The layers of a model in their order, with their names in the checkpoint; empty if it is no model."""
    inside = children(nodes[number])
    found = {int(match[1]): name for name in inside if (match := KERAS_2_LAYER.fullmatch(name))}
    if found:
        return {found[index]: inside[found[index]] for index in sorted(found)}
    for name in KERAS_3_LISTS:
        listed = children(nodes[inside[name]]) if name in inside else {}
        if listed and all(index.isdecimal() for index in listed):
            return {f"{name}/{index}": listed[index] for index in sorted(listed, key=int)}
    return {}


def _layers_with_variables(nodes: list[memoryview], number: int, path: str, depth: int) -> Iterator[_Layer]:
    """The layers of a model, and of the models in it, that have variables."""
    if depth > MAX_DEPTH:
        raise ValueError(f"models are nested more than {MAX_DEPTH} deep")
    for name, child in _layer_numbers(nodes, number).items():
        inside = f"{path}/{name}".lstrip("/")
        if _layer_numbers(nodes, child):
            yield from _layers_with_variables(nodes, child, inside, depth + 1)
            continue
        keys = {each: variable_key(nodes[variable]) for each, variable in children(nodes[child]).items()}
        variables = {each.lstrip("_"): key for each, key in keys.items() if key is not None}
        if variables:
            yield _Layer(inside, variables)


def _read_network(checkpoint: Checkpoint, layers: list[_Layer]) -> tuple[Weights, list[str]]:
    """The network whose layers, in this order, have the variables of Keras's layers."""
    expected = ordered_layers()
    tensors: dict[str, np.ndarray] = {}
    for ours, theirs in zip(expected, layers, strict=False):
        variables = ours.variables()
        if theirs.variables.keys() != variables.keys():
            raise ConfigurationError(
                f"not Keras's Inception V3: its layer {one_line(theirs.path)} has {_listed(theirs.variables)}, but "
                f"{ours} has {_listed(variables)}"
            )
        for name, (state, shape) in variables.items():
            tensors[state] = _read_variable(checkpoint, theirs.variables[name], shape, tensors)
    if len(layers) < len(expected) - 1:
        raise ConfigurationError(f"not Keras's Inception V3: it has {len(layers)} layers with variables")
    if len(layers) > len(expected):
        raise ConfigurationError(
            f"it has {one_line(layers[len(expected)].path)} besides Inception V3 and one Dense layer, and no "
            f"configuration that describes it; {REMEDY}"
        )
    models = {each.path.rpartition("/")[0] for each in layers}
    return weights_without_configuration(tensors, is_nested=len(models) > 1)


def _listed(names: Any) -> str:
    return one_line(", ".join(sorted(names)), 100)


def _read_variable(
    checkpoint: Checkpoint, key: str, shape: tuple[int, ...], tensors: dict[str, np.ndarray]
) -> np.ndarray:
    """The values of a variable. A length of -1 is the number of classes, which kernel and bias have in common."""
    if key not in checkpoint.variables:
        raise ConfigurationError(f"it lacks the values of {one_line(key)}; copy all files of the checkpoint")
    found = checkpoint.variables[key].shape
    classes = next(reversed(tensors.values())).shape[-1] if len(shape) == 1 and tensors else None
    wanted = tuple(length if length >= 0 else (classes or (found[-1:] and found[-1])) for length in shape)
    if found != wanted or 0 in found:
        raise ConfigurationError(f"not Keras's Inception V3: {one_line(key)} has shape {found} instead of {wanted}")
    values = checkpoint.read(key)
    if values.dtype.kind != "f":
        raise ConfigurationError(f"{one_line(key)} holds {values.dtype} instead of floats; save it without quantising")
    if not np.isfinite(values).all():
        raise ConfigurationError(f"{one_line(key)} holds NaN or infinity; use an earlier or undamaged file")
    return values


FORMAT = Format(
    name="object-checkpoint", recognises=recognises, read=read, read_state=read_state, write_instead="keras"
)
