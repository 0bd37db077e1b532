"""TF-Slim's Inception V3 as a frozen graph: a GraphDef whose variables are constants, below any scope.

Such files come from freeze_graph or convert_variables_to_constants, and from optimize_for_inference, which folds every
BatchNorm into its kernel and an offset.
"""

from itertools import islice
from pathlib import Path

import numpy as np

from inception_v3.errors import InputError
from inception_v3.network.settings import Settings
from inception_v3.support.system_errors import read_error
from inception_v3.support.text import one_line
from inception_v3.weights.formats.base import Format
from inception_v3.weights.formats.graphdef import Graph, GraphError, read_graph, read_nodes
from inception_v3.weights.formats.tf_slim import recover_options, warn
from inception_v3.weights.formats.tf_slim_graph import SlimGraph, check, describe, find_graphs
from inception_v3.weights.formats.tf_slim_names import FIRST
from inception_v3.weights.formats.weights import Weights, default_class_names

REMEDY = "give the checkpoint that it came from"


def recognises(path: Path) -> bool:
    try:
        # The first convolution is among the first nodes, unless a larger graph has imported the network.
        nodes = islice(read_nodes(np.memmap(path, np.uint8, "r").data), 10_000)
        return any(f"/{name}".endswith((f"/{FIRST}/weights", f"/{FIRST}/Conv2D_weights")) for name, _ in nodes)
    except (OSError, ValueError):
        return False


def read(path: Path) -> Weights:
    """Read the weights of a graph, and how it scales images. Warns of what is assumed.

    The graph is run once, to prove that it computes what this network computes.

    Raises InputError, naming the file: damaged, another network, or an operation that cannot be computed here.
    """
    try:
        found = _find(read_graph(np.memmap(path, np.uint8, "r").data))
        found.epsilon = found.find_epsilon()
        tensors = found.read_tensors()
        shapes = {name.replace(".", "/"): _shape(tensor.shape) for name, tensor in tensors.items()}
        settings = Settings(**recover_options(path, shapes, None if found.has_logits else found.last))
        settings, preprocessing = describe(found, settings)
        names = default_class_names(settings.num_classes) if found.has_logits else None
        weights = Weights(
            tensors, settings, preprocessing, names, undetermined=found.undetermined, assumed=found.assumed
        )
        check(found, weights)
    except OSError as error:
        raise read_error(path, error) from error
    except GraphError as error:
        raise InputError(f"{path}: {one_line(error)}; {REMEDY}") from error
    except (ValueError, IndexError, OverflowError) as error:
        raise InputError(
            f"{path}: truncated, damaged or not a TensorFlow graph ({one_line(error)}); download or freeze it again"
        ) from error
    warn(path, [*found.left_out()])
    return weights


def _find(graph: Graph) -> SlimGraph:
    """The network in a graph. Raises GraphError: none, or several."""
    networks = find_graphs(graph)
    if not networks:
        raise GraphError("holds variables of TF-Slim's Inception V3, but not its convolutions")
    if len(networks) > 1:
        scopes = ", ".join(each.scope for each in networks)
        raise GraphError(f"holds {len(networks)} networks, {scopes}")
    return networks[0]


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in TensorFlow: kernels HWIO."""
    return (shape[2], shape[3], shape[1], shape[0]) if len(shape) == 4 else tuple(shape)


FORMAT = Format(name="graphdef-slim", recognises=recognises, read=read, write_instead="tf-slim")
