"""The forms in which people save the network, for the second table of docs/weights.md: `make weights` prints it.

To add a form, add a line to `forms`. Its measure writes the file in the form's own program and returns the difference
of the outputs from the program's own, and that of the network converted back and run by the program again.
"""

import argparse
import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import test_formats_keras as of_keras
import test_formats_tensorflowjs as of_tensorflowjs
import test_formats_torch_files as torch_files
import test_formats_torchvision_timm as of_torch
import test_keras_models as keras_models
import test_saved_model as saved_models
import test_tf_slim_forms as tf_slim_files
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import inception_v3
from conftest import ORACLE, ROOT, oracle_python, recording, relative
from inception_v3.errors import InputError
from inception_v3.weights.formats.registry import find_writer
from inception_v3.weights.model import InceptionV3

UV = shutil.which("uv", path=os.pathsep.join([str(ROOT / ".uv" / "bin"), os.environ["PATH"]]))
IMAGES = torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(1)) * 2 - 1
Figures = tuple[float, float | None]  # read, and converted back; None: the program's format cannot hold the network
Measure = Callable[[Path], Figures]
NODE = TemporaryDirectory()  # TensorFlow.js's packages, deleted at exit
SAVED = TemporaryDirectory()  # SavedModels of Keras 2 and 3, and Keras 3 on TensorFlow, deleted at exit


@dataclass(frozen=True)
class Form:
    """A form, the program that wrote it, and how its differences are measured."""

    name: str
    program: str
    measure: Measure


def logits(model: InceptionV3, images: Tensor) -> Tensor:
    """The logits, or the pooled features of a network without a head."""
    with torch.inference_mode():
        net = model(images, ())[0]
    return net if net.ndim == 2 else net.mean((2, 3))


def converted_back(
    model: InceptionV3,
    format: str,
    path: Path,
    images: Tensor,
    expected: Tensor | np.ndarray,
    python: str | Path = sys.executable,
) -> float | None:
    """Write a network for a program, which loads and runs it; compare. None if the format cannot hold it."""
    model.preprocessing = replace(model.preprocessing, mean=(0.5,) * 3, std=(0.5,) * 3)  # as every written file has
    try:
        inception_v3.save(model, path, format)
    except InputError:
        return None
    program = find_writer(format).program
    assert program is not None
    _, outputs = program.run(path, images.numpy(), model.settings, python)
    net = outputs[model.settings.final_endpoint or "Logits"]
    return relative(net if net.ndim == 2 else net.mean((2, 3)), expected)


