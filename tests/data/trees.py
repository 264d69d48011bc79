"""Small inputs in the true layouts of the sources."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat


def picture_bytes(seed: int, kind: str = "PNG", size: int = 24) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def image_folder(root: Path, classes: tuple[str, ...] = ("0", "1", "2"), per_class: int = 3) -> Path:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            (root / name / f"img_{i}.png").write_bytes(picture_bytes(10 * number + i))
    return root


def webdataset(root: Path, labels: tuple[int, ...] = (0, 1, 2, 3), per_tar: int = 2) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(labels), per_tar):
        with tarfile.open(root / f"part-{start:04d}.tar", "w") as tar:
            for i, label in enumerate(labels[start : start + per_tar], start):
                for suffix, data in (("jpg", picture_bytes(i, "JPEG")), ("cls", str(label).encode()), ("json", b"{}")):
                    info = tarfile.TarInfo(f"sample{i:05d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return root


def parquet(root: Path, labels: tuple[int, ...] = (0, 1, 2, 3), nested: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    images = [picture_bytes(i) for i in range(len(labels))]
    column = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)] if nested else images
    table = pa.table({"image": column, "label": list(labels), "note": ["x"] * len(labels)})
    pq.write_table(table, root / "train-00000-of-00001.parquet", row_group_size=3)
    return root


def imagenet_devkit(root: Path, wordnet_ids: tuple[str, ...], labels: tuple[int, ...]) -> Path:
    """Write meta.mat and the ground truth as the devkit has them; devkit id i stands for `wordnet_ids[i - 1]`."""
    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    synsets = np.zeros((len(wordnet_ids) + 1, 1), [(name, object) for name in (*fields, "num_train_images")])
    for number, name in enumerate([*wordnet_ids, "n00001740"], 1):  # the last one is no leaf
        leaf = number <= len(wordnet_ids)
        children = np.zeros(0) if leaf else np.array([1.0, 2.0])
        row = (float(number), name, "words", "gloss", float(len(children)), children, 0.0 if leaf else 1.0, 1300.0)
        synsets[number - 1, 0] = row
    savemat(folder / "meta.mat", {"synsets": synsets}, do_compression=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{label}\n" for label in labels))
    return folder.parent


def cifar10(root: Path, per_batch: int = 4) -> Path:
    """Write the six batches as CIFAR-10 has them: byte keys, one row of planes per picture."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, name in enumerate(["test_batch", *(f"data_batch_{i}" for i in range(1, 6))]):
        rng = np.random.default_rng(number)
        stored = {
            b"batch_label": name.encode(),
            b"labels": [int(label) for label in rng.integers(0, 10, per_batch)],
            b"data": rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8),
            b"filenames": [f"{i}.png".encode() for i in range(per_batch)],
        }
        (folder / name).write_bytes(pickle.dumps(stored, protocol=2))
    return root
