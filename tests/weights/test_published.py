"""Published weights by name: files that the other programs wrote, served on this machine, with and without faults.

Only the addresses differ from real use. Names, downloads, caches, archives and formats are the same.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"  # Keras reads it when it is imported

import gzip
import hashlib
import inspect
import io
import json
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import huggingface_hub
import keras
import pytest
import pytorch_fid.inception
import timm
import torch
import torchvision
from keras.src.applications import inception_v3 as keras_inception_v3
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
from timm.models._hub import save_for_hf

import inception_v3
from conftest import tf_slim_cases
from inception_v3 import cli
from inception_v3.errors import InputError
from inception_v3.support import download
from inception_v3.weights import published
from inception_v3.weights.formats.weights import imagenet_classes
from inception_v3.weights.model import InceptionV3
from inception_v3.weights.published import PUBLISHED, Hub, Web
from web_server import COMMIT, Fault, Served, WebServer

TIMM = sys.modules["timm.models.inception_v3"]  # timm.models.inception_v3 is a function
IMAGENET_MEAN = (0.485, 0.456, 0.406)
HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A server without files, which is also the hub; and empty caches."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with WebServer().running() as server:
        monkeypatch.setattr(published, "ENDPOINT", server.url)
        yield server


@pytest.fixture
def publish(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], str]:
    """Serve bytes as the weights of a published name, with their checksum if the name has one. Returns the path."""

    def serve(name: str, content: bytes) -> str:
        entry = PUBLISHED[name]
        assert isinstance(entry, Web)
        path = f"/{entry.url.partition('://')[2]}"
        checksum = entry.checksum
        if checksum is not None:
            kind, digits = checksum.split(":")
            checksum = f"{kind}:{hashlib.new(kind, content).hexdigest()[: len(digits)]}"
        server.files[path] = Served(content)
        monkeypatch.setitem(PUBLISHED, name, replace(entry, url=server.url + path, checksum=checksum))
        return path

    return serve


def tar_gz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name.replace("_ckpt", ".ckpt").replace("_pb", ".pb"))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def slim_file() -> Path:
    """A checkpoint in format V1, written by TF-Slim, like the published one."""
    cases = {"odd": {"height": 107, "width": 139, "batch": 3, "seed": 1}}
    return tf_slim_cases(cases)["odd"] / "model-v1.ckpt"


@pytest.fixture
def slim_archive(slim_file: Path) -> bytes:
    return tar_gz(inception_v3_ckpt=slim_file.read_bytes())


def saved(state: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def randomised(peer: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, tensor in peer.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if name.endswith("var") else tensor.uniform_(-0.05, 0.05)
    return peer


@pytest.fixture(scope="module")
def torchvision_state() -> dict[str, torch.Tensor]:
    return dict(randomised(torchvision.models.inception_v3(weights=None, init_weights=False)).state_dict())


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that timm uploads for its gluon weights."""
    folder = tmp_path_factory.mktemp("timm")
    save_for_hf(
        randomised(timm.create_model("inception_v3.gluon_in1k", aux_logits=False)), folder, safe_serialization=True
    )
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inception-v3", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(exited.value.code or 0), out, err

    return command


# ----------------------------------------------------------------------------------------------------- the table


