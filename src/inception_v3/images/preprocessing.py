"""From a decoded picture to what the network reads; the same numbers in training, evaluation and prediction."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, get_args

from inception_v3.network.architecture import Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image, Resampling
    from torch import Tensor

Interpolation = Literal["bilinear", "bicubic", "tensorflow"]
PreprocessingName = Literal["inception", "slim", "torchvision", "timm", "keras"]
MAX_ASPECT = 20  # a longer picture is cut or shortened first: enlarged whole, a line of pixels would fill the memory


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a tensor: resized, cut from the centre, scaled.

    The picture is resized so that `image_size`, (height, width), covers the central `crop_fraction` of it, or its
    shorter side to `resize` pixels where that is given; then the centre of `image_size` is kept. With `squash` it
    loses its proportions: the central `crop_fraction` of its height and of its width is cut out and resized to
    `image_size`. Pixels 0 to 255 become (pixel / 255 - mean) / std: by default [-1, 1], as TF-Slim's
    preprocessing/inception_preprocessing.py.

    `interpolation`: bilinear and bicubic are antialiased; tensorflow is the bilinear of TensorFlow 1, which neither
    smooths nor samples at pixel centres, and whose results are no whole numbers. With `resize` or `squash`, which are
    other programs' ways, Pillow does it, as there, to the same bits. Otherwise torchvision's kernels do, several times
    faster and within a level or two of Pillow's.

    Raises ValueError: what no picture can be prepared by.
    """

    image_size: Size = (299, 299)
    crop_fraction: float = 0.875
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    squash: bool = False

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"image_size must be a height and a width, not {self.image_size}")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction must be in (0, 1], not {self.crop_fraction}")
        if self.resize is not None and (self.squash or self.resize < 1):
            raise ValueError(f"resize must be the pixels of the shorter side, and without squash, not {self.resize}")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation must be one of {', '.join(get_args(Interpolation))}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise ValueError(f"mean and std must be three numbers, std none of them zero, not {self.mean}, {self.std}")

    @staticmethod
    def named(name: PreprocessingName, image_size: int | Size | None = None) -> "Preprocessing":
        """One of PREPROCESSINGS, for pictures of another size where `image_size` is given.

        Raises ValueError: no such name, listing them.
        """
        if name not in PREPROCESSINGS:
            raise ValueError(f"no preprocessing {name!r}; there are {', '.join(PREPROCESSINGS)}")
        return PREPROCESSINGS[name].at(image_size) if image_size else PREPROCESSINGS[name]

    def at(self, image_size: int | Size) -> "Preprocessing":
        """The same for a network of another size: what is seen of a picture stays, and `resize` changes with it."""
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        resize = self.resize and round(self.resize * min(size) / min(self.image_size))
        return replace(self, image_size=size, resize=resize)

    def pixels(self, image: "Image") -> "Tensor":
        """An RGB picture, resized and cut: uint8 of shape (3, H, W), rounded where that is needed (tensorflow)."""
        import torch

        net = self._prepared(image)
        return net if net.dtype == torch.uint8 else net.round().to(torch.uint8)

    def array(self, image: "Image") -> "NDArray[np.uint8]":
        """What `pixels` gives, as an array of shape (H, W, 3), without PyTorch: Pillow resizes.

        Equal bits wherever Pillow or TensorFlow's way resizes there too, that is but for bilinear and bicubic with
        neither `resize` nor `squash`: there levels differ by one or two; with bicubic by three, and more where what
        overshoots is cut at 0 or 255.
        """
        import numpy as np

        if self.interpolation == "tensorflow":
            return np.ascontiguousarray(self._as_tensorflow(image).round().astype(np.uint8).transpose(1, 2, 0))
        plan = self.plan(*image.size)
        if self.squash or self.resize:
            return np.asarray(self._by_pillow(image, plan).crop(plan.cut))
        # Only what is kept is computed: a resize of a part, whose borders may lie between pixels.
        left, top, right, bottom = plan.part
        down, right_by = (bottom - top) / plan.size[0], (right - left) / plan.size[1]
        kept = (plan.cut[0] * right_by, plan.cut[1] * down, plan.cut[2] * right_by, plan.cut[3] * down)
        part = (left + kept[0], top + kept[1], min(left + kept[2], right), min(top + kept[3], bottom))
        return np.asarray(image.resize(self.image_size[::-1], self._method, box=part))

    def scale(self, pixels: "Tensor") -> "Tensor":
        """Pixels 0 to 255, (N, 3, H, W), to the floats that the network reads, on the same device."""
        from torch import float32, float64, tensor

        dtype = float64 if pixels.dtype == float64 else float32
        mean = tensor(self.mean, dtype=dtype, device=pixels.device).view(3, 1, 1) * 255
        std = tensor(self.std, dtype=dtype, device=pixels.device).view(3, 1, 1) * 255
        return (pixels - mean) / std

    def __call__(self, image: "Image") -> "Tensor":
        """An RGB picture to floats of shape (1, 3, H, W), with nothing rounded on the way."""
        return self.scale(self._prepared(image)[None])

    def plan(self, width: int, height: int) -> "Plan":
        """Which part of a picture is resized to what, and which part of that is kept."""
        if self.squash:
            left, top = (_border(length, self.crop_fraction) for length in (width, height))
            return Plan((left, top, width - left, height - top), self.image_size, (0, 0, *self.image_size[::-1]))
        longest = min(width, height) * MAX_ASPECT
        part = _centre((width, height), (min(width, longest), min(height, longest)))
        width, height = min(width, longest), min(height, longest)
        if self.resize is None:
            ratio = max(self.image_size[0] / height, self.image_size[1] / width) / self.crop_fraction
            size = max(self.image_size[0], round(height * ratio)), max(self.image_size[1], round(width * ratio))
        else:  # torchvision's rule: the shorter side, the longer rounded down
            shorter = min(width, height)
            size = height * self.resize // shorter, width * self.resize // shorter
        return Plan(part, size, _centre(size[::-1], self.image_size[::-1]))

    def _prepared(self, image: "Image") -> "Tensor":
        """Numbers from 0 to 255, (3, H, W); whole ones, but for those that TensorFlow's resize computes."""
        import torch
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as transform

        if self.interpolation == "tensorflow":
            return torch.from_numpy(self._as_tensorflow(image))
        plan = self.plan(*image.size)
        if self.squash or self.resize:
            return cast("Tensor", transform.pil_to_tensor(self._by_pillow(image, plan).crop(plan.cut)))
        net = transform.pil_to_tensor(_crop(image, plan.part))
        net = transform.resize(net, list(plan.size), InterpolationMode(self.interpolation), antialias=True)
        left, top, right, bottom = plan.cut
        return cast("Tensor", net[:, top:bottom, left:right])

    def _by_pillow(self, image: "Image", plan: "Plan") -> "Image":
        height, width = plan.size
        image = _crop(image, plan.part)
        if image.height > image.width * MAX_ASPECT:  # Pillow goes along the rows first, and so makes it wide
            image = image.resize((image.width, height), self._method)
        return image.resize((width, height), self._method)

    def _as_tensorflow(self, image: "Image") -> "NDArray[np.float32]":
        import numpy as np

        from inception_v3.images.tensorflow_resize import tensorflow_resize

        plan = self.plan(*image.size)
        net = tensorflow_resize(np.asarray(_crop(image, plan.part)).transpose(2, 0, 1), plan.size)
        left, top, right, bottom = plan.cut
        below, beyond = max(bottom - plan.size[0], 0), max(right - plan.size[1], 0)
        net = np.pad(net, ((0, 0), (max(-top, 0), below), (max(-left, 0), beyond)))  # black, as crops are elsewhere
        top, left = max(top, 0), max(left, 0)
        return net[:, top : top + self.image_size[0], left : left + self.image_size[1]]

    @property
    def _method(self) -> "Resampling":
        from PIL.Image import Resampling

        return Resampling[self.interpolation.upper()]