def named(package: str) -> str:
    """The name and version of a program that `make setup` does not install; "" if it is missing."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


# ------------------------------------------------------------------------------------------------------ PyTorch


def network(head: nn.Module | None = None, program: str = "torchvision", **options: Any) -> nn.Module:
    """torchvision's or timm's network with random weights and statistics, and another `fc` if one is given."""
    peer = of_torch.random_peer(program, torch.float32, **options)
    if head is not None:
        peer.fc = torch_files.randomised(head)
    return peer


def torch_form(
    build: Callable[[], nn.Module], save: Callable[[nn.Module, Path], object], name: str = "w.pth", **options: Any
) -> Measure:
    """Measure a network of PyTorch that `save` writes to a file, or to files in a folder if `name` is empty."""

    def measure(folder: Path) -> Figures:
        peer = build()
        save(peer, folder / name)
        with torch.inference_mode():
            expected = peer(IMAGES)
        model = inception_v3.load(folder / name, **options)
        difference = relative(logits(model, IMAGES), expected)
        return difference, converted_back(model, "torchvision", folder / "back.pth", IMAGES, expected)

    return measure


def save_state(peer: nn.Module, path: Path) -> None:
    torch.save(peer.state_dict(), path)


def save_training(peer: nn.Module, path: Path) -> None:
    """As torchvision's training script does; the raw weights are others than the average."""
    average = AveragedModel(peer, multi_avg_fn=get_ema_multi_avg_fn(0.9)).state_dict()
    raw = {name: tensor + 1 for name, tensor in peer.state_dict().items()}
    optimizer = torch.optim.SGD(peer.parameters(), 0.1).state_dict()
    state = {"model": raw, "model_ema": average, "optimizer": optimizer, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
    torch.save(state, path)


def save_distributed(peer: nn.Module, path: Path) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    wrapped = nn.parallel.DistributedDataParallel(torch.compile(peer))  # type: ignore[arg-type]
    assert next(iter(wrapped.state_dict())).startswith("module._orig_mod.")
    torch.save({"state_dict": wrapped.state_dict()}, path)
    torch.distributed.destroy_process_group()


def save_by_timm(peer: nn.Module, path: Path) -> None:
    arguments = argparse.Namespace(model="inception_v3", mean=[0.5] * 3, std=[0.5] * 3)
    optimizer, average = torch.optim.SGD(peer.parameters(), 0.1), ModelEmaV3(peer)
    saver = CheckpointSaver(peer, optimizer, args=arguments, model_ema=average, checkpoint_dir=str(path.parent))
    saver.save_checkpoint(0, 1.0)


def save_by_lightning(peer: nn.Module, path: Path) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss = peer, nn.CrossEntropyLoss(torch.ones(5))

        def training_step(self, batch: Any, index: int) -> Tensor:
            raise NotImplementedError

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

        def train_dataloader(self) -> list[Tensor]:
            return [torch.zeros(1)]

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(max_steps=0, accelerator="cpu", logger=False, **quiet)
    trainer.fit(Module())
    trainer.save_checkpoint(path)
    peer.eval()


def save_by_accelerate(peer: nn.Module, path: Path) -> None:
    import accelerate

    accelerate.Accelerator(cpu=True).save_model(peer, path, max_shard_size="20MB")
    assert len(list(path.glob("*.safetensors"))) > 1


def save_pickle(peer: nn.Module, path: Path) -> None:
    path.write_bytes(pickle.dumps(peer))


def numbered_network() -> nn.Module:
    """As people cut the head off, with another one behind."""
    head = torch_files.randomised(nn.Linear(2048, 5))
    return nn.Sequential(torch_files.numbered(network()), nn.Flatten(), head).eval()


def transformers_network() -> nn.Module:
    """timm's network inside of transformers, which returns an object with the logits."""
    import transformers

    config = transformers.TimmWrapperConfig(architecture="inception_v3", num_labels=6)
    wrapper = transformers.TimmWrapperForImageClassification(config).eval()
    wrapper.timm_model.load_state_dict(network(program="timm", aux=False, num_classes=6).state_dict())
    wrapper.forward = lambda images: wrapper.timm_model(images)
    return wrapper


def save_script(peer: nn.Module, path: Path) -> None:
    torch.jit.script(peer).save(path)


def save_trace(peer: nn.Module, path: Path) -> None:
    torch.jit.trace(peer, IMAGES).save(path)


def timm_folder(folder: Path) -> Figures:
    """A folder for the hub with another mean, crop and size: from the image to the logits."""
    peer = network(program="timm", aux=False, num_classes=6)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8))
    odd = {"input_size": (3, 267, 267), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.9}
    peer.pretrained_cfg = dict(peer.pretrained_cfg) | odd | {"interpolation": "bilinear", "crop_mode": "squash"}
    save_for_hf(peer, folder, safe_serialization=True)
    theirs = create_transform(**resolve_data_config({}, model=peer))(image)[None]
    with torch.inference_mode():
        expected = peer(theirs)
    model = inception_v3.load(folder)
    images = model.preprocess(image)
    difference = relative(logits(model, images), expected)
    return difference, converted_back(model, "torchvision", folder / "back.pth", images, expected)


