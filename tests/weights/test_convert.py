"""`inception-v3 convert`: equal outputs, a refusal with the reason, or a measured difference."""

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
from inception_v3.weights.convert import difference, outputs
from inception_v3.weights.formats.registry import find_writer, recognise
from inception_v3.weights.model import InceptionV3
from inception_v3.weights.programs.peers import PROGRAMS
from inception_v3.weights.programs.program import Program, ProgramError

pytestmark = pytest.mark.filterwarnings("ignore:.* assumed")  # files of Keras and PyTorch state little

Build = Callable[..., InceptionV3]
Command = Callable[..., tuple[int, str, str]]

# Families of programs that compute equal outputs from the same weights, with the options of a model for each.
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
    """The one-line error of a command that writes nothing to the destination's folder (the second argument's)."""
    folder = Path(str(arguments[1])).parent
    before = contents(folder)
    done, out, err = convert(*arguments)
    assert (done, out) == (status, ""), err
    assert err.count("\n") == 1, err
    assert ".inception-v3." not in err, "the message names the destination, not the temporary path"
    assert contents(folder) == before
    return err


def contents(folder: Path) -> dict[str, bytes | None]:
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def saved(tmp_path: Path, model: InceptionV3, name: str = "source.safetensors") -> Path:
    inception_v3.save(model, tmp_path / name)
    return tmp_path / name


def same(left: InceptionV3, right: InceptionV3) -> bool:
    """Whether all tensors are equal to the bit."""
    ours, theirs = left.state_dict(), right.state_dict()
    bits = [(tensor.dtype, tensor.numpy().tobytes()) for state in (ours, theirs) for _, tensor in sorted(state.items())]
    return ours.keys() == theirs.keys() and bits[: len(ours)] == bits[len(ours) :]


def full_width(seed: int = 0, **options: object) -> InceptionV3:
    """A network of the published widths, which the other programs need, for the smallest images."""
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
    """Compare outputs on a corner of the images, to save time: most formats imply 299x299."""
    monkeypatch.setattr(conversion, "outputs", lambda model, pixels: outputs(model, pixels[:1, :, :75, :75]))


# ------------------------------------------------------------------------- from each format to each


@pytest.mark.parametrize("target", WRITTEN)
def test_a_format_converts_without_difference_to_native_and_to_its_own_family_only(
    target: str, models: dict[tuple[str, str], InceptionV3]
) -> None:
    assert len(models) == 9
    for (family, format), model in models.items():
        reasons = find_writer(target).differences(model.to_weights())
        assert (reasons == []) == (family == WRITTEN[target][0] or target == "native"), (format, reasons)


