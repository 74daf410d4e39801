import numpy as np
import torch

from gleanseg.parts.components import components, largest_components


def test_components_touch_at_corners() -> None:
    mask = np.zeros((1, 3, 4), dtype=np.bool_)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[0, 1, 3] = True
    parts, sizes = components(mask)
    assert parts[0, 0, 0] == parts[0, 1, 1] != parts[0, 1, 3]
    assert sorted(sizes.tolist()) == [0, 1, 2]


def test_the_largest_of_chosen_pairs_stays() -> None:
    masks = torch.zeros(2, 2, 1, 1, 7, dtype=torch.bool)
    masks[..., [0, 2, 3, 5]] = True
    masks[1, 1] = False
    kept = largest_components(masks, torch.tensor([[True, False], [True, True]]))
    assert kept[:, :, 0, 0].int().tolist() == [
        [[0, 0, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1, 0]],
        [[0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],
    ]
    assert masks[0, 0, 0, 0, 0], "the input is left alone"
