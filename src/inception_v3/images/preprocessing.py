"""Turn a decoded image into the network's input, with the same values in training, evaluation and prediction."""

import platform
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling
from PIL.Image import new as new_image

from inception_v3.images.tensorflow_resize import tensorflow_resize
from inception_v3.network.architecture import Length, Size, square
from inception_v3.support.arguments import PositiveFraction, check_fields, checked

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[int, int, int, int]  # (left, top, right, bottom)
Interpolation = Literal["bilinear", "bicubic", "tensorflow", "nearest", "box", "hamming", "lanczos"]
Fit = Literal["cover", "contain", "stretch"]
PreprocessingName = Literal["inception", "slim", "torchvision", "timm", "keras"]
BAND_PIXELS = 2**24  # of an image that is resized at once
MAX_ASPECT = 20  # more elongated images are cropped first: enlarged as a whole, a line of pixels would fill the memory


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a tensor: resize, centre crop, normalise.

    The image is resized so that `image_size` covers the central `crop_fraction` of it, and the centre is cropped to
    `image_size`. Pixels 0 to 255 then become (pixel / 255 - mean) / std: by default [-1, 1], as in TF-Slim's
    preprocessing/inception_preprocessing.py.

    Bilinear and bicubic interpolation are antialiased. `resize` and `squash` reproduce other programs: Pillow resizes,
    as in those programs, and the pixels are bit for bit the same. Without them PyTorch resizes, bit for bit as
    torchvision does, which is several times faster and differs from Pillow by at most two levels.

    Attributes:
        image_size: (height, width) of the result.
        crop_fraction: the part of the image's height and width that is kept, in (0, 1].
        mean: per channel, for pixels scaled to [0, 1].
        std: per channel, like `mean`.
        resize: resize the shorter side to this many pixels instead of applying `crop_fraction`; or a pair, the (height,
            width) that the image is resized to as `fit` says.
        interpolation: "tensorflow" is TensorFlow 1's bilinear: no antialiasing, no half-pixel centres, and results that
            are not rounded to whole levels. The others but bilinear and bicubic are always Pillow's.
        squash: crop the central `crop_fraction` of height and width, and resize it to `image_size` without keeping its
            aspect ratio.
        fit: how an image gets the size of the pair `resize`: it covers it, or lies inside it with borders of the mean,
            both with its aspect ratio, or it is stretched to it.

    Raises:
        TypeError: an option of the wrong type. Lists and arrays are converted to tuples.
        ValueError: an impossible option; in every method that takes an image, an image that is not RGB or has no
            pixels.
    """

    image_size: Size = (299, 299)
    crop_fraction: PositiveFraction = 0.875
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resize: Length | Size | None = None
    interpolation: Interpolation = "bilinear"
    squash: bool = False
    fit: Fit = "cover"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.resize is not None and self.squash:
            raise ValueError(f"resize must be None with squash, not {self.resize}")
        if not all(self.std):
            raise ValueError(f"std must have no zero, not {self.std}")

    @property
    def is_half(self) -> bool:
        """Whether mean and std are 0.5, so that pixels become numbers in [-1, 1]."""
        return self.mean == self.std == (0.5,) * 3

    @staticmethod
    @checked
    def named(name: PreprocessingName, image_size: Length | Size | None = None) -> "Preprocessing":
        """Return one of PREPROCESSINGS, adapted to `image_size` if it is given.

        Raises:
            ValueError: an unknown name, with the known ones, or an impossible size.
            TypeError: an argument of the wrong type.
        """
        return PREPROCESSINGS[name] if image_size is None else PREPROCESSINGS[name].at(image_size)

    @checked
    def at(self, image_size: Length | Size) -> "Preprocessing":
        """Return the same preprocessing for another image size. `resize` is scaled, to keep the same part of images."""
        size = square(image_size)
        if isinstance(self.resize, tuple):
            pairs = zip(self.resize, size, self.image_size, strict=True)
            height, width = (max(1, round(length * new / old)) for length, new, old in pairs)
            return replace(self, image_size=size, resize=(height, width))
        resize = self.resize and round(self.resize * min(size) / min(self.image_size))
        return replace(self, image_size=size, resize=resize)

    def pixels(self, image: Image) -> "Tensor":
        """Resize and crop an RGB image to uint8 of shape (3, H, W). Results of "tensorflow" are rounded."""
        net = self._resized(image)
        return net.round().byte() if net.is_floating_point() else net

    def array(self, image: Image) -> NDArray[np.uint8]:
        """Like `pixels`, as an array of shape (H, W, 3) and without PyTorch: Pillow resizes.

        The bits are identical with `resize`, `squash` or interpolation "tensorflow". Otherwise bilinear differs by at
        most two levels, and bicubic by three, or more where it exceeds 0 to 255 and is clipped.
        """
        _check_rgb(image)
        if self.interpolation == "tensorflow":
            return np.ascontiguousarray(self._resized_by_tensorflow(image).round().astype(np.uint8).transpose(1, 2, 0))
        plan = self.plan(*image.size)
        if self._is_pillows:
            return np.asarray(self._resized_by_pillow(image, plan))
        # Compute only the pixels that the crop keeps, by resizing a region whose borders may lie between pixels.
        left, top, right, bottom = plan.seen
        kept = (left, top, min(right, plan.region[2]), min(bottom, plan.region[3]))
        return np.asarray(image.resize(self.image_size[::-1], self._resampling, box=kept))

    def scale(self, pixels: "Tensor") -> "Tensor":
        """Normalise pixels 0 to 255, (N, 3, H, W), to float32 for the network; float64 stays. Keeps the device.

        Raises:
            TypeError: no tensor.
            ValueError: another shape.
        """
        from torch import Tensor, float32, float64, tensor

        if not isinstance(pixels, Tensor):
            raise TypeError(f"pixels must be a tensor, not {type(pixels).__name__}; use torch.from_numpy(array)")
        if pixels.ndim < 3 or pixels.shape[-3] != 3:
            raise ValueError(f"pixels must have shape (N, 3, H, W), not {tuple(pixels.shape)}")
        dtype = float64 if pixels.dtype == float64 else float32
        mean = tensor(self.mean, dtype=dtype, device=pixels.device).view(3, 1, 1) * 255
        std = tensor(self.std, dtype=dtype, device=pixels.device).view(3, 1, 1) * 255
        return (pixels - mean) / std

    def __call__(self, image: Image) -> "Tensor":
        """Convert an RGB image to floats of shape (1, 3, H, W), without rounding in between."""
        return self.scale(self._resized(image)[None])

    def plan(self, width: int, height: int) -> "ResizePlan":
        """Return the region, the size and the crop for an image of this width and height."""
        if self.squash:
            # the pixels that tf.image.central_crop removes at either end
            left, top = (int((length - length * self.crop_fraction) / 2) for length in (width, height))
            return ResizePlan((left, top, width - left, height - top), self.image_size, (0, 0, *self.image_size[::-1]))
        if self.resize and self.fit != "cover":
            return self._plan_whole(width, height, *square(self.resize))
        longest = min(width, height) * MAX_ASPECT
        region = _centre_box((width, height), (min(width, longest), min(height, longest)))
        width, height = min(width, longest), min(height, longest)
        if isinstance(self.resize, tuple):  # timm's rule
            ratio = min(height / self.resize[0], width / self.resize[1])
            size = round(height / ratio), round(width / ratio)
        elif self.resize is None:
            ratio = max(self.image_size[0] / height, self.image_size[1] / width) / self.crop_fraction
            size = max(self.image_size[0], round(height * ratio)), max(self.image_size[1], round(width * ratio))
        else:  # torchvision's rule: the longer side is rounded down
            shorter = min(width, height)
            size = height * self.resize // shorter, width * self.resize // shorter
        return ResizePlan(region, size, _centre_box(size[::-1], self.image_size[::-1]))

    def _plan_whole(self, width: int, height: int, to_height: int, to_width: int) -> "ResizePlan":
        """The plan for a whole image that is stretched to a size, or fitted into it."""
        size = to_height, to_width
        if self.fit == "contain":
            ratio = max(height / to_height, width / to_width)
            size = max(1, round(height / ratio)), max(1, round(width / ratio))
        return ResizePlan((0, 0, width, height), size, _centre_box(size[::-1], self.image_size[::-1]))

    def _resized(self, image: Image) -> "Tensor":
        """Resize and crop to values 0 to 255, (3, H, W): uint8, or float32 for interpolation "tensorflow"."""
        import torch
        from torch.nn.functional import interpolate

        _check_rgb(image)
        if self.interpolation == "tensorflow":
            return torch.from_numpy(self._resized_by_tensorflow(image))
        plan = self.plan(*image.size)
        if self._is_pillows:
            return _tensor(self._resized_by_pillow(image, plan))[0]
        resize = partial(interpolate, mode=self.interpolation, antialias=True)  # as torchvision's resize
        left, top, right, bottom = plan.region
        rows = _rows_at_once(right - left, self.interpolation)
        # Each row is resized by itself first, so the parts of a large image give the same pixels as the whole.
        bands = (image.crop((left, y, right, min(y + rows, bottom))) for y in range(top, bottom, rows))
        net = (
            torch.cat([resize(_tensor(band), [band.height, plan.size[1]]) for band in bands], dim=2)
            if rows < bottom - top
            else _tensor(_crop(image, plan.region))
        )
        net = resize(net, list(plan.size))
        left, top, right, bottom = plan.crop
        return net[0, :, top:bottom, left:right]

    def _resized_by_pillow(self, image: Image, plan: "ResizePlan") -> Image:
        image = _crop(image, plan.region)
        if image.height > image.width * MAX_ASPECT:  # Pillow resizes rows first, which would make this image wide
            image = image.resize((image.width, plan.size[0]), self._resampling)
        image = image.resize(plan.size[::-1], self._resampling)
        if self.resize is None or self.fit != "contain":
            return image.crop(plan.crop)
        red, green, blue = (min(max(round(255 * value), 0), 255) for value in self.mean)
        framed = new_image("RGB", self.image_size[::-1], (red, green, blue))
        framed.paste(image, (-plan.crop[0], -plan.crop[1]))
        return framed

    def _resized_by_tensorflow(self, image: Image) -> NDArray[np.float32]:
        """Resize and crop to values 0 to 255, (3, H, W), not rounded."""
        plan = self.plan(*image.size)
        net = tensorflow_resize(np.asarray(_crop(image, plan.region)).transpose(2, 0, 1), plan.size)
        left, top, right, bottom = plan.crop
        below, beyond = max(bottom - plan.size[0], 0), max(right - plan.size[1], 0)
        net = np.pad(net, ((0, 0), (max(-top, 0), below), (max(-left, 0), beyond)))  # black, like Pillow's crop
        top, left = max(top, 0), max(left, 0)
        return net[:, top : top + self.image_size[0], left : left + self.image_size[1]]

    @property
    def _is_pillows(self) -> bool:
        """Whether Pillow resizes wherever the network runs."""
        return self.squash or self.resize is not None or self.interpolation not in ("bilinear", "bicubic")

    @property
    def _resampling(self) -> Resampling:
        return Resampling[self.interpolation.upper()]


class ResizePlan(NamedTuple):
    """How an image is resized: its `region` is resized to `size`, of which `crop` is kept.

    Where `crop` exceeds `size`, the result is black.
    """

    region: Box
    size: Size
    crop: Box

    @property
    def seen(self) -> tuple[float, float, float, float]:
        """The part of the image that the result shows: (left, top, right, bottom) in the image's pixels.

        It exceeds the image where the result has a border, and its edges may lie between pixels.
        """
        left, top, right, bottom = self.region
        y_scale, x_scale = (bottom - top) / self.size[0], (right - left) / self.size[1]
        x0, y0, x1, y1 = (edge * scale for edge, scale in zip(self.crop, (x_scale, y_scale) * 2, strict=True))
        return left + x0, top + y0, left + x1, top + y1


def _tensor(image: Image) -> "Tensor":
    """The pixels of an image, uint8 of shape (1, 3, H, W)."""
    from torch import from_numpy

    return from_numpy(np.array(image))[None].permute(0, 3, 1, 2)


def _rows_at_once(width: int, interpolation: Interpolation) -> int:
    """The rows of an image that torchvision's resize gets at once: those of BAND_PIXELS, or all.

    Where its bilinear resize has no kernel for uint8, it rounds only after both axes, so an image cannot be divided.
    """
    import torch

    has_kernel = torch.backends.cpu.get_cpu_capability() != "DEFAULT" or platform.machine() in ("aarch64", "arm64")
    return max(1, BAND_PIXELS // width) if has_kernel or interpolation == "bicubic" else sys.maxsize


def _check_rgb(image: Image) -> None:
    """Raise ValueError for no RGB image or no pixels. The values of mode "L" or "P" would be used for all channels."""
    if (mode := image.mode if isinstance(image, Image) else type(image).__name__) != "RGB":
        raise ValueError(f"an image must be a Pillow image of mode RGB, not {mode}; convert it by open_image(image)")
    if 0 in image.size:
        raise ValueError(f"an image must have pixels, not {image.width}x{image.height}")


def _centre_box(size: tuple[int, int], kept: tuple[int, int]) -> Box:
    """Return torchvision's centre crop of (width, height) to `kept`, which may be larger."""
    left, top = (
        round((whole - part) / 2) if part <= whole else -((part - whole) // 2)
        for whole, part in zip(size, kept, strict=True)
    )
    return left, top, left + kept[0], top + kept[1]


def _crop(image: Image, box: Box) -> Image:
    return image if box == (0, 0, *image.size) else image.crop(box)


# How each program prepares the images on which it evaluates its network.
PREPROCESSINGS: dict[PreprocessingName, Preprocessing] = {
    # This project's default: TF-Slim's crop fraction, but with the aspect ratio kept.
    "inception": Preprocessing(),
    # models/research/slim/preprocessing/inception_preprocessing.py, preprocess_for_eval.
    "slim": Preprocessing(squash=True, interpolation="tensorflow"),
    # torchvision/models/inception.py, ImageClassification(crop_size=299, resize_size=342). It normalises by ImageNet's
    # mean and std, but its network undoes that (transform_input), so the weights are for inputs in [-1, 1].
    "torchvision": Preprocessing(resize=342),
    # timm/data/transforms_factory.py, transforms_imagenet_eval: floor(299 / 0.875).
    "timm": Preprocessing(resize=341, interpolation="bicubic"),
    # keras.utils.load_img(file, target_size=(299, 299), interpolation="bilinear"), then
    # keras.applications.inception_v3.preprocess_input.
    "keras": Preprocessing(squash=True, crop_fraction=1.0),
}
