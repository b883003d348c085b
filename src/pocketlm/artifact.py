"""Artifacts: what a stage leaves behind, addressed by everything that made it.

    OUT/store/STAGE-KEY/            files and manifest.json, never changed in place
    OUT/store/.building/STAGE-KEY/  files/ on their way, resume/ (checkpoints of a killed run)
    OUT/runs/NAME/                  run.json, links to the artifacts, report.html

An artifact is written beside and renamed into place, under a lock, with a manifest of sha256: after
a kill it is either whole or not there. Same key, same folder: runs resume and arms share stages.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pocketlm.errors import DamagedArtifact, OutputError

_PACKAGES = ("pocketlm", "torch", "transformers", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True)
class Score:
    """A measured number and its unit."""

    value: float
    unit: str


@dataclass(frozen=True)
class Artifact:
    """A finished stage output; `manifest` says what it is and what made it."""

    folder: Path

    @property
    def key(self) -> str:
        """16 hex digits: everything that decided what it is."""
        return self.folder.name.rpartition("-")[2]

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The parsed manifest.json; raises `DamagedArtifact`."""
        path = self.folder / "manifest.json"
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            manifest["files"], manifest["scores"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedArtifact(f"{path}: not a manifest ({error}); {_remedy(path)}") from None
        return manifest

    @property
    def scores(self) -> dict[str, Score]:
        """Named numbers the stage measured."""
        return {name: Score(**score) for name, score in self.manifest["scores"].items()}

    def path(self, name: str) -> Path:
        """Path of one of its files or folders."""
        return self.folder / name


class HashCache:
    """sha256 of files, remembered by path, size and time, so that unchanged files cost a stat."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):  # a lost cache costs time, nothing else
            known = json.loads(path.read_text(encoding="utf-8"))
            self._known = known if isinstance(known, dict) else {}
        self._changed = False

    def sha256(self, path: Path) -> str:
        """Hex sha256 of the file's content."""
        stat = path.stat()
        key = f"{path.absolute()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in self._known:
            self._known[key] = sha256_of(path)
            self._changed = True
        return self._known[key]

    def save(self) -> None:
        """Keep what was learnt; the store must exist."""
        if self._changed:
            write_atomically(self._path, json.dumps(self._known))
            self._changed = False


class Store:
    """The artifacts under one OUT folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / "store"
        self.hashes = HashCache(self.folder / "hashes.json")

    def open_for_writing(self) -> None:
        """Make the folders; raises `OutputError` if OUT cannot be written."""
        try:
            (self.folder / ".building").mkdir(parents=True, exist_ok=True)
            for trash in (self.folder / ".building").glob("trash-*"):
                shutil.rmtree(trash, ignore_errors=True)
            probe = self.folder / ".building" / f"probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            reason = f"{error.strerror or error}"
            raise OutputError(f"--out {self.out}: cannot be written ({reason})") from None

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact of that key if it is there; damage is found by `verify`."""
        folder = self.folder / f"{stage}-{key}"
        return Artifact(folder) if folder.is_dir() else None

    def verify(self, artifact: Artifact) -> None:
        """Compare every file with the manifest; raises `DamagedArtifact` naming one."""
        for name, entry in artifact.manifest["files"].items():
            path = artifact.folder / name
            if not path.is_file():
                raise DamagedArtifact(f"{path}: missing; {_remedy(path)}")
            if path.stat().st_size != entry["bytes"] or self.hashes.sha256(path) != entry["sha256"]:
                raise DamagedArtifact(f"{path}: differs from its manifest; {_remedy(path)}")

    def resume_folder(self, name: str) -> Path:
        """Where `build` lets the maker of STAGE-KEY keep its checkpoints."""
        return self.folder / ".building" / name / "resume"

    def build(
        self,
        name: str,
        make: Callable[[Path, Path], Mapping[str, Score]],
        about: Mapping[str, Any],
        *,
        again: bool = False,
    ) -> tuple[Artifact, bool]:
        """Return the artifact STAGE-KEY and whether this call made it.

        `make(files, resume)` fills the empty folder `files` and may keep checkpoints in `resume`,
        which outlives a kill; it returns the stage's scores. A second process waits for the first
        and takes what it made. `again` makes it anew, from scratch, although it is there.
        """
        target, work = self.folder / name, self.folder / ".building" / name
        with _locked(self.folder / ".building" / f"{name}.lock"):
            if again:
                self._discard(target)
                self._discard(work)
            elif target.is_dir():
                return Artifact(target), False
            files = work / "files"
            self._discard(files)
            files.mkdir(parents=True)
            started = time.monotonic()
            try:
                scores = make(files, self.resume_folder(name))
                manifest = self._manifest(name, files, about)
                manifest["seconds"] = round(time.monotonic() - started, 3)
                manifest["scores"] = {name: asdict(score) for name, score in scores.items()}
                write_atomically(files / "manifest.json", json.dumps(manifest, indent=1))
                os.rename(files, target)
            finally:
                shutil.rmtree(files, ignore_errors=True)
            sync(self.folder)
            self._discard(work)
        return Artifact(target), True

    def _discard(self, folder: Path) -> None:
        """Out of sight in one step, then removed: a kill in between leaves no half artifact."""
        if folder.is_dir():
            trash = self.folder / ".building" / f"trash-{os.getpid()}-{time.monotonic_ns()}"
            os.rename(folder, trash)
            shutil.rmtree(trash, ignore_errors=True)

    def _manifest(self, name: str, files: Path, about: Mapping[str, Any]) -> dict[str, Any]:
        stage, _, key = name.rpartition("-")
        entries = {}
        for path in sorted(p for p in files.rglob("*") if p.is_file()):
            sync(path)
            name = path.relative_to(files).as_posix()
            entries[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        return {"stage": stage, "key": key, **about, "versions": _versions(), "files": entries}


def key_of(parts: Mapping[str, Any]) -> str:
    """16 hex digits for everything that decides a stage's result; order of keys does not matter."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step: readers see the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _remedy(path: Path) -> str:
    stage = next(p.name for p in path.parents if p.parent.name == "store")
    return f"delete the folder {stage} or run again with --redo {stage.rpartition('-')[0]}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the system lets go of it when the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
