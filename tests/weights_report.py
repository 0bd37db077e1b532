"""Print the table of docs/weights.md: `make weights`. The bounds are tested in test_formats_*.py."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import test_formats_fid_2015 as of_2015
import test_formats_keras as of_keras
import test_formats_torchvision_timm as of_torch
import torch
from test_formats_tf_slim import slim_end_points
from test_parity_tf_slim import CASES, Case, nhwc
from timm.models import load_checkpoint
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

import inception_v3
from conftest import oracle_python, randomise, relative, tf_slim_cases
from inception_v3.weights.formats import fid_2015, keras
from inception_v3.weights.model import InceptionV3

DTYPES = (torch.float32, torch.float64)
Figure = float | None  # None: the other program does not run in that precision
Row = tuple[str, str, str, str, Callable[[torch.dtype, Path], Figure]]
WITH_AUX, WITHOUT_AUX = (*of_torch.AUX_SIZES,), (of_torch.OTHER_SIZE,)
KERAS_SIZES = ((299, 299), (139, 203))


def torch_rows() -> Iterator[Row]:
    sizes = ", ".join(f"{height}x{width}" for height, width in (*WITH_AUX, *WITHOUT_AUX))
    for name, endings in {"torchvision": [".pth"], "timm": [".safetensors", ".bin"]}.items():

        def worst(model: InceptionV3, peer: nn.Module) -> float:
            cases = [(size, True) for size in WITH_AUX] + [(size, False) for size in WITHOUT_AUX]
            return max(max(of_torch.differences(model, peer, *case).values()) for case in cases)

        def read(dtype: torch.dtype, folder: Path, name: str = name) -> float:
            peer = of_torch.random_peer(name, dtype)
            return worst(of_torch.read(name, of_torch.save(name, peer, folder / "theirs")), peer)

        yield name, f"{name} {version(name)}", "read", sizes, read
        for ending in endings:

            def written(dtype: torch.dtype, folder: Path, name: str = name, ending: str = ending) -> float:
                options = {"batch_norm_scale": True, "count_padding": True, "global_pool": True}
                model = of_torch.random_ours(**options).to(dtype)
                path = folder / f"ours{ending}"
                inception_v3.save(model, path, name)
                peer = of_torch.PEERS[name][1]().to(dtype)
                if name == "torchvision":
                    peer.load_state_dict(torch.load(path, weights_only=True), strict=True)
                else:
                    load_checkpoint(peer, str(path), strict=True)
                return worst(model, peer)

            yield f"{name} `{ending}`", f"{name} {version(name)}", "written", sizes, written


def keras_rows() -> Iterator[Row]:
    program = f"Keras {version('keras')} on PyTorch"
    sizes = ", ".join(f"{height}x{width}" for height, width in KERAS_SIZES)

    def run(dtype: torch.dtype, direction: str, form: str, folder: Path) -> float:
        worst = []
        with pytest.MonkeyPatch.context() as patch:
            double = of_keras.float64_throughout(patch) if dtype == torch.float64 else nullcontext()
            with double:
                for height, width in KERAS_SIZES:
                    theirs = of_keras.keras_network(3, input_shape=(height, width, 3))
                    if direction == "read":
                        ours = of_keras.load(of_keras.save_as(theirs, folder / form))
                    else:
                        ours = of_keras.full_size_model().to(dtype)
                        inception_v3.save(ours, folder / form, "keras")
                        theirs.load_weights(folder / form)
                    worst.append(of_keras.largest_difference(ours, theirs, height, width))
        return max(worst)

    names = {"legacy.h5": "legacy `.h5`", "v3.weights.h5": "`.weights.h5`", "zip.keras": "`.keras`"}
    for form, name in names.items():
        yield f"keras {name}", program, "read", sizes, lambda dtype, folder, form=form: run(dtype, "read", form, folder)
    for form, name in (("ours.h5", "legacy `.h5`"), ("ours.weights.h5", "`.weights.h5`")):
        yield (
            f"keras {name}",
            program,
            "written",
            sizes,
            lambda dtype, folder, form=form: run(dtype, "written", form, folder),
        )

    def keras_2(dtype: torch.dtype, folder: Path) -> Figure:
        if dtype != torch.float32:
            return None
        worst = []
        for size in KERAS_SIZES:
            model = of_keras.full_size_model()
            inception_v3.save(model, folder / "ours.h5", "keras")
            images = torch.rand(1, 3, *size) * 2 - 1
            assert keras.FORMAT.program is not None
            _, theirs = keras.FORMAT.program.run(folder / "ours.h5", images.numpy(), model.settings, oracle_python())
            with torch.inference_mode():
                worst.append(relative(model(images, ())[0], theirs["Logits"]))
        return max(worst)

    yield "keras legacy `.h5`", "Keras 2.12 on TensorFlow 2.12, logits only", "written", sizes, keras_2


def tf_slim_rows() -> Iterator[Row]:
    program = "TF-Slim 1.1 on TensorFlow 2.12"
    names = ("square", "odd", "full-width")
    sizes = ", ".join("{height}x{width}".format(**CASES[name]) for name in names)
    for file, version_name in (("model.ckpt", "V2"), ("model-v1.ckpt", "V1")):

        def read(dtype: torch.dtype, folder: Path, file: str = file) -> float:
            worst = []
            precision = str(dtype).removeprefix("torch.")
            for recorded in tf_slim_cases({name: CASES[name] for name in names}).values():
                case = Case(recorded)
                with torch.inference_mode():
                    _, ours = case.load(precision, file)(case.images(precision))
                worst += [relative(nhwc(ours[key]), value) for key, value in case.tf(precision, "eval/").items()]
            return max(worst)

        yield f"tf-slim {version_name}", program, "read", sizes, read

    def written(dtype: torch.dtype, folder: Path) -> Figure:
        if dtype != torch.float32:
            return None
        worst = []
        for size in ((299, 299), (139, 203)):
            model = InceptionV3(11, depth_multiplier=0.25, image_size=size).eval()
            randomise(model)
            inception_v3.save(model, folder / "model.ckpt", "tf-slim")
            worst += [relative(*pair) for pair in slim_end_points(model, folder / "model.ckpt", size).values()]
        return max(worst)

    yield "tf-slim V2", program, "written", "299x299, 139x203", written


def rows_of_2015() -> Iterator[Row]:
    sizes = ", ".join(of_2015.SIZES)

    def pytorch_fid(dtype: torch.dtype, folder: Path, write: bool) -> float:
        path = of_2015.publish(folder / "theirs.pth")
        model = of_2015.load(fid_2015, path)
        if write:
            path = folder / "ours.pth"
            inception_v3.save(model, path, "fid-2015")
        with pytest.MonkeyPatch.context() as patch:
            peer = of_2015.network_of_pytorch_fid(patch, path).to(dtype)
        pairs = [
            pair
            for size in of_2015.SIZES.values()
            for pair in of_2015.against_pytorch_fid(model.to(dtype), peer, size).values()
        ]
        return max(relative(*pair) for pair in pairs)

    def torch_fidelity(dtype: torch.dtype, folder: Path) -> Figure:
        if dtype != torch.float32:
            return None
        model = of_2015.load(fid_2015, of_2015.publish(folder / "theirs.pth"))
        inception_v3.save(model, folder / "ours.pth", "fid-2015")
        outputs = ["2048", "logits"]
        peer = FeatureExtractorInceptionV3(
            "inception", outputs, feature_extractor_weights_path=str(folder / "ours.pth")
        )
        pixels = torch.randint(0, 256, (1, 3, 299, 299), dtype=torch.uint8)
        with torch.no_grad():
            features, logits = peer(pixels)
            ours, end_points = model((pixels - 128.0) / 128)
        return max(relative(end_points["AvgPool_1a"].flatten(1), features), relative(ours, logits))

    for direction in ("read", "written"):
        yield (
            "fid-2015 `.pth`",
            f"pytorch-fid {version('pytorch-fid')}",
            direction,
            sizes,
            lambda dtype, folder, direction=direction: pytorch_fid(dtype, folder, direction == "written"),
        )
    fidelity = f"torch-fidelity {version('torch-fidelity')}, features and logits"
    yield "fid-2015 `.pth`", fidelity, "written", "299x299", torch_fidelity
    yield (
        "graphdef-2015 `.pb`",
        "TensorFlow 2.12",
        "read",
        "299x299",
        lambda dtype, folder: max(
            relative(*pair) for pair in of_2015.against_tensorflow(of_2015.record(), dtype).values()
        ),
    )


def main() -> None:
    print("| format | other program | direction | images | float32 | float64 |")
    print("| --- | --- | --- | --- | ---: | ---: |", flush=True)
    for rows in (torch_rows, keras_rows, tf_slim_rows, rows_of_2015):
        for format, program, direction, sizes, measure in rows():
            torch.manual_seed(0)
            figures = []
            for dtype in DTYPES:
                with TemporaryDirectory() as folder:
                    figures.append(measure(dtype, Path(folder)))
            cells = ["–" if figure is None else f"{figure:.0e}" if figure else "0" for figure in figures]
            print(f"| {format} | {program} | {direction} | {sizes} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
