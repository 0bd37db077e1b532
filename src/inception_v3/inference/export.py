"""A trained network into a file that other runtimes run: .onnx, OpenVINO's .xml and .bin, torch.export's .pt2,
Core ML's .mlpackage.

Inside go pixels, uint8 (N, H, W, 3), prepared; everything after is folded into the network. The file tells how to
prepare them, the classes, and how far its answers are from the network's own (engines/artefact.py).
"""

import io
import logging
import os
import random
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.errors import InputError
from inception_v3.images.find import ImageSource
from inception_v3.inference.engines import artefact, onnx_file
from inception_v3.inference.exported.check import MIN_AGREEMENT, Description, Kind
from inception_v3.inference.engines.base import FEATURES, LOGITS, PIXELS, Engine, Pixels, Precision
from inception_v3.inference.exported.check import Run, compare, reference_network, why_not
from inception_v3.inference.engines.graph import Graph, build, swap_pools
from inception_v3.inference.engines.onnx_graph import load_onnx, to_onnx
from inception_v3.inference.quantise import FEWEST
from inception_v3.network.architecture import end_points
from inception_v3.support.files import atomic_write, write_error
from inception_v3.weights.model import InceptionV3

CALIBRATE, HOLD_OUT = 300, 500  # pictures at most, to quantise by and to check on
GENERATED = 16  # pictures of noise that fp32 is checked on where none are given
BATCH = 16
PRECISIONS: dict[Kind, tuple[Precision, ...]] = {
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "torch-export": ("fp32", "bf16", "fp16"),
    "coreml": ("fp32",),
}
Progress = Callable[[str], None]


@dataclass(frozen=True)
class _Pictures:
    """Prepared pixels, where they are from, and who resized them."""

    pixels: Pixels
    source: str
    preparation: str


def export(
    model: InceptionV3,
    out: Path,
    *,
    precision: Precision = "fp32",
    images: Sequence[ImageSource] | None = None,
    images_name: str = "images",
    outputs: Sequence[str] = (LOGITS, FEATURES),
    any_size: bool = False,
    min_agreement: float | None = None,
    checksum: str = "",
    progress: Progress = lambda told: None,
) -> Description:
    """Write `out`, whose suffix says the kind, and return what is told in it. What was there is replaced at once.

    `images` are what a lower precision is checked on, and int8 is fitted to: parts of them that do not overlap. fp32 is
    checked without them on noise; Core ML's files are not, since Apple's systems alone run them. The file is not
    written where fewer of the first classes stay than `min_agreement` (MIN_AGREEMENT by default). `outputs` are end points;
    `any_size` takes pictures of any size.

    Raises InputError: another suffix, a precision that this kind has not, pictures that are missing, too few or all of
    one class, a network that cannot be exported so, an agreement below the bound, a package that is not installed.
    """
    kind = artefact.SUFFIXES.get(out.suffix)
    if kind is None:
        raise InputError(f"{out}: the name must end in {', '.join(artefact.SUFFIXES)}", exit_status=2)
    if precision not in PRECISIONS[kind]:
        possible = ", ".join(one for one, has in PRECISIONS.items() if precision in has) or "no kind of file"
        raise InputError(
            f"{out}: {kind} has {', '.join(PRECISIONS[kind])}; {precision} is for {possible}", exit_status=2
        )
    if precision != "fp32" and images is None:
        raise InputError(f"{precision} is checked on your own pictures; give some with --images FOLDER", exit_status=2)
    if precision == "int8" and LOGITS not in outputs:
        raise InputError("int8 is fitted by the logits; leave --end-points out, or take fp32", exit_status=2)
    if kind in ("onnx", "openvino"):
        load_onnx()  # before any work
    model = model.eval().float()
    try:
        graph = swap_pools(build(model, any_size=any_size, outputs=outputs))
    except ValueError as error:
        raise InputError(f"{out}: {error}", exit_status=2) from error
    bound = MIN_AGREEMENT[precision] if min_agreement is None else min_agreement
    reference = reference_network(model, graph.outputs)

    progress("preparing pictures")
    fit, held_out = _pictures(model, precision, images, images_name)
    if precision != "fp32" and len(held_out.pixels) < FEWEST:
        few = f"{len(held_out.pixels)} pictures are too few to check {precision} on"
        raise InputError(f"{few}; give at least {FEWEST if precision != 'int8' else 2 * FEWEST} with --images")
    description = Description(
        settings=model.settings,
        preprocessing=model.preprocessing,
        class_names=model.class_names,
        outputs=graph.outputs,
        precision=precision,
        any_size=any_size,
        weights=checksum,
    )
    with tempfile.TemporaryDirectory(prefix="inception-v3-") as folder:
        file = Path(folder) / f"model{out.suffix}"
        write = _WRITERS[kind]
        progress("writing the network" if precision != "int8" else "fitting int8; this takes minutes")
        network = _Network(graph, precision, reference, fit, held_out, bound)
        description = write(file, network, description)
        if kind == "coreml":
            warnings.warn(
                f"{out}: not checked, as Apple's systems alone run it; compare its answers there", stacklevel=2
            )
            _put(file, out)
            return description
        progress("checking it against the network itself")
        run = _runner(file, kind, description)
        held = held_out.pixels
        try:
            check = compare(
                run, reference, (held[at : at + BATCH] for at in range(0, len(held), BATCH)), held_out.source,
                held_out.preparation,
            )  # fmt: skip
        except ValueError as error:
            raise InputError(f"{out}: {error}; check the model") from error
        if precision != "fp32" and check.classes == 1:
            told = f"all {check.pictures} pictures of {held_out.source} are of one class to the network"
            raise InputError(f"{out}: {told}, so that agreement shows nothing; give pictures of all classes")
        description = replace(description, check=check, numbers=artefact.numbers(file))
        if (reason := why_not(description, min_agreement)) is not None:
            wrong = f"{reason} ({held_out.source}); not written"
            raise InputError(f"{out}: {wrong}; keep a higher precision, or allow it with --min-agreement")
        _describe(file, kind, description)
        _put(file, out)
    return description


