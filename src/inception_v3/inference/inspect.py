"""Find out what a file is, exported networks included."""

from dataclasses import replace
from pathlib import Path

from inception_v3.errors import InputError
from inception_v3.inference.choose import EXPORTED
from inception_v3.inference.exported.check import rejection_reason
from inception_v3.inference.exported.registry import check_weights, exports_in, read_description, recognise
from inception_v3.support.files import checksum
from inception_v3.support.system_errors import is_folder
from inception_v3.weights import MODEL_FILE
from inception_v3.weights.inspect import facts_of, head_facts, inspect_weights
from inception_v3.weights.inspection import FILE, ExportFacts, Fact, Inspection


def inspect(name: str, state: str | None = None, weights_file: str | Path | None = None) -> Inspection:
    """Examine an exported network, a folder of such, or anything that `inspect_weights` examines."""
    path = Path(name)
    if recognise(path) is not None and _has_description(path):
        return _inspect_export(name, path)
    if is_folder(path) and not (path / MODEL_FILE).exists() and (files := exports_in(path)):
        return _inspect_exports(name, files)
    inspection = inspect_weights(name, state, weights_file)
    exported = path / EXPORTED
    if is_folder(path) and is_folder(exported):
        weights = checksum(path / MODEL_FILE) if (path / MODEL_FILE).exists() else None
        inspection = replace(inspection, exports=[_export_facts(file, weights) for file in exports_in(exported)])
    return inspection


def _has_description(path: Path) -> bool:
    """Whether this package exported the file; a damaged file counts."""
    format = recognise(path)
    try:
        return format is not None and format.read_description(path) is not None
    except Exception:  # every parser has its own errors
        return True


def _inspect_export(name: str, path: Path) -> Inspection:
    format = recognise(path)
    assert format is not None
    files = [each for each in path.rglob("*") if each.is_file()] if format.is_folder else format.files(path)
    files = [each for each in files if each.exists()]
    known = Inspection(
        path=name,
        files=[str(each) for each in files],
        bytes=sum(each.stat().st_size for each in files),
        sha256=checksum(path) if path.is_file() else None,
        kind=f"a network exported to {format.name} ({format.suffix})",
        writer="inception-v3",
        format=format.name,
    )
    try:
        description = read_description(path)
        check_weights(path, description)
    except InputError as error:
        return replace(known, readable=False, refusal=str(error).removeprefix(f"{path}: "))
    settings, names = description.settings, description.class_names
    return replace(
        known,
        readable=True,
        head=head_facts(settings),
        class_names=Fact(names, FILE) if names else None,
        preprocessing=facts_of(description.preprocessing),
        settings=dict(settings),
        exports=[_export_facts(path, None)],
    )


def _inspect_exports(name: str, files: list[Path]) -> Inspection:
    """A folder of exported networks: the facts of the first, and each with its precision and check."""
    inspections = [_inspect_export(str(file), file) for file in files]
    first = next((each for each in inspections if each.readable), inspections[0])
    return replace(
        first,
        path=name,
        files=[file for each in inspections for file in each.files],
        bytes=sum(each.bytes for each in inspections),
        sha256=None,
        kind="a folder of exported networks",
        exports=[_export_facts(file, None) for file in files],
    )


def _export_facts(file: Path, weights: str | None) -> ExportFacts:
    """The facts about an exported network. `weights` is the checksum of the model that it should come from."""
    format = recognise(file)
    name = format.name if format else file.suffix
    try:
        description = read_description(file)
        check_weights(file, description)
    except InputError as error:
        return ExportFacts(str(file), name, "", [], False, None, [str(error).removeprefix(f"{file}: ")])
    faults = [reason] if (reason := rejection_reason(description)) else []
    if weights is not None and description.weights != weights:
        faults.append(f"exported from other weights than {MODEL_FILE}; export it again")
    check = str(description.check) if description.check else None
    outputs = list(description.outputs)
    return ExportFacts(str(file), name, description.precision, outputs, description.any_size, check, faults)
