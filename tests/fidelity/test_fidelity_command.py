"""The command `inception-v3 fidelity`: its output, files, warnings and errors, mostly with a thin network."""

import csv
import html
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fidelity_inputs import draw_image, image_folder, thin_model, unusual_images
from fidelity_peers import torch_fidelity_distance, torch_fidelity_features
from inception_v3 import __version__, cli
from inception_v3.fidelity import scores
from inception_v3.fidelity.conventions import MODES, PROGRAMS
from inception_v3.fidelity.options import FidelityOptions
from inception_v3.fidelity.result import FidelityResult
from inception_v3.fidelity.run import fidelity
from inception_v3.fidelity.score_names import SCORE_NAMES, names_of, three_digits
from inception_v3.fidelity.snapshots import find_snapshots
from inception_v3.images.find import ImageSource
from inception_v3.inference import feature_store
from inception_v3.inference.feature_store import FeatureStore
from inception_v3.weights.load import save
from inception_v3.weights.model import InceptionV3

Run = Callable[..., tuple[int, str, str]]
RunJson = Callable[..., dict[str, Any]]
KEYS = {
    "fid", "fid_low", "fid_high", "fid_infinity", "fid_infinity_low", "fid_infinity_high", "kid_mean", "kid_std",
    "is_mean", "is_std", "precision", "recall", "density", "coverage", "sfid", "memorisation_distance",
    "memorisation_distance_min", "memorisation_distance_reference",
}  # fmt: skip


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights file of a thin network."""
    path = tmp_path_factory.mktemp("thin") / "thin.safetensors"
    save(thin_model(), path)
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of 18 generated images and one of 20 reference images."""
    folder = tmp_path_factory.mktemp("sets")
    return image_folder(folder / "generated", 18), image_folder(folder / "réel", 20, seed=100)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, thin: Path, tmp_path: Path) -> Run:
    """Runs the command in this process with the thin network and its own cache; returns exit status, stdout, stderr."""
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
def run_json(run: Run) -> RunJson:
    """Runs the command with --json and returns the parsed output."""

    def command(*arguments: object, **options: object) -> dict[str, Any]:
        status, out, err = run(*arguments, "--json", **options)
        assert status == 0, err
        return json.loads(out)

    return command


# --- output ---


def test_json_is_flat_and_holds_all_scores_and_their_conditions(run_json: RunJson, sets: tuple[Path, Path]) -> None:
    values = run_json(*sets)
    assert values.keys() > KEYS
    assert all(isinstance(values[key], float) for key in KEYS)
    assert values["fid_low"] <= values["fid"] <= values["fid_high"]
    assert (values["generated_count"], values["reference_count"]) == (18, 20)
    assert values["generated_sizes"] == values["reference_sizes"] == "64x64"
    assert (values["convention"], values["dtype"], len(values["weights"])) == ("inception-v3", "fp32", 64)
    nested = [key for key, value in values.items() if not isinstance(value, str | float | int | None)]
    assert nested == ["warnings", "notes", "unreadable"]


def test_csv_has_a_header_and_one_row_with_the_values_of_json(
    run: Run, run_json: RunJson, sets: tuple[Path, Path]
) -> None:
    (row,) = csv.DictReader(io.StringIO(run(*sets, "--csv", "-")[1]))
    assert float(row["fid"]) == run_json(*sets)["fid"]
    assert row["reference"] == str(sets[1])
    assert row.keys() > KEYS


