"""`inception-v3 inspect`"""

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.cli.common import Json, State, WeightsFile, messages, print_json, print_line
from inception_v3.support.text import count_of, printable

if TYPE_CHECKING:
    from inception_v3.weights.inspection import ExportFacts, Fact, HeadFacts, Inspection, LayerFacts, StateDictFacts

WIDTH = 80  # columns of the page
LABEL = 16  # columns of the labels
MAX_LINES = 12  # of a list; --json has all

Row = tuple[str, str]  # a label and a text


def inspect(
    file: Annotated[str, typer.Argument(help="A run folder, an exported network, a file of any format, or a name.")],
    state: State = None,
    weights_file: WeightsFile = None,
    as_json: Json = False,
) -> None:
    """Show what a model's file is, what is assumed about it, whether it is damaged, and how to convert it.

    Exit status 1 if the other commands cannot read it; the reason is in the result.
    """
    from inception_v3.inference.inspect import inspect

    with messages.status(f"examining {printable(file)}"):
        inspection = inspect(file, state, weights_file)
    if as_json:
        print_json(asdict(inspection))
    else:
        for label, text in _rows(inspection):
            _print_row(label, text)
    if inspection.readable is False:
        sys.exit(1)


def _print_row(label: str, text: str) -> None:
    """Print a label and a text, which is wrapped. A command stays on one line, so that it can be copied."""
    shown = printable(text)
    lines = (
        [shown]
        if label in ("convert", "sha-256")
        else textwrap.wrap(shown, WIDTH - LABEL, break_long_words=False, break_on_hyphens=False)
    )
    for index, line in enumerate(lines or [""]):
        print_line(f"{'' if index else label:<{LABEL}}{line}".rstrip())


def _rows(inspection: "Inspection") -> Iterator[Row]:
    """The page."""
    yield "file", inspection.path
    yield "kind", inspection.kind
    if inspection.writer:
        yield "written by", inspection.writer
    count = len(inspection.files)
    yield "size", _bytes(inspection.bytes) + (f" in {count} files" if count > 1 else "")
    if inspection.sha256:
        yield "sha-256", inspection.sha256
    if inspection.readable:
        yield "readable", f"yes, as {inspection.format}"
    elif inspection.refusal:
        yield "readable", f"no: {inspection.refusal}"
    if inspection.not_examined:
        yield "not examined", inspection.not_examined
    yield from _listed("state dicts", [_state_dict(each) for each in inspection.state_dicts])
    if inspection.layers:
        yield from _layers(inspection.layers)
    if inspection.head:
        yield "head", _head(inspection.head)
    if inspection.head and inspection.head.outputs:
        yield "classes", _classes(inspection.class_names, inspection.head.outputs)
    for name, fact in inspection.preprocessing.items():
        value = "x".join(map(str, fact.value)) if name == "image_size" else _value(fact.value)
        yield name.replace("_", " "), f"{value} ({fact.source})"
    yield from _listed("training", [f"{name}: {value}" for name, value in inspection.training.items()])
    yield from _listed("assumed", inspection.assumed)
    yield from _listed("damage", inspection.damage or (["none found"] if _has_values(inspection) else []))
    yield from _listed("exports", [_export(each) for each in inspection.exports])
    if inspection.command:
        yield "convert", inspection.command
    elif inspection.format == "native":
        yield "convert", "not needed: it has this package's own format"


def _has_values(inspection: "Inspection") -> bool:
    """Whether the values of the tensors were examined."""
    return inspection.layers is not None and inspection.not_examined is None


def _listed(label: str, lines: list[str]) -> Iterator[Row]:
    """A row for each line, the first with the label."""
    shown = lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], f"and {len(lines) - MAX_LINES + 1} more"]
    for index, line in enumerate(shown):
        yield "" if index else label, line


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return count_of(size, "byte")


def _state_dict(facts: "StateDictFacts") -> str:
    average = ", a moving average" if facts.is_average else ""
    read = " (read)" if facts.is_read else ""
    key = facts.key or "the whole file"
    first = f"; it starts with {', '.join(facts.first)}" if not facts.layers else ""
    return f"{key}: {count_of(facts.tensors, 'tensor')}, {facts.layers} of 94 convolutions match{average}{read}{first}"


def _layers(layers: "LayerFacts") -> Iterator[Row]:
    yield "layers", f"{layers.matched} of {layers.total} match"
    yield from _listed("missing", layers.missing)
    yield from _listed("not used", layers.unused)


def _head(head: "HeadFacts") -> str:
    if head.end_point:
        return f"none: the network ends at {head.end_point}"
    hidden = [f"{units} {name}" for units, name in zip(head.hidden_units, head.hidden_activation, strict=True)]
    if head.hidden_batch_norm:
        hidden.append(f"BatchNorm {head.hidden_batch_norm} each activation")
    outputs = f"{count_of(head.outputs, 'output')}, activation: {head.activation or 'unknown'}"
    auxiliary = "with" if head.auxiliary else "without"
    parts = [f"hidden layers: {', '.join(hidden)}"] if hidden else []
    return "; ".join([*parts, outputs, f"{auxiliary} auxiliary head"])


def _classes(names: "Fact | None", outputs: int) -> str:
    if names is None:
        return f"no names for {count_of(outputs, 'output')}; they are numbered"
    shown = ", ".join(names.value[:5]) + (", ..." if len(names.value) > 5 else "")
    return f"{len(names.value):,}: {shown} ({names.source})"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_value, value))
    if value is None or isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _export(facts: "ExportFacts") -> str:
    parts = [f"{facts.format} {facts.precision}".strip()]
    if facts.outputs:
        parts.append(f"{'any size' if facts.any_size else 'one size'}, outputs {' '.join(facts.outputs)}")
        parts.append(f"check: {facts.check or 'none'}")
    return f"{facts.file}: {'; '.join([*parts, *facts.faults])}"
