"""Read an Inception V3 under torchvision's names from any file of PyTorch, with the head that it has.

The base must have exactly the published layers. `fc` may be another linear layer, a Sequential with hidden layers, or
missing, and it may stand outside the network, in a module that wraps it.
"""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.network.settings import GRAPH_2015, Settings
from inception_v3.support.text import printable
from inception_v3.weights.formats.pickled import Instance, PickleError
from inception_v3.weights.formats.state_dict_file import StateDictFile, is_pickled, open_file, unreadable
from inception_v3.weights.formats.state_dict_search import (
    WRAPPERS,
    Candidate,
    StateDict,
    choose,
    find_candidates,
    find_state_dicts,
    named_modules,
    own_tensors,
    submodules,
)
from inception_v3.weights.formats.torch_file import StoredTensor
from inception_v3.weights.formats.torch_heads import (
    COUNTER,
    FEATURES,
    POOLS,
    SEQUENCES,
    UNKNOWN,
    Head,
    HeadError,
    Linear,
    Module,
    join_names,
    modules_of_model,
    modules_of_state_dict,
    read_head,
    simple_name,
)
from inception_v3.weights.formats.torch_scaling import Scaling, find_front
from inception_v3.weights.formats.torchvision_names import base_shapes, named_tensors
from inception_v3.weights.formats.weights import BATCH_NORM, all_finite, convolutions, state_name

AUX = "AuxLogits."
PARTS = (".weight", ".bias", ".running_mean", ".running_var")

# Names of tensors that belong to a training and not to a network.
NOT_LAYERS = re.compile(r"(^|[._])(n_averaged$|loss|criterion|metrics?|accuracy|f1|auroc|confmat|(train|val|test)_)")

# The classes of which the way to run is known.
KNOWN_CLASSES = re.compile(r"^(__torch__\.)?(torchvision\.models|timm\.models|pytorch_fid|torch\.nn\.modules)\.")

# The classes of the modules inside the base of a whole model that compute as torchvision's network does.
LAYER_CLASSES = {
    "conv": re.compile("Conv2d"),
    "bn": re.compile("SyncBatchNorm(Act)?|(Frozen)?BatchNorm(Act)?2d"),
    "act": re.compile("ReLU|Identity"),
}
BLOCK_CLASSES = re.compile(
    "(Quantizable)?(BasicConv2d|Inception[A-E])|Conv(Norm|Bn)Act|Module|Identity|ReLU|Dropout|(Max|Avg)Pool2d"
    "|FloatFunctional"
)
CLASSES_OF_2015 = re.compile(r"FIDInception[ACE](_\d)?")
POOL_OPTIONS = {"kernel_size": 3, "stride": 2, "padding": 0, "dilation": 1, "ceil_mode": False}
MAX_POOLS = ("maxpool1", "maxpool2", "Pool1", "Pool2", "MaxPool_3a_3x3", "MaxPool_5a_3x3")

# Weights that are computed from several tensors, by the names of those: what did it, and how to undo it.
REWRITTEN = (
    (re.compile(r"\.weight_mask$"), "pruned", "call torch.nn.utils.prune.remove(module, 'weight') on each such layer"),
    (
        re.compile(r"\.weight_[gv]$"),
        "split by weight_norm",
        "call torch.nn.utils.remove_weight_norm on each such layer",
    ),
    (re.compile(r"\.weight_u$"), "under spectral_norm", "call torch.nn.utils.remove_spectral_norm on each such layer"),
    (
        re.compile(r"(^|\.)parametrizations\."),
        "parametrised (weight_norm, spectral_norm ...)",
        "call torch.nn.utils.parametrize.remove_parametrizations(module, 'weight') on each such layer",
    ),
    (re.compile(r"\.(lora_[A-Za-z]|base_layer\.)"), "adapted by LoRA (PEFT)", "call model.merge_and_unload()"),
    (
        re.compile(r"(^|\.)(_packed_params|zero_point|fake_quant)"),
        "quantised",
        "save the network as it was before quantisation",
    ),
)

