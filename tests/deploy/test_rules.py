"""Every rule of rules.py catches what it is there for: manifests with one thing wrong, and the rule that says so."""

from typing import Any

import pytest

from tests.deploy import rules
from tests.deploy.manifests import BUCKET, JOBS, LOADER, MLFLOW, NAMESPACE, SIZE, Document, rendered

REMOVED = object()
HEAD = "RayCluster/clarep/spec/headGroupSpec/template/spec"
GPU = "RayCluster/clarep/spec/workerGroupSpecs/1/template/spec"
SUBMITTER = "RayJob/clarep-extract/spec/submitterPodTemplate/spec"
SERVER = "Deployment/mlflow/spec/template/spec"
DATABASE = "StatefulSet/postgres/spec/template/spec"
ENTRYPOINT = "RayJob/clarep-extract/spec/entrypoint"
TOKEN = [{"name": "RAY_AUTH_TOKEN", "value": "0123456789abcdef"}]
PASSWORD = [{"name": "STORE", "value": "postgresql://mlflow:hunter2@postgres/mlflow"}]

MUTANTS: list[tuple[str, str, Any]] = [
    ("images_are_by_digest", f"{HEAD}/containers/0/image", "registry.example.com/clarep-ray:latest"),
    ("images_are_by_digest", f"{GPU}/containers/0/image", "clarep-ray"),
    ("images_are_by_digest", f"{DATABASE}/containers/0/image", "postgres:17"),
    ("images_are_by_digest", f"{SUBMITTER}/containers/0/image", REMOVED),
    ("no_secret_is_in_a_file", f"{HEAD}/containers/0/env", TOKEN),
    ("no_secret_is_in_a_file", f"{SERVER}/containers/0/env", PASSWORD),
    ("no_secret_is_in_a_file", "ConfigMap/clarep-size/kind", "Secret"),
    ("no_secret_is_in_a_file", "ConfigMap/clarep-size/data/admin-password", "hunter2"),
    ("no_container_is_privileged", "Pod/clarep-loader/spec/containers/0/securityContext/privileged", True),
    ("no_container_is_privileged", f"{GPU}/containers/0/securityContext/privileged", True),
    ("no_container_gains_privileges", f"{GPU}/containers/0/securityContext/allowPrivilegeEscalation", REMOVED),
    (
        "no_container_gains_privileges",
        "RayCluster/clarep/spec/autoscalerOptions/securityContext/allowPrivilegeEscalation",
        True,
    ),
    ("no_container_has_capabilities", f"{HEAD}/containers/0/securityContext/capabilities/add", ["SYS_ADMIN"]),
    ("no_container_has_capabilities", f"{SUBMITTER}/containers/0/securityContext/capabilities", REMOVED),
    ("root_file_systems_are_read_only", f"{SERVER}/containers/0/securityContext/readOnlyRootFilesystem", False),
    ("no_container_runs_as_root", f"{HEAD}/securityContext/runAsUser", 0),
    ("no_container_runs_as_root", f"{SERVER}/containers/0/securityContext/runAsNonRoot", False),
    ("no_container_runs_as_root", f"{SUBMITTER}/securityContext", REMOVED),
    ("system_calls_are_filtered", f"{GPU}/securityContext/seccompProfile/type", "Unconfined"),
    ("nothing_of_the_host_is_shared", f"{GPU}/hostNetwork", True),
    ("nothing_of_the_host_is_shared", f"{SERVER}/hostPID", True),
    ("nothing_of_the_host_is_shared", f"{HEAD}/volumes/0", {"name": "tmp", "hostPath": {"path": "/"}}),
    ("nothing_of_the_host_is_shared", f"{HEAD}/containers/0/ports/1/hostPort", 8265),
    ("every_container_has_requests_and_limits", f"{GPU}/containers/0/resources/limits/memory", REMOVED),
    ("every_container_has_requests_and_limits", "RayCluster/clarep/spec/autoscalerOptions/resources", REMOVED),
    ("every_container_has_requests_and_limits", f"{DATABASE}/containers/0/resources/requests/cpu", REMOVED),
    ("scratch_space_is_bounded", f"{GPU}/volumes/0/emptyDir", {}),
    ("only_the_head_may_ask_kubernetes", f"{GPU}/automountServiceAccountToken", REMOVED),
    ("only_the_head_may_ask_kubernetes", f"{SUBMITTER}/automountServiceAccountToken", True),
    (
        "namespaces_refuse_what_is_not_restricted",
        "Namespace/clarep/metadata/labels/pod-security.kubernetes.io~enforce",
        "baseline",
    ),
    ("namespaces_refuse_what_is_not_restricted", "Namespace/mlflow/metadata/labels", REMOVED),
    ("everything_has_a_namespace", "RayCluster/clarep/metadata/namespace", REMOVED),
    ("traffic_is_denied_by_default", "NetworkPolicy/default-deny/spec/policyTypes", ["Ingress"]),
    ("traffic_is_denied_by_default", "NetworkPolicy/default-deny/spec/ingress", [{}]),
    ("traffic_is_denied_by_default", "NetworkPolicy/default-deny/metadata/namespace", "default"),
    ("traffic_comes_from_named_pods_or_namespaces", "NetworkPolicy/jobs-to-head/spec/ingress/0/from", REMOVED),
    (
        "traffic_comes_from_named_pods_or_namespaces",
        "NetworkPolicy/clients-to-server/spec/ingress/0/from/0",
        {"ipBlock": {"cidr": "0.0.0.0/0"}},
    ),
    (
        "traffic_comes_from_named_pods_or_namespaces",
        "NetworkPolicy/prometheus-to-metrics/spec/ingress/0/from/0",
        {"namespaceSelector": {}},
    ),
    (
        "only_the_head_and_tls_to_public_addresses_leave_the_cluster",
        "NetworkPolicy/ray-nodes/spec/egress/0/to",
        REMOVED,
    ),
    (
        "only_the_head_and_tls_to_public_addresses_leave_the_cluster",
        "NetworkPolicy/autoscaler-to-api/spec/podSelector",
        {},
    ),
    (
        "only_the_head_and_tls_to_public_addresses_leave_the_cluster",
        "NetworkPolicy/autoscaler-to-api/spec/egress/0/ports",
        REMOVED,
    ),
    (
        "only_the_head_and_tls_to_public_addresses_leave_the_cluster",
        "NetworkPolicy/runs-to-object-storage/spec/egress/0/to/0/ipBlock/except/2",
        "169.254.0.0/17",
    ),
    (
        "only_the_head_and_tls_to_public_addresses_leave_the_cluster",
        "NetworkPolicy/runs-to-object-storage/spec/egress/0/ports/0/port",
        80,
    ),
    (
        "only_the_head_and_tls_to_public_addresses_leave_the_cluster",
        "NetworkPolicy/runs-to-object-storage/spec/egress/0/to/1",
        {"namespaceSelector": {}},
    ),
    ("no_service_is_open_to_the_world", "Service/mlflow/spec/type", "LoadBalancer"),
    ("no_service_is_open_to_the_world", "RayCluster/clarep/spec/headGroupSpec/serviceType", "NodePort"),
    ("no_service_is_open_to_the_world", "RayCluster/clarep/spec/headGroupSpec/enableIngress", True),
    ("the_ray_client_port_is_closed", f"{HEAD}/containers/0/ports/0/containerPort", 10001),
    ("ray_asks_for_the_token_of_a_secret", "RayCluster/clarep/spec/authOptions/mode", "disabled"),
    ("ray_asks_for_the_token_of_a_secret", "RayCluster/clarep/spec/authOptions", REMOVED),
    (
        "ray_asks_for_the_token_of_a_secret",
        f"{GPU}/containers/0/env",
        [{"name": "RAY_AUTH_MODE", "value": "disabled"}],
    ),
    ("ray_is_the_version_that_is_tested", "RayCluster/clarep/spec/rayVersion", "2.59.0"),
    ("the_cluster_scales", "RayCluster/clarep/spec/enableInTreeAutoscaling", False),
    ("the_cluster_scales", "RayCluster/clarep/spec/workerGroupSpecs/1/minReplicas", 99),
    ("jobs_ask_for_no_more_gpus_than_there_can_be", "ConfigMap/clarep-size/data/num_gpus", "999"),
    ("jobs_ask_for_no_more_gpus_than_there_can_be", "RayCluster/clarep/spec/workerGroupSpecs/1/maxReplicas", 0),
    ("the_head_works_on_nothing_and_is_not_drained", "PodDisruptionBudget/clarep-head/spec/minAvailable", "50%"),
    ("the_head_works_on_nothing_and_is_not_drained", "RayCluster/clarep/spec/headGroupSpec/rayStartParams", {}),
    ("inputs_are_read_only_and_outputs_are_shared", f"{GPU}/containers/0/volumeMounts/1/readOnly", REMOVED),
    (
        "inputs_are_read_only_and_outputs_are_shared",
        "PersistentVolumeClaim/clarep-outputs/spec/accessModes",
        ["ReadWriteOnce"],
    ),
    (
        "jobs_write_to_the_shared_folder_or_a_bucket",
        ENTRYPOINT,
        "python /opt/clarep-ray/jobs/extract.py --output.path out",
    ),
    ("jobs_write_to_the_shared_folder_or_a_bucket", ENTRYPOINT, "python /opt/clarep-ray/jobs/extract.py --preset edm"),
    ("jobs_go_to_the_cluster_as_it_is", "RayJob/clarep-extract/spec/clusterSelector", REMOVED),
    ("jobs_go_to_the_cluster_as_it_is", "RayJob/clarep-extract/spec/runtimeEnvYAML", "pip: [requests]"),
    ("jobs_go_to_the_cluster_as_it_is", f"{SUBMITTER}/restartPolicy", REMOVED),
]