@pytest.mark.usefixtures("small_images")
@pytest.mark.parametrize(
    ("family", "format", "target", "name"),
    [(family, "native", format, name) for format, (family, name) in WRITTEN.items()]
    + [("TensorFlow", "tf-slim", "keras", "model.h5"), ("TensorFlow", "keras", "tf-slim", "model.ckpt")]
    + [("PyTorch", "torchvision", "timm", "model.bin"), ("PyTorch", "timm", "torchvision", "model.pt")]
    + [("2015", "graphdef-2015", "fid-2015", "model.pth")],
)
def test_the_suffix_determines_the_format_and_the_outputs_are_equal(
    family: str, format: str, target: str, name: str, sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    done = conversion.convert(str(sources[family, format]), tmp_path / name)
    assert (done.source_format, done.format, done.reasons, done.dropped) == (format, target, [], [])
    assert done.difference < 1e-12
    # a pickle of timm's looks like torchvision's
    assert ("torchvision" if name == "model.bin" else target) == recognise(tmp_path / name).name


def test_converting_there_and_back_is_exact_and_reports_it(
    tmp_path: Path, random_model: Build, convert: Command
) -> None:
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
def test_half_precision_becomes_float32_without_loss(
    dtype: torch.dtype, tmp_path: Path, random_model: Build, convert: Command
) -> None:
    model = random_model().to(dtype)
    source = saved(tmp_path, model)
    for name in ("model.ckpt", "model.safetensors"):
        status, out, _ = convert(source, tmp_path / name, "--json")
        assert (status, json.loads(out)["difference"]) == (0, 0.0)
        assert same(inception_v3.load(tmp_path / name), model.float())


def test_native_keeps_class_names_and_preprocessing_and_other_formats_report_what_they_lose(
    tmp_path: Path, random_model: Build, convert: Command
) -> None:
    model = random_model()
    model.class_names = list("abcdefg")
    model.preprocessing = Preprocessing((107, 107), 0.7, mean=(0.4, 0.5, 0.6), resize=120, interpolation="bicubic")
    source = saved(tmp_path, model)
    assert convert(source, tmp_path / "again.safetensors")[0] == 0
    again = inception_v3.load(tmp_path / "again.safetensors")
    assert (again.class_names, again.preprocessing) == (model.class_names, model.preprocessing)
    assert "it takes images in [-1, 1], this model has another mean and std" in refused(
        convert, source, tmp_path / "model.ckpt"
    )
    model.preprocessing = Preprocessing((107, 107))
    status, _, err = convert(saved(tmp_path, model), tmp_path / "model.ckpt")
    assert status == 0
    assert "tf-slim files do not store class names" in err


@pytest.mark.usefixtures("small_images")
def test_an_auxiliary_head_that_keras_lacks_is_reported_as_dropped(tmp_path: Path, convert: Command) -> None:
    source = saved(tmp_path, full_width(image_size=107))
    status, out, _ = convert(source, tmp_path / "model.h5", "--json")
    assert (status, json.loads(out)["dropped"]) == (0, ["AuxLogits"])


# -------------------------------------------------------------------------------- other outputs


@pytest.mark.parametrize(
    ("options", "target", "reason"),
    [
        ({"count_padding": True}, "model.ckpt", "average pools leave the padding out"),
        ({"count_padding": True}, "model.h5", "average pools leave the padding out"),
        ({}, "model.pth", "average pools count the padding"),
        ({"mixed_7c_pool": "max", "count_padding": True}, "model.pth", "last module pools by avg, this model's by max"),
        ({"mixed_7c_pool": "max"}, "model.ckpt", "last module pools by avg, this model's by max"),
        ({}, "model.h5", "only the published layer widths"),
        ({"count_padding": True}, "model.bin", "only the published layer widths"),
        ({"count_padding": True}, "model.pth", r"auxiliary head for images of (107, 107)"),
        ({"batch_norm_epsilon": 1e-5}, "model.ckpt", "BatchNorm epsilon is 0.001, this model's 1e-05"),
        ({"image_size": 363, "global_pool": True}, "model.ckpt", "windows of the last map, this model the whole"),
        ({"image_size": 363}, "model.h5", "averages the whole last map, this model windows"),
        ({"final_endpoint": "Mixed_7c"}, "model.ckpt", "cannot hold a network cut at Mixed_7c"),
        ({"final_endpoint": "Mixed_7c"}, "model.pth", "cannot hold a network cut at Mixed_7c"),
        ({"final_endpoint": "Mixed_6e"}, "model.h5", "cannot hold a network cut at Mixed_6e"),
    ],
)  # fmt: skip
def test_a_difference_is_refused_with_the_reason_and_nothing_is_written(
    options: dict[str, object], target: str, reason: str, tmp_path: Path, random_model: Build, convert: Command
) -> None:
    source = saved(tmp_path, random_model(**options))
    (tmp_path / target).write_bytes(b"what was there")
    assert reason in refused(convert, source, tmp_path / target)


def test_a_difference_is_measured_if_allowed(tmp_path: Path, random_model: Build, convert: Command) -> None:
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
def test_a_network_that_the_program_could_not_load_is_refused_even_if_differences_are_allowed(
    options: dict[str, object], target: str, tmp_path: Path, random_model: Build, convert: Command
) -> None:
    source = saved(tmp_path, random_model(**options))
    message = refused(convert, source, tmp_path / WRITTEN[target][1], "--to", target, "--allow-difference")
    assert "as native" in message


def test_a_gamma_is_folded_exactly_and_no_fold_refuses(tmp_path: Path, random_model: Build, convert: Command) -> None:
    source = saved(tmp_path, random_model(batch_norm_scale=True))
    assert "no gamma" in refused(convert, source, tmp_path / "model.ckpt", "--no-fold")
    status, out, _ = convert(source, tmp_path / "model.ckpt", "--json")
    assert status == 0
    assert json.loads(out)["folded"] == 96
    assert json.loads(out)["difference"] < 1e-5, "only float32 rounding of the folded kernels"


def test_a_gamma_of_one_is_dropped_without_folding(tmp_path: Path, random_model: Build, convert: Command) -> None:
    model = random_model(batch_norm_scale=True)
    for name, tensor in model.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.ones_(tensor)
    status, out, _ = convert(saved(tmp_path, model), tmp_path / "model.ckpt", "--no-fold", "--json")
    assert (status, json.loads(out)["folded"], json.loads(out)["difference"]) == (0, 0, 0.0)


# ------------------------------------------------------------------------------ the destination


def test_1008_classes_that_would_be_read_as_the_network_of_2015_are_refused(tmp_path: Path, convert: Command) -> None:
    source = saved(tmp_path, full_width(**FAMILIES["PyTorch"] | {"num_classes": 1008}))
    assert "would be read as the network of 2015" in refused(convert, source, tmp_path / "model.pth")
    assert "would be read as the network of 2015" in refused(convert, source, tmp_path / "model.bin")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x",), "--to"),
        (("x.keras",), "--to"),
        (("x", "--to", "caffe"), "--to: no such value caffe"),
        (("x.pb", "--to", "graphdef-2015"), "graphdef-2015 can only be read; write fid-2015"),
        (("x.keras", "--to", "keras"), "let it end in .h5"),
        (("x", "--to", "timm"), "let it end in .safetensors"),
        (("x.safetensors", "--to", "torchvision"), "cannot end in .safetensors; let it end in .pth"),
        (("x.ckpt.index", "--to", "tf-slim"), "cannot end in .index"),
        ((".",), "is a folder"),
        ((".", "--to", "tf-slim"), "is a folder"),
    ],
)
def test_wrong_use_is_reported_before_anything_is_read(
    tmp_path: Path, convert: Command, arguments: tuple[str], message: str
) -> None:
    assert message in refused(convert, tmp_path / "none", tmp_path / arguments[0], *arguments[1:], status=2)


