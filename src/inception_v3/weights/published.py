"""Published weights by name: `torchvision:IMAGENET1K_V1`, and `hf:owner/name` for repositories of the Hugging Face hub.

A name determines facts that the file does not contain: which program the weights belong to, and how it normalises
images. Each file is downloaded once, into torch.hub's cache (TORCH_HOME) or huggingface_hub's (HF_HOME).
"""

import gzip
import io
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from inception_v3.errors import InputError
from inception_v3.support.download import MAX_BYTES, DownloadError, download, matches_checksum, network_reason
from inception_v3.support.files import atomic_write, cache_file, write_error
from inception_v3.support.system_errors import temporary_folder
from inception_v3.weights import MODEL_FILE

MeanStd = tuple[tuple[float, float, float], tuple[float, float, float]]
INCEPTION_MEAN_STD: MeanStd = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET_MEAN_STD: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class WeightsSource:
    """A file with weights, and facts that are not in the file itself.

    `format` is None if it must be recognised from the content. `mean_std` is the normalisation of images if the format
    does not store it.
    """

    file: Path
    format: str | None = None
    mean_std: MeanStd | None = None


@dataclass(frozen=True)
class Web:
    """Weights at a web address. `member` is the file to extract if it is a .tar.gz archive."""

    url: str
    format: str
    checksum: str | None
    member: str | None = None

    @contextmanager
    def open(self, name: str, local_file: Path | None = None) -> Iterator[WeightsSource]:
        """Yield the file, from the cache or the web, or `local_file` instead. Read it inside the context.

        `name` is for messages. Raises InputError: the download failed, or a damaged archive.
        """
        if local_file is None:
            yield WeightsSource(self._download(name), self.format)
        elif self.member is not None and _is_gzip(local_file):
            with temporary_folder() as folder:
                extracted = folder / self.member
                try:
                    _extract(self.member, local_file, extracted)
                except ValueError as error:
                    raise InputError(f"{local_file}: {error}; download it again") from error
                yield WeightsSource(extracted, self.format)
        else:
            yield WeightsSource(local_file, self.format)

    def _download(self, name: str) -> Path:
        import torch

        file = Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]
        unpack = None
        if self.member is not None:  # kept without its archive, which would take the same space again
            file = file.parent / file.name.partition(".")[0] / self.member
            unpack = partial(_extract, self.member)
        file = cache_file(file)
        try:
            download(self.url, file, self.checksum, unpack)
        except DownloadError as error:
            raise _fetch_error(name, error) from error
        return file


@dataclass(frozen=True)
class Hub:
    """Weights in a repository of the Hugging Face hub, at its newest or the given revision.

    The options from `token` on are those of `huggingface_hub.hf_hub_download`, under its names.
    """

    repository: str
    revision: str | None = None
    format: str | None = None
    mean_std: MeanStd | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False

    @contextmanager
    def open(self, name: str, local_file: Path | None = None) -> Iterator[WeightsSource]:
        """Yield the file, from the cache or the hub, or `local_file` instead.

        `name` is for messages. Raises InputError: see `download_from_hub`.
        """
        file = local_file or download_from_hub(
            name,
            self.repository,
            self.revision,
            token=self.token,
            cache_dir=self.cache_dir,
            force_download=self.force_download,
            local_files_only=self.local_files_only,
        )
        yield WeightsSource(file, self.format, self.mean_std)


