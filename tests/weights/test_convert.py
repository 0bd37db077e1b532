"""`inception-v3 convert`: the same numbers, or a refusal with the reason, or the difference measured."""

import os

os.environ["KERAS_BACKEND"] = "torch"  # read once, when Keras is imported

import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_fid.inception
import torch
from test_formats_fid_2015 import small_graph
from test_parity_tf_slim import CASES

import inception_v3
from conftest import oracle_python, randomise, tf_slim_cases
from inception_v3 import cli
from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.network.settings import GRAPH_2015
from inception_v3.weights import convert as conversion
from inception_v3.weights import peers
from inception_v3.weights.convert import difference, outputs
from inception_v3.weights.formats.registry import find_format, recognise
from inception_v3.weights.model import InceptionV3

Build = Callable[..., InceptionV3]
Command = Callable[..., tuple[int, str, str]]

# What the programs of each family compute from the same weights, and how a model for it is built here.
FAMILIES: dict[str, dict[str, object]] = {
    "TensorFlow": {"create_aux_logits": False},
    "PyTorch": {"create_aux_logits": False, "count_padding": True, "batch_norm_scale": True, "global_pool": True},
    "2015": dict(GRAPH_2015) | {"image_size": 75},
}
READ = {
    "TensorFlow": {"native": "n.safetensors", "tf-slim": "s.ckpt", "keras": "k.h5"},
    "PyTorch": {"native": "n.safetensors", "torchvision": "v.pth", "timm": "t.safetensors"},
    "2015": {"native": "n.safetensors", "fid-2015": "f.pth"},
}
WRITTEN = {
    "native": ("PyTorch", "model.safetensors"),
    "tf-slim": ("TensorFlow", "model.ckpt"),
    "keras": ("TensorFlow", "model.weights.h5"),
    "torchvision": ("PyTorch", "model.pth"),
    "timm": ("PyTorch", "model.bin"),
    "fid-2015": ("2015", "model.pth"),
}


