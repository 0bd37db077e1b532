"""The kind of a file or folder, by its first bytes and its name; for those that are no readable model, why not.

Nothing here needs PyTorch, and nothing of a file is run. The formats decide what can be read; this module only
describes, in `inception-v3 inspect` and in the message about a file that no format recognises.
"""

import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inception_v3.support.system_errors import file_status, is_folder, list_folder
from inception_v3.weights import SAVED_MODEL_FILE
from inception_v3.weights.formats.tensorflow_checkpoint import MAGIC as END_OF_TABLE
from inception_v3.weights.formats.torch_file import EXPORT_RECORDS, LEGACY_BYTES, PICKLE_STARTS

HEAD = 512  # bytes that are looked at
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_HEADER = 100_000_000  # bytes, of safetensors
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".h5", ".keras", ".pb", ".tar", ".json", ".index")
# The names of kinds by which weights/writers.py finds the program.
LAYERS_MODEL, GRAPH_MODEL = "a TensorFlow.js layers model", "a TensorFlow.js graph model"
KERAS_ZIP, HDF5, SAFETENSORS = "a Keras model (.keras)", "HDF5, as Keras writes it", "safetensors"
INDEX = "the index of a state dict in several files"
TORCH_ZIP, TORCH_LEGACY = "a file of torch.save", "a file of torch.save, in the form before PyTorch 1.6"
SAVED_MODEL = "a TensorFlow SavedModel"
PICKLE = "a pickle that torch.save did not write"
MAX_JSON = 32 << 20  # bytes
TORCH_TAR = "a file of torch.save before PyTorch 0.2, a tar archive"
TORCH_TAR_REMEDY = (
    "if you trust it, save it again with PyTorch 2: torch.save(torch.load(FILE, weights_only=False), 'model.pth')"
)
AGAIN = "download or copy it again"


@dataclass(frozen=True)
class Kind:
    """The name of a kind of file and, if no format here can read it, the fault with its remedy."""

    name: str
    refusal: str = ""


# Files that are no models, or models of other programs: the bytes at an offset, the name, and the remedy.
OTHERS = (
    (0, b"version https://git-lfs.github.com", "a Git LFS pointer", "fetch the file itself with `git lfs pull`"),
    (0, b"\xff\xd8\xff", "a JPEG image", "give a model"),
    (0, b"\x89PNG\r\n", "a PNG image", "give a model"),
    (0, b"GIF8", "a GIF image", "give a model"),
    (8, b"WEBP", "a WebP image", "give a model"),
    (0, b"BM", "a BMP image", "give a model"),
    (0, b"%PDF", "a PDF document", "give a model"),
    (
        4,
        b"TFL3",
        "a TensorFlow Lite model, whose layers have been fused",
        "give the Keras model or the checkpoint that it was converted from",
    ),
    (0, b"GGUF", "a GGUF file", "give the weights that it was converted from"),
    (0, b"\x1f\x8b", "an archive compressed with gzip", "unpack it, and give the model in it"),
    (0, b"BZh", "an archive compressed with bzip2", "unpack it, and give the model in it"),
    (0, b"\xfd7zXZ", "an archive compressed with xz", "unpack it, and give the model in it"),
    (0, b"\x28\xb5\x2f\xfd", "an archive compressed with zstd", "unpack it, and give the model in it"),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpack it, and give the model in it"),
    (0, b"Rar!", "a RAR archive", "unpack it, and give the model in it"),
    (257, b"ustar", "a tar archive", "unpack it, and give the model in it"),
    (0, b"\x93NUMPY", "a NumPy array", "give the weights as a state dict: torch.save or safetensors"),
)


def is_safetensors_start(start: bytes) -> bool:
    """Whether a file begins as safetensors do: with the length of a JSON header, and its brace."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER


def _refused(name: str, rest: str) -> Kind:
    """A kind whose name begins the message about it."""
    return Kind(name, name + rest)


def identify(path: Path) -> Kind:
    """The kind of a path. Raises OSError: it cannot be read."""
    if is_folder(path):
        return _identify_folder(path)
    if file_status(path) is None and file_status(f"{path}.index") is not None:
        return Kind("a TensorFlow checkpoint, V2")
    with path.open("rb") as file:
        head = file.read(HEAD)
        size = file.seek(0, 2)
        file.seek(max(0, size - len(END_OF_TABLE)))
        end = file.read()
    if not head:
        return _refused("an empty file", f", from which no model can be read; {AGAIN}")
    if head[257:].startswith(b"ustar") and _is_of_torch(path):
        return _refused(TORCH_TAR, f"; {TORCH_TAR_REMEDY}")
    for offset, magic, name, remedy in OTHERS:
        if head[offset:].startswith(magic):
            return _refused(name, f"; {remedy}")
    return _identify_model(path, head, size, end == END_OF_TABLE) or _identify_text(path, head)


def _is_of_torch(archive: Path) -> bool:
    """Whether a tar archive starts with the first member of PyTorch's, perhaps behind the header of its attributes."""
    with archive.open("rb") as file:
        return any(file.read(HEAD).startswith(b"sys_info\0") for _ in range(4))


