"""What of a store one run may see: which ROIs, which cases, which of their labels.

Hiding happens here and nowhere else: a label that ``data.labelled``, ``data.annotate`` or ``data.fold`` hides is
unknown to everything behind this file.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gleanseg.config import DataConfig
from gleanseg.data.store import Store
from gleanseg.errors import UserError, nearest


class Visible(NamedTuple):
    """What a run sees of a case.

    Attributes:
        id: case id.
        site: where it is from.
        annotated: whether voxels are given, for each of the run's ROIs.
        known: annotated, or known to be absent.
    """

    id: str
    site: str
    annotated: NDArray[np.bool_]
    known: NDArray[np.bool_]


class Selection(NamedTuple):
    """The cases of a run by role.

    Attributes:
        rois: ROI ids in channel order.
        columns: column of the store's tables for each of them.
        train: cases that training may read, labels hidden as the recipe says.
        validation: cases of the validation split; training never reads them.
    """

    rois: tuple[str, ...]
    columns: NDArray[np.int64]
    train: tuple[Visible, ...]
    validation: tuple[Visible, ...]

    @property
    def labelled(self) -> tuple[Visible, ...]:
        """Training cases with at least one annotated ROI."""
        return tuple(case for case in self.train if case.annotated.any())

    @property
    def unlabelled(self) -> tuple[Visible, ...]:
        """Training cases without any annotated ROI."""
        return tuple(case for case in self.train if not case.annotated.any())

    def digest(self) -> str:
        """SHA-256 of ROIs, splits and visible labels; two runs with equal digests saw the same supervision."""
        rows = [[c.id, c.annotated.tolist(), c.known.tolist()] for c in self.train]
        held_out = [c.id for c in self.validation]
        return hashlib.sha256(json.dumps([self.rois, rows, held_out]).encode()).hexdigest()


def select(store: Store, config: DataConfig) -> Selection:
    """Apply the recipe's ``[data]`` table to a store.

    Raises:
        UserError: unknown ROI, case or site; no training case; no annotated training case; a test case listed.
    """
    rois = config.rois or store.rois
    for roi in rois:
        if roi not in store.rois:
            raise UserError(f"data.rois: {roi!r} is not in the store{nearest(roi, store.rois)}")
    columns = np.array([store.rois.index(roi) for roi in rois], dtype=np.int64)
    cases = {split: _visible(store, split, columns) for split in ("train", "validation")}
    if config.fold is not None:
        cases = _fold([*cases["train"], *cases["validation"]], config)
    train = _hide_sites(cases["train"], config, rois)
    train = _hide_cases(train, config, store, rois)
    if not train:
        raise UserError(
            f"{store.path}: no training case; expected at least one with split = 'train': set it in the manifest"
        )
    if not any(case.annotated.any() for case in train):
        raise UserError(
            f"{store.path}: no annotated training case: every ROI of the recipe is unknown in every one; annotate "
            "some in the manifest, or let [data] of the recipe show what there is"
        )
    return Selection(tuple(rois), columns, tuple(train), tuple(cases["validation"]))


def overlaps(store: Store, selection: Selection) -> frozenset[frozenset[str]]:
    """Pairs of ROIs that share voxels in a visible label of the training split."""
    place = {id: i for i, id in enumerate(store.ids)}
    labelled = selection.labelled
    visible_NR = np.zeros((len(store.ids), len(store.rois)), dtype=np.bool_)
    placed = np.array([place[case.id] for case in labelled])
    visible_NR[placed[:, None], selection.columns] = np.array([case.annotated for case in labelled])
    rows, pairs = store.overlaps
    seen = np.unique(pairs[visible_NR[rows, pairs[:, 0]] & visible_NR[rows, pairs[:, 1]]], axis=0)
    return frozenset(frozenset((store.rois[i], store.rois[j])) for i, j in seen)


def _visible(store: Store, split: str, columns: NDArray[np.int64]) -> list[Visible]:
    rows = sorted((id, i) for i, (id, role) in enumerate(zip(store.ids, store.splits, strict=True)) if role == split)
    annotated, known, sites = store.annotated[:, columns], store.known[:, columns], store.sites
    return [Visible(id, sites[i], annotated[i], known[i]) for id, i in rows]


def _fold(cases: Sequence[Visible], config: DataConfig) -> dict[str, list[Visible]]:
    order = np.random.default_rng(config.labelled_seed).permutation(len(cases))
    parts = np.array_split(order, config.folds)
    held_out = set(parts[config.fold or 0].tolist())
    by_id = sorted(cases, key=lambda case: case.id)
    return {
        "train": [c for i, c in enumerate(by_id) if i not in held_out],
        "validation": [c for i, c in enumerate(by_id) if i in held_out],
    }


def _why_not(case_id: str, candidates: Sequence[str], store: Store) -> str:
    """Why a case cannot be among those that keep their labels."""
    if case_id not in store.ids:
        return f"is not in {store.path}{nearest(case_id, candidates)}"
    if (split := store.split(case_id)) != "train":
        return f"belongs to the {split} split; expected annotated training cases only: take it out of the list"
    return "has no label of the run's ROIs; expected annotated training cases only: take it out of the list"


def _hide_sites(train: Sequence[Visible], config: DataConfig, rois: Sequence[str]) -> list[Visible]:
    if not config.annotate:
        return list(train)
    sites = {case.site for case in train}
    for site, kept in config.annotate.items():
        if site not in sites:
            raise UserError(f"data.annotate: no training case of site {site!r}{nearest(site, sites)}")
        for roi in kept:
            if roi not in rois:
                raise UserError(f"data.annotate: {roi!r} is not one of the run's ROIs{nearest(roi, rois)}")
    shown = {site: np.array([roi in kept for roi in rois]) for site, kept in config.annotate.items()}
    everything = np.ones(len(rois), dtype=np.bool_)
    return [
        case._replace(
            annotated=case.annotated & shown.get(case.site, everything),
            known=case.known & shown.get(case.site, everything),
        )
        for case in train
    ]


def _hide_cases(train: Sequence[Visible], config: DataConfig, store: Store, rois: Sequence[str]) -> list[Visible]:
    if config.labelled is None:
        return list(train)
    candidates = [case.id for case in train if case.annotated.any()]
    if isinstance(config.labelled, tuple):
        kept = set(config.labelled)
        for case_id in kept - set(candidates):
            raise UserError(f"data.labelled: case {case_id!r} {_why_not(case_id, candidates, store)}")
    else:
        number = config.labelled if isinstance(config.labelled, int) else round(config.labelled * len(candidates))
        if not 0 < number <= len(candidates):
            raise UserError(
                f"data.labelled = {config.labelled}: expected 1 to {len(candidates)} cases, "
                f"as many as have annotations in the training split"
            )
        kept = set(_ordered(candidates, config, store)[:number])
    nothing = np.zeros(len(train[0].known), dtype=np.bool_)
    shown = [case if case.id in kept else case._replace(annotated=nothing, known=nothing) for case in train]
    lost = np.any([c.annotated for c in train], axis=0) & ~np.any([c.annotated for c in shown], axis=0)
    drawn = not isinstance(config.labelled, tuple) and config.labelled_order == "random"
    if lost.any() and drawn:  # who lists cases has chosen them
        raise UserError(
            f"data.labelled = {config.labelled}: none of the {len(kept)} cases that stay labelled annotates "
            f"{rois[int(lost.argmax())]!r}; keep more, list cases that do, change data.labelled_seed, or leave the ROI "
            "out of data.rois"
        )
    return shown


def _ordered(candidates: Sequence[str], config: DataConfig, store: Store) -> list[str]:
    """An order whose prefixes stay labelled, so that 8 labelled cases contain the 4 of a smaller experiment."""
    if config.labelled_order == "first":
        row = {id: i for i, id in enumerate(store.ids)}
        return sorted(candidates, key=row.__getitem__)
    return [candidates[i] for i in np.random.default_rng(config.labelled_seed).permutation(len(candidates))]
