"""The queue in front of an engine: full speed, results that are never mixed up, bounds, deadlines, turns."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest

from inception_v3.serve.batching import Batcher, Budget, BusyError, ClosedError, ExpiredError, Turns

LATER = time.monotonic() + 3600
Pixels = np.ndarray


class Engine:
    """Returns the value of each image, and waits at a gate in each batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate, self.entered, self.error = threading.Event(), threading.Semaphore(0), None
        self.gate.set()

    def __call__(self, pixels: Pixels) -> dict[str, np.ndarray]:
        self.batches.append(pixels[:, 0, 0, 0].tolist())
        self.entered.release()
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return {"value": pixels[:, 0, 0, :1].astype(np.float32), "other": np.zeros((len(pixels), 4))}


def images(*values: int, size: int = 2) -> Pixels:
    return np.stack([np.full((size, size, 3), value, np.uint8) for value in values])


def values(future: "Future[dict[str, np.ndarray]]") -> list[int]:
    return future.result(10)["value"][:, 0].astype(int).tolist()


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def batcher(engine: Engine) -> Iterator[Batcher]:
    batcher = Batcher(engine, 4, Turns(), lambda *_: None)
    yield batcher
    engine.gate.set()
    batcher.close()


def busy(engine: Engine, batcher: Batcher, value: int = 0) -> "Future[dict[str, np.ndarray]]":
    """A job that is in the engine until the gate opens."""
    engine.gate.clear()
    future = batcher.submit(images(value), ["value"], LATER)
    assert engine.entered.acquire(timeout=10)
    return future


def test_a_single_image_does_not_wait_for_a_fuller_batch(engine: Engine, batcher: Batcher) -> None:
    assert values(batcher.submit(images(7), ["value"], LATER)) == [7]
    assert engine.batches == [[7]]


def test_images_gather_while_the_engine_is_busy(engine: Engine, batcher: Batcher) -> None:
    first = busy(engine, batcher)
    others = [batcher.submit(images(value), ["value"], LATER) for value in range(1, 7)]
    engine.gate.set()
    assert [values(each) for each in (first, *others)] == [[value] for value in range(7)]
    assert engine.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_request_of_many_images_is_computed_in_several_batches_beside_others(
    engine: Engine, batcher: Batcher
) -> None:
    first = busy(engine, batcher)
    large = batcher.submit(images(1, 2, 3, 4, 5, 6), ["value"], LATER)
    small = batcher.submit(images(9), ["value"], LATER)
    engine.gate.set()
    assert (values(first), values(large), values(small)) == ([0], [1, 2, 3, 4, 5, 6], [9])
    assert engine.batches == [[0], [1, 2, 3, 4], [5, 6, 9]]


def test_images_of_different_sizes_are_never_in_one_batch(engine: Engine, batcher: Batcher) -> None:
    busy(engine, batcher)
    futures = [batcher.submit(images(value, size=value), ["value"], LATER) for value in (2, 3, 3)]
    engine.gate.set()
    assert [values(each) for each in futures] == [[2], [3], [3]]
    assert engine.batches == [[0], [2], [3, 3]]


def test_a_job_gets_only_the_outputs_that_it_named(batcher: Batcher) -> None:
    assert batcher.submit(images(1), ["other"], LATER).result(10).keys() == {"other"}


def test_a_cancelled_job_gives_up_its_place_at_once(engine: Engine, batcher: Batcher) -> None:
    busy(engine, batcher)
    cancelled = batcher.submit(images(1), ["value"], LATER)
    kept = batcher.submit(images(2), ["value"], LATER)
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
    assert values(batcher.submit(images(3), ["value"], LATER)) == [3]
    with pytest.raises(CancelledError):
        first.result(10)


def test_an_expired_job_leaves_the_queue_and_is_never_computed(engine: Engine, batcher: Batcher) -> None:
    busy(engine, batcher)
    expired = batcher.submit(images(1), ["value"], time.monotonic() - 1)
    kept = batcher.submit(images(2), ["value"], LATER)
    engine.gate.set()
    with pytest.raises(ExpiredError):
        expired.result(10)
    assert values(kept) == [2]
    assert engine.batches == [[0], [2]]


def test_an_engine_that_fails_answers_each_job_of_the_batch_once_and_lives(engine: Engine, batcher: Batcher) -> None:
    first = busy(engine, batcher)
    second = batcher.submit(images(1, 2), ["value"], LATER)
    engine.error = RuntimeError("the device is on fire")
    engine.gate.set()
    for future in (first, second):
        with pytest.raises(RuntimeError, match="on fire"):
            future.result(10)
    engine.error = None
    assert values(batcher.submit(images(3), ["value"], LATER)) == [3]


def test_a_large_job_whose_first_batch_fails_is_not_computed_further(engine: Engine, batcher: Batcher) -> None:
    busy(engine, batcher)
    large = batcher.submit(images(*range(1, 9)), ["value"], LATER)
    engine.error = RuntimeError("no")
    engine.gate.set()
    with pytest.raises(RuntimeError):
        large.result(10)
    engine.error = None
    assert values(batcher.submit(images(99), ["value"], LATER)) == [99]
    assert engine.batches == [[0], [1, 2, 3, 4], [99]]


def test_closing_waits_for_the_batch_in_the_engine_and_refuses_the_rest(engine: Engine) -> None:
    batcher = Batcher(engine, 4, Turns(), lambda *_: None)
    first, queued = busy(engine, batcher), batcher.submit(images(1), ["value"], LATER)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(ClosedError):
        queued.result(10)
    with pytest.raises(ClosedError):
        batcher.submit(images(2), ["value"], LATER)
    engine.gate.set()
    closing.join(10)
    assert values(first) == [0]
    assert engine.batches == [[0]]


def test_many_threads_get_their_own_results(engine: Engine, batcher: Batcher) -> None:
    wrong: list[int] = []

    def ask(value: int) -> None:
        for repeat in range(20):
            wanted = [(value + 7 * repeat + index) % 256 for index in range(1 + repeat % 6)]
            if values(batcher.submit(images(*wanted), ["value"], LATER)) != wanted:
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

    def engine(name: str) -> Callable[[Pixels], dict[str, np.ndarray]]:
        def run(pixels: Pixels) -> dict[str, np.ndarray]:
            order.append(name)
            time.sleep(0.01)
            return {"value": pixels[:, 0, 0, :1]}

        return run

    batchers = [Batcher(engine(name), 1, turns, lambda *_: None) for name in "ab"]
    with turns:  # both have a full queue before either starts
        futures = [each.submit(images(1, 2, 3, 4), ["value"], LATER) for each in batchers]
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
