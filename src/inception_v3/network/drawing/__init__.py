"""The network as drawings, derived from its table: `plan` places all shapes, and a renderer draws them.

Renderers are `svg`, and for PNG and PDF `figure.save`, which needs matplotlib. Notebooks show `network_html`, a smaller
drawing with a table. Nothing here needs PyTorch.
"""

from inception_v3.network.drawing.notebook import network_html as network_html
from inception_v3.network.drawing.page import network
from inception_v3.network.drawing.shapes import Drawing as Drawing
from inception_v3.network.drawing.vector import svg as svg
from inception_v3.network.settings import Settings


def plan(settings: Settings) -> Drawing:
    """Place all shapes of the drawing of a network, for its `image_size`."""
    return network(settings)
