"""Drawings as PNG and PDF, by matplotlib (the extra `explain`)."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inception_v3.errors import InputError
from inception_v3.network.drawing.shapes import Box, Drawing, Label, Line, head, path
from inception_v3.network.drawing.styles import BASELINE, BOXES, COLOURS, LABELS, LINES
from inception_v3.network.drawing.words import Language, translate
from inception_v3.support.text import printable, suggest

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

POINTS = 420 / 25.4 * 72 / 1760  # for a unit of the drawing: a drawing of the whole network is 420 mm wide, as A3 is
DPI = 200
# Fonts with Chinese characters, of Linux, macOS and Windows. Older releases of matplotlib read only the first font of a
# collection, so they list those of Noto and Source Han under a Japanese name. They have the same characters.
CHINESE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Noto Sans CJK JP", "Source Han Sans", "PingFang SC",
    "Hiragino Sans GB", "Heiti SC", "STHeiti", "Microsoft YaHei", "SimHei", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "Noto Serif CJK SC", "Noto Serif CJK JP", "Songti SC", "SimSun",
)  # fmt: skip


def save(
    drawing: Drawing,
    file: Path,
    suffix: str,
    *,
    dark: bool = False,
    language: Language = "en",
    font: str | None = None,
) -> None:
    """Write a drawing as PNG or PDF, whichever the `suffix` names.

    `font` is the name of an installed font or a font file. Raises InputError as `find_font` does.
    """
    metadata = {"Title": translate(drawing.title, language)} | ({"CreationDate": None} if suffix == ".pdf" else {})
    figure = draw(drawing, dark=dark, language=language, font=font)
    figure.savefig(file, format=suffix.removeprefix("."), dpi=DPI, metadata=metadata)


def draw(drawing: Drawing, *, dark: bool = False, language: Language = "en", font: str | None = None) -> "Figure":
    """A drawing as a figure. Raises InputError as `find_font` does."""
    from matplotlib.figure import Figure

    labels = {shape: translate(shape.text, language) for shape in drawing.walk() if isinstance(shape, Label)}
    characters = set("".join(labels.values()))
    fonts = [find_font(characters, font, bold=bold) for bold in (False, True)]
    figure = Figure(figsize=(drawing.width * POINTS / 72, drawing.height * POINTS / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
    axes.set_axis_off()
    colours = {name: pair[dark] for name, pair in COLOURS.items()}
    for order, shape in enumerate(drawing.walk()):
        if isinstance(shape, Box):
            axes.add_patch(_box(shape, colours, order))
        elif isinstance(shape, Line):
            for patch in _line(shape, colours, order):
                axes.add_patch(patch)
        elif isinstance(shape, Label):
            style = LABELS[shape.kind]
            axes.text(
                shape.x,
                shape.y + style.size * BASELINE,
                labels[shape],
                horizontalalignment={"start": "left", "middle": "center", "end": "right"}[shape.anchor],
                fontproperties=_sized(fonts[style.bold], style.size * POINTS),
                color=colours[style.colour],
                zorder=order,
                parse_math=False,
            )
    return figure


def _sized(font: "FontProperties", size: float) -> "FontProperties":
    font = font.copy()
    font.set_size(size)
    return font


def _box(box: Box, colours: dict[str, str], order: int) -> Any:
    from matplotlib.patches import FancyBboxPatch, Rectangle

    style = BOXES[box.kind]
    look: dict[str, Any] = {
        "facecolor": colours[style.fill],
        "edgecolor": colours[style.edge] if style.edge else "none",
        "linewidth": style.edge_width * POINTS,
        "zorder": order,
    }
    if not box.radius:
        return Rectangle((box.x, box.y), box.width, box.height, **look)
    radius = min(box.radius, box.width / 2, box.height / 2)
    corners = f"round,pad=0,rounding_size={radius}"
    return FancyBboxPatch((box.x, box.y), box.width, box.height, boxstyle=corners, **look)


def _line(line: Line, colours: dict[str, str], order: int) -> list[Any]:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path as Outline

    style = LINES[line.kind]
    codes = {"M": [Outline.MOVETO], "L": [Outline.LINETO], "Q": [Outline.CURVE3] * 2}
    commands = path(line)
    outline = Outline(
        [point for _, points in commands for point in points], [code for name, _ in commands for code in codes[name]]
    )
    dashes = (0, (6 / style.width, 4 / style.width)) if style.dashed else "solid"
    look = {"edgecolor": colours[style.colour], "linewidth": style.width * POINTS, "zorder": order}
    patches: list[Any] = [PathPatch(outline, fill=False, linestyle=dashes, capstyle="butt", **look)]
    if line.has_head:
        patches.append(Polygon(head(line), facecolor=colours[style.colour], edgecolor="none", zorder=order))
    return patches


# ------------------------------------------------------------------------------------------------------- fonts


def find_font(characters: set[str], requested: str | None, *, bold: bool) -> "FontProperties":
    """A font that has all `characters`: the requested one, or matplotlib's own, or the first of CHINESE_FONTS.

    Raises InputError: no such font; a font that is no font file, or that lacks characters; no installed font has them.
    """
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    weight = "bold" if bold else "normal"
    if requested is not None:
        font = _requested_font(requested, weight)
        if missing := _missing(font, characters):
            more = f" and {len(missing) - 1} other characters" if len(missing) > 1 else ""
            fault = f"has no glyph for {missing[0]}{more}; give another font"
            raise InputError(f"--font {printable(requested)}: {fault}", exit_status=2)
        return font
    _add_new_fonts()
    installed = {each.name for each in fontManager.ttflist}
    for name in ("DejaVu Sans", *(each for each in CHINESE_FONTS if each in installed)):
        font = FontProperties(fname=findfont(FontProperties(family=name, weight=weight)))
        if not _missing(font, characters):
            return font
    raise InputError(
        "no installed font has the Chinese characters of the drawing; install Noto Sans CJK (Debian and Ubuntu: "
        "fonts-noto-cjk), or name a font or a font file with --font",
        exit_status=2,
    )


def _requested_font(requested: str, weight: str) -> "FontProperties":
    """The font of this name or in this file. Raises InputError."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    if Path(requested).is_file():
        try:
            get_font(requested)
        except (OSError, RuntimeError) as error:
            reason = "cannot be read as a font; give a TTF, OTF or TTC file"
            raise InputError(f"--font {printable(requested)}: {reason}", exit_status=2) from error
        return FontProperties(fname=requested)
    _add_new_fonts()
    names = {each.name.lower(): each.name for each in fontManager.ttflist}
    if requested.lower() not in names:
        fault = f"no such file, and no such font is installed; {suggest(requested, sorted(names.values()))}"
        raise InputError(f"--font {printable(requested)}: {fault}", exit_status=2)
    family = FontProperties(family=names[requested.lower()], weight=weight)
    return FontProperties(fname=findfont(family))


def _missing(font: "FontProperties", characters: set[str]) -> list[str]:
    """The characters for which a font has no glyph."""
    from matplotlib.font_manager import get_font

    glyphs = get_font(str(font.get_file())).get_charmap()
    return sorted(character for character in characters if ord(character) not in glyphs)


def _add_new_fonts() -> None:
    """Add fonts to matplotlib's list that were installed after it was stored."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {each.fname for each in fontManager.ttflist}
    for file in findSystemFonts():
        if file not in known:
            with suppress(OSError, RuntimeError):  # matplotlib reads no such font
                fontManager.addfont(file)
