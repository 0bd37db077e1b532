"""The classifier that people put in place of `fc`: linear layers with activations, BatchNorm and Dropout between them.

A whole pickled model names its modules. A state dict only has those with tensors: the index in a Sequential shows
whether a module without tensors stands between two others, but not which, so that a ReLU is assumed there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inception_v3.weights.formats.pickled import Instance
from inception_v3.weights.formats.state_dict_search import named_modules, own_tensors, submodules
from inception_v3.weights.formats.torch_file import StoredTensor

FEATURES = 2048
COUNTER = "num_batches_tracked"  # of BatchNorm; PyTorch uses it only without a momentum, and all of these have one
BATCH_NORM_EPSILON = 1e-5  # PyTorch's default
UNKNOWN = "?"  # one or several modules without tensors, of a state dict

# PyTorch's classes without tensors that a head may have: activations by our names, outputs, and those without effect.
ACTIVATIONS = {
    "ReLU": "relu",
    "ReLU6": "relu6",
    "ELU": "elu",
    "SELU": "selu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Softplus": "softplus",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
}
DEFAULTS = {"alpha": 1.0, "beta": 1, "threshold": 20, "approximate": "none"}  # of these activations
OUTPUTS = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
NO_EFFECT = ("Dropout", "Dropout1d", "Dropout2d", "AlphaDropout", "FeatureAlphaDropout", "Identity", "Flatten")
POOLS = ("AdaptiveAvgPool2d", "SelectAdaptivePool2d")
TWO_POOLS = ", but those of AdaptiveConcatPool2d (fastai) or catavgmax (timm), which pool twice"
SEQUENCES = ("Sequential", "MLP")


class HeadError(ValueError):
    """A head that the network cannot have. The message is the end of a sentence that starts with the file."""


@dataclass(frozen=True, eq=False)
class Module:
    """A module of a head. `kind` is the name of its class, UNKNOWN, or "" if only its tensors are known."""

    name: str
    kind: str
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items() if name != COUNTER}

    @property
    def is_linear(self) -> bool:
        """A linear layer, or a 1x1 convolution of the pooled features."""
        shape = self.shapes.get("weight", ())
        return self.shapes.keys() <= {"weight", "bias"} and len(shape) in (2, 4) and shape[2:] in ((), (1, 1))

    @property
    def is_batch_norm(self) -> bool:
        is_known = self.kind in ("", "BatchNorm1d", "BatchNorm2d", "SyncBatchNorm")
        statistics = {"running_mean", "running_var"}
        return is_known and statistics <= self.shapes.keys() <= statistics | {"weight", "bias"}

    @property
    def inputs(self) -> int:
        return self.shapes["weight"][1]

    def number(self, name: str, default: float) -> float:
        """An option of a module that lies between 0 and 1, such as `eps`. Raises HeadError: another value."""
        value = self.options.get(name, default)
        if not isinstance(value, int | float) or not 0 <= value < 1:
            raise HeadError(f"has {self.name} whose {name} is not a number from 0 to 1")
        return float(value)


@dataclass
class Linear:
    """A linear layer, with the BatchNorm and the activation between it and the next one."""

    weight: Tensor  # (out, in)
    bias: Tensor
    activation: str = "linear"
    norm: "Norm | None" = None
    norm_first: bool = True


@dataclass
class Norm:
    """BatchNorm1d in evaluation: `gamma`, `beta`, `mean` and `variance` of shape (C,)."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    variance: Tensor
    epsilon: float

    def scale_and_offset(self) -> tuple[Tensor, Tensor]:
        """The factors and the summands, in float64, as which it acts."""
        scale = self.gamma.double() / (self.variance.double() + self.epsilon).sqrt()
        return scale, self.beta.double() - self.mean.double() * scale


@dataclass
class Head:
    """The layers of a head. `output` is None if the file does not determine what follows the logits.

    `assumed` names each fact that the file does not hold, and its assumed value. `folded` is whether the BatchNorms of
    the hidden layers were folded.
    """

    layers: list[Linear] = field(default_factory=list)
    output: str | None = None
    dropout: list[float] = field(default_factory=list)  # probabilities, before the first layer
    hidden_dropout: list[float] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    folded: bool = False


# -------------------------------------------------------------------------------------- the modules of a head


def modules_of_state_dict(tensors: Mapping[str, StoredTensor]) -> list[Module]:
    """Group tensors by module, in the order of the file, with an UNKNOWN module wherever there may have been one.

    Modules of a Sequential are in the order of their numbers, since safetensors sorts by name.
    """
    groups: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in sorted(tensors.items(), key=_numbers_in_order([*tensors])):
        parent, _, own = name.rpartition(".")
        groups.setdefault(parent, {})[own] = tensor
    modules: list[Module] = []
    for name, tensors_below in groups.items():
        if modules and _may_have_between(modules[-1].name, name):
            modules.append(Module(name, UNKNOWN))
        modules.append(Module(name, "", tensors_below))
    return modules


