"""Batches: both schedules give the same results, in order, in bounded memory, and leave no thread behind."""

import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from inception_v3.errors import InputError
from inception_v3.inference.schedule import BATCHES_AHEAD, BatchOptions, Result, run_batches

CALLERS = [1, 3]


def prepare(source: int, row: np.ndarray) -> str:
    """Write the source to its row. Sources above 1000 cannot be prepared."""
    if source > 1000:
        raise InputError(f"{source}: too large")
    row[...] = source
    return f"info {source}"


def compute(inputs: np.ndarray, sources: list[int]) -> dict[str, np.ndarray]:
    assert inputs.shape == (len(sources), 2)
    assert inputs.dtype == np.float32
    return {"double": 2 * inputs, "negative": -inputs[:, 0]}


def run(sources: object, callers: int, size: int = 4, **options: object) -> Iterator[Result[int, str]]:
    return run_batches(
        sources, prepare, options.pop("compute", compute), (2,), np.float32,  # type: ignore[arg-type]
        BatchOptions(size, callers=callers, threads=2), **options,  # type: ignore[arg-type]
    )  # fmt: skip


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prepare"]


def assert_no_threads() -> None:
    until = time.monotonic() + 60
    while threads():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("callers", CALLERS)
@pytest.mark.parametrize("count", [0, 1, 4, 5, 9, 50])
def test_results_come_in_the_order_of_the_sources(count: int, callers: int) -> None:
    results = list(run(range(count), callers))
    assert [result.source for result in results] == list(range(count))
    assert [result.info for result in results] == [f"info {number}" for number in range(count)]
    assert [result.outputs["negative"] for result in results if result.outputs] == [-n for n in range(count)]
    assert all(result.outputs["double"].tolist() == [2 * result.source] * 2 for result in results if result.outputs)
    assert_no_threads()


@pytest.mark.parametrize("callers", CALLERS)
def test_a_source_that_cannot_be_prepared_is_an_error_and_the_others_keep_their_outputs(callers: int) -> None:
    results = list(run([1, 2000, 3, 2001, 2002, 2003, 2004, 8], callers))
    assert [result.error for result in results if result.outputs is None] == [
        f"{number}: too large" for number in (2000, 2001, 2002, 2003, 2004)
    ]
    assert [result.outputs["negative"] for result in results if result.outputs] == [-1, -3, -8]


@pytest.mark.parametrize("callers", CALLERS)
def test_a_source_that_needs_no_computation_has_its_info_and_no_outputs(callers: int) -> None:
    computed: list[int] = []

    def recorded(inputs: np.ndarray, sources: list[int]) -> dict[str, np.ndarray]:
        computed.extend(sources)
        return compute(inputs, sources)

    even = {f"info {number}" for number in range(0, 20, 2)}
    results = list(run(range(20), callers, compute=recorded, needs_computation=lambda info: info not in even))
    assert sorted(computed) == list(range(1, 20, 2))
    assert [result.outputs is None for result in results] == [True, False] * 10
    assert [result.info for result in results] == [f"info {number}" for number in range(20)]


@pytest.mark.parametrize("callers", CALLERS)
def test_only_a_few_batches_are_taken_ahead(callers: int) -> None:
    last = 0

    def endless() -> Iterator[int]:
        nonlocal last
        for last in itertools.count():
            yield last % 100

    results = run(endless(), callers)
    for done, _ in zip(range(200), results, strict=False):
        assert last <= done + 4 * (BATCHES_AHEAD + callers + 1)
    results.close()  # type: ignore[attr-defined]
    assert_no_threads()


@pytest.mark.parametrize("callers", CALLERS)
def test_an_error_of_the_computation_is_raised_after_the_results_before_it(callers: int) -> None:
    def failing(inputs: np.ndarray, sources: list[int]) -> dict[str, np.ndarray]:
        if 11 in sources:
            raise RuntimeError("out of memory")
        return compute(inputs, sources)

    results = run(range(40), callers, compute=failing)
    assert [next(results).source for _ in range(9)] == list(range(9))
    with pytest.raises(RuntimeError, match="out of memory"):
        list(results)
    assert_no_threads()


@pytest.mark.parametrize("callers", CALLERS)
def test_an_error_of_the_sources_is_raised_after_the_results_before_it(callers: int) -> None:
    def sources() -> Iterator[int]:
        yield from range(7)
        raise InputError("folder: cannot be listed")

    results = run(sources(), callers)
    assert [next(results).source for _ in range(7)] == list(range(7))
    with pytest.raises(InputError, match="cannot be listed"):
        next(results)
    assert_no_threads()


def test_several_callers_compute_at_the_same_time_and_prepare_in_the_same_thread() -> None:
    barrier = threading.Barrier(3)
    prepared: dict[int, str] = {}

    def prepare_here(source: int, row: np.ndarray) -> None:
        prepared[source] = str(threading.get_ident())
        row[...] = source

    def together(inputs: np.ndarray, sources: list[int]) -> dict[str, np.ndarray]:
        assert {prepared[source] for source in sources} == {str(threading.get_ident())}
        barrier.wait(60)  # returns only if three threads are here at once
        return {"same": inputs}

    options = BatchOptions(2, first=2, callers=3)
    assert len(list(run_batches(range(12), prepare_here, together, (1,), np.int64, options))) == 12
