"""Nothing is downloaded unless asked; then only files without code, and the process is offline again after."""

import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from clarep_ray import models
from clarep_ray.config import ModelConfig
from clarep_ray.models import hub


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Calls of `snapshot_download`, which gives `tmp_path` instead of using the network."""
    calls: list[dict[str, Any]] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        calls.append({"repo_id": repo_id, "offline": constants.is_offline_mode(), **options})
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_a_hub_id_is_fetched_once_when_asked(downloads: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    config = ModelConfig(name="dit", weights="org/some-dit", allow_download=True)
    assert models.absolute_weights(config) == str(tmp_path)
    assert [(call["repo_id"], call["offline"]) for call in downloads] == [("org/some-dit", False)]
    assert constants.is_offline_mode()
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] == "1"
    found = models.weights_sha256(ModelConfig(name="dit", weights=str(tmp_path)))
    (tmp_path / "unet" / "config.json").write_text("{ }")
    assert models.weights_sha256(ModelConfig(name="dit", weights=str(tmp_path))) != found


def test_only_files_that_hold_no_code_are_fetched() -> None:
    allowed = ("model_index.json", "tokenizer/merges.txt", "unet/config.json", "unet/a-00001-of-00002.safetensors")
    refused = (
        *("unet/a.bin", "unet/a.fp16.safetensors", "pipeline.py", "unet/model.py", "a.ckpt", "a.pkl", "a.pt"),
        *("a.msgpack", "v2-1_768-ema-pruned.safetensors", "unet/a.h5", "safety_checker/model.safetensors"),
    )

    def fetched(name: str) -> bool:
        return any(fnmatch(name, p) for p in hub.ALLOWED) and not any(fnmatch(name, p) for p in hub.IGNORED)

    assert all(fetched(name) for name in allowed)
    assert not any(fetched(name) for name in refused)


def test_a_hub_id_is_not_fetched_unasked(downloads: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"'org/some-dit' is not a folder; valid: .* with --model\.allow-download"):
        models.absolute_weights(ModelConfig(name="dit", weights="org/some-dit"))
    assert downloads == []


@pytest.mark.parametrize("weights", ["/weights/nowhere", "../up/there", "https://host/name", "a/b/c", "weights/uvit"])
def test_what_is_no_hub_id_is_never_fetched(downloads: list[dict[str, Any]], weights: str) -> None:
    config = ModelConfig(name="dit", weights=weights, allow_download=True)
    assert models.absolute_weights(config) == str(Path(weights).absolute())
    with pytest.raises(ValueError, match=r"model\.weights: "):
        models.build(config)
    assert downloads == []


def test_a_folder_comes_before_a_hub_id(
    downloads: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = models.absolute_weights(ModelConfig(name="dit", weights="org/name", allow_download=True))
    assert found == str(tmp_path / "org" / "name")
    assert downloads == []


def test_a_download_that_fails_is_an_error_and_leaves_the_process_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ValueError, match="'org/name' cannot be downloaded: no route to host"):
        models.absolute_weights(ModelConfig(name="dit", weights="org/name", allow_download=True))
    assert constants.is_offline_mode()


def test_a_process_that_builds_a_model_is_offline_whatever_its_environment_says() -> None:
    script = (
        "import huggingface_hub.constants as c; from clarep_ray import models; "
        "assert not c.is_offline_mode(); models.build_tiny('dit'); assert c.is_offline_mode()"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, cwd=Path(__file__).parents[2])
