"""Files of a run folder that somebody else has made."""

from pathlib import Path

import pytest

from gleanseg.errors import UserError
from gleanseg.run.folder import Run, append_line, write_text


def test_no_link_in_a_run_folder_is_written_through(tmp_path: Path) -> None:
    precious, run = tmp_path / "precious", tmp_path / "run"
    precious.write_text("mine")
    run.mkdir()
    for name in ("run.json", ".run.json.part", "access.jsonl"):
        (run / name).symlink_to(precious)
    write_text(run / "run.json", "{}")
    assert not (run / "run.json").is_symlink()
    with pytest.raises(UserError, match=r"access\.jsonl: cannot be written .*links are not followed"):
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
