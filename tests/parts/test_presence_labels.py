"""Presence by volume, its inheritance through the ontology, and a network that stays frozen."""

import pytest
import torch
from torch import nn

from gleanseg.errors import UserError
from gleanseg.parts.presence import RoiAware, inherits, presence_of, sources
from gleanseg.rois.ontology import builtin
from support.batches import SmallClassifier, make_batch, small_roi_aware


def test_slivers_are_neither_present_nor_absent() -> None:
    batch = make_batch(rows=1, num_labelled=1, known=True)
    codes = torch.zeros_like(batch.codes)
    codes[0, 4, 4, :5], codes[0, 6, 6, :1] = 1, 3
    batch = batch._replace(codes=codes, valid=torch.ones_like(batch.valid), spacing_mm=torch.tensor([[4.0, 4.0, 4.0]]))
    found = presence_of(batch)  # ROI 0: 5 voxels of 64 mm3, ROI 1: none, ROI 2: one voxel
    assert found.present.tolist() == [[True, False, False]]
    assert found.sure.tolist() == [[True, True, False]]


def test_unknown_pairs_and_invalid_voxels_say_nothing() -> None:
    batch = make_batch(rows=2, num_labelled=2, known=True)
    batch = batch._replace(codes=torch.ones_like(batch.codes), spacing_mm=torch.full((2, 3), 5.0))
    batch.valid[0] = False
    batch.known[1, 0] = False
    found = presence_of(batch)
    assert found.present[:, 0].tolist() == [False, True]
    assert found.sure[:, 0].tolist() == [True, False]


def test_rois_inherit_through_the_ontology() -> None:
    outputs = ["liver", "kidney_left", "kidney_right", "lung_upper_lobe_left", "lung_lower_lobe_right", "liver_tumor"]
    rois = ["liver", "kidneys", "liver_tumor", "hepatic_vessels", "kidney_tumor", "lung_tumor", "spleen"]
    organ = sources(rois, outputs, builtin(), tumors="organ")
    assert organ == [[0], [1, 2], [0], [0], [1, 2], [3, 4], []]
    assert sources(rois, outputs, builtin(), tumors="own")[2] == [5]
    with pytest.raises(UserError, match="knows none of the run's ROIs"):
        sources(["spleen"], ["liver"], builtin(), tumors="organ")


def test_only_absence_is_inherited() -> None:
    outputs = ["liver", "kidney_left", "kidney_right", "kidney_tumor"]
    rois = ["liver", "kidneys", "liver_tumor", "kidney_tumor", "lung_tumor"]
    assert [inherits(roi, outputs, builtin()) for roi in rois] == [False, False, True, False, False]


def test_scores_are_maxima_at_a_temperature() -> None:
    classifier = small_roi_aware().classifier
    x = torch.randn(3, 1, 16, 16, 16)
    plain = (classifier(x) / 2).sigmoid()
    found = RoiAware(classifier, [[0, 2], [1], []], temperature=2.0)(x)
    torch.testing.assert_close(found[:, 0], plain[:, [0, 2]].amax(1))
    torch.testing.assert_close(found[:, 1], plain[:, 1])
    assert found[:, 2].tolist() == [0.5] * 3


def test_it_is_frozen_and_no_part_of_the_state() -> None:
    aware = RoiAware(SmallClassifier(), [[0], [1], [2]])
    holder = nn.ModuleList([aware])
    holder.train()
    assert not aware.classifier.training
    assert not list(holder.parameters())
    assert not holder.state_dict()
    assert not aware(torch.randn(1, 1, 8, 8, 8)).requires_grad
    holder.to(torch.float64)
    assert aware.classifier.linear.weight.dtype == torch.float64
