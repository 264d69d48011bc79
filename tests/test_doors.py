"""Every call that writes, renames or removes a file goes through the doors, or is named here with the reason.

The doors (`data/inside.py`, `data/durable.py`, `data/store.py`) follow no link below an output, write whole files or
none, and use temporary names that nobody can guess. JSON has one reader, `data/untrusted.py`.
"""

import ast

import pytest

from tests.test_bans import SOURCES, calls, short

DOORS = {"data/inside.py", "data/durable.py", "data/store.py"}
METHODS = {
    *("write_text", "write_bytes", "touch", "mkdir", "rename", "unlink", "rmdir", "chmod"),
    *("symlink_to", "hardlink_to", "link_to", "savefig", "imsave", "save", "save_pretrained", "save_model"),
    *(
        "to_csv",
        "to_json",
        "to_parquet",
        "to_pickle",
        "to_excel",
        "tofile",
        "write_csv",
        "write_parquet",
        "write_video",
    ),
}
"""Of any object. `.open` and `.replace` are looked at by their arguments."""
FUNCTIONS = {
    *(f"os.{name}" for name in ("open", "rename", "renames", "replace", "link", "symlink", "mkdir", "makedirs")),
    *(f"os.{name}" for name in ("remove", "unlink", "rmdir", "removedirs", "truncate", "mkfifo", "mknod", "chmod")),
    *(f"shutil.{name}" for name in ("copy", "copy2", "copyfile", "copyfileobj", "copytree", "move", "rmtree")),
    *("save_file", "torch.save", "np.save", "np.savez", "np.savez_compressed", "np.savetxt", "numpy.save"),
    *("json.dump", "pickle.dump", "pq.write_table", "pq.ParquetWriter", "feather.write_feather", "csv.writer"),
    *("tempfile.mkstemp", "tempfile.mkdtemp", "tempfile.NamedTemporaryFile", "tempfile.mktemp", "imageio.imwrite"),
    *("zipfile.ZipFile", "sqlite3.connect", "subprocess.Popen", "shelve.open", "gzip.open", "h5py.File"),
}
MAY_WRITE = {
    ("data/manifest.py", "work.open"): "the name of `new_inside`",
    ("data/manifest.py", "pq.ParquetWriter"): "into that file",
    ("data/verdicts.py", "work.open"): "the name of `new_inside`",
    ("data/verdicts.py", "pq.ParquetWriter"): "into that file",
    ("data/clarep_index.py", "pq.ParquetWriter"): "into memory",
    ("data/clarep_members.py", "pq.write_table"): "into memory",
    ("data/shards.py", "np.save"): "into memory",
    ("data/shards.py", "tarfile.open"): "into memory",
    ("data/pixels.py", "Image.fromarray.save"): "into memory",
    ("data/object_store.py", "self.desk.mkdir"): "this user's own folder",
    ("data/object_store.py", "path.open"): "the name of `new_inside`, or a new folder of this process",
    ("data/owner.py", "os.link"): "of a file just made under a random name; a link at the target is no free name",
    ("data/owner.py", "work.unlink"): "that file",
    ("data/owner.py", "self._path.unlink"): "a claim, in a folder that is no link; of a link the link itself",
    ("data/owner.py", "self.work.rmdir"): "only where it is empty, and no link",
    ("data/owner.py", "path.rmdir"): "the output where nothing began, and what was made above it, only where empty",
    ("data/owner.py", "probe.touch"): "a random name, refused where there is one",
    ("data/owner.py", "probe.unlink"): "the same",
    ("data/writable.py", "probe.unlink"): "a file just made under a random name",
    ("data/copy_output.py", "work.rename"): "the whole copy to the name the user gave, which is free",
    ("models/weight_files.py", "save_file"): "the name of `new_inside`",
    ("models/checkpoints.py", "save_file"): "into the fresh folder of `new_folder`",
    ("models/students.py", "save_file"): "into the fresh folder of `new_folder`",
    ("models/class_unet.py", "network.save_pretrained"): "into the fresh folder of `new_folder`",
    ("models/dit_checkpoint.py", "network.save_pretrained"): "into the fresh folder of `new_folder`",
    ("models/edm.py", "model.autoencoder.vae.save_pretrained"): "into the fresh folder of `new_folder`",
    ("models/uvit.py", "model.autoencoder.vae.save_pretrained"): "into the fresh folder of `new_folder`",
    **{("models/cdm_networks.py", f"{name}.save"): "ours" for name in ("TRAINABLE", "class_unet", "digits_dit")},
    ("models/weight_files.py", "zipfile.ZipFile"): "reads",
    ("models/batch_memory.py", "Path.write_text"): "the kernel's counter of this process",
    ("analysis/figures.py", "figure.savefig"): "into memory, in `save_figure`",
    ("analysis/model_card.py", "sheet.resize.save"): "into memory",
    ("analysis/gallery/thumbnails.py", "picture.save"): "into memory",
    ("data/text_tables.py", "csv.writer"): "into memory",
    ("tracking/run.py", "Image.fromarray.save"): "into memory",
    ("tracking/run.py", "self._outbox.save"): "a function of ours, by `write_inside`",
    ("tracking/outbox.py", "self.output.mkdir"): "the output itself, which the user names",
    ("tracking/outbox.py", "os.fdopen"): "of `open_for_append`",
    ("tracking/outbox.py", "os.truncate"): "of that handle",
    ("tracking/registry.py", "weights.mkdir"): "in a new temporary folder of this process",
    ("tracking/registry.py", "_.write_bytes"): "the same",
    ("tracking/registry.py", "mlflow.pyfunc.save_model"): "the same",
    ("tracking/delivery.py", "copy.write_bytes"): "the same",
    ("tracking/delivery.py", "picture.save"): "the same",
    ("tracking/delivery.py", "compress_image_size.save"): "the same",
    ("cluster/deadline.py", "tempfile.mkstemp"): "a random name in the folder for temporary files",
    ("cluster/deadline.py", "os.open"): "reads, and follows no link",
    ("cluster/deadline.py", "path.unlink"): "an empty trace of this user that no process holds",
    ("cluster/attempts.py", "trace.unlink"): "that file",
    ("cluster/deadline.py", "trace.open"): "that file",
    ("cluster/deadline.py", "trace.unlink"): "that file",
    ("cluster/private_folder.py", "tempfile.mkdtemp"): "a random name in the folder for temporary files",
    ("cluster/private_folder.py", "os.open"): "reads, and follows no link",
    ("cluster/private_folder.py", "shutil.rmtree"): "a folder that this user made and no process holds",
    ("cli.py", "os.open"): "/dev/null, in the place of a standard output that is gone",
    ("stopping.py", "os.open"): "/dev/null",
    ("cluster/runtime.py", "os.open"): "the token, new and this user's alone",
    ("cluster/runtime.py", "os.fdopen"): "the same",
    ("cluster/runtime.py", "diverged.unlink"): "a random name of this run",
    ("data/untrusted.py", "os.open"): "reads",
    ("jobs/train_classifiers.py", "digit_classifier.save"): "a function of ours, by `new_inside`",
}
"""(file, call): why it may write without a door, or what it does that is no writing."""
MAY_PARSE = {
    ("data/untrusted.py", "json.loads"): "the one parser",
    ("dotted.py", "json.loads"): "of what it has just written",
    ("analysis/recorded_rows.py", "json.loads"): "of what it has just written",
    ("data/units.py", "json.loads"): "of a blob that another stage of the same run has made in memory",
    ("tracking/tags.py", "json.loads"): "a variable that Ray sets",
    ("cluster/calibrate_pieces.py", "json.loads"): "an item that the driver of the same run has made in memory",
    ("cluster/evaluate_units.py", "json.loads"): "the same",
    ("cluster/sweep_tune.py", "json.loads"): "values that the driver of the same run gave to Optuna",
}


