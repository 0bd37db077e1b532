"""The objects that TensorFlow 2 stores beside variables: in a checkpoint, and in a SavedModel.

An object names its children, such as the layers of a model and the variables of a layer
(tensorflow/core/protobuf/trackable_object_graph.proto and saved_object_graph.proto, which agree in that field).
"""

from collections import deque

from inception_v3.support.protocol_buffers import integer, messages, parse, text

ROOT = 0  # the number of the object that was saved
VALUE = "VARIABLE_VALUE"


def children(node: memoryview) -> dict[str, int]:
    """The children of an object by their names. Raises ValueError: damaged."""
    return {text(child, 2): integer(child, 1) for child in map(parse, messages(parse(node), 1))}


def variable_key(node: memoryview) -> str | None:
    """The name of an object's variable in the checkpoint; None if it is no variable."""
    for attribute in map(parse, messages(parse(node), 2)):
        if text(attribute, 1) == VALUE:
            return text(attribute, 3)
    return None


def find_keys(saved: list[memoryview], stored: list[memoryview]) -> dict[int, str]:
    """The names of variables in a checkpoint (`stored`) by the number of the same object in a SavedModel (`saved`).

    An object is the same if the same names lead to it from the root. Raises ValueError: damaged.
    """
    keys: dict[int, str] = {}
    seen, waiting = {ROOT}, deque([(ROOT, ROOT)])
    while waiting:
        number, same = waiting.popleft()
        key = variable_key(stored[same])
        if key is not None:
            keys[number] = key
        inside = children(stored[same])
        for name, child in children(saved[number]).items():
            if name in inside and child not in seen:
                seen.add(child)
                waiting.append((child, inside[name]))
    return keys
