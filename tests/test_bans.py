"""Calls that let data run code, or escape their limits, are named here with the one place that may make them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("clarep_ray", "jobs", "tune") for path in (ROOT / folder).rglob("*.py"))
LOADERS = ("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")
BANNED = {
    *(f"{module}.{name}" for module in LOADERS for name in ("load", "loads", "open", "Unpickler")),
    *("torch.load", "torch.jit.load", "torch.export.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput", "pty.spawn"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.safe_load", "numpy.load", "np.load"),
    *("tarfile.open", "tarfile.TarFile", "shutil.unpack_archive", "webdataset.WebDataset", "wds.WebDataset"),
    *(
        "Image.open",
        "PIL.Image.open",
        "torchvision.io.read_image",
        "cv2.imread",
        "json.load",
        "importlib.import_module",
    ),
    *("pyarrow.parquet.read_table", "pyarrow.parquet.ParquetFile", "pyarrow.parquet.ParquetDataset"),
    *("pq.read_table", "pq.ParquetFile", "pq.ParquetDataset", "pq.read_metadata", "pq.read_pandas"),
    *("tune.Tuner.restore", "Tuner.restore", "TorchTrainer.restore", "DataParallelTrainer.restore"),
    *("tune.ExperimentAnalysis", "ExperimentAnalysis", "tune.run", "TorchCheckpoint.from_directory"),
    *("ray.data.read_parquet", "ray.data.read_webdataset", "ray.data.read_numpy", "mlflow.pytorch.load_model"),
}
"""By dotted name, as it is written."""
BANNED_METHODS = {"extractall", "extract", "unpack_archive", "read_pickle", "to_pandas", "load_model"}
"""Of any object; functions of ours may be called so."""
BANNED_ARGUMENTS = {"trust_remote_code": True, "allow_pickle": True, "shell": True, "weights_only": False}
ALLOWED = {
    ("data/cifar10.py", "pickle.Unpickler"): "finds classes in a closed table of arrays and nothing else",
    ("models/persistent_pickle.py", "pickle.Unpickler"): "finds classes in a closed table of stand-ins",
    ("models/persistent_pickle.py", "torch.load"): "weights_only, of one storage, archives refused before",
    ("models/weight_files.py", "torch.load"): "weights_only, of archives that are looked at before",
    ("data/parquet_files.py", "pq.ParquetFile"): "the one place; schemas and sizes are checked in it",
    ("data/parquet_files.py", "pq.read_metadata"): "the same",
    ("data/pixels.py", "Image.open"): "with the three formats, and a limit of pixels",
    ("data/shards.py", "np.load"): "allow_pickle=False, of a member that a hash is known of",
    ("data/shards.py", "tarfile.open"): "writes",
    ("robustness/benchmarks/cifar.py", "np.load"): "allow_pickle=False, mapped, and its shape checked",
    ("tracking/delivery.py", "Image.open"): "PNG alone, of our own outbox",
    ("jobs/benchmark.py", "import_module"): "one of the names in the file",
    ("jobs/convert.py", "import_module"): "one of three names in the file",
}
"""(file, call): why it may."""
NEEDED = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True), "Image.open": ("formats", None)}
"""What an allowed call must say; None: anything."""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node
        elif isinstance(node, ast.ClassDef):
            for base in node.bases:
                yield dotted(base), ast.Call(func=base, args=[], keywords=[])


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def hits(text: str, file: str) -> list[str]:
    """Return what is banned in a file, and allowed calls that leave out what they must say."""
    found: list[str] = []
    for name, call in calls(ast.parse(text)):
        given = {word.arg: word.value for word in call.keywords}
        constant = {key: value.value for key, value in given.items() if isinstance(value, ast.Constant)}
        _, dot, method = name.rpartition(".")
        banned = name in BANNED or name == "import_module" or (dot == "." and method in BANNED_METHODS)
        if banned and (file, name) not in ALLOWED:
            found.append(f"{file}: {name}")
        if banned and name in NEEDED and call.args:
            word, value = NEEDED[name]
            if word not in given or (value is not None and constant.get(word) is not value):
                found.append(f"{file}: {name} without {word}")
        found += [f"{file}: {word}" for word, value in BANNED_ARGUMENTS.items() if constant.get(word) is value]
    return found


def short(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.relative_to("clarep_ray").as_posix() if relative.parts[0] == "clarep_ray" else relative.as_posix()


def test_nothing_banned_is_called() -> None:
    assert len(SOURCES) > 150
    assert [hit for path in SOURCES for hit in hits(path.read_text(), short(path))] == []


def test_every_exception_is_used() -> None:
    used = {(short(path), name) for path in SOURCES for name, _ in calls(ast.parse(path.read_text()))}
    assert set(ALLOWED) - used == set()


@pytest.mark.parametrize(
    "line",
    [
        *("pickle.load(f)", "cloudpickle.loads(b)", "joblib.load('x')", "torch.load('x')", "eval('1')", "exec('1')"),
        *("os.system('x')", "subprocess.run('x', shell=True)", "yaml.load(f)", "tar.extractall('x')", "tar.extract(m)"),
        *("AutoModel.from_pretrained('x', trust_remote_code=True)", "Image.open(f)", "np.load(f)", "np.load(f, **k)"),
        *("numpy.load(f, allow_pickle=True)", "pq.read_table('x')", "pd.read_pickle('x')", "tarfile.open('x')"),
        *(
            "class A(pickle.Unpickler): pass",
            "json.load(f)",
            "tune.Tuner.restore(p)",
            "ray.data.read_webdataset('x')",
            "__import__('x')",
        ),
    ],
)
def test_the_list_sees(line: str) -> None:
    assert hits(line, "data/other.py")


def test_what_an_exception_must_say_is_looked_at() -> None:
    assert hits("np.load(f)", "data/shards.py") == ["data/shards.py: np.load without allow_pickle"]
    assert hits("torch.load(f, weights_only=False)", "models/weight_files.py")
    assert hits("Image.open(f)", "data/pixels.py") == ["data/pixels.py: Image.open without formats"]
    assert hits("np.load(f, allow_pickle=False)", "data/shards.py") == []


ENDING = {"kill", "killpg", "abort", "_exit", "pthread_kill", "raise_signal", "dump_traceback_later", "setrlimit"}
MAY_END = {
    ("cluster/deadline.py", "faulthandler.dump_traceback_later"),
    ("stopping.py", "os._exit"),
    ("stopping.py", "os.kill"),
    ("stopping.py", "signal.pthread_kill"),
}
"""(file, call): a deadline, and what ends a job: a signal, a lost output or cluster."""
HOOKS = ("CLAREP_", "sitecustomize", "entry_points", "import tests", "from tests")
"""Ways in which a fault could be ordered from outside: a variable of our own, plug-ins, code of the tests."""


def test_nothing_shipped_can_be_told_to_fail() -> None:
    """Faults are injected by code of the tests alone."""
    ends = {
        (short(path), name)
        for path in SOURCES
        for name, _ in calls(ast.parse(path.read_text()))
        if name.rpartition(".")[2] in ENDING
    }
    assert ends == MAY_END
    assert [(short(path), hook) for path in SOURCES for hook in HOOKS if hook in path.read_text()] == []
