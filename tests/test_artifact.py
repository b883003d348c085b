"""Artifacts: whole or not there, the same key for the same thing, damage named."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from pocketlm.artifact import Artifact, Score, Store, key_of, write_atomically
from pocketlm.errors import DamagedArtifact, OutputError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "out")
    store.open_for_writing()
    return store


def build(store: Store, text: str = "hello") -> Artifact:
    def make(files: Path, resume: Path) -> dict[str, Score]:
        (files / "sub").mkdir()
        (files / "sub" / "a.txt").write_text(text)
        return {"length": Score(len(text), "characters")}

    return store.build("compact-0000", make, {"version": 1})[0]


def test_a_built_artifact_says_what_it_is(store: Store) -> None:
    artifact = build(store)
    assert artifact.scores == {"length": Score(5, "characters")}
    entry = artifact.manifest["files"]["sub/a.txt"]
    assert entry["bytes"] == 5
    assert len(entry["sha256"]) == 64
    assert artifact.manifest["versions"]["torch"]
    store.verify(artifact)


def test_the_same_key_is_not_made_twice(store: Store) -> None:
    build(store)
    assert build(store, "other").path("sub/a.txt").read_text() == "hello"


def test_again_makes_it_anew_and_drops_its_checkpoints(store: Store) -> None:
    def make(files: Path, resume: Path) -> dict[str, Score]:
        assert not resume.exists()
        (files / "a.txt").write_text("new")
        return {}

    build(store)
    artifact, made = store.build("compact-0000", make, {}, again=True)
    assert made
    assert [p.name for p in artifact.folder.iterdir() if p.name != "manifest.json"] == ["a.txt"]
    assert not list((store.folder / ".building").glob("trash-*"))


def test_a_second_process_waits_and_takes_what_the_first_made(store: Store) -> None:
    """It must not count as made again, or it would throw away what follows."""
    started, calls = threading.Event(), []

    def slow(files: Path, resume: Path) -> dict[str, Score]:
        calls.append(1)
        started.set()
        time.sleep(0.2)
        return {}

    results = []
    threads = [
        threading.Thread(target=lambda: results.append(Store(store.out).build("x-1", slow, {})[1]))
        for _ in range(2)
    ]
    threads[0].start()
    started.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, True]
    assert calls == [1]


def test_a_failure_leaves_nothing(store: Store) -> None:
    def fail(files: Path, resume: Path) -> dict[str, Score]:
        (files / "half").write_text("x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.build("train-1", fail, {})
    assert store.find("train", "1") is None
    assert not list(store.folder.rglob("half"))


def test_checkpoints_outlive_a_failure_and_leave_with_success(store: Store) -> None:
    def first(files: Path, resume: Path) -> dict[str, Score]:
        resume.mkdir()
        (resume / "step").write_text("7")
        raise RuntimeError

    def second(files: Path, resume: Path) -> dict[str, Score]:
        assert not list(files.iterdir())
        return {"step": Score(int((resume / "step").read_text()), "steps")}

    with pytest.raises(RuntimeError):
        store.build("train-2", first, {})
    assert store.build("train-2", second, {})[0].scores["step"].value == 7
    assert not list(store.folder.rglob("step"))


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "manifest"])
def test_damage_is_named(store: Store, damage: str) -> None:
    artifact = build(store)
    path = artifact.path("sub/a.txt")
    if damage == "flip":
        path.write_text("hellp")
    elif damage == "cut":
        path.write_text("hell")
    elif damage == "gone":
        path.unlink()
    else:
        path = artifact.path("manifest.json")
        path.write_text("{")
    with pytest.raises(DamagedArtifact, match=path.name) as error:
        store.verify(Artifact(artifact.folder))
    assert "--redo compact" in str(error.value)


def test_hashes_are_remembered_until_the_file_changes(store: Store) -> None:
    path = store.out / "file"
    path.write_text("a")
    first = store.hashes.sha256(path)
    store.hashes.save()
    again = Store(store.out).hashes
    assert again.sha256(path) == first
    path.write_text("b")
    os.utime(path, ns=(1, 1))
    assert again.sha256(path) != first


def test_a_lost_hash_cache_is_no_error(store: Store) -> None:
    (store.folder / "hashes.json").write_text("[")
    assert Store(store.out).hashes.sha256(store.folder / "hashes.json")


def test_key_ignores_order_and_minds_everything_else() -> None:
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    assert len(key_of({})) == 16


def test_an_out_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Store(tmp_path / "file" / "out").open_for_writing()


def test_writing_replaces_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("1", "22"):
        write_atomically(path, text)
        assert json.loads(path.read_text()) == int(text)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