class Plan(NamedTuple):
    """How a picture is resized and cut. Boxes are left, top, right, bottom; what `cut` has beyond the size is black."""

    part: tuple[int, int, int, int]
    size: Size
    cut: tuple[int, int, int, int]


def _border(length: int, fraction: float) -> int:
    """What tf.image.central_crop leaves out at either end."""
    return int((length - length * fraction) / 2)


def _centre(size: tuple[int, int], kept: tuple[int, int]) -> tuple[int, int, int, int]:
    """torchvision's centre of a width and a height, which may be larger than they are."""
    left, top = (
        round((whole - part) / 2) if part <= whole else -((part - whole) // 2)
        for whole, part in zip(size, kept, strict=True)
    )
    return left, top, left + kept[0], top + kept[1]


def _crop(image: "Image", box: tuple[int, int, int, int]) -> "Image":
    return image if box == (0, 0, *image.size) else image.crop(box)


# How each program prepares the pictures that it judges its network with.
PREPROCESSINGS: dict[PreprocessingName, Preprocessing] = {
    # This project's default: slim's share of the picture, with its proportions kept.
    "inception": Preprocessing(),
    # models/research/slim/preprocessing/inception_preprocessing.py, preprocess_for_eval.
    "slim": Preprocessing(squash=True, interpolation="tensorflow"),
    # torchvision/models/inception.py, ImageClassification(crop_size=299, resize_size=342). Its network undoes the
    # scaling by ImageNet's mean and deviation (transform_input), so [-1, 1] is what its weights read.
    "torchvision": Preprocessing(resize=342),
    # timm/data/transforms_factory.py, transforms_imagenet_eval: floor(299 / 0.875).
    "timm": Preprocessing(resize=341, interpolation="bicubic"),
    # keras.utils.load_img(file, target_size=(299, 299), interpolation="bilinear"), then
    # keras.applications.inception_v3.preprocess_input.
    "keras": Preprocessing(squash=True, crop_fraction=1.0),
}
