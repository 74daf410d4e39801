"""Prompts: the published wording, other templates, modalities, and ROIs with a wording of their own."""

import json
from pathlib import Path

import pytest

from gleanseg.errors import UserError
from gleanseg.rois.ontology import builtin
from gleanseg.rois.stanzas import PROMPT
from gleanseg.text.prompts import DEFAULT, MODALITIES, TEMPLATES, modality_named, prompt_of, template_named

ONTOLOGY = builtin()
GOLDEN = json.loads((Path(__file__).parent / "minilm_golden.json").read_text())


def test_the_rois_of_mots_have_the_published_prompts() -> None:
    rois = [ONTOLOGY.find(name) for name in GOLDEN["rois"]]
    assert [prompt_of(roi) for roi in rois] == GOLDEN["template"]["prompts"]
    assert [prompt_of(roi, template="bare") for roi in rois] == GOLDEN["bare"]["prompts"]


def test_the_default_template_is_that_of_the_ontology() -> None:
    text = TEMPLATES[DEFAULT].replace("{An image}", MODALITIES["CT"].an_image)
    assert text.replace("{x}", "{name}") == PROMPT


@pytest.mark.parametrize(
    ("template", "modality", "text"),
    [
        ("image_of", "MR", "A magnetic resonance image of a liver tumor"),
        ("photo", "CT", "A photo of a liver tumor."),
        ("there_is", "CT", "There is a liver tumor in this computerized tomography."),
        ("there_is", "MR", "There is a liver tumor in this magnetic resonance image."),
        ("scan", "CT", "A CT scan of the liver tumor"),
        ("scan", "mri", "An MRI scan of the liver tumor"),
        ("An ultrasound of a {x}", "CT", "An ultrasound of a liver tumor"),
    ],
)
def test_templates(template: str, modality: str, text: str) -> None:
    assert prompt_of(ONTOLOGY["liver_tumor"], template=template, modality=modality) == text


def test_an_own_wording_is_kept_and_speaks_of_the_modality() -> None:
    roi = ONTOLOGY["hippocampus_anterior"]
    assert prompt_of(roi, modality="MR") == "A magnetic resonance image of an anterior hippocampus"
    assert prompt_of(roi, modality="CT") == "A computerized tomography of an anterior hippocampus"
    assert prompt_of(roi, template="scan") == "A CT scan of the anterior hippocampus"
    own = ONTOLOGY.extended({"liver_abscess": {"prompts": ["A CT scan of a liver abscess", "unused"]}, "cyst": {}})
    assert prompt_of(own["liver_abscess"], modality="MR") == "A CT scan of a liver abscess"
    assert prompt_of(own["cyst"], modality="MR") == "A magnetic resonance image of a cyst"


def test_every_built_in_prompt_speaks_of_the_modality_asked_for() -> None:
    for modality, words in MODALITIES.items():
        prompts = [prompt_of(roi, modality=modality) for roi in ONTOLOGY.rois.values()]
        assert all(prompt.startswith(f"{words.an_image} of a") for prompt in prompts)
        assert len(set(prompts)) == len(ONTOLOGY)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="did you mean 'photo'"):
        template_named("phto")
    with pytest.raises(UserError, match="knows the fields"):
        template_named("{An_image} of a {x}")
    with pytest.raises(UserError, match="there are prompts for CT and MR only"):
        modality_named("US")
