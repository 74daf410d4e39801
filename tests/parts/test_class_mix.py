import torch

from gleanseg.parts.class_mix import draw_class_mix
from gleanseg.parts.points import draw_points
from support.batches import make_batch, small_network


def test_half_of_the_classes_of_each_unlabelled_row_stay() -> None:
    batch = make_batch(rows=5, num_labelled=2)
    inside = [batch.y()[:, roi] > 0 for roi in (0, 2)]  # balls that do not touch: three classes with their outside
    two = batch._replace(known=batch.known[:, [0, 2]], table=batch.table[:, :, [0, 2]])
    mix = draw_class_mix(two, lambda roi: inside[roi])
    assert mix.partner_B.tolist() == [0, 1, 3, 4, 2]
    assert mix.whole_B.tolist() == [True, True, False, False, False]
    assert not mix.taken_BZYX[:2].any()
    classes = torch.stack([*inside, ~inside[0] & ~inside[1]], 1)
    for row in (2, 3, 4):
        kept = [bool((~mix.taken_BZYX[row])[voxels].all()) for voxels in classes[row]]
        assert sum(kept) == 1, "one of three classes stays whole, and nothing else"
        assert torch.equal(~mix.taken_BZYX[row], classes[row][kept.index(True)])
    assert torch.equal(draw_class_mix(two, lambda roi: inside[roi]).taken_BZYX, mix.taken_BZYX)
    alone = draw_class_mix(two._replace(num_labelled=4), lambda roi: inside[roi])
    assert alone.whole_B.all()


def test_mixed_rows_are_a_batch_with_their_own_labels() -> None:
    batch = make_batch(known=True)
    known = batch.known.clone()
    known[2, 0] = False
    batch = batch._replace(known=known)
    mix = draw_class_mix(batch, lambda roi: batch.y()[:, roi] > 0)
    mixed = mix.batch(batch)
    assert mix.taken_BZYX[2:].any((1, 2, 3)).all()
    assert torch.equal(mixed.y(), mix.paste(batch.y()))
    assert torch.equal(mixed.x["weak"], mix.paste(batch.x["weak"]))
    assert mixed.known[:, 0].tolist() == [True, True, False, False], "known where it is in both rows"
    assert mixed.known[:, 1:].all()


def test_scores_of_mixed_rows_are_pasted_scores() -> None:
    torch.manual_seed(0)
    network, batch = small_network(), make_batch()
    mix, at = draw_class_mix(batch, lambda roi: batch.y()[:, roi] > 0), draw_points(batch, 300)
    features = network.features(batch.x["weak"])
    torch.testing.assert_close(mix.score(network, features, at), at.of(mix.paste(network.score(features))))