def test_addresses_and_checksums_equal_those_in_the_other_programs() -> None:
    weights = torchvision.models.Inception_V3_Weights
    assert {name for name in PUBLISHED if name.startswith("torchvision:")} == {f"torchvision:{w.name}" for w in weights}
    assert PUBLISHED["torchvision:IMAGENET1K_V1"] == Web(
        weights.IMAGENET1K_V1.url, "torchvision", f"sha256:{weights.IMAGENET1K_V1.url[-12:-4]}"
    )
    source = inspect.getsource(keras_inception_v3)
    for name, url in (
        ("imagenet", keras_inception_v3.WEIGHTS_PATH),
        ("imagenet-notop", keras_inception_v3.WEIGHTS_PATH_NO_TOP),
    ):
        entry = PUBLISHED[f"keras:{name}"]
        assert isinstance(entry, Web)
        assert entry.url == url
        assert entry.checksum is not None
        file = url.rpartition("/")[2]
        assert f'"{entry.checksum.removeprefix("md5:")}"' in source[source.index(f'"{file}"') :][:300]
    fid = PUBLISHED["fid:2015-12-05"]
    assert fid == Web(pytorch_fid.inception.FID_WEIGHTS_URL, "fid-2015", f"sha256:{fid.url[-12:-4]}")  # type: ignore[union-attr]
    for name, source in (
        ("fid:2015-12-05-graph", inspect.getsource(pytorch_fid.inception)),
        ("slim:2016_08_28", inspect.getsource(TIMM)),
    ):
        entry = PUBLISHED[name]
        assert isinstance(entry, Web)
        assert entry.url.replace("https://", "http://") in source


def test_timms_weights_have_timms_mean_and_std() -> None:
    configurations = TIMM.default_cfgs["inception_v3"].cfgs
    assert {f"timm:inception_v3.{tag}" for tag in configurations} == {n for n in PUBLISHED if n.startswith("timm:")}
    for tag, configuration in configurations.items():
        repository = f"{configuration.hf_hub_id}inception_v3.{tag}"
        assert PUBLISHED[f"timm:inception_v3.{tag}"] == Hub(
            repository, None, "timm", (configuration.mean, configuration.std)
        )


