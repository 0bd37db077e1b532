"""The facts about a model's file that `inception-v3 inspect` shows, as plain data."""

from dataclasses import dataclass, field
from typing import Any

FILE = "file"  # the source of a fact that the file states


@dataclass(frozen=True)
class Fact:
    """A value and where it comes from: FILE, a file beside it, a convention of the format, or an assumption."""

    value: Any
    source: str


@dataclass(frozen=True)
class StateDictFacts:
    """A mapping of names to tensors in a file of PyTorch, or a network in it.

    Attributes:
        key: what --state takes; "" is the whole file.
        tensors: the number of its tensors.
        layers: how many of the network's convolutions it has, with all their tensors in the right shapes.
        is_average: whether it is a moving average of the weights.
        is_read: whether the commands read it unless --state chooses another.
        first: the names and shapes of its first tensors.
    """

    key: str
    tensors: int
    layers: int
    is_average: bool = False
    is_read: bool = False
    first: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LayerFacts:
    """The layers of the network that the file has (`matched` of `total`), and the names of the others.

    `unused` are tensors of the file that belong to no layer of the network.
    """

    total: int
    matched: int
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class HeadFacts:
    """The layers after the pooled features. `outputs` is 0, and `activation` None, without a classifier.

    `end_point` is the last layer of a network without a classifier. `auxiliary` is whether the auxiliary head is there.
    """

    hidden_units: list[int]
    hidden_activation: list[str]
    hidden_batch_norm: str | None
    outputs: int
    activation: str | None
    auxiliary: bool
    end_point: str | None = None


@dataclass(frozen=True)
class ExportFacts:
    """An exported network: its file, format and precision, the comparison with the model, and what is wrong with it.

    `any_size` is whether it takes images of any size; `outputs` are the end points that it returns.
    """

    file: str
    format: str
    precision: str
    outputs: list[str]
    any_size: bool
    check: str | None
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Inspection:
    """What a file is, and what the commands make of it.

    Attributes:
        path: as it was given.
        files: the files that belong to the model.
        bytes: the size of all of them.
        sha256: of the file; for a TensorFlow checkpoint, of its files in order of name. None for another folder.
        kind: the kind of file, by its content.
        writer: the program that wrote it, with its version, as far as the file states them.
        readable: whether the other commands read it. None if a package that decides this is missing.
        refusal: why they do not, with the remedy.
        not_examined: the parts that a missing package kept from being examined, and the command that installs it.
        format: the format as which it is read (`--to`, `load(format=...)`).
        state_dicts: the networks, or else the state dicts, in a file of PyTorch.
        layers, head, class_names, preprocessing, settings: the network; None where unknown.
        training: what the file records about its training.
        assumed: what the file does not state, or what of it is left out: the warnings when it is read.
        damage: tensors with values that no trained network has.
        exports: exported networks: the file itself, or those of a run folder.
        command: the command that converts it into this project's own format; None if that is not possible or needed.
    """

    path: str
    files: list[str]
    bytes: int
    sha256: str | None
    kind: str
    writer: str | None = None
    readable: bool | None = None
    refusal: str | None = None
    not_examined: str | None = None
    format: str | None = None
    state_dicts: list[StateDictFacts] = field(default_factory=list)
    layers: LayerFacts | None = None
    head: HeadFacts | None = None
    class_names: Fact | None = None
    preprocessing: dict[str, Fact] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    exports: list[ExportFacts] = field(default_factory=list)
    command: str | None = None
