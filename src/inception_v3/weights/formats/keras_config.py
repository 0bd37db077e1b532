"""The configuration of a Keras model as a graph of layers, for `.keras`, `.h5` and TensorFlow.js.

Keras 2, Keras 3 and TensorFlow.js store a model as JSON: a functional model lists its layers and the calls that connect
them, a Sequential lists its layers, and either may contain others. `read_graph` resolves all of that into one graph of
calls of plain layers. It builds no object that the configuration names, and runs none of its code.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar

from inception_v3.support.text import one_line
from inception_v3.weights.formats.weights import numbered

MAX_BYTES = 32 << 20  # of a configuration; Keras's own Inception V3 has 0.3 MB
MAX_LAYERS = 10_000
MAX_DEPTH = 20  # of models inside models
MODELS = ("Functional", "Model", "Sequential")
OWN_MODULES = ("keras", "tf_keras", "tensorflow")  # the packages that Keras's own classes are in

Shapes = dict[str, tuple[int, ...] | None]  # of a layer's variables by name, in Keras's order; None: it is not read
Variable = TypeVar("Variable")


class ConfigurationError(Exception):
    """A configuration that is damaged, or that describes a network which cannot be computed here."""


@dataclass(frozen=True, eq=False)
class KerasLayer:
    """A layer of a configuration.

    Attributes:
        kind: the name of its class.
        options: its part of the configuration.
        names: the names of the models around it, outermost first, and its own name.
        group: the group below which Keras 3 stores its variables, such as `layers/functional/layers/conv2d_1`.
    """

    kind: str
    options: dict[str, Any]
    names: tuple[str, ...]
    group: str

    def __str__(self) -> str:
        return one_line(f"{self.kind} {self.names[-1]!r}")


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a layer: `arguments` are other calls and constants; `training` is whether it is fixed in the file."""

    layer: KerasLayer
    arguments: tuple[Any, ...] = ()
    training: bool = False

    @property
    def inputs(self) -> list["Call"]:
        return [argument for argument in self.arguments if isinstance(argument, Call)]


@dataclass
class _Model:
    """A functional model while its calls are resolved: its layers by name, and the outputs known so far."""

    layers: dict[str, KerasLayer]
    configs: dict[str, dict[str, Any]]
    outputs: dict[tuple[str, int], list[Call]] = field(default_factory=dict)


def parse(text: str | bytes) -> dict[str, Any]:
    """Parse a configuration. Raises ConfigurationError: too large, too deep, or not JSON."""
    if len(text) > MAX_BYTES:
        raise ConfigurationError(f"its configuration has {len(text)} bytes; the file is damaged")
    try:
        config = json.loads(text, object_hook=_plain)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"its configuration is not JSON ({error}); save the model again") from error
    checked: dict[str, Any] = check_type(config, dict, "its configuration")
    return checked


def _plain(value: dict[str, Any]) -> Any:
    """A list for what Keras 2 stores in a SavedModel instead of a tuple or a shape; any other value as it is."""
    return value.get("items") if value.get("class_name") in ("__tuple__", "TensorShape") else value


def check_type(value: Any, kind: type, name: str) -> Any:
    """Return the value. Raises ConfigurationError if it has another type."""
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} is a {type(value).__name__}, not a {kind.__name__}; the file is damaged")
    return value


def find_by_name(layer: KerasLayer, names: Iterable[str]) -> dict[str, str]:
    """Map the variables of a layer, such as kernel, to their names in a file, such as inception_v3/conv2d/kernel:0.

    If two models in the file have layers of that name, the names of the models decide.
    """
    for path in ("/".join(layer.names), layer.names[-1]):
        parts = {name: name.removesuffix(":0").rpartition("/") for name in names}
        found = {variable: name for name, (own, _, variable) in parts.items() if f"/{own}".endswith(f"/{path}")}
        if found:
            return found
    if re.search(r"_\d+$", layer.names[-1]):  # TensorFlow 1 numbers the variables of a model that was loaded and saved
        again = [re.fullmatch(rf"(?:.*/)?{re.escape(layer.names[-1])}_\d+/(\w+)(?::0)?", name) for name in names]
        if any(again):
            return {match[1]: match[0] for match in again if match}
    # Keras 2 names what `adapt` computed without a layer.
    bare = {name.removesuffix(":0"): name for name in names} if layer.kind == "Normalization" else {}
    return {variable: bare[variable] for variable in ("mean", "variance", "count") if variable in bare}


def pair_variables(
    layer: KerasLayer, found: dict[str, Variable], shapes: Shapes
) -> Iterator[tuple[Variable, tuple[int, ...]]]:
    """Pair the variables of a layer in a file with the expected shapes: by their names, or else in their order.

    Raises ConfigurationError if they are not as many. Variables without an expected shape are left out.
    """
    if len(found) != len(shapes):
        raise ConfigurationError(
            f"{layer} holds {len(found)} variables instead of {', '.join(shapes)}; the file is damaged"
        )
    variables = [found[name] for name in shapes] if shapes.keys() == found.keys() else list(found.values())
    for variable, shape in zip(variables, shapes.values(), strict=True):
        if shape is not None:
            yield variable, shape