@pytest.mark.parametrize("name", ["torchvision:V9", "keras:", "hf:owner", "hf:a/b/c", "hf:../model", "timm:resnet50"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"there are torchvision:IMAGENET1K_V1, .*hf:owner/name$") as raised:
        inception_v3.load(name)
    assert raised.value.exit_status == 2


def test_any_other_name_is_a_path(tmp_path: Path) -> None:
    assert published.find_published("runs/digits") is None
    assert published.find_published(r"C:\model.safetensors") is None
    with pytest.raises(InputError, match="there is no such file"):
        inception_v3.load(tmp_path / "model.safetensors")


# ----------------------------------------------------------------------------------------- weights of each program


def test_torchvisions_weights(
    server: WebServer, publish: Callable[..., str], tmp_path: Path, torchvision_state: dict[str, torch.Tensor]
) -> None:
    publish("torchvision:IMAGENET1K_V1", saved(torchvision_state))
    model = inception_v3.load("torchvision:IMAGENET1K_V1")
    assert torch.equal(model.state_dict()["Logits.Conv2d_1c_1x1.weights"].flatten(1), torchvision_state["fc.weight"])
    assert model.settings.count_padding
    assert model.preprocessing.resize == 342
    assert model.class_names == imagenet_classes()
    assert model.origin is not None
    assert (model.origin.name, model.origin.format) == ("torchvision:IMAGENET1K_V1", "torchvision")
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "inception_v3_google-0cc3c7bd.pth"
    assert model.origin.file == cached, "the same file as torchvision's"
    with PUBLISHED["torchvision:IMAGENET1K_V1"].open("", None) as source:
        assert source.file == cached
    assert len(server.requests) == 1, "downloaded once"


def test_tf_slims_weights_are_extracted_from_their_archive(
    server: WebServer, publish: Callable[..., str], tmp_path: Path, slim_file: Path, slim_archive: bytes
) -> None:
    path = publish("slim:2016_08_28", slim_archive)
    server.faults = [Fault(cut=1_000_000)]
    model = inception_v3.load("slim:2016_08_28")
    assert server.requested_ranges == [None, "bytes=1000000-"]
    assert path.endswith("/inception_v3_2016_08_28.tar.gz")
    ours, theirs = model.state_dict(), inception_v3.load(slim_file).state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    inception_v3.load("slim:2016_08_28")
    assert len(server.requests) == 2
    kept = [file.name for file in (tmp_path / "torch").rglob("*") if file.is_file() and file.suffix != ".lock"]
    assert kept == ["inception_v3.ckpt"], "the archive is not kept"


def test_kerass_weights_without_the_classifier(server: WebServer, publish: Callable[..., str], tmp_path: Path) -> None:
    network = keras.applications.InceptionV3(weights=None, include_top=False)
    with h5py.File(tmp_path / "notop.h5", "w") as file:
        save_weights_to_hdf5_group(file, network)
    publish("keras:imagenet-notop", (tmp_path / "notop.h5").read_bytes())
    model = inception_v3.load("keras:imagenet-notop")
    assert model.settings.final_endpoint == "Mixed_7c"
    assert model.origin is not None
    assert model.origin.format == "keras"
    kernel = torch.tensor(keras.ops.convert_to_numpy(network.layers[1].kernel)).permute(3, 2, 0, 1)
    assert torch.equal(model.state_dict()["Conv2d_1a_3x3.weights"], kernel)


def test_the_weights_of_fid(
    server: WebServer, publish: Callable[..., str], torchvision_state: dict[str, torch.Tensor]
) -> None:
    network = pytorch_fid.inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    publish("fid:2015-12-05", saved(network.state_dict()))
    model = inception_v3.load("fid:2015-12-05")
    assert model.settings.mixed_7c_pool == "max"
    assert model.settings.num_classes == 1008


def test_the_graph_of_2015_is_extracted_from_its_archive(publish: Callable[..., str]) -> None:
    publish("fid:2015-12-05-graph", tar_gz(LICENSE=b"none", classify_image_graph_def_pb=b"a graph"))
    entry = PUBLISHED["fid:2015-12-05-graph"]
    with entry.open("fid:2015-12-05-graph", None) as source:
        assert source.file.read_bytes() == b"a graph"
        assert source.format == "graphdef-2015"


def test_timms_weights_from_the_hub(server: WebServer, timm_folder: Path) -> None:
    names = ["config.json", "model.safetensors"]
    server.publish("timm/inception_v3.gluon_in1k", timm_folder, names)
    server.publish("someone/fine-tuned", timm_folder, names)
    for name in ("timm:inception_v3.gluon_in1k", "hf:someone/fine-tuned"):
        server.requests.clear()
        model = inception_v3.load(name)
        assert model.preprocessing.mean == IMAGENET_MEAN, name
        assert (model.preprocessing.resize, model.preprocessing.interpolation) == (341, "bicubic")
        assert model.class_names == imagenet_classes()
        known = published.find_published(name)
        assert known is not None
        with known.open(name, None) as source:
            assert model.origin is not None
            assert source.file == model.origin.file
        assert len(server.requested_ranges) == 2, "downloaded once, with its config.json"
    assert published.find_published("hf:timm/inception_v3.gluon_in1k") == PUBLISHED["timm:inception_v3.gluon_in1k"]


# ----------------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def on_hub(server: WebServer, tmp_path: Path, random_model: Callable[..., InceptionV3]) -> InceptionV3:
    """A small model with two classes, at hf:owner/name."""
    model = random_model(num_classes=2, image_size=75)
    model.preprocessing = inception_v3.Preprocessing((75, 75))
    model.class_names = ["cat", "dog"]
    inception_v3.save(model, tmp_path / "model.safetensors")
    server.publish("owner/name", tmp_path, ["model.safetensors"])
    return model


def test_a_repository_of_the_hub(server: WebServer, on_hub: InceptionV3, tmp_path: Path) -> None:
    model = inception_v3.load("hf:owner/name")
    assert model.class_names == ["cat", "dog"]
    assert model.preprocessing == on_hub.preprocessing
    ours, theirs = model.state_dict(), on_hub.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert (tmp_path / "huggingface" / "models--owner--name").is_dir(), "huggingface_hub's own cache"
    assert inception_v3.load(f"hf:owner/name@{COMMIT}").class_names == ["cat", "dog"]


def test_downloads_from_the_hub_are_resumed(
    server: WebServer, on_hub: InceptionV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub writes 10 MiB at a time; a small model needs smaller chunks."""
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    server.faults = [Fault(cut=100_000)]
    inception_v3.load("hf:owner/name")
    assert server.requested_ranges == [None, "bytes=100000-"]


def test_without_a_network_the_cache_is_used(
    server: WebServer, on_hub: InceptionV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    inception_v3.load("hf:owner/name")
    monkeypatch.setattr(published, "ENDPOINT", "http://127.0.0.1:9")
    assert inception_v3.load("hf:owner/name").class_names == ["cat", "dog"]
    with pytest.raises(InputError, match=r"^hf:owner/other: http://127.0.0.1:9/owner/other cannot be reached .*FILE"):
        inception_v3.load("hf:owner/other")


def test_a_pickle_is_used_only_without_safetensors(server: WebServer, tmp_path: Path) -> None:
    for name in published.WEIGHTS:
        (tmp_path / name).write_bytes(name.encode())
    server.publish("owner/old", tmp_path, ["pytorch_model.bin"])
    server.publish("owner/both", tmp_path, ["pytorch_model.bin", "model.safetensors"])
    assert published.download_from_hub("hf:owner/old", "owner/old").name == "pytorch_model.bin"
    assert published.download_from_hub("hf:owner/both", "owner/both").name == "model.safetensors"


def test_both_files_come_from_the_same_commit(server: WebServer, tmp_path: Path) -> None:
    """Even if the repository changes in between."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(b"old")
    server.publish("owner/name", tmp_path, ["config.json", "model.safetensors"])
    newer = Served(b"new", '"new"', headers={"X-Repo-Commit": "f" * 40})
    server.files["/owner/name/resolve/main/model.safetensors"] = newer
    assert published.download_from_hub("hf:owner/name", "owner/name").read_bytes() == b"old"


def test_a_file_with_another_checksum_than_the_hubs_is_deleted(
    server: WebServer, on_hub: InceptionV3, tmp_path: Path
) -> None:
    for path, served in server.files.items():
        server.files[path] = replace(served, content=served.content[:-1] + b"!")
    with pytest.raises(InputError, match=r"model.safetensors does not have the SHA-256 of the hub, and was deleted"):
        inception_v3.load("hf:owner/name")
    assert not list((tmp_path / "huggingface").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"X-Error-Code": "RepoNotFound"}, 404, "no such repository, or a private one"),
        ({"X-Error-Code": "GatedRepo"}, 403, "a gated repository; accept its terms at"),
        ({"X-Error-Code": "RevisionNotFound"}, 404, "the repository has no such revision"),
        ({}, 404, "the repository contains no model.safetensors or pytorch_model.bin"),
        ({}, 503, r"cannot be reached \(.*503"),
    ],
)
def test_the_hubs_errors_are_one_line(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], status: int, reason: str
) -> None:
    def refuse(self: WebServer, request: Any, body: bool) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    monkeypatch.setattr(WebServer, "respond", refuse)
    with pytest.raises(InputError, match=f"^hf:owner/name@v1: .*{reason}") as raised:
        inception_v3.load("hf:owner/name@v1")
    assert "\n" not in str(raised.value)


