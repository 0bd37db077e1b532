"""Every random number of a training follows from its seed and from what it is drawn for.

The order of an epoch is drawn from (seed, epoch), what happens to a picture from (seed, epoch, picture), dropout and
mixing from (seed, step, process). No generator runs on from one to the next. So the number of worker processes
changes nothing, and a training that goes on after a break needs no generator's state: it draws the same numbers.
"""

import hashlib

import torch


def derive_seed(*what: str | int) -> int:
    """A number of 63 bits that depends on every part, and is spread evenly whatever the parts are."""
    digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    """The order in which an epoch, counted from 0, shows its pictures."""
    generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
    return torch.randperm(count, generator=generator).tolist()