def hits(text: str, file: str) -> set[tuple[str, str]]:
    """Return the calls of a file that write."""
    found = set[tuple[str, str]]()
    for name, call in calls(ast.parse(text)):
        name = called(call.func)
        method = name.rpartition(".")[2]
        if name in FUNCTIONS or ("." in name and method in METHODS) or _opens_to_write(name, call):
            found.add((file, name))
        elif method == "replace" and "." in name and len(call.args) == 1 and not call.keywords:
            found.add((file, name))  # of a path; that of a text takes two, that of a dataclass names fields
    return found


def called(node: ast.AST) -> str:
    """Return the dotted name of what is called, calls on the way left out: `Path(x).open` is `Path.open`."""
    if isinstance(node, ast.Attribute):
        return f"{called(node.value)}.{node.attr}"
    if isinstance(node, ast.Call | ast.Subscript):
        return called(node.func if isinstance(node, ast.Call) else node.value)
    return node.id if isinstance(node, ast.Name) else "_"


def _opens_to_write(name: str, call: ast.Call) -> bool:
    """Say whether a call opens a file with another mode than one that reads, or with one that nobody can tell."""
    if name.rpartition(".")[2] not in ("open", "fdopen"):
        return False
    place = 1 if name in ("open", "io.open", "os.fdopen", "codecs.open") else 0
    given = [word.value for word in call.keywords if word.arg == "mode"] or call.args[place : place + 1]
    if not given:
        return False
    mode = given[0].value if isinstance(given[0], ast.Constant) else None
    if not isinstance(mode, str):
        return place == 1  # an `open` of ours takes rows and names
    return bool(set(mode) & set("wax+"))