# Networks that are taken for an Inception V3, by a part of a name that only they have.
OTHER_NETWORKS = {
    "blocks.3.2.branch_pool.": "the blocks of pytorch-fid's InceptionV3, a network of its own: give its weights file",
    "15.conv0.conv.weight": "nn.Sequential(*model.children()) of one with its auxiliary head in the chain",
    "Conv2d_1a_3x3.conv.0.weight": "one whose BatchNorms were fused into its convolutions",
    "Conv2d_1a_3x3.conv.bias": "one whose BatchNorms were fused into its convolutions",
    "_packed_params": "a quantised network",
    "quant.zero_point": "a quantised network",
    "inception_3a_1x1.": "BN-Inception (Inception V2)",
    "inception3a.": "GoogLeNet (Inception V1)",
    "features.3.conv.conv.weight": "Inception V4",
    "features.3.conv.bn.weight": "Inception V4",
    "mixed_5b.branch0.": "Inception-ResNet V2",
    "conv2d_1a.conv.weight": "Inception-ResNet V2",
    "repeat_1.0.branch0.": "Inception-ResNet V1 (FaceNet)",
    "layer1.0.conv1.weight": "ResNet",
    "denseblock1.": "DenseNet",
    "block1.rep.": "Xception",
    "squeeze.weight": "SqueezeNet",
    "token_mixer.dwconv_": "InceptionNeXt",
    "attn.qkv.": "a vision transformer",
    "self_attention.in_proj_weight": "a vision transformer",
    "attn.relative_position_bias": "Swin",
    "features.1.0.block.0.weight": "ConvNeXt",
    "conv_dwconv.": "ConvNeXt",
    "conv_dw.weight": "ConvNeXt or another network of depthwise convolutions",
    "features.1.conv.0.0.weight": "MobileNet V2",
    "features.1.0.block.0.0.weight": "EfficientNet or MobileNet V3",
    "features.28.weight": "VGG",
    "features.16.weight": "VGG",
    "features.10.weight": "AlexNet",
}


@dataclass
class TorchNetwork:
    """What a file holds: tensors under our names, settings, and facts about a whole model (see torchvision.py).

    `undetermined` has the names of options of InceptionV3 that the file does not determine. `scaling` is that of the
    images by what stands in front of the network.
    """

    tensors: dict[str, Tensor]
    settings: Settings
    undetermined: tuple[str, ...] = ()
    transform_input: bool | None = None
    scaling: Scaling | None = None


# -------------------------------------------------------------------------------------------------- recognising


def find_networks(path: Path, verify: bool = False) -> tuple[StateDictFile, list[StateDict], list[Candidate]]:
    """Open a file; return all state dicts in it, and the networks among them. Raises InputError."""
    file = open_file(path, verify)
    try:
        states = find_state_dicts(file.root)
    except PickleError as error:
        raise unreadable(path, error) from error
    return file, states, find_candidates(states, base_shapes())


def peek_networks(path: Path) -> list[Candidate]:
    """The networks in a file; none in a file that cannot be read. Never raises."""
    try:
        return find_networks(path)[2] if is_pickled(path) else []
    except InputError:
        return []


def is_of_2015(candidate: Candidate) -> bool:
    """Whether a network is that of 2015: 1,008 classes without an auxiliary head, and pytorch-fid's classes if any."""
    tensors, module = candidate.tensors, candidate.state.modules.get(f"{candidate.prefix}Mixed_5b")
    classes = tensors.get("fc.weight")
    is_other = module is not None and not CLASSES_OF_2015.fullmatch(simple_name(module))
    is_size = classes is not None and classes.shape[:1] == (GRAPH_2015.num_classes,)
    return is_size and not is_other and not has_aux(tensors)


def has_aux(tensors: Iterable[str]) -> bool:
    """Whether any of the names, theirs or ours, belongs to an auxiliary head."""
    return any(name.startswith(AUX) for name in tensors)


# ------------------------------------------------------------------------------------------------------ reading


