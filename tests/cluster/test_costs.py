"""The arithmetic of `benchmarks/cluster.py --costs`, whose tables docs/scale.md shows."""

import importlib.util
from types import ModuleType

import pytest

from conftest import ROOT


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cluster_benchmark", ROOT / "benchmarks" / "cluster.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def measured(benchmark: ModuleType) -> object:
    return benchmark.Resources(
        decode=500, engine=12.5, predict=10, rows=20_000, vectors=40_000, moments=5_000, disk_read=5e8, disk_write=1e9,
        loopback=4e9, image=80_000, row=40, sent_row=50, features=8192, sent_features=7168,
    )  # fmt: skip


def test_a_million_predictions_cost_the_time_of_the_engine(benchmark: ModuleType, measured: object) -> None:
    cost = benchmark.cost("predict", 1e6, 50, measured)
    assert (cost.one_core, cost.cores, cost.driver) == (1e5, 2e3, 50)
    assert (cost.read, cost.sent, cost.stored) == (8e10, 5e7, 4e7)


def test_with_very_many_cores_the_process_of_the_command_is_the_limit(benchmark: ModuleType, measured: object) -> None:
    assert benchmark.cost("predict", 1e9, 2000, measured).cores == pytest.approx(50_000)  # 20,000 images/s, either way
    assert benchmark.cost("predict", 1e9, 10_000, measured).cores == pytest.approx(50_000)
    assert benchmark.cost("predict", 1e9, 1000, measured).cores == pytest.approx(100_000)


def test_features_and_scores_add_the_work_on_their_vectors(benchmark: ModuleType, measured: object) -> None:
    each = 1 / 20_000 + 8192 / 1e9 + 1 / 40_000
    assert benchmark.cost("features", 1e6, 64, measured).driver == pytest.approx(1e6 * each)
    stored = 4 * (2048 + 2023)
    fidelity = benchmark.cost("fidelity", 1e6, 64, measured)
    assert fidelity.driver == pytest.approx(1e6 * (1 / 20_000 + stored / 1e9 + 2 / 40_000 + 2 / 5_000))
    assert (fidelity.stored, fidelity.sent) == (1e6 * stored, pytest.approx(1e6 * stored * 0.875))


@pytest.mark.parametrize(
    ("seconds", "text"), [(59, "59 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 days")]
)
def test_durations_have_the_largest_unit_of_which_there_are_two(
    benchmark: ModuleType, seconds: float, text: str
) -> None:
    assert benchmark.duration(seconds) == text


def test_sizes_are_decimal(benchmark: ModuleType) -> None:
    assert [benchmark.size_of(size) for size in (5e7, 1.5e9, 8.2e12)] == ["50 MB", "1.5 GB", "8.2 TB"]
