"""No test of text touches the user's cache or a network."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLEANSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "text"


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(repository: str, **options: object) -> str:
        raise ConnectionError(f"{repository}: a test asked for the network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