def torch_forms() -> Iterator[Form]:
    torch_version = f"PyTorch {version('torch').partition('+')[0]}"
    vision, timm = f"torchvision {version('torchvision').partition('+')[0]}", f"timm {version('timm')}"
    few = partial(network, num_classes=5)
    yield Form("state dict", vision, torch_form(network, save_state))
    yield Form("training dictionary; `model_ema` is read", vision, torch_form(few, save_training))
    yield Form("DistributedDataParallel around `torch.compile`", torch_version, torch_form(few, save_distributed))
    yield Form("CheckpointSaver; `state_dict_ema` is read", timm,
               torch_form(partial(few, program="timm", aux=False), save_by_timm, "last.pth.tar"))  # fmt: skip
    yield Form("folder with `config.json`: its size, crop, mean and std", timm, timm_folder)
    yield Form("Lightning checkpoint", named("Lightning"), torch_form(few, save_by_lightning))
    yield Form("folder of shards with an index", named("accelerate"), torch_form(few, save_by_accelerate, "folder"))
    yield Form("folder of TimmWrapperForImageClassification", named("transformers"),
               torch_form(transformers_network, lambda net, path: net.save_pretrained(path), "folder"))  # fmt: skip
    yield Form("whole model, `torch.save(model)`", vision, torch_form(few, torch.save))
    yield Form("`pickle.dump`, `nn.Sequential(*children)`", vision, torch_form(numbered_network, save_pickle, "w.pkl"))
    plain = partial(few, aux=False)
    yield Form("TorchScript, scripted", torch_version, torch_form(plain, save_script))
    yield Form("TorchScript, traced", torch_version, torch_form(plain, save_trace))
    for name, (build, _) in torch_files.HEADS.items():
        yield Form(f"head: {HEADS[name]}", vision, torch_form(lambda build=build: network(build()), torch.save))
    sigmoid = partial(network, nn.Linear(2048, 1))
    yield Form("head: one output, `--output sigmoid`", vision,
               torch_form(sigmoid, save_state, output_activation="sigmoid"))  # fmt: skip
    yield Form("head outside of the network", vision,
               torch_form(lambda: torch_files.Wrapper(network(nn.Identity())).eval(), torch.save))  # fmt: skip
    yield Form("no head: Identity", vision, torch_form(partial(network, nn.Identity()), save_state))


HEADS = {
    "dropout": "Dropout, Linear",
    "no bias": "Linear without bias",
    "hidden": "Linear, ReLU, Dropout, Linear",
    "batch norm": "Linear, BatchNorm1d, ReLU, Dropout, Linear",
    "batch norm after": "Linear, ReLU, BatchNorm1d, Dropout, Linear",
    "no activation": "Linear, Linear",
    "two hidden": "Linear, ReLU, a Sequential in it, Linear",
    "mixed batch norms": "BatchNorm1d of the features and of one of two hidden layers",
}


# -------------------------------------------------------------------------------------- Keras and TensorFlow.js


def keras_form(name: str, suffix: str) -> Measure:
    """Measure a model of test_keras_models.py that Keras 3 saves."""

    def measure(folder: Path) -> Figures:
        base = of_keras.keras_network(11, include_top=False, input_shape=(keras_models.SIZE, keras_models.SIZE, 3))
        theirs = keras_models.randomise_head(keras_models.MODELS[name][0](base), base)
        path = folder / f"model{suffix}"
        theirs.save_weights(path) if suffix == ".weights.h5" else theirs.save(path)
        pixels = torch.rand(2, 3, keras_models.SIZE, keras_models.SIZE) * 255
        if name == "layers_of_the_base":  # it has no preprocessing
            pixels = pixels / 127.5 - 1
        expected = keras_models.logits_of(theirs, pixels)
        if suffix == ".weights.h5":  # it states neither the size nor how pixels are scaled
            options = {"image_size": (keras_models.SIZE,) * 2}
            return compare_keras(path, pixels / 127.5 - 1, expected, False, **options)
        return compare_keras(path, pixels, expected, name != "layers_of_the_base")

    return measure


