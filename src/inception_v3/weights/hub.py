"""Hub conventions for InceptionV3: from_pretrained, save_pretrained, push_to_hub, and the model card they write.

A saved folder holds model.safetensors in the native format, from which all is read back; config.json, the same
settings for people, by which the hub also counts downloads; and README.md, the card.
"""

import json
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import ModelCard, ModelCardData, PyTorchModelHubMixin

from inception_v3.support.files import write_error, atomic_write
from inception_v3.weights import published
from inception_v3.weights.formats import native
from inception_v3.weights.read import read_source, read_weights

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

WEIGHTS, CONFIG = "model.safetensors", "config.json"
TAGS = ["inception-v3", "pytorch", "arxiv:1512.00567"]
LISTED = 100  # classes, in the card
METRICS = "metrics.jsonl"  # of a run folder


class HubMixin(PyTorchModelHubMixin, library_name="inception-v3", pipeline_tag="image-classification", tags=TAGS):
    """What InceptionV3 takes from huggingface_hub, with the native format in place of the mixin's own."""

    # Not None, so that the mixin does not keep the arguments of each model in it: `settings` does, and config.json.
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
        """`inception_v3.load` with the hub's habits: `owner/name` is a repository, unless there is such a folder.

        Folders and files of any format, `hf:owner/name@revision` and the published names are taken too.
        `model_kwargs` are options of InceptionV3, and `strict=False` is `partial=True`, as in `load`. The model is in
        inference mode.

        Raises InputError, as `load`.
        """
        name = str(pretrained_model_name_or_path)
        found = None if Path(name).exists() else published.find(name) or published.repository(name)
        if isinstance(found, published.Hub):
            hub_options = {
                "token": token,
                "cache_dir": cache_dir,
                "force_download": force_download,
                "local_files_only": local_files_only,
            }
            found = replace(found, revision=revision or found.revision, options=hub_options)
            name = name if ":" in name else f"hf:{name}"
            with found.opened(name, None) as source:
                weights, origin = read_source(name, source)
        else:
            weights, origin = read_weights(name)
        model_class = cast("type[InceptionV3]", cls)
        return model_class.from_weights(weights, origin, partial=not strict, **model_kwargs).to(map_location)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write model.safetensors, config.json and, unless there is one, a model card to a folder.

        `options` are those of huggingface_hub: push_to_hub, repo_id, model_card_kwargs and others.
        Raises InputError: a place that cannot be written, a full disk.
        """
        try:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(Path(save_directory), error) from error
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        model = cast("InceptionV3", self)
        native.write(model, save_directory / WEIGHTS)
        told = {**model.settings, "preprocessing": asdict(model.preprocessing), "class_names": model.class_names}
        with atomic_write(save_directory / CONFIG) as temporary:
            temporary.write_text(json.dumps(told, indent=2) + "\n", "utf-8")

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Save, create the repository `repo_id` where there is none, and upload; returns the address of the commit.

        `options` are those of huggingface_hub: private, commit_message, token, branch and others.
        """
        card = {"repository": repo_id} | (options.pop("model_card_kwargs", None) or {})
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    def generate_model_card(
        self, repository: str = "OWNER/NAME", results: dict[str, float] | None = None, **metadata: Any
    ) -> ModelCard:
        """The card: how to use the model, its settings, pictures, classes, origin, and results where they are known.

        `results` are figures measured by the caller; without them those of the run folder that the model comes from
        are told. `metadata` goes into the card's header, such as license="apache-2.0" or datasets=[...].
        """
        known: dict[str, Any] = self._hub_mixin_info.model_card_data.to_dict()  # type: ignore[no-untyped-call]
        data = ModelCardData(**known | metadata)
        text = _card(cast("InceptionV3", self), repository, results)
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _card(model: "InceptionV3", repository: str, results: dict[str, float] | None) -> str:
    settings, pictures, origin = model.settings, asdict(model.preprocessing), model.origin
    ends = (
        f"the layer {settings['final_endpoint']}" if settings.final_endpoint else f"{settings['num_classes']} classes"
    )
    training = {key: value for key, value in origin.training.items() if key != "origin"} if origin else {}
    parts = [
        "# Inception V3",
        f"The network of [Rethinking the Inception Architecture](https://arxiv.org/abs/1512.00567), up to {ends}; "
        f"{sum(one.numel() for one in model.parameters()):,} parameters.",
        "## Use",
        "```python\nimport inception_v3\n\n"
        f'model = inception_v3.load("hf:{repository}")\n'
        'images = model.preprocess(inception_v3.open_image("picture.jpg"))\n'
        "logits, end_points = model(images)\n```",
        f"On the command line: `inception-v3 predict hf:{repository} picture.jpg`",
        "## Origin",
        _code(origin.first) if origin else "Built from its options; nothing was loaded.",
        *(["## Training", _table(training)] if training else []),
        *_results(model, results),
        "## Settings",
        _table(dict(settings)),
        "## Pictures",
        "Resized, cut from the centre, and scaled to (pixel / 255 - mean) / std:",
        _table(pictures),
    ]
    if model.class_names:
        more = f" and {len(model.class_names) - LISTED} more, in config.json" * (len(model.class_names) > LISTED)
        parts += ["## Classes", ", ".join(map(_code, model.class_names[:LISTED])) + more]
    return "\n\n".join(parts) + "\n"


def _results(model: "InceptionV3", results: dict[str, float] | None) -> list[str]:
    if results:
        return ["## Results", _table(results)]
    measured = _of_run(model)
    return ["## Results", "On pictures held out from its training:", _table(measured)] if measured else []


def _of_run(model: "InceptionV3") -> dict[str, Any]:
    """What the run folder says of the held-out pictures after the epoch that the model is of."""
    if model.origin is None:
        return {}
    with suppress(OSError, ValueError, TypeError, AttributeError):
        for line in (model.origin.file.parent / METRICS).read_text("utf-8").splitlines():
            epoch = json.loads(line)
            if epoch.get("epoch") == model.origin.training.get("epochs"):
                return {name: value for name, value in epoch.items() if name.startswith("held_out")}
    return {}


def _table(values: dict[str, Any]) -> str:
    return "\n".join(
        ["| | |", "| --- | --- |", *(f"| {_code(key)} | {_code(value)} |" for key, value in values.items())]
    )


def _code(value: object) -> str:
    """Text from files, which may hold anything, as inline code on one line of a table."""
    text = value if isinstance(value, str) else json.dumps(value)
    return "`" + " ".join(text.replace("`", "'").replace("|", "/").split()) + "`"
