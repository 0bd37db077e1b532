"""SavedModel folders of TensorFlow 2, read without TensorFlow: `saved_model.pb` and the variables beside it.

Keras 2 stores its configuration, in `keras_metadata.pb` or, before TensorFlow 2.5, in the objects of saved_model.pb
(tensorflow/core/protobuf/saved_object_graph.proto). Other folders, such as those of Keras 3's `model.export`, have
none: their network is read from the function that serves predictions (function_graph.py).

Variables are found through the objects, whose paths are the same in saved_model.pb and in the checkpoint.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.errors import InputError
from inception_v3.support.protocol_buffers import (
    Fields,
    integer,
    integers,
    messages,
    octets,
    parse,
    read_messages,
    text,
)
from inception_v3.support.system_errors import is_file, read_reason
from inception_v3.support.text import one_line
from inception_v3.weights import SAVED_MODEL_FILE
from inception_v3.weights.formats.base import Format
from inception_v3.weights.formats.function_graph import MAX_PARTS, Evaluator, Functions, Layers, Operation
from inception_v3.weights.formats.keras_config import (
    MODELS,
    ConfigurationError,
    KerasLayer,
    Shapes,
    pair_variables,
    read_graph,
)
from inception_v3.weights.formats.keras_config import parse as parse_configuration
from inception_v3.weights.formats.keras_network import read_network, report_notes
from inception_v3.weights.formats.tensorflow_checkpoint import Checkpoint, open_checkpoint, read_object_graph
from inception_v3.weights.formats.tensorflow_objects import ROOT, children, find_keys
from inception_v3.weights.formats.weights import Weights

METADATA = "keras_metadata.pb"
INIT = "__saved_model_init_op"  # a signature that computes nothing
EXPORT = "export a functional or Sequential Keras model again, or give it as model.keras"
AGAIN = "copy or save the folder again"
MAX_GRAPHS = 10
TEXT = 7  # DataType in tensorflow/core/framework/types.proto


@dataclass(frozen=True)
class _Model:
    """An open SavedModel.

    Attributes:
        signatures: the functions that it serves, encoded, by name.
        nodes: of the main graph, by name.
        functions: the library of functions, encoded.
        objects: encoded, by their number.
        bound: the objects that each function takes behind its inputs, encoded, by the function's name.
        keys: the names of variables in the checkpoint, by the number of their object.
    """

    signatures: dict[str, memoryview]
    nodes: dict[str, Fields]
    functions: memoryview
    objects: list[memoryview]
    bound: dict[str, memoryview]
    keys: dict[int, str]
    checkpoint: Checkpoint

    def read_key(self, key: str, expected: tuple[int, ...] | None = None) -> np.ndarray:
        """A variable. Raises ConfigurationError: it is missing, has another shape, or holds NaN."""
        if key not in self.checkpoint.variables:
            raise ConfigurationError(f"its variables lack {one_line(key)}; {AGAIN}")
        shape = self.checkpoint.variables[key].shape
        if expected is not None and shape != expected:
            raise ConfigurationError(f"{one_line(key)} has shape {shape} instead of {expected}; the file is damaged")
        values = self.checkpoint.read(key)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ConfigurationError(f"{one_line(key)} holds NaN or infinity; use an earlier or undamaged file")
        return values


def recognises(path: Path) -> bool:
    """Whether the path is a folder with saved_model.pb, or that file."""
    return is_file(_file(path)) and _file(path).name == SAVED_MODEL_FILE


def read(path: Path) -> Weights:
    """Read a SavedModel. Warns of everything that is assumed.

    Raises InputError, naming the file: damaged, without variables, of TensorFlow 1, not Inception V3, or a layer or an
    operation that cannot be computed here.
    """
    file = _file(path)
    try:
        model = _open(file)
        weights, notes = _read_model(file, model)
    except ConfigurationError as error:
        raise InputError(f"{file}: {one_line(error)}") from error
    except OSError as error:
        raise InputError(f"{file}: {read_reason(error.filename or file, error)}") from error
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{file}: damaged ({one_line(error)}); {AGAIN}") from error
    return replace(weights, assumed=report_notes(file, notes))


def _file(path: Path) -> Path:
    return path / SAVED_MODEL_FILE if path.is_dir() else path


def _open(file: Path) -> _Model:
    graphs = messages(parse(_map(file), MAX_PARTS), 2)
    if not graphs:
        raise ValueError("it holds no graph")
    metas = [parse(graph, MAX_PARTS) for graph in graphs[:MAX_GRAPHS]]
    meta = next((each for each in metas if b"serve" in messages(parse(octets(each, 1)), 4)), metas[0])
    graph, objects = (parse(octets(meta, number), MAX_PARTS) for number in (2, 7))
    if not objects:
        raise ConfigurationError(
            "a SavedModel of TensorFlow 1, which lists no objects; give the checkpoint that it was made from"
        )
    prefix = file.with_name("variables") / "variables"
    if not is_file(f"{prefix}.index"):
        raise ConfigurationError("its folder lacks variables/variables.index; copy the whole folder")
    stored = read_object_graph(prefix)
    if stored is None:
        raise ConfigurationError("its variables have no list of objects; save it with TensorFlow 2")
    nodes = messages(objects, 1)
    return _Model(
        signatures={text(pair, 1): memoryview(octets(pair, 2)) for pair in map(parse, messages(meta, 5))},
        nodes={text(node, 1): node for node in map(parse, messages(graph, 1))},
        functions=memoryview(octets(graph, 2)),
        objects=nodes,
        bound={text(pair, 1): memoryview(octets(pair, 2)) for pair in map(parse, messages(objects, 2))},
        keys=find_keys(nodes, messages(parse(stored, MAX_PARTS), 1)),
        checkpoint=open_checkpoint(prefix),
    )


def _map(file: Path) -> memoryview:
    """The content of a file, which is read as far as it is looked at."""
    return np.memmap(file, np.uint8, "r").data if file.stat().st_size else memoryview(b"")


def _read_model(file: Path, model: _Model) -> tuple[Weights, list[str]]:
    """Read the network by its configuration, or else by its function, which shows what code in a layer computes."""
    metadata = _metadata(file, model)
    root = metadata.get(ROOT, {})
    config, compiled = root.get("config"), root.get("training_config")
    loss = compiled.get("loss") if isinstance(compiled, dict) else None
    if root.get("class_name") not in MODELS or not isinstance(config, dict) or "layers" not in config:
        return _read_function(model, loss)
    names = {number: each.get("name") for number, each in metadata.items()}

    def variables(layer: KerasLayer, shapes: Shapes) -> list[np.ndarray]:
        found = _find_variables(model, names, layer)
        pairs = pair_variables(layer, {name: found[name] for name in shapes if name in found}, shapes)
        return [model.read_key(key, shape) for key, shape in pairs]

    try:
        return read_network(read_graph({"class_name": root["class_name"], "config": config}), variables, loss)
    except ConfigurationError as error:
        with suppress(ConfigurationError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
            weights, notes = _read_function(model, loss)
            return weights, [f"the function that serves predictions is read, not the configuration: {error}", *notes]
        raise


# ------------------------------------------------------------------------------------------------- configurations


def _metadata(file: Path, model: _Model) -> dict[int, dict[str, Any]]:
    """What Keras 2 stores about each of its objects, by the number of the object; empty in other folders."""
    beside = file.with_name(METADATA)
    if is_file(beside):
        saved = (parse(each) for each in messages(parse(_map(beside), MAX_PARTS), 1))
        texts = {integer(each, 2): octets(each, 5) for each in saved}
    else:
        users = (parse(next(read_messages(each, 4), memoryview(b""))) for each in model.objects)
        texts = {number: octets(user, 3) for number, user in enumerate(users)}
    return {number: parse_configuration(bytes(each)) for number, each in texts.items() if bytes(each[:1]) == b"{"}


def _find_variables(model: _Model, names: dict[int, Any], layer: KerasLayer) -> dict[str, str]:
    """The keys of a layer's variables by their names, such as kernel. The names of the models around it lead to it."""
    number = ROOT
    for name in layer.names:
        inside = children(model.objects[number]).values()
        found = next((each for each in inside if names.get(each) == name), None)
        if found is None:
            raise ConfigurationError(f"its objects lack {layer}; {AGAIN}")
        number = found
    return {name: model.keys[each] for name, each in children(model.objects[number]).items() if each in model.keys}


