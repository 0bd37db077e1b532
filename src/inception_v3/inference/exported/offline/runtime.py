"""onnxruntime-web, which runs a network in a browser: found in a folder, or fetched once by npm into the cache."""

import hashlib
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inception_v3.errors import InputError
from inception_v3.support.files import atomic_write, cache_file, cache_folder
from inception_v3.support.system_errors import read_error, temporary_folder

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"  # the build for CPUs, in the folder dist
CHECKSUMS = {  # SHA-256
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    BINARY: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
INSTALL = f"npm install --ignore-scripts {PACKAGE}@{VERSION}"
NPM_SECONDS = 600
# npm prints codes, then a sentence, then advice: "npm error code ENOTFOUND", "npm error network request to ... failed".
NPM_REASON = re.compile(r"^npm (?:error|ERR!) (?:network )?(?!code |syscall |errno |path )(.+)", re.MULTILINE)


@dataclass(frozen=True)
class Runtime:
    """ONNX Runtime for browsers: its script, which defines `ort`, and its WebAssembly."""

    script: str
    binary: bytes


def load_runtime(folder: Path | None = None, report: Callable[[str], None] = lambda line: None) -> Runtime:
    """Read onnxruntime-web from `folder`, or by default from the cache, into which npm fetches it the first time.

    Args:
        folder: the package itself, or a folder in which npm has installed it.
        report: called with a line before npm connects to its registry.

    Raises InputError: the folder does not hold this version of the package; npm is missing or fails.
    """
    dist = _fetched(report) if folder is None else _installed(folder)
    script = _read(dist / SCRIPT).decode()
    # In a page from a file, browsers start only classic workers, so the module becomes a function without imports.
    names = re.search(r"export\{([^}]*)\};", script)
    assert names is not None
    pairs = (name.split(" as ") for name in names[1].split(","))
    result = ",".join(f"{exported}:{name}" for name, exported in pairs)
    body = script[: names.start()].replace("import.meta.url", "self.location.href")
    return Runtime(f"const ort=(()=>{{{body}\nreturn{{{result}}}}})();\n", _read(dist / BINARY))


def _installed(folder: Path) -> Path:
    """The folder dist of the package in a folder."""
    for package in (folder, folder / PACKAGE, folder / "node_modules" / PACKAGE, folder / "package"):
        if (package / "dist" / BINARY).is_file():
            return package / "dist"
    raise InputError(f"--runtime {folder}: {PACKAGE} is not in it; run there: {INSTALL}", exit_status=2)


def _read(file: Path) -> bytes:
    """The content of a file of the package. Raises InputError: it is not that of VERSION."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise read_error(file, error) from error
    if hashlib.sha256(content).hexdigest() != CHECKSUMS[file.name]:
        raise InputError(f"{file}: not the file of {PACKAGE} {VERSION}; install it again: {INSTALL}")
    return content


def _fetched(report: Callable[[str], None]) -> Path:
    """The folder of the cache with the files, which npm fetches if they are missing or damaged there."""
    files = [cache_file(cache_folder(PACKAGE, VERSION) / name) for name in CHECKSUMS]
    if not all(_is_intact(file) for file in files):
        npm = shutil.which("npm")
        if npm is None:
            raise InputError(
                f"a page needs {PACKAGE}, and npm, which would fetch it, is not installed; "
                f"run `{INSTALL}` elsewhere, and copy and name that folder: --runtime FOLDER"
            )
        report(f"npm fetches {PACKAGE} {VERSION} once (33 MB), into {files[0].parent}")
        with temporary_folder() as folder:
            archive = _packed(npm, folder)
            with tarfile.open(archive) as package:
                for file in files:
                    content = package.extractfile(f"package/dist/{file.name}")
                    assert content is not None
                    with atomic_write(file) as temporary:
                        temporary.write_bytes(content.read())
    return files[0].parent


def _is_intact(file: Path) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == CHECKSUMS[file.name]


def _packed(npm: str, folder: Path) -> Path:
    """Let npm fetch the package's archive into a folder. Raises InputError with npm's own reason."""
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS)
        reason = next(iter(NPM_REASON.findall(done.stderr)), f"status {done.returncode}")
    except subprocess.TimeoutExpired:
        reason = f"no end after {NPM_SECONDS / 60:.0f} minutes"
    else:
        if archives := [*folder.glob("*.tgz")]:
            return archives[0]
    raise InputError(f"{PACKAGE} {VERSION} cannot be fetched ({reason}); or name a folder with it: --runtime FOLDER")
