"""Every method in every way that its options offer: what the contracts run over.

A method with an option that switches between ways of computing a loss adds a line to ``WAYS`` for each.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import torch

from gleanseg.parts.method import Method
from gleanseg.resolve import names, resolve
from gleanseg.strict import build_options
from support.batches import small_blueprint
from support.probes import PROBES

WAYS: dict[str, dict[str, object]] = {
    "ac_mt[label-error]": {"ambiguity": "label-error"},
    "ac_mt[prototype]": {"ambiguity": "prototype", "passes": 2},
    "ac_mt[uncertainty]": {"ambiguity": "uncertainty", "passes": 2},
    "action_pretraining[latent_alone]": {"latent_alone": True},
    "action[drawn]": {"voxels": 512, "queries": 16, "negatives": 16},
    "bcp[own]": {"buffers": "own"},
    "bcp[pretraining]": {"pretraining": True},
    "bcp[scattered]": {"scattered": ["liver_tumor"]},
    "caussl[first]": {"independent": "first"},
    "cct[both_ways]": {"both_ways": True},
    "cct[teach_all]": {"teach_all": True},
    "cpcl[bottleneck]": {"level": "bottleneck"},
    "cpcl[released]": {"released": True},
    "cps[unknown]": {"everywhere": False},
    "dmd[unknown]": {"everywhere": False},
    "entropy_minimization[everywhere]": {"everywhere": True},
    "latent_class[own]": {"buffers": "own", "negative_target": "zeros", "reduction": "pair"},
    "latent_class[sum]": {"reduction": "sum", "rois_per_step": 1},
    "llm_segnet[gated]": {"gated": True, "cutmix": "off", "supervised": "ce"},
    "llm_segnet[mse]": {"unsupervised": "mse", "supervised": "dice"},
    "llm_segnet[unmix]": {"cutmix": "unmix", "unsupervised": "nll"},
    "mcnet_plus[released]": {"both_ways": True, "ce": 0.0},
    "mcnet_plus[two]": {"decoders": 2, "everywhere": False},
    "mean_teacher[one_roi]": {"rois_per_step": 1},
    "mlrpl[unknown]": {"everywhere": False},
    "presence[sides]": {"merge_sides": True},
    "ss_net[drawn]": {"voxels": 512},
    "ss_net[released]": {"released": True},
}
"""Case -> options that differ from the defaults; names begin with the method's, and its defaults are a case anyway."""
RESUMED = {"ac_mt[uncertainty]", "bcp[own]", "bcp[pretraining]", "latent_class[own]", "ss_net[released]"}
"""Ways in which state goes from one step to the next otherwise than by default: these are interrupted and repeated."""
SPREAD = {"ac_mt[prototype]", "ac_mt[uncertainty]", "caussl[first]", "latent_class[sum]", "ss_net[released]"}
"""Ways that count or draw otherwise than by default: these run on two ranks, too."""
FINDING = {"qdc_net", "ac_mt[label-error]", "ac_mt[prototype]"}
"""Cases of which a term is 0 until something is found; fresh heads find nothing."""
UNTAUGHT = {"action_pretraining[latent_alone]"}
"""Ways that learn from images alone."""
SMALL = {"critic_width": 4}
"""In place of defaults that take many steps' time."""


class Case(NamedTuple):
    """A method with options."""

    name: str
    cls: type[Method]
    options: Mapping[str, object]

    def __str__(self) -> str:
        return self.name

    def make(self, *, seed: int = 0) -> Method:
        """On small networks and, where it has one, with a small adversary."""
        torch.manual_seed(seed)
        small = {field.name: SMALL[field.name] for field in fields(self.cls.Config) if field.name in SMALL}
        return self.cls(small_blueprint(), self.config(**small))

    def config(self, **more: object) -> Any:
        """Options, checked as those of a recipe."""
        return build_options(self.cls.Config, {**more, **self.options}, where=self.name)


def default_case(cls: type[Method]) -> Case:
    """Of a method of the package its name, of another one its class's."""
    module, _, name = cls.__module__.rpartition(".")
    return Case(name if module == "gleanseg.methods" else cls.__name__, cls, {})


DEFAULTS = (*(default_case(resolve("methods", name)) for name in names("methods")), *(default_case(c) for c in PROBES))
CASES = tuple(
    sorted(
        [*DEFAULTS, *(Case(way, resolve("methods", way.partition("[")[0]), options) for way, options in WAYS.items())]
    )
)
"""Of the package's methods and of the probes."""


def defaults_and(ways: set[str]) -> tuple[Case, ...]:
    """All defaults, and some further ways."""
    return tuple(case for case in CASES if not case.options or case.name in ways)
