"""torchvision's names of the network's tensors. They follow from the architecture table by a rule over kernels.

timm/models/inception_v3.py and the inception.py of pytorch-fid and torch-fidelity took over the names.
"""

from functools import cache

from inception_v3.network import architecture
from inception_v3.network.architecture import Branch, Conv
from inception_v3.weights.formats.layer_names import BATCH_NORM, convolutions, state_name

THEIR_BATCH_NORM = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def state_names(aux: bool) -> dict[str, str]:
    """Map each of torchvision's names to the name in `InceptionV3.state_dict()`, with or without AuxLogits."""
    return {theirs: ours for theirs, (ours, _) in named_tensors(aux, num_classes=1000).items()}


def named_tensors(aux: bool, num_classes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Map each of torchvision's names to the name in `InceptionV3.state_dict()` and to torchvision's shape."""
    scopes = {
        f"{node.name}/{name}/{conv.name}": f"{node.name}.{theirs}"
        for node in architecture.MODULES
        for name, branch in node.named_branches
        for conv, theirs in _names_in_branch(branch)
    }
    aux_convolutions = iter(("AuxLogits.conv0", "AuxLogits.conv1"))
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer in convolutions(create_aux_logits=aux):
        in_aux = layer.end_point == "AuxLogits"
        ours = state_name(layer)
        if not layer.normalized:  # logits: a linear layer there, a 1x1 convolution here
            theirs = "AuxLogits.fc" if in_aux else "fc"
            tensors[f"{theirs}.weight"] = f"{ours}.weights", (num_classes, layer.in_channels)
            tensors[f"{theirs}.bias"] = f"{ours}.biases", (num_classes,)
        else:
            theirs = next(aux_convolutions) if in_aux else scopes.get(layer.name, layer.name)  # the stem's are the same
            kernel = (layer.out_channels, layer.in_channels, *layer.kernel)
            tensors[f"{theirs}.conv.weight"] = f"{ours}.weights", kernel
            for their_part, part in zip(THEIR_BATCH_NORM, BATCH_NORM, strict=True):
                tensors[f"{theirs}.{their_part}"] = f"{ours}.{part}", (layer.out_channels,)
    return tensors


@cache
def base_shapes() -> dict[str, tuple[int, ...]]:
    """The shapes of the network without its heads, by torchvision's names."""
    return {name: shape for name, (_, shape) in named_tensors(False, 1).items() if not name.startswith("fc.")}


def _names_in_branch(branch: Branch) -> list[tuple[Conv, str]]:
    """The convolutions of a branch with their names, such as `branch7x7dbl_3`.

    A branch is named after the square windows that it covers one after another, and its convolutions are numbered
    from 1. A 1x7 and a 7x1 in a row cover one 7x7 window, and a 1x3 beside a 3x1 cover one 3x3 window: counting
    kernels by their height counts each pair once. A 1x1 is no window; it names a branch that has nothing else.
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
