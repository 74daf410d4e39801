"""What is said of an ROI to a text encoder: named templates, and the words for a modality."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from gleanseg.errors import UserError, nearest
from gleanseg.rois.stanzas import Roi

DEFAULT = "image_of"
"""Name of the template that the published methods use."""

TEMPLATES = {
    "image_of": "{An image} of a {x}",
    "bare": "{x}",
    "photo": "A photo of a {x}.",
    "there_is": "There is a {x} in this {image}.",
    "scan": "{A scan} of the {x}",
}
"""Name -> template. ``{x}`` is the ROI; ``{An image}``, ``{image}`` and ``{A scan}`` depend on the modality."""


class Words(NamedTuple):
    """How prompts speak of a modality."""

    an_image: str
    image: str
    a_scan: str


MODALITIES = {
    "CT": Words("A computerized tomography", "computerized tomography", "A CT scan"),
    "MR": Words("A magnetic resonance image", "magnetic resonance image", "An MRI scan"),
}
"""Modality, as channels of manifests name it -> its words."""


def modality_named(name: str) -> str:
    """``CT`` or ``MR``, for a channel's modality in any case; ``MRI`` is ``MR``.

    Raises:
        UserError: there are no words for it.
    """
    key = name.strip().upper().replace("MRI", "MR")
    if key not in MODALITIES:
        raise UserError(
            f"modality {name!r}: there are prompts for {' and '.join(MODALITIES)} only; choose one of them, or make a"
            " table with a template of your own: gleanseg text encode --template 'An ultrasound of a {x}'"
        )
    return key


def template_named(name: str) -> str:
    """The template of this name; a text that holds ``{x}`` is a template itself.

    Raises:
        UserError: neither, or another field than the four in it.
    """
    text = TEMPLATES.get(name, name)
    if "{x}" not in text:
        raise UserError(
            f"template {name!r}: neither a name{nearest(name, TEMPLATES)} (known: {', '.join(TEMPLATES)}) nor a text"
            " with {x} for the ROI"
        )
    left = re.sub(r"\{(x|An image|image|A scan)\}", "", text)
    if "{" in left or "}" in left:
        raise UserError(f"template {name!r}: knows the fields {{x}}, {{An image}}, {{image}} and {{A scan}} only")
    return text


def prompt_of(roi: Roi, *, template: str = DEFAULT, modality: str = "CT") -> str:
    """The text that stands for an ROI.

    The default template takes the ROI's own first prompt, so that "A magnetic resonance image of an anterior
    hippocampus" keeps its article, and says the modality's words in it where it says those of another. All other
    templates take the display name.

    Args:
        roi: of the ontology.
        template: a name of ``TEMPLATES``, or a text with ``{x}``.
        modality: ``CT`` or ``MR``.

    Raises:
        UserError: unknown template or modality.
    """
    words = MODALITIES[modality_named(modality)]
    text = template_named(template)
    if template == DEFAULT and roi.prompts:
        own = roi.prompts[0]
        said = next((other.an_image for other in MODALITIES.values() if own.startswith(f"{other.an_image} of ")), None)
        return own if said is None else words.an_image + own.removeprefix(said)
    fields = {"{x}": roi.name, "{An image}": words.an_image, "{image}": words.image, "{A scan}": words.a_scan}
    return re.sub("|".join(map(re.escape, fields)), lambda field: fields[field[0]], text)


def prompts_of(rois: Sequence[Roi], *, template: str = DEFAULT, modality: str = "CT") -> dict[str, str]:
    """Prompt of each ROI by its id; see ``prompt_of``."""
    return {roi.id: prompt_of(roi, template=template, modality=modality) for roi in rois}
