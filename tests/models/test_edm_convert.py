"""Released .pkl files of EDM and EDM2: the true layout is read, and nothing that the file names is run or imported."""

import io
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clarep_ray import models
from clarep_ray.config import ModelConfig
from clarep_ray.models.edm import Edm
from clarep_ray.models.edm2 import tiny_sizes
from clarep_ray.models.edm2_network import Edm2Network
from clarep_ray.models.edm_convert import convert
from clarep_ray.models.edm_networks import EdmArchitecture, EdmNetwork

KWARGS: dict[str, Any] = {
    "img_resolution": 16,
    "img_channels": 3,
    "label_dim": 3,
    "use_fp16": False,
    "model_type": "SongUNet",
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "decoder_type": "standard",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
    "model_channels": 16,
    "channel_mult": [1, 2],
    "attn_resolutions": [8],
    "dropout": 0.13,
}
STATE = ("training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def foreign(module_name: str, name: str, kind: Any) -> Any:
    """Return `kind` under the name by which a pickle of the original software would find it."""
    kind.__module__, kind.__qualname__, kind.__name__ = module_name, name, name
    setattr(sys.modules[module_name], name, kind)
    return kind


@pytest.fixture
def layout(monkeypatch: pytest.MonkeyPatch):
    """Return a function that pickles {'ema': network} as the original software does, while its modules exist."""
    for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    rebuild = foreign("torch_utils.persistence", "_reconstruct_persistent_obj", lambda meta: meta)
    easy_dict = foreign("dnnlib.util", "EasyDict", type("EasyDict", (dict,), {}))

    class Pickler(pickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            persistent = isinstance(obj, nn.Module) and type(obj) is not nn.ModuleDict
            if not persistent:
                return NotImplemented
            state = {name: vars(obj)[name] for name in STATE}
            state |= {"_init_args": (), "_init_kwargs": getattr(obj, "kwargs", {}), "skip_scale": np.sqrt(0.5)}
            source = "raise RuntimeError('the source in the file was run')"
            meta = {"type": "class", "version": 6, "module_src": source, "class_name": type(obj).__name__}
            return rebuild, (meta | {"state": state},)

    def write(path: Path, network: nn.Module) -> Path:
        with path.open("wb") as file:
            encoder = np.float32([1.5, 2.5])
            Pickler(file).dump(easy_dict(ema=network, encoder=encoder, dataset_kwargs={"path": "x"}))
        return path

    return write


def wrapped(class_name: str, inside: str, network: nn.Module, kwargs: dict[str, Any]) -> nn.Module:
    root = type(class_name, (nn.Module,), {})()
    setattr(root, inside, network)
    root.kwargs = kwargs
    return root


def small(**changes: Any) -> EdmArchitecture:
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in (KWARGS | changes).items()}
    return EdmArchitecture(**{name: v for name, v in values.items() if name not in ("use_fp16", "dropout")})


def test_an_edm_network_is_read_from_its_tensors_and_recorded_sizes(layout, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = EdmNetwork(small(num_blocks=4))  # as DDPM++ and NCSN++ have it where nothing is recorded
    network.dec["16x16_block0"].norm0.weight.data = torch.randn(2, 48).T[:, 1]  # neither contiguous nor at offset 0
    source = layout(tmp_path / "edm.pkl", wrapped("EDMPrecond", "model", network, KWARGS))
    assert convert(source, tmp_path / "out") == network.sizes
    model, original = models.build(ModelConfig(name="edm", weights=str(tmp_path / "out"))), Edm(network)
    x_t, cond = torch.randn(2, 3, 16, 16), original.cond(torch.tensor([0, 2]))
    torch.testing.assert_close(model.eps(x_t, 0.7, cond), original.eps(x_t, 0.7, cond), rtol=0, atol=0)


def test_an_edm2_network_is_read_without_what_only_training_needs(layout, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Edm2Network(tiny_sizes(label_dim=0, model_channels=16)).half()
    root = wrapped("Precond", "unet", network, {})
    root.logvar_linear = nn.Linear(4, 1)
    names = ("img_resolution", "img_channels", "label_dim", "model_channels", "channel_mult", "num_blocks")
    root.kwargs = {name: getattr(network.sizes, name) for name in (*names, "attn_resolutions", "channels_per_head")}
    root.kwargs |= {"channel_mult": [1, 2], "attn_resolutions": [4], "use_fp16": True, "sigma_data": 0.5}
    assert convert(layout(tmp_path / "edm2.pkl", root), tmp_path / "out") == network.sizes
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored.keys() == network.state_dict().keys()
    assert all(torch.equal(stored[name], value) for name, value in network.state_dict().items())


def test_the_job_converts(layout, tmp_path: Path) -> None:
    network = EdmNetwork(small(num_blocks=1))
    source = layout(tmp_path / "edm.pkl", wrapped("EDMPrecond", "model", network, KWARGS | {"num_blocks": 1}))
    command = [sys.executable, "jobs/convert.py", "edm", str(source), str(tmp_path / "out")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "model_type='SongUNet'" in found.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}
    failed = subprocess.run([*command[:3], str(tmp_path / "no.pkl"), "x"], capture_output=True, text=True, check=False)
    assert (failed.returncode, "no.pkl' cannot be read" in failed.stderr) == (2, True)


class _Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def legacy_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def hostile(canary: Path) -> dict[str, tuple[Any, str]]:
    touch = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    load = torch.storage._load_from_bytes
    return {
        "system": (_Call(os.system, f"touch {canary}"), r"it asks for posix\.system"),
        "eval": (_Call(eval, touch), r"it asks for builtins\.eval"),
        "exec": (_Call(exec, touch), r"it asks for builtins\.exec"),
        "getattr": (_Call(getattr, Path, "touch"), r"it asks for builtins\.getattr"),
        "method": (_Call(Path.touch, canary), r"it asks for "),
        "inner torch.load": (_Call(load, legacy_bytes(_Call(Path.touch, canary))), "is no network pickle"),
        "inner torch.load of a call": (_Call(load, legacy_bytes(_Call(eval, touch))), "is no network pickle"),
        "inner pickle": (_Call(load, pickle.dumps(_Call(eval, touch))), "is no network pickle"),
        "inner object": (_Call(load, legacy_bytes({"a": 1})), "it has a dict in place of a storage"),
    }


@pytest.mark.parametrize("name", list(hostile(Path("x"))))
def test_a_file_that_would_run_code_is_refused_and_named(name: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.pkl"
    payload, message = hostile(canary)[name]
    path.write_bytes(pickle.dumps({"ema": payload}))
    with pytest.raises(ValueError, match=message):
        convert(path, tmp_path / "out")
    path.write_bytes(pickle.dumps({"loss_fn": payload, "ema": None}, protocol=0))
    with pytest.raises(ValueError, match=r"evil\.pkl' is no network pickle"):
        convert(path, tmp_path / "out")
    assert not canary.exists()
    assert not (tmp_path / "out").exists()


def test_the_canary_would_sing(tmp_path: Path) -> None:
    """The payloads do run in an unpickler without a table."""
    payload, _ = hostile(tmp_path / "canary")["eval"]
    pickle.loads(pickle.dumps(payload))
    assert (tmp_path / "canary").exists()


def test_tensors_cannot_reach_beyond_their_storage(tmp_path: Path) -> None:
    storage = _Call(torch.storage._load_from_bytes, legacy_bytes(torch.zeros(4).storage()))
    for size, stride in (((5,), (1,)), ((1000, 1000), (0, 0))):
        tensor = _Call(torch._utils._rebuild_tensor_v2, storage, 0, size, stride, False, {})
        (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"ema": tensor}))
        with pytest.raises(ValueError, match=r"evil\.pkl' is no network pickle: .*(out of bounds|larger than)"):
            convert(tmp_path / "evil.pkl", tmp_path / "out")


def test_other_files_are_refused_with_what_is_wrong(layout, tmp_path: Path) -> None:
    network = EdmNetwork(small(num_blocks=1))
    sizes = KWARGS | {"num_blocks": 1}
    for root, message in (
        (wrapped("VPPrecond", "model", network, sizes), "holds a 'VPPrecond'; valid: EDMPrecond, Precond"),
        (wrapped("EDMPrecond", "model", network, sizes | {"num_blocks": 2}), "parameter '.*' is missing, unexpected"),
        (wrapped("EDMPrecond", "model", network, sizes | {"gain": 2}), "it records 'gain'; valid: attn_resolutions"),
        (wrapped("EDMPrecond", "inner", network, sizes), "holds no EdmNetwork: parameter '.*' is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(layout(tmp_path / "other.pkl", root), tmp_path / "out")
    (tmp_path / "other.pkl").write_bytes(b"\x80\x04nothing of the kind")
    with pytest.raises(ValueError, match=r"other\.pkl' is no network pickle"):
        convert(tmp_path / "other.pkl", tmp_path / "out")
    assert not (tmp_path / "out").exists()
