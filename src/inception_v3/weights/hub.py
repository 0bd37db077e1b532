"""The conventions of huggingface_hub for InceptionV3: from_pretrained, save_pretrained, push_to_hub, the model card.

A saved folder contains model.safetensors in the native format, which `load` reads; config.json with the same settings
for people, by which the hub also counts downloads; and README.md, the model card.
"""

import json
import re
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData, PyTorchModelHubMixin

from inception_v3.support.files import write_errors, write_text
from inception_v3.support.json_values import parse_json
from inception_v3.support.system_errors import file_status
from inception_v3.support.text import percent, printable
from inception_v3.weights import MODEL_FILE
from inception_v3.weights.formats import native
from inception_v3.weights.published import CONFIG, Hub, find_published, parse_repository
from inception_v3.weights.read import read_source, read_weights

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

MAX_LISTED_CLASSES = 100  # in the card
RATES = {  # of Metrics.summary, with their names in the card
    "top1": "top-1 accuracy",
    "top1_interval": "95 % interval of top-1",
    "mean_recall": "mean of classes",
    "top5": "top-5 accuracy",
}
ERRORS = {"loss": "loss (nats per image)", "ece": "expected calibration error"}


class HubMixin(
    PyTorchModelHubMixin,
    library_name="inception-v3",
    pipeline_tag="image-classification",
    tags=["inception-v3", "pytorch", "arxiv:1512.00567"],
):
    """The methods that InceptionV3 inherits from huggingface_hub, with the native format instead of the mixin's own."""

    # Not None, or the mixin would store each model's arguments in it; they are in `settings` and in config.json.
    _hub_mixin_config = {}  # noqa: RUF012

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        map_location: str = "cpu",
        strict: bool = True,
        **model_kwargs: Any,
    ) -> "InceptionV3":
        """Load a model, in evaluation mode, like `inception_v3.load`, with the options of huggingface_hub.

        Args:
            pretrained_model_name_or_path: `owner/name` is a repository of the hub, unless there is a folder of that
                name. Also a folder or file of any format, `hf:owner/name@revision`, or another published name.
            revision, token, cache_dir, force_download, local_files_only: as for `huggingface_hub.hf_hub_download`.
            map_location: the device of the model.
            strict: False ignores missing and unknown variables, like `partial=True` in `load`.
            model_kwargs: options of InceptionV3 that replace the stored ones.

        Raises:
            InputError: as `load`.
        """
        name = str(pretrained_model_name_or_path)
        source = None if file_status(name) is not None else find_published(name) or parse_repository(name)
        if isinstance(source, Hub):
            source = replace(
                source,
                revision=revision or source.revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
            )
            name = name if ":" in name else f"hf:{name}"
            with source.open(name) as weights_source:
                weights, origin = read_source(name, weights_source)
        else:
            weights, origin = read_weights(name)
        model = cast("type[InceptionV3]", cls).from_weights(weights, origin, partial=not strict, **model_kwargs)
        return model.to(map_location)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write model.safetensors and config.json to a folder, and a model card if the folder has none.

        `options` are those of huggingface_hub: push_to_hub, repo_id, model_card_kwargs and others.

        Raises:
            InputError: the folder cannot be written, or the disk is full.
        """
        with write_errors(Path(save_directory)):
            Path(save_directory).mkdir(parents=True, exist_ok=True)
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        model = cast("InceptionV3", self)
        native.FORMAT.write(model.to_weights(), save_directory / MODEL_FILE)
        config = {**model.settings, "preprocessing": asdict(model.preprocessing), "class_names": model.class_names}
        write_text(save_directory / CONFIG, json.dumps(config, indent=2) + "\n")

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Create the repository `repo_id` if it does not exist, upload the model, and return the commit's address.

        `options` are those of huggingface_hub: private, commit_message, token, branch and others.
        """
        card = {"repository": repo_id} | (options.pop("model_card_kwargs", None) or {})
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    def generate_model_card(
        self, repository: str = "OWNER/NAME", results: dict[str, float] | None = None, **metadata: Any
    ) -> ModelCard:
        """Return a model card: usage, results, origin, data, licence, training, settings, preprocessing and classes.

        Args:
            repository: the repository that the usage example loads.
            results: figures that the caller has measured. By default those that the training has stored, if any.
            metadata: fields of the card's header, such as license="apache-2.0" or datasets=[...]. The license is
                "unknown" by default.
        """
        model = cast("InceptionV3", self)
        header: dict[str, Any] = self._hub_mixin_info.model_card_data.to_dict()  # type: ignore[no-untyped-call]
        header |= {"license": "unknown"} | _facts(model) | metadata
        text = _card(model, repository, results, header["license"])
        return ModelCard(f"---\n{ModelCardData(**header).to_yaml()}\n---\n\n{text}")


def _facts(model: "InceptionV3") -> dict[str, Any]:
    """The fields of the card's header that follow from what the training has stored: its base and its results."""
    training = model.origin.training if model.origin else {}
    facts: dict[str, Any] = {}
    if base := re.match(r"hf:(\w[\w.-]*/\w[\w.-]*)", (training.get("base") or {}).get("name", ""), re.ASCII):
        facts["base_model"] = base[1]
    if results := training.get("results"):
        data = printable(training["data"]["name"] or "unknown")
        top1 = EvalResult("image-classification", data, data, "accuracy", results["top1"], metric_name=RATES["top1"])
        facts |= {"model_name": "Inception V3", "eval_results": [top1]}
    return facts


