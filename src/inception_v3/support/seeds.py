"""Random numbers in training depend only on the seed and on their purpose, never on a generator's state.

The order of an epoch is drawn from (seed, epoch), the augmentation of an image from (seed, epoch, image), dropout and
mixing from (seed, step, process). So the number of worker processes does not change the results, and a resumed training
draws the same numbers without a saved generator state.
"""

import hashlib

import torch


def derive_seed(*key: str | int) -> int:
    """Hash the parts of `key` to an evenly distributed integer of 63 bits."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    """Return a random permutation of `range(count)`: the order of the images in an epoch. Epochs count from 0."""
    generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
    return torch.randperm(count, generator=generator).tolist()
