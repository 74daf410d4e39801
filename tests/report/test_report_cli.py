"""``gleanseg report``."""

from pathlib import Path

import pytest
import tyro

from gleanseg.cli.report import Command


def test_command_writes_the_file_and_names_it(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.html"
    command = tyro.cli(Command, args=[str(made_run), "-o", str(out), "--max-cases", "1"])
    assert command == Command(folder=made_run, out=out, max_cases=1)
    assert command.run() == 0
    assert out.read_text().startswith("<!doctype html>")
    assert str(out) in capsys.readouterr().out.replace("\n", "")