def read_graph(config: dict[str, Any]) -> Call:
    """Return the call that computes the output of a model; its inputs lead to the model's input, an InputLayer.

    Raises ConfigurationError: damaged, several inputs or outputs, or no graph of layers.
    """
    with understood():
        (output,) = _expand_model(_layer(config, (), ""), config, [], 0)
    return output


@contextmanager
def understood() -> Iterator[None]:
    """Raise ConfigurationError for the errors that values of an unexpected type or number cause."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"its configuration cannot be understood ({type(error).__name__}: {one_line(error)}); save the model again"
        ) from error


def _layer(config: dict[str, Any], names: tuple[str, ...], group: str) -> KerasLayer:
    check_type(config, dict, "a layer of its configuration")
    kind = check_type(config.get("class_name"), str, "the class of a layer")
    registered, module = config.get("registered_name"), config.get("module", "keras")
    if isinstance(registered, str) and ">" in registered:  # a class of the user's own, whatever it is called
        kind = registered
    elif str(module).partition(".")[0] not in OWN_MODULES:  # the same, not registered
        kind = f"Custom>{kind}"
    options = config.get("config", {})
    options = {"layers": options} if isinstance(options, list) else check_type(options, dict, "the options of a layer")
    name = check_type(config.get("name") or options.get("name") or kind, str, "the name of a layer")
    return KerasLayer(kind, options, (*names, name), group)


def _expand(layer: KerasLayer, config: dict[str, Any], call: Call, depth: int) -> list[Call]:
    """The outputs of one call of a layer: those of the layers inside if it is a model."""
    if layer.kind not in MODELS:
        return [call]
    return _expand_model(layer, config, list(call.arguments), depth, call.training)


def _expand_model(
    model: KerasLayer, config: dict[str, Any], inputs: list[Any], depth: int, training: bool = False
) -> list[Call]:
    if depth > MAX_DEPTH:
        raise ConfigurationError(f"its models are nested more than {MAX_DEPTH} deep; the file is damaged")
    if model.kind not in MODELS:
        raise ConfigurationError(
            f"{one_line(model.kind)} is a class of its own, whose code is not in the file; build a functional model "
            "of its layers and save that"
        )
    configs = check_type(model.options.get("layers"), list, f"the layers of {model}")
    if len(configs) > MAX_LAYERS:
        raise ConfigurationError(f"{model} has {len(configs)} layers; the file is damaged")
    layers = list(_children(model, configs, "" if depth == 0 else model.group))
    if model.kind == "Sequential" or "input_layers" not in model.options:
        return _expand_sequential(model, layers, configs, inputs, depth, training)
    return _expand_functional(model, layers, configs, inputs, depth, training)


def _children(model: KerasLayer, configs: list[dict[str, Any]], group: str) -> Iterator[KerasLayer]:
    """The layers of a model. Keras 3 numbers the groups of each class of layer from 0, within each model."""
    numbers: defaultdict[str, int] = defaultdict(int)
    names = model.names if group else ()
    for config in configs:
        snake = _snake_case(_layer(config, (), "").kind)
        yield _layer(config, names, f"{group}/layers/{numbered(snake, numbers[snake])}".lstrip("/"))
        numbers[snake] += 1


def _snake_case(name: str) -> str:
    """Keras's name for a class in a file (keras/src/utils/naming.py, to_snake_case)."""
    name = re.sub(r"\W+", "", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def _expand_sequential(
    model: KerasLayer,
    layers: list[KerasLayer],
    configs: list[dict[str, Any]],
    inputs: list[Any],
    depth: int,
    training: bool,
) -> list[Call]:
    shape = {name: value for name, value in model.options.items() if name in ("build_input_shape", "batch_input_shape")}
    outputs = [Call(KerasLayer("InputLayer", shape, (*model.names, "input"), ""), tuple(inputs))]
    for layer, config in zip(layers, configs, strict=True):
        if len(outputs) != 1:
            raise ConfigurationError(f"{model} has a model with {len(outputs)} outputs; use one output")
        outputs = _expand(layer, config, Call(layer, tuple(outputs), training), depth + 1)
    return outputs


def _expand_functional(
    model: KerasLayer,
    layers: list[KerasLayer],
    configs: list[dict[str, Any]],
    inputs: list[Any],
    depth: int,
    training: bool,
) -> list[Call]:
    by_name = {layer.names[-1]: layer for layer in layers}
    if len(by_name) < len(layers):
        raise ConfigurationError(f"{model} has two layers of the same name; the file is damaged")
    this = _Model(by_name, dict(zip(by_name, configs, strict=True)))
    entries, exits = (_references(model.options.get(name)) for name in ("input_layers", "output_layers"))
    for what, references in (("inputs", entries), ("outputs", exits)):
        if len(references) != 1:
            raise ConfigurationError(
                f"{model} has {len(references)} {what}; save the model between one image and one output"
            )
    calls = {
        (name, number): call
        for name, config in this.configs.items()
        for number, call in enumerate(check_type(config.get("inbound_nodes", []), list, "the calls of a layer"))
    }
    resolve = partial(_resolve, this)
    entry = resolve(*entries[0])
    calls[entry] = []
    needed = {key: {resolve(*reference) for reference in _find_references(call)} for key, call in calls.items()}
    try:
        order = list(TopologicalSorter(needed).static_order())
    except CycleError as error:
        raise ConfigurationError(f"its layers form a cycle ({one_line(error.args[1])}); the file is damaged") from error
    for key in order:
        layer = by_name[key[0]]
        if key not in calls:
            raise ConfigurationError(f"the configuration uses {layer}, which it never calls; the file is damaged")
        if key == entry:
            this.outputs[key] = [Call(layer, tuple(inputs))]
        else:
            fixed = training or _training(calls[key])
            if layer.kind == "TFOpLambda":  # Keras 3 has these among the options of the layer
                layer = replace(layer, options=layer.options | _named(calls[key]))
            call = Call(layer, tuple(_arguments(this, calls[key])), fixed)
            this.outputs[key] = _expand(layer, this.configs[key[0]], call, depth + 1)
    return [_output(this, reference) for reference in exits]


def _resolve(model: _Model, name: str, node: int, tensor: int) -> tuple[str, int]:
    """The name and the number of a call. Keras 2 counts the calls of models inside a model from 1, other calls from 0.

    Raises ConfigurationError if there is no such layer.
    """
    if name not in model.layers:
        raise ConfigurationError(f"the configuration lacks the layer {one_line(name)!r}; the file is damaged")
    calls = model.configs[name].get("inbound_nodes") or [None]
    first = 1 if model.layers[name].kind in MODELS and isinstance(calls[0], list) else 0
    return name, 0 if len(calls) == 1 else node - first


def _output(model: _Model, reference: tuple[str, int, int]) -> Call:
    return model.outputs[_resolve(model, *reference)][reference[2]]


def _references(value: Any) -> list[tuple[str, int, int]]:
    """The tensors in `input_layers` or `output_layers`: one [name, node, tensor], a list or a dictionary of them."""
    if isinstance(value, dict):
        value = list(value.values())
    if _is_reference(value):
        return [tuple(value)]
    return [tuple(each) for each in check_type(value, list, "the inputs and outputs of a model") if _is_reference(each)]


def _is_reference(value: Any) -> bool:
    """Whether a value names a tensor: [layer, number of the call, number of the tensor], in Keras 2 with arguments."""
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and all(type(number) is int for number in value[1:3])
        and value[0] != "_CONSTANT_VALUE"
    )