def test_every_write_goes_through_a_door() -> None:
    found = {hit for path in SOURCES if short(path) not in DOORS for hit in hits(path.read_text(), short(path))}
    assert found - MAY_WRITE.keys() == set()
    assert MAY_WRITE.keys() - found == set(), "a reason for a call that is not made any more"


def test_json_of_files_has_one_parser() -> None:
    found = {
        (short(path), name)
        for path in SOURCES
        for name, _ in calls(ast.parse(path.read_text()))
        if name in ("json.loads", "json.load", "json.JSONDecoder", "simplejson.loads", "orjson.loads")
    }
    assert found == MAY_PARSE.keys()


@pytest.mark.parametrize(
    "line",
    [
        *("open(path, 'w')", "open(path, mode='ab')", "io.open(p, 'x')", "path.open('r+')", "open(path, mode)"),
        *("(root / name).write_text('x')", "Path(x).write_bytes(b'')", "f(x).path.touch()", "a[0].mkdir(parents=True)"),
        *("figure.savefig(root / 'x.png', dpi=130)", "plot(x).savefig(y)", "os.rename(a, b)", "work.rename(target)"),
        *("work.replace(target)", "os.replace(a, b)", "shutil.copy(a, b)", "shutil.move(a, b)", "shutil.rmtree(a)"),
        *("save_file(x, path)", "torch.save(x, path)", "np.save(path, x)", "table.to_csv(path)", "os.makedirs(x)"),
        *("Image.fromarray(x).save(path)", "network.save_pretrained(folder)", "os.open(path, flags)", "os.link(a, b)"),
        *("pq.write_table(t, path)", "json.dump(x, file)", "os.fdopen(handle, 'w')", "target.symlink_to(x)"),
        *("tempfile.NamedTemporaryFile()", "x.tofile(path)", "folder.rmdir()", "path.unlink()", "os.symlink(a, b)"),
    ],
)
def test_the_walk_sees(line: str) -> None:
    assert hits(line, "cluster/other.py")


@pytest.mark.parametrize(
    "line",
    [
        "path.open()",
        "open(path)",
        "path.open('rb')",
        "text.replace('a', 'b')",
        "dataclasses.replace(x, a=1)",
        "f.read()",
    ],
)
def test_the_walk_lets_readers_pass(line: str) -> None:
    assert not hits(line, "cluster/other.py")