# ------------------------------------------------------------------------------------------------- functions


def _read_function(model: _Model, loss: object) -> tuple[Weights, list[str]]:
    """The network of the function that serves predictions. `loss` is as in `read_network`."""
    name, inputs, output = _signature(model)
    bound = [_bound_operation(model, number) for number in integers(parse(model.bound[name]), 2)]
    outputs = Functions(model.functions).expand(name, [*inputs, *bound])
    layers = Layers(Evaluator(model.read_key))
    if output >= len(outputs) or not outputs[output].of_image:
        raise ConfigurationError(f"its function does not depend on an image; {EXPORT}")
    return read_network(layers.call(outputs[output]), layers.read, loss)


def _signature(model: _Model) -> tuple[str, list[Operation], int]:
    """The name of the function to read, its inputs, and the number of its output."""
    names = [name for name in model.signatures if name != INIT]
    name = "serving_default" if "serving_default" in names else next(iter(names), "")
    if not name or (name != "serving_default" and len(names) > 1):
        listed = ", ".join(map(one_line, names[:5]))
        have = f"it serves {listed} and no serving_default" if names else "it serves no function"
        raise ConfigurationError(f"{have}; {EXPORT}")
    signature = parse(model.signatures[name])
    inputs = [parse(octets(parse(pair), 2)) for pair in messages(signature, 1)]
    outputs = [parse(octets(parse(pair), 2)) for pair in messages(signature, 2)]
    for what, found in (("inputs", inputs), ("outputs", outputs)):
        if len(found) != 1:
            raise ConfigurationError(
                f"its function {one_line(name)!r} has {len(found)} {what}; export the model between one image and one "
                "output"
            )
    if integer(inputs[0], 2) == TEXT:
        raise ConfigurationError(
            f"its function {one_line(name)!r} takes text, such as encoded images; export the model that takes pixels"
        )
    node, _, index = text(outputs[0], 1).partition(":")
    attributes = {text(pair, 1): octets(pair, 2) for pair in map(parse, messages(model.nodes[node], 5))}
    function = text(parse(octets(parse(attributes.get("f", b"")), 10)), 1)
    if function not in model.bound:
        raise ConfigurationError(f"its function {one_line(name)!r} is not one of TensorFlow 2; {EXPORT}")
    return function, [Operation("Image", text(inputs[0], 1), value=_shape(inputs[0]))], int(index or 0)


def _shape(tensor: Fields) -> list[int | None] | None:
    """The shape of a signature's input: None where any length will do, or for the whole if its rank is unknown."""
    shape = parse(octets(tensor, 3))
    lengths = [integer(parse(dimension), 1) for dimension in messages(shape, 2)]
    return None if integer(shape, 3) else [length if length >= 0 else None for length in lengths]


def _bound_operation(model: _Model, number: int) -> Operation:
    """A variable or a constant that a function takes behind its inputs."""
    if number in model.keys:
        return Operation("Variable", model.keys[number], value=model.keys[number])
    constant = parse(next(read_messages(model.objects[number], 9), memoryview(b"")))
    node = model.nodes.get(text(constant, 1))
    if node is None:
        return Operation("an object without a value", f"number {number}")
    attributes = {text(pair, 1): octets(pair, 2) for pair in map(parse, messages(node, 5))}
    return Operation("Const", text(node, 1), attributes=attributes)


FORMAT = Format(name="saved-model", recognises=recognises, read=read, write_instead="keras")
