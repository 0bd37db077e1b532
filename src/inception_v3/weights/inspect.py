"""Find out what a file with weights is: its kind, its networks, the facts it states, and whether it can be read.

The formats' own readers decide. Without PyTorch, only the names and shapes of tensors and the settings in a native
file are examined.
"""

import json
import re
import shlex
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import PREPROCESSINGS, Preprocessing
from inception_v3.network.settings import Settings
from inception_v3.support.files import checksum
from inception_v3.support.json_values import parse_json
from inception_v3.support.packages import install_command, missing_packages
from inception_v3.support.system_errors import check_readable, file_status, is_folder, read_error, why_missing
from inception_v3.weights import MODEL_FILE, SAVED_MODEL_FILE
from inception_v3.weights.formats.kinds import (
    GRAPH_MODEL,
    HDF5,
    INDEX,
    KERAS_ZIP,
    LAYERS_MODEL,
    PICKLE,
    SAVED_MODEL,
    Kind,
    identify,
)
from inception_v3.weights.formats.layer_names import state_name
from inception_v3.weights.formats.pickled import PickleError
from inception_v3.weights.formats.state_dict_search import (
    Candidate,
    Found,
    HasKey,
    StateDict,
    find_candidates,
    find_named,
    find_state_dicts,
    preferred,
)
from inception_v3.weights.formats.tensorflow_checkpoint import list_variables
from inception_v3.weights.formats.tensorflow_folder import find_checkpoint
from inception_v3.weights.formats.tf_slim_names import SlimNetwork, find_networks
from inception_v3.weights.formats.torch_file import Storage, StoredTensor, open_torch_file
from inception_v3.weights.formats.torchvision_names import base_shapes
from inception_v3.weights.inspection import FILE, Fact, HeadFacts, Inspection, LayerFacts, StateDictFacts
from inception_v3.weights.writers import find_writer, has_configuration, read_header

if TYPE_CHECKING:
    from inception_v3.weights.formats.weights import Weights
    from inception_v3.weights.published import WeightsSource

MAX_LISTED = 20  # state dicts and tensors
NATIVE = "native"
CONVENTIONS = {
    "tf-slim": "slim",
    "graphdef-slim": "slim",
    "keras": "keras",
    "saved-model": "keras",
    "object-checkpoint": "keras",
    "tensorflowjs": "keras",
    "timm": "timm",
    "torchvision": "torchvision",
}


def inspect_weights(name: str, state: str | None = None, weights_file: str | Path | None = None) -> Inspection:
    """Examine a run folder, a file, a folder of any format, or a published name. Nothing of a file is run.

    `weights_file` is a file to use instead of downloading a published name.

    A file that cannot be read gives an Inspection with the reason. Raises InputError: no such file, no permission, a
    failed download.
    """
    if missing_packages(("torch", "safetensors")):
        return _inspect_without_torch(name)
    from inception_v3.weights.published import WeightsSource
    from inception_v3.weights.read import find_file, find_named

    with ExitStack() as stack:
        published = find_named(name, weights_file)
        if published is not None:
            source = stack.enter_context(published.open(name, find_file(weights_file) if weights_file else None))
        else:
            _check_exists(Path(name))
            try:
                source = WeightsSource(find_file(name))
            except InputError as error:
                return replace(_begin(name, Path(name)), readable=False, refusal=_reason(error, name))
        inspection = _inspect_source(name, source, state)
    if inspection.command and weights_file is not None:
        command = f"{inspection.command} {shlex.join(('--weights-file', str(weights_file)))}"
        return replace(inspection, files=[str(weights_file)], command=command)
    return inspection


def _check_exists(path: Path) -> None:
    """Raise InputError if there is neither such a file nor a checkpoint of that name, or if it cannot be read."""
    if file_status(path) is None and file_status(f"{path}.index") is None:
        raise InputError(f"{path}: {why_missing(path, 'there is no such file; check the path')}")
    if file_status(path) is not None and not is_folder(path):
        check_readable(path)