def test_a_file_above_the_limit_is_not_downloaded_from_the_hub(
    server: WebServer, on_hub: InceptionV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="too large for an Inception V3"):
        inception_v3.load("hf:owner/name")
    assert server.requested_ranges == []


# ------------------------------------------------------------------------------------------------------------ errors


def test_without_a_network_the_message_names_the_alternative(
    monkeypatch: pytest.MonkeyPatch, server: WebServer
) -> None:
    entry = PUBLISHED["slim:2016_08_28"]
    monkeypatch.setitem(PUBLISHED, "slim:2016_08_28", replace(entry, url="http://127.0.0.1:9/x/inception_v3.tar.gz"))
    with pytest.raises(InputError) as raised:
        inception_v3.load("slim:2016_08_28")
    assert str(raised.value) == (
        "slim:2016_08_28: http://127.0.0.1:9/x/inception_v3.tar.gz: cannot be reached (Connection refused); try again, "
        "or download it on another machine and give the file: "
        "--weights-file FILE, in Python load(name, weights_file=FILE)"
    )


def test_a_host_name_that_does_not_resolve_is_reported(monkeypatch: pytest.MonkeyPatch, server: WebServer) -> None:
    def unknown_host(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown_host)
    for name in ("torchvision:IMAGENET1K_V1", "keras:imagenet", "timm:inception_v3.tv_in1k", "hf:owner/name"):
        with pytest.raises(
            InputError, match=r"cannot be reached \(.*Name or service not known\); .*--weights-file FILE"
        ):
            inception_v3.load(name)


