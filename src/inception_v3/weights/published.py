"""Published weights by name, `torchvision:IMAGENET1K_V1`, and repositories of the Hugging Face hub, `hf:owner/name`.

A name says more than a file can: which program the weights belong to, and how it scales pictures. Files are
downloaded once: into torch.hub's cache (TORCH_HOME), and by huggingface_hub into its own (HF_HOME).
"""

import gzip
import io
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from inception_v3.errors import InputError
from inception_v3.support.download import LIMIT, DownloadError, download, matches_checksum, reason
from inception_v3.support.files import write_error, atomic_write

MEAN_STD = tuple[tuple[float, float, float], tuple[float, float, float]]
HALF: MEAN_STD = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET: MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class WeightsSource:
    """A file, and what its name tells: the format; the pixels' mean and deviation where the format leaves them open."""

    file: Path
    format: str | None = None
    scaling: MEAN_STD | None = None


@dataclass(frozen=True)
class Web:
    """A file with an address of its own. `member` is what to take out of it where it is a .tar.gz."""

    url: str
    format: str
    checksum: str | None
    member: str | None = None

    @contextmanager
    def opened(self, name: str, given: Path | None) -> Iterator[WeightsSource]:
        """The file, from the cache or the web; or the one that is `given` in its place, for as long as this is open."""
        if given is None:
            yield WeightsSource(self._cached(name), self.format)
        elif self.member is not None and _is_gzip(given):
            with TemporaryDirectory() as folder:
                unpacked = Path(folder) / self.member
                try:
                    _unpack(self.member, given, unpacked)
                except ValueError as error:
                    raise InputError(f"{given}: {error}; get it anew") from error
                yield WeightsSource(unpacked, self.format)
        else:
            yield WeightsSource(given, self.format)

    def _cached(self, name: str) -> Path:
        import torch

        file = Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]
        unpack = None
        if self.member is not None:  # kept without its archive, which would take the same room again
            file = file.parent / file.name.partition(".")[0] / self.member
            unpack = partial(_unpack, self.member)
        try:
            download(self.url, file, self.checksum, unpack)
        except DownloadError as error:
            raise advised(name, error) from error
        return file


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub, at its newest or the given revision."""

    repository: str
    revision: str | None = None
    format: str | None = None
    scaling: MEAN_STD | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of from_hub

    @contextmanager
    def opened(self, name: str, given: Path | None) -> Iterator[WeightsSource]:
        """The file, from the cache or the hub; or the one that is `given` in its place."""
        file = given or from_hub(name, self.repository, self.revision, **self.options)
        yield WeightsSource(file, self.format, self.scaling)


# The one place with addresses. Checksums are those that the publisher's own program compares or puts into the name.
PUBLISHED: dict[str, Web | Hub] = {
    # torchvision/models/inception.py
    "torchvision:IMAGENET1K_V1": Web(
        "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth", "torchvision", "sha256:0cc3c7bd"
    ),
    # timm/models/inception_v3.py; the hub knows the checksums
    "timm:inception_v3.tv_in1k": Hub("timm/inception_v3.tv_in1k", None, "timm", HALF),
    "timm:inception_v3.tf_in1k": Hub("timm/inception_v3.tf_in1k", None, "timm", HALF),
    "timm:inception_v3.tf_adv_in1k": Hub("timm/inception_v3.tf_adv_in1k", None, "timm", HALF),
    "timm:inception_v3.gluon_in1k": Hub("timm/inception_v3.gluon_in1k", None, "timm", IMAGENET),
    # the table of pretrained models of TF-Slim; no checksum is published, but gzip has one of its own
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
    # pytorch_fid/inception.py, which names the graph that it was made from too; for that no checksum is published
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
ENDPOINT: str | None = None  # of the hub; None is huggingface_hub's own, which HF_ENDPOINT sets
CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a repository or a folder, in this order


def find(name: str) -> Web | Hub | None:
    """What a name stands for; None for a path. Raises InputError, with the names there are, for one that is unknown."""
    scheme, colon, rest = name.partition(":")
    if not colon or scheme not in {"hf", *(known.partition(":")[0] for known in PUBLISHED)}:
        return None
    if name in PUBLISHED:
        return PUBLISHED[name]
    found = repository(rest) if scheme == "hf" else None
    if found is None:
        known = ", ".join(PUBLISHED)
        raise InputError(f"no weights are called {name!r}; there are {known}, hf:owner/name", exit_status=2)
    return found


def repository(name: str) -> Hub | None:
    """The repository of the hub that `owner/name` or `owner/name@revision` means; None for anything else."""
    match = re.fullmatch(r"(\w[\w.-]*)/(\w[\w.-]*)(?:@([^@]+))?", name, re.ASCII)
    if match is None:
        return None
    owner, model, revision = match.groups()
    known = PUBLISHED.get(f"{owner}:{model}")  # timm's own, whose scaling is known
    return replace(known, revision=revision) if isinstance(known, Hub) else Hub(f"{owner}/{model}", revision)


def advised(name: str, problem: object) -> InputError:
    """The error for weights that could not be fetched, with the way round."""
    way = "--weights-file FILE, in Python load(name, weights_file=FILE)"
    return InputError(f"{name}: {problem}; try again, or fetch it on another machine and give the file: {way}")


# ----------------------------------------------------------------------------------------------- archives


def _is_gzip(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(2) == b"\x1f\x8b"
    except OSError:
        return False


class _Bounded(io.RawIOBase):
    """What a gzip file holds, up to LIMIT: a small file can hold any number of zeros."""

    def __init__(self, inner: gzip.GzipFile) -> None:
        self.inner = inner
        self.left = LIMIT

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            data = self.inner.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"it is a damaged archive ({error})") from error
        self.left -= len(data)
        if self.left < 0:
            raise ValueError("it holds more than an Inception V3")
        return data


def _unpack(member: str, archive: Path, target: Path) -> None:
    """That one member of a .tar.gz to `target`; nothing else in it is written anywhere.

    Raises ValueError: damaged, without such a member, too large.
    """
    try:
        with gzip.open(archive) as opened:
            stream = _Bounded(opened)
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for entry in tar:
                    if entry.isreg() and entry.sparse is None and PurePosixPath(entry.name).name == member:
                        break
                else:
                    raise ValueError(f"it holds no {member}")
                content = tar.extractfile(entry)
                assert content is not None  # of a regular file there is one
                with atomic_write(target) as temporary:
                    with temporary.open("wb") as file:
                        shutil.copyfileobj(content, file, 1 << 20)
                    while stream.read(1 << 20):  # to the end, where gzip's checksum stands
                        pass
    except tarfile.TarError as error:
        raise ValueError(f"it is a damaged archive ({error})") from error


# ------------------------------------------------------------------------------------------------ the hub


def from_hub(
    name: str,
    repository: str,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """The file with the weights of a repository, from the cache or the hub, with its config.json beside it.

    `name` is for messages; the options are huggingface_hub's. Where the hub does not answer, the cache does.
    Raises InputError: nothing in either, too large, another checksum than the hub's (it is deleted then).
    """
    import huggingface_hub as hub
    from huggingface_hub import errors

    problem: Exception | None = None  # why the hub does not answer

    def fetch(filename: str) -> Path | None:
        nonlocal problem
        if problem is None and not local_files_only:
            url = hub.hf_hub_url(repository, filename, revision=revision, endpoint=ENDPOINT)
            try:  # first of all, since hf_hub_download goes on trying for half a minute without a network
                size = hub.get_hf_file_metadata(url, token=token).size
            except errors.EntryNotFoundError:
                return None
            except Exception as error:  # of its HTTP library, which has changed twice
                status = getattr(getattr(error, "response", None), "status_code", None)
                if status == 404 and not isinstance(
                    error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError
                ):
                    return None  # of a mirror that does not say what is missing
                problem = error
            else:
                if size is not None and size > LIMIT:
                    raise InputError(f"{name}: {filename} has {size >> 20} MiB, too large for an Inception V3")
        try:
            file = hub.hf_hub_download(
                repository,
                filename,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                endpoint=ENDPOINT,
                force_download=force_download and problem is None and not local_files_only,
                local_files_only=local_files_only or problem is not None,
            )
        except errors.EntryNotFoundError:
            return None
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, errors.HfHubHTTPError):
                raise write_error(Path(error.filename or filename), error) from error
            raise advised(name, f"{filename} was not fetched ({reason(error)})") from error
        return Path(file)

    config = fetch(CONFIG)
    if config is not None:
        revision = config.parent.name  # the commit, so that both files are of one
    for filename in WEIGHTS:
        file = fetch(filename)
        if file is not None:
            _check_blob(name, file)
            return file
    raise _not_on_hub(name, repository, problem, local_files_only)


def _check_blob(name: str, file: Path) -> None:
    """The cache keeps a large file under its sha256, and links to it."""
    blob = file.parent / file.readlink() if file.is_symlink() else file
    if re.fullmatch("[0-9a-f]{64}", blob.name) and not matches_checksum(blob, f"sha256:{blob.name}"):
        file.unlink()
        blob.unlink()
        raise advised(name, f"{file.name} has another sha256 than the hub has, and was deleted")


def _not_on_hub(name: str, repository: str, problem: Exception | None, local_files_only: bool) -> InputError:
    from huggingface_hub import errors

    if local_files_only:
        return InputError(f"{name}: is not in the cache; leave out local_files_only to fetch it")
    if problem is None:
        return InputError(f"{name}: the repository holds no {' or '.join(WEIGHTS)}; check the name")
    if isinstance(problem, errors.GatedRepoError):
        return InputError(
            f"{name}: its owner asks for an agreement first; give it at {page(repository)}, then hf auth login"
        )
    if isinstance(problem, errors.RepositoryNotFoundError):
        return InputError(f"{name}: there is no such repository, or a private one; check the name, or hf auth login")
    if isinstance(problem, errors.RevisionNotFoundError):
        return InputError(f"{name}: the repository has no such revision; leave out what stands after the @")
    return advised(name, f"{page(repository)} cannot be reached ({reason(problem)})")


def page(repository: str) -> str:
    """The address where people see a repository."""
    from huggingface_hub import constants

    return f"{ENDPOINT or constants.ENDPOINT}/{repository}"
