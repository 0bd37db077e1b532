"""Each convention prepares images as its program does: the network's input pixels, and its features."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cleanfid.utils import ResizeDataset
from pytorch_fid.fid_score import ImagePathDataset
from torch import Tensor
from torch_fidelity.datasets import ImagesPathDataset
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchvision.transforms.functional import pil_to_tensor, to_tensor

from conftest import recording, relative
from fidelity_inputs import draw_image, unusual_images
from fidelity_peers import clean_fid_features, pytorch_fid_features, torch_fidelity_features
from inception_v3.errors import InputError
from inception_v3.fidelity.conventions import CONVENTIONS, DEFAULT, find_convention
from inception_v3.fidelity.conventions.resize import tensorflow_bilinear
from inception_v3.fidelity.features import FeatureSet, extract_features
from inception_v3.fidelity.image_sets import open_image_set
from inception_v3.fidelity.network import FeatureNetwork, load_network
from inception_v3.fidelity.options import FidelityOptions
from inception_v3.fidelity.scores import SCORES
from inception_v3.fidelity.stored_image import decode_image
from inception_v3.weights.formats import fid_2015

# --- the network's input, computed by each program's own classes ---


def pytorch_fid_pixels(file: Path) -> Tensor:
    pixels = ImagePathDataset([str(file)], to_tensor)[0][None]
    return 2 * F.interpolate(pixels, size=(299, 299), mode="bilinear", align_corners=False) - 1


def torch_fidelity_pixels(file: Path) -> Tensor:
    pixels = ImagesPathDataset([str(file)], pil_to_tensor)[0][None].float()
    return (interpolate_bilinear_2d_like_tensorflow1x(pixels, size=(299, 299), align_corners=False) - 128) / 128


def clean_fid_pixels(file: Path) -> Tensor:
    return (ResizeDataset([str(file)], "clean")[0][None] - 128) / 128


def clean_fid_legacy_pytorch_pixels(file: Path) -> Tensor:
    return 2 * (ResizeDataset([str(file)], "legacy_pytorch")[0][None] / 255) - 1


def clean_fid_legacy_tensorflow_pixels(file: Path) -> Tensor:
    pixels = ResizeDataset([str(file)], "legacy_tensorflow")[0][None]
    return (interpolate_bilinear_2d_like_tensorflow1x(pixels, size=(299, 299), align_corners=False) - 128) / 128


PIXELS: dict[str, Callable[[Path], Tensor]] = {
    "pytorch-fid": pytorch_fid_pixels,
    "torch-fidelity": torch_fidelity_pixels,
    "clean-fid": clean_fid_pixels,
    "clean-fid:legacy-pytorch": clean_fid_legacy_pytorch_pixels,
    "clean-fid:legacy-tensorflow": clean_fid_legacy_tensorflow_pixels,
}


@pytest.mark.parametrize("name", PIXELS)
def test_pixels_of_all_kinds_of_images_equal_the_programs(name: str, tmp_path: Path) -> None:
    convention = find_convention(name)
    for file in unusual_images(tmp_path):
        pixels, _ = decode_image(file.read_bytes(), file.name)
        ours = convention.resize(torch.from_numpy(pixels)[None])
        assert ours.dtype == torch.float32
        torch.testing.assert_close(
            ours, PIXELS[name](file), rtol=0, atol=2e-6, msg=lambda text, file=file: f"{file}: {text}"
        )


def test_a_batch_is_resized_like_its_single_images() -> None:
    images = torch.from_numpy(np.stack([draw_image(seed) for seed in range(3)])).permute(0, 3, 1, 2)
    for convention in CONVENTIONS.values():
        together = convention.resize(images)
        single = torch.cat([convention.resize(image[None]) for image in images])
        torch.testing.assert_close(together, single, rtol=0, atol=1e-6)


def test_tensorflow_bilinear_equals_a_recording_of_tensorflow() -> None:
    with np.load(recording("resize_bilinear.py") / "case.npz") as case:
        sizes = [name.removesuffix("/image") for name in case.files if name.endswith("/image")]
        assert len(sizes) == 9
        for size in sizes:
            image = torch.from_numpy(case[f"{size}/image"]).permute(0, 3, 1, 2)
            expected = torch.from_numpy(case[f"{size}/resized"]).permute(0, 3, 1, 2)
            ours = (tensorflow_bilinear(image) + 1) * 128
            assert (ours - expected).abs().max() < 1e-4, size  # parity is promised to 1 of 255


# --- features ---


@pytest.fixture(scope="module")
def network(weights_of_2015: Path) -> FeatureNetwork:
    return load_network(weights_of_2015)


@pytest.fixture(scope="module")
def three_images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("images")
    unusual_images(folder)
    for file in folder.rglob("*.*"):
        if file.name not in ("wide.jpg", "rgba.png", "größe.png"):
            file.unlink()
    return folder, sorted(file for file in folder.rglob("*.*"))


FEATURES: dict[str, Callable[[list[Path], Path], object]] = {
    "pytorch-fid": pytorch_fid_features,
    "torch-fidelity": lambda files, weights: torch_fidelity_features(files, weights)["2048"],
    "clean-fid": lambda files, weights: clean_fid_features(files, weights, "clean"),
    "clean-fid:legacy-pytorch": lambda files, weights: clean_fid_features(files, weights, "legacy_pytorch"),
    "clean-fid:legacy-tensorflow": lambda files, weights: clean_fid_features(files, weights, "legacy_tensorflow"),
}


def extract_from(folder: Path, network: FeatureNetwork, name: str) -> FeatureSet:
    return extract_features(open_image_set(folder), network, find_convention(name))


@pytest.mark.parametrize("name", FEATURES)
def test_features_equal_the_programs(
    name: str, network: FeatureNetwork, three_images: tuple[Path, list[Path]], weights_of_2015: Path
) -> None:
    folder, files = three_images
    assert len(files) == 3
    ours = extract_from(folder, network, name).pooled
    assert relative(ours, FEATURES[name](files, weights_of_2015)) <= 1e-5


def test_logits_without_bias_equal_torch_fidelitys(
    network: FeatureNetwork, three_images: tuple[Path, list[Path]], weights_of_2015: Path
) -> None:
    folder, files = three_images
    ours = np.asarray(extract_from(folder, network, "torch-fidelity").pooled) @ network.logits.T
    assert relative(ours, torch_fidelity_features(files, weights_of_2015)["logits_unbiased"]) <= 1e-5


def test_spatial_features_are_seven_channels_of_mixed_6d_after_relu(
    network: FeatureNetwork, three_images: tuple[Path, list[Path]], weights_of_2015: Path
) -> None:
    """OpenAI's evaluator takes mixed_6/conv:0[..., :7] of the graph, NHWC, flattened."""
    folder, files = three_images
    ours = extract_from(folder, network, "adm").spatial
    assert ours.shape == (3, 2023)
    from inception_v3.weights.model import InceptionV3
    from inception_v3.weights.read import Origin

    model = InceptionV3.from_weights(fid_2015.read(weights_of_2015), Origin("", weights_of_2015, "fid-2015")).eval()
    images = torch.cat([torch_fidelity_pixels(file) for file in files])
    with torch.no_grad():
        before, _ = model.base(images, final_endpoint="Mixed_6c", end_points=())
        branch = model.get_submodule("Mixed_6d.Branch_0")(before)
    expected = branch[:, :7].permute(0, 2, 3, 1).reshape(3, -1)
    assert expected.min() == 0
    assert relative(ours, expected) <= 1e-5


