"""The queue in front of an engine: full speed, results that are never mixed up, bounds, deadlines, turns."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest

from inception_v3.serve.batching import Batcher, Budget, BusyError, ClosedError, Computed, ExpiredError, Turns

LATER = time.monotonic() + 3600
Pixels = np.ndarray


class Engine:
    """Returns the value of each image, and waits at a gate in each batch. An image of the value 255 cannot be read."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate, self.entered, self.error = threading.Event(), threading.Semaphore(0), None
        self.gate.set()

    def __call__(self, images: list[Pixels]) -> Computed:
        self.batches.append([int(image[0, 0, 0]) for image in images])
        self.entered.release()
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        faults = {index: f"image {index}" for index, image in enumerate(images) if image[0, 0, 0] == 255}
        values = [image[0, 0, :1].astype(np.float32) for index, image in enumerate(images) if index not in faults]
        outputs = {"value": np.stack(values), "other": np.zeros((len(values), 4))} if values else {}
        return Computed(outputs, faults)


def images(*values: int, size: int = 2) -> Pixels:
    return np.stack([np.full((size, size, 3), value, np.uint8) for value in values])


def submit(batcher: Batcher, pixels: Pixels, deadline: float = LATER) -> "Future[Computed]":
    return batcher.submit([*pixels], pixels.shape[1:], ["value"], deadline)


def values(future: "Future[Computed]") -> list[int]:
    return future.result(10).outputs["value"][:, 0].astype(int).tolist()


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def batcher(engine: Engine) -> Iterator[Batcher]:
    batcher = Batcher(engine, 4, Turns(), lambda *_: None)
    yield batcher
    engine.gate.set()
    batcher.close()


def busy(engine: Engine, batcher: Batcher, value: int = 0) -> "Future[Computed]":
    """A job that is in the engine until the gate opens."""
    engine.gate.clear()
    future = submit(batcher, images(value))
    assert engine.entered.acquire(timeout=10)
    return future


def test_a_single_image_does_not_wait_for_a_fuller_batch(engine: Engine, batcher: Batcher) -> None:
    assert values(submit(batcher, images(7))) == [7]
    assert engine.batches == [[7]]


def test_images_gather_while_the_engine_is_busy(engine: Engine, batcher: Batcher) -> None:
    first = busy(engine, batcher)
    others = [submit(batcher, images(value)) for value in range(1, 7)]
    engine.gate.set()
    assert [values(each) for each in (first, *others)] == [[value] for value in range(7)]
    assert engine.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_request_of_many_images_is_computed_in_several_batches_beside_others(
    engine: Engine, batcher: Batcher
) -> None:
    first = busy(engine, batcher)
    large = submit(batcher, images(1, 2, 3, 4, 5, 6))
    small = submit(batcher, images(9))
    engine.gate.set()
    assert (values(first), values(large), values(small)) == ([0], [1, 2, 3, 4, 5, 6], [9])
    assert engine.batches == [[0], [1, 2, 3, 4], [5, 6, 9]]


def test_images_of_different_sizes_are_never_in_one_batch(engine: Engine, batcher: Batcher) -> None:
    busy(engine, batcher)
    futures = [submit(batcher, images(value, size=value)) for value in (2, 3, 3)]
    engine.gate.set()
    assert [values(each) for each in futures] == [[2], [3], [3]]
    assert engine.batches == [[0], [2], [3, 3]]


def test_a_job_gets_only_the_outputs_that_it_named(batcher: Batcher) -> None:
    future = batcher.submit([*images(1)], (2, 2, 3), ["other"], LATER)
    assert future.result(10).outputs.keys() == {"other"}


def test_images_that_cannot_be_read_are_told_apart_in_each_job(engine: Engine, batcher: Batcher) -> None:
    busy(engine, batcher)
    jobs = [submit(batcher, images(*each)) for each in ((1,), (255, 2, 3, 255, 4), (255,), (5,))]
    engine.gate.set()
    assert [each.result(10).faults for each in jobs] == [{}, {0: "image 1", 3: "image 0"}, {0: "image 2"}, {}]
    assert [values(jobs[index]) for index in (0, 1, 3)] == [[1], [2, 3, 4], [5]]
    assert jobs[2].result(10).outputs == {}
    assert engine.batches == [[0], [1, 255, 2, 3], [255, 4, 255, 5]]


