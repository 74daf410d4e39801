import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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


@pytest.mark.parametrize("size", [0, 4, 8, 200, -10])
def test_a_truncated_file_is_noticed(tmp_path: Path, size: int) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, tensors(), {})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(checkpoint.Damaged, match="damaged checkpoint"):
        checkpoint.load(path)


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, tensors(), {"step": 3, "stage": "main", "groups": [{"lr": 0.001}]})
    wanted, info = checkpoint.load(path)
    whole = path.read_bytes()
    noticed = 0
    for at in range(0, len(whole), 2):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            found, told = checkpoint.load(path)
        except UserError:
            noticed += 1
            continue
        assert told == info, at  # a letter of an escape that may be upper or lower case
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), at
    assert noticed > 0.47 * len(whole)


def test_format_1_is_read_and_its_bytes_are_checked(tmp_path: Path) -> None:
    old = Path(__file__).with_name("checkpoint-format-1.safetensors")
    found, info = checkpoint.load(old)
    assert torch.equal(found["method.net.weight"], torch.arange(24.0).reshape(2, 3, 4))
    assert (info["step"], info["rois"]) == (3, ["liver", "liver_tumor", "spleen"])
    assert info["optimizers"]["main"]["groups"] == [{"lr": 0.001, "betas": [0.9, 0.999], "params": [0]}]
    raw = bytearray(old.read_bytes())
    raw[-3] ^= 1
    (tmp_path / "c.safetensors").write_bytes(raw)
    with pytest.raises(checkpoint.Damaged, match="SHA-256 differs"):
        checkpoint.load(tmp_path / "c.safetensors")


def test_a_newer_format_and_other_safetensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "FORMAT", 3)
        checkpoint.save(path, tensors(), {})
    with pytest.raises(UserError, match=r"a checkpoint of format 3, this gleanseg reads up to 2; update gleanseg"):
        checkpoint.load(path)
    for metadata in (None, {"format": "pt"}, {"gleanseg": "[1]"}, {"gleanseg": '{"step": 3}'}, {"gleanseg": "x"}):
        save_file({"w": torch.zeros(2)}, path, metadata=metadata)
        with pytest.raises(checkpoint.Damaged):
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
