"""The report: one HTML file that needs nothing else, whatever of the run is there already."""

from collections.abc import Sequence
from pathlib import Path

from gleanseg.errors import UserError
from gleanseg.report.assembly import Section, assemble
from gleanseg.report.beside import beside
from gleanseg.report.facts import Facts, read_facts
from gleanseg.report.gallery import gallery
from gleanseg.report.markup import Html, html, tag
from gleanseg.report.matrix import state_matrix
from gleanseg.report.presence import presence
from gleanseg.report.sections import headline, origin, recipe, results, training, warnings
from gleanseg.report.tables import case_table
from gleanseg.run.folder import write_text


def write_report(run: Path, *, output: Path | None = None, max_cases: int = 12, others: Sequence[Path] = ()) -> Path:
    """Write the report of a run; pieces that are not there yet are named in words.

    Args:
        run: run folder, of a finished or a running training.
        output: HTML file; default ``report.html`` in the run folder.
        max_cases: most cases of which pictures are shown, worst first.
        others: run folders that are shown beside this one, on the same slices.

    Returns:
        Path of the file.

    Raises:
        UserError: not a run folder, a damaged file in it, other runs without predictions of the same cases, or the
            output cannot be written.
    """
    facts = read_facts(Path(run))
    output = Path(output) if output is not None else Path(run) / "report.html"
    if not output.parent.is_dir():
        raise UserError(f"{output}: the folder {output.parent} does not exist; make it first")
    write_text(output, page(facts, max_cases=max_cases, others=[read_facts(Path(other)) for other in others]))
    return output


def page(facts: Facts, *, max_cases: int, others: Sequence[Facts] = ()) -> str:
    """The whole page."""
    segmented = (
        results(facts),
        Section("cases", "Cases", cases(facts)),
        Section("pictures", "Pictures", pictures(facts, max_cases=max_cases)),
    )
    sections = [
        warnings(facts),
        *(segmented if facts.segments else (presence(facts),)),
        Section("beside", "Beside other runs", beside(facts, others)) if others else None,
        training(facts),
        Section("supervision", "Supervision", supervision(facts)),
        recipe(facts),
        origin(facts),
    ]
    shown = [section for section in sections if section is not None]
    return assemble(f"{facts.name}: gleanseg report", headline(facts), shown)


def cases(facts: Facts) -> Html:
    """Scores of every case of the headline's split."""
    if facts.best is None:
        return _nothing("No case has been scored yet.", f"gleanseg evaluate {facts.path}")
    note = tag("p", f"The {facts.best.split} split, worst first. Click a heading to sort by it.", class_="lead")
    return html((note, case_table(facts.best, facts.look, facts.sites)))


def pictures(facts: Facts, *, max_cases: int) -> Html:
    """Overlays of the worst cases."""
    if facts.manifest is None:
        return tag("p", f"No pictures. {facts.manifest_problem}", class_="empty")
    if not facts.predicted_splits:
        return _nothing("There are no predictions in this run yet.", f"gleanseg predict {facts.path} --split test")
    split = facts.predicted_splits[0]
    scored = next((r for r in facts.results if r.split == split), None)
    order = "the worst cases first, and of each its worst ROIs" if scored else "not scored yet, by name"
    lead = (
        f"Predictions of the {split} split, {order}. Planes cut each ROI where its reference is largest. "
        "Radiological view: the patient's right is at the left of axial and coronal pictures. "
        "Click a picture to enlarge it."
    )
    try:
        shown = gallery(
            facts.path / "predictions" / split,
            manifest=facts.manifest,
            rois=facts.rois,
            look=facts.look,
            results=scored,
            max_cases=max_cases,
        )
    except UserError as error:
        return tag("p", f"No pictures: {error}", class_="empty")
    return html((tag("p", lead, class_="lead"), _switches(), shown))


def _switches() -> Html:
    def switch(kind: str, text: str) -> Html:
        sample = tag("svg", tag("line", x1=0, x2=28, y1=6, y2=6, class_=f"sample-{kind}"), viewBox="0 0 28 12",
                     width=28, height=12, aria_hidden="true")  # fmt: skip
        return tag("label", tag("input", type="checkbox", checked=True, data_shows=kind), sample, text)

    return tag("div", switch("reference", "Reference"), switch("prediction", "Prediction"), class_="switches")


def supervision(facts: Facts) -> Html:
    """The state matrix."""
    if facts.manifest is None:
        return tag("p", f"The states of cases and ROIs are not known. {facts.manifest_problem}", class_="empty")
    lead = "What the run was told: each column is a case, each row an ROI."
    names = [facts.look[roi][0] for roi in facts.rois]
    return html((tag("p", lead, class_="lead"), state_matrix(facts.states, names=names)))


def _nothing(text: str, command: str) -> Html:
    return tag("p", text, " Make it with ", tag("code", command), ".", class_="empty")
