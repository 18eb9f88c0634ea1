"""Files written whole or not at all: whatever stops the writer, the file is the old one or the new one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fiftyone_cam.core.files import write_atomically

ROOT = Path(__file__).parents[2]


def write_half(path: Path) -> None:
    with write_atomically(path) as new:
        new.write_text("ne")
        raise ValueError("half of it")


def write_two(folder: Path, staging: Path) -> None:
    with (
        write_atomically(folder / "second", staging=staging) as second,
        write_atomically(folder / "first", staging=staging) as first,
    ):
        first.write_text("1")
        second.write_text("2")
        assert first.parent == second.parent == staging


def test_the_new_file_takes_the_place_of_the_old_one_when_it_is_whole(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("old")
    with write_atomically(path) as new:
        new.write_text("new")
        assert path.read_text() == "old"
        assert new.parent == tmp_path
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_where_writing_fails_the_old_file_stays_and_nothing_else(tmp_path):
    path = tmp_path / "numbers.txt"
    for before in (None, "old"):
        if before:
            path.write_text(before)
        with pytest.raises(ValueError, match="half"):
            write_half(path)
        assert [entry.read_text() for entry in tmp_path.iterdir()] == ([before] if before else [])


def test_a_file_that_was_not_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "numbers.txt"):
        pass


def test_others_may_read_it_as_they_may_read_any_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with write_atomically(tmp_path / "atomic") as new:
        new.write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_two_files_of_one_block_are_replaced_in_reverse_order(tmp_path):
    """As a checkpoint needs it: the weights first, then the JSON that makes it a checkpoint."""
    folder = tmp_path / "folder"
    (folder / "second").mkdir(parents=True)  # a folder: the second file cannot take its place
    with pytest.raises(OSError, match="second"):
        write_two(folder, tmp_path)
    assert (folder / "first").read_text() == "1"
    assert list(tmp_path.iterdir()) == [folder]


def test_of_many_writers_at_once_each_writes_a_whole_file(tmp_path):
    path = tmp_path / "numbers.txt"
    texts = {str(number) * 100_000 for number in range(8)}

    def write(text: str) -> None:
        for _ in range(20):
            with write_atomically(path) as new:
                new.write_text(text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not path.exists() or path.read_text() in texts
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("old")
    code = f"""
from pathlib import Path
from fiftyone_cam.core.files import write_atomically
with write_atomically(Path({str(path)!r})) as new:
    with new.open("w") as file:
        file.write("n" * 10_000)
        file.flush()
        print("half", flush=True)
        input()
"""
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"half\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait(30)
    assert path.read_text() == "old"
