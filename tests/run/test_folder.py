"""Files of a run folder that somebody else has made, or that a full disk or a killed process cut off."""

import os
from pathlib import Path

import pytest

from gleanseg.config import Recipe
from gleanseg.data.plan import Plan
from gleanseg.errors import UserError
from gleanseg.run.folder import Run, append_line, read_lines, write_text


def test_no_link_in_a_run_folder_is_written_through(tmp_path: Path) -> None:
    precious, run = tmp_path / "precious", tmp_path / "run"
    precious.write_text("mine")
    run.mkdir()
    for name in ("run.json", f".run.json.{os.getpid()}.part", "access.jsonl"):
        (run / name).symlink_to(precious)
    write_text(run / "run.json", "{}")
    assert not (run / "run.json").is_symlink()
    with pytest.raises(UserError, match=r"access\.jsonl: could not be written .*links are not followed"):
        append_line(run / "access.jsonl", {"split": "test"})
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("text", ["[]", "3", "{", '{"gleanseg": 7}', "[" * 100_000])
def test_a_damaged_description_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json: damaged|run format 7, this gleanseg reads 1; update"):
        Run.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"spacing_ZYX_mm": [0, "a"]}'])
def test_a_damaged_plan_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text('{"gleanseg": 1}')
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match=r"plan\.json: damaged .*restore it from a backup") as told:
        _ = Run.open(tmp_path).plan
    assert "\n" not in str(told.value)


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
    with pytest.raises(UserError, match=r"log\.jsonl: could not be written .*free disk space"):
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