def test_a_wrong_checksum_leaves_no_file(server: WebServer, publish: Callable[..., str], tmp_path: Path) -> None:
    path = publish("torchvision:IMAGENET1K_V1", b"weights")
    server.files[path] = Served(b"changed")
    with pytest.raises(
        InputError, match=r"^torchvision:IMAGENET1K_V1: http.*sha256 is not the published one, and it was"
    ):
        inception_v3.load("torchvision:IMAGENET1K_V1")
    assert not [file for file in (tmp_path / "torch").rglob("*") if file.is_file() and file.suffix != ".lock"]


def decompression_bomb() -> bytes:
    return gzip.compress(bytes(3_000_000))


def link() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo("inception_v3.ckpt")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    return buffer.getvalue()


def damaged() -> bytes:
    whole = bytearray(tar_gz(inception_v3_ckpt=os.urandom(100_000)))
    whole[50_000] ^= 1
    return bytes(whole)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tar_gz(other=b"x"), "it contains no inception_v3.ckpt"),
        (link(), "it contains no inception_v3.ckpt"),
        (tar_gz(inception_v3_ckpt=os.urandom(100_000))[:90_000], "it is a damaged archive"),
        (damaged(), "it is a damaged archive"),
        (b"<html>not here</html>", "it is a damaged archive"),
        (tar_gz(inception_v3_ckpt=bytes(3_000_000)), "it is too large for an Inception V3"),
        (decompression_bomb(), ""),
    ],
    ids=["other", "link", "cut", "bit flipped", "page", "large", "bomb"],
)
def test_a_bad_archive_leaves_no_file(
    publish: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str
) -> None:
    monkeypatch.setattr(published, "MAX_BYTES", 1_000_000)
    publish("slim:2016_08_28", content)
    with pytest.raises(InputError, match=f"^slim:2016_08_28: http.*{reason}.*, and it was deleted; ") as raised:
        inception_v3.load("slim:2016_08_28")
    assert "\n" not in str(raised.value)
    assert not [file for file in (tmp_path / "torch").rglob("*") if file.is_file() and file.suffix != ".lock"]


def test_only_the_wanted_member_is_extracted(publish: Callable[..., str], tmp_path: Path) -> None:
    publish("fid:2015-12-05-graph", tar_gz(**{"../evil": b"x", "deep/classify_image_graph_def_pb": b"a graph"}))
    with PUBLISHED["fid:2015-12-05-graph"].open("", None) as source:
        assert source.file.read_bytes() == b"a graph"
    assert not list(tmp_path.rglob("evil"))


# ------------------------------------------------------------------------------------------------------ weights_file


def test_a_given_file_is_read_like_the_published_one(timm_folder: Path, tmp_path: Path) -> None:
    """The file alone does not contain ImageNet's mean, which its name implies."""
    given = tmp_path / "weights.safetensors"
    given.symlink_to(timm_folder / "model.safetensors")
    model = inception_v3.load("timm:inception_v3.gluon_in1k", weights_file=given)
    assert model.preprocessing.mean == IMAGENET_MEAN
    assert model.class_names == imagenet_classes()
    with_config = timm_folder / "model.safetensors"
    assert inception_v3.load("timm:inception_v3.tf_in1k", weights_file=with_config).preprocessing.mean == HALF


def test_tf_slims_classes_start_with_the_background(tmp_path: Path, random_model: Callable[..., InceptionV3]) -> None:
    inception_v3.save(random_model(num_classes=1001), tmp_path / "model.ckpt", "tf-slim")
    model = inception_v3.load("slim:2016_08_28", weights_file=tmp_path / "model.ckpt")
    assert model.class_names == ["background", *imagenet_classes()]


