import pytest

from gleanseg.errors import UserError
from gleanseg.methods.mean_teacher import MeanTeacher
from gleanseg.resolve import names, resolve


def test_the_file_name_is_the_name() -> None:
    assert resolve("methods", "mean_teacher") is MeanTeacher
    assert resolve("methods", "mean-teacher") is MeanTeacher


def test_helpers_and_abstract_bases_are_no_offers() -> None:
    assert {"mean_teacher", "supervised"} <= set(names("methods"))
    assert "network" not in names("networks")
    assert "blocks" not in names("networks")


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(UserError, match="no 'mean_techer'; did you mean 'mean_teacher'"):
        resolve("methods", "mean_techer")
