"""Where the network runs, and in which precision it runs well there."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from inception_v3.errors import InputError


def pick_device(name: str | None = None) -> torch.device:
    """The device of that name; without one the GPU where there is one. Raises InputError if it cannot be used."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        message = f"--device {name}: cannot be used here ({reason}); leave it out to pick one"
        raise InputError(message, exit_status=2) from error
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 itself, so that autocast is a gain."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast where the device has it, else nothing."""
    return torch.autocast(device.type, torch.bfloat16) if has_bf16(device) else nullcontext()


def precision_context(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """float32 in all its digits, or for "bf16" autocast where the device has it."""
    # PyTorch's float32 convolutions on a GPU are by default tf32, which has the digits of fp16
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return autocast(device) if precision == "bf16" else exact


@contextmanager
def explain_out_of_memory(device: torch.device) -> Iterator[None]:
    """Raises InputError with the remedy where the memory is not enough for what is done in here."""
    try:
        yield
    except RuntimeError as error:  # a GPU's and the processor's have no class in common
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise InputError(
            f"{device}: not enough memory; lower batch_size (in training, accumulate makes up for it) or image_size"
        ) from error