def compare_keras(
    path: Path, pixels: Tensor, expected: np.ndarray, scales: bool, python: str | Path = sys.executable, **options: Any
) -> Figures:
    """Compare with Keras's logits or features; `scales`: the model scales the pixels itself."""
    model = inception_v3.load(path, **options)
    images = model.preprocessing.scale(pixels) if scales else pixels
    back = converted_back(model, "keras", path.parent / "back.h5", images, expected, python)
    return relative(logits(model, images), expected), back


def features(folder: Path) -> Figures:
    """A base without top and with average pooling."""
    theirs = of_keras.keras_network(3, include_top=False, pooling="avg", input_shape=(139, 139, 3))
    theirs.save(folder / "model.keras")
    images = torch.rand(2, 3, 139, 139) * 2 - 1
    expected = theirs.predict(images.permute(0, 2, 3, 1).numpy(), verbose=0)
    return compare_keras(folder / "model.keras", images, expected, False)


def keras_2_form(name: str, suffix: str) -> Measure:
    """Measure a model of test_keras_models.py that Keras 2.12 saved on TensorFlow 2.12."""

    def measure(folder: Path) -> Figures:
        keras_models.save_by_keras_2(folder)
        recorded = np.load(folder / f"{name}.npz")
        pixels = torch.from_numpy(recorded["pixels"].transpose(0, 3, 1, 2))
        scales = name != "layers_of_the_base"
        return compare_keras(folder / f"{name}{suffix}", pixels, recorded["logits"], scales, oracle_python())

    return measure


@cache
def tensorflowjs() -> Callable[[Path, Tensor], np.ndarray]:
    return of_tensorflowjs.tensorflowjs_runner(Path(NODE.name))


def tensorflowjs_form(head: str, dtype: str = "float32") -> Measure:
    """Measure a model.json: written here, its tensors perhaps quantised, and run by TensorFlow.js in Node."""

    def measure(folder: Path) -> Figures:
        model = of_tensorflowjs.thin_model(**of_tensorflowjs.HEADS[head])
        path = folder / "model.json"
        inception_v3.save(model, path, "tensorflowjs")
        if dtype != "float32":
            of_tensorflowjs.quantise(path, dtype)
        return compare_tensorflowjs(path, folder, torch.rand(2, 3, *model.settings.image_size) * 2 - 1)

    return measure


def compare_tensorflowjs(path: Path, folder: Path, images: Tensor) -> Figures:
    """Compare probabilities with those of TensorFlow.js, for the file and for one written from it."""
    run, model = tensorflowjs(), inception_v3.load(path)
    theirs = run(path, images)
    with torch.inference_mode():
        probabilities = model(images, ["Predictions"])[1]["Predictions"]
    inception_v3.save(model, folder / "back.json", "tensorflowjs", allow_difference=True)
    return relative(probabilities, theirs), relative(run(folder / "back.json", images), theirs)


def trained(folder: Path) -> Figures:
    """The trained network of docs/trained-weights.md, on images in [0, 1]."""
    return compare_tensorflowjs(of_tensorflowjs.TRAINED, folder, torch.rand(2, 3, 299, 299))