def read_network(path: Path, state: str | None = None) -> TorchNetwork:
    """Read the network of a file under our names and in our shapes.

    All tensors are float64 if they are in the file, and float32 otherwise. Warnings name the parts of the network that
    the file does not determine or that are left out.

    Raises InputError, naming the file and the fault.
    """
    file, states, candidates = find_networks(path, verify=True)
    if not candidates:
        raise _no_network(file, states)
    candidate = choose(path, candidates, state)
    _check_rewritten(path, candidate.state)
    _check_base(path, candidate)
    own_class = _check_layers(path, candidate)
    model = candidate.state.modules.get(candidate.prefix.removesuffix("."))
    if model is not None:
        _check_pool(path, model)
    reader = _Reader(file, candidate)
    tensors = reader.read_base()
    try:
        front = find_front(candidate, reader.read_value)
        modules, unused = _find_head(candidate, front.names)
        head = read_head(modules, reader.read_value) if modules else Head()
    except HeadError as error:
        raise InputError(f"{path}: {error}; only layers behind the {FEATURES} pooled features can be read") from error
    tensors |= _head_tensors(head.layers)
    classes = head.layers[-1].bias.numel() if head.layers else 0
    aux = reader.read_aux(classes)
    settings = Settings(
        create_aux_logits=bool(aux),
        batch_norm_scale=True,
        batch_norm_epsilon=_epsilon(path, candidate),
        count_padding=True,
        global_pool=True,
        **_head_settings(head),
    )
    own_class = model.class_name if model and not KNOWN_CLASSES.search(model.class_name) else own_class
    _warn(path, head, reader.aux_fault, own_class, unused, front.unclear, candidate.state.is_numbered)
    undetermined = ("output_activation",) if classes == 1 and head.output is None else ()
    transforms = model.attributes.get("transform_input") if model else None
    transforms = transforms if isinstance(transforms, bool) else None
    return TorchNetwork(tensors | aux, settings, undetermined, transforms, front.scaling)


def _warn(
    path: Path,
    head: Head,
    aux_fault: str,
    own_class: str,
    unused: list[str],
    unclear_scaling: list[str],
    is_numbered: bool,
) -> None:
    """Report in a line each what was left out and assumed."""
    lines = []
    if is_numbered:
        lines.append("its layers have numbers, which are taken for those of nn.Sequential(*model.children())")
    if own_class:
        lines.append(f"its class {own_class} is not torchvision's; it is assumed to run as torchvision's network does")
    if not head.layers:
        lines.append("has no classifier; it is read as a feature extractor, without classes")
    elif aux_fault:
        lines.append(f"its auxiliary head {aux_fault}, so it is left out")
    if unused:
        lines.append(f"has tensors outside the network, which are not used: {', '.join(unused[:5])}")
    if unclear_scaling:
        listed = ", ".join(unclear_scaling[:5])
        lines.append(f"has {listed}, which are not used: it is not clear how they scale the images; give --mean, --std")
    if head.assumed:
        lines.append(
            f"does not determine {'; '.join(head.assumed)}; if that is wrong, save the whole model with "
            "torch.save(model, ...), or load it in Python with hidden_activation=... and hidden_batch_norm=..."
        )
    if head.folded:
        lines.append(
            "its hidden layers differ in their BatchNorms, which were folded: exact, but further training differs"
        )
    for line in lines:
        warnings.warn(f"{path}: {printable(line)}", stacklevel=4)


class _Reader:
    """Reads a candidate's tensors, checked, in one dtype. `aux_fault` is why the auxiliary head was left out."""

    def __init__(self, file: StateDictFile, candidate: Candidate) -> None:
        self.file, self.candidate, self.tensors = file, candidate, candidate.tensors
        floats = {self.tensors[name].dtype for name in base_shapes()}
        self.dtype = torch.float64 if floats == {"float64"} else torch.float32
        self.names = {id(tensor): name for name, tensor in candidate.state.tensors.items()}
        self.aux_fault = ""

    def read_value(self, stored: StoredTensor) -> Tensor:
        """Read a tensor. Raises InputError: not floats, not in the file, NaN or infinity."""
        name = printable(self.names.get(id(stored), "a tensor"))
        tensor = self.file.read(name, stored).to(self.dtype)
        if tensor.numel() and not all_finite(tensor):
            raise InputError(
                f"{self.file.path}: {name} holds NaN or infinity; the file is damaged, download or save it again"
            )
        return tensor

    def read_base(self) -> dict[str, Tensor]:
        names = named_tensors(False, 1)
        return {names[theirs][0]: self.read_value(self.tensors[theirs]) for theirs in base_shapes()}

    def read_aux(self, classes: int) -> dict[str, Tensor]:
        """The auxiliary head, or nothing if it has another number of classes or other layers."""
        expected = {name: each for name, each in named_tensors(True, max(classes, 1)).items() if name.startswith(AUX)}
        shapes = {name: self.tensors[name].shape for name in self.tensors if has_aux([name]) and COUNTER not in name}
        if not shapes or shapes != {name: shape for name, (_, shape) in expected.items()}:
            count = shapes.get(f"{AUX}fc.bias", ())
            other = f"has {count[0]} classes and the network {classes}" if len(count) == 1 else "has other layers"
            self.aux_fault = other if shapes else ""
            return {}
        tensors = {ours: self.read_value(self.tensors[theirs]) for theirs, (ours, _) in expected.items()}
        return {name: value[:, :, None, None] if value.ndim == 2 else value for name, value in tensors.items()}