def _card(model: "InceptionV3", repository: str, results: dict[str, float] | None, licence: str) -> str:
    settings, origin = model.settings, model.origin
    last = f"cut after {settings.final_endpoint}" if settings.final_endpoint else f"with {settings.num_classes} classes"
    stored = origin.training if origin else {}
    training = {
        key: value for key, value in stored.items() if key not in ("origin", "base", "data", "results", "folds")
    }
    parts = [
        "# Inception V3",
        f"The network of [Rethinking the Inception Architecture](https://arxiv.org/abs/1512.00567), {last}; "
        f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters.",
        "## Use",
        "```python\nimport inception_v3\n\n"
        f'model = inception_v3.load("hf:{repository}")\n'
        'images = model.preprocess(inception_v3.open_image("image.jpg"))\n'
        "logits, end_points = model(images)\n```",
        f"On the command line: `inception-v3 predict hf:{repository} image.jpg`",
        *_results(model, stored, results),
        "## Origin",
        _origin(model, stored),
        *(["## Data", _data(stored["data"])] if "data" in stored else []),
        "## Licence",
        _licence(licence, stored),
        *(["## Training", _table(training)] if training else []),
        "## Settings",
        _table(dict(settings)),
        "## Images",
        "Resized, cropped from the centre, and scaled to (pixel / 255 - mean) / std:",
        _table(asdict(model.preprocessing)),
    ]
    if model.class_names:
        unlisted = len(model.class_names) - MAX_LISTED_CLASSES
        more = f" and {unlisted} more, which {MODEL_FILE} holds" if unlisted > 0 else ""
        parts += ["## Classes", ", ".join(map(_code, model.class_names[:MAX_LISTED_CLASSES])) + more]
    return "\n\n".join(parts) + "\n"


def _results(model: "InceptionV3", stored: dict[str, Any], given: dict[str, float] | None) -> list[str]:
    """The section with the given results, or those that the training has stored."""
    if given:
        return ["## Results", _table(given)]
    if "results" not in stored:
        older = _run_results(model)
        return ["## Results", "On images held out from its training:", _table(older)] if older else []
    measured = stored["results"]
    if measured is None:
        return ["## Results", "Not evaluated since the last step of the training."]
    section = [
        "## Results",
        f"On {measured['count']:,} images that were held out from the training:",
        _figures(measured),
    ]
    if folds := stored.get("folds"):
        images = f"{folds['count']:,} images, each held out once ({folds['folds']} folds)"
        section += [f"Cross-validation of the last layer on {images}:", _figures(folds)]
    return section


def _figures(measured: dict[str, Any]) -> str:
    """A table of the figures of `Metrics.summary` and the `count` of images."""
    rows = []
    for key, name in RATES.items():
        if key in measured:
            rates = measured[key] if isinstance(measured[key], list) else [measured[key]]
            rows.append(f"| {name} | {' to '.join(percent(rate, measured['count']) for rate in rates)} |")
    rows += [f"| {name} | {measured[key]:.4f} |" for key, name in ERRORS.items() if measured.get(key) is not None]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def _origin(model: "InceptionV3", stored: dict[str, Any]) -> str:
    if base := stored.get("base"):
        checksum = f"SHA-256 `{base['sha256']}`" if base["sha256"] else "its checksum is not known"
        return f"Trained from the weights {_code(base['name'])} ({checksum})."
    if "base" in stored:
        return "Trained from new weights, not from stored ones."
    return _code(model.origin.first) if model.origin else "Built from its options; no weights were loaded."


def _data(data: dict[str, Any]) -> str:
    name = _code(data["name"]) if data["name"] else "A data set whose name is not recorded"
    split = (
        "a fifth of each class, drawn at random, the same images at every call"
        if data["held_out_is_drawn"]
        else "a set of their own"
    )
    return (
        f"{name}: {data['training_images'] + data['held_out_images']:,} images of {data['classes']} classes; "
        f"{data['training_images']:,} to train on, {data['held_out_images']:,} held out ({split})."
    )


def _licence(licence: str, stored: dict[str, Any]) -> str:
    if licence != "unknown":
        return f"{_code(licence)}, as given by the publisher of this card."
    sources = [f"the weights {_code(stored['base']['name'])} that they started from"] if stored.get("base") else []
    if name := stored.get("data", {}).get("name"):
        sources.append(f"the data {_code(name)}")
    names = " and of ".join(sources) or "the data, and of the weights that they started from"
    return (
        f"Not known. The licence of these weights follows those of {names}, which are not recorded here. Look "
        "them up before you share the model, and write the result here and into `license` in the header."
    )


def _run_results(model: "InceptionV3") -> dict[str, Any]:
    """Return the run folder's metrics on the held-out images after the epoch that the model was saved in."""
    if model.origin is None:
        return {}
    with suppress(OSError, ValueError):
        for line in (model.origin.file.parent / "metrics.jsonl").read_text("utf-8").splitlines():
            epoch = parse_json(line, dict)
            if epoch.get("epoch") == model.origin.training.get("epochs"):
                return {name: value for name, value in epoch.items() if name.startswith("held_out")}
    return {}


def _table(values: dict[str, Any]) -> str:
    rows = (f"| {_code(key)} | {_code(value)} |" for key, value in values.items())
    return "\n".join(["| | |", "| --- | --- |", *rows])


def _code(value: object) -> str:
    """Format text from a file, which may contain anything, as inline code that fits on one line of a table."""
    text = value if isinstance(value, str) else json.dumps(value)
    return "`" + printable(" ".join(text.replace("`", "'").replace("|", "/").split())) + "`"
