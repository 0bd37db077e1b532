"""`inception-v3 fidelity`, whole: what it prints, keeps, warns of and refuses. Most of it with a thin network."""

import contextlib
import csv
import io
import json
import resource
import shutil
import sqlite3
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import randomise, relative
from fidelity_peers import torch_fidelity_distance, torch_fidelity_features
from fidelity_pictures import folder_of, odd_pictures, picture
from inception_v3 import cli
from inception_v3.errors import InputError
from inception_v3.fidelity import features, scores
from inception_v3.fidelity.cache import FeatureCache
from inception_v3.fidelity.conventions import find_convention
from inception_v3.fidelity.features import extract
from inception_v3.fidelity.network import Network, load_network
from inception_v3.fidelity.pictures import KEY_BYTES, Facts
from inception_v3.fidelity.rows import RowWriter
from inception_v3.fidelity.run import fidelity
from inception_v3.fidelity.sources import open_source
from inception_v3.network.settings import GRAPH_2015
from inception_v3.weights.load import load, save
from inception_v3.weights.model import InceptionV3

Run = Callable[..., tuple[int, str, str]]
KEYS = {
    "fid", "fid_low", "fid_high", "fid_infinity", "fid_infinity_low", "fid_infinity_high", "kid_mean", "kid_std",
    "is_mean", "is_std", "precision", "recall", "density", "coverage", "sfid", "memorisation_distance",
    "memorisation_distance_min", "memorisation_distance_reference",
}  # fmt: skip


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network like that of 2015, a tenth as wide: 203 features."""
    model = InceptionV3(**dict(GRAPH_2015) | {"depth_multiplier": 0.1, "min_depth": 8})
    randomise(model)
    path = tmp_path_factory.mktemp("thin") / "thin.safetensors"
    save(model, path)
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return folder_of(folder / "generated", 18), folder_of(folder / "réel", 20, seed=100)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, thin: Path, tmp_path: Path) -> Run:
    """Runs the command in this process with the thin network and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def command(*arguments: object, weights: Path = thin, any_weights: bool = True) -> tuple[int, str, str]:
        given = ["fidelity", *map(str, arguments), "--weights-file", str(weights), *["--any-weights"] * any_weights]
        monkeypatch.setattr(sys, "argv", ["inception-v3", *given])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(exited.value.code or 0), out, err

    return command


@pytest.fixture
def scored(run: Run) -> Callable[..., dict[str, object]]:
    """The answer as --json."""

    def command(*arguments: object, **options: object) -> dict[str, object]:
        status, out, err = run(*arguments, "--json", **options)
        assert status == 0, err
        return json.loads(out)

    return command


# --- what comes out ---


def test_json_is_flat_and_has_every_score_and_what_they_depend_on(
    scored: Callable[..., dict[str, object]], sets: tuple[Path, Path]
) -> None:
    told = scored(*sets)
    assert told.keys() > KEYS
    assert all(isinstance(told[key], float) for key in KEYS)
    assert told["fid_low"] <= told["fid"] <= told["fid_high"]
    assert (told["generated_count"], told["reference_count"]) == (18, 20)
    assert told["generated_sizes"] == told["reference_sizes"] == "64x64"
    assert (told["convention"], told["dtype"], len(told["weights"])) == ("clean-fid", "fp32", 64)
    nested = [key for key, value in told.items() if not isinstance(value, str | float | int | None)]
    assert nested == ["warnings", "notes", "unreadable"]


def test_csv_is_a_header_and_a_row_of_the_same(
    run: Run, scored: Callable[..., dict[str, object]], sets: tuple[Path, Path]
) -> None:
    (row,) = csv.DictReader(io.StringIO(run(*sets, "--csv")[1]))
    told = scored(*sets)
    assert float(row["fid"]) == told["fid"]
    assert row["reference"] == str(sets[1])
    assert row.keys() > KEYS


