"""Texts: those that are shipped, files, and what the checks find."""

import json
from itertools import combinations
from pathlib import Path

import pytest

from gleanseg.errors import UserError
from gleanseg.rois.ontology import builtin
from gleanseg.text.checks import (
    MIN_WORDS,
    NUM,
    problems_of,
    refusal_in,
    similarity,
    validate_responses,
    words_of,
)
from gleanseg.text.texts import prompt_for, shipped_texts, text_named

MOTS = {
    "liver", "liver_tumor", "kidneys", "kidney_tumor", "hepatic_vessels", "hepatic_vessel_tumor", "pancreas",
    "pancreas_tumor", "colon_cancer", "lung_tumor", "spleen",
}  # fmt: skip
MODALITIES = {"CT": {"ct", "hu"}, "MRI": {"mri", "magnetic", "flair", "t1", "t1-weighted", "t2"}}
SIDES = {  # phrases without which a text would have its organ on no side, or on the wrong one
    "left_atrium": ("most posterior of the four heart chambers", "to the left of the right atrium"),
    "liver": ("right upper quadrant", "largest solid organ"),
    "spleen": ("left upper quadrant", "beneath the left hemidiaphragm"),
    "pancreas": ("from the duodenal loop on the patient's right to the splenic hilum on the left",),
    "kidneys": ("the right one usually lies one to two centimeters lower than the left",),
    "colon_cancer": ("ascending colon on the patient's right", "descending colon on the left"),
    "hippocampus": ("one in each hemisphere",),
}
WRONG = {"liver": "left upper quadrant", "spleen": "right upper quadrant"}


def own(folder: Path, **changes: object) -> Path:
    path = folder / "own.json"
    raw = {"gleanseg_text": 1, "structure": "liver", "modality": "CT", "responses": ["The liver is big."], **changes}
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))
    return path


class TestShipped:
    def test_every_task(self) -> None:
        assert set(shipped_texts()) == MOTS | {"left_atrium", "brain_tumor", "hippocampus"}

    @pytest.mark.parametrize("name", shipped_texts())
    def test_it_keeps_the_rules(self, name: str) -> None:
        text = text_named(name)
        validate_responses(text.responses, structure=text.structure, where=name)
        assert len(text.responses) == NUM == 15
        assert min(len(response.split()) for response in text.responses) >= MIN_WORDS == 60
        assert max(similarity(a, b) for a, b in combinations(text.responses, 2)) < 0.05
        about = sum(text.structure in " ".join(words_of(response)) for response in text.responses)
        assert about >= 9
        assert text.name == name
        assert text.provenance == {"source": "written for this package"}

    @pytest.mark.parametrize("name", shipped_texts())
    def test_it_speaks_of_its_modality_alone(self, name: str) -> None:
        text = text_named(name)
        words = set(words_of(" ".join(text.responses)))
        (other,) = (signs for modality, signs in MODALITIES.items() if modality != text.modality)
        assert words & MODALITIES[text.modality]
        assert not words & other
        assert text.modality == ("MRI" if name in ("left_atrium", "brain_tumor", "hippocampus") else "CT")

    @pytest.mark.parametrize("name", shipped_texts())
    def test_its_roi_and_its_prompt(self, name: str) -> None:
        text = text_named(name)
        assert text.roi is not None
        assert builtin()[text.roi].id == text.roi
        assert (name in MOTS and text.roi == name) or name in ("left_atrium", "brain_tumor", "hippocampus")
        hints = text.prompt.partition("structural features such as ")[2].partition(". Each")[0]
        assert len(hints.split(", ")) >= 5
        assert text.prompt == prompt_for(text.structure, text.modality, hints=hints)

    @pytest.mark.parametrize("name", SIDES)
    def test_sides(self, name: str) -> None:
        said = " ".join(text_named(name).responses).casefold()
        for phrase in SIDES[name]:
            assert phrase in said
        if name in WRONG:
            assert WRONG[name] not in text_named(name).responses[0].casefold()

    def test_no_two_texts_share_a_response(self) -> None:
        everything = [response for name in shipped_texts() for response in text_named(name).responses]
        phrases = [frozenset(zip(*(words_of(r)[i:] for i in range(5)), strict=False)) for r in everything]
        assert max(len(a & b) / len(a | b) for a, b in combinations(phrases, 2)) < 0.1


