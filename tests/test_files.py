"""A file appears whole under its name, or not at all."""

import errno
import os
from pathlib import Path

import pytest

from gleanseg.files import remove_parts, whole


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.json"
    with whole(path) as part:
        part.write_text("1")
        assert part.name == "scores.json"
        assert not path.exists()
    with whole(path) as part:
        part.write_text("2")
        assert path.read_text() == "1"
    assert path.read_text() == "2"
    assert [p.name for p in path.parent.iterdir()] == ["scores.json"]


def test_an_error_leaves_nothing_of_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("1")

    def write() -> None:
        with whole(path) as part:
            part.write_text("2")
            part.with_name(".tmpXYZ").write_text("a library's own")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("scores.json", "1")]


def test_no_link_is_written_through_nor_emptied(tmp_path: Path) -> None:
    path, mine = tmp_path / "scores.json", tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("mine")
    for number in (os.getpid(), 4711):
        path.with_name(f".scores.json.{number}.part").symlink_to(mine)
    path.symlink_to(mine / "precious")
    with whole(path) as part:
        part.write_text("1")
    remove_parts(path)
    assert (path.read_text(), path.is_symlink()) == ("1", False)
    assert (mine / "precious").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "scores.json"]


def test_what_killed_processes_left_goes(tmp_path: Path) -> None:
    path = tmp_path / "case [1].nii.gz"
    for number in (os.getpid(), 4711):
        left = path.with_name(f".{path.name}.{number}.part")
        left.mkdir()
        (left / "case [1].raw").write_text("half")
    path.with_name(".case [2].nii.gz.4711.part").mkdir()
    with whole(path) as part:
        assert not list(part.parent.iterdir()), "nobody else's number is ours"
        part.write_text("whole")
    remove_parts(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".case [2].nii.gz.4711.part", "case [1].nii.gz"]
