"""Run pytorch-fid, torch-fidelity and clean-fid on lists of files, with local weights instead of their downloads."""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import cleanfid.features
import cleanfid.fid
import cleanfid.inception_pytorch
import numpy as np
import pytorch_fid.fid_score
import pytorch_fid.inception
import torch
import torch_fidelity.metric_fid
import torch_fidelity.metric_isc
import torch_fidelity.metric_kid
from torch import Tensor, nn
from torch_fidelity.datasets import ImagesPathDataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.utils import get_featuresdict_from_dataset
from torchvision.transforms.functional import pil_to_tensor

Files = Sequence[Path]


@contextlib.contextmanager
def replace_downloads(weights: Path) -> Iterator[None]:
    """Let the programs build their own networks, but load this file in place of downloads. Discard their output."""

    def load(url: str, progress: bool = True) -> dict[str, Tensor]:
        return torch.load(weights, weights_only=True)

    with (
        mock.patch.object(pytorch_fid.inception, "load_state_dict_from_url", load),
        mock.patch.object(cleanfid.inception_pytorch, "load_state_dict_from_url", load),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def pytorch_fid_features(files: Files, weights: Path, batch_size: int = 1, workers: int = 0) -> np.ndarray:
    """(N, 2048) features."""
    with replace_downloads(weights):
        model = pytorch_fid.inception.InceptionV3([3])
        names = [str(file) for file in files]
        return pytorch_fid.fid_score.get_activations(names, model, batch_size, num_workers=workers)


def torch_fidelity_features(
    files: Files, weights: Path, batch_size: int = 1, save_cpu_ram: bool = True
) -> dict[str, Tensor]:
    """Outputs by layer name, "2048" and "logits_unbiased"."""
    with replace_downloads(weights):
        names = ["2048", "logits_unbiased"]
        extractor = FeatureExtractorInceptionV3("inception", names, feature_extractor_weights_path=str(weights))
        dataset = ImagesPathDataset([str(file) for file in files], pil_to_tensor)
        return get_featuresdict_from_dataset(dataset, extractor, batch_size, False, save_cpu_ram, False)


def clean_fid_model(mode: str, weights: Path) -> Callable[[Tensor], Tensor]:
    """The feature extractor of a mode.

    That of legacy_pytorch is clean-fid's own. For the other modes clean-fid downloads a TorchScript file; here the
    preprocessing that its class InceptionV3W documents is applied before pytorch-fid's network.
    """
    if mode == "legacy_pytorch":
        return cleanfid.features.build_feature_extractor(mode, torch.device("cpu"), use_dataparallel=False)
    network: nn.Module = pytorch_fid.inception.InceptionV3([3], resize_input=False, normalize_input=False).eval()

    def model(pixels: Tensor) -> Tensor:
        if mode == "legacy_tensorflow":
            pixels = interpolate_bilinear_2d_like_tensorflow1x(pixels, size=(299, 299), align_corners=False)
        assert pixels.shape[2:] == (299, 299)
        return network((pixels - 128) / 128)[0].flatten(1)

    return model


def clean_fid_features(
    files: Files, weights: Path, mode: str = "clean", batch_size: int = 1, workers: int = 0
) -> np.ndarray:
    """(N, 2048) features."""
    with replace_downloads(weights):
        return cleanfid.fid.get_files_features(
            [str(file) for file in files],
            clean_fid_model(mode, weights),
            num_workers=workers,
            batch_size=batch_size,
            device=torch.device("cpu"),
            mode=mode,
            verbose=False,
        )


def pytorch_fid_distance(first: np.ndarray, second: np.ndarray) -> float:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        statistics = [(np.mean(features, axis=0), np.cov(features, rowvar=False)) for features in (first, second)]
        return float(pytorch_fid.fid_score.calculate_frechet_distance(*statistics[0], *statistics[1]))


def clean_fid_distance(first: np.ndarray, second: np.ndarray) -> float:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(cleanfid.fid.fid_from_feats(first, second))


def torch_fidelity_distance(first: Tensor, second: Tensor) -> float:
    statistics = [torch_fidelity.metric_fid.fid_features_to_statistics(features) for features in (first, second)]
    return float(torch_fidelity.metric_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"])
