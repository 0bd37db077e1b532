"""The colours, sizes and widths of a drawing's shapes, the same for all renderers."""

from dataclasses import dataclass

# Light and dark colours. The frames of layers are Okabe and Ito's colours, which people with any kind of colour
# blindness can distinguish.
COLOURS = {
    "paper": ("#ffffff", "#0d1117"),
    "band": ("#f3f5f8", "#151b23"),
    "card": ("#ffffff", "#1c232c"),
    "edge": ("#cdd5de", "#3b4552"),
    "ink": ("#1b222b", "#e8edf3"),
    "muted": ("#4d5763", "#a9b4c0"),
    "wire": ("#8b96a3", "#77828f"),
    "join": ("#e2e7ed", "#343e4a"),
    "one": ("#dff0fb", "#123348"),
    "one-edge": ("#56b4e9", "#56b4e9"),
    "square": ("#b3d8f2", "#0a3f66"),
    "square-edge": ("#0072b2", "#3d9bd6"),
    "line": ("#f3e0ec", "#4a2a40"),
    "line-edge": ("#cc79a7", "#cc79a7"),
    "max": ("#fbe0a9", "#5a4106"),
    "max-edge": ("#d98f00", "#e69f00"),
    "avg": ("#fbf6c4", "#48440f"),
    "avg-edge": ("#b8a800", "#d9cb3a"),
    "head": ("#c9ecdf", "#0b4635"),
    "head-edge": ("#009e73", "#1fc296"),
    "parameters": ("#0072b2", "#4aa8e0"),
    "macs": ("#d55e00", "#f08a3c"),
    "red": ("#f2b8b5", "#7a3633"),
    "green": ("#b9e0bf", "#2f5f38"),
    "blue": ("#b8cdf2", "#304f80"),
}


@dataclass(frozen=True)
class BoxStyle:
    """The names of the colours of a rectangle; an empty `edge` means no frame."""

    fill: str
    edge: str = ""
    edge_width: float = 1.0


@dataclass(frozen=True)
class LabelStyle:
    """The height of the letters in units of the drawing, whether they are bold, and the name of their colour."""

    size: float
    bold: bool = False
    colour: str = "ink"


@dataclass(frozen=True)
class LineStyle:
    width: float
    colour: str
    dashed: bool = False


BASELINE = 0.36  # of the size of letters, from the middle of their height to the line on which they stand
LAYERS = ("one", "square", "line", "max", "avg", "head")
BOXES = {
    **{kind: BoxStyle(kind, f"{kind}-edge", 1.2) for kind in LAYERS},
    "paper": BoxStyle("paper"),
    "band": BoxStyle("band"),
    "card": BoxStyle("card", "edge"),
    "join": BoxStyle("join", "wire", 0.8),
    "map": BoxStyle("muted"),
    "parameters": BoxStyle("parameters"),
    "macs": BoxStyle("macs"),
    **{kind: BoxStyle(kind, "muted", 0.8) for kind in ("red", "green", "blue")},
}
LABELS = {
    "title": LabelStyle(30, bold=True),
    "subtitle": LabelStyle(14, colour="muted"),
    "band-title": LabelStyle(14, bold=True),
    "name": LabelStyle(14, bold=True),
    "row-name": LabelStyle(11),
    "shape": LabelStyle(12.5, bold=True),
    "row-shape": LabelStyle(11.5, bold=True),
    "kernel": LabelStyle(11),
    "width": LabelStyle(11.5, bold=True),
    "small": LabelStyle(10, colour="muted"),
    "note": LabelStyle(11, colour="muted"),
}
LINES = {
    "flow": LineStyle(2.0, "ink"),
    "wire": LineStyle(1.2, "wire"),
    "auxiliary": LineStyle(1.6, "head-edge", dashed=True),
}
