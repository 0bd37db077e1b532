"""TF-Slim checkpoints, and the options of InceptionV3 that their names and shapes imply.

The variable `InceptionV3/Conv2d_1a_3x3/weights` is the tensor `Conv2d_1a_3x3.weights` of `state_dict()`.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network import architecture
from inception_v3.network.architecture import AUX_INPUT, AUX_LOGITS, BASE_END_POINTS, Conv, Layer
from inception_v3.network.settings import Settings
from inception_v3.support.system_errors import read_error
from inception_v3.support.text import one_line, printable
from inception_v3.weights import SAVED_MODEL_FILE
from inception_v3.weights.formats import tensorflow_checkpoint
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.graphdef import Graph, GraphError, first_message, read_graph, read_messages
from inception_v3.weights.formats.state_dict_search import choose
from inception_v3.weights.formats.tensorflow_folder import VARIABLES
from inception_v3.weights.formats.tf_slim_graph import check, describe, find_graphs
from inception_v3.weights.formats.tf_slim_names import LOGITS, NO_LOGITS, SlimNetwork, find_networks, split_name
from inception_v3.weights.formats.weights import (
    BATCH_NORM,
    Weights,
    convolutions,
    default_class_names,
    differences_from,
    fold_gamma,
    to_torch,
)
from inception_v3.weights.programs.program import Program

SCOPE = "InceptionV3/"
AUX_OUTPUT = "AuxLogits/Conv2d_2b_1x1"


def read(path: Path, state: str | None = None) -> Weights:
    """Read a checkpoint in format V1 or V2, with the options of InceptionV3 that it implies, below any scope.

    `state` is the key of one of several networks: its scope, with /ExponentialMovingAverage for the moving averages. By
    default these are used if there are any, as slim evaluates with them, with a warning.

    Raises InputError: damaged, not TF-Slim's Inception V3, or several networks.
    """
    shapes = tensorflow_checkpoint.list_variables(path)
    networks = find_networks(shapes)
    if not networks:
        raise _no_network(path, shapes)
    network = choose(path, networks, state)
    variables, left_out = _without_unfit_aux(network.variables, shapes)
    _check_complete(path, network, shapes)
    read_variables = tensorflow_checkpoint.read(path, wanted=set(variables.values()).__contains__)
    tensors = {ours.replace("/", "."): to_torch(read_variables[name]) for ours, name in variables.items()}
    end_point = network.end_point()
    settings = Settings(**recover_options(path, {ours: shapes[name] for ours, name in variables.items()}, end_point))
    weights = Weights(
        tensors,
        settings,
        Preprocessing.named("slim", settings.image_size),
        default_class_names(settings.num_classes) if end_point is None else None,
    )
    if (
        graph := (path.absolute().parent.parent / SAVED_MODEL_FILE)
    ).is_file() and path.parent.name == VARIABLES.parent.name:
        weights = _obey_graph(graph, weights, network)
    lines = [left_out] if left_out else []
    if end_point:
        lines.append(NO_LOGITS)
    if unused := _unused(networks, shapes):
        lines.append(f"has variables outside the network, which are not used: {', '.join(unused[:5])}")
    warn(path, lines)
    return weights


def warn(path: Path, lines: list[str]) -> None:
    """Report in a line each what was left out."""
    for line in lines:
        warnings.warn(f"{path}: {printable(line)}", stacklevel=4)


def _obey_graph(path: Path, weights: Weights, network: SlimNetwork) -> Weights:
    """The weights with what the graph of a SavedModel states about them. Raises InputError: it computes otherwise."""
    try:
        graph = _inference_graph(np.memmap(path, np.uint8, "r").data)
        graph.variables = tensorflow_checkpoint.read(path.parent / VARIABLES)
        found = next((each for each in find_graphs(graph) if each.scope == network.scope), None)
        if found is None:
            raise GraphError("its graph does not have the convolutions of its variables")
        found.epsilon = found.find_epsilon()
        settings, preprocessing = describe(found, weights.settings)
        weights = replace(
            weights,
            settings=settings,
            preprocessing=preprocessing,
            undetermined=found.undetermined,
            assumed=found.assumed,
        )
        check(found, weights)
    except OSError as error:
        raise read_error(path, error) from error
    except (ValueError, IndexError, OverflowError) as error:
        remedy = f"give only its variables, {path.parent / VARIABLES}, in another folder"
        raise InputError(f"{path}: {one_line(error)}; {remedy}") from error
    return weights


def _inference_graph(saved_model: memoryview) -> Graph:
    """The graph of a SavedModel that is not for training. Raises ValueError."""
    meta_graphs = list(read_messages(saved_model, 2))
    for meta_graph in meta_graphs:
        tags = [bytes(tag[:100]) for tag in read_messages(first_message(meta_graph, 1), 4)]
        if b"train" not in tags or len(meta_graphs) == 1:
            return read_graph(first_message(meta_graph, 2))
    raise GraphError("has no graph for inference")


def _no_network(path: Path, names: Iterable[str]) -> InputError:
    """The error for a checkpoint without an Inception V3, which names what it holds instead."""
    first = convolutions()[0].name
    other = next((name for name in names if split_name(name) is None and "/" in name), next(iter(names), None))
    has = f"has {one_line(other, 100)!r}" if other else "has no variables"
    return InputError(
        f"{path}: not TF-Slim's Inception V3 (it {has} and lacks most of InceptionV3/{first}/weights, ...); give a "
        "checkpoint of that network"
    )


def _check_complete(path: Path, network: SlimNetwork, shapes: Iterable[str]) -> None:
    """Raise InputError if a variable is missing, or if a layer of the base has others than slim's."""
    end_point = network.end_point()
    options = {"create_aux_logits": False, "final_endpoint": end_point}
    expected = [
        f"{layer.name}/{part}"
        for layer in convolutions(**options)
        for part in (("weights", *BATCH_NORM[1:]) if layer.normalized else ("weights", "biases"))
    ]
    expected = [name.replace("BatchNorm.", "BatchNorm/") for name in expected]
    missing = [name for name in expected if name not in network.variables]
    layers = tuple(network.scope + name for name in (*(f"{name}/" for name in BASE_END_POINTS), "Logits/"))
    known = {network.scope + name for name in (*expected, *network.variables)}
    unknown = [name for name in shapes if name.startswith(layers) and not name.startswith(tuple(known))]
    for fault, names in (("lacks", [network.scope + name for name in missing]), ("has the unknown", unknown)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(
                f"{path}: {fault} {printable(names[0])!r}{more}; give a checkpoint of TF-Slim's Inception V3, with all "
                "of its variables"
            )


def _without_unfit_aux(
    variables: dict[str, str], shapes: dict[str, tuple[int, ...]]
) -> tuple[dict[str, str], str | None]:
    """The variables without an auxiliary head that the network cannot have, and the reason."""
    aux = [name for name in variables if name.startswith("AuxLogits/")]
    logits = shapes.get(variables.get(f"{LOGITS}/biases", ""), ())
    aux_logits = shapes.get(variables.get(f"{AUX_OUTPUT}/biases", ""), ())
    if not aux or (logits == aux_logits and len(aux) in (10, 12)):  # with two gammas or without
        return variables, None
    rest = {ours: name for ours, name in variables.items() if ours not in aux}
    if not logits:
        return rest, None
    if aux_logits and logits != aux_logits:
        return rest, f"its auxiliary head has {aux_logits[0]} classes and the network {logits[0]}, so it is left out"
    return rest, "its auxiliary head is incomplete, so it is left out"


def _unused(networks: list[SlimNetwork], shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The variables, without scalars and optimizer's slots, that belong to no network."""
    scopes = {network.scope for network in networks}
    return [
        f"{name} {'x'.join(map(str, shape))}"
        for name, shape in shapes.items()
        if shape and name.rpartition("/")[0] not in shapes and not _belongs(name, scopes)
    ]


def _belongs(name: str, scopes: set[str]) -> bool:
    """Whether a variable is one of a network with one of these scopes, or a slot of any such variable."""
    parts = split_name(name)
    return parts is not None and (parts[0] in scopes or bool(parts[2]))


def write(weights: Weights, path: Path) -> None:
    """Write a checkpoint in format V2 under the prefix `path`, float32, without gammas: slim's network has none.

    A file with the name of the prefix, such as a checkpoint in format V1, is deleted: it would be read instead of the
    new checkpoint.

    Warns if TF-Slim cannot build the auxiliary head. Raises InputError: a cut network, a full disk, a path that cannot
    be written.
    """
    if weights.settings.final_endpoint:
        raise InputError(f"{path}: TF-Slim's network has all layers, and this one lacks its heads; write it as native")
    _warn_of_aux_head(weights.settings)
    tensors, _ = fold_gamma(weights.tensors)
    variables = {SCOPE + name.replace(".", "/"): to_tensorflow(tensor) for name, tensor in tensors.items()}
    tensorflow_checkpoint.write(path, variables)
    if path.is_file():
        path.unlink()


def _warn_of_aux_head(settings: Settings) -> None:
    """Warn if the auxiliary head's first pool does not fit on its map. Only this project's pool shrinks then."""
    height, width = settings.image_size
    point, pool = architecture.end_points(height=height, width=width, final_endpoint=AUX_INPUT)[-1], AUX_LOGITS[0]
    if settings.create_aux_logits and (point.height < pool.kernel[0] or point.width < pool.kernel[1]):
        warnings.warn(
            f"AuxLogits: TF-Slim cannot build this head for images of {height}x{width}, because its "
            f"{pool.kernel[0]}x{pool.kernel[1]} average pool does not fit on a map of {point.height}x{point.width}; "
            "give inception_v3 create_aux_logits=False there, and restore the other variables",
            stacklevel=2,
        )


def to_tensorflow(tensor: Tensor) -> np.ndarray:
    """Convert a tensor to float32 in TensorFlow's layout: kernels OIHW to HWIO; vectors stay as they are."""
    value: np.ndarray = tensor.cpu().float().numpy()
    return np.ascontiguousarray(value.transpose(2, 3, 1, 0)) if value.ndim == 4 else value


def recover_options(path: Path, shapes: dict[str, tuple[int, ...]], end_point: str | None) -> dict[str, Any]:
    """The options that a checkpoint does not store: num_classes, the widths, the heads and their image size.

    `end_point` is the last layer of a network without heads. The shapes allow several multipliers and image sizes, all
    of which build the same variables. This returns the simplest multiplier, and the smallest image that fills the
    auxiliary kernel (299 for 5x5).
    """
    aux = [name for name in shapes if name.startswith("AuxLogits/Conv2d_2a_") and name.endswith("/weights")]
    options: dict[str, Any] = {
        "final_endpoint": end_point,
        "create_aux_logits": bool(aux),
        "batch_norm_scale": any(name.endswith("gamma") for name in shapes),
    }
    if not end_point:
        options["num_classes"] = shapes[f"{LOGITS}/biases"][-1]
    if aux:
        options["image_size"] = tuple(map(_image_length, shapes[aux[0]][:2]))
    height, width = options.get("image_size", (299, 299))
    return options | _width_options(path, convolutions(height=height, width=width), shapes)


def _image_length(kernel: int) -> int:
    """The smallest image whose map fills an auxiliary kernel of this length, after slim's 5x5 pool."""
    if kernel >= 5:
        return 299
    sizes = (
        (length, architecture.end_points(height=length, final_endpoint=architecture.AUX_INPUT)[-1].height)
        for length in range(architecture.minimum_size(), 299)
    )
    return next((length for length, size in sizes if size >= 5 and (size - 5) // 3 + 1 == kernel), 299)


def _width_options(path: Path, layers: list[Layer], shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """depth_multiplier and min_depth: each width must equal max(int(published width * depth_multiplier), min_depth)."""
    widths: dict[int, int] = {}  # the width in the file by the published width
    for layer in layers:
        shape = shapes.get(f"{layer.name}/weights")
        if shape is not None and len(shape) == 4 and isinstance(layer.table, Conv) and layer.table.width:
            widths[layer.table.width] = shape[3]
    for min_depth in (16, min(widths.values())):
        low = max(
            (Fraction(width, published) for published, width in widths.items() if width != min_depth),
            default=Fraction(),
        )
        high = min(Fraction(width + 1, published) for published, width in widths.items())
        for multiplier in _decimals_from(low):
            if 0 < multiplier < high and all(
                architecture.depth(published, float(multiplier), min_depth) == width
                for published, width in widths.items()
            ):
                return {"depth_multiplier": float(multiplier), "min_depth": min_depth}
    raise InputError(f"{path}: no depth_multiplier gives the widths of its layers; check that it is an Inception V3")


def _decimals_from(low: Fraction) -> Iterator[Fraction]:
    """Yield the two smallest numbers, `low` or larger, with 0 decimal places, then those with 1, and so on up to 11."""
    for scale in (10**places for places in range(12)):
        first = -(-low.numerator * scale // low.denominator)
        yield from (Fraction(first, scale), Fraction(first + 1, scale))


FORMAT = WritableFormat(
    name="tf-slim",
    recognises=tensorflow_checkpoint.recognises,
    read=read,
    read_state=read,
    write=write,
    # TF-Slim builds any width; its average pools leave the padding out.
    differences=partial(differences_from, count_padding=False, global_pool=False, fixed_widths=False),
    suffixes=(".ckpt",),
    forbidden_suffixes=(".index",),  # a checkpoint is named by its prefix
    has_gamma=False,
    program=Program("tf-slim"),
)