# All addresses. A checksum is the one that the publisher's own program verifies or writes into the file's name.
PUBLISHED: dict[str, Web | Hub] = {
    # torchvision/models/inception.py
    "torchvision:IMAGENET1K_V1": Web(
        "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth", "torchvision", "sha256:0cc3c7bd"
    ),
    # timm/models/inception_v3.py; the hub stores the checksums
    "timm:inception_v3.tv_in1k": Hub("timm/inception_v3.tv_in1k", None, "timm", INCEPTION_MEAN_STD),
    "timm:inception_v3.tf_in1k": Hub("timm/inception_v3.tf_in1k", None, "timm", INCEPTION_MEAN_STD),
    "timm:inception_v3.tf_adv_in1k": Hub("timm/inception_v3.tf_adv_in1k", None, "timm", INCEPTION_MEAN_STD),
    "timm:inception_v3.gluon_in1k": Hub("timm/inception_v3.gluon_in1k", None, "timm", IMAGENET_MEAN_STD),
    # TF-Slim's table of pretrained models; no checksum is published, but gzip has its own
    "slim:2016_08_28": Web(
        "https://download.tensorflow.org/models/inception_v3_2016_08_28.tar.gz", "tf-slim", None, "inception_v3.ckpt"
    ),
    # keras/src/applications/inception_v3.py
    "keras:imagenet": Web(
        "https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/"
        "inception_v3_weights_tf_dim_ordering_tf_kernels.h5",
        "keras",
        "md5:9a0d58056eeedaa3f26cb7ebd46da564",
    ),
    "keras:imagenet-notop": Web(
        "https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/"
        "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "keras",
        "md5:bcbd6486424b2319ff4ef7d526e38f63",
    ),
    # pytorch_fid/inception.py, which also names the original graph; no checksum of that is published
    "fid:2015-12-05": Web(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "fid-2015",
        "sha256:6726825d",
    ),
    "fid:2015-12-05-graph": Web(
        "https://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz",
        "graphdef-2015",
        None,
        "classify_image_graph_def.pb",
    ),
}
ENDPOINT: str | None = None  # address of the hub; None is huggingface_hub's default, which HF_ENDPOINT sets
CONFIG = "config.json"
WEIGHTS = (MODEL_FILE, "pytorch_model.bin")  # files of a repository or folder, in order of preference


def find_published(name: str) -> Web | Hub | None:
    """Return the published weights of this name, or None if it is a path.

    Raises InputError: an unknown name; the message lists the known ones.
    """
    scheme, colon, rest = name.partition(":")
    if not colon or scheme not in {"hf", *(known.partition(":")[0] for known in PUBLISHED)}:
        return None
    if name in PUBLISHED:
        return PUBLISHED[name]
    repository = parse_repository(rest) if scheme == "hf" else None
    if repository is None:
        known = ", ".join(PUBLISHED)
        raise InputError(f"no weights are called {name!r}; there are {known}, hf:owner/name", exit_status=2)
    return repository


def parse_repository(name: str) -> Hub | None:
    """Return the hub's repository for `owner/name` or `owner/name@revision`, or None for anything else."""
    match = re.fullmatch(r"(\w[\w.-]*)/(\w[\w.-]*)(?:@([^@]+))?", name, re.ASCII)
    if match is None:
        return None
    owner, model, revision = match.groups()
    known = PUBLISHED.get(f"{owner}:{model}")  # timm's own repositories, whose normalisation is known
    return replace(known, revision=revision) if isinstance(known, Hub) else Hub(f"{owner}/{model}", revision)


def _fetch_error(name: str, problem: object) -> InputError:
    """Return the error for weights that could not be downloaded, with the alternative."""
    return InputError(
        f"{name}: {problem}; try again, or download it on another machine and give the file: --weights-file FILE, in "
        "Python load(name, weights_file=FILE)"
    )


# ----------------------------------------------------------------------------------------------- archives


def _is_gzip(file: Path) -> bool:
    with suppress(OSError), file.open("rb") as opened:
        return opened.read(2) == b"\x1f\x8b"
    return False


class _BoundedReader(io.RawIOBase):
    """Decompresses a gzip file, up to MAX_BYTES: a small file can expand to any size."""

    def __init__(self, inner: gzip.GzipFile) -> None:
        self.inner = inner
        self.left = MAX_BYTES

    def read(self, size: int = -1) -> bytes:
        try:
            data = self.inner.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"it is a damaged archive ({error})") from error
        self.left -= len(data)
        if self.left < 0:
            raise ValueError("it is too large for an Inception V3")
        return data


