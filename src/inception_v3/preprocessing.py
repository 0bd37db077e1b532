"""From a decoded picture to what the network reads; the same numbers in training, evaluation and prediction."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from inception_v3.architecture import Size

if TYPE_CHECKING:
    from PIL.Image import Image
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

    def scale(self, pixels: "Tensor") -> "Tensor":
        """Pixels 0 to 255, (N, 3, H, W), to the floats that the network reads, on the same device."""
        from torch import tensor

        mean = tensor(self.mean, device=pixels.device).view(3, 1, 1) * 255
        std = tensor(self.std, device=pixels.device).view(3, 1, 1) * 255
        return (pixels - mean) / std

    def __call__(self, image: "Image") -> "Tensor":
        """An RGB picture to floats of shape (1, 3, H, W), with nothing rounded on the way."""
        return self.scale(self._prepared(image)[None])

    def _prepared(self, image: "Image") -> "Tensor":
        """Numbers from 0 to 255, (3, H, W); whole ones, but for those that TensorFlow's resize computes."""
        from torchvision.transforms.v2 import functional as transform

        if self.squash:
            left, top = (_border(length, self.crop_fraction) for length in image.size)
            centre = image.crop((left, top, image.width - left, image.height - top))
            return self._resized(centre, self.image_size)
        height, width = self.image_size
        longest = min(image.size) * MAX_ASPECT
        if max(image.size) > longest:
            image = transform.center_crop(image, [min(image.height, longest), min(image.width, longest)])
        if self.resize is None:
            ratio = max(height / image.height, width / image.width) / self.crop_fraction
            size = max(height, round(image.height * ratio)), max(width, round(image.width * ratio))
        else:  # torchvision's rule: the shorter side, the longer rounded down
            shorter = min(image.size)
            size = image.height * self.resize // shorter, image.width * self.resize // shorter
        cut: Tensor = transform.center_crop(self._resized(image, size), [height, width])
        return cut

    def _resized(self, image: "Image", size: Size) -> "Tensor":
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as transform

        from inception_v3.tensorflow_resize import tensorflow_resize

        if self.interpolation == "tensorflow":
            return tensorflow_resize(transform.pil_to_tensor(image), size)
        method = InterpolationMode(self.interpolation)
        resized: Tensor
        if self.squash or self.resize:
            if image.height > image.width * MAX_ASPECT:  # Pillow goes along the rows first, and so makes it wide
                image = transform.resize(image, [size[0], image.width], method)
            resized = transform.pil_to_tensor(transform.resize(image, list(size), method))
        else:
            resized = transform.resize(transform.pil_to_tensor(image), list(size), method, antialias=True)
        return resized


def _border(length: int, fraction: float) -> int:
    """What tf.image.central_crop leaves out at either end."""
    return int((length - length * fraction) / 2)


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