def keras_forms() -> Iterator[Form]:
    keras_3, keras_2 = f"Keras {version('keras')}", "Keras 2.12"
    yield Form("preprocess_input, base as a layer, `.keras`", keras_3, keras_form("fine_tuning_tutorial", ".keras"))
    yield Form("the same, `.weights.h5`", keras_3, keras_form("fine_tuning_tutorial", ".weights.h5"))
    yield Form("Sequential, models inside, hidden layer, `.h5`", keras_3, keras_form("sequential", ".h5"))
    yield Form("head on the layers of the base, `.keras`", keras_3, keras_form("layers_of_the_base", ".keras"))
    yield Form("Normalization, sigmoid outputs, `.keras`", keras_3, keras_form("normalised", ".keras"))
    yield Form("three hidden layers with BatchNormalization, `.h5`", keras_3, keras_form("mixed_orders", ".h5"))
    yield Form('without top, pooling="avg", `.keras`', keras_3, features)
    for suffix in (".h5", ".keras"):
        yield Form(f"preprocess_input, base as a layer, `{suffix}`", keras_2, keras_2_form("tutorial", suffix))
        yield Form(f"Sequential, hidden layer, `{suffix}`", keras_2, keras_2_form("sequential", suffix))
        yield Form(f"Normalization, `{suffix}`", keras_2, keras_2_form("normalised", suffix))
        yield Form(f"head on the layers of the base, `{suffix}`", keras_2, keras_2_form("layers_of_the_base", suffix))


def tensorflowjs_forms() -> Iterator[Form]:
    program = "TensorFlow.js 4.22" if shutil.which("npm") else ""
    for dtype in ("float32", "float16", "uint16", "uint8"):
        yield Form(f"`model.json`, {dtype}", program, tensorflowjs_form("plain", dtype))
    yield Form("`model.json`, two hidden layers", program, tensorflowjs_form("hidden"))
    yield Form("`model.json`, one sigmoid output", program, tensorflowjs_form("sigmoid"))
    yield Form("trained `model.json` of nsfwjs", program if of_tensorflowjs.TRAINED.exists() else "", trained)


# ---------------------------------------------------------------------------------------------------- TensorFlow


def tensorflow_1_form(name: str) -> Measure:
    """Measure a file of record_tf1_files.py; TF-Slim's own network has logits."""

    def measure(folder: Path) -> Figures:
        model, images, found, expected = tf_slim_files.computed(recording("record_tf1_files.py"), name)
        difference = relative(found, expected)
        if model.settings.final_endpoint:
            return difference, None
        return difference, converted_back(model, "tf-slim", folder / "b.ckpt", images, expected, oracle_python())

    return measure


TENSORFLOW_1 = {
    "module": "checkpoint below the scope `module/`",
    "tower": "checkpoint below `tower_0/`, auxiliary head",
    "replaced": "checkpoint with the scope `my/net/`",
    "numbered": "V1 checkpoint with the scope `InceptionV3_1/`",
    "sharded": "checkpoint in shards",
    "features": "checkpoint without logits",
    "cut": "checkpoint that ends at Mixed_6c",
    "rmsprop": "training folder with RMSProp slots and moving averages",
    "adam": "training folder with Adam slots and moving averages",
    "momentum": "training folder with Momentum slots and moving averages",
    "hub-features": "TF1 module of TensorFlow Hub, features",
    "hub-classes": "TF1 module of TensorFlow Hub, classes",
    "frozen": "frozen graph",
    "frozen-bytes": "frozen graph that scales bytes",
    "frozen-epsilon": "frozen graph with another epsilon of BatchNorm",
    "frozen-unfused": "frozen graph, BatchNorm of single operations",
    "frozen-features": "frozen graph without logits",
    "frozen-optimised": "frozen graph after optimize_for_inference",
    "frozen-unfused-optimised": "frozen graph after optimize_for_inference, single operations",
}


def tensorflow_1_forms() -> Iterator[Form]:
    for name, form in TENSORFLOW_1.items():
        yield Form(form, "TF-Slim 1.1 on TensorFlow 2.12", tensorflow_1_form(name))


@cache
def saved_by_keras_2() -> Path:
    """The folder of test_saved_model.py's SavedModels and weights."""
    folder = Path(SAVED.name, "2")
    folder.mkdir(exist_ok=True)
    saved_models.save_by_keras_2(folder)
    return folder