def _inspect_source(name: str, source: "WeightsSource", state: str | None) -> Inspection:
    """Read a file with the reader of its format, and collect what it reports."""
    from inception_v3.weights.model import InceptionV3
    from inception_v3.weights.read import read_found

    file = source.file
    known = _begin(name, file)
    states, candidates = _search(file, known.kind)
    networks = candidates or _search_checkpoint(file, known.kind)
    if (known.writer or "").startswith("inception-v3"):  # its names are not those of other programs
        states, candidates = [], []
    weights = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            weights, origin = read_found(name, source, state=state)
            InceptionV3.from_weights(weights, origin)
            known = replace(known, readable=True)
        except InputError as error:
            if state is not None and error.exit_status == 2:  # no such key
                raise
            reason = _reason(error, file)
            if error.exit_status == 2:  # a package is missing
                known = replace(known, not_examined=reason)
            else:
                known = replace(known, readable=False, refusal=reason)
    notes = list(dict.fromkeys(str(each.message).removeprefix(f"{file}: ") for each in caught))
    facts = _state_dict_facts(states, candidates, state) or _checkpoint_facts(networks, state)
    known = replace(known, assumed=notes, state_dicts=facts)
    if weights is None:
        candidate = _read_candidate(candidates, state)
        return replace(
            known,
            layers=_candidate_layers(candidate) if candidate else None,
            damage=_candidate_damage(file, candidate) if candidate else [],
            command=_command(name, known, networks, state),
        )
    return _with_network(known, name, weights, origin.format, networks, state)


def _with_network(
    known: Inspection, name: str, weights: "Weights", format: str, candidates: Sequence[HasKey], state: str | None
) -> Inspection:
    """Add the facts about a network that was read."""
    from inception_v3.weights.damage import find_damage
    from inception_v3.weights.formats.weights import default_class_names

    settings = weights.settings
    conventional = default_class_names(settings.num_classes) if settings.num_classes in (1000, 1001) else None
    is_assumed = format != NATIVE and weights.class_names == conventional
    source = f"assumed: ImageNet's, because there are {settings.num_classes:,} outputs" if is_assumed else FILE
    source = weights.sources.get("class_names", source)
    known = replace(
        known,
        format=format,
        layers=_network_layers(weights),
        head=head_facts(settings, weights.undetermined),
        class_names=Fact(weights.class_names, source) if weights.class_names else None,
        preprocessing=_preprocessing_facts(Path(known.files[0]), format, weights, known),
        settings=dict(settings),
        training=weights.training,
        damage=find_damage(weights.tensors),
    )
    return replace(known, command=_command(name, known, candidates, state, weights.undetermined))


# ---------------------------------------------------------------------------------------------------- the file


def _begin(name: str, file: Path) -> Inspection:
    """The facts about a file that need no reader. Raises InputError: it cannot be read."""
    try:
        kind = identify(file)
        files = [file, *_companions(file, kind)] if not is_folder(file) else []
        files = [each for each in files if each.is_file()] or files
        is_checkpoint = kind.name.endswith("checkpoint, V2")
        return Inspection(
            path=name,
            files=[str(each) for each in files] or [str(file)],
            bytes=sum(each.stat().st_size for each in files),
            sha256=checksum(file) if files and (is_checkpoint or file.is_file()) else None,
            kind=kind.name,
            writer=find_writer(file, kind.name),
        )
    except OSError as error:
        raise read_error(file, error) from error


def _companions(file: Path, kind: Kind) -> list[Path]:
    """The other files of a model: shards, and the files of a TensorFlow checkpoint."""
    if kind.name.endswith("checkpoint, V2"):
        return sorted(file.parent.glob(f"{file.name}.*"))
    if kind.name == SAVED_MODEL:
        return [*file.parent.glob("keras_metadata.pb"), *sorted(file.parent.glob("variables/variables.*"))]
    names: list[Any] = []
    with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        if kind.name == INDEX:
            names = list(json.loads(file.read_text("utf-8"))["weight_map"].values())
        elif kind.name in (LAYERS_MODEL, GRAPH_MODEL):
            names = [path for group in json.loads(file.read_bytes())["weightsManifest"] for path in group["paths"]]
    return [file.parent / name for name in dict.fromkeys(names) if isinstance(name, str) and Path(name).name == name]