def _check_base(path: Path, candidate: Candidate) -> None:
    """Raise InputError if a tensor of the base is missing, or of another shape, or if it has unknown ones."""
    tensors, shapes = candidate.tensors, base_shapes()
    wrong = [name for name, shape in shapes.items() if name in tensors and tensors[name].shape != shape]
    for name in candidate.state.others:
        if name.startswith(candidate.prefix) and name.endswith(PARTS) and not NOT_LAYERS.search(name):
            raise InputError(f"{path}: {printable(name)} is not a dense tensor; save model.state_dict() by itself")
    missing = [name for name in shapes if name not in tensors]
    nodes = tuple(f"{name}." for name in BASE_END_POINTS)
    unknown = [name for name in tensors if name.startswith(nodes) and name not in shapes and COUNTER not in name]
    for fault, faulty in (("lacks", missing), ("has the unknown", unknown)):
        if faulty:
            more = f" and {len(faulty) - 1} more" if len(faulty) > 1 else ""
            raise InputError(f"{path}: {fault} {printable(faulty[0])}{more}; save the whole model.state_dict() again")
    if wrong:
        raise InputError(
            f"{path}: {wrong[0]} has shape {tensors[wrong[0]].shape}, but in Inception V3 it has {shapes[wrong[0]]}; "
            "give weights of the published network"
        )


def _check_rewritten(path: Path, state: StateDict) -> None:
    """Raise InputError if weights are computed from several tensors, which are not the network's own."""
    for name in (*state.tensors, *state.others):
        for pattern, what, remedy in REWRITTEN:
            if pattern.search(name):
                raise InputError(
                    f"{path}: {printable(name)[:200]} shows that a layer is {what}; {remedy}, and save again"
                )
    for name, module in state.modules.items():
        if re.search(r"\.quantized\.(dynamic\.)?modules\.(linear|conv)\.", module.class_name):
            raise InputError(f"{path}: {printable(name)[:200]} is quantised; save the network before quantisation")


def _check_layers(path: Path, candidate: Candidate) -> str:
    """Check that the base of a whole model is computed as torchvision's. Raises InputError, naming the module.

    Returns a class in it that is neither torchvision's nor timm's nor PyTorch's, or "".
    """
    modules, prefix, own = candidate.state.modules, candidate.prefix, ""
    blocks = CLASSES_OF_2015.pattern if is_of_2015(candidate) else "(?!)"
    nodes = tuple(f"{prefix}{name}" for name in BASE_END_POINTS if "Pool" not in name)
    for name, module in modules.items():
        if name in nodes or name.startswith(tuple(f"{node}." for node in nodes)):
            last, kind = name.rpartition(".")[2], simple_name(module)
            if not LAYER_CLASSES.get(last, BLOCK_CLASSES).fullmatch(kind) and not re.fullmatch(blocks, kind):
                raise InputError(
                    f"{path}: its {printable(name)} is of the class {printable(module.class_name)}, which is not a "
                    "layer of torchvision's network and cannot be computed here"
                )
            if not re.search(r"^(__torch__\.)?(torch|timm|pytorch_fid)", module.class_name):
                own = module.class_name
    options = _convolution_options() if modules else {}
    options |= dict.fromkeys(MAX_POOLS, POOL_OPTIONS)
    for name, expected in options.items():
        layer = modules.get(prefix + name)
        if layer and name in MAX_POOLS and simple_name(layer) != "MaxPool2d":
            raise InputError(
                f"{path}: its {name} is a {printable(simple_name(layer))}, not a MaxPool2d of 3x3, stride 2"
            )
        for option, value in expected.items():
            stated = layer.attributes.get(option, value) if layer else value
            if stated not in (value, (value, value), [value, value]):
                raise InputError(
                    f"{path}: its {printable(prefix + name)} has another {option} than torchvision's network"
                )
    return own


