"""The network as drawings, derived from its table: `plan` places all shapes, and a renderer draws them.

Renderers are `svg`, and for PNG and PDF `figure.save`, which needs matplotlib. Notebooks show `network_html`, the
drawing with a table. Nothing here needs PyTorch.
"""

from inception_v3.network.architecture import EndPoint, outer_first, unknown_end_point, with_inner
from inception_v3.network.drawing.module import module
from inception_v3.network.drawing.notebook import network_html as network_html
from inception_v3.network.drawing.page import network
from inception_v3.network.drawing.shapes import Drawing as Drawing
from inception_v3.network.drawing.vector import svg as svg
from inception_v3.network.settings import Settings


def plan(settings: Settings, end_point: str | None = None) -> Drawing:
    """Place all shapes of the drawing of a network, for its `image_size`, or of one module, branch or layer.

    Raises:
        ValueError: an end point that this network does not have, or that has no layers.
    """
    if end_point is None:
        return network(settings)
    known = drawable(settings)
    if end_point not in known:
        raise unknown_end_point(end_point, known)
    return module(known[end_point])


def drawable(settings: Settings) -> dict[str, EndPoint]:
    """The end points that can be drawn by themselves, by name; branches and layers are the last."""
    points = with_inner(settings.end_points())
    return {name: points[name] for name in outer_first(points) if points[name].layers}