def test_a_read_only_format_is_refused_by_save_too(tmp_path: Path, random_model: Build) -> None:
    with pytest.raises(InputError, match="can only be read"):
        inception_v3.save(random_model(), tmp_path / "x.pb", "graphdef-2015")


def test_the_destination_may_be_the_source(tmp_path: Path, random_model: Build, convert: Command) -> None:
    model = random_model()
    path = saved(tmp_path, model)
    assert convert(path, path)[0] == 0
    assert list(tmp_path.iterdir()) == [path]
    assert same(inception_v3.load(path), model)
    assert convert(path, path, "--to", "tf-slim")[0] == 0
    assert same(inception_v3.load(path), model)
    assert sorted(file.name.removeprefix(path.name) for file in tmp_path.iterdir()) == [
        ".data-00000-of-00001",
        ".index",
    ]


def test_the_source_is_not_replaced_by_a_file_that_holds_less(
    tmp_path: Path, random_model: Build, convert: Command
) -> None:
    model = random_model()
    model.class_names = [f"class {number}" for number in range(model.settings.num_classes)]
    path = saved(tmp_path, model).rename(tmp_path / "model.ckpt")
    before = path.read_bytes()
    (link := tmp_path / "link.ckpt").symlink_to(path)
    for destination in (path, link):
        message = refused(convert, path, destination, "--to", "tf-slim")
        assert "it is the source and would lose class names; choose another name" in message
    assert path.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device")
def test_devices_are_written_to_and_not_replaced(tmp_path: Path, random_model: Build, convert: Command) -> None:
    path = saved(tmp_path, random_model())
    assert convert(path, "/dev/null", "--to", "native")[0] == 0
    assert "the disk is full" in refused(convert, path, "/dev/full", "--to", "native")
    assert "a format of several files needs a file name" in refused(
        convert, path, "/dev/null", "--to", "tf-slim", status=2
    )
    assert all(Path("/dev", name).is_char_device() for name in ("null", "full"))


def test_a_checkpoint_in_format_v1_is_replaced_so_that_it_does_not_hide_the_new_one(
    tmp_path: Path, random_model: Build, convert: Command
) -> None:
    shutil.copy(tf_slim_cases({"odd": CASES["odd"]})["odd"] / "model-v1.ckpt", tmp_path / "inception_v3.ckpt")
    model = random_model()
    source = saved(tmp_path, model)
    assert convert(source, tmp_path / "inception_v3.ckpt")[0] == 0
    assert same(inception_v3.load(tmp_path / "inception_v3.ckpt"), model)


def test_missing_folders_are_created_and_removed_again_after_a_failure(
    tmp_path: Path, random_model: Build, convert: Command
) -> None:
    source = saved(tmp_path, random_model(count_padding=True))
    assert convert(source, tmp_path / "new" / "folder" / "model.ckpt")[0] == 1
    assert list(tmp_path.iterdir()) == [source]
    assert convert(source, tmp_path / "new" / "folder" / "model.safetensors")[0] == 0
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == ["model.safetensors"]
    assert "choose another folder" in convert(source, source / "model.safetensors")[2]


