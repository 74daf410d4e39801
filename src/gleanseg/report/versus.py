"""Rows of a paper's table tested against each other: paired by case, over cases and seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from gleanseg.errors import UserError
from gleanseg.evaluate.evaluation import compare
from gleanseg.report.finished import Finished
from gleanseg.report.papers import PaperTable
from gleanseg.report.results import is_share

Role = Literal["reference", "best other"]


class Versus(NamedTuple):
    """What a row of ours scores more than another one of ours with as many labels.

    Attributes:
        row: id of the other row.
        role: the table's reference, or the best of the others.
        metric: of the table's first column, over the ROIs of all columns that have it.
        difference: ours minus theirs; per cent for overlaps.
        low: lower end of its 95 % interval, by bootstrap over cases and seeds; NaN with fewer than two cases.
        high: upper end.
        p_bootstrap: two-sided.
        num_cases: that both score.
    """

    row: str
    role: Role
    metric: str
    difference: float
    low: float
    high: float
    p_bootstrap: float
    num_cases: int

    @property
    def verdict(self) -> Literal["beats", "loses to", "undecided against"]:
        """A difference counts when its interval excludes 0."""
        if math.isnan(self.low) or self.low <= 0 <= self.high:
            return "undecided against"
        return "beats" if (self.low > 0) == is_share(self.metric) else "loses to"


def versus(
    groups: Mapping[str, Sequence[Finished]], table: PaperTable, *, levels: Mapping[str, float]
) -> dict[str, tuple[Versus, ...]]:
    """Test each row of ours against the table's reference and against the best other row with as many labels.

    Args:
        groups: row -> its runs, one per seed; all of one split and protocol.
        table: says which rows are references, and on which metric and ROIs rows are tested.
        levels: row -> its mean, by which the best is found; NaN when it is not defined.
    """
    references = {row.id for row in table.row if row.reference}
    sign = 1 if is_share(table.tested_metric) else -1
    found = {}
    for row, runs in groups.items():
        others = [o for o in groups if o != row and groups[o][0].labelled == runs[0].labelled]
        chosen: dict[str, Role] = {o: "reference" for o in others if o in references}
        if ranked := [o for o in others if not math.isnan(levels[o])]:
            chosen.setdefault(max(ranked, key=lambda o: sign * levels[o]), "best other")
        tests = (_test(runs, groups[other], other, role, table) for other, role in chosen.items())
        found[row] = tuple(test for test in tests if test is not None)
    return found


def _test(
    ours: Sequence[Finished], theirs: Sequence[Finished], other: str, role: Role, table: PaperTable
) -> Versus | None:
    metric = table.tested_metric
    a, b = ([run.evaluation for run in runs] for runs in (ours, theirs))
    try:
        test = compare(a, b, metric=metric, rois=table.tested_rois)
    except UserError:  # nothing that both score
        return None
    scale = 100.0 if is_share(metric) else 1.0
    return Versus(
        row=other, role=role, metric=metric, difference=scale * test.difference, low=scale * test.low,
        high=scale * test.high, p_bootstrap=test.p_bootstrap, num_cases=test.num_cases,
    )  # fmt: skip
