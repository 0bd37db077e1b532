"""Choose the device and the precision in which the network runs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from inception_v3.errors import InputError
from inception_v3.support.arguments import check
from inception_v3.support.text import one_line


def pick_device(name: str | None = None) -> torch.device:
    """Return the named device. Without a name it is the GPU if there is one, otherwise the CPU.

    Raises InputError: the device cannot be used.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--device {name}: cannot be used here ({reason}); leave --device out to choose one", exit_status=2
        ) from error
    return device


def as_device(device: str | torch.device) -> torch.device:
    """Return the device of this name. Raises TypeError: no name. Raises ValueError: PyTorch has no such device here."""
    check("device", device, str | torch.device)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device must be one that PyTorch can use, not {device!r} ({one_line(error, 100)})") from error
    return torch.device(device)


def has_bf16(device: torch.device) -> bool:
    """Return whether the device computes bfloat16 in hardware, so that autocast makes it faster."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a bfloat16 autocast context if the device has bfloat16 in hardware, otherwise an empty context."""
    return torch.autocast(device.type, torch.bfloat16) if has_bf16(device) else nullcontext()


def precision_context(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return a context that computes in full float32, or in bfloat16 autocast for "bf16" (see `autocast`)."""
    # By default PyTorch computes float32 convolutions on a GPU in TF32, whose mantissa is as short as float16's.
    return autocast(device) if precision == "bf16" else torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


@contextmanager
def explain_out_of_memory(device: torch.device) -> Iterator[None]:
    """Turn PyTorch's out-of-memory errors in this context into an InputError that names the remedy."""
    try:
        yield
    except RuntimeError as error:  # the errors for the GPU and the CPU have no other base class in common
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise InputError(
            f"{device}: not enough memory; lower batch_size (in training, accumulate keeps the effective batch size) "
            "or image_size"
        ) from error