@dataclass(frozen=True)
class _Network:
    """What the writers need."""

    graph: Graph
    precision: Precision
    reference: Run
    fit: Pixels
    held_out: _Pictures
    bound: float


def _pictures(
    model: InceptionV3, precision: Precision, images: Sequence[ImageSource] | None, name: str
) -> tuple[Pixels, _Pictures]:
    """Those to fit int8 to, none otherwise, and others to check on."""
    height, width = model.preprocessing.image_size
    if images is None:
        noise = np.random.default_rng(0).integers(0, 256, (GENERATED, height, width, 3), dtype=np.uint8)
        return noise[:0], _Pictures(noise, "generated noise", "none")
    count = CALIBRATE + HOLD_OUT if precision == "int8" else HOLD_OUT
    chosen = list(images)
    if len(chosen) > count:
        chosen = random.Random(0).sample(chosen, count)
    else:
        random.Random(0).shuffle(chosen)
    rows, bad = [], []
    for source in chosen:
        try:
            rows.append(model.preprocessing.array(source.open()))
        except InputError as error:
            bad.append(str(error))
    for reason in bad[:10]:
        warnings.warn(reason, stacklevel=2)
    if not rows:
        raise InputError(f"{name}: no picture in it can be read; give others with --images")
    pixels = np.stack(rows)
    fitted = min(CALIBRATE, len(pixels) // 2) if precision == "int8" else 0
    return pixels[:fitted], _Pictures(pixels[fitted:], name, "pillow")


def _write_onnx(file: Path, network: _Network, description: Description) -> Description:
    if network.precision == "int8":
        model, description = _quantised(network, description, "onnx")
    else:
        model = to_onnx(network.graph)
    file.write_bytes(model.SerializeToString())
    return description


def _write_openvino(file: Path, network: _Network, description: Description) -> Description:
    from inception_v3.inference.engines.openvino import load_core, load_openvino

    openvino = load_openvino()
    if network.precision == "int8":
        model, description = _quantised(network, description, "openvino")
    else:
        model = load_core().read_model(to_onnx(network.graph).SerializeToString())
    openvino.save_model(model, file, compress_to_fp16=False)
    return description


def _quantised(network: _Network, description: Description, kind: Kind) -> tuple[Any, Description]:
    from inception_v3.inference.quantise import check_pictures, onnx_form, openvino_form, quantise

    check_pictures(network.fit, network.reference)
    form = onnx_form() if kind == "onnx" else openvino_form()
    held_out = network.held_out.pixels
    model, kept = quantise(network.graph, form, network.fit, network.reference, held_out, network.bound)
    return model, replace(description, kept_higher=kept)


def _write_program(file: Path, network: _Network, description: Description) -> Description:
    import torch

    from inception_v3.inference.engines.pytorch import DTYPES, Network

    module = Network(network.graph, DTYPES[network.precision])
    example = torch.zeros(2, *description.preprocessing.image_size, 3, dtype=torch.uint8)
    free = {0: torch.export.Dim.AUTO}
    if description.any_size:
        free |= {1: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how tensors lie in memory; what was written is checked afterwards
        program = torch.export.export(module, (example,), dynamic_shapes={"pixels": free})
        torch.export.save(program, file)
    return description


def _write_coreml(file: Path, network: _Network, description: Description) -> Description:
    """A package that takes an RGB image, and carries the description as metadata of its author's."""
    if description.any_size:
        raise InputError("Core ML's networks take images of one size; leave --any-size out", exit_status=2)
    tools = _load_coremltools()
    import torch

    from inception_v3.inference.engines.pytorch import Network

    module = Network(network.graph)

    class FromImages(torch.nn.Module):
        """Core ML's images are (1, 3, H, W)."""

        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            answers: tuple[torch.Tensor, ...] = self.network(pixels.permute(0, 2, 3, 1))
            return answers

    shape = (1, 3, *description.preprocessing.image_size)
    with torch.no_grad(), warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # coremltools' bars
        warnings.simplefilter("ignore")
        program = torch.export.export(FromImages().eval(), (torch.zeros(shape),)).run_decompositions({})
        model = tools.convert(
            program,
            inputs=[tools.ImageType(name=PIXELS, shape=shape, color_layout=tools.colorlayout.RGB)],
            outputs=[tools.TensorType(name=name.replace("/", "_")) for name in network.graph.outputs],
            compute_precision=tools.precision.FLOAT32,
            minimum_deployment_target=tools.target.macOS13,
        )
        model.short_description = "Inception V3"
        model.user_defined_metadata[artefact.KEY] = description.to_json()
        model.save(str(file))
    return description


def _load_coremltools() -> Any:
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # that it was tried with another PyTorch
    try:
        import coremltools
    except ImportError as error:
        raise InputError(
            "Core ML's files need coremltools; pip install 'inception-v3[coreml]'", exit_status=2
        ) from error
    return coremltools


def _runner(file: Path, kind: Kind, description: Description) -> Run:
    """The engine that users will have, on the file that was written."""
    engine: Engine
    if kind == "onnx":
        from inception_v3.inference.engines.onnxruntime import OnnxRuntimeEngine

        engine = OnnxRuntimeEngine(file, description.precision)
    elif kind == "openvino":
        from inception_v3.inference.engines.openvino import OpenvinoEngine

        engine = OpenvinoEngine(file, description.precision)
    else:
        return _run_program(file, description)
    return engine.run


def _run_program(file: Path, description: Description) -> Run:
    import torch

    module = torch.export.load(file).module()

    def run(pixels: Pixels) -> dict[str, np.ndarray]:
        with torch.no_grad():
            tensors = module(torch.from_numpy(np.ascontiguousarray(pixels)))
        return {name: tensor.numpy() for name, tensor in zip(description.outputs, tensors, strict=True)}

    return run


def _describe(file: Path, kind: Kind, description: Description) -> None:
    """Put the description into the file that was checked, and leave its numbers as they are."""
    if kind == "onnx":
        onnx_file.add_metadata(file, artefact.KEY, description.to_json())
    elif kind == "openvino":
        from html import escape

        text = file.read_text("utf-8")
        told = f'<description value="{escape(description.to_json())}" />'
        told = f"\t\t<{artefact.KEY}>\n\t\t\t{told}\n\t\t</{artefact.KEY}>\n"
        before, end, after = text.rpartition("\t</rt_info>")
        assert end, "OpenVINO writes what made a model into rt_info"
        file.write_text(before + told + end + after, "utf-8")
    else:
        with zipfile.ZipFile(file, "a") as archive:  # where torch.export.save puts its extra_files
            root = archive.namelist()[0].split("/")[0]
            archive.writestr(f"{root}/extra/{artefact.KEY}.json", description.to_json())


def _put(file: Path, out: Path) -> None:
    """Into its place: the numbers before the file that refers to them by name."""
    if file.is_dir():
        _put_folder(file, out)
        return
    for part in (file.with_suffix(".bin"), file):
        if part.exists():
            with atomic_write(out.with_suffix(part.suffix)) as temporary:
                shutil.copyfile(part, temporary)


def _put_folder(folder: Path, out: Path) -> None:
    """A folder cannot be replaced at once: what was there steps aside first, and is put back where that fails."""
    if out.is_file():
        raise InputError(f"{out}: a file is in the place of the package; move it away")
    new, old = (out.with_name(f".{out.name}.{os.getpid()}.{part}") for part in ("partial", "before"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, new)
        if out.exists():
            out.rename(old)
        new.rename(out)
    except OSError as error:
        if old.exists() and not out.exists():
            old.rename(out)
        raise write_error(out, error) from error
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


_WRITERS: dict[Kind, Callable[[Path, _Network, Description], Description]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch-export": _write_program,
    "coreml": _write_coreml,
}


def write_triton(repository: Path, description: Description) -> None:
    """What NVIDIA's Triton wants beside inception_v3/1/model.onnx: config.pbtxt and the names of the classes.

    The file must answer with logits and features, which are vectors.
    """
    height, width = (-1, -1) if description.any_size else description.preprocessing.image_size
    options = {name: description.settings[name] for name in ("num_classes", "depth_multiplier", "min_depth")}
    widths = {point.name: point.channels for point in end_points(**options)}  # Triton wants the file's own numbers
    outputs = []
    for name in description.outputs:
        labels = '    label_filename: "labels.txt"\n' if name == LOGITS else ""
        outputs.append(
            f'  {{\n    name: "{name}"\n    data_type: TYPE_FP32\n    dims: [ {widths[name]} ]\n{labels}  }}'
        )
    folder = repository / "inception_v3"
    labels = "".join(" ".join(name.split()) + "\n" for name in description.names())
    config = f"""name: "inception_v3"
backend: "onnxruntime"
max_batch_size: 64
input [
  {{
    name: "pixels"
    data_type: TYPE_UINT8
    dims: [ {height}, {width}, 3 ]
  }}
]
output [
{",".join(f"{chr(10)}{one}" for one in outputs).strip(chr(10))}
]
dynamic_batching {{ }}
"""
    for name, text in (("labels.txt", labels), ("config.pbtxt", config)):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, "utf-8")
