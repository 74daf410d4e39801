import pytest
import torch

from gleanseg.errors import UserError
from gleanseg.parts.centres import nearest_centres, spread_centres


@pytest.mark.parametrize("num", [2, 3, 7])
def test_centres_lie_as_far_apart_as_they_can(num: int) -> None:
    found = spread_centres(num, 8)
    cosines = found @ found.T
    torch.testing.assert_close(cosines.diagonal(), torch.ones(num))
    apart = cosines[~torch.eye(num, dtype=torch.bool)]
    torch.testing.assert_close(apart, torch.full_like(apart, -1 / (num - 1)))


def test_too_many_are_refused() -> None:
    with pytest.raises(UserError, match="no room for 9 classes; use 9 or more"):
        spread_centres(9, 8)


def test_each_class_gets_a_centre_of_its_own() -> None:
    centres = torch.eye(3)
    centroids = torch.tensor([[0.9, 0.5, 0.0], [1.0, 0.1, 0.0], [0.0, 0.0, 0.0]])
    assert nearest_centres(centroids, centres).tolist() == [1, 0, 2], "the nearest for both is the first"