def test_the_destination_is_not_replaced_if_outputs_differ_for_no_known_reason(
    tmp_path: Path, random_model: Build, convert: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path, random_model())
    assert convert(source, tmp_path / "model.ckpt")[0] == 0
    monkeypatch.setattr("inception_v3.weights.formats.tf_slim.to_tensorflow", lambda tensor: tensor.flip(0).numpy().T)
    monkeypatch.setattr("inception_v3.weights.formats.tf_slim.to_torch", lambda value: torch.from_numpy(value.T.copy()))
    message = refused(convert, source, tmp_path / "model.ckpt")
    assert "model.ckpt: not written: its logits, read back here, differ by" in message
    assert convert(source, tmp_path / "model.ckpt", "--allow-difference")[0] == 0


# ------------------------------------------------------------------------------------ measuring


def test_measuring_does_not_change_the_model(random_model: Build) -> None:
    model = random_model(spatial_squeeze=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    heads = outputs(model, torch.randint(256, (2, 3, 107, 107)))
    assert {name: value.dtype for name, value in heads.items()} == dict.fromkeys(["Logits", "AuxLogits"], torch.float64)
    after = model.state_dict()
    assert all(
        torch.equal(tensor, after[name]) and tensor.dtype == after[name].dtype for name, tensor in before.items()
    )
    logits, end_points = model.double()(model.preprocessing.scale(torch.randint(256, (2, 3, 107, 107))).double())
    assert logits.shape == end_points["AuxLogits"].shape == (2, 7), "the model can be used as before"


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


def test_check_runs_the_other_program(sources: dict[tuple[str, str], Path], tmp_path: Path, convert: Command) -> None:
    status, out, err = convert(sources["PyTorch", "native"], tmp_path / "model.pth", "--check")
    assert (status, err) == (0, "")
    assert re.search(r"checked by torchvision [\d.]+, which differs by \d\.\de-0[678]\n", out)


def test_check_of_this_projects_own_format_reads_it_back(tmp_path: Path, random_model: Build, convert: Command) -> None:
    _, out, _ = convert(saved(tmp_path, random_model()), tmp_path / "model.safetensors", "--check", "--json")
    expected = {"program": "inception-v3", "difference": 0.0, "instead_of": "no other program reads native"}
    assert json.loads(out)["check"] == expected


def test_check_with_another_python_that_has_the_program(tmp_path: Path, random_model: Build, convert: Command) -> None:
    source = saved(tmp_path, random_model())
    status, out, _ = convert(source, tmp_path / "model.ckpt", "--check", "--json", "--python", oracle_python())
    check = json.loads(out)["check"]
    assert status == 0
    assert check["program"].startswith("tf-slim ")
    assert 0 < check["difference"] < 1e-4


@pytest.fixture
def restored_pytorch_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the function that peers.py replaces in pytorch-fid."""
    function = pytorch_fid.inception.load_state_dict_from_url
    monkeypatch.setattr(pytorch_fid.inception, "load_state_dict_from_url", function)


@pytest.mark.usefixtures("restored_pytorch_fid")
@pytest.mark.parametrize(
    ("family", "format", "name"),
    [
        ("TensorFlow", "keras", "model.weights.h5"),
        ("PyTorch", "timm", "model.safetensors"),
        ("PyTorch", "timm", "model.pth"),
        ("2015", "fid-2015", "model.pth"),
    ],
)
def test_each_program_loads_a_written_file_and_computes_equal_outputs(
    family: str, format: str, name: str, models: dict[tuple[str, str], InceptionV3], tmp_path: Path
) -> None:
    assert 0 < difference_from_program(models[family, "native"], tmp_path / name, format, (75, 91)) < 1e-4


def test_keras_without_top_computes_an_equal_last_map(tmp_path: Path) -> None:
    model = full_width(final_endpoint=BASE_END_POINTS[-1])
    assert 0 < difference_from_program(model, tmp_path / "notop.h5", "keras", (75, 75)) < 1e-4


def test_torchvision_computes_equal_auxiliary_logits(tmp_path: Path) -> None:
    model = full_width(**FAMILIES["PyTorch"] | {"image_size": 299, "create_aux_logits": True})
    assert 0 < difference_from_program(model, tmp_path / "aux.pth", "torchvision", (299, 299), heads=2) < 1e-4


def difference_from_program(
    model: InceptionV3, path: Path, format: str, size: tuple[int, int], heads: int = 1
) -> float:
    """The difference from what a program computes, in this process, from the file written for it."""
    inception_v3.save(model, path, format)
    pixels = torch.randint(256, (1, 3, *size))
    program = find_writer(format).program
    assert program is not None
    theirs = PROGRAMS[program.distribution](str(path), Preprocessing().scale(pixels).numpy(), model.settings)
    assert len(theirs) == heads
    return difference(outputs(model, pixels), {name: torch.tensor(value) for name, value in theirs.items()})


def script(tmp_path: Path, text: str) -> Path:
    """Write a shell script to use instead of a Python."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_the_program_the_file_is_read_back_and_the_output_says_so(
    tmp_path: Path, random_model: Build, convert: Command
) -> None:
    """TF-Slim needs a TensorFlow that does not run on this Python."""
    source = saved(tmp_path, random_model())
    status, out, err = convert(source, tmp_path / "model.ckpt", "--check")
    assert (status, err) == (0, "")
    assert "reading it back here, since tf-slim's program cannot be run here: No module named 'tensorflow'" in out