def test_the_spellings_of_0_1_0_work_with_a_warning(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    new = run(*sets, "--csv", "-", "--report", tmp_path / "new.html")[1]
    for old in (("--csv", *sets), (*sets, "--csv")):
        status, out, err = run("--html", tmp_path / "old.html", *old)
        assert (status, out) == (0, new)
        assert [line for line in err.splitlines() if "instead; the old spelling" in line] == [
            "--html: write --report instead; the old spelling will be removed in the next release",
            "--csv: write --csv=- instead; the old spelling will be removed in the next release",
        ]
        assert (tmp_path / "old.html").exists()
    status, out, _ = run(*sets, "--csv", tmp_path / "scores.csv")
    assert status == 0
    assert "KID ↓" in out, "the table is printed too"
    assert (tmp_path / "scores.csv").read_text("utf-8") == new


def test_the_table_shows_scores_intervals_and_warnings(run: Run, sets: tuple[Path, Path]) -> None:
    status, out, err = run(*sets)
    assert status == 0
    for part in ("FID ↓", "KID ↓", "IS ↑", "Precision ↑", "Coverage ↑", "95 %", "±", "18 images", "inception-v3"):
        assert part in out
    assert "18 images are few" in err.replace("\n", " ")


def test_only_requested_scores_are_computed_and_without_a_reference_only_the_inception_score(
    run_json: RunJson, sets: tuple[Path, Path]
) -> None:
    requested = run_json(*sets, "--scores", "fid,precision")
    assert {key for key in KEYS if requested[key] is not None} == {"fid", "precision", "recall"}
    without_reference = run_json(sets[0])
    assert {key for key in KEYS if without_reference[key] is not None} == {"is_mean", "is_std"}
    assert "reference" not in without_reference


def test_all_forms_of_a_set_and_all_orders_of_options_give_the_same_fid(
    run_json: RunJson, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    generated, reference = sets
    shutil.make_archive(str(tmp_path / "set"), "zip", generated)
    shutil.make_archive(str(tmp_path / "set"), "tar", generated)
    np.savez(tmp_path / "set.npz", np.stack([draw_image(seed) for seed in range(18)]))
    expected = run_json("--scores", "fid", *sets)["fid"]
    for name in ("set.zip", "set.tar", "set.npz"):
        assert run_json(tmp_path / name, reference, "--scores", "fid")["fid"] == pytest.approx(expected, rel=1e-9)


def test_the_html_page_embeds_images_and_escapes_names(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    generated = tmp_path / "<b>&"
    shutil.copytree(sets[0], generated)
    status, _, err = run(generated, sets[1], "--scores", "fid", "--report", tmp_path / "page.html")
    assert status == 0, err
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == (8 + 8) * (1 + 5)
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "://" not in page


def test_small_sets_have_the_neighbour_scores_for_which_they_have_enough_images(
    run: Run, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    few = image_folder(tmp_path / "few", 4)
    requested = ("--scores", "precision,density,memorisation")
    status, out, err = run(few, sets[1], *requested, "--json", "--report", tmp_path / "few.html")
    assert status == 0, err
    values = json.loads(out)
    assert 0 <= values["precision"] <= 1
    assert values["memorisation_distance"] > 0
    assert values["density"] is None
    assert values["notes"] == ["no density: 4 images are too few for 5 neighbours; give at least 6 of each set"]
    assert (tmp_path / "few.html").read_text("utf-8").count("data:image/png;base64,") == 4 * (1 + 5)


def test_help_lists_every_convention_mode_and_score(run: Run) -> None:
    text = "".join(run("--help")[1].split())
    for name in (*PROGRAMS, *MODES, *scores.SCORES):
        assert name in text.replace("│", "")


def test_names_are_those_of_papers_and_numbers_have_three_digits_except_for_programs(
    run: Run, run_json: RunJson, sets: tuple[Path, Path]
) -> None:
    values, out = run_json(*sets), run(*sets)[1]
    shown = dict(re.findall(r"│ (\S+ [↓↑]) +│ +(\S+) │", out))
    assert [*shown] == [
        *("FID ↓", "FID∞ ↓", "KID ↓", "IS ↑", "Precision ↑", "Recall ↑", "Density ↑", "Coverage ↑", "sFID ↓")
    ]
    for title, key in (("FID ↓", "fid"), ("FID∞ ↓", "fid_infinity"), ("KID ↓", "kid_mean"), ("Recall ↑", "recall")):
        assert float(shown[title]) == pytest.approx(values[key], rel=5e-3)
        assert sum(map(str.isdigit, shown[title].strip("0.-"))) <= 3
    assert values["fid"] != float(shown["FID ↓"])


@pytest.mark.parametrize(
    ("value", "text"),
    [(12, "12.0"), (0.0012345, "0.00123"), (1299.2, "1300"), (206.47, "206"), (1, "1.00"), (-4.6e-7, "-4.60e-07")],
)
def test_a_number_with_three_digits_has_no_exponent_unless_it_is_tiny(value: float, text: str) -> None:
    assert three_digits(value) == text


def test_a_score_without_an_entry_in_the_table_of_names_is_shown_by_its_key() -> None:
    assert [score.title for score in names_of(["kid_mean", "kid_std", "fid_low", "new_mean"])] == ["KID ↓", "new"]


def test_every_score_has_a_name_a_meaning_and_where_there_is_one_its_paper() -> None:
    keys = {key for score in scores.SCORES.values() for key in score.keys}
    spreads = {key for key in keys if key.endswith(("_std", "_low", "_high"))}
    assert {score.key for score in SCORE_NAMES} == keys - spreads
    page = (Path(__file__).parents[2] / "docs" / "fidelity.md").read_text("utf-8")
    for score in SCORE_NAMES:
        assert score.meaning
        assert f"| {score.title} | `{score.key}` | {score.meaning} | {score.source} |" in page
        assert bool(score.source) == bool(score.arrow), score.key


def test_a_terminal_without_arrows_shows_the_keys(
    run: Run, sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("inception_v3.cli.fidelity.output", Console(file=stream))
    status, _, err = run(*sets, "--scores", "fid,kid,fid-infinity")
    assert status == 0, err
    stream.seek(0)
    assert {"fid", "fid_infinity", "kid"} <= set(stream.read().split())


def test_the_citation_has_program_convention_counts_checksum_and_seed(
    run: Run, run_json: RunJson, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    values = run_json(*sets, "--scores", "fid,kid", "--seed", 5, "--kid-subsets", 9, "--report", page)
    sentence = values["cite_as"]
    for part in (
        f"inception-v3 {__version__}",
        "convention inception-v3 with --seed 5 --kid-subsets 9 (",
        "Pillow's antialiased bicubic filter",
        "(x - 128) / 128",
        "exact distance",
        "KID of 9 subsets of at most 1,000 images",
        f"thin.safetensors (SHA-256 {values['weights'][:12]}, not the network of 2015) in fp32",
        "18 generated images and 20 reference images, with seed 5.",
    ):
        assert part in sentence
    assert "Inception Score" not in sentence, "it was not computed"
    assert "seed" not in run_json(*sets, "--scores", "fid")["cite_as"]
    text = html.unescape(page.read_text("utf-8").replace("<wbr>", ""))
    assert f"Cite as: {sentence}" in text
    assert f"Cite as: {run_json(*sets)['cite_as']}" in run(*sets)[1]


def test_the_page_explains_each_score_in_one_line_with_its_source(
    run: Run, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    run(*sets, "--scores", "fid,precision", "--report", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<strong>FID ↓</strong>: Fréchet distance between the features" in page
    assert "Heusel et al. 2017, arXiv 1706.08500" in page
    assert "Recall ↑" in page
    assert "KID" not in page.partition("What the scores mean")[2].partition("How they were computed")[0]


def test_the_page_of_statistics_has_the_scores_and_the_reason_why_it_has_no_images(
    run: Run, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(203), sigma=np.eye(203))
    options = ("--like", "pytorch-fid", "--scores", "fid", "--report", tmp_path / "page.html")
    status, _, err = run(sets[0], tmp_path / "theirs.npz", *options)
    assert status == 0, err
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "FID ↓" in page
    assert "an unknown number of images" in page
    assert "None" not in page
    assert "no images on this page" in page
    assert "data:image" not in page


def test_captions_and_titles_of_the_page_leave_out_the_folders_of_the_sets(
    run: Run, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    run(*sets, "--scores", "fid", "--report", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<title>Scores of “generated” against “réel”</title>" in page
    assert '<img src="data:image/png;base64' in page
    assert 'alt="0000.png"' in page


def test_a_single_sample_has_no_deviation_and_not_one_of_0(
    run: Run, run_json: RunJson, sets: tuple[Path, Path]
) -> None:
    out = run(*sets, "--scores", "kid,is", "--kid-subsets", 1, "--is-splits", 1)[1]
    assert "no deviation: 1 subset" in out
    assert "no deviation: 1 part" in out
    assert "±" not in out
    out = run(sets[0], sets[0], "--scores", "kid", "--kid-subsets", 3)[1]
    assert "no deviation: each subset has all images" in out
    assert run_json(*sets, "--scores", "is", "--is-splits", 1)["is_std"] == 0


# --- parity ---


def test_fid_kid_and_is_of_unusual_images_equal_torch_fidelitys(
    run: Run, weights_of_2015: Path, tmp_path: Path
) -> None:
    """With fewer images than dimensions. torch-fidelity's own distance takes 4 s for these."""
    files = unusual_images(tmp_path / "unusual")
    others = sorted(image_folder(tmp_path / "even", 7, 40, (80, 100), ".jpg").iterdir())
    kid_options = ("--kid-subset-size", 5, "--kid-subsets", 3)
    status, out, err = run(
        *(tmp_path / "unusual", tmp_path / "even", "--like", "torch-fidelity", "--scores", "fid,kid,is", "--json"),
        *(*kid_options, "--is-splits", 2),
        weights=weights_of_2015,
        any_weights=False,
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

    features = [outputs["2048"].double() for outputs in theirs]
    kid = kid_features_to_metric(*features, kid_subsets=3, kid_subset_size=5, verbose=False)
    kernel = float(((features[0] @ features[1].T / 2048 + 1) ** 3).mean())
    assert ours["kid_mean"] == pytest.approx(kid["kernel_inception_distance_mean"], abs=1e-6 * kernel)
    assert ours["kid_std"] == pytest.approx(kid["kernel_inception_distance_std"], abs=1e-6 * kernel)
    score = isc_features_to_metric(theirs[0]["logits_unbiased"].double(), 2)
    assert ours["is_mean"] == pytest.approx(score["inception_score_mean"], rel=1e-6)


def test_a_set_compared_with_itself_has_distance_zero(run_json: RunJson, sets: tuple[Path, Path]) -> None:
    values = run_json(sets[0], sets[0], "--scores", "fid,sfid,precision,memorisation")
    assert (values["fid"], values["sfid"]) == pytest.approx((0, 0), abs=1e-6)
    assert (values["precision"], values["recall"], values["memorisation_distance"]) == (1, 1, 0)


def test_only_the_convention_that_has_sfid_reproduces_its_rounding(
    sets: tuple[Path, Path], thin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full width scipy's sqrtm would take seconds."""
    methods = []
    monkeypatch.setattr(scores, "frechet_distance", lambda first, second, method: methods.append(method) or 1.0)
    for like in (None, "torch-fidelity", "adm"):
        fidelity(*sets, weights=thin, any_weights=True, cache=tmp_path, scores=["fid", "sfid"], like=like)
    assert methods == [None, None, "eigvals", None, "sqrtm", "sqrtm"]


def test_torch_fidelity_has_no_kid_for_fewer_images_than_a_subset_needs(
    run: Run, run_json: RunJson, sets: tuple[Path, Path]
) -> None:
    values = run_json(*sets, "--like", "torch-fidelity", "--scores", "fid,kid")
    assert values["kid_mean"] is None
    assert "no kid: 18 images are too few for subsets of 1000" in values["notes"][0]
    status, _, err = run(*sets, "--like", "torch-fidelity", "--scores", "kid")
    assert (status, "subsets of 1000" in err) == (1, True)


# --- saved statistics ---


def test_saved_statistics_replace_their_images(
    run: Run, run_json: RunJson, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = run_json(*sets)
    assert run(sets[1], "--save-statistics", tmp_path / "real.npz")[0] == 0
    values = run_json(sets[0], tmp_path / "real.npz")
    assert (values["fid"], values["sfid"]) == pytest.approx((expected["fid"], expected["sfid"]), rel=1e-6)
    assert (values["reference_count"], values["reference_sizes"]) == (20, "64x64")
    assert values["is_mean"] == expected["is_mean"]
    assert values["fid_infinity"] is not None
    assert values["kid_mean"] is values["precision"] is None
    assert f"no kid: {tmp_path}/real.npz holds statistics" in values["notes"][0]
    both = run_json(tmp_path / "real.npz", tmp_path / "real.npz", "--scores", "fid")
    assert both["fid"] == pytest.approx(0, abs=1e-5 * expected["fid"])


def test_statistics_of_another_convention_network_or_width_are_refused(
    run: Run, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    assert run(sets[1], "--save-statistics", tmp_path / "real.npz")[0] == 0
    status, _, err = run(sets[0], tmp_path / "real.npz", "--like", "pytorch-fid")
    assert status == 1
    assert "computed by the convention inception-v3, whose resize differs from that of pytorch-fid" in err
    assert run(sets[0], tmp_path / "real.npz", "--like", "clean-fid", "--scores", "fid")[0] == 0
    save(thin_model(seed=1), tmp_path / "other.safetensors")
    status, _, err = run(sets[0], tmp_path / "real.npz", weights=tmp_path / "other.safetensors")
    assert status == 1
    assert "computed with weights" in err
    for width, code, message in (
        (203, 2, "which convention it was computed by; name it with --like"),
        (768, 1, "mu has 768"),
    ):
        np.savez(tmp_path / "theirs.npz", mu=np.zeros(width), sigma=np.eye(width))
        status, _, err = run(sets[0], tmp_path / "theirs.npz")
        assert (status, message in err) == (code, True)


def test_statistics_without_a_number_of_images_read_as_english(
    run: Run, run_json: RunJson, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(203), sigma=np.eye(203))
    options = (sets[0], tmp_path / "theirs.npz", "--like", "pytorch-fid", "--scores", "fid,is")
    out = run(*options)[1]
    assert "None" not in out
    assert f"Reference images: {tmp_path}/theirs.npz (only statistics, of an unknown number of images)\n" in out
    assert "an unknown number of reference images" in run_json(*options)["cite_as"]
    assert run_json(*options)["reference_count"] is None
    err = run(*options, "--save-statistics", tmp_path / "again.npz")[2]
    assert f"{tmp_path}/again.npz: saved mean and covariance of an unknown number of images" in err


def test_save_statistics_reports_the_file_the_number_of_images_and_the_convention(
    run: Run, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    file = tmp_path / "real.npz"
    _, out, err = run(sets[1], "--save-statistics", file, "--json", "--like", "pytorch-fid")
    assert f"{file}: saved mean and covariance of 20 images of {sets[1]}, by the convention pytorch-fid (" in err
    assert "PyTorch's bilinear interpolation" in err
    json.loads(out)


def test_statistics_are_used_by_every_convention_with_the_same_resize(
    run: Run, run_json: RunJson, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    assert run(sets[1], "--save-statistics", tmp_path / "real.npz", "--like", "adm")[0] == 0
    for like in ("tensorflow", "torch-fidelity", "clean-fid:legacy-tensorflow"):
        expected = run_json(*sets, "--scores", "fid", "--like", like)["fid"]
        with_statistics = run_json(sets[0], tmp_path / "real.npz", "--scores", "fid", "--like", like)["fid"]
        assert with_statistics == pytest.approx(expected, rel=1e-5)


def test_adms_reference_batch_provides_statistics_for_fid_and_images_for_the_other_scores(
    run_json: RunJson, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    options = ["--like", "adm", "--scores", "fid,precision,memorisation"]
    expected = run_json(*sets, *options)
    array = np.stack([draw_image(seed) for seed in range(100, 120)])
    statistics = {"mu": np.zeros(203), "sigma": np.eye(203), "mu_s": np.zeros(2023), "sigma_s": np.eye(2023)}
    np.savez(tmp_path / "batch.npz", array, **statistics)
    values = run_json(sets[0], tmp_path / "batch.npz", *options)
    assert values["precision"] == expected["precision"]
    assert values["memorisation_distance"] == pytest.approx(expected["memorisation_distance"])
    assert values["fid"] != pytest.approx(expected["fid"], rel=0.01)
    assert run_json(sets[0], tmp_path / "batch.npz")["fid"] == pytest.approx(run_json(*sets)["fid"])


# --- a series of snapshots ---


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three snapshots, of which one is a zip, and of files that are none."""
    folder = tmp_path_factory.mktemp("series")
    for step, seed in ((500, 10), (1000, 40)):
        image_folder(folder / f"step-{step}", 6, seed)
    shutil.make_archive(str(folder / "step-20000"), "zip", image_folder(folder.parent / "last", 6, 70))
    image_folder(folder / "__MACOSX", 2)
    Image.fromarray(draw_image(0)).save(folder / "samples.png")
    return folder


def test_each_snapshot_has_the_scores_of_a_run_of_its_own_in_one_csv_in_natural_order(
    run: Run, run_json: RunJson, series: Path, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    options = ("--scores", "fid,precision,is", "--is-splits", 2)
    status, out, err = run("--each", series, sets[1], *options, "--csv", tmp_path / "s.csv")
    assert status == 0, err
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["snapshot"] for row in rows] == ["step-500", "step-1000", "step-20000"]
    assert [row["number"] for row in rows] == ["500", "1000", "20000"]
    for row, name in zip(rows, ("step-500", "step-1000", "step-20000.zip"), strict=True):
        single = run_json(series / name, sets[1], *options)
        assert float(row["fid"]) == pytest.approx(single["fid"], rel=1e-6)
        assert float(row["recall"]) == single["recall"]
    assert "6 generated images of each snapshot and 20 reference images" in out
    assert "FID ↓" in out
    assert [row["snapshot"] for row in run_json("--each", series, sets[1], *options)] == [r["snapshot"] for r in rows]


def test_the_features_of_the_reference_are_computed_once_for_all_snapshots(
    series: Path, sets: tuple[Path, Path], thin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inception_v3.fidelity import run as module

    extracted: list[str] = []
    original = module.extract_features

    def extract(image_set: Any, *arguments: Any, **options: Any) -> Any:
        extracted.append(image_set.name)
        return original(image_set, *arguments, **options)

    monkeypatch.setattr(module, "extract_features", extract)
    generated = [snapshot.path for snapshot in find_snapshots(str(series))]
    options = FidelityOptions(weights=thin, any_weights=True, use_cache=False, scores=["fid"])
    results = list(module.score_each(generated, sets[1], options))
    assert all(isinstance(result, FidelityResult) for result in results)
    assert extracted == [str(sets[1]), *generated]


def test_the_page_of_a_series_has_one_plot_and_one_table(
    run: Run, series: Path, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    options = ("--scores", "fid,is", "--is-splits", 2)
    status, _, err = run("--each", f"{series}/step-*", sets[1], *options, "--report", tmp_path / "s.html")
    assert status == 0, err
    page = (tmp_path / "s.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 2, "one for a light page, one for a dark one"
    assert page.index("<td>step-500</td>") < page.index("<td>step-20000</td>")
    assert "IS ↑" in page
    assert page.count("are enlarged more than twice") == 2, "once for the snapshots, once for the reference"


def test_a_snapshot_that_cannot_be_scored_is_reported_and_the_others_are_written(
    run: Run, series: Path, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    damaged = tmp_path / "series"
    shutil.copytree(series, damaged)
    for file in (damaged / "step-500").iterdir():
        file.write_bytes(b"no image")
    (damaged / "step-1000" / "0000.png").write_bytes(b"")
    status, _, err = run("--each", damaged, sets[1], "--scores", "fid", "--csv", tmp_path / "s.csv")
    assert status == 1
    assert "step-500: no image in it can be read" in err
    assert "1 of 32 images could not be read" in err
    assert err.splitlines()[-1].endswith("1 of 3 snapshots has no scores; see the lines above")
    assert [line.split(",")[0] for line in (tmp_path / "s.csv").read_text().splitlines()[1:]] == [
        "step-1000",
        "step-20000",
    ]


@pytest.mark.parametrize(("images", "reason"), [(0, "no images"), (1, "one image has no covariance")])
def test_a_snapshot_with_too_few_images_does_not_stop_the_series(
    run: Run, series: Path, sets: tuple[Path, Path], tmp_path: Path, images: int, reason: str
) -> None:
    other = tmp_path / "series"
    shutil.copytree(series, other)
    for file in sorted((other / "step-500").iterdir())[images:]:
        file.unlink()
    report = tmp_path / "s.html"
    status, out, err = run("--each", other, sets[1], "--scores", "fid", "--json", "--report", report)
    assert status == 1
    assert [row["snapshot"] for row in json.loads(out)] == ["step-1000", "step-20000"]
    assert re.search(f"step-500: .*{reason}", err)
    assert re.search(f"step-500: .*{reason}", report.read_text("utf-8")), "the page names it too"


def test_a_folder_of_images_is_no_series(run: Run, sets: tuple[Path, Path]) -> None:
    status, _, err = run("--each", *sets)
    assert (status, "no folder and no archive in it" in err) == (2, True)
    status, _, err = run("--each", sets[0].parent, "--save-statistics", "x.npz")
    assert (status, "--save-statistics" in err) == (2, True)


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["a-v2-1", "a-v2-9", "a-v2-10"], [1, 9, 10]),
        (["scale-0.5", "scale-1.5"], [0.5, 1.5]),
        (["best", "step-1"], [None, None]),
        (["a1", "b1"], [None, None]),
    ],
)
def test_the_number_of_a_snapshot_is_the_one_that_differs_in_all_names(
    names: list[str], numbers: list[float | None], tmp_path: Path
) -> None:
    for name in reversed(names):
        (tmp_path / name).mkdir()
    snapshots = find_snapshots(str(tmp_path))
    assert [(snapshot.name, snapshot.number) for snapshot in snapshots] == list(zip(names, numbers, strict=True))


# --- the feature cache ---


@pytest.mark.parametrize("damage", ["text", "folder in its place", "truncated"])
def test_an_unusable_store_is_reported_in_one_line_and_the_scores_are_the_same(
    damage: str, run: Run, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    status, before, _ = run(*sets, "--cache", tmp_path / "c", "--scores", "fid", "--json")
    assert status == 0
    (file,) = (tmp_path / "c").iterdir()
    if damage == "text":
        file.write_text("no database" * 1000)
    elif damage == "truncated":
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
        file.mkdir()
    status, out, err = run(*sets, "--cache", tmp_path / "c", "--scores", "fid", "--json")
    assert status == 0
    assert json.loads(out)["fid"] == pytest.approx(json.loads(before)["fid"], rel=1e-5)
    assert len([line for line in err.splitlines() if line.startswith(f"{file}: ")]) == 1


def test_images_are_not_read_again_if_their_features_are_stored(
    sets: tuple[Path, Path], thin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "STILL_CHANGING", -1)
    options: dict[str, Any] = {"weights": thin, "any_weights": True, "cache": tmp_path, "scores": ["fid"]}
    first = fidelity(*sets, **options)
    monkeypatch.setattr(ImageSource, "read", lambda image: pytest.fail(f"{image.name} was read"))
    assert fidelity(*sets, **options).scores == first.scores


# --- warnings ---


def warnings_of(run_json: RunJson, *arguments: object) -> str:
    return "\n".join(run_json(*arguments, "--scores", "fid")["warnings"])


def test_sets_that_should_not_be_compared_cause_warnings(
    run: Run, run_json: RunJson, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    generated, reference = sets
    plain = warnings_of(run_json, *sets)
    assert "18 images are few" in plain
    assert "18 generated and 20 reference images" in plain
    assert "18 of 18 generated images (64x64) are enlarged more than twice" in plain
    for absent in ("copies", "also in the reference", "JPEG", "gray", "the resize"):
        assert absent not in plain

    other = tmp_path / "other"
    shutil.copytree(generated, other)
    shutil.copy(reference / "0000.png", other / "leak.png")
    shutil.copy(other / "0001.png", other / "twice.png")
    warnings = warnings_of(run_json, other, reference)
    assert "1 of 20 generated images is also in the reference" in warnings
    assert "1 of 20 generated images is a copy of another in the set and counts twice; remove it" in warnings

    for number in range(18):
        image = Image.fromarray(draw_image(number, 200, 180))
        image_folder(tmp_path / "gray", 0), image_folder(tmp_path / "jpeg", 0)
        image.convert("L").save(tmp_path / "gray" / f"{number}.png")
        image.save(tmp_path / "jpeg" / f"{number}.jpg")
    warnings = warnings_of(run_json, tmp_path / "gray", tmp_path / "jpeg")
    assert "100% of the generated images are gray, 0% of the reference" in warnings
    assert "0% of the generated images are JPEG, 100% of the reference" in warnings
    assert "enlarged" not in warnings
    assert run(tmp_path / "jpeg", "--save-statistics", tmp_path / "jpeg.npz")[0] == 0
    with_statistics = warnings_of(run_json, tmp_path / "gray", tmp_path / "jpeg.npz")
    assert "100% of the generated images are gray, 0% of the reference" in with_statistics
    assert "0% of the generated images are JPEG, 100% of the reference" in with_statistics
    warnings = warnings_of(run_json, tmp_path / "jpeg", reference)
    assert "generated images are 180x200, reference images 64x64" in warnings


def test_equal_pixels_are_recognised_in_any_file_format(
    run_json: RunJson, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "again.npy", np.stack([draw_image(seed) for seed in (1, 0, 1)]))
    Image.fromarray(draw_image(2)).save(image_folder(tmp_path / "other", 2, 50) / "form.bmp")
    warnings = warnings_of(run_json, tmp_path / "again.npy", sets[0])
    assert "3 of 3 generated images are also in the reference" in warnings
    assert "1 of 3 generated images is a copy" in warnings
    assert "1 of 3 generated images is also in the reference" in warnings_of(run_json, tmp_path / "other", sets[0])


def test_statistics_of_another_precision_cause_a_warning(
    run: Run, run_json: RunJson, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    assert run(sets[1], "--save-statistics", tmp_path / "real.npz", "--precision", "bf16")[0] == 0
    warnings = warnings_of(run_json, sets[0], tmp_path / "real.npz")
    assert "one set was computed in bf16, the other in fp32" in warnings


# --- bad input ---


def test_unreadable_images_are_skipped_counted_and_listed_and_an_error_with_strict(
    run: Run, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = json.loads(run(*sets, "--json", "--scores", "fid")[1])["fid"]
    broken = tmp_path / "broken"
    shutil.copytree(sets[0], broken)
    (broken / "cut.png").write_bytes((broken / "0000.png").read_bytes()[:900])
    (broken / "0002x.jpg").write_bytes(b"")
    status, out, err = run(broken, sets[1], "--json", "--scores", "fid")
    values = json.loads(out)
    assert status == 0
    assert (values["generated_unreadable"], values["generated_count"]) == (2, 18)
    assert [Path(message.partition(":")[0]).name for message in values["unreadable"]] == ["0002x.jpg", "cut.png"]
    assert values["fid"] == pytest.approx(expected, rel=1e-6)
    assert re.search("2 of 20 (pictures|images) could not be read", err)
    assert "cut.png" in err
    status, out, err = run(broken, sets[1], "--strict")
    assert (status, out) == (1, "")
    assert "0002x.jpg: the file is empty; " in err


def test_sets_of_one_image_or_none_are_errors(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    for count, code, message in ((0, 2, "no images in this folder"), (1, 1, "one image has no covariance")):
        status, out, err = run(image_folder(tmp_path / str(count), count), sets[1])
        assert (status, out) == (code, "")
        assert message in err.replace("\n", " ")
    status, _, err = run(tmp_path / "1", "--save-statistics", tmp_path / "one.npz")
    assert (status, "statistics of one image have no covariance" in err.replace("\n", " ")) == (1, True)
    status, out, err = run(tmp_path / "1")
    assert (status, out, "1 image cannot be split into 10 parts" in err) == (1, "", True)
    status, out, err = run(sets[1], "--scores", "fid")
    assert (status, out, "give REFERENCE too" in err) == (2, "", True)
    (tmp_path / "bad").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "bad" / name).write_bytes(b"no")
    status, _, err = run(tmp_path / "bad", sets[1])
    assert status == 1
    assert "no image in it can be read" in err


def test_two_images_are_enough_for_fid(run_json: RunJson, tmp_path: Path) -> None:
    values = run_json(image_folder(tmp_path / "a", 2), image_folder(tmp_path / "b", 2, 50))
    assert values["fid"] > 0
    assert values["is_mean"] is values["precision"] is values["fid_infinity"] is None
    assert values["memorisation_distance"] > 0
    assert len(values["notes"]) == 4


def test_another_network_is_refused_without_any_weights(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    status, _, err = run(*sets, any_weights=False)
    assert status == 1
    assert re.search(r"not the network of 2015 \(it has .*published .*widths", err)
    assert "--any-weights" in err
    save(InceptionV3(final_endpoint="Mixed_6e", depth_multiplier=0.1), tmp_path / "base.safetensors")
    status, _, err = run(*sets, weights=tmp_path / "base.safetensors")
    assert (status, "ends at Mixed_6e" in err) == (1, True)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--like", "fid"], 2, "--like: no such value fid"),
        (["--scores", "fid,fit"], 2, "--scores: no such value fit"),
        (["--json", "--csv", "-"], 2, "use only one of them"),
        (["--precision", "int4"], 2, "int4"),
        (["--device", "tpu"], 2, "--device tpu"),
    ],
)
def test_wrong_options_are_reported(
    options: list[str], status: int, message: str, run: Run, sets: tuple[Path, Path]
) -> None:
    exit_status, out, err = run(*sets, *options)
    assert (exit_status, out) == (status, "")
    assert message in err


# --- precision ---


def test_bf16_is_used_only_on_request_and_its_effect_on_fid_is_shown(
    run: Run, run_json: RunJson, tmp_path: Path
) -> None:
    sets = [image_folder(tmp_path / str(seed), 16, seed=seed) for seed in (100, 200)]
    full = run_json(*sets, "--scores", "fid")
    lower = run_json(*sets, "--scores", "fid", "--precision", "bf16")
    assert "fid_change" not in full
    assert lower["dtype"] == "bf16"
    assert 0 < abs(lower["fid"] / full["fid"] - 1) < 0.05
    # The effect is measured on 16 images of each set, here on all of them.
    assert lower["fid_change"] == pytest.approx(lower["fid"] / full["fid"] - 1, rel=1e-3)
    assert "bf16 changes FID by" in run(*sets, "--scores", "fid", "--precision", "bf16")[1]


def test_the_effect_of_bf16_is_measured_for_any_score_and_its_features_are_cached(
    sets: tuple[Path, Path], thin: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"weights": thin, "any_weights": True, "dtype": "bf16", "cache": f"{tmp_path}"}
    first = fidelity(*sets, **options, scores=["precision"])
    assert first.fid_change
    spaces = {space["precision"]: space["images"] for space in FeatureStore(tmp_path).spaces()}
    assert spaces == {"bf16": 18 + 20, "fp32": 2 * 16}
    again = fidelity(*sets, **options, scores=["precision"])
    assert again.fid_change == first.fid_change


def test_scores_are_not_lost_if_the_effect_of_bf16_cannot_be_measured(
    sets: tuple[Path, Path], thin: Path, tmp_path: Path
) -> None:
    broken = image_folder(tmp_path / "broken", 18)
    for number in range(16):
        (broken / f"0{number:03}.png").write_bytes(b"no picture")
    result = fidelity(broken, sets[1], weights=thin, any_weights=True, dtype="bf16", scores=["fid"], use_cache=False)
    assert result.scores["fid"]
    assert result.fid_change is None
    assert any("the effect of bf16 on FID could not be measured" in note for note in result.notes)


def test_int8_is_calibrated_on_the_reference_and_its_effect_on_fid_is_shown(
    run: Run, run_json: RunJson, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    both = (sets[0], image_folder(tmp_path / "many", 40, seed=100))
    full = run_json(*both, "--scores", "fid")
    lower = run_json(*both, "--scores", "fid", "--precision", "int8")
    assert lower["dtype"] == "int8"
    assert 0 < abs(lower["fid"] / full["fid"] - 1) < 0.2
    assert lower["fid_change_pictures"] == 16
    status, _, err = run(*sets, "--scores", "fid", "--precision", "int8")
    assert status == 1
    assert re.search("20 (pictures|images) are too few for int8; give at least 32", err.replace("\n", " "))
