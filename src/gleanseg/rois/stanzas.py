"""One stanza of the ontology: its fields, its checks, and how names are compared.

A stanza is a TOML table of ``rois.toml`` or an entry of a manifest's ``own_rois``; both pass through ``read_stanza``.
"""

import colorsys
import re
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Literal

from gleanseg.errors import UserError, nearest

PROMPT = "A computerized tomography of a {name}"

# British words that data sets use; ids and names of the ontology are spelled the American way.
_AMERICAN = {
    "tumour": "tumor",
    "tumours": "tumors",
    "oesophagus": "esophagus",
    "oesophageal": "esophageal",
    "oedema": "edema",
    "caecum": "cecum",
    "coeliac": "celiac",
    "haemorrhage": "hemorrhage",
}
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_HEX = re.compile(r"#[0-9a-fA-F]{6}")
_SCT = re.compile(r"[1-9][0-9]{5,17}")


@dataclass(frozen=True, kw_only=True)
class Roi:
    """An anatomical structure or lesion.

    Attributes:
        id: what manifests, recipes, channels and result tables call it.
        name: display name, as it reads in a prompt ("left kidney").
        aliases: what data sets call it.
        side: body side, when there is a like structure on the other one; None for the heart's chambers, whose "left"
            is a name and not a side.
        snomed: SNOMED CT concept without laterality (``side`` gives it); for a lesion or vessel the concept of its
            kind, the place being that of ``part_of`` or ``found_in``. None where no public mapping gives one.
        color: red, green, blue in 0..255.
        tolerance_mm: surface distance that counts as agreement in the normalized surface Dice.
        prompts: texts for a text encoder, the first is the default.
        part_of: the ROI that contains all of its voxels.
        found_in: where it occurs; says something of presence, nothing of voxels.
        members: its voxels are exactly the union of theirs.
        exclusive: names of groups of which a voxel belongs to one ROI at most.
    """

    id: str
    name: str
    aliases: tuple[str, ...] = ()
    side: Literal["left", "right"] | None = None
    snomed: str | None = None
    color: tuple[int, int, int]
    tolerance_mm: float = 2.0
    prompts: tuple[str, ...] = ()
    part_of: str | None = None
    found_in: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    exclusive: tuple[str, ...] = ()


_KEYS = tuple(field.name for field in fields(Roi) if field.name != "id")


def normal(name: str) -> str:
    """The form in which names are compared.

    Case, underscores, hyphens and other punctuation do not count, British spelling equals American, and a side may
    stand in front or behind: ``Left_Kidney``, ``kidney-left`` and ``left kidney`` are one name.
    """
    words = [_AMERICAN.get(word, word) for word in re.findall(r"[0-9a-z]+", name.casefold())]
    sides = [word for word in words if word in ("left", "right")]
    return " ".join([word for word in words if word not in ("left", "right")] + sides)


def read_stanza(id: str, stanza: Mapping[str, object], *, taken: Collection[tuple[int, int, int]] = ()) -> Roi:
    """Check one stanza and make a Roi of it; relations are checked later, when all ROIs are known.

    Args:
        id: the stanza's name.
        stanza: its entries; ``name`` defaults to the id with spaces, ``color`` to a free one, ``prompts`` to PROMPT.
        taken: colors that an automatic color must not repeat.

    Raises:
        UserError: a malformed id, an unknown key, or a value of a wrong type or form.
    """
    if not _ID.fullmatch(id):
        raise UserError(f"ROI {id!r}: an id is a letter and at most 63 letters, digits and underscores; rename it")
    for key in stanza:
        if key not in _KEYS:
            raise UserError(f"ROI {id!r}: unknown key {key!r}{nearest(key, _KEYS)}; keys are {', '.join(_KEYS)}")
    name = _text(id, stanza, "name") or id.replace("_", " ")
    side = _text(id, stanza, "side")
    if side not in (None, "left", "right"):
        raise UserError(f"ROI {id!r}: side is 'left' or 'right', found {side!r}; leave it out for an unsided ROI")
    snomed = _text(id, stanza, "snomed")
    if snomed is not None and not is_snomed(snomed):
        raise UserError(f"ROI {id!r}: snomed {snomed!r} is not a SNOMED CT id; correct it or leave it out")
    return Roi(
        id=id,
        name=name,
        aliases=_texts(id, stanza, "aliases"),
        side=side,  # type: ignore[arg-type]  # one of the two words, checked above
        snomed=snomed,
        color=_color(id, stanza["color"]) if "color" in stanza else free_color(id, taken),
        tolerance_mm=_tolerance(id, stanza.get("tolerance_mm", 2.0)),
        prompts=_texts(id, stanza, "prompts") or (PROMPT.format(name=name),),
        part_of=_text(id, stanza, "part_of"),
        found_in=_texts(id, stanza, "found_in"),
        members=_texts(id, stanza, "members"),
        exclusive=_texts(id, stanza, "exclusive"),
    )


def _text(id: str, stanza: Mapping[str, object], key: str) -> str | None:
    value = stanza.get(key)
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    raise UserError(f"ROI {id!r}: {key} must be a text that is not empty, found {value!r}")


def _texts(id: str, stanza: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = stanza.get(key, ())
    texts = tuple(value) if isinstance(value, list | tuple) else (None,)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"ROI {id!r}: {key} must be a list of texts, found {value!r}")
    if len(set(texts)) < len(texts):
        raise UserError(f"ROI {id!r}: {key} holds an entry twice: {value!r}; remove one")
    return tuple(str(text) for text in texts)


def _tolerance(id: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1000:
        raise UserError(f"ROI {id!r}: tolerance_mm must be a length in millimeters above 0, found {value!r}")
    return float(value)


def _color(id: str, value: object) -> tuple[int, int, int]:
    """A color written ``"#rrggbb"`` or as three numbers 0..255."""
    if isinstance(value, str) and _HEX.fullmatch(value):
        return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
    parts = list(value) if isinstance(value, list | tuple) else []
    if len(parts) == 3 and all(type(part) is int and 0 <= part <= 255 for part in parts):
        return parts[0], parts[1], parts[2]
    raise UserError(f"ROI {id!r}: color is '#rrggbb' or three numbers from 0 to 255, found {value!r}")


def free_color(id: str, taken: Iterable[tuple[int, int, int]]) -> tuple[int, int, int]:
    """A readable color that depends on the id, moved round the hues until it is unlike all taken ones.

    After 1,000 tries (only with many hundreds of ROIs) the last candidate is accepted.
    """
    start = zlib.crc32(id.encode()) / 2**32
    used = list(taken)
    for turn in range(1000):
        hue = (start + turn * 0.61803398875) % 1.0
        red, green, blue = colorsys.hls_to_rgb(hue, (0.5, 0.62, 0.4)[turn % 3], (0.75, 0.95, 0.5)[turn // 3 % 3])
        color = round(255 * red), round(255 * green), round(255 * blue)
        if all(sum(abs(a - b) for a, b in zip(color, other, strict=True)) >= 24 for other in used):
            break
    return color


_DIHEDRAL = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_PERMUTE = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def is_snomed(code: str) -> bool:
    """Whether this is a SNOMED CT identifier: 6 to 18 digits of which the last is the Verhoeff check digit."""
    check = 0
    for position, digit in enumerate(reversed(code)):
        if digit not in "0123456789":
            return False
        check = int(_DIHEDRAL[check][int(_PERMUTE[position % 8][int(digit)])])
    return check == 0 and _SCT.fullmatch(code) is not None