# --- finding a convention ---


def test_the_default_is_clean_fids_resize_with_the_exact_distance() -> None:
    assert find_convention() is DEFAULT
    assert (DEFAULT.name, DEFAULT.resize) == ("inception-v3", find_convention("clean-fid").resize)
    assert DEFAULT.trace_method is None


def test_no_two_conventions_have_the_same_name_or_description() -> None:
    keys = [key for score in SCORES.values() for key in score.keys]
    conventions = [*CONVENTIONS.values(), DEFAULT]
    assert len({convention.label for convention in conventions}) == len(conventions)
    assert len({convention.describe(keys) for convention in conventions}) == len(conventions)


def test_options_that_change_a_convention_are_part_of_its_label() -> None:
    assert FidelityOptions(like="pytorch-fid").convention().label == "pytorch-fid"
    assert FidelityOptions(like="pytorch-fid", seed=2020).convention().label == "pytorch-fid", "the same seed"
    changed = FidelityOptions(seed=1, kid_subset_size=50, is_splits=2).convention()
    assert changed.label == "inception-v3 with --seed 1 --kid-subset-size 50 --is-splits 2"
    assert "subsets of 50 images" in changed.describe(["kid_mean"])
    assert "Inception Score of 2 parts" in changed.describe(["is_mean"])


@pytest.mark.parametrize(
    ("like", "mode", "name"),
    [
        ("clean-fid", "clean", "clean-fid"),
        ("clean-fid", "legacy_tensorflow", "clean-fid:legacy-tensorflow"),
        (None, "legacy-pytorch", "clean-fid:legacy-pytorch"),
        ("clean-fid:legacy-pytorch", None, "clean-fid:legacy-pytorch"),
        ("clean-fid-legacy_pytorch", None, "clean-fid:legacy-pytorch"),
        ("Torch-Fidelity", None, "torch-fidelity"),
    ],
)
def test_a_convention_is_found_by_its_programs_name(like: str | None, mode: str | None, name: str) -> None:
    assert find_convention(like, mode).name == name


@pytest.mark.parametrize(("like", "mode"), [("fid", None), ("pytorch-fid", "clean"), ("clean-fid", "new")])
def test_an_unknown_name_is_refused_with_the_list_of_known_ones(like: str, mode: str | None) -> None:
    with pytest.raises(InputError, match=r"--like: no such value .*choose from clean-fid, .*adm") as error:
        find_convention(like, mode)
    assert error.value.exit_status == 2
