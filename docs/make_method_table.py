"""Write docs/methods/README.md from the methods themselves, so that the page cannot fall behind.

python docs/make_method_table.py

What a method keeps is read off an object of it, made without storage ("meta") on a narrow network.
"""

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from gleanseg.config import Named
from gleanseg.methods import method_class
from gleanseg.networks import classifiers
from gleanseg.networks.classifier import Classifier
from gleanseg.networks.network import Network
from gleanseg.networks.unet3d import UNet3D
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.presence import RoiAware
from gleanseg.resolve import names
from gleanseg.rois.ontology import builtin

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods" / "README.md"
COST = ROOT / "benchmarks" / "results" / "method_cost.json"
ROIS = ("liver", "spleen")
HEAD = """\
# Methods

A method is a learning algorithm: its networks, and the loss of one step. Its name is that of its file, and the `name`
of the recipe's `[method]` table; its page has equation, deviations from the paper, options and results.
[Add your own](../how-to/add-a-method.md). How they fare [under one budget](../field.md).

*Networks* are those that learn. What is *kept besides* is in the checkpoint, too, but for frozen networks, which the
run folder holds apart. Of what *predicts* the first is the default; `gleanseg predict --deploy` takes another.
"""
COMMON = """\
## Common to all

What no page repeats:

1. Heads start at a probability of about 0.02 for every ROI (`src/gleanseg/networks/head.py`), published networks
   undecided. So in the first steps hard pseudo labels are background alone, where published ones are chance; limits of
   doubt let every voxel through ([uamt](uamt.md)) and limits of ambiguity none ([ac_mt](ac_mt.md)); and entropy
   minimisation begins close to its trivial answer, an image without ROIs. Distance heads and the evidential network of
   [qdc_net](qdc_net.md) start undecided.
2. Gradients are bounded (`optimizer.clip`), published ones are not; the recipes of the
   [benchmarks of the literature](../how-to/semi-supervised-benchmarks.md) take the bound away.
"""
COSTS = """\
The last two columns were measured with default options ({what}): the median time of a step, and by how many MiB the
peak memory of a process on the processor is above that of `supervised`.
"""
FOOT = "This page is made from the methods by `python docs/make_method_table.py`.\n"


class Row(NamedTuple):
    """What the table says of a method."""

    name: str
    year: int
    paper: str
    idea: str
    networks: str
    besides: str
    predict: str
    cost: str
    memory: str
    unlabelled: bool


def page() -> str:
    """The whole page."""
    own = (name for name in names("methods") if resolved(name).__module__.startswith("gleanseg."))
    rows = sorted(map(row, own), key=lambda r: (r.year, r.name))
    alone = table([r for r in rows if not r.unlabelled])
    others = table([r for r in rows if r.unlabelled])
    sections = ["## From labels alone\n", alone, "## From what nobody labelled, too\n", others, COMMON, FOOT]
    return "\n".join([HEAD, *costs(), *sections])


def table(rows: list[Row]) -> str:
    """Rows of one section; costs stand there where any was measured."""
    heads = ["method", "year", "paper", "idea", "networks", "kept besides", "predicts"]
    told = any(r.cost for r in rows)
    lines = [heads + ["step, times a supervised one", "extra memory, MiB"] * told]
    lines.append(["---"] * len(lines[0]))
    for r in rows:
        cells = [f"[{r.name}]({r.name}.md)", str(r.year), r.paper, r.idea, r.networks, r.besides, r.predict]
        lines.append(cells + [r.cost, r.memory] * told)
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def row(name: str) -> Row:
    """All that the code says of a method."""
    cls = resolved(name)
    method = made(name)
    year, paper = cited(cls)
    learning, besides = kept(method)
    predict, unlabelled = ", ".join(cls.deploys), cls.views.unlabelled
    return Row(name, year, paper, idea(cls), learning, besides, predict, *cost(name), unlabelled)


def resolved(name: str) -> type[Method]:
    """The class of a name."""
    return method_class(Named(name=name))[0]


def made(name: str) -> Method:
    """A method with its default options, without storage."""
    cls = resolved(name)
    with torch.device("meta"):
        network = partial(UNet3D, UNet3D.Config(width=4), in_channels=1, num_rois=len(ROIS))
        classifier = partial(classifiers.build, "resnet18", {}, in_channels=1, num_outputs=len(ROIS))
        return cls(
            Blueprint(
                network=network,
                other=lambda named: network(),
                rois=ROIS,
                ontology=builtin(),
                classifier=classifier,
                roi_aware=lambda: RoiAware(classifier(), [[0], [1]]),
            ),
            cls.Config(),
        )


def cited(cls: type[Method]) -> tuple[int, str]:
    """Year and linked citation of the docstring's "Paper:" line."""
    found = re.search(r"^Paper: (.*)$", inspect.cleandoc(cls.__doc__ or ""), re.MULTILINE)
    assert found, f"{cls.__name__}: its docstring has no line 'Paper: ...'"
    words, _, link = found[1].partition(", http")
    words = re.sub(r" \(.*?\)\.?$", "", words)
    year = re.search(r"\b(19|20)\d\d\b", words)
    assert year, f"{cls.__name__}: its paper has no year"
    words = words[: year.start()].rstrip(" ,")
    return int(year[0]), f"[{words}](http{link.split()[0]})" if link else words


def idea(cls: type[Method]) -> str:
    """The first line of the method's file, after the name."""
    first = (inspect.getmodule(cls).__doc__ or "").partition("\n")[0].rstrip(".")
    return first.partition(": ")[2] or first[0].lower() + first[1:]


def kept(method: Method) -> tuple[str, str]:
    """The networks that learn, and what else the method holds."""
    learning, besides = [], []
    for name, child in method.named_children():
        if isinstance(child, RoiAware):
            besides.append("a frozen classifier")
        elif not isinstance(child, Network | Classifier):
            besides.append(spelled(name, child))
        elif any(p.requires_grad for p in child.parameters()):
            learning.append(name if isinstance(child, Network) else f"{name} (a classifier)")
        else:
            besides.append(f"{name} (no gradient)")
    besides += [name for name, _ in method.named_buffers(recurse=False)]
    return f"{len(learning)}: {', '.join(learning)}", ", ".join(besides) or "-"


def spelled(name: str, child: nn.Module) -> str:
    """A part that is no network, by name; of a list, how many."""
    return f"{name} ({len(child)})" if isinstance(child, nn.ModuleList) else name


def cost(name: str) -> tuple[str, str]:
    """A step's time and memory against a supervised one's, where that was measured."""
    found = measured().get("methods", {}).get(name)
    return (f"{found['relative']['median']:.2f}", str(found["extra_mib"])) if found else ("", "")


def costs() -> Iterator[str]:
    """What the columns of costs are."""
    if found := measured():
        yield "\n".join(textwrap.wrap(COSTS.format(what=found["what"]), 120)) + "\n"


def measured() -> dict[str, Any]:
    """What was measured of the methods."""
    found: dict[str, Any] = json.loads(COST.read_text()) if COST.exists() else {}
    return found


if __name__ == "__main__":
    PAGE.write_text(page())