@pytest.fixture
def convert(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inception-v3", "convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(exited.value.code or 0), out, err

    return command


def refused(convert: Command, *arguments: object, status: int = 1) -> str:
    """The one line that says why; nothing was written to the folder of the destination, the second argument."""
    folder = Path(str(arguments[1])).parent
    before = contents(folder)
    done, out, err = convert(*arguments)
    assert (done, out) == (status, ""), err
    assert err.count("\n") == 1, err
    assert ".inception-v3." not in err, "the destination is named, not where it was prepared"
    assert contents(folder) == before
    return err


def contents(folder: Path) -> dict[str, bytes | None]:
    return {one.name: one.read_bytes() if one.is_file() else None for one in folder.iterdir()}


def saved(tmp_path: Path, model: InceptionV3, name: str = "source.safetensors") -> Path:
    inception_v3.save(model, tmp_path / name)
    return tmp_path / name


def same(one: InceptionV3, other: InceptionV3) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    bits = [(tensor.dtype, tensor.numpy().tobytes()) for state in (ours, theirs) for _, tensor in sorted(state.items())]
    return ours.keys() == theirs.keys() and bits[: len(ours)] == bits[len(ours) :]


def full_width(seed: int = 0, **options: object) -> InceptionV3:
    """The other programs know no other; on the smallest images there are."""
    with torch.device("meta"):
        model = InceptionV3(**{"num_classes": 5, "image_size": 75} | options)
    model.to_empty(device="cpu")
    randomise(model, seed)
    return model.eval()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """A file of each format, by family and format."""
    files = {}
    for family, options in FAMILIES.items():
        folder = tmp_path_factory.mktemp(family)
        model = full_width(**options)
        for format, name in READ[family].items():
            files[family, format] = folder / name
            inception_v3.save(model, folder / name, format)
    files["2015", "graphdef-2015"] = small_graph(folder / "graph.pb")
    return files


@pytest.fixture(scope="module")
def models(sources: dict[tuple[str, str], Path]) -> dict[tuple[str, str], InceptionV3]:
    return {key: inception_v3.load(path) for key, path in sources.items()}


@pytest.fixture
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare on a corner: what is compared is tested elsewhere, and most formats say 299x299."""
    monkeypatch.setattr(conversion, "outputs", lambda model, pixels: outputs(model, pixels[:1, :, :75, :75]))


# ------------------------------------------------------------------------- which format into which


@pytest.mark.parametrize("target", WRITTEN)
def test_every_format_goes_into_every_other_of_its_family_and_into_native_and_no_further(
    target: str, models: dict[tuple[str, str], InceptionV3]
) -> None:
    assert len(models) == 9
    for (family, format), model in models.items():
        reasons = find_format(target).differences(model)
        assert (reasons == []) == (family == WRITTEN[target][0] or target == "native"), (format, reasons)


@pytest.mark.usefixtures("small_images")
@pytest.mark.parametrize(
    ("family", "format", "target", "name"),
    [(family, "native", format, name) for format, (family, name) in WRITTEN.items()]
    + [("TensorFlow", "tf-slim", "keras", "model.h5"), ("TensorFlow", "keras", "tf-slim", "model.ckpt")]
    + [("PyTorch", "torchvision", "timm", "model.bin"), ("PyTorch", "timm", "torchvision", "model.pt")]
    + [("2015", "graphdef-2015", "fid-2015", "model.pth")],
)
def test_the_name_tells_the_format_and_the_numbers_stay(
    family: str, format: str, target: str, name: str, sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    done = conversion.convert(str(sources[family, format]), tmp_path / name)
    assert (done.source_format, done.format, done.reasons, done.dropped) == (format, target, [], [])
    assert done.difference < 1e-12
    # nothing in a pickle says that it is timm's
    assert ("torchvision" if name == "model.bin" else target) == recognise(tmp_path / name).NAME


def test_there_and_back_is_exact_and_says_so(tmp_path: Path, random_model: Build, convert: Command) -> None:
    source = saved(tmp_path, random_model())
    status, out, _ = convert(source, tmp_path / "model.ckpt", "--json")
    done = json.loads(out)
    assert status == 0
    assert (done["source_format"], done["format"], done["difference"]) == ("native", "tf-slim", 0.0)
    assert (done["image_size"], done["check"]) == ([107, 107], None)
    status, out, _ = convert(tmp_path / "model.ckpt", tmp_path / "back.safetensors")
    assert status == 0
    assert "tf-slim to native; the logits differ by 0.0e+00 at 107x107" in out
    assert same(inception_v3.load(source), inception_v3.load(tmp_path / "back.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_become_float32_and_keep_every_bit(
    dtype: torch.dtype, tmp_path: Path, random_model: Build, convert: Command
) -> None:
    model = random_model().to(dtype)
    source = saved(tmp_path, model)
    for name in ("model.ckpt", "model.safetensors"):
        status, out, _ = convert(source, tmp_path / name, "--json")
        assert (status, json.loads(out)["difference"]) == (0, 0.0)
        assert same(inception_v3.load(tmp_path / name), model.float())


def test_native_keeps_class_names_and_preprocessing_and_others_say_what_they_lose(
    tmp_path: Path, random_model: Build, convert: Command
) -> None:
    model = random_model()
    model.class_names = list("abcdefg")
    model.preprocessing = Preprocessing((107, 107), 0.7, mean=(0.4, 0.5, 0.6), resize=120, interpolation="bicubic")
    source = saved(tmp_path, model)
    assert convert(source, tmp_path / "again.safetensors")[0] == 0
    again = inception_v3.load(tmp_path / "again.safetensors")
    assert (again.class_names, again.preprocessing) == (model.class_names, model.preprocessing)
    assert "it takes images in [-1, 1], this model others" in refused(convert, source, tmp_path / "model.ckpt")
    model.preprocessing = Preprocessing((107, 107))
    status, _, err = convert(saved(tmp_path, model), tmp_path / "model.ckpt")
    assert status == 0
    assert "tf-slim has no place for the names of its classes" in err


@pytest.mark.usefixtures("small_images")
def test_an_auxiliary_head_that_keras_has_no_place_for_is_told(tmp_path: Path, convert: Command) -> None:
    source = saved(tmp_path, full_width(image_size=107))
    status, out, _ = convert(source, tmp_path / "model.h5", "--json")
    assert (status, json.loads(out)["dropped"]) == (0, ["AuxLogits"])


# -------------------------------------------------------------------------------- other numbers


@pytest.mark.parametrize(
    ("options", "target", "reason"),
    [
        ({"count_padding": True}, "model.ckpt", "average pools leave the padding out"),
        ({"count_padding": True}, "model.h5", "average pools leave the padding out"),
        ({}, "model.pth", "average pools count the padding"),
        ({"mixed_7c_pool": "max", "count_padding": True}, "model.pth", "last module pools by avg, this model's by max"),
        ({"mixed_7c_pool": "max"}, "model.ckpt", "last module pools by avg, this model's by max"),
        ({}, "model.h5", "published widths alone"),
        ({"count_padding": True}, "model.bin", "published widths alone"),
        ({"count_padding": True}, "model.pth", r"auxiliary head for images of (107, 107)"),
        ({"batch_norm_epsilon": 1e-5}, "model.ckpt", "BatchNorm epsilon is 0.001, this model's 1e-05"),
        ({"image_size": 363, "global_pool": True}, "model.ckpt", "windows of the last map, this model the whole"),
        ({"image_size": 363}, "model.h5", "averages the whole last map, this model windows"),
        ({"final_endpoint": "Mixed_7c"}, "model.ckpt", "cannot hold a network cut at Mixed_7c"),
        ({"final_endpoint": "Mixed_7c"}, "model.pth", "cannot hold a network cut at Mixed_7c"),
        ({"final_endpoint": "Mixed_6e"}, "model.h5", "goes on to Mixed_7c, this model ends at Mixed_6e"),
    ],
)  # fmt: skip
def test_they_are_refused_with_the_reason_and_nothing_is_written(
    options: dict[str, object], target: str, reason: str, tmp_path: Path, random_model: Build, convert: Command
) -> None:
    source = saved(tmp_path, random_model(**options))
    (tmp_path / target).write_bytes(b"what was there")
    assert reason in refused(convert, source, tmp_path / target)


def test_they_are_measured_where_allowed(tmp_path: Path, random_model: Build, convert: Command) -> None:
    source = saved(tmp_path, random_model(count_padding=True, image_size=139))
    status, out, err = convert(source, tmp_path / "model.ckpt", "--allow-difference", "--json")
    assert status == 0
    assert json.loads(out)["difference"] > 1e-3
    assert len(json.loads(out)["reasons"]) == 1
    status, out, err = convert(source, tmp_path / "model.ckpt", "--allow-difference")
    assert "its average pools leave the padding out, this model's do not" in err


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({"final_endpoint": "Mixed_7c"}, "tf-slim"),
        ({"final_endpoint": "Mixed_7c", "count_padding": True}, "torchvision"),
        ({"num_classes": 1000} | {"mixed_7c_pool": "max", "create_aux_logits": False}, "fid-2015"),
        ({}, "keras"),
        ({"count_padding": True}, "timm"),
    ],
)
def test_what_a_program_could_not_even_load_is_refused_all_the_same(
    options: dict[str, object], target: str, tmp_path: Path, random_model: Build, convert: Command
) -> None:
    source = saved(tmp_path, random_model(**options))
    told = refused(convert, source, tmp_path / WRITTEN[target][1], "--to", target, "--allow-difference")
    assert "as native" in told


def test_a_gamma_is_folded_exactly_and_no_fold_refuses(tmp_path: Path, random_model: Build, convert: Command) -> None:
    source = saved(tmp_path, random_model(batch_norm_scale=True))
    assert "no gamma" in refused(convert, source, tmp_path / "model.ckpt", "--no-fold")
    status, out, _ = convert(source, tmp_path / "model.ckpt", "--json")
    assert status == 0
    assert json.loads(out)["folded"] == 96
    assert json.loads(out)["difference"] < 1e-5, "float32 rounding of the folded kernels alone"


def test_a_gamma_of_one_is_dropped_freely(tmp_path: Path, random_model: Build, convert: Command) -> None:
    model = random_model(batch_norm_scale=True)
    for name, tensor in model.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.ones_(tensor)
    status, out, _ = convert(saved(tmp_path, model), tmp_path / "model.ckpt", "--no-fold", "--json")
    assert (status, json.loads(out)["folded"], json.loads(out)["difference"]) == (0, 0, 0.0)


# ------------------------------------------------------------------------------ the destination


def test_a_thousand_and_eight_classes_that_would_be_taken_for_the_graph_of_2015_are_refused(
    tmp_path: Path, convert: Command
) -> None:
    source = saved(tmp_path, full_width(**FAMILIES["PyTorch"] | {"num_classes": 1008}))
    assert "is taken for the graph of 2015" in refused(convert, source, tmp_path / "model.pth")
    assert "is taken for the graph of 2015" in refused(convert, source, tmp_path / "model.bin")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x",), "--to"),
        (("x.keras",), "--to"),
        (("x", "--to", "caffe"), "no format 'caffe'"),
        (("x.pb", "--to", "graphdef-2015"), "graphdef-2015 is only read here; write fid-2015"),
        (("x.keras", "--to", "keras"), "let it be .h5"),
        (("x", "--to", "timm"), "let it be .safetensors"),
        (("x.safetensors", "--to", "torchvision"), "let it be .pth"),
        (("x.ckpt.index", "--to", "tf-slim"), "leave out .index"),
        ((".",), "is a folder"),
        ((".", "--to", "tf-slim"), "is a folder"),
    ],
)
def test_wrong_use_is_told_before_anything_is_read(
    tmp_path: Path, convert: Command, arguments: tuple[str], message: str
) -> None:
    told = refused(convert, tmp_path / "none", tmp_path / arguments[0], *arguments[1:], status=2)
    assert message in told


def test_a_read_only_format_is_refused_by_save_too(tmp_path: Path, random_model: Build) -> None:
    with pytest.raises(InputError, match="only read here"):
        inception_v3.save(random_model(), tmp_path / "x.pb", "graphdef-2015")


def test_it_may_be_the_source(tmp_path: Path, random_model: Build, convert: Command) -> None:
    model = random_model()
    path = saved(tmp_path, model)
    assert convert(path, path)[0] == 0
    assert list(tmp_path.iterdir()) == [path]
    assert same(inception_v3.load(path), model)
    assert convert(path, path, "--to", "tf-slim")[0] == 0
    assert same(inception_v3.load(path), model)
    assert sorted(one.name.removeprefix(path.name) for one in tmp_path.iterdir()) == [".data-00000-of-00001", ".index"]


def test_a_checkpoint_in_format_v1_is_replaced_and_does_not_hide_the_new_one(
    tmp_path: Path, random_model: Build, convert: Command
) -> None:
    shutil.copy(tf_slim_cases({"odd": CASES["odd"]})["odd"] / "model-v1.ckpt", tmp_path / "inception_v3.ckpt")
    model = random_model()
    source = saved(tmp_path, model)
    assert convert(source, tmp_path / "inception_v3.ckpt")[0] == 0
    assert same(inception_v3.load(tmp_path / "inception_v3.ckpt"), model)


def test_folders_that_are_missing_are_made_and_go_again_where_it_fails(
    tmp_path: Path, random_model: Build, convert: Command
) -> None:
    source = saved(tmp_path, random_model(count_padding=True))
    assert convert(source, tmp_path / "new" / "folder" / "model.ckpt")[0] == 1
    assert list(tmp_path.iterdir()) == [source]
    assert convert(source, tmp_path / "new" / "folder" / "model.safetensors")[0] == 0
    assert [one.name for one in (tmp_path / "new" / "folder").iterdir()] == ["model.safetensors"]
    assert "choose another folder" in convert(source, source / "model.safetensors")[2]


def test_it_is_not_replaced_where_the_numbers_differ_for_no_known_reason(
    tmp_path: Path, random_model: Build, convert: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path, random_model())
    assert convert(source, tmp_path / "model.ckpt")[0] == 0
    monkeypatch.setattr("inception_v3.weights.formats.tf_slim.to_tensorflow", lambda tensor: tensor.flip(0).numpy().T)
    monkeypatch.setattr("inception_v3.weights.formats.tf_slim.to_torch", lambda value: torch.from_numpy(value.T.copy()))
    told = refused(convert, source, tmp_path / "model.ckpt")
    assert "model.ckpt: not written, since read back here its logits differ by" in told
    assert convert(source, tmp_path / "model.ckpt", "--allow-difference")[0] == 0


# ------------------------------------------------------------------------------------ measuring


def test_measuring_leaves_the_model_as_it_is(random_model: Build) -> None:
    model = random_model(spatial_squeeze=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = outputs(model, torch.randint(256, (2, 3, 107, 107)))
    assert {name: value.dtype for name, value in found.items()} == dict.fromkeys(["Logits", "AuxLogits"], torch.float64)
    after = model.state_dict()
    assert all(
        torch.equal(tensor, after[name]) and tensor.dtype == after[name].dtype for name, tensor in before.items()
    )
    logits, end_points = model.double()(model.preprocessing.scale(torch.randint(256, (2, 3, 107, 107))).double())
    assert logits.shape == end_points["AuxLogits"].shape == (2, 7), "and can be used as before"


def test_a_difference_in_either_head_counts(random_model: Build) -> None:
    pixels = torch.randint(256, (1, 3, 107, 107))
    model = random_model()
    ours = outputs(model, pixels)
    for head in ("Logits", "AuxLogits"):
        changed = ours | {head: ours[head] + 0.01 * ours[head].abs().max()}
        assert difference(ours, changed) == pytest.approx(0.01)
    assert difference(ours, {"Logits": ours["Logits"]}) == 0
    assert math.isnan(difference(ours, ours | {"Logits": ours["Logits"] * math.nan}))


def test_networks_for_large_images_and_cut_ones_are_compared(
    tmp_path: Path, random_model: Build, convert: Command
) -> None:
    for options in ({"image_size": 363}, {"final_endpoint": "MaxPool_5a_3x3"}):
        status, out, _ = convert(saved(tmp_path, random_model(**options)), tmp_path / "x.safetensors", "--json")
        assert (status, json.loads(out)["difference"]) == (0, 0)


# -------------------------------------------------------------------------------------- --check


def test_check_lets_the_other_program_compute(
    sources: dict[tuple[str, str], Path], tmp_path: Path, convert: Command
) -> None:
    status, out, err = convert(sources["PyTorch", "native"], tmp_path / "model.pth", "--check")
    assert (status, err) == (0, "")
    assert re.search(r"checked by torchvision [\d.]+, which differs by \d\.\de-0[678]\n", out)


def test_check_of_this_projects_own_format_reads_it_back(tmp_path: Path, random_model: Build, convert: Command) -> None:
    _, out, _ = convert(saved(tmp_path, random_model()), tmp_path / "model.safetensors", "--check", "--json")
    told = {"program": "inception-v3", "difference": 0.0, "instead_of": "native is its own format"}
    assert json.loads(out)["check"] == told


def test_check_by_another_python_that_has_the_program(tmp_path: Path, random_model: Build, convert: Command) -> None:
    source = saved(tmp_path, random_model())
    status, out, _ = convert(source, tmp_path / "model.ckpt", "--check", "--json", "--python", oracle_python())
    check = json.loads(out)["check"]
    assert status == 0
    assert check["program"].startswith("tf-slim ")
    assert 0 < check["difference"] < 1e-4


@pytest.fixture
def of_pytorch_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    """What peers.py replaces in pytorch-fid, in a process of its own, is put back here."""
    function = pytorch_fid.inception.load_state_dict_from_url
    monkeypatch.setattr(pytorch_fid.inception, "load_state_dict_from_url", function)


@pytest.mark.usefixtures("of_pytorch_fid")
@pytest.mark.parametrize(
    ("family", "format", "name"),
    [
        ("TensorFlow", "keras", "model.weights.h5"),
        ("PyTorch", "timm", "model.safetensors"),
        ("PyTorch", "timm", "model.pth"),
        ("2015", "fid-2015", "model.pth"),
    ],
)
def test_each_program_loads_what_is_written_and_computes_the_same(
    family: str, format: str, name: str, models: dict[tuple[str, str], InceptionV3], tmp_path: Path
) -> None:
    assert 0 < from_peer(models[family, "native"], tmp_path / name, format, (75, 91)) < 1e-4


def test_keras_without_top_computes_the_same_last_map(tmp_path: Path) -> None:
    model = full_width(final_endpoint=BASE_END_POINTS[-1])
    assert 0 < from_peer(model, tmp_path / "notop.h5", "keras", (75, 75)) < 1e-4


def test_torchvision_computes_the_same_auxiliary_logits(tmp_path: Path) -> None:
    model = full_width(**FAMILIES["PyTorch"] | {"image_size": 299, "create_aux_logits": True})
    found = from_peer(model, tmp_path / "aux.pth", "torchvision", (299, 299), heads=2)
    assert 0 < found < 1e-4


def from_peer(model: InceptionV3, path: Path, format: str, size: tuple[int, int], heads: int = 1) -> float:
    """The difference of what a program computes from the file that is written for it; in this process."""
    inception_v3.save(model, path, format)
    pixels = torch.randint(256, (1, 3, *size))
    theirs = peers.PEERS[format][0](str(path), Preprocessing().scale(pixels).numpy(), model.settings)
    assert len(theirs) == heads
    return difference(outputs(model, pixels), {name: torch.tensor(value) for name, value in theirs.items()})


def script(tmp_path: Path, text: str) -> Path:
    """In place of a Python."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_the_program_it_is_read_back_and_says_so(tmp_path: Path, random_model: Build, convert: Command) -> None:
    """TensorFlow needs an older Python than this one, so it is not here."""
    source = saved(tmp_path, random_model())
    status, out, err = convert(source, tmp_path / "model.ckpt", "--check")
    assert (status, err) == (0, "")
    assert "reading it back here, since tf-slim cannot be run here: No module named 'tensorflow'" in out


def test_what_a_program_prints_and_raises_stays_in_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "timm.py").write_text(
        "import sys; print('hello'); print('warning', file=sys.stderr); raise KeyError('a')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(peers.CannotRunError, match="KeyError: 'a'") as told:
        peers.answers(
            "timm", tmp_path / "x", np.zeros((1, 3, 75, 75), "f"), InceptionV3(final_endpoint="Conv2d_1a_3x3").settings
        )
    assert not told.value.missing
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("echo 'out of memory' >&2; exit 9", "exit status 9 out of memory"),
        ("kill -9 $$", "exit status -9"),
        (r"""echo '{"problem": "KeyError: bad", "missing": false}' >told.json""", "KeyError: bad"),
    ],
)
def test_a_program_that_fails_on_the_file_fails_the_check(
    text: str, told: str, tmp_path: Path, random_model: Build, convert: Command
) -> None:
    source = saved(tmp_path, random_model())
    assert told in refused(convert, source, tmp_path / "m.ckpt", "--check", "--python", script(tmp_path, text))


def test_a_python_that_is_not_there_is_named(tmp_path: Path, random_model: Build, convert: Command) -> None:
    source = saved(tmp_path, random_model())
    told = refused(convert, source, tmp_path / "m.ckpt", "--check", "--python", tmp_path / "nowhere")
    assert "nowhere cannot be run" in told


def test_a_program_that_computes_otherwise_fails_the_check_unless_allowed(
    tmp_path: Path, random_model: Build, convert: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(create_aux_logits=False)
    source = saved(tmp_path, model)
    monkeypatch.setattr(peers, "answers", lambda *_: ("tf-slim 0", {"Logits": np.ones((2, 7), "float32")}))
    told = refused(convert, source, tmp_path / "model.ckpt", "--check")
    assert "not written, since computed by tf-slim 0 its logits differ by" in told
    status, out, _ = convert(source, tmp_path / "model.ckpt", "--check", "--allow-difference")
    assert status == 0
    assert "checked by tf-slim 0, which differs by" in out