def _reason(error: InputError, file: str | Path) -> str:
    """The message of an error without the name of the file at its start, and without the command that is running."""
    from inception_v3.weights.read import hint

    return str(error).removeprefix(f"{file}: ").removesuffix(hint(Path(file)))


# ------------------------------------------------------------------------------------- the state dicts of a file


def _search(file: Path, kind: str) -> tuple[list[StateDict], list[Candidate]]:
    """The state dicts of a file of PyTorch and the networks among them; none in a file that cannot be read."""
    with suppress(InputError, PickleError, OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        states = _find_states(file, kind)
        return states, find_candidates(states, base_shapes())
    return [], []


def _find_states(file: Path, kind: str) -> list[StateDict]:
    if kind == "safetensors":
        return [StateDict((), _stored_tensors(read_header(file)))]
    if kind == INDEX:
        shards = [_find_states(shard, identify(shard).name)[:1] for shard in _companions(file, Kind(kind))]
        return [
            StateDict((), {name: each for states in shards for one in states for name, each in one.tensors.items()})
        ]
    if kind == PICKLE or "torch.save" in kind or "TorchScript" in kind:
        return find_state_dicts(open_torch_file(file).root)
    return []


def _stored_tensors(header: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """The tensors that the header of a safetensors file lists."""
    return {
        name: StoredTensor(Storage(name, "", 0, 0), str(entry.get("dtype")), tuple(entry.get("shape", ())), (), 0)
        for name, entry in header.items()
        if name != "__metadata__" and isinstance(entry, dict)
    }


def _search_checkpoint(file: Path, kind: str) -> list[SlimNetwork]:
    """The networks in a TensorFlow checkpoint."""
    with suppress(InputError):
        return find_networks(list_variables(file)) if "TensorFlow checkpoint" in kind else []
    return []


def _checkpoint_facts(networks: Sequence[HasKey], state: str | None) -> list[StateDictFacts]:
    """The networks of a checkpoint that has several."""
    read = _read_candidate(networks, state)
    return [
        StateDictFacts(each.key, len(each.variables), len(each.layers), each.is_average, each is read)
        for each in networks
        if isinstance(each, SlimNetwork) and len(networks) > 1
    ]


def _read_candidate(candidates: Sequence[Found], state: str | None) -> Found | None:
    """The network that is read, as `state_dict_search.choose` decides; None if there are several of equal rank."""
    ranked = preferred(find_named(candidates, state))
    return ranked[0] if len(ranked) == 1 else None


def _state_dict_facts(states: list[StateDict], candidates: list[Candidate], state: str | None) -> list[StateDictFacts]:
    """The networks of a file, or else its largest state dicts."""
    chosen = _read_candidate(candidates, state)
    largest = sorted(states, key=lambda each: -len(each.tensors))[:MAX_LISTED]
    return [
        StateDictFacts(
            each.key,
            len(each.tensors),
            _candidate_layers(each).matched,
            bool(candidates) and each.is_average,
            each is chosen,
            [f"{name} {'x'.join(map(str, tensor.shape))}" for name, tensor in [*each.tensors.items()][:3]],
        )
        for each in candidates or [Candidate(state, "", ("",)) for state in largest]
    ]


def _candidate_layers(candidate: Candidate) -> LayerFacts:
    """The convolutions of the base that a state dict has with all their tensors, in the right shapes."""
    tensors, shapes = candidate.tensors, base_shapes()
    layers: dict[str, bool] = {}
    for name, shape in shapes.items():
        layer = name.rsplit(".", 2)[0]
        layers[layer] = layers.get(layer, True) and name in tensors and tensors[name].shape == shape
    unused = [name for name in candidate.outside if not name.endswith("num_batches_tracked")]
    missing = [layer for layer, is_there in layers.items() if not is_there]
    return LayerFacts(len(layers), len(layers) - len(missing), missing, unused)


def _candidate_damage(file: Path, candidate: Candidate) -> list[str]:
    """The damaged tensors of a network that could not be read, as far as its tensors can be."""
    from inception_v3.weights.damage import find_damage
    from inception_v3.weights.formats.state_dict_file import open_file

    tensors = {}
    with suppress(InputError):
        opened = open_file(file, verify=False)
        states = find_state_dicts(opened.root)
        same = next(each for each in find_candidates(states, base_shapes()) if each.key == candidate.key)
        for name, stored in same.state.tensors.items():
            with suppress(InputError):
                tensors[name] = opened.read(name, stored)
    return find_damage(tensors)


# ------------------------------------------------------------------------------------------------- the network


def _network_layers(weights: "Weights") -> LayerFacts:
    """The layers with weights of a network that was read. Settings may describe layers that the file lacks."""
    settings = weights.settings
    names = [state_name(layer) for point in settings.end_points() for layer in point.layers if _has_weights(layer)]
    missing = [name for name in names if f"{name}.weights" not in weights.tensors]
    known = tuple(f"{name}." for name in names)
    unused = [name for name in weights.tensors if not name.startswith(known)]
    return LayerFacts(len(names), len(names) - len(missing), missing, unused)


def _has_weights(layer: Any) -> bool:
    return type(layer.table).__name__ in ("Conv", "Dense")


def head_facts(settings: Settings, undetermined: tuple[str, ...] = ()) -> HeadFacts:
    """The head of a network with these settings."""
    activations = settings.hidden_activation
    return HeadFacts(
        hidden_units=list(settings.hidden_units),
        hidden_activation=[activations] * len(settings.hidden_units)
        if isinstance(activations, str)
        else [*activations],
        hidden_batch_norm=settings.hidden_batch_norm,
        outputs=0 if settings.final_endpoint else settings.num_classes,
        activation=None
        if settings.final_endpoint or "output_activation" in undetermined
        else settings.output_activation,
        auxiliary=settings.create_aux_logits and not settings.final_endpoint,
        end_point=settings.final_endpoint,
    )


def _preprocessing_facts(file: Path, format: str, weights: "Weights", known: Inspection) -> dict[str, Fact]:
    """Each option of the preprocessing with its source. A value that is not the format's usual one is in the file."""
    if format == NATIVE or (known.writer or "").startswith("inception-v3"):
        return facts_of(weights.preprocessing)
    usual = PREPROCESSINGS.get(CONVENTIONS.get(format, ""), Preprocessing())  # type: ignore[call-overload]
    facts = {}
    for name, value in asdict(weights.preprocessing).items():
        source = FILE if value != getattr(usual, name) else f"assumed: as usual for {format}"
        if name in weights.sources:
            source = weights.sources[name]
        elif format == "graphdef-slim" or (
            format == "tf-slim" and (file.absolute().parent.parent / SAVED_MODEL_FILE).exists()
        ):
            source = _graph_source(name, source, known.assumed)
        elif CONVENTIONS.get(format) == "keras":
            # The readers report no assumption about Keras's own network.
            is_stated = has_configuration(file, known.kind) and (name == "image_size" or not weights.class_names)
            source = _keras_source(name, FILE if is_stated else source, known.assumed)
        facts[name] = Fact(value, source)
    return facts


def _graph_source(name: str, source: str, notes: list[str]) -> str:
    """The source of an option that the graph of TF-Slim's network may state."""
    is_unstated = any("does not scale images" in note for note in notes)
    return FILE if name in ("mean", "std") and not is_unstated else source


def _keras_source(name: str, source: str, notes: list[str]) -> str:
    """The source of an option: as given, unless the reader of the file reports that it is assumed."""
    from inception_v3.weights.formats.keras_network import NO_SIZE, UNSTATED

    starts = {"mean": UNSTATED, "std": UNSTATED, "image_size": NO_SIZE}
    note = next((note for note in notes if name in starts and note.startswith(starts[name])), None)
    if note and name != "image_size":
        return f"assumed: {_evidence(note)}"
    return source if name in starts and not note else "assumed: as usual for Keras"


def _evidence(note: str) -> str:
    """The reason for an assumed range, as a reader's warning gives it."""
    because = re.search(r"is assumed, (because [^;]*)", note)
    return because[1] if because else "as Keras's preprocess_input scales images"


def _command(
    name: str,
    known: Inspection,
    candidates: Sequence[HasKey],
    state: str | None,
    undetermined: tuple[str, ...] = (),
) -> str | None:
    """The command that converts the file into the native format; None if it cannot be read, or is native."""
    chosen = _read_candidate(candidates, state)
    if known.format == NATIVE or (not known.readable and not undetermined and (chosen or len(candidates) < 2)):
        return None
    words = ["inception-v3", "convert", name, str(_destination(name))]
    if len(candidates) > 1:
        words += ["--state", (chosen or candidates[0]).key]
    if "output_activation" in undetermined:
        words += ["--output", "sigmoid"]
    return shlex.join(words)


def _destination(name: str) -> Path:
    """A file in the current folder that does not exist yet, to convert a model to."""
    stem = re.sub(r"\W+", "-", name.rpartition(":")[2]) if ":" in name else Path(name).absolute().name
    stem = stem.split(".")[0] or "model"
    names = (f"{stem}{ending}.safetensors" for ending in ("", "-native", *(f"-native-{n}" for n in range(2, 1000))))
    return next(path for path in map(Path, names) if file_status(path) is None)


# -------------------------------------------------------------------------------------------------- without torch


def _inspect_without_torch(name: str) -> Inspection:
    """Examine what needs no PyTorch: names and shapes of tensors, and the settings in a native file."""
    path = Path(name)
    path = next((path / file for file in (MODEL_FILE, "model.json") if file_status(path / file) is not None), path)
    path = find_checkpoint(path) or path
    path = path / SAVED_MODEL_FILE if file_status(path / SAVED_MODEL_FILE) is not None else path
    _check_exists(path)
    known = _begin(name, path)
    if refusal := identify(path).refusal:
        return replace(known, readable=False, refusal=refusal)
    part = "the layers, the head and the values of its tensors"
    metadata: dict[str, Any] = {}
    with suppress(ValueError, OSError):
        metadata = read_header(path).get("__metadata__", {}) if known.kind == "safetensors" else {}
    if metadata.get("format") == "inception_v3":
        known, part = _with_metadata(known, metadata), "the values of its tensors"
    states, candidates = _search(path, known.kind)
    if metadata.get("format") != "inception_v3":
        known = replace(known, state_dicts=_state_dict_facts(states, candidates, None))
    needs, extra = ("PyTorch and h5py", "keras") if known.kind in (KERAS_ZIP, HDF5) else ("PyTorch", "torch")
    return replace(known, not_examined=f"{part} were not examined, which needs {needs}: {install_command(extra)}")


def _with_metadata(known: Inspection, metadata: Mapping[str, str]) -> Inspection:
    """The facts in the metadata of a native file."""
    try:
        settings = parse_json(metadata["settings"], Settings)
        preprocessing = parse_json(metadata["preprocessing"], Preprocessing)
        names = parse_json(metadata["class_names"], list[str] | None)
        training = parse_json(metadata.get("training", "{}"), dict)
    except (KeyError, TypeError, ValueError) as error:
        return replace(known, readable=False, refusal=f"its settings cannot be read ({error}); the file is damaged")
    return replace(
        known,
        format=NATIVE,
        head=head_facts(settings),
        class_names=Fact(names, FILE) if names else None,
        preprocessing=facts_of(preprocessing),
        settings=dict(settings),
        training=training,
    )


def facts_of(preprocessing: Preprocessing) -> dict[str, Fact]:
    """The options of a preprocessing that the file states."""
    return {name: Fact(value, FILE) for name, value in asdict(preprocessing).items()}