class TestFiles:
    def test_round_trip(self, tmp_path: Path) -> None:
        text = text_named("spleen")
        text.save(tmp_path / "new" / "spleen.json")
        again = text_named(str(tmp_path / "new" / "spleen.json"))
        assert again == text
        assert again.sha256 == text.sha256
        assert "name" not in json.loads((tmp_path / "new" / "spleen.json").read_text())
        changed = text.model_copy(update={"responses": text.responses[::-1]})
        assert changed.sha256 != text.sha256

    def test_a_text_of_ones_own_may_be_short(self, tmp_path: Path) -> None:
        text = text_named(str(own(tmp_path)))
        assert (text.name, text.roi, text.responses) == ("own", None, ("The liver is big.",))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"responses": []}, "own.json: responses: "),
            ({"responses": ["good", " "]}, "own.json: responses"),
            ({"responses": "text"}, "own.json: responses: "),
            ({"responses": None}, "own.json: responses: field required"),
            ({"struct": "liver"}, "own.json: unknown key 'struct' in top level; did you mean 'structure'"),
            ({"gleanseg_text": 2}, "own.json: gleanseg_text: "),
            ({"gleanseg_text": None}, "own.json: not a text of gleanseg"),
        ],
    )
    def test_broken_ones(self, tmp_path: Path, changes: dict[str, object], words: str) -> None:
        with pytest.raises(UserError) as told:
            text_named(str(own(tmp_path, **changes)))
        assert words in str(told.value)
        assert "\n" not in str(told.value)

    def test_not_json_and_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text('{"gleanseg_text": 1,')
        with pytest.raises(UserError, match=r"a\.json: not readable as JSON"):
            text_named(str(tmp_path / "a.json"))
        with pytest.raises(UserError, match=r"b\.json: no such text; make one with 'gleanseg text generate"):
            text_named(str(tmp_path / "b.json"))
        with pytest.raises(UserError, match="neither a text that gleanseg ships; did you mean 'left_atrium'"):
            text_named("left_atrim")
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot be written"):
            text_named("liver").save(tmp_path / "file" / "a.json")


class TestChecks:
    GOOD = ("The liver lies on the right below the dome.", "Bright hepatic veins of a liver run to the cava.")

    def problems(self, *responses: str, num: int = 2, min_words: int = 8) -> list[str]:
        return problems_of(responses, structure="liver", num=num, min_words=min_words)

    def test_nothing_wrong(self) -> None:
        assert self.problems(*self.GOOD) == []

    def test_each_problem(self) -> None:
        first, second = self.GOOD
        assert self.problems(first) == ["1 responses, expected 2"]
        assert self.problems(first, "A liver.") == ["response 2 has 2 words, expected at least 8"]
        assert self.problems(first, first.upper()) == ["responses 1 and 2 are nearly the same (100% of their phrases)"]
        assert self.problems(first, f"As an AI, {second}") == ["response 2 is a refusal ('As an AI')"]
        assert self.problems(*(r.replace("liver", "lung") for r in self.GOOD)) == ["no response speaks of the liver"]
        assert self.problems() == ["0 responses, expected 2"]

    def test_the_first_problem_and_how_many(self) -> None:
        with pytest.raises(UserError, match=r"la\.json: 1 responses, expected 15 \(and 1 more\); mend it"):
            validate_responses(["The liver."], structure="liver", where="la.json")

    def test_words(self) -> None:
        assert words_of("T1-weighted tumours, 1 to 2.") == ["t1-weighted", "tumors", "1", "to", "2"]

    def test_refusals_are_not_found_in_anatomy(self) -> None:
        assert refusal_in("I\u2019m unable to do it") == "I'm unable"
        assert refusal_in("no single threshold can provide the border, and it cannot be told from bowel") == ""
