"""Files of a run folder when a disk was full, or a process killed."""

from pathlib import Path

import pytest

from gleanseg.config import Recipe
from gleanseg.data.plan import Plan
from gleanseg.errors import UserError
from gleanseg.run.folder import Run, append_line, read_lines


def test_a_line_that_was_cut_off_costs_no_other(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    append_line(log, {"n": 1})
    with log.open("a") as file:
        file.write('{"n": 2, "spl')
    append_line(log, {"n": 3})
    append_line(log, {"n": 4})
    assert [row["n"] for row in read_lines(log)] == [1, 3, 4]
    assert log.read_bytes().count(b"\n") == 4


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "access.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=r"access\.jsonl: cannot be written .*links are not followed"):
        append_line(tmp_path / "access.jsonl", {})
    with pytest.raises(UserError, match=r"log\.jsonl: cannot be written .*free disk space"):
        append_line(tmp_path / "log.jsonl", {})


def test_only_a_half_made_run_is_made_anew(tmp_path: Path) -> None:
    plan = Plan(
        spacing_ZYX_mm=(1.0, 1.0, 1.0), intensity=(), resample="linear", crop="none", rois=("liver",), channels=()
    )

    def make(*, resume: bool) -> Run:
        recipe = Recipe(manifest=Path("none"))
        return Run.create(tmp_path / "run", recipe=recipe, plan=plan, info={}, splits={}, resume=resume)

    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("recipe.toml", "codes.safetensors", ".plan.json.part"):
        (folder / name).write_text("of another recipe")
    with pytest.raises(UserError, match="the run folder exists; continue it with --resume"):
        make(resume=False)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other things and no run\.json; choose another --out"):
        make(resume=True)
    assert len(list(folder.iterdir())) == 5
    (folder / "thesis.txt").unlink()
    make(resume=True)
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoints", "plan.json", "recipe.toml", "run.json", "splits.json",
    ]  # fmt: skip
