"""The cache of vectors: what is asked of the encoder, damage, and folders that cannot be written."""

from pathlib import Path

import numpy as np
import pytest

from gleanseg.text.cache import Cache
from gleanseg.text.files import cache_folder
from support.texts import FakeEncoder


def test_each_text_is_encoded_once(own_cache: Path) -> None:
    encoder = FakeEncoder()
    first = Cache().encode(encoder, ["liver", "spleen", "liver"])
    assert encoder.asked == ["liver", "spleen"]
    np.testing.assert_array_equal(first, [FakeEncoder.vector(t) for t in ("liver", "spleen", "liver")])
    second = Cache().encode(encoder, ["colon", "spleen"])
    assert encoder.asked == ["liver", "spleen", "colon"]
    np.testing.assert_array_equal(second, [FakeEncoder.vector(t) for t in ("colon", "spleen")])
    assert len(list(own_cache.rglob("*.vector"))) == 3
    assert not list(own_cache.rglob("*.part"))


@pytest.mark.parametrize("change", [{"id": "other"}, {"weights_sha256": "11"}, {"pooling": "cls"}])
def test_the_key_holds_all_that_matters(change: dict[str, str]) -> None:
    Cache().encode(FakeEncoder(), ["liver"])
    other = FakeEncoder()
    for name, value in change.items():
        setattr(other, name, value)
    Cache().encode(other, ["liver"])
    assert other.asked == ["liver"]


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_entry_is_made_again(own_cache: Path, damage: bytes | None) -> None:
    wanted = Cache().encode(FakeEncoder(), ["liver"])
    (entry,) = own_cache.rglob("*.vector")
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage is None else damage)
    encoder = FakeEncoder()
    np.testing.assert_array_equal(Cache().encode(encoder, ["liver"]), wanted)
    assert encoder.asked == ["liver"]
    assert entry.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    encoder = FakeEncoder()
    for _ in range(2):
        np.testing.assert_array_equal(
            Cache(tmp_path / "file").encode(encoder, ["liver"])[0], FakeEncoder.vector("liver")
        )
    assert encoder.asked == ["liver", "liver"]


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("GLEANSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "gleanseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "gleanseg"
