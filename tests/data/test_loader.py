"""The order of a training's pictures, what each step holds, and how it is shared out."""

import os
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inception_v3.data import Pictures, TrainingBatches, batches
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.support.seeds import epoch_order, derive_seed

pytestmark = pytest.mark.usefixtures("one_thread")

PREPROCESSING = Preprocessing((75, 75))


def pictures(count: int) -> Pictures:
    return Pictures(["a", "b"], [Image.new("RGB", (80, 80))] * count, [0] * count, [str(n) for n in range(count)])


def noise(preprocessing: Preprocessing):  # type: ignore[no-untyped-def]
    """An augmentation that shows its random numbers."""
    return lambda image: torch.randint(256, (3, *preprocessing.image_size), dtype=torch.uint8)


def epoch(batches: TrainingBatches, number: int = 0, start: int = 0) -> list[list[int]]:
    return [batch.indices.tolist() for _, batch in batches.epoch(number, 75, start)]


@given(
    count=st.integers(1, 40), step=st.integers(1, 12), processes=st.integers(1, 4), start=st.integers(0, 39),
    seed=st.integers(0, 2**40), number=st.integers(0, 1000),
)  # fmt: skip
def test_processes_share_each_step_in_order_and_without_duplicates(
    count: int, step: int, processes: int, start: int, seed: int, number: int
) -> None:
    """One process with the whole step sees the pictures of all of them, also from the middle of an epoch on."""
    data = pictures(count)
    order = epoch_order(seed, number, count)
    assert sorted(order) == list(range(count))
    shares = []
    for process in range(processes):
        loader = TrainingBatches(data, PREPROCESSING, step, seed=seed, process=process, processes=processes)
        loader._steps.begin(number, 75, min(start, count))
        shares.append([[draw.place for draw in share] for share in loader._steps])
    steps = [[place for share in one for place in share] for one in zip(*shares, strict=True)]
    assert [place for one in steps for place in one] == order[min(start, count) :]
    assert all(len(one) == step for one in steps[:-1])
    for one in zip(*shares, strict=True):
        lengths = [len(share) for share in one]
        assert max(lengths) - min(lengths) <= 1
        assert lengths[0] == max(lengths), "the first process has some wherever there are any"


def test_every_epoch_and_every_seed_has_an_order_of_its_own() -> None:
    orders = {tuple(epoch_order(seed, number, 50)) for seed in range(5) for number in range(5)}
    assert len(orders) == 25
    assert epoch_order(3, 1, 50) == epoch_order(3, 1, 50)


def test_what_happens_to_a_picture_depends_on_seed_epoch_and_picture_alone() -> None:
    def drawn(seed: int = 0, number: int = 0, start: int = 0, workers: int = 0) -> dict[int, torch.Tensor]:
        loader = TrainingBatches(pictures(7), PREPROCESSING, 3, augment=noise, seed=seed, workers=workers)
        found = {}
        for _, batch in loader.epoch(number, 75, start):
            torch.rand(1)  # what else draws from the generator does not matter
            found |= dict(zip(batch.indices.tolist(), batch.images, strict=True))
        return found

    whole = drawn()
    assert len({image.sum().item() for image in whole.values()}) == 7
    for other in (drawn(), drawn(workers=2), drawn(start=3)):
        assert all(torch.equal(image, whole[place]) for place, image in other.items())
    for other in (drawn(seed=1), drawn(number=1)):
        assert not any(torch.equal(image, whole[place]) for place, image in other.items())


def test_augmentation_leaves_the_generator_of_this_process_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    loader = TrainingBatches(pictures(4), PREPROCESSING, 2, augment=noise)
    loader._steps.begin(0, 75, 0)
    dataset = loader._loader.dataset
    draws = next(iter(loader._steps))
    assert len([dataset[draw] for draw in draws]) == 2
    assert torch.equal(torch.rand(3), expected)


def test_workers_that_outlive_an_epoch_are_told_of_the_next_and_of_its_size() -> None:
    loader = TrainingBatches(pictures(5), PREPROCESSING, 2, augment=noise, workers=1)
    for number, size in ((0, 75), (1, 75), (2, 107)):
        steps = list(loader.epoch(number, size))
        assert [place for _, batch in steps for place in batch.indices.tolist()] == epoch_order(0, number, 5)
        assert {batch.images.shape[1:] for _, batch in steps} == {(3, size, size)}
        assert [length for length, _ in steps] == [2, 2, 1]


def test_seeds_are_spread() -> None:
    seeds = {
        derive_seed("picture", seed, number, place) for seed in range(5) for number in range(5) for place in range(40)
    }
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed("a", 1, 11) != derive_seed("a", 11, 1)


def test_ctrl_c_while_workers_start_is_not_lost() -> None:
    """Python drops what is raised inside a library's code around a fork."""
    pressed: list[bool] = [True]

    def press() -> None:
        if pressed:
            pressed.clear()
            signal.raise_signal(signal.SIGINT)

    os.register_at_fork(before=press)
    pictures = Pictures(["a"], [Image.new("RGB", (75, 75))] * 4, [0] * 4, [*"abcd"])
    loader = batches(pictures, Preprocessing((75, 75)), 2, workers=1)
    with pytest.raises(KeyboardInterrupt):
        iter(loader)
    assert sum(len(batch.labels) for batch in loader) == 4