def _numbers_in_order(names: list[str]) -> Callable[[tuple[str, Any]], list[tuple[int, int]]]:
    """A key that sorts numbers in names by value, and leaves all else in the order of these names."""
    order: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            order.setdefault(".".join(parts[:end]), len(order))

    def key(item: tuple[str, Any]) -> list[tuple[int, int]]:
        parts = item[0].split(".")
        scopes = [".".join(parts[: end + 1]) for end in range(len(parts))]
        return [
            (0, int(part)) if part.isdecimal() and len(part) < 6 else (1, order[scope])
            for part, scope in zip(parts, scopes, strict=True)
        ]

    return key


def _may_have_between(before: str, after: str) -> bool:
    """Whether a module may stand between two: not between 0 and 1 of a Sequential."""
    (scope, _, first), (other, _, second) = before.rpartition("."), after.rpartition(".")
    return not (scope == other and first.isdigit() and second.isdigit() and int(second) - int(first) == 1)


def modules_of_model(module: Instance, name: str) -> list[Module]:
    """The modules of a pickled head in the order of its attributes; an UNKNOWN one where its own code decides."""
    kind = simple_name(module)
    if kind in SEQUENCES:
        return [
            each for own, child in submodules(module).items() for each in modules_of_model(child, join_names(name, own))
        ]
    below = submodules(module)
    if not below or _is_of_torch(module):
        return [Module(name, kind, own_tensors(module), module.attributes)]
    modules: list[Module] = []
    if not any(own_tensors(each) for _, each in named_modules(module)):
        return [Module(name, kind)]  # its own code may do anything, such as pooling by the maximum
    for own, child in below.items():
        if any(own_tensors(each) for _, each in named_modules(child)):
            modules += [*([Module(name, UNKNOWN)] if modules else []), *modules_of_model(child, join_names(name, own))]
    return modules


def simple_name(module: Instance) -> str:
    """The name of a module's class without its package."""
    return module.class_name.rpartition(".")[2]


def _is_of_torch(module: Instance) -> bool:
    return module.class_name.removeprefix("__torch__.").startswith("torch.nn.modules.")


def join_names(scope: str, name: str) -> str:
    """The name of a module below a scope, which may be empty."""
    return f"{scope}.{name}" if scope else name


# ---------------------------------------------------------------------------------------------------- reading


def read_head(modules: list[Module], read: Callable[[StoredTensor], Tensor]) -> Head:
    """The layers of a head of these modules. `read` returns a tensor of the file, in float32 or float64.

    Raises HeadError: a module that this network cannot have, or layers that do not fit each other.
    """
    head = Head()
    norms_without_epsilon = [module.name for module in modules if module.is_batch_norm and "eps" not in module.options]
    if norms_without_epsilon:
        head.assumed.append(f"the epsilon of {norms_without_epsilon[0]}: {BATCH_NORM_EPSILON:g} is assumed")
    before, *blocks = _blocks(modules)
    norms = _read_before(head, before, read)
    for number, (linear, *after) in enumerate(blocks, 1):
        layer = _read_linear(linear, head.layers[-1].weight.shape[0] if head.layers else FEATURES, read)
        head.layers.append(layer)
        if number < len(blocks):
            _read_between(head, layer, after, read)
        else:
            _read_after(head, layer, after, read)
    for norm in reversed(norms):
        _fold_into(norm, head.layers[0])
    _unify_norms(head)
    return head


def _blocks(modules: list[Module]) -> Iterator[list[Module]]:
    """Split the modules before each linear layer. The first block has none."""
    block: list[Module] = []
    for module in modules:
        if module.is_linear and module.kind in ("", "Linear", "Conv2d", "NonDynamicallyQuantizableLinear"):
            yield block
            block = []
        block.append(module)
    yield block


def _read_before(head: Head, modules: list[Module], read: Callable[[StoredTensor], Tensor]) -> list[Norm]:
    """The BatchNorms between the pooled features, which are at least 0, and the first linear layer."""
    norms: list[Norm] = []
    for module in modules:
        if module.kind.endswith("Dropout"):
            head.dropout.append(module.number("p", 0.5))
        elif module.is_batch_norm:
            norms.append(_read_norm(module, FEATURES, read))
        elif module.kind == UNKNOWN and norms:
            head.assumed.append(f"the module before {module.name}: Dropout is assumed")
        elif module.kind not in (*NO_EFFECT, *POOLS, UNKNOWN, *([] if norms else ["ReLU"])) or not _is_average(module):
            raise HeadError(_unknown(module))
    return norms


def _read_linear(module: Module, inputs: int, read: Callable[[StoredTensor], Tensor]) -> Linear:
    if module.inputs != inputs:
        above = "features" if inputs == FEATURES else "outputs of the layer before it"
        if (module.inputs, inputs) == (2 * FEATURES, FEATURES):
            above += TWO_POOLS
        raise HeadError(
            f"has {module.name}.weight with {module.inputs} inputs, which does not fit the {inputs} {above}"
        )
    outputs = module.shapes["weight"][0]
    if outputs == 0 or module.shapes.get("bias", (outputs,)) != (outputs,):
        raise HeadError(f"has {module.name}.bias of shape {module.shapes.get('bias')} for {outputs} outputs")
    weight = read(module.tensors["weight"]).flatten(1)
    return Linear(weight, read(module.tensors["bias"]) if "bias" in module.tensors else weight.new_zeros(outputs))


