"""Tables: making, centering, choosing rows, files, and what is refused."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gleanseg.errors import UserError
from gleanseg.rois.ontology import builtin
from gleanseg.text.prompts import prompt_of
from gleanseg.text.table import Table, unit_rows
from support.texts import FakeEncoder

PROMPTS = {"liver": ["a liver", "the liver"], "spleen": ["a spleen"], "colon": ["a colon"]}


def make(**options: object) -> Table:
    return Table.make(FakeEncoder(), PROMPTS, template="bare", modality="CT", **options)  # type: ignore[arg-type]


def vector(*texts: str) -> np.ndarray:
    return np.mean([FakeEncoder.vector(text) for text in texts], axis=0)


class TestMake:
    def test_texts_of_a_row_are_averaged_then_normalized(self) -> None:
        table = make()
        mean = vector("a liver", "the liver")
        np.testing.assert_allclose(table.vectors_KD[0], mean / np.linalg.norm(mean), atol=1e-6)
        raw = make(normalize=False)
        np.testing.assert_allclose(raw.vectors_KD[0], mean, atol=1e-6)
        assert (table.origin.normalized, raw.origin.normalized) == (True, False)
        assert table.vectors_KD.dtype == np.float32

    def test_the_mean_is_that_of_the_built_in_rois(self) -> None:
        texts = [prompt_of(roi, template="bare") for roi in builtin().rois.values()]
        rows = unit_rows(np.stack([FakeEncoder.vector(text) for text in texts]))
        np.testing.assert_allclose(make().mean_D, rows.mean(0), atol=1e-6)
        other = Table.make(FakeEncoder(), {"liver": ["a liver"]}, template="bare", modality="CT")
        assert np.array_equal(other.mean_D, make().mean_D)
        assert np.array_equal(other.of(["liver"]).mean_D, other.mean_D)
        own = make(reference=["x", "y"], normalize=False)
        np.testing.assert_allclose(own.mean_D, vector("x", "y"), atol=1e-6)

    def test_nothing_to_encode(self) -> None:
        for prompts in ({}, {"liver": []}):
            with pytest.raises(UserError, match="nothing to encode"):
                Table.make(FakeEncoder(), prompts, template="bare", modality="CT")


class TestCenter:
    def test_subtracts_the_mean_then_normalizes(self) -> None:
        table = make()
        centered = table.center()
        np.testing.assert_allclose(centered.vectors_KD, unit_rows(table.vectors_KD - table.mean_D), atol=1e-6)
        assert centered.origin == replace(table.origin, centered=True)
        assert centered.center() is centered
        raw = make(normalize=False)
        np.testing.assert_allclose(raw.center().vectors_KD, raw.vectors_KD - raw.mean_D, atol=1e-6)

    def test_a_row_does_not_depend_on_the_others(self) -> None:
        table = make()
        alone = table.of(["spleen"]).center().vectors_KD[0]
        assert np.array_equal(alone, table.center().of(["spleen"]).vectors_KD[0])
        assert np.linalg.norm(alone) == pytest.approx(1, abs=1e-6)


class TestRows:
    def test_any_order(self) -> None:
        table = make().of(["colon", "liver"])
        assert table.names == ("colon", "liver")
        assert table.prompts == {"colon": ("a colon",), "liver": ("a liver", "the liver")}
        assert np.array_equal(table.vectors_KD, make().vectors_KD[[2, 0]])

    def test_an_roi_without_a_row(self) -> None:
        with pytest.raises(UserError, match="did you mean 'spleen'") as told:
            make().of(["liver", "spleeen", "heart"])
        assert "no row for 'spleeen' (and 1 more)" in str(told.value)
        assert "gleanseg text encode --rois liver spleeen heart -o" in str(told.value)


class TestJoined:
    def test_rows_behind_each_other(self) -> None:
        other = Table.make(FakeEncoder(), {"cyst": ["a cyst"]}, template="bare", modality="CT", reference=())
        both = make().joined(other)
        assert both.names == ("liver", "spleen", "colon", "cyst")
        assert np.array_equal(both.of(["cyst"]).vectors_KD, other.vectors_KD)
        assert np.array_equal(both.mean_D, make().mean_D)

    def test_only_alike_ones(self) -> None:
        with pytest.raises(UserError, match="'liver' stands in both"):
            make().joined(make())
        with pytest.raises(UserError, match="differ in normalized: True and False"):
            make().joined(make(normalize=False))


class TestFiles:
    def test_round_trip(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "t.safetensors"
        table = make()
        table.save(path)
        again = Table.load(path)
        assert (again.names, again.origin, again.prompts) == (table.names, table.origin, table.prompts)
        assert np.array_equal(again.vectors_KD, table.vectors_KD)
        assert np.array_equal(again.mean_D, table.mean_D)
        assert again.provenance() == table.provenance()
        assert {name: a.dtype for name, a in load_file(path).items()} == {"vectors": np.float32, "mean": np.float32}
        assert [p.name for p in path.parent.iterdir()] == ["t.safetensors"]

    def test_half_precision(self, tmp_path: Path) -> None:
        make().save(tmp_path / "t.safetensors", half=True)
        again = Table.load(tmp_path / "t.safetensors")
        assert again.vectors_KD.dtype == np.float32
        assert 0 < np.abs(again.vectors_KD - make().vectors_KD).max() < 1e-3

    def test_provenance_is_json_and_knows_the_numbers(self) -> None:
        told = make().provenance()
        assert json.loads(json.dumps(told)) == told
        assert told["prompts"]["liver"] == ["a liver", "the liver"]
        assert told["vectors_sha256"] != make().center().provenance()["vectors_sha256"]

    def test_not_tables(self, tmp_path: Path) -> None:
        path = tmp_path / "t.safetensors"
        with pytest.raises(UserError, match="no such table; make it with 'gleanseg text encode -o"):
            Table.load(path)
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match="not readable as a table"):
            Table.load(path)
        save_file({"vectors": np.zeros((1, 2), np.float32)}, path)
        with pytest.raises(UserError, match="no table of text vectors"):
            Table.load(path)
        make().save(path)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(UserError, match="not readable as a table"):
            Table.load(path)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"version": 2}, "version 2, expected 1"),
            ({"names": ["liver", "spleen"]}, "2 names"),
            ({"names": ["liver", "spleen", "liver"]}, "a name stands twice"),
            ({"origin": {}}, "broken table"),
            ({"prompts": {}}, "'liver'"),
        ],
    )
    def test_broken_ones(self, tmp_path: Path, change: dict[str, object], words: str) -> None:
        table = make()
        told = {"version": 1, "names": table.names, "prompts": table.prompts, "origin": asdict(table.origin), **change}
        arrays = {"vectors": table.vectors_KD, "mean": table.mean_D}
        save_file(arrays, tmp_path / "t", metadata={"gleanseg_text_table": json.dumps(told)})
        with pytest.raises(UserError, match=words) as error:
            Table.load(tmp_path / "t")
        assert "\n" not in str(error.value)

    def test_values_that_are_no_numbers(self, tmp_path: Path) -> None:
        table = make()
        bad = table.vectors_KD.copy()
        bad[1, 2] = np.nan
        replace(table, vectors_KD=bad).save(tmp_path / "t")
        with pytest.raises(UserError, match="values that are no numbers"):
            Table.load(tmp_path / "t")

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot be written"):
            make().save(tmp_path / "file" / "t.safetensors")
