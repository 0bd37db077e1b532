"""Training batches: the order of the images, the steps, and their division among processes."""

import os
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inception_v3.data import LabelledImages, TrainingBatches, batches
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.support.seeds import derive_seed, epoch_order

pytestmark = pytest.mark.usefixtures("one_thread")

PREPROCESSING = Preprocessing((75, 75))


def black_images(count: int) -> LabelledImages:
    return LabelledImages(["a", "b"], [Image.new("RGB", (80, 80))] * count, [0] * count, [str(n) for n in range(count)])


def noise(preprocessing: Preprocessing):  # type: ignore[no-untyped-def]
    """An augmentation that returns its random numbers as pixels."""
    return lambda image: torch.randint(256, (3, *preprocessing.image_size), dtype=torch.uint8)


@given(
    count=st.integers(1, 40), step=st.integers(1, 12), processes=st.integers(1, 4), start=st.integers(0, 39),
    seed=st.integers(0, 2**40), number=st.integers(0, 1000),
)  # fmt: skip
def test_processes_share_each_step_in_order_and_without_duplicates(
    count: int, step: int, processes: int, start: int, seed: int, number: int
) -> None:
    """Together they have the images of a single process, also when an epoch starts in the middle."""
    images = black_images(count)
    order = epoch_order(seed, number, count)
    assert sorted(order) == list(range(count))
    by_process = []
    for process in range(processes):
        loader = TrainingBatches(images, PREPROCESSING, step, seed=seed, process=process, processes=processes)
        loader._sampler.begin(number, 75, min(start, count))
        by_process.append([[item.index for item in part] for part in loader._sampler])
    steps = list(zip(*by_process, strict=True))
    assert [index for parts in steps for part in parts for index in part] == order[min(start, count) :]
    assert all(sum(map(len, parts)) == step for parts in steps[:-1])
    for parts in steps:
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1
        assert lengths[0] == max(lengths), "the first process has an image in every step"


def test_the_order_depends_on_the_epoch_and_the_seed() -> None:
    orders = {tuple(epoch_order(seed, number, 50)) for seed in range(5) for number in range(5)}
    assert len(orders) == 25
    assert epoch_order(3, 1, 50) == epoch_order(3, 1, 50)


def test_augmentation_depends_only_on_seed_epoch_and_image() -> None:
    def augmented(seed: int = 0, number: int = 0, start: int = 0, workers: int = 0) -> dict[int, torch.Tensor]:
        loader = TrainingBatches(black_images(7), PREPROCESSING, 3, augment=noise, seed=seed, workers=workers)
        images = {}
        for _, batch in loader.epoch(number, 75, start):
            torch.rand(1)  # other uses of the generator make no difference
            images |= dict(zip(batch.indices.tolist(), batch.images, strict=True))
        return images

    expected = augmented()
    assert len({image.sum().item() for image in expected.values()}) == 7
    for same in (augmented(), augmented(workers=2), augmented(start=3)):
        assert all(torch.equal(image, expected[index]) for index, image in same.items())
    for different in (augmented(seed=1), augmented(number=1)):
        assert not any(torch.equal(image, expected[index]) for index, image in different.items())


def test_augmentation_does_not_change_the_generator_of_this_process() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    loader = TrainingBatches(black_images(4), PREPROCESSING, 2, augment=noise)
    loader._sampler.begin(0, 75, 0)
    dataset = loader._loader.dataset
    assert len([dataset[item] for item in next(iter(loader._sampler))]) == 2
    assert torch.equal(torch.rand(3), expected)


def test_persistent_workers_use_the_order_and_the_image_size_of_each_epoch() -> None:
    loader = TrainingBatches(black_images(5), PREPROCESSING, 2, augment=noise, workers=1)
    for number, size in ((0, 75), (1, 75), (2, 107)):
        steps = list(loader.epoch(number, size))
        assert [index for _, batch in steps for index in batch.indices.tolist()] == epoch_order(0, number, 5)
        assert {batch.images.shape[1:] for _, batch in steps} == {(3, size, size)}
        assert [length for length, _ in steps] == [2, 2, 1]


def test_seeds_differ_and_fit_in_63_bits() -> None:
    seeds = {
        derive_seed("picture", seed, number, index) for seed in range(5) for number in range(5) for index in range(40)
    }
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed("a", 1, 11) != derive_seed("a", 11, 1)


def test_ctrl_c_while_workers_start_is_not_lost() -> None:
    """Python drops an exception that is raised in a callback around a fork."""
    pressed: list[bool] = [True]

    def press() -> None:
        if pressed:
            pressed.clear()
            signal.raise_signal(signal.SIGINT)

    os.register_at_fork(before=press)
    loader = batches(black_images(4), PREPROCESSING, 2, workers=1)
    with pytest.raises(KeyboardInterrupt):
        iter(loader)
    assert sum(len(batch.labels) for batch in loader) == 4
