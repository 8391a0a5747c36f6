"""Laws of files: whole or as before, and nothing beside them."""

import os
import time

import pytest

from flowinv.files import atomic_write


def names(folder):
    return sorted(os.listdir(folder))


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.npz"
    with atomic_write(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        assert partial.parent == path.parent and partial.suffix == ".npz"
    assert path.read_text() == "half" and names(path.parent) == ["a.npz"]


@pytest.mark.parametrize("stop", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_last_file_and_nothing_else(tmp_path, stop):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(stop), atomic_write(path) as partial:
        partial.write_text("half")
        raise stop
    assert path.read_text() == "old" and names(tmp_path) == ["a.json"]


def test_a_replacement_that_fails_leaves_the_last_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "old" and names(tmp_path) == ["a.json"]


def test_what_a_killed_process_left_goes_a_day_later(tmp_path):
    """And not before: another process may be at it."""
    left = tmp_path / ".a-0123456789ab.txt"
    other = tmp_path / ".b-0123456789ab.txt"
    for age, stays in ((3600, True), (90000, False)):
        left.write_text("half")
        other.write_text("another file's")
        long_ago = time.time() - age
        os.utime(left, (long_ago, long_ago))
        os.utime(other, (long_ago, long_ago))
        with atomic_write(tmp_path / "a.txt") as partial:
            partial.write_text("whole")
        assert left.exists() == stays and other.exists()