KERAS_3 = (  # without the augmentation, which an exported model of Keras 3 applies, at random
    saved_models.KERAS_2.partition("    model.save(")[0].replace('layers.RandomFlip("horizontal")(images)', "images")
    + """
    model.export(f"{folder}/{name}_export", verbose=False)
    pixels = rng.uniform(0, 255, (2, size, size, 3)).astype("float32")
    outputs = model.predict(pixels / 127.5 - 1 if build is whole else pixels, verbose=0)
    np.savez(f"{folder}/{name}.npz", pixels=pixels, outputs=outputs)
"""
)


@cache
def saved_by_keras_3() -> Path:
    """The folder of the same models, exported by Keras 3 on TensorFlow, which uv installs for this."""
    environment, folder = Path(SAVED.name, "keras_3"), Path(SAVED.name, "3")
    folder.mkdir(exist_ok=True)
    python, packages = environment / "bin" / "python", ["tensorflow-cpu==2.18.1", f"keras=={version('keras')}"]
    run = partial(subprocess.run, check=True, capture_output=True)
    try:
        run([UV, "venv", "--clear", "--python", "3.11", environment])
        run([UV, "pip", "install", "--python", python, *packages])
    except subprocess.CalledProcessError:
        pytest.skip("uv cannot install Keras 3 on TensorFlow")
    quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    run([python, "-c", KERAS_3, folder], env=os.environ | quiet)
    return folder


def saved_model_form(saved: Callable[[], Path], name: str, form: str, python: str | Path, **options: Any) -> Measure:
    """Measure a model of test_saved_model.py. `python` has the Keras that runs it after it is converted back."""

    def measure(folder: Path) -> Figures:
        model = inception_v3.load(saved() / f"{name}_{form}", **options)
        with np.load(saved() / f"{name}.npz") as recorded:
            pixels, expected = torch.from_numpy(recorded["pixels"].transpose(0, 3, 1, 2)), recorded["outputs"]
        images = model.preprocessing.scale(pixels)
        found = logits(model, images).numpy()
        if name == "whole":  # probabilities, which tell the logits up to a number for each image
            expected = np.log(expected)
            expected += (found - expected).mean(1, keepdims=True)
        back = converted_back(model, "keras", folder / "back.h5", images, expected, python)
        return relative(found, expected), back

    return measure


SAVED_MODELS = {
    "whole": "whole network",
    "tutorial": "preprocess_input, base as a layer",
    "sequential": "Sequential, hidden layer",
}


def saved_model_forms() -> Iterator[Form]:
    keras_2 = partial(saved_model_form, saved_by_keras_2, python=ORACLE)
    for form, call in {"keras": "model.save", "function": "tf.saved_model.save"}.items():
        for name, model in SAVED_MODELS.items():
            yield Form(f"SavedModel of `{call}`: {model}", "Keras 2.12", keras_2(name, form))
    for name in ("whole", "tutorial"):  # weights with a hidden layer are refused, as they do not tell its activation
        measure = keras_2(name, "weights", image_size=(139, 139))
        yield Form(f"weights of `save_weights`: {SAVED_MODELS[name]}", "Keras 2.12", measure)
    keras_3 = f"Keras {version('keras')} on TensorFlow 2.18" if UV else ""
    for name, model in SAVED_MODELS.items():
        measure = saved_model_form(saved_by_keras_3, name, "export", sys.executable)
        yield Form(f"SavedModel of `model.export`: {model}", keras_3, measure)


def forms() -> Iterator[Form]:
    for each in (torch_forms, keras_forms, tensorflowjs_forms, tensorflow_1_forms, saved_model_forms):
        yield from each()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="print only the forms whose row contains this text")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| form | program | read | converted back |\n| --- | --- | ---: | ---: |", flush=True)
    for form in forms():
        row = f"| {form.name} | {form.program or 'not installed'} |"
        if options.only not in row:
            continue
        torch.manual_seed(0)
        with TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            figures = form.measure(Path(folder)) if form.program else (None, None)
        cells = ["–" if figure is None else f"{figure:.0e}" if figure else "0" for figure in figures]
        print(row, " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
