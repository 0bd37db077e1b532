"""Find patches for any model and images: choose the modules, the sizes of their patches and the engine; search."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from inception_v3.errors import InputError
from inception_v3.explain.patches.fields import measure_fields, module_names, typical_fields
from inception_v3.explain.patches.images import ImageSet, find_images
from inception_v3.explain.patches.result import PatchSet
from inception_v3.explain.patches.search import search
from inception_v3.inference.choose import check_classifier, open_engine
from inception_v3.inference.exported.registry import exports_in, read_description, recognise
from inception_v3.network.settings import Settings
from inception_v3.support.arguments import BatchSize, checked
from inception_v3.support.devices import pick_device
from inception_v3.support.progress import StartStep, no_progress
from inception_v3.support.system_errors import is_folder
from inception_v3.support.text import suggest
from inception_v3.weights import MODEL_FILE
from inception_v3.weights.load import load


@checked
def find_patches(
    model: str | Path,
    images: str | Path,
    modules: Sequence[str] | None = None,
    *,
    engine: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    per_class: bool = False,
    batch_size: BatchSize | None = None,
    min_agreement: float | None = None,
    weights_file: str | Path | None = None,
    start_step: StartStep = no_progress,
    report: Callable[[str], None] = lambda line: None,
    **facts: Any,
) -> PatchSet:
    """Find, for every channel of every module, the nine images and positions that excite it most.

    The images run through the network once. Memory holds only the best nine of each channel, and the names of these
    images. The side of a module's patches is that of its effective receptive field, measured on the first images; for
    an exported network, which has no gradients, it is what was measured on another network.

    Args:
        model, engine, precision, device, min_agreement, weights_file, facts: as in `open_engine`.
        images: the address of images: of a data set with classes (docs/data.md), of a folder, an archive, a pattern.
        modules: the names of modules, such as "Mixed_5b"; None for all.
        per_class: find also the images with the largest logit of each class.
        batch_size: images at once; by default what suits the engine.
        start_step: shows the progress.
        report: called with a line about the engine and why it was chosen.

    Raises:
        TypeError, ValueError: an argument of the wrong type or value.
        InputError: no such images or none that can be read; a network without the module; as `open_engine` does.
    """
    found = find_images(str(images))
    names, fields = _modules_and_fields(model, found, modules, per_class, device, weights_file, facts, start_step)
    opened = open_engine(
        model,
        engine,
        precision,
        device,
        min_agreement=min_agreement,
        weights_file=weights_file,
        **facts,
        batch_size=batch_size,
        callers=None,
        outputs=("Logits",) if per_class else (),
        peaks=names,
    )
    report(f"{opened.engine}: {opened.reason}")
    step = start_step("searching", found.count)
    return search(opened, found, names, fields, per_class=per_class, batch_size=batch_size, advance=step)


def _modules_and_fields(
    model: str | Path,
    images: ImageSet,
    wanted: Sequence[str] | None,
    per_class: bool,
    device: str | None,
    weights_file: str | Path | None,
    facts: dict[str, Any],
    start_step: StartStep,
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The modules to search and the sides of their patches."""
    path = Path(model)
    exports = [path] if recognise(path) else []
    if is_folder(path) and not (path / MODEL_FILE).exists():
        exports += exports_in(path)
    if exports:
        names = _choose_modules(model, wanted, per_class, read_description(exports[0]).settings)
        return names, typical_fields(names)
    network = load(model, pick_device("cpu" if device else None), weights_file=weights_file, **facts)
    names = _choose_modules(model, wanted, per_class, network.settings)
    return names, measure_fields(network, images, names, start_step("measuring fields", len(names)))


def _choose_modules(
    model: str | Path, wanted: Sequence[str] | None, per_class: bool, settings: Settings
) -> tuple[str, ...]:
    """The wanted modules, by default all. Raises InputError: the network lacks one, or for `per_class` the classes."""
    if per_class:
        check_classifier(model, settings)
    known = module_names(settings)
    if not known:
        raise InputError(f"{model}: this network ends before the first module, Mixed_5b", exit_status=2)
    for name in wanted or ():
        if name not in known:
            raise InputError(f"{model}: has no module {name}; {suggest(name, known)}", exit_status=2)
    return tuple(dict.fromkeys(wanted or known))
