"""Files that would run code in a careless reader: each touches a file of its own. {name: (reader, path)}."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tests.data.trees import picture_bytes
from tests.hostile import parquet, tars


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def touch(canary: Path) -> Call:
    return Call(os.system, f"touch {canary}")


def text(canary: Path) -> str:
    return f"__import__('pathlib').Path({str(canary)!r}).touch()"


def pickles(canary: Path) -> dict[str, bytes]:
    """Return one payload in every way in which a pickle can call."""
    command = f"touch {canary}".encode()
    payload = {f"protocol {number}": pickle.dumps(touch(canary), number) for number in range(6)}
    line = b"X" + struct.pack("<I", len(command)) + command
    return payload | {
        "eval": pickle.dumps(Call(eval, text(canary))),
        "exec": pickle.dumps(Call(exec, text(canary))),
        "getattr": pickle.dumps(Call(getattr, Call(Path, canary), "touch")),
        "INST": b"(S'" + command + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + line + b"o.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + line + b"\x85\x81.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + line + b"\x85R.",
        "torch storage": pickle.dumps(Call(torch.storage._load_from_bytes, pickle.dumps(touch(canary)))),
        "numpy loader": pickle.dumps(Call(np.load, io.BytesIO(object_array(canary)), None, True)),
    }


def object_array(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([touch(canary)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def archives(canary: Path) -> dict[str, bytes]:
    """Return files as torch.save writes them, by format."""
    made: dict[str, bytes] = {}
    for name, modern in (("archive", True), ("legacy", False)):
        buffer = io.BytesIO()
        torch.save({"ema": touch(canary)}, buffer, _use_new_zipfile_serialization=modern)
        made[name] = buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps(touch(canary)))
        archive.writestr("a/data/0", bytes(50_000_000))
    return made | {"packed archive": buffer.getvalue()}


class Place:
    """A folder in which every case has its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.cases = root, dict[str, tuple[str, Path]]()

    def canary(self, name: str) -> Path:
        return self.root / "canaries" / name.replace(" ", "_").replace("/", "_")

    def put(self, name: str, reader: str, data: bytes, suffix: str = "") -> None:
        path = self.root / name.replace("/", "_") / f"evil{suffix}"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        self.cases[name] = reader, path


def write(root: Path, folders: dict[str, Path]) -> dict[str, tuple[str, Path]]:
    """Write all cases; `folders` are good models by family, of which copies are spoiled."""
    place = Place(root)
    (root / "canaries").mkdir(parents=True)
    for name, data in pickles(place.canary("pickles")).items():
        body = pickle.dumps({b"labels": [1], b"data": 0})[:-1]
        place.put(f"batch {name}", "cifar10", data)
        place.put(f"batch, inside, {name}", "cifar10", body + b"(S'a'\n" + data[:-1] + b"u.")
        place.put(f"network {name}", "convert edm", data)
    for name, data in archives(place.canary("archives")).items():
        place.put(f"dit {name}", "convert dit", data)
        place.put(f"uvit {name}", "convert uvit", data)
        place.put(f"storage {name}", "convert edm", pickle.dumps({"ema": Call(torch.storage._load_from_bytes, data)}))
    evil = pickle.dumps(touch(place.canary("parquet")))
    for reader in ("parquet", "index", "input manifest", "verdicts"):
        for where in ("image", "label"):
            place.put(f"{reader} {where}", reader, parquet.disguised(evil, where), ".parquet")
        place.put(f"{reader} beside", reader, parquet.pickled(evil, inside=False), ".parquet")
        place.put(f"{reader} inside", reader, parquet.pickled(evil, inside=True), ".parquet")
    place.put("index of its own columns", "index", _index(evil), ".parquet")
    place.put("array of objects", "npy", object_array(place.canary("npy")))
    _tars(place)
    for name in ("labels file", "calibration", "prompts"):
        place.put(name, name, pickle.dumps(touch(place.canary(name))))
    _folders(place, folders)
    return place.cases


