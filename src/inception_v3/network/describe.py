"""The network as a description: the layers, shape, cost and receptive field of each end point."""

from collections.abc import Sequence
from typing import Any

from inception_v3.network import architecture
from inception_v3.network.architecture import BASE_END_POINTS, Conv, Dense, EndPoint, Layer, Mixed, Pool


def describe_network(**options: Any) -> dict[str, Any]:
    """Describe every end point, and the totals, in values that JSON can hold.

    The options are those of `architecture.end_points`. Parameters include BatchNorm's statistics, as in TF-Slim; MACs
    are for one image; sizes are in pixels. `inner` holds the branches and layers, which are end points too.

    Raises:
        ValueError: an impossible option, or an image too small.
    """
    points = architecture.end_points(**options)
    base = [point for point in points if point.name in BASE_END_POINTS]
    heads = [point for point in points if point.name not in BASE_END_POINTS]
    return {
        "options": options,
        "end_points": [
            {
                "name": point.name,
                "built_as": built_as(point.name, point.layers),
                "height": point.height,
                "width": point.width,
                "channels": point.channels,
                "receptive_field": point.receptive_field[0],
                **_total([point]),
                "inner": [
                    {"name": each.name, "height": each.height, "width": each.width, "channels": each.channels}
                    for each in point.inner
                ],
            }
            for point in points
        ],
        "base": _total(base),
        "heads": {point.name: _total([point]) for point in heads if point.layers},
        "total": _total(points),
    }


def _total(points: list[EndPoint]) -> dict[str, int]:
    return {
        "parameters": sum(point.parameters for point in points),
        "trainable_parameters": sum(point.trainable_parameters for point in points),
        "macs": sum(point.macs for point in points),
    }


def built_as(name: str, layers: Sequence[Layer] = ()) -> list[str]:
    """Write the branches of an end point in the notation of TF-Slim's table: `1x1 48 → 5x5 64`, `1x3 384 ‖ 3x1 384`.

    `layers` are those of a hidden layer, which is not in the table.
    """
    if layers and isinstance(layers[0].table, Dense):
        return [_hidden_layer(layers[0].table)]
    heads = {
        "AuxLogits": _chain(architecture.AUX_LOGITS),
        "AvgPool_1a": _layer(architecture.LOGITS[0]),
        "PreLogits": "dropout",
        "Logits": _layer(architecture.LOGITS[1]),
        "Predictions": "softmax",
    }
    if name in heads:
        return [heads[name]]
    node = architecture.BASE[BASE_END_POINTS.index(name)]
    return [_chain(branch) for branch in node.branches] if isinstance(node, Mixed) else [_layer(node)]


def _hidden_layer(table: Dense) -> str:
    steps = [f"1x1 {table.width}", table.activation]
    if table.batch_norm is not None:
        steps.insert(1 if table.batch_norm == "before" else 2, "BatchNorm")
    return " → ".join(steps)


def _chain(steps: tuple[architecture.Step, ...]) -> str:
    return " → ".join(
        f"({' ‖ '.join(map(_layer, step))})" if isinstance(step, tuple) else _layer(step) for step in steps
    )


def _layer(layer: Conv | Pool) -> str:
    """Write one layer; a stride of 1 and SAME padding are left out."""
    kind = f"{layer.kind} " if isinstance(layer, Pool) else ""
    stride = f"/{layer.stride}" if layer.stride > 1 else ""
    valid = " V" if layer.padding == "VALID" and layer.kernel != (1, 1) else ""
    size = "x".join(map(str, layer.kernel))
    width = f" {layer.width or 'classes'}" if isinstance(layer, Conv) else ""
    return f"{kind}{size}{stride}{valid}{width}"