def test_a_given_file_may_be_the_archive_or_its_member(
    tmp_path: Path, server: WebServer, slim_file: Path, slim_archive: bytes
) -> None:
    (tmp_path / "from_elsewhere").write_bytes(slim_archive)
    for file in (tmp_path / "from_elsewhere", slim_file):
        model = inception_v3.load("slim:2016_08_28", weights_file=file)
        assert model.origin is not None
        assert model.origin.format == "tf-slim"
    (tmp_path / "cut").write_bytes(slim_archive[:100_000])
    with pytest.raises(InputError, match="cut: it is a damaged archive"):
        inception_v3.load("slim:2016_08_28", weights_file=tmp_path / "cut")
    assert server.requests == []


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_given_file_that_is_missing_or_wrong(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing"):
        inception_v3.load(name, weights_file=tmp_path / "nothing")
    (tmp_path / "something").write_bytes(b"something else" * 100)
    with pytest.raises(InputError, match="something"):
        inception_v3.load(name, weights_file=tmp_path / "something")


def test_a_given_file_needs_a_published_name(slim_file: Path) -> None:
    with pytest.raises(InputError, match="not a published name") as raised:
        inception_v3.load(slim_file, weights_file=slim_file)
    assert raised.value.exit_status == 2


# -------------------------------------------------------------------------------------------------- the command line


def test_every_command_accepts_published_names(
    server: WebServer, on_hub: InceptionV3, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    digit = Path(__file__).parents[2] / "examples" / "digits" / "7-0081.png"
    status, out, _ = run("predict", "hf:owner/name", digit, "--json")
    assert status == 0
    assert {prediction["class"] for prediction in json.loads(out)["predictions"]} == {"cat", "dog"}
    for kind in ("cat", "dog"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "images" / kind / f"{number}.png").write_bytes(digit.read_bytes())
    status, out, err = run("evaluate", "hf:owner/name", tmp_path / "images", "--json", "--workers", "0")
    assert status == 0, err
    status, out, _ = run("convert", "hf:owner/name", tmp_path / "copy.safetensors", "--json")
    assert status == 0
    assert json.loads(out)["difference"] == 0
    assert json.loads(out)["source_format"] == "native"
    copy = inception_v3.load(tmp_path / "copy.safetensors")
    assert copy.origin is not None
    assert copy.origin.first == "hf:owner/name (native)", "the copy keeps the origin"


def test_every_command_accepts_a_weights_file(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]], slim_file: Path
) -> None:
    digit = Path(__file__).parents[2] / "examples" / "digits" / "7-0081.png"
    given = ("--weights-file", slim_file)
    status, out, err = run("predict", "slim:2016_08_28", digit, "--json", *given)
    assert status == 0, err
    assert len(json.loads(out)["predictions"]) == 5
    for command in (("predict", digit), ("convert", tmp_path / "x.safetensors"), ("evaluate", "digits")):
        status, _, err = run(command[0], "slim:2016_08_28", command[1], "--weights-file", tmp_path / "nothing")
        assert status == 1
        assert err.startswith("error: ")
        assert "nothing" in err
        assert err.count("\n") == 1


def test_a_command_without_a_network_prints_one_line(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, server: WebServer
) -> None:
    monkeypatch.setattr(published, "ENDPOINT", "http://127.0.0.1:9")
    status, out, err = run("predict", "timm:inception_v3.tv_in1k", "examples/digits")
    assert (status, out) == (1, "")
    assert err.startswith("error: timm:inception_v3.tv_in1k: http://127.0.0.1:9/timm/inception_v3.tv_in1k cannot be")
    assert err.count("\n") == 1


def test_importing_the_package_imports_neither_torch_nor_the_hub() -> None:
    check = "import sys, inception_v3; assert not {'torch', 'huggingface_hub'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True)
    check = "import sys, inception_v3.cli; assert not {'torch', 'huggingface_hub'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True)
