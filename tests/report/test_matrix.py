"""The state matrix: grouping, runs, redundant encoding."""

import re

from gleanseg.report.matrix import CaseStates, state_matrix

NAMES = ["liver", "liver tumor"]


def cases(count: int, site: str, split: str, *states: str) -> list[CaseStates]:
    return [CaseStates(f"{site}{k:03d}", site, split, states) for k in range(count)]


def test_alike_cases_are_one_rectangle():
    many = [*cases(100, "A", "train", "annotated", "unknown"), *cases(150, "B", "train", "annotated", "absent")]
    picture = state_matrix(many, names=NAMES)
    rects = re.findall(r"<rect [^>]*><title>([^<]*)", picture)
    assert rects == [
        "liver: annotated in 100 cases (train, A: A000 … A099)",
        "liver tumor: unknown in 100 cases (train, A: A000 … A099)",
        "liver: annotated in 150 cases (train, B: B000 … B149)",
        "liver tumor: absent in 150 cases (train, B: B000 … B149)",
    ]
    assert len(picture) < 5_000
    assert "<td>100 annotated</td>" in picture
    assert "<td>150 absent</td>" in picture


def test_groups_run_from_train_to_test_and_mixed_cases_are_sorted():
    rows = [
        CaseStates("t", "A", "test", ("annotated",)),
        CaseStates("b", "A", "train", ("unknown",)),
        CaseStates("a", "A", "train", ("annotated",)),
        CaseStates("c", "A", "train", ("annotated",)),
    ]
    picture = state_matrix(rows, names=["liver"])
    assert picture.index(">train<") < picture.index(">test<")
    assert "annotated in 2 cases (train, A: a … c)" in picture


def test_states_differ_in_height_as_well():
    rows = [CaseStates(s, "A", "train", (s,)) for s in ("annotated", "hidden", "absent", "unknown")]
    picture = state_matrix(rows, names=["liver"])
    heights = set(re.findall(r'height="([\d.]+)" class="s-(\w+)"><title>', picture))
    assert heights == {("14", "annotated"), ("14", "hidden"), ("6", "absent"), ("2", "unknown")}
    assert 'id="hatch"' in picture


def test_nothing_and_hostile_names():
    assert "no case" in state_matrix([], names=NAMES)
    picture = state_matrix([CaseStates("<x>", "<b>", "train", ("annotated",))], names=["<i>"])
    assert "<b>" not in picture
    assert "<i>" not in picture
    assert "&lt;b&gt;" in picture
