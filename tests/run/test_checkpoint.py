import errno
from pathlib import Path

import pytest
import torch

from gleanseg.errors import UserError
from gleanseg.run import checkpoint


def tensors() -> dict[str, torch.Tensor]:
    whole = torch.arange(24.0).reshape(2, 3, 4)
    return {"strided": whole.transpose(0, 2), "view": whole[1], "empty": torch.zeros(0), "int": torch.tensor(7)}


def test_round_trip_keeps_values_types_and_info(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, tensors(), {"step": 3, "name": "é"})
    found, info = checkpoint.load(path)
    assert info["step"] == 3
    assert info["name"] == "é"
    for name, value in tensors().items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, tensors(), {})
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"SHA-256 differs.*delete it"):
        checkpoint.load(path)


def test_a_truncated_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, tensors(), {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged checkpoint"):
        checkpoint.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.safetensors: no such checkpoint"):
        checkpoint.load(tmp_path / "absent.safetensors")


def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, tensors(), {"step": 1})

    def full(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=r"No space left.*--resume"):
        checkpoint.save(path, tensors(), {"step": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
    assert checkpoint.load(path)[1]["step"] == 1