def test_a_cancelled_job_gives_up_its_place_at_once(engine: Engine, batcher: Batcher) -> None:
    busy(engine, batcher)
    cancelled = submit(batcher, images(1))
    kept = submit(batcher, images(2))
    assert batcher.waiting == 2
    cancelled.cancel()
    assert batcher.waiting == 1
    engine.gate.set()
    assert values(kept) == [2]
    assert engine.batches == [[0], [2]]


def test_the_result_of_a_job_that_is_cancelled_in_the_engine_is_dropped(engine: Engine, batcher: Batcher) -> None:
    first = busy(engine, batcher)
    first.cancel()
    engine.gate.set()
    assert values(submit(batcher, images(3))) == [3]
    with pytest.raises(CancelledError):
        first.result(10)


def test_an_expired_job_leaves_the_queue_and_is_never_computed(engine: Engine, batcher: Batcher) -> None:
    busy(engine, batcher)
    expired = submit(batcher, images(1), time.monotonic() - 1)
    kept = submit(batcher, images(2))
    engine.gate.set()
    with pytest.raises(ExpiredError):
        expired.result(10)
    assert values(kept) == [2]
    assert engine.batches == [[0], [2]]


def test_an_engine_that_fails_answers_each_job_of_the_batch_once_and_lives(engine: Engine, batcher: Batcher) -> None:
    first = busy(engine, batcher)
    second = submit(batcher, images(1, 2))
    engine.error = RuntimeError("the device is on fire")
    engine.gate.set()
    for future in (first, second):
        with pytest.raises(RuntimeError, match="on fire"):
            future.result(10)
    engine.error = None
    assert values(submit(batcher, images(3))) == [3]


def test_a_large_job_whose_first_batch_fails_is_not_computed_further(engine: Engine, batcher: Batcher) -> None:
    busy(engine, batcher)
    large = submit(batcher, images(*range(1, 9)))
    engine.error = RuntimeError("no")
    engine.gate.set()
    with pytest.raises(RuntimeError):
        large.result(10)
    engine.error = None
    assert values(submit(batcher, images(99))) == [99]
    assert engine.batches == [[0], [1, 2, 3, 4], [99]]


def test_closing_waits_for_the_batch_in_the_engine_and_refuses_the_rest(engine: Engine) -> None:
    batcher = Batcher(engine, 4, Turns(), lambda *_: None)
    first, queued = busy(engine, batcher), submit(batcher, images(1))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(ClosedError):
        queued.result(10)
    with pytest.raises(ClosedError):
        submit(batcher, images(2))
    engine.gate.set()
    closing.join(10)
    assert values(first) == [0]
    assert engine.batches == [[0]]


def test_many_threads_get_their_own_results(engine: Engine, batcher: Batcher) -> None:
    wrong: list[int] = []

    def ask(value: int) -> None:
        for repeat in range(20):
            wanted = [(value + 7 * repeat + index) % 255 for index in range(1 + repeat % 6)]
            if values(submit(batcher, images(*wanted))) != wanted:
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(value,)) for value in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    assert not wrong
    assert max(map(len, engine.batches)) == 4


def test_models_that_share_the_cores_take_turns() -> None:
    turns, order = Turns(), []

    def engine(name: str) -> Callable[[list[Pixels]], Computed]:
        def run(images: list[Pixels]) -> Computed:
            order.append(name)
            time.sleep(0.01)
            return Computed({"value": np.stack(images)[:, 0, 0, :1]})

        return run

    batchers = [Batcher(engine(name), 1, turns, lambda *_: None) for name in "ab"]
    with turns:  # both have a full queue before either starts
        futures = [submit(each, images(1, 2, 3, 4)) for each in batchers]
        time.sleep(0.05)
    for each in futures:
        each.result(10)
    for each in batchers:
        each.close()
    assert "".join(order) in ("abababab", "babababa")


def test_a_budget_refuses_what_exceeds_it_unless_it_is_empty() -> None:
    budget = Budget(10)
    with budget.hold(12):
        pass
    with budget.hold(8), budget.hold(2), pytest.raises(BusyError) as error, budget.hold(1):
        pass
    assert error.value.amount == 10
    assert budget.held == 0