def _index(evil: bytes) -> bytes:
    from clarep_ray.data.clarep_index import INDEX_SCHEMA

    extension = {b"ARROW:extension:name": b"ray.data.arrow_pickled_object", b"ARROW:extension:metadata": b""}
    fields = [pa.field("id", pa.binary(), metadata=extension) if item.name == "id" else item for item in INDEX_SCHEMA]
    columns = [pa.array([evil if item.name == "id" else None], item.type) for item in fields]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=pa.schema(fields)), buffer)
    return buffer.getvalue()


def _tars(place: Place) -> None:
    """Samples with members that WebDataset's own decoder runs; they are read over, and the pictures are read."""
    evil = pickle.dumps(touch(place.canary("tar")))
    for suffix in ("pkl", "pyd", "pickle", "pth", "PKL", "pkl.gz"):
        sample = tars.member("s.png", picture_bytes(0)) + tars.member("s.cls", b"1") + tars.member(f"s.{suffix}", evil)
        place.put(f"tar {suffix}", "webdataset", sample + tars.END, ".tar")
    shell = f"pipe:touch {place.canary('pipe')}"
    place.put(
        "tar class", "webdataset", tars.member("s.png", b"x") + tars.member("s.cls", shell.encode()) + tars.END, ".tar"
    )


def _folders(place: Place, folders: dict[str, Path]) -> None:
    def spoil(name: str, family: str, files: dict[str, bytes], gone: str = "") -> None:
        path = place.root / name.replace("/", "_") / "evil"
        shutil.copytree(folders[family], path)
        for file, data in files.items():
            (path / file).parent.mkdir(exist_ok=True)
            (path / file).write_bytes(data)
        if gone:
            (path / gone).unlink()
        place.cases[name] = family, path

    canary = place.canary("folders")
    evil, code = pickle.dumps(touch(canary)), text(canary).encode()
    own = {"auto_map": {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}, "trust_remote_code": True}

    def config(family: str, file: str, more: dict[str, Any]) -> bytes:
        return json.dumps(json.loads((folders[family] / file).read_bytes()) | more).encode()

    unet, text_encoder = "unet/config.json", "text_encoder/config.json"
    spoil("weights are a pickle", "student", {"model.safetensors": evil})
    spoil("timm weights are a pickle", "timm", {"model.safetensors": evil})
    spoil(
        "bin alone",
        "class_unet",
        {"unet/diffusion_pytorch_model.bin": evil},
        "unet/diffusion_pytorch_model.safetensors",
    )
    spoil("bin beside", "class_unet", {"unet/diffusion_pytorch_model.bin": evil, "unet/pytorch_model.bin": evil})
    spoil(
        "code beside",
        "class_unet",
        {"unet/evil.py": code, unet: config("class_unet", unet, own | {"_class_name": ["evil", "Evil"]})},
    )
    pipeline = json.dumps({"_class_name": ["pipeline", "Evil"], "unet": ["evil", "Evil"]}).encode()
    spoil(
        "pipeline of its own", "class_unet", {"model_index.json": pipeline, "pipeline.py": code, "unet/unet.py": code}
    )
    encoder = config("stable_diffusion", text_encoder, own | {"architectures": ["Evil"]})
    spoil("encoder of its own", "stable_diffusion", {text_encoder: encoder, "text_encoder/evil.py": code})
    tokens = config("stable_diffusion", "tokenizer/tokenizer_config.json", own | {"tokenizer_class": "Evil"})
    spoil(
        "tokenizer of its own",
        "stable_diffusion",
        {"tokenizer/tokenizer_config.json": tokens, "tokenizer/evil.py": code},
    )
    cfg = {"pretrained_cfg": {"custom_load": True, "file": "evil.pth", "url": "file:///evil.pth", "num_classes": 10}}
    spoil("timm loads its own", "timm", {"config.json": config("timm", "config.json", cfg), "evil.pth": evil})