def _find_references(value: Any) -> Iterator[tuple[str, int, int]]:
    """All tensors in the arguments of a call, at any depth."""
    if _is_reference(value):
        yield tuple(value[:3])
        value = value[3] if len(value) == 4 else ()
    elif isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        yield tuple(value["config"]["keras_history"])
        return
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _find_references(each)


def _training(call: Any) -> bool:
    """Whether Keras 2's call fixes `training=True`. Keras 3 stores it too, but replaces it when the model runs."""
    entries = [call] if _is_reference(call) else call if isinstance(call, list) else ()
    return any(_is_reference(each) and len(each) == 4 and each[3].get("training") is True for each in entries)


def _named(call: Any) -> dict[str, Any]:
    """The named arguments of Keras 2's call of a function."""
    entries = [call] if _is_reference(call) else call if isinstance(call, list) else []
    return next((each[3] for each in entries if _is_reference(each) and len(each) == 4), {})


def _arguments(model: _Model, call: Any) -> Iterator[Any]:
    """The tensors and the constants of a call in their order, as calls and numbers or lists of numbers."""
    if _is_reference(call):  # Keras 2
        yield _output(model, tuple(call[:3]))
        if len(call) == 4:
            yield from _arguments(model, [call[3][name] for name in ("x", "y", "bias") if name in call[3]])
    elif isinstance(call, dict) and call.get("class_name") == "__keras_tensor__":
        yield _output(model, tuple(call["config"]["keras_history"]))
    elif isinstance(call, dict) and "args" in call:  # Keras 3
        named = call.get("kwargs", {})
        yield from _arguments(model, [*call["args"], *(named[name] for name in ("x1", "x2") if name in named)])
    elif isinstance(call, dict) and call.get("class_name") in ("__numpy__", "__tensor__"):
        yield call["config"]["value"]
    elif isinstance(call, list) and call[:1] == ["_CONSTANT_VALUE"]:
        yield call[2]
        yield from _arguments(model, [call[3][name] for name in ("x", "y") if name in call[3]])
    elif isinstance(call, list) and call and all(type(each) in (int, float) for each in call):
        yield call
    elif isinstance(call, list):
        for each in call:
            yield from _arguments(model, each)
    elif type(call) in (int, float):
        yield call