def _read_norm(module: Module, channels: int, read: Callable[[StoredTensor], Tensor]) -> Norm:
    if {*module.shapes.values()} != {(channels,)}:
        shape = module.shapes["running_mean"]
        why = TWO_POOLS if shape == (2 * FEATURES,) and channels == FEATURES else ""
        raise HeadError(f"has {module.name}.running_mean of shape {shape}, which does not fit {channels} features{why}")
    values = {name: read(module.tensors[name]) for name in module.shapes}
    mean = values["running_mean"]
    epsilon = module.number("eps", BATCH_NORM_EPSILON)
    gamma, beta = values.get("weight", torch.ones_like(mean)), values.get("bias", torch.zeros_like(mean))
    return Norm(gamma, beta, mean, values["running_var"], epsilon)


def _read_between(head: Head, layer: Linear, modules: list[Module], read: Callable[[StoredTensor], Tensor]) -> None:
    """Read the activation, BatchNorm and Dropout between two linear layers."""
    activations = [index for index, module in enumerate(modules) if module.kind in ACTIVATIONS]
    norms = [index for index, module in enumerate(modules) if module.is_batch_norm]
    unknown = [index for index, module in enumerate(modules) if module.kind == UNKNOWN]
    for module in modules:
        if not (module.kind in (*ACTIVATIONS, *NO_EFFECT, UNKNOWN) or module.is_batch_norm) or not _is_default(module):
            raise HeadError(_unknown(module))
        if module.kind.endswith("Dropout"):
            head.hidden_dropout.append(module.number("p", 0.5))
    if len(activations) > 1 or len(norms) > 1:
        raise HeadError(f"has two activations or two BatchNorms behind {modules[0].name}, which cannot be combined")
    if activations:
        layer.activation = ACTIVATIONS[modules[activations[0]].kind]
    elif unknown:
        activations, layer.activation = unknown[:1], "relu"
    if norms:
        layer.norm = _read_norm(modules[norms[0]], len(layer.bias), read)
        layer.norm_first = not activations or norms[0] < activations[0]
    if unknown and activations == unknown[:1]:
        order = f", {'after' if layer.norm_first else 'before'} its BatchNorm" if norms else ""
        head.assumed.append(f"{_before(modules, unknown[0])}: ReLU is assumed{order}")


def _before(modules: list[Module], index: int) -> str:
    return f"the activation before {modules[index].name}"


def _read_after(head: Head, layer: Linear, modules: list[Module], read: Callable[[StoredTensor], Tensor]) -> None:
    """Read the modules after the last linear layer."""
    for module in modules:
        if module.is_batch_norm and head.output is None:
            _fold(layer, _read_norm(module, len(layer.bias), read))
        elif module.kind in OUTPUTS and head.output is None and module.options.get("dim", 1) in (1, -1, None):
            head.output = OUTPUTS[module.kind]
        elif module.kind not in NO_EFFECT and module.kind != UNKNOWN:
            raise HeadError(_unknown(module))


def _is_average(module: Module) -> bool:
    """Whether a module is no pool, or one by the average."""
    return module.options.get("pool_type", "avg") in ("avg", "fast", "fastavg")


def _is_default(module: Module) -> bool:
    """Whether an activation has the options of the function of torch.nn.functional without arguments."""
    return all(module.options.get(name, value) == value for name, value in DEFAULTS.items())


def _unknown(module: Module) -> str:
    if module.kind:
        return f"has {module.name} of the class {module.kind} in its head, which cannot be computed here"
    return f"has the unknown {module.name}.{next(iter(module.tensors))}"


# ---------------------------------------------------------------------------------------------------- folding


def _fold(layer: Linear, norm: Norm) -> None:
    """Fold a BatchNorm of a layer's outputs into the layer, which is exact in evaluation."""
    scale, offset = norm.scale_and_offset()
    layer.bias = (layer.bias.double() * scale + offset).to(layer.bias.dtype)
    layer.weight = (layer.weight.double() * scale[:, None]).to(layer.weight.dtype)


def _fold_into(norm: Norm, layer: Linear) -> None:
    """Fold a BatchNorm of a layer's inputs into the layer, which is exact in evaluation."""
    scale, offset = norm.scale_and_offset()
    layer.bias = (layer.bias.double() + layer.weight.double() @ offset).to(layer.bias.dtype)
    layer.weight = (layer.weight.double() * scale).to(layer.weight.dtype)


def _unify_norms(head: Head) -> None:
    """Fold the BatchNorms of hidden layers if they are not alike in all of them, as the network's must be."""
    hidden = head.layers[:-1]
    if len({(layer.norm is None, layer.norm_first, layer.norm and layer.norm.epsilon) for layer in hidden}) <= 1:
        return
    for layer, following in zip(hidden, head.layers[1:], strict=True):
        if layer.norm and layer.norm_first:
            _fold(layer, layer.norm)
        elif layer.norm:
            _fold_into(layer.norm, following)
        layer.norm, layer.norm_first = None, True
    head.folded = True