def _extract(member: str, archive: Path, target: Path) -> None:
    """Extract one member of a .tar.gz to `target`, and nothing else.

    Raises ValueError: damaged, no such member, or too large.
    """
    try:
        with (
            gzip.open(archive) as opened,
            tarfile.open(fileobj=(stream := _BoundedReader(opened)), mode="r|") as tar,
        ):
            wanted = (entry for entry in tar if entry.isreg() and entry.sparse is None)
            entry = next((entry for entry in wanted if PurePosixPath(entry.name).name == member), None)
            content = None if entry is None else tar.extractfile(entry)
            if content is None:
                raise ValueError(f"it contains no {member}")
            with atomic_write(target) as temporary:
                with temporary.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                while stream.read(1 << 20):  # gzip verifies its checksum at the end
                    pass
    except tarfile.TarError as error:
        raise ValueError(f"it is a damaged archive ({error})") from error


# ------------------------------------------------------------------------------------------------ the hub


class _NotInRepositoryError(Exception):
    """The hub is reachable, but the repository has no such file."""


def download_from_hub(
    name: str,
    repository: str,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Return the file with a repository's weights, from the cache or the hub. Its config.json lies beside it.

    If the hub is not reachable, the cache is used. `name` is for messages.
    Raises InputError: the file is in neither of them, is too large, or fails the hub's checksum (it is deleted then).
    """
    from huggingface_hub import errors, hf_hub_download

    problem: Exception | None = None  # why the hub is not reachable
    for filename in (CONFIG, *WEIGHTS):
        try:
            if not (local_files_only or problem):
                problem = _check_hub(name, repository, filename, revision, token)
            offline = local_files_only or problem is not None
            path = hf_hub_download(
                repository,
                filename,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                endpoint=ENDPOINT,
                force_download=force_download and not offline,
                local_files_only=offline,
            )
        except (_NotInRepositoryError, errors.EntryNotFoundError):
            continue
        except InputError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, errors.HfHubHTTPError):
                raise write_error(Path(error.filename or filename), error) from error
            raise _fetch_error(name, f"{filename} was not downloaded ({network_reason(error)})") from error
        file = Path(path)
        if filename != CONFIG:
            _verify_cached(name, file)
            return file
        revision = file.parent.name  # the commit, so that the weights are from the same one
    raise _not_on_hub(name, repository, problem, local_files_only)


def _check_hub(
    name: str, repository: str, filename: str, revision: str | None, token: str | bool | None
) -> Exception | None:
    """Return None if the hub can deliver the file, or the error if it cannot be reached.

    Called first because hf_hub_download retries for half a minute without a network.
    Raises _NotInRepositoryError; InputError: the file is too large.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    try:
        url = hf_hub_url(repository, filename, revision=revision, endpoint=ENDPOINT)
        size = get_hf_file_metadata(url, token=token).size
    except Exception as error:  # the errors of its HTTP library, which has changed twice
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 404 and not isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
            raise _NotInRepositoryError from error
        return error
    if size is not None and size > MAX_BYTES:
        raise InputError(f"{name}: {filename} has {size >> 20} MiB, too large for an Inception V3")
    return None


def _verify_cached(name: str, file: Path) -> None:
    """Verify a large file: the cache stores it under its SHA-256 and links to it. Delete it if it differs."""
    blob = file.parent / file.readlink() if file.is_symlink() else file
    if re.fullmatch("[0-9a-f]{64}", blob.name) and not matches_checksum(blob, f"sha256:{blob.name}"):
        file.unlink()
        blob.unlink()
        raise _fetch_error(name, f"{file.name} does not have the SHA-256 of the hub, and was deleted")


def _not_on_hub(name: str, repository: str, problem: Exception | None, local_files_only: bool) -> InputError:
    from huggingface_hub import constants, errors

    address = f"{ENDPOINT or constants.ENDPOINT}/{repository}"
    if local_files_only:
        return InputError(f"{name}: is not in the cache; leave out local_files_only to download it")
    if problem is None:
        return InputError(f"{name}: the repository contains no {' or '.join(WEIGHTS)}; check the name")
    faults = {  # the most particular first
        errors.GatedRepoError: f"a gated repository; accept its terms at {address}, then run hf auth login",
        errors.RepositoryNotFoundError: "no such repository, or a private one; check the name, or run hf auth login",
        errors.RevisionNotFoundError: "the repository has no such revision; leave out the part after the @",
    }
    for kind, fault in faults.items():
        if isinstance(problem, kind):
            return InputError(f"{name}: {fault}")
    return _fetch_error(name, f"{address} cannot be reached ({network_reason(problem)})")