def documents() -> list[Document]:
    return [item for folder in (NAMESPACE, BUCKET, *JOBS, SIZE, LOADER, MLFLOW) for item in rendered(folder)]


def change(found: list[Document], path: str, value: Any) -> None:
    """Set a field, or remove it; `~` stands for a slash in a name. KIND/NAME finds the first such document."""
    kind, name, *fields = path.split("/")
    target: Any = next(item for item in found if (item["kind"], item["metadata"]["name"]) == (kind, name))
    *parents, last = [int(field) if field.isdigit() else field.replace("~", "/") for field in fields]
    for field in parents:
        target = target[field]
    if value is REMOVED:
        del target[last]
    else:
        target[last] = value


def test_no_rule_finds_anything_in_all_of_deploy() -> None:
    assert rules.problems(documents()) == {}


@pytest.mark.parametrize(("rule", "path", "value"), MUTANTS)
def test_every_mutant_is_caught_by_its_rule(rule: str, path: str, value: Any) -> None:
    found = documents()
    change(found, path, value)
    caught = rules.problems(found)
    assert rule in caught
    assert len(caught) <= 2, caught  # a rule says what is wrong, not that something is


def test_every_rule_has_a_mutant() -> None:
    assert {rule for rule, _, _ in MUTANTS} == set(rules.RULES)
    assert len(rules.RULES) >= 20
