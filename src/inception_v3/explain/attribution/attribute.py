"""Explain the score of a class of an image by one of the methods, in PyTorch."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from inception_v3.errors import NotFiniteError
from inception_v3.explain.attribution import cams, gradients
from inception_v3.explain.attribution.occlusion import occlusion, window_and_stride
from inception_v3.explain.attribution.result import GREY, KINDS, Attribution, AttributionOptions
from inception_v3.explain.attribution.scores import (
    check_finite,
    check_model,
    class_labels,
    class_scores,
    network_scores,
)
from inception_v3.explain.classes import explained_class
from inception_v3.explain.views import View, view_of
from inception_v3.inference.predict import ImageInput
from inception_v3.support.arguments import checked
from inception_v3.weights.model import InceptionV3

# From a model, pixels (1, 3, H, W) and the class (1,) to maps (1, h, w) or values (1, 3, H, W).
Compute = Callable[[InceptionV3, Tensor, Tensor, AttributionOptions], Tensor]


def _cam(function: Callable[..., Tensor]) -> Compute:
    return lambda model, pixels, label, options: function(model, pixels, label, options.end_point, options.head)


def _integrated_gradients(model: InceptionV3, pixels: Tensor, label: Tensor, options: AttributionOptions) -> Tensor:
    return gradients.integrated_gradients(
        model,
        pixels,
        label,
        options.head,
        baselines=grey(model),
        steps=options.steps,
        batch_size=options.batch_size,
    )


def _smooth_grad(model: InceptionV3, pixels: Tensor, label: Tensor, options: AttributionOptions) -> Tensor:
    noise = gradients.smooth_grad_noise(pixels, options.samples, options.noise, options.seed)
    return gradients.smooth_grad(model, pixels, label, options.head, noise=noise, batch_size=options.batch_size)


def _occlusion(model: InceptionV3, pixels: Tensor, label: Tensor, options: AttributionOptions) -> Tensor:
    def scores(
        batch: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]",
    ) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        with torch.no_grad():
            images = torch.from_numpy(batch).to(pixels)
            return network_scores(model, images, label.expand(len(images)), options.head)[0].double().cpu().numpy()

    window, stride = window_and_stride(pixels.shape[2], pixels.shape[3], options)
    fill = grey(model)[0].cpu().numpy()
    values = occlusion(
        scores, pixels[0].cpu().numpy(), fill, window=window, stride=stride, axes=(1, 2), batch_size=options.batch_size
    )
    return torch.from_numpy(values)[None]


METHODS: Mapping[str, Compute] = {
    "grad-cam": _cam(cams.grad_cam),
    "grad-cam++": _cam(cams.grad_cam_plus_plus),
    "layer-cam": _cam(cams.layer_cam),
    "integrated-gradients": _integrated_gradients,
    "smooth-grad": _smooth_grad,
    "occlusion": _occlusion,
    "guided-backprop": lambda model, pixels, label, options: gradients.guided_backprop(
        model, pixels, label, options.head
    ),
    "deep-lift": lambda model, pixels, label, options: gradients.deep_lift(
        model, pixels, label, options.head, baselines=grey(model)
    ),
    "gradient": lambda model, pixels, label, options: gradients.plain_gradient(model, pixels, label, options.head),
}


def grey(model: InceptionV3) -> Tensor:
    """The network's input for a grey image, of shape (1, 3, 1, 1)."""
    return model.preprocessing.scale(torch.full((1, 3, 1, 1), 255 * GREY)).to(next(model.parameters()))


@checked
def attribute(model: InceptionV3, image: ImageInput | View, options: AttributionOptions | None = None) -> Attribution:
    """Explain the score of one class of one image.

    Args:
        model: in evaluation mode; its parameters are not changed.
        image: a path, a Pillow image, an array, or a View.
        options: the method, the class and others; by default Grad-CAM of the class with the highest logit.

    Raises:
        InputError: the image cannot be read, no such class.
        NotFiniteError: the network's outputs are not finite, with the layer in which that starts; or the values.
        ValueError: an option or an end point that does not fit the model; a model in training mode or without heads.
    """
    options = options or AttributionOptions()
    check_model(model, options.head)
    view = image if isinstance(image, View) else view_of(image, model.preprocessing)
    pixels = model.preprocess(view.image).to(next(model.parameters()))
    with torch.no_grad():
        outputs = model(pixels, end_points=(options.head,))[1][options.head]
    check_finite(model, pixels, outputs, view.name, options.head)
    names, activation = class_labels(model), model.settings.output_activation
    index, _ = explained_class(options.class_name, names, outputs[0].double().cpu().numpy(), activation)
    classes, kind = torch.tensor([index], device=pixels.device), KINDS[options.method]
    values = METHODS[options.method](model, pixels, classes, options)[0].double().cpu().numpy()
    if not np.isfinite(values).all():
        raise NotFiniteError(f"{view.name}: {options.method} gives infinite values or NaN; use float64 or a CAM")
    with torch.no_grad():
        score = float(class_scores(outputs, classes, activation))
        gap = None
        if kind.is_complete:
            baseline, _ = network_scores(model, grey(model).expand_as(pixels), classes, options.head)
            gap = float(values.sum()) - (score - float(baseline))
    end_point = (options.end_point or cams.last_map(options.head)) if kind.of_end_point else None
    return Attribution(view, options.method, index, names[index], options.head, end_point, score, values, gap)
