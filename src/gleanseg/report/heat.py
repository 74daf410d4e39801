"""Where in a case something unlabelled was found: three planes tinted by what speaks for the ROI."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from gleanseg.predict.audit import Pair
from gleanseg.predict.presence import Sight
from gleanseg.report.figures import Color, Panel, panels, visible, window
from gleanseg.report.gallery import panel_strip
from gleanseg.report.markup import Html, html, number, tag
from gleanseg.report.tables import Look, roi_name

_STRONGEST = 0.6
"""Share of the ROI's color at the hottest place; the image stays visible below."""


def heat_pictures(sights: Sequence[tuple[Pair, Sight]], look: Look) -> Html:
    """One row of planes per pair, cut where most speaks for the ROI."""
    if not sights:
        return tag("p", "Nothing: no unlabelled ROI is surely there, and no label denies one that is.", class_="empty")
    lead = (
        "The window of each case that was most telling, labels that look wrong first; at most two cases of an ROI. "
        "Color: what each place alone would say, from the least to the most in that window. It is coarse, as the "
        "network's last map is. "
        "The patient's right is at the left of axial and coronal pictures."
    )
    return html((tag("p", lead, class_="lead"), [_figure(pair, sight, look) for pair, sight in sights]))


def _figure(pair: Pair, sight: Sight, look: Look) -> Html:
    name, color = look[pair.roi]
    told = pair.suspect or "latent: there, but nobody labelled it"
    caption = tag(
        "figcaption", tag("strong", roi_name(pair.roi, look)), tag("span", pair.case),
        tag("span", f"site {pair.site}", class_="quiet") if pair.site else None,
        tag("span", f"score {number(pair.score, 2)}"),
        tag("span", told, class_="note" if pair.suspect else "quiet"),
    )  # fmt: skip
    strip = panel_strip([(panel, panel.plane) for panel in heat_panels(sight, color)], pair.case, name)
    return tag("figure", caption, strip, class_="overlay")


def heat_panels(sight: Sight, color: Color) -> tuple[Panel, ...]:
    """Three planes through the hottest place, tinted with a color by the heat."""
    z, y, x = (int(i) for i in np.unravel_index(sight.heat.argmax(), sight.heat.shape))
    least, most = float(sight.heat.min()), float(sight.heat.max())
    ranges = window(sight.image, modality="prepared"), (least, max(most, least + 1e-6))
    gray, heat = (
        panels(
            values, reference={}, prediction={}, colors={}, spacing_ZYX_mm=sight.spacing_ZYX_mm, gray_range=shown,
            slices_ZYX=(z, y, x),
        )
        for values, shown in zip((sight.image, sight.heat), ranges, strict=True)
    )  # fmt: skip
    return tuple(g._replace(gray=tinted(g.gray, h.gray, color)) for g, h in zip(gray, heat, strict=True))


def tinted(gray: UInt8[np.ndarray, "H W"], heat: UInt8[np.ndarray, "H W"], color: Color) -> UInt8[np.ndarray, "H W 3"]:
    """A gray picture with a color laid over it, the more the higher the heat."""
    share = (heat / 255 * _STRONGEST)[..., None]
    mixed: NDArray[np.uint8] = (
        (gray[..., None] * (1 - share) + np.array(visible(color)) * share).round().astype(np.uint8)
    )
    return mixed