def _convolution_options() -> dict[str, dict[str, Any]]:
    """The options of each convolution of the base, by torchvision's names."""
    theirs = {ours: name for name, (ours, _) in named_tensors(False, 1).items()}
    layers = [layer for layer in convolutions(create_aux_logits=False) if layer.normalized]
    return {
        theirs[f"{state_name(layer)}.weights"].removesuffix(".weight"): {
            "stride": (layer.table.stride, layer.table.stride),
            "padding": tuple(length // 2 if layer.table.padding == "SAME" else 0 for length in layer.kernel),
            "dilation": (1, 1),
            "groups": 1,
            "padding_mode": "zeros",
        }
        for layer in layers
    }


def _no_network(file: StateDictFile, states: list[StateDict]) -> InputError:
    """The error for a file without an Inception V3, which names what it holds instead."""
    path, largest = file.path, max(states, key=lambda state: len(state.tensors), default=None)
    if file.is_script and (largest is None or len(largest.tensors) < 2):
        return InputError(
            f"{path}: a frozen TorchScript program, whose layers have lost their names; save the model's state_dict() "
            "before torch.jit.freeze"
        )
    if largest is None:
        if isinstance(file.root, Instance):
            return InputError(
                f"{path}: holds code ({printable(file.root.class_name)[:100]}), which is not run, and no tensors; ask "
                "its author for the tensors only: torch.save(model.state_dict(), ...)"
            )
        return InputError(f"{path}: not a state dict; write one with torch.save(model.state_dict(), ...)")
    names = [name for state in states for name in (*state.tensors, *state.others)]
    other = next((each for part, each in OTHER_NETWORKS.items() if any(part in name for name in names)), None)
    if other is None:
        _check_rewritten(path, largest)
    lacking = next(name for name in base_shapes() if name not in largest.tensors)
    is_one = f", but {other}" if other else ""
    has = printable(next(iter(largest.tensors)))[:100]
    return InputError(
        f"{path}: not an Inception V3{is_one} (it has {has} and lacks {lacking}); give the weights of one"
    )


def _epsilon(path: Path, candidate: Candidate) -> float:
    """The epsilon of the BatchNorms of a whole model; torchvision's for a state dict."""
    names = [candidate.prefix + name.removesuffix(".weight") for name in base_shapes() if name.endswith("bn.weight")]
    modules = [candidate.state.modules[name] for name in names if name in candidate.state.modules]
    values = [module.attributes["eps"] for module in modules if "eps" in module.attributes] or [0.001]
    if not isinstance(values[0], float) or not 0 <= values[0] < 1 or values.count(values[0]) < len(values):
        raise InputError(f"{path}: its BatchNorms have several epsilons, which cannot be computed here")
    return values[0]


def _check_pool(path: Path, model: Instance) -> None:
    """Raise InputError if a whole model pools its last map by something else than an average."""
    for name in ("avgpool", "global_pool"):
        pool = (model.attributes.get("_modules") or {}).get(name)
        if isinstance(pool, Instance):
            kind = str(pool.attributes.get("pool_type", "avg"))
            if simple_name(pool) not in (*POOLS, "AvgPool2d") or kind not in ("avg", "fast"):
                raise InputError(
                    f"{path}: its {name} is a {printable(simple_name(pool))} ({printable(kind)}), not an average; it "
                    "cannot be computed here"
                )


# ----------------------------------------------------------------------------------------------------- the head


def _find_head(candidate: Candidate, front: set[str]) -> tuple[list[Module], list[str]]:
    """The modules of the head, and the names of tensors outside the network that are not used.

    `front` has the names of what stands in front of the network. The head is that of the network itself, or else of the
    module that wraps it. Raises HeadError.
    """
    shapes, root = base_shapes(), candidate.state.modules.get("")
    inside = {
        candidate.prefix + name: tensor
        for name, tensor in candidate.tensors.items()
        if name not in shapes
        and not has_aux([name])
        and not name.endswith(COUNTER)
        and candidate.prefix + name not in front
    }
    outside = {
        name: tensor
        for name, tensor in candidate.outside.items()
        if not name.endswith(COUNTER) and not NOT_LAYERS.search(name) and name not in front
    }
    scope = candidate.prefix.removesuffix(".")
    strays = {name: tensor for name, tensor in inside.items() if "." not in name.removeprefix(candidate.prefix)}
    inside = {name: tensor for name, tensor in inside.items() if name not in strays}
    outside |= strays
    outer = modules_of_state_dict(outside) if root is None else _modules_around(root, "", scope, candidate.prefixes)
    outer = [module for module in outer if module.name not in front]
    if not inside and any(module.is_linear for module in outer):
        return outer, []
    head = modules_of_state_dict(inside)
    if root is not None:
        head = _modules_inside(candidate.state.modules[scope], scope) if inside else []
    if head:
        _check_outside(outer, head)
    return head, list(outside)


def _modules_inside(model: Instance, scope: str) -> list[Module]:
    """The modules of a whole network behind its base: its dropout, and the attributes with tensors, such as `fc`."""
    modules: list[Module] = []
    for name, child in submodules(model).items():
        if name in BASE_END_POINTS or name == "AuxLogits":
            continue
        has_tensors = any(own_tensors(each) for _, each in named_modules(child))
        if has_tensors and any(module.tensors for module in modules):
            modules.append(Module(name, UNKNOWN))
        if has_tensors or simple_name(child) == "Dropout":
            modules += modules_of_model(child, join_names(scope, name))
    return modules


def _modules_around(module: Instance, name: str, scope: str, networks: tuple[str, ...]) -> list[Module]:
    """The modules outside all networks, in the order of the attributes of the modules that wrap the one at `scope`."""
    modules: list[Module] = []
    if name == scope:
        return modules
    for own, child in submodules(module).items():
        child_name = name if own in WRAPPERS else join_names(name, own)
        if f"{scope}.".startswith(f"{child_name}.") or own in WRAPPERS:
            modules += _modules_around(child, child_name, scope, networks)
        elif f"{child_name}.".startswith(networks) or any(each.startswith(f"{child_name}.") for each in networks):
            continue
        elif simple_name(module) in SEQUENCES:
            modules += modules_of_model(child, child_name)
        elif any(own_tensors(each) for _, each in named_modules(child)) and not NOT_LAYERS.search(child_name):
            modules += [Module(child_name, UNKNOWN), *modules_of_model(child, child_name)]
    return modules


def _check_outside(modules: list[Module], head: list[Module]) -> None:
    """Raise HeadError if a layer outside the network seems to continue its head."""
    last = next((module for module in reversed(head) if module.is_linear), None)
    for module in modules:
        if last and module.is_linear and module.inputs in (FEATURES, last.shapes["weight"][0]):
            raise HeadError(
                f"has {printable(module.name)}.weight beside the network's own {printable(last.name)}.weight; how the "
                "two are connected is not in the file"
            )


def _head_tensors(layers: list[Linear]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for number, layer in enumerate(layers, 1):
        name = f"Logits.Hidden_{number}" if number < len(layers) else "Logits.Conv2d_1c_1x1"
        tensors[f"{name}.weights"], tensors[f"{name}.biases"] = layer.weight[:, :, None, None], layer.bias
        if layer.norm:
            parts = layer.norm.gamma, layer.norm.beta, layer.norm.mean, layer.norm.variance
            tensors |= {f"{name}.{ours}": part for ours, part in zip(BATCH_NORM, parts, strict=True)}
    return tensors


def _head_settings(head: Head) -> dict[str, Any]:
    """The options of the network for a head; without layers, those of a network that ends before its heads."""
    if not head.layers:
        return {"final_endpoint": BASE_END_POINTS[-1]}
    *hidden, last = head.layers
    settings: dict[str, Any] = {"num_classes": last.bias.numel(), "output_activation": head.output or "softmax"}
    if hidden:
        settings["hidden_units"] = tuple(layer.bias.numel() for layer in hidden)
        settings["hidden_activation"] = tuple(layer.activation for layer in hidden)
        if norm := hidden[0].norm:
            settings["hidden_batch_norm"] = "before" if hidden[0].norm_first else "after"
            settings["hidden_batch_norm_epsilon"] = norm.epsilon
        if len({*head.hidden_dropout}) == 1:
            settings["hidden_dropout_keep_prob"] = 1 - head.hidden_dropout[0]
    if head.dropout:
        settings["dropout_keep_prob"] = prod(1 - dropout for dropout in head.dropout)
    return settings
