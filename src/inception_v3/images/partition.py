"""Divide images among processes: each takes one shard of the sorted addresses, and all shards together are the whole.

`shard_range` is the rule. It needs nothing but the addresses, so that processes on several machines agree without
talking to each other, in whatever order each of them was given the arguments.
"""

import re
from dataclasses import dataclass

from inception_v3.errors import InputError


@dataclass(frozen=True)
class Shard:
    """The part `number` of `count`, from 1 to `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that I/N names. Raises InputError with exit status 2."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        number, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= count:
            raise InputError(
                f"--shard {text or '(empty)'}: not a shard; give I/N with I from 1 to N, such as 1/4",
                exit_status=2,
            )
        return cls(number, count)


@dataclass(frozen=True)
class AddressRange:
    """The addresses from `first` up to, but not including, `end`, in the order of their characters' code points.

    `end` is None for the last shard.
    """

    first: str
    end: str | None

    def __contains__(self, address: str) -> bool:
        return self.first <= address and (self.end is None or address < self.end)

    def overlaps(self, prefix: str) -> bool:
        """Whether an address that starts with `prefix` may be in the range."""
        return (self.first <= prefix or self.first.startswith(prefix)) and (self.end is None or prefix < self.end)


def shard_range(addresses: list[str], shard: Shard) -> AddressRange:
    """The range of a shard among sorted addresses. An address is in exactly one of the shards 1/N, 2/N … N/N.

    Their sizes differ by one at most, except that equal addresses are in the same shard.
    """
    if not addresses:
        return AddressRange("", "")  # contains nothing
    starts = [len(addresses) * number // shard.count for number in (shard.number - 1, shard.number)]
    return AddressRange(addresses[starts[0]], addresses[starts[1]] if shard.number < shard.count else None)
