"""The names that torchvision, timm and the 2015 .pth files share, and the safe reading of state dicts.

The names are those of torchvision/models/inception.py, which timm/models/inception_v3.py and pytorch-fid's and
torch-fidelity's inception.py took over. They follow from the architecture table by rules over a branch's kernels.
"""

import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.network import architecture
from inception_v3.network.architecture import Branch, Conv
from inception_v3.weights.formats.weights import BATCH_NORM, FLOATS, convolutions, state_name

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

THEIR_BATCH_NORM = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
COUNTER = "num_batches_tracked"  # read by a BatchNorm without momentum alone, which none of these has
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # in timm's order: averages first
PREFIXES = ("_orig_mod.", "module.", "_orig_mod.")  # torch.compile and DistributedDataParallel, in either order

# ------------------------------------------------------------------------------------------------------- names


def state_names(aux: bool) -> dict[str, str]:
    """Every tensor by their name, and under it the name in `InceptionV3.state_dict()`."""
    scopes = {
        f"{node.name}/{name}/{conv.name}": f"{node.name}.{theirs}"
        for node in architecture.MODULES
        for name, branch in node.named_branches
        for conv, theirs in _in_branch(branch)
    }
    found: dict[str, str] = {}
    in_aux = 0
    for layer in convolutions(create_aux_logits=aux):
        ours = state_name(layer)
        head = "AuxLogits." if layer.end_point == "AuxLogits" else ""
        if not layer.normalized:
            found |= {f"{head}fc.weight": f"{ours}.weights", f"{head}fc.bias": f"{ours}.biases"}
            continue
        theirs = scopes.get(layer.name, layer.name)  # the stem has the same names
        if head:
            theirs = f"{head}conv{in_aux}"
            in_aux += 1
        found[f"{theirs}.conv.weight"] = f"{ours}.weights"
        for their_part, part in zip(THEIR_BATCH_NORM, BATCH_NORM, strict=True):
            found[f"{theirs}.{their_part}"] = f"{ours}.{part}"
    return found


def _in_branch(branch: Branch) -> list[tuple[Conv, str]]:
    """What the branch covers in steps of square windows names it; convolutions in a row are counted from 1.

    A 1x7 and a 7x1 in a row are one 7x7 window, as are a 1x3 and a 3x1 side by side one of 3x3. Counting kernels
    by their height counts either once; 1x1, which is no window, only names a branch that has nothing else.
    """
    steps = [step if isinstance(step, tuple) else (step,) for step in branch]
    rows = [[conv for conv in step if isinstance(conv, Conv)] for step in steps]
    rows = [row for row in rows if row]  # a pool has no variables
    heights = [max(conv.kernel[0] for conv in row) for row in rows]
    windows = [height for height in heights if height > 1] or [1]
    name = f"branch{windows[0]}x{windows[0]}"
    if len(rows) < len(steps):
        name = "branch_pool"
    elif len(windows) == 2:
        name += "dbl" if windows[0] == windows[1] else f"x{windows[1]}"
    return [
        (conv, name + (f"_{number}" if len(rows) > 1 else "") + (letter if len(row) > 1 else ""))
        for number, row in enumerate(rows, 1)
        for conv, letter in zip(row, "ab", strict=False)
    ]


# ----------------------------------------------------------------------------------------------------- reading


def peek(path: Path) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes where the file is a state dict with names of an Inception V3, at little cost; else None.

    Never raises. A few names may be missing or unknown: reading says which.
    """
    try:
        if is_safetensors(path):
            with safe_open(path, "pt") as opened:
                shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        else:
            found = _unpickle(path, check=False)
            shapes = {name: tuple(getattr(value, "shape", ())) for name, value in found.items()}
    except Exception:  # whatever it is, it is no state dict
        return None
    shapes = _without_prefixes(shapes)
    known = shapes.keys() & state_names(aux=True).keys()
    return shapes if "fc.weight" in known and len(known) > len(state_names(aux=True)) // 2 else None


def is_graph_of_2015(shapes: dict[str, tuple[int, ...]]) -> bool:
    """1,008 classes and no auxiliary head: the graph of 2015, with a maximum where the others average."""
    return shapes["fc.weight"][:1] == (1008,) and not any(name.startswith("AuxLogits.") for name in shapes)


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth, .bin or .safetensors file (the content says which), mapped from it where possible.

    Wrappers, prefixes and counters are left out. No code in a pickle runs.
    Raises InputError: damaged, code, not tensors of floats.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; check the path")
    try:
        if is_safetensors(path):
            with safe_open(path, "pt") as opened:
                found: dict[str, Any] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        else:
            found = _unpickle(path, check=True)
    except InputError:
        raise
    except Exception as error:  # of a damaged file, torch's reader may raise anything
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise InputError(
                f"{path}: cannot be read: it is cut short, or holds code ({code[1]}), which is not run; have who made "
                "it save the tensors alone: torch.save(model.state_dict(), ...)"
            ) from error
        kind = f"{type(error).__name__}: {error}" if isinstance(error, SafetensorError) else type(error).__name__
        raise InputError(
            f"{path}: cannot be read ({_one_line(kind)}): damaged, or no state dict; get it anew"
        ) from error
    tensors: dict[str, Tensor] = {}
    for name, value in _without_prefixes(found).items():
        if name.endswith(COUNTER):
            continue
        if not isinstance(value, Tensor) or value.device.type != "cpu" or value.layout != torch.strided:
            raise InputError(f"{path}: {_one_line(name)} is no tensor of numbers; write model.state_dict() alone")
        if value.dtype not in FLOATS:
            raise InputError(f"{path}: {_one_line(name)} is {value.dtype}, not floats; write it as torch.float32")
        tensors[name] = value.detach()
    return tensors


def is_safetensors(path: Path) -> bool:
    """It starts with the length of a header in JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and not start.startswith(b"PK")