def _identify_model(path: Path, head: bytes, size: int, is_table: bool) -> Kind | None:
    """The kind of a binary file with a model, whole or damaged."""
    if head.startswith(b"PK\3\4"):
        return _identify_zip(path, size)
    if head.startswith(HDF5_SIGNATURE):
        return Kind(HDF5)
    if LEGACY_BYTES in head[:32]:
        return Kind(TORCH_LEGACY)
    if is_safetensors_start(head):
        return Kind(SAFETENSORS)
    if is_table:
        return Kind("a table of a TensorFlow checkpoint")
    if head.startswith(PICKLE_STARTS):
        return Kind(PICKLE)
    if head[:1] == b"\x08" and head[2:3] == b"\x12" and path.suffix == ".onnx":
        rest = ", of which no weights are read; give the weights that it was exported from"
        return _refused("an ONNX network that inception-v3 did not export", rest)
    if not head.strip(b"\0"):
        return Kind("a file that starts with zeros", f"starts with {len(head)} zeros: an interrupted download; {AGAIN}")
    return _identify_name(path)


def _identify_zip(path: Path, size: int) -> Kind:
    if not zipfile.is_zipfile(path):
        return Kind(
            "a truncated zip",
            f"truncated: its first {size:,} bytes are those of a zip, and the end is missing; {AGAIN}",
        )
    names: list[str] = []
    with suppress(OSError, ValueError, zipfile.BadZipFile, NotImplementedError), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    parts = {name.rpartition("/")[2] for name in names}
    if "model.weights.h5" in parts:
        return Kind(KERAS_ZIP)
    if parts & EXPORT_RECORDS:
        return Kind("a program of torch.export (.pt2)")
    if "data.pkl" in parts:
        return Kind("a TorchScript program" if "constants.pkl" in parts else TORCH_ZIP)
    if names and all(name.endswith(".npy") for name in names):
        return _refused(
            "an archive of NumPy arrays (.npz)", "; give the weights as a state dict: torch.save or safetensors"
        )
    return _refused("a zip archive", " without a model of its own; unpack it, and give the model in it")


def _identify_name(path: Path) -> Kind | None:
    """The kind of a binary file without a known start, by its name."""
    if path.name == SAVED_MODEL_FILE:
        return Kind(SAVED_MODEL)
    if path.suffix == ".meta":
        rest = f", without weights; give the checkpoint itself: {path.with_suffix('')}"
        return _refused("the graph of a TensorFlow checkpoint", rest)
    if ".data-0" in path.name:
        prefix = path.name.partition(".data-0")[0]
        return Kind(
            "a data file of a TensorFlow checkpoint",
            f"a part of a TensorFlow checkpoint without its index; put {prefix}.index beside it, and give {prefix}",
        )
    if path.suffix == ".pb":
        rest = " (or damaged), but no Inception V3 with its weights; give the checkpoint it came from"
        return _refused("a TensorFlow graph", rest)
    if path.suffix == ".msgpack":
        return _refused("weights of Flax", " (.msgpack); give the model's weights of PyTorch or Keras")
    return None


def _identify_text(path: Path, head: bytes) -> Kind:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:14].lower().startswith((b"<!doctype html", b"<html", b"<head")):
        rest = ", not the file behind it; download the file itself: the page may need a login"
        return _refused("a web page (HTML)", rest)
    if path.name == "checkpoint" and b"model_checkpoint_path" in head:
        rest = f"; give the checkpoint that it names: {_named_checkpoint(path, head)}"
        return _refused("the list of a TensorFlow run's checkpoints", rest)
    if text.startswith(b"{"):
        if path.name.endswith(".index.json"):
            return Kind(INDEX)
        with path.open("rb") as file:
            content = file.read(MAX_JSON)
        if b'"weightsManifest"' in content or b'"modelTopology"' in content:
            return Kind(GRAPH_MODEL if b'"graph-model"' in content else LAYERS_MODEL)
        return _refused("JSON", f" without a model; give {_advise(path.parent) or 'the file with the weights'}")
    if text.startswith(b"<"):
        return _refused("XML", ", but no network that inception-v3 exported; give the weights it was made from")
    with suppress(UnicodeDecodeError):
        if head[:400].decode("utf-8", "strict" if len(head) < 400 else "ignore").isascii() and b"\0" not in head:
            return Kind("text")
    return Kind("a file of an unknown kind")


def _named_checkpoint(path: Path, head: bytes) -> Path:
    """The newest checkpoint that a file `checkpoint` names, beside it."""
    name = head.decode("utf-8", "replace").partition('"')[2].partition('"')[0]
    return path.with_name(Path(name).name or "model.ckpt")


def _identify_folder(path: Path) -> Kind:
    names = {each.name for each in list_folder(path)}
    if SAVED_MODEL_FILE in names:
        return Kind(SAVED_MODEL)
    if path.suffix == ".mlpackage":
        return _refused("a Core ML package", " that inception-v3 did not export; give its weights")
    advice = _advise(path)
    return Kind("a folder", f"a folder without a model of a known name; give {advice}" if advice else "")


def _advise(folder: Path) -> str:
    """The files in a folder that may hold weights, at most three."""
    return " or ".join(str(each) for each in list(_weights_in(folder))[:3])


def _weights_in(folder: Path) -> Iterator[Path]:
    for each in list_folder(folder):
        if each.suffix in WEIGHT_SUFFIXES and each.suffix != ".json":
            yield each.with_suffix("") if each.suffix == ".index" else each