def test_people_see_the_scores_their_intervals_and_the_warnings(run: Run, sets: tuple[Path, Path]) -> None:
    status, out, err = run(*sets)
    assert status == 0
    for part in ("fid", "kid", "is", "precision", "coverage", "95 %", "±", "18 images", "clean-fid"):
        assert part in out
    assert "18 images are few" in err.replace("\n", " ")


def test_some_scores_alone_and_the_inception_score_without_a_reference(
    scored: Callable[..., dict[str, object]], sets: tuple[Path, Path]
) -> None:
    some = scored(*sets, "--scores", "fid,precision")
    assert {key for key in KEYS if some[key] is not None} == {"fid", "precision", "recall"}
    alone = scored(sets[0])
    assert {key for key in KEYS if alone[key] is not None} == {"is_mean", "is_std"}
    assert "reference" not in alone


def test_every_form_of_a_set_and_every_order_of_options_gives_one_number(
    scored: Callable[..., dict[str, object]], sets: tuple[Path, Path], tmp_path: Path
) -> None:
    generated, reference = sets
    shutil.make_archive(str(tmp_path / "set"), "zip", generated)
    shutil.make_archive(str(tmp_path / "set"), "tar", generated)
    np.savez(tmp_path / "set.npz", np.stack([picture(seed) for seed in range(18)]))
    expected = scored("--scores", "fid", *sets)["fid"]
    for name in ("set.zip", "set.tar", "set.npz"):
        assert scored(tmp_path / name, reference, "--scores", "fid")["fid"] == pytest.approx(expected, rel=1e-9)


