"""Manifests as `kubectl apply -k` would send them: valid by their published schemas, and by the rules of this house."""

import shlex
from importlib import import_module
from typing import Any

import pytest
import tyro

from clarep_ray import dotted
from tests.deploy import rules
from tests.deploy.manifests import BUCKET, JOBS, LOADER, MLFLOW, NAMESPACE, OVERLAYS, SIZE, rendered, schema_errors

FOLDERS = [NAMESPACE, *OVERLAYS, BUCKET, *JOBS, SIZE, LOADER, MLFLOW]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_document_is_valid_by_its_published_schema(folder: str) -> None:
    for document in rendered(folder):
        assert schema_errors(document) == [], document["kind"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_rule_finds_anything(folder: str) -> None:
    assert rules.problems(rendered(folder)) == {}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("spec/enableInTreeAutoscalling", True, "'enableInTreeAutoscalling' was unexpected"),
        ("spec/authOptions/mode", "tokens", "'tokens' is not one of ['disabled', 'token']"),
        ("spec/workerGroupSpecs/0/maxReplicas", "many", "'many' is not of type 'integer'"),
        ("spec/headGroupSpec/template/spec/automount", False, "'automount' was unexpected"),
        ("spec/headGroupSpec/template/spec/containers/0/resources/limits/cpu", [4], "is not valid"),
    ],
)
def test_the_schemas_refuse_misspelt_fields_and_wrong_values(path: str, value: Any, message: str) -> None:
    (cluster,) = rules.of_kind(rendered(OVERLAYS[0]), "RayCluster")
    *parents, last = path.split("/")
    target: Any = cluster
    for name in parents:
        target = target[int(name)] if isinstance(target, list) else target[name]
    target[last] = value
    assert any(message in error for error in schema_errors(cluster)), schema_errors(cluster)


def test_every_ray_pod_of_a_cluster_with_a_bucket_reads_its_keys_and_reaches_it() -> None:
    (cluster,) = rules.of_kind(rendered(BUCKET), "RayCluster")
    spec = cluster["spec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        (container,) = group["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "clarep-object-storage", "optional": True}}]
    selects = dict(rules.policies(rendered(BUCKET)))["runs-to-object-storage"]["podSelector"]
    assert selects == {"matchLabels": {"ray.io/cluster": "clarep"}}


@pytest.mark.parametrize("folder", JOBS)
def test_every_entrypoint_is_a_command_its_job_takes(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = rendered(folder)
    words = shlex.split(job["spec"]["entrypoint"].replace("${CLAREP_NUM_GPUS}", "8"))
    program, script, *arguments = words
    assert (program, script.rpartition("/")[0].rpartition("/")[0]) == ("python", "/opt/clarep-ray")
    found: list[Any] = []
    monkeypatch.setattr("sys.argv", [script, *arguments])
    plain = tyro.cli

    def stop(*given: Any, **options: Any) -> None:
        found.append(plain(*given, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(tyro, "cli", stop)
    module = ".".join(script.removeprefix("/opt/clarep-ray/").removesuffix(".py").split("/"))
    with pytest.raises(KeyboardInterrupt):
        import_module(module).main()
    assert not found[0].preset.endswith(("digits", "smoke"))
    config = dotted.flatten(found[0].config)
    used = ["output", "output.path", "data.path", "val.path", "clareps.path", "model.weights", "classifier.weights"]
    used += [f"benchmarks.{name}" for name in config.get("benchmarks.names", ())]
    paths = {name: config[name] for name in used if config.get(name)}
    assert all(path.startswith(("/inputs/", "/outputs/")) for path in paths.values()), paths
    if hasattr(found[0].config, "engine"):
        engine = found[0].config.engine
        assert (engine.num_actors, engine.gpus_per_actor, engine.autoscaling) == (8, 1.0, True)
    else:
        assert (found[0].config.num_workers, found[0].config.use_gpu) == (8, True)