def _unpickle(path: Path, check: bool) -> dict[str, Any]:
    """What torch.save wrote, without running code. `check` compares checksums, which torch itself does not."""
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(one.filename.endswith("/constants.pkl") for one in records):
                raise InputError(
                    f"{path}: is TorchScript, a program; write torch.save(model.state_dict(), ...) instead"
                )
            if any(one.compress_type != zipfile.ZIP_STORED for one in records):  # a bomb; torch never compresses
                raise InputError(f"{path}: has compressed records, which torch does not write; get it anew")
            summed = any(one.CRC for one in records)  # torch.serialization.set_crc32_options(False) writes zeros
            for one in records if check and summed else ():
                with archive.open(one) as record:
                    while record.read(1 << 20):
                        pass
    mapped = zipped and path.suffix != ".safetensors"  # a path of that name torch takes for what it says
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols: it is refused or it is read
        found: Any = torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
            break
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise InputError(f"{path}: holds no state dict; write one with torch.save(model.state_dict(), ...)")
    return found


def _without_prefixes(found: dict[str, Any]) -> dict[str, Any]:
    for prefix in PREFIXES:
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:100]


def to_weights(path: Path, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool, int]:
    """Their tensors under our names and in our shapes; whether there is an auxiliary head; the number of classes.

    float64 where all are, else float32. Raises InputError, with the variable: missing, unknown, of another shape,
    not finite; or another network.
    """
    aux = any(name.startswith("AuxLogits.") for name in tensors)
    names = state_names(aux)
    missing = [name for name in names if name not in tensors]
    extra = [name for name in tensors if name not in names]
    if len(missing) > len(names) // 2:
        has = f"has {_one_line(extra[0])} and " if extra else ""
        raise InputError(f"{path}: no Inception V3 (it {has}lacks {missing[0]}); give the weights of one")
    for what, found in (("lacks", missing), ("has the unknown", extra)):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise InputError(
                f"{path}: {what} {_one_line(found[0])}{more}; write it anew with all of model.state_dict()"
            )
    num_classes = tensors["fc.bias"].numel()
    shapes = _shapes(aux, num_classes)
    for name in names:
        if tuple(tensors[name].shape) != shapes[name]:
            raise InputError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, where Inception V3 has {shapes[name]}; "
                "give weights of the published network"
            )
    double = all(tensor.dtype == torch.float64 for tensor in tensors.values())
    ours: dict[str, Tensor] = {}
    for name, our_name in names.items():
        tensor = tensors[name].to(torch.float64 if double else torch.float32)
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} holds NaN or infinity; the file is damaged, get it anew")
        ours[our_name] = tensor[:, :, None, None] if name.endswith("fc.weight") else tensor
    return ours, aux, num_classes


def _shapes(aux: bool, num_classes: int) -> dict[str, tuple[int, ...]]:
    """By their names. Their last layer is no convolution, and its weight has two axes."""
    layers = {state_name(layer): layer for layer in convolutions(create_aux_logits=aux)}
    found: dict[str, tuple[int, ...]] = {}
    for theirs, ours in state_names(aux).items():
        layer = next(layers[scope] for scope in (ours.rsplit(".", 1)[0], ours.rsplit(".", 2)[0]) if scope in layers)
        channels = layer.out_channels if layer.normalized else num_classes
        kernel = layer.kernel if layer.normalized else ()
        found[theirs] = (channels, layer.in_channels, *kernel) if ours.endswith("weights") else (channels,)
    return found


# ----------------------------------------------------------------------------------------------------- writing


def has_aux(model: "InceptionV3") -> bool:
    """Whether there is an auxiliary head that their names can hold: one built for images of 299 pixels or more."""
    return "AuxLogits.Conv2d_2a_5x5.weights" in model.state_dict()


def from_model(model: "InceptionV3", aux: bool) -> dict[str, Tensor]:
    """The state dict under their names: a gamma that is not there is 1, counters are 0, the rest bit for bit.

    Raises InputError, with the variable, for a network that is cut or has other widths.
    """
    state = model.state_dict()
    found: dict[str, Tensor] = {}
    shapes = _shapes(aux, model.settings.num_classes)
    for name, ours in state_names(aux).items():
        tensor = state.get(ours)
        if tensor is None and ours.endswith("gamma"):
            tensor = torch.ones(shapes[name], dtype=next(iter(state.values())).dtype)
        if tensor is not None and name.endswith("fc.weight"):
            tensor = tensor.flatten(1)
        if tensor is None or tuple(tensor.shape) != shapes[name]:
            has = f"shape {tuple(tensor.shape)}" if tensor is not None else "no such variable"
            raise InputError(f"{ours} must have shape {shapes[name]} in this format, and this network has {has}")
        # a copy, since a view would take all of its storage into the file
        found[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        if name.endswith("running_var"):
            found[name.replace("running_var", COUNTER)] = torch.tensor(0)
    return found