def test_the_page_shows_pictures_inside_and_escapes_names(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    generated = tmp_path / "<b>&"
    shutil.copytree(sets[0], generated)
    status, _, err = run(generated, sets[1], "--scores", "fid", "--html", tmp_path / "page.html")
    assert status == 0, err
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == (8 + 8) * (1 + 5)
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "://" not in page


def test_few_pictures_have_the_scores_of_as_many_neighbours(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    few = folder_of(tmp_path / "few", 4)
    asked = ("--scores", "precision,density,memorisation")
    status, out, err = run(few, sets[1], *asked, "--json", "--html", tmp_path / "few.html")
    assert status == 0, err
    told = json.loads(out)
    assert 0 <= told["precision"] <= 1
    assert told["memorisation_distance"] > 0
    assert told["density"] is None
    assert told["notes"] == ["no density: 4 images have no 5 neighbours; give more"]
    assert (tmp_path / "few.html").read_text("utf-8").count("data:image/png;base64,") == 4 * (1 + 5)


# --- parity, whole ---


def test_fid_kid_and_is_of_odd_pictures_are_torch_fidelitys(run: Run, weights_of_2015: Path, tmp_path: Path) -> None:
    """All kinds and sizes of pictures, fewer than dimensions; torch-fidelity's own distance takes 4 s of these."""
    files = odd_pictures(tmp_path / "odd")
    others = sorted(folder_of(tmp_path / "even", 7, 40, (80, 100), ".jpg").iterdir())
    options = [
        "--like",
        "torch-fidelity",
        "--kid-subset-size",
        5,
        "--kid-subsets",
        3,
        "--json",
        "--scores",
        "fid,kid,is",
    ]
    status, out, err = run(
        tmp_path / "odd", tmp_path / "even", *options, "--is-splits", 2, weights=weights_of_2015, any_weights=False
    )
    assert status == 0, err
    ours = json.loads(out)
    listed = [Path(name) for name in sorted(map(str, files))]
    theirs = [torch_fidelity_features(some, weights_of_2015) for some in (listed, others)]
    fid = torch_fidelity_distance(theirs[0]["2048"], theirs[1]["2048"])
    assert ours["fid"] == pytest.approx(fid, abs=1e-3)
    assert ours["fid"] == pytest.approx(fid, rel=1e-5)
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    features = [one["2048"].double() for one in theirs]
    kid = kid_features_to_metric(*features, kid_subsets=3, kid_subset_size=5, verbose=False)
    kernel = float(((features[0] @ features[1].T / 2048 + 1) ** 3).mean())
    assert ours["kid_mean"] == pytest.approx(kid["kernel_inception_distance_mean"], abs=1e-6 * kernel)
    assert ours["kid_std"] == pytest.approx(kid["kernel_inception_distance_std"], abs=1e-6 * kernel)
    score = isc_features_to_metric(theirs[0]["logits_unbiased"].double(), 2)
    assert ours["is_mean"] == pytest.approx(score["inception_score_mean"], rel=1e-6)


def test_a_set_against_itself_is_zero(scored: Callable[..., dict[str, object]], sets: tuple[Path, Path]) -> None:
    told = scored(sets[0], sets[0], "--scores", "fid,sfid,precision,memorisation")
    assert (told["fid"], told["sfid"]) == pytest.approx((0, 0), abs=1e-6)
    assert (told["precision"], told["recall"], told["memorisation_distance"]) == (1, 1, 0)


def test_sfid_has_a_references_rounding_under_the_one_that_has_sfid(
    sets: tuple[Path, Path], thin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its root takes as long as theirs, seconds at full width."""
    asked = []
    monkeypatch.setattr(scores, "frechet_distance", lambda first, second, reference: asked.append(reference) or 1.0)
    for like in (None, "torch-fidelity", "adm"):
        fidelity(*sets, weights=thin, any_weights=True, cache=tmp_path, scores=["fid", "sfid"], like=like)
    assert asked == [None, None, "eigvals", None, "sqrtm", "sqrtm"]


def test_torch_fidelity_has_no_kid_of_fewer_than_a_subset(
    run: Run, scored: Callable[..., dict[str, object]], sets: tuple[Path, Path]
) -> None:
    told = scored(*sets, "--like", "torch-fidelity", "--scores", "fid,kid")
    assert told["kid_mean"] is None
    assert "no kid: subsets of 1000 from 18 images" in told["notes"][0]
    status, _, err = run(*sets, "--like", "torch-fidelity", "--scores", "kid")
    assert (status, "subsets of 1000" in err) == (1, True)


# --- saved statistics ---


def test_saved_statistics_stand_for_their_pictures(
    run: Run, scored: Callable[..., dict[str, object]], sets: tuple[Path, Path], tmp_path: Path
) -> None:
    whole = scored(*sets)
    assert run(sets[1], "--save-statistics", tmp_path / "real.npz")[0] == 0
    told = scored(sets[0], tmp_path / "real.npz")
    assert (told["fid"], told["sfid"]) == pytest.approx((whole["fid"], whole["sfid"]), rel=1e-6)
    assert (told["reference_count"], told["reference_sizes"]) == (20, "64x64")
    assert told["is_mean"] == whole["is_mean"]
    assert told["fid_infinity"] is not None
    assert told["kid_mean"] is told["precision"] is None
    assert f"no kid: {tmp_path}/real.npz holds statistics" in told["notes"][0]
    both = scored(tmp_path / "real.npz", tmp_path / "real.npz", "--scores", "fid")
    assert both["fid"] == pytest.approx(0, abs=1e-5 * whole["fid"])


def test_statistics_of_another_convention_network_or_width_are_refused(
    run: Run, sets: tuple[Path, Path], tmp_path: Path, thin: Path
) -> None:
    assert run(sets[1], "--save-statistics", tmp_path / "real.npz")[0] == 0
    status, _, err = run(sets[0], tmp_path / "real.npz", "--like", "pytorch-fid")
    assert status == 1
    assert "made by clean-fid, the other set is read by pytorch-fid" in err
    assert run(sets[0], tmp_path / "real.npz", "--like", "clean-fid", "--scores", "fid")[0] == 0
    model = InceptionV3(**dict(GRAPH_2015) | {"depth_multiplier": 0.1, "min_depth": 8})
    randomise(model, seed=1)
    save(model, tmp_path / "other.safetensors")
    status, _, err = run(sets[0], tmp_path / "real.npz", weights=tmp_path / "other.safetensors")
    assert status == 1
    assert "made with the weights" in err
    for width, code, told in ((203, 2, "which convention it was made; name it with --like"), (768, 1, "mu has 768")):
        np.savez(tmp_path / "theirs.npz", mu=np.zeros(width), sigma=np.eye(width))
        status, _, err = run(sets[0], tmp_path / "theirs.npz")
        assert (status, told in err) == (code, True)


def test_adms_reference_batch_gives_its_statistics_for_fid_and_its_pictures_for_the_rest(
    scored: Callable[..., dict[str, object]], sets: tuple[Path, Path], tmp_path: Path
) -> None:
    options = ["--like", "adm", "--scores", "fid,precision,memorisation"]
    whole = scored(*sets, *options)
    array = np.stack([picture(seed) for seed in range(100, 120)])
    zeros = {"mu": np.zeros(203), "sigma": np.eye(203), "mu_s": np.zeros(2023), "sigma_s": np.eye(2023)}
    np.savez(tmp_path / "batch.npz", array, **zeros)
    told = scored(sets[0], tmp_path / "batch.npz", *options)
    assert told["precision"] == whole["precision"]
    assert told["memorisation_distance"] == pytest.approx(whole["memorisation_distance"])
    assert told["fid"] != pytest.approx(whole["fid"], rel=0.01)
    assert scored(sets[0], tmp_path / "batch.npz")["fid"] == pytest.approx(scored(*sets)["fid"])


# --- cache and resume ---


def test_a_second_run_takes_all_from_the_cache_and_another_convention_none(
    sets: tuple[Path, Path], thin: Path, tmp_path: Path
) -> None:
    options = {"weights": thin, "any_weights": True, "cache": tmp_path, "scores": ["fid"]}
    first, second = (fidelity(*sets, **options) for _ in range(2))
    assert (first.generated.features.from_cache, second.generated.features.from_cache) == (0, 18)
    assert second.reference.features.from_cache == 20
    assert first.scores == second.scores
    assert first.as_dict() == second.as_dict()
    np.testing.assert_array_equal(first.generated.features.rows, second.generated.features.rows)
    other = fidelity(*sets, **options, like="pytorch-fid")
    assert other.generated.features.from_cache == 0
    without = fidelity(*sets, **options, use_cache=False)
    assert without.generated.features.from_cache == 0
    assert without.scores["fid"] == pytest.approx(first.scores["fid"], rel=1e-6)


def test_two_runs_may_keep_features_in_one_file_at_once(tmp_path: Path) -> None:
    first, second = (FeatureCache(tmp_path, "features", 3) for _ in range(2))
    facts = Facts(8, 8, "PNG", False, b"0" * KEY_BYTES)
    first.put([(b"1", facts, np.ones(3, np.float32))])  # and it goes on, or hangs
    started = time.monotonic()
    second.put([(b"2", facts, np.zeros(3, np.float32))])
    assert time.monotonic() - started < 5
    assert second.get(b"1") is not None
    assert first.get(b"2") is not None
    assert first.problem is second.problem is None


def test_other_settings_of_the_same_weights_have_another_checksum(thin: Path, tmp_path: Path) -> None:
    """Or one network would be given the features of the other."""
    model = load(thin)
    assert load_network(model, any_weights=True).checksum == load_network(thin, any_weights=True).checksum
    for other in ({"mixed_7c_pool": "avg"}, {"count_padding": True}, {"batch_norm_epsilon": 0.01}):
        unlike = InceptionV3(**model.settings | other)
        unlike.load_state_dict(model.state_dict())
        checksums = {load_network(one, any_weights=True).checksum for one in (model, unlike.eval())}
        assert len(checksums) == 2


def test_a_killed_run_goes_on_where_it_was(sets: tuple[Path, Path], thin: Path, tmp_path: Path) -> None:
    network = load_network(thin, any_weights=True)
    width = network.width + network.spatial_width
    batches = 0

    def dies(images: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal batches
        batches += 1
        if batches == 3:
            raise KeyboardInterrupt
        return network.features(images)

    dying = Network(**{**vars(network), "features": dies})
    kept = FeatureCache(tmp_path, "features", width)  # never closed, as by a kill
    source, convention = open_source(sets[0]), find_convention()
    with pytest.raises(KeyboardInterrupt):
        extract(source, dying, convention, cache=kept, batch_size=4)
    again = extract(source, network, convention, cache=FeatureCache(tmp_path, "features", width), batch_size=4)
    assert again.from_cache == 8
    assert relative(again.rows, extract(source, network, convention).rows) < 1e-5


@pytest.mark.parametrize("damage", ["text", "folder in its place", "row"])
def test_a_cache_that_cannot_be_used_is_told_and_done_without(
    damage: str, run: Run, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    assert run(*sets, "--cache", tmp_path / "c", "--scores", "fid")[0] == 0
    (file,) = (tmp_path / "c").iterdir()
    if damage == "text":
        file.write_text("no database" * 1000)
    elif damage == "row":
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
        file.mkdir()
    status, out, err = run(*sets, "--cache", tmp_path / "c", "--scores", "fid", "--json")
    assert status == 0
    assert json.loads(out)["fid"] > 0
    assert "no cache of features" in err.replace("\n", " ")


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    """A network that answers at once: what is left is all that the pass holds."""

    def features(images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(len(images), 2048), torch.ones(len(images), 2023)

    network = Network(features, 2048, 2023, "0", np.zeros((3, 2048), np.float32), "fp32", torch.device("cpu"))
    peaks = []
    for count in (100, 100, 600):
        np.save(tmp_path / "set.npy", np.zeros((count, 8, 8, 3), np.uint8))
        tracemalloc.start()
        found = extract(open_source(tmp_path / "set.npy"), network, find_convention("pytorch-fid"), workers=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(found) == count
    assert peaks[2] - peaks[1] < 500 * 1000  # a row alone has 16 kB


def test_rows_on_disk_are_read_as_an_array_is_and_not_mapped() -> None:
    expected = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
    file = RowWriter(7)
    for place in np.random.default_rng(1).permutation(30):
        file.write(int(place), expected[place])
    rows = file.rows(30)
    for columns in (slice(0, 7), slice(0, 4), slice(4, 7)):
        part = rows.columns(columns.start, columns.stop)
        assert (len(part), part.shape) == (30, expected[:, columns].shape)
        for chosen in (slice(None), slice(3, 9), slice(25, 99), slice(0, 0), np.array([7, 0, 7, 29])):
            np.testing.assert_array_equal(part[chosen], expected[chosen, columns])
        np.testing.assert_array_equal(np.asarray(part), expected[:, columns])


@pytest.mark.parametrize("on_cpu", [True, False])
def test_pictures_come_in_order_and_threads_keep_to_their_cores(on_cpu: bool) -> None:
    """On a processor, where each thread runs the network too, they share the cores; beside a GPU each has one."""
    cores = max(1, features.core_count() // 3) if on_cpu else 1
    threads = torch.get_num_threads()
    seen, running = set(), set()

    def prepare(number: int) -> features._Prepared:
        seen.add(torch.get_num_threads())
        return features._Prepared(facts=number, image=None if number % 5 == 0 else torch.full((1,), float(number)))

    def answer(images: Tensor) -> tuple[Tensor, Tensor]:
        running.add(threading.current_thread() is threading.main_thread())
        return images, -images

    network = Network(answer, 1, 1, "0", np.zeros((3, 1), np.float32), "fp32", torch.device("cpu"), callers=3)
    given = (prepare, network, iter(range(50)), 4)
    batches = list(features._in_every_thread(*given) if on_cpu else features._beside_the_network(*given, 3))
    assert [len(batch) for batch in batches] == [4] * 12 + [2]
    found = [one for batch in batches for one in batch]
    assert [one.facts for one in found] == list(range(50))
    assert all(one.row is None if n % 5 == 0 else one.row.tolist() == [n, -n] for n, one in enumerate(found))
    assert (seen, running) == ({cores}, {not on_cpu})
    assert torch.get_num_threads() == threads
    (later,) = list(ThreadPoolExecutor(1).map(lambda _: torch.get_num_threads(), [0]))
    assert later == threads


def test_a_full_disk_is_told() -> None:
    """As if it were: this process may write no file of more than 100 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = RowWriter(16)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        file.write(0, np.zeros(16, np.float32))
        for place in (1, 2):  # there is room for a part, then for nothing
            with pytest.raises(InputError, match=r"no room for the features .* set TMPDIR"):
                file.write(place, np.zeros(16, np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# --- warnings ---


def warned(scored: Callable[..., dict[str, object]], *arguments: object) -> str:
    return "\n".join(scored(*arguments, "--scores", "fid")["warnings"])


def test_sets_that_should_not_be_compared_are_warned_of(
    run: Run, scored: Callable[..., dict[str, object]], sets: tuple[Path, Path], tmp_path: Path
) -> None:
    generated, reference = sets
    plain = warned(scored, *sets)
    assert "18 images are few" in plain
    assert "18 generated and 20 reference images" in plain
    assert "18 of 18 generated images (64x64) are enlarged more than twice" in plain
    for absent in ("copies", "are in the reference too", "JPEG", "gray", "the resize"):
        assert absent not in plain

    other = tmp_path / "other"
    shutil.copytree(generated, other)
    shutil.copy(reference / "0000.png", other / "leak.png")
    shutil.copy(other / "0001.png", other / "twice.png")
    told = warned(scored, other, reference)
    assert "1 of 20 generated images are in the reference too" in told
    assert "1 of 20 generated images are copies of others" in told

    for number in range(18):
        image = Image.fromarray(picture(number, 200, 180))
        folder_of(tmp_path / "gray", 0), folder_of(tmp_path / "jpeg", 0)
        image.convert("L").save(tmp_path / "gray" / f"{number}.png")
        image.save(tmp_path / "jpeg" / f"{number}.jpg")
    told = warned(scored, tmp_path / "gray", tmp_path / "jpeg")
    assert "100% of the generated images are gray, 0% of the reference" in told
    assert "0% of the generated images are JPEG, 100% of the reference" in told
    assert "enlarged" not in told
    assert run(tmp_path / "jpeg", "--save-statistics", tmp_path / "jpeg.npz")[0] == 0
    saved = warned(scored, tmp_path / "gray", tmp_path / "jpeg.npz")
    assert "100% of the generated images are gray, 0% of the reference" in saved
    assert "0% of the generated images are JPEG, 100% of the reference" in saved
    told = warned(scored, tmp_path / "jpeg", reference)
    assert "generated images are 180x200, the reference's 64x64" in told


def test_the_same_pixels_are_found_however_they_were_stored(
    scored: Callable[..., dict[str, object]], sets: tuple[Path, Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "again.npy", np.stack([picture(seed) for seed in (1, 0, 1)]))
    Image.fromarray(picture(2)).save(folder_of(tmp_path / "other", 2, 50) / "form.bmp")
    assert "3 of 3 generated images are in the reference too" in (
        told := warned(scored, tmp_path / "again.npy", sets[0])
    )
    assert "1 of 3 generated images are copies" in told
    assert "1 of 3 generated images are in the reference too" in warned(scored, tmp_path / "other", sets[0])


def test_statistics_of_another_precision_are_warned_of(
    run: Run, scored: Callable[..., dict[str, object]], sets: tuple[Path, Path], tmp_path: Path
) -> None:
    assert run(sets[1], "--save-statistics", tmp_path / "real.npz", "--precision", "bf16")[0] == 0
    assert "one set was read in bf16, the other in fp32" in warned(scored, sets[0], tmp_path / "real.npz")


# --- bad input ---


def test_pictures_that_cannot_be_read_are_skipped_counted_and_listed_or_stop_it(
    run: Run, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = json.loads(run(*sets, "--json", "--scores", "fid")[1])["fid"]
    broken = tmp_path / "broken"
    shutil.copytree(sets[0], broken)
    (broken / "cut.png").write_bytes((broken / "0000.png").read_bytes()[:900])
    (broken / "0002x.jpg").write_bytes(b"")
    status, out, err = run(broken, sets[1], "--json", "--scores", "fid")
    told = json.loads(out)
    assert status == 0
    assert (told["generated_unreadable"], told["generated_count"]) == (2, 18)
    assert [Path(reason.partition(":")[0]).name for reason in told["unreadable"]] == ["0002x.jpg", "cut.png"]
    assert told["fid"] == pytest.approx(expected, rel=1e-6)
    assert "2 of 20 images could not be read" in err
    assert "cut.png" in err
    status, out, err = run(broken, sets[1], "--strict")
    assert (status, out) == (1, "")
    assert "0002x.jpg: the file is empty; download or save it again" in err, "as predict says"


def test_one_picture_is_a_clear_error_and_so_are_none(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    for count, code, reason in ((0, 2, "no pictures in this folder"), (1, 1, "one picture has no covariance")):
        status, out, err = run(folder_of(tmp_path / str(count), count), sets[1])
        assert (status, out) == (code, "")
        assert reason in err.replace("\n", " ")
    status, _, err = run(tmp_path / "1", "--save-statistics", tmp_path / "one.npz")
    assert (status, "no covariance to keep" in err) == (1, True)
    status, out, err = run(tmp_path / "1")
    assert (status, out, "10 parts of 1 images" in err) == (1, "", True)
    status, out, err = run(sets[1], "--scores", "fid")
    assert (status, out, "needs a REFERENCE" in err) == (1, "", True)
    (tmp_path / "bad").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "bad" / name).write_bytes(b"no")
    status, _, err = run(tmp_path / "bad", sets[1])
    assert status == 1
    assert "no picture in it can be read" in err


def test_two_pictures_are_enough_for_fid(scored: Callable[..., dict[str, object]], tmp_path: Path) -> None:
    told = scored(folder_of(tmp_path / "a", 2), folder_of(tmp_path / "b", 2, 50))
    assert told["fid"] > 0
    assert told["is_mean"] is told["precision"] is told["fid_infinity"] is None
    assert told["memorisation_distance"] > 0
    assert len(told["notes"]) == 4


def test_another_network_is_refused_unless_asked_for(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    status, _, err = run(*sets, any_weights=False)
    assert status == 1
    assert "not the network of 2015 (it has the published widths alone" in err
    assert "--any-weights" in err
    model = InceptionV3(final_endpoint="Mixed_6e", depth_multiplier=0.1)
    save(model, tmp_path / "base.safetensors")
    status, _, err = run(*sets, weights=tmp_path / "base.safetensors")
    assert (status, "ends at Mixed_6e" in err) == (1, True)


@pytest.mark.parametrize(
    ("options", "status", "told"),
    [
        (["--like", "fid"], 2, "no such convention"),
        (["--scores", "fid,fit"], 2, "no score 'fit'"),
        (["--json", "--csv"], 2, "give one of them"),
        (["--precision", "int4"], 2, "int4"),
        (["--device", "tpu"], 2, "--device tpu"),
    ],
)
def test_wrong_use_is_told(options: list[str], status: int, told: str, run: Run, sets: tuple[Path, Path]) -> None:
    got, out, err = run(*sets, *options)
    assert (got, out) == (status, "")
    assert told in err


# --- precision ---


def test_bf16_is_only_on_request_and_its_effect_on_fid_is_told(
    run: Run, scored: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    sets = [folder_of(tmp_path / str(seed), 16, seed=seed) for seed in (100, 200)]
    full = scored(*sets, "--scores", "fid")
    low = scored(*sets, "--scores", "fid", "--precision", "bf16")
    assert "fid_change" not in full
    assert low["dtype"] == "bf16"
    assert 0 < abs(low["fid"] / full["fid"] - 1) < 0.05
    assert low["fid_change"] == pytest.approx(low["fid"] / full["fid"] - 1, rel=1e-3)  # all of these few are judged
    assert "bf16 changes FID by" in run(*sets, "--scores", "fid", "--precision", "bf16")[1]


def test_the_effect_of_bf16_is_told_whatever_is_scored_and_its_pictures_are_kept(
    sets: tuple[Path, Path], thin: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"weights": thin, "any_weights": True, "dtype": "bf16", "cache": f"{tmp_path}"}
    first = fidelity(*sets, **options, scores=["precision"])
    assert first.fid_change
    files = {file.name for file in tmp_path.iterdir()}
    assert len(files) == 2, f"one of bf16, and one of what it is judged by: {files}"
    assert sum("-2-" in name for name in files) == 1, "which rounding, engine and device"
    (judged,) = (tmp_path / name for name in files if "-2-" not in name)
    with contextlib.closing(sqlite3.connect(judged)) as kept:
        assert kept.execute("SELECT count(*) FROM features").fetchone() == (2 * 16,)
    again = fidelity(*sets, **options, scores=["precision"])
    assert again.fid_change == first.fid_change


def test_where_the_effect_cannot_be_measured_the_scores_are_not_lost(
    sets: tuple[Path, Path], thin: Path, tmp_path: Path
) -> None:
    broken = folder_of(tmp_path / "broken", 18)
    for number in range(16):
        (broken / f"0{number:03}.png").write_bytes(b"no picture")
    found = fidelity(broken, sets[1], weights=thin, any_weights=True, dtype="bf16", scores=["fid"], use_cache=False)
    assert found.scores["fid"]
    assert found.fid_change is None
    assert any("what bf16 does to FID could not be measured" in note for note in found.notes)


def test_int8_is_fitted_to_the_reference_and_its_effect_on_fid_is_told(
    run: Run, scored: Callable[..., dict[str, object]], sets: tuple[Path, Path], tmp_path: Path
) -> None:
    both = (sets[0], folder_of(tmp_path / "many", 40, seed=100))
    full = scored(*both, "--scores", "fid")
    low = scored(*both, "--scores", "fid", "--precision", "int8")
    assert low["dtype"] == "int8"
    assert 0 < abs(low["fid"] / full["fid"] - 1) < 0.2
    assert low["fid_change_pictures"] == 16
    status, _, err = run(*sets, "--scores", "fid", "--precision", "int8")
    assert status == 1
    assert "20 images are too few for int8; give at least 32" in err.replace("\n", " ")


def test_folding_keeps_the_model_that_was_given(thin: Path) -> None:
    model = InceptionV3(**dict(GRAPH_2015) | {"depth_multiplier": 0.1, "min_depth": 8})
    randomise(model)
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = load_network(model, any_weights=True)
    images = torch.rand(2, 3, 299, 299) * 2 - 1
    with torch.no_grad():
        _, points = model(images, end_points=("AvgPool_1a",))
    torch.testing.assert_close(network.features(images)[0], points["AvgPool_1a"].flatten(1), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert network.checksum == load_network(thin, any_weights=True).checksum


def test_an_unknown_name_of_weights_is_an_error_with_advice() -> None:
    with pytest.raises(InputError):
        load_network("no/such/file.pth")
