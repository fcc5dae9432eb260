"""A weight name becomes a local folder in the ordinary Hugging Face layout, fetched and converted once.

Knows nothing of what the weights are for. Imports torch only inside the conversion of weights that are not in
the cache yet, so that planning may ask for identities and cached folders cheaply.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from model.zoo.catalogue import CATALOGUE
from model.zoo.errors import ZooError
from model.zoo.settings import WeightSource

RECORD = "empamba-weights.json"
REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
COMMIT = re.compile("[0-9a-f]{40}")
HUB_PATTERNS = ("*.json", "*.txt", "*.safetensors", "*.model")


def default_cache() -> Path:
    """The user's weight cache: `$EMPAMBA_CACHE`, or `~/.cache/empamba/weights`."""
    chosen = os.environ.get("EMPAMBA_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "empamba" / "weights"


def source_of(name: str) -> WeightSource:
    """The source behind a catalogue name or the path of an existing folder.

    Raises ZooError, with the known names, for anything else.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    folder = Path(name).expanduser()
    if folder.is_dir():
        return WeightSource(
            name=name, kind="folder", role="the user's", licence="see the folder", path=str(folder.resolve())
        )
    raise ZooError(
        f"weights {name!r}: neither a known name nor an existing folder; known: {', '.join(sorted(CATALOGUE))}"
    )


def identity(name: str, cache: Path | None = None) -> str:
    """A string that changes whenever the weights behind `name` would; part of stage keys. Imports no torch.

    A folder's identity is a digest of its files; digests of unchanged files (size, mtime, inode) are remembered
    in the cache, so that asking again reads no weights.
    """
    source = source_of(name)
    if source.kind == "wheel":
        return f"wheel:{source.package}=={source.version}:{source.sha256}:{source.converter}"
    if source.kind == "hub":
        return f"hub:{source.hub_id}@{source.revision}"
    if source.kind == "random":
        return f"random:{source.name}:{_sha256_text(source.spec)[:16]}"
    return f"{source.kind}:{_folder_digest(_local_folder(source), cache or default_cache())}"


def resolve(name: str, cache: Path | None = None) -> Path:
    """The local folder that holds the weights `name`, fetched and converted on first use.

    Safe to call from several processes at once: one of them converts, the others wait on a kernel file lock.
    Raises ZooError when the weights cannot be fetched or are damaged.
    """
    cache = cache or default_cache()
    source = source_of(name)
    if source.kind in ("folder", "shipped"):
        return _local_folder(source)
    folder = cached_folder(name, cache)
    if _is_complete(folder, identity(name)):
        return folder
    with _locked(cache / "locks" / f"{folder.name}.lock"):
        if not _is_complete(folder, identity(name)):
            _build(source, folder, cache)
    return folder


def cached_folder(name: str, cache: Path | None = None) -> Path:
    """Where `resolve` puts (or has put) the weights `name`; the folder need not exist."""
    source = source_of(name)
    if source.kind in ("folder", "shipped"):
        return _local_folder(source)
    return (cache or default_cache()) / f"{name}-{_sha256_text(identity(name))[:12]}"


def is_cached(name: str, cache: Path | None = None) -> bool:
    """Whether `resolve` would return at once, without a download or a conversion."""
    source = source_of(name)
    if source.kind in ("folder", "shipped"):
        return True
    return _is_complete(cached_folder(name, cache), identity(name))


def commit_of(name: str, cache: Path | None = None) -> str | None:
    """The commit of the hub that the cached weights `name` are of; None of any others, and of none."""
    return recorded_commit(cached_folder(name, cache))


def recorded_commit(folder: Path) -> str | None:
    """As `commit_of`, of a resolved folder."""
    return (_read_record(folder) or {}).get("commit")


def verify(name: str, cache: Path | None = None) -> None:
    """Compare every file of the cached weights `name` with its recorded digest; ZooError names the first bad one.

    Weights that carry no record (a folder of the user, shipped weights) are left to the tool that made them.
    """
    folder = cached_folder(name, cache)
    record = _read_record(folder)
    if record is None:
        if source_of(name).kind in ("folder", "shipped"):
            return
        raise ZooError(f"weights {name!r}: not in the cache {folder.parent}; resolve them first")
    for relative, (_, digest) in sorted(record["files"].items()):
        path = folder / relative
        if not path.is_file() or _sha256_file(path) != digest:
            raise ZooError(f"weights {name!r}: {path} is damaged; delete {folder} and resolve again")


def _local_folder(source: WeightSource) -> Path:
    folder = REPOSITORY_ROOT / source.path if source.kind == "shipped" else Path(source.path)
    if not folder.is_dir():
        raise ZooError(f"weights {source.name!r}: folder {folder} does not exist; reinstall or name another")
    return folder


def _build(source: WeightSource, folder: Path, cache: Path) -> None:
    """Fill `folder` through a temporary sibling and one rename; the record is written before the rename."""
    cache.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache))
    commit = None
    try:
        if source.kind == "wheel":
            _build_from_wheel(source, draft, cache)
        elif source.kind == "hub":
            commit = _build_from_hub(source, draft)
        else:
            _build_random(source, draft)
        _write_record(draft, identity(source.name), commit)
        if folder.exists():
            shutil.rmtree(folder)
        os.chmod(draft, 0o755)
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _build_from_wheel(source: WeightSource, draft: Path, cache: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=cache) as scratch:
        wheel = _download_wheel(source, Path(scratch))
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        _converter(source)(unpacked, draft)


def _converter(source: WeightSource) -> Callable[[Path, Path], None]:
    # Imported here: each conversion needs torch, and asking for a cached folder must not.
    if source.name == "smollm2-135m-instruct":
        from model.zoo.convert_smollm2 import convert_smollm2

        return convert_smollm2
    if source.name == "whisper-tiny.en":
        from model.zoo.convert_whisper import convert_whisper

        return convert_whisper
    if source.name == "minilm-l6":
        from model.zoo.convert_minilm import convert_minilm

        return convert_minilm
    if source.name == "efficientnet-lite0":
        from model.zoo.convert_efficientnet import convert_efficientnet

        return convert_efficientnet
    if source.name == "mini-xception-fer":
        from model.zoo.convert_mini_xception import convert_mini_xception

        return convert_mini_xception
    raise ZooError(f"weights {source.name!r}: no conversion is written for them")


def _download_wheel(source: WeightSource, target: Path) -> Path:
    requirement = f"{source.package}=={source.version}"
    # Only a wheel will do: unpacking one runs no code of the package, building an sdist would.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--dest", str(target), requirement],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    wheels = sorted(target.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ZooError(
            f"weights {source.name!r}: pip could not download {requirement} ({last}); check the network and the "
            f"pip settings, or put the wheel into a folder named by PIP_FIND_LINKS"
        )
    found = _sha256_file(wheels[0])
    if found != source.sha256:
        raise ZooError(
            f"weights {source.name!r}: {wheels[0].name} has sha256 {found}, pinned is {source.sha256}; "
            f"the package index serves another file, do not use it"
        )
    return wheels[0]


def _build_from_hub(source: WeightSource, draft: Path) -> str | None:
    """Returns the commit that the hub's client has fetched: it names the snapshot's folder by it."""
    snapshot = _snapshot(source, HUB_PATTERNS)
    if not list(snapshot.glob("*.safetensors")):
        snapshot = _snapshot(source, (*HUB_PATTERNS, "pytorch_model*.bin"))
        from model.zoo.convert_bin import convert_bin

        convert_bin(snapshot, draft)
    for path in sorted(snapshot.rglob("*")):
        wanted = path.suffix in (".json", ".txt", ".safetensors", ".model")
        if path.is_file() and wanted and not path.name.endswith(".bin.index.json"):
            copy = draft / path.relative_to(snapshot)
            copy.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(path.resolve(), copy)
    return snapshot.name if COMMIT.fullmatch(snapshot.name) else None


def _snapshot(source: WeightSource, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source.hub_id, revision=source.revision, allow_patterns=list(patterns)))
    except Exception as error:  # the hub client raises many unrelated types; all mean the same here
        reason = (str(error).strip().splitlines() or ["no message"])[0][:160]
        connect = "unset HF_HUB_OFFLINE (setting run.offline)" if offline() else "connect"
        way_on = f", or use {source.instead!r} (profile cpu), which needs no hub" if source.instead else ""
        raise ZooError(
            f"weights {source.name!r}: {source.hub_id} cannot be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {reason}); {connect}, or give the path of a local copy instead of the name{way_on}"
        ) from error


def offline() -> bool:
    """Whether this process must not ask the hub, by the hub client's own variable."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _link_or_copy(path: Path, copy: Path) -> None:
    """Hard link where the file system allows it: a 15 GB checkpoint is not stored twice."""
    try:
        os.link(path, copy)
    except OSError:
        shutil.copyfile(path, copy)


def _build_random(source: WeightSource, draft: Path) -> None:
    from model.zoo.random_models import write_random_model

    write_random_model(source.name, draft)


def _write_record(folder: Path, weights_identity: str, commit: str | None) -> None:
    """commit: of a hub's weights, also where their pinned revision is a branch, of which the first download decides."""
    files = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _sha256_file(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    of_hub = {} if commit is None else {"commit": commit}
    text = json.dumps({"identity": weights_identity, "files": files, **of_hub}, indent=1, sort_keys=True)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def _read_record(folder: Path) -> dict | None:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None


def _is_complete(folder: Path, weights_identity: str) -> bool:
    """Record present, made for these weights, and every file there with its size (digests: see `verify`)."""
    record = _read_record(folder)
    if record is None or record.get("identity") != weights_identity:
        return False
    return all(
        (folder / relative).is_file() and (folder / relative).stat().st_size == size
        for relative, (size, _) in record["files"].items()
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _folder_digest(folder: Path, cache: Path) -> str:
    remembered_at = cache / "folder-digests" / f"{_sha256_text(str(folder))[:16]}.json"
    try:
        remembered = json.loads(remembered_at.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        remembered = {}
    current = {}
    for path in sorted(folder.rglob("*")):
        # A model card says what weights are; it does not change what they compute.
        if not path.is_file() or path.suffix == ".md":
            continue
        stat, relative = path.stat(), path.relative_to(folder).as_posix()
        seen = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = remembered.get(relative)
        current[relative] = known if known and known[:3] == seen else [*seen, _sha256_file(path)]
    if current != remembered:
        _write_json_if_possible(remembered_at, current)
    return _sha256_text("\n".join(f"{relative} {entry[3]}" for relative, entry in sorted(current.items())))


def _write_json_if_possible(path: Path, content: dict) -> None:
    """Remembered digests save time only: a cache that cannot be written costs a second reading."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(content, sort_keys=True), encoding="utf-8")
        os.replace(draft, path)
    except OSError:
        return


def _sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _sha256_file(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