def test_a_programs_output_and_exceptions_stay_in_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "timm.py").write_text(
        "import sys; print('hello'); print('warning', file=sys.stderr); raise KeyError('a')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = InceptionV3(final_endpoint="Conv2d_1a_3x3").settings
    with pytest.raises(ProgramError, match="KeyError: 'a'") as caught:
        Program("timm").run(tmp_path / "x", np.zeros((1, 3, 75, 75), "f"), settings)
    assert type(caught.value) is ProgramError, "the program is not missing"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo 'out of memory' >&2; exit 9", "exit status 9 out of memory"),
        ("kill -9 $$", "exit status -9"),
        (r"""echo '{"problem": "KeyError: bad", "missing": false}' >report.json""", "KeyError: bad"),
    ],
)
def test_a_program_that_fails_on_the_file_fails_the_check(
    text: str, message: str, tmp_path: Path, random_model: Build, convert: Command
) -> None:
    source = saved(tmp_path, random_model())
    assert message in refused(convert, source, tmp_path / "m.ckpt", "--check", "--python", script(tmp_path, text))


def test_a_relative_path_of_python_starts_at_the_current_folder(
    tmp_path: Path, random_model: Build, convert: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path, random_model())
    script(tmp_path, """echo '{"problem": "it ran", "missing": false}' >report.json""")
    monkeypatch.chdir(tmp_path)
    for python in ("./python", f"../{tmp_path.name}/python"):
        assert "it ran" in refused(convert, source, tmp_path / "m.ckpt", "--check", "--python", python)


@pytest.mark.parametrize(("size", "is_too_small"), [(75, True), (106, True), (107, False)])
def test_a_head_that_tf_slim_cannot_build_is_reported_with_the_remedy_that_works(
    tmp_path: Path, random_model: Build, convert: Command, size: int, is_too_small: bool
) -> None:
    model = random_model(image_size=size)
    source = saved(tmp_path, model)
    status, _, err = convert(source, tmp_path / "model.ckpt")
    warnings = [line for line in err.splitlines() if "AuxLogits" in line]
    assert (status, len(warnings)) == (0, is_too_small)
    if is_too_small:
        assert f"images of {size}x{size}" in warnings[0]
        assert "5x5 average pool" in warnings[0]
    if size == 75:
        images = torch.rand(1, 3, size, size) * 2 - 1
        settings = model.settings | {"create_aux_logits": False}
        _, theirs = Program("tf-slim").run(tmp_path / "model.ckpt", images.numpy(), settings, oracle_python())
        with torch.no_grad():
            logits, _ = model(images)
        assert np.abs(theirs["Logits"].reshape(1, -1) - logits.numpy()).max() < 1e-4


def test_a_missing_python_is_named(tmp_path: Path, random_model: Build, convert: Command) -> None:
    source = saved(tmp_path, random_model())
    message = refused(convert, source, tmp_path / "m.ckpt", "--check", "--python", tmp_path / "nowhere")
    assert "nowhere cannot be run" in message


def test_a_program_with_other_outputs_fails_the_check_unless_allowed(
    tmp_path: Path, random_model: Build, convert: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(create_aux_logits=False)
    source = saved(tmp_path, model)
    monkeypatch.setattr(Program, "run", lambda *_: ("tf-slim 0", {"Logits": np.ones((2, 7), "float32")}))
    message = refused(convert, source, tmp_path / "model.ckpt", "--check")
    assert "not written: its logits, computed by tf-slim 0, differ by" in message
    status, out, _ = convert(source, tmp_path / "model.ckpt", "--check", "--allow-difference")
    assert status == 0
    assert "checked by tf-slim 0, which differs by" in out
