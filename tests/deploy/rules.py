"""What must hold for every manifest of deploy/: a rule takes all documents and yields what is wrong."""

import itertools
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from tests.deploy.manifests import Document, pod_templates
from tests.deploy.pins import pins

Rule = Callable[[list[Document]], Iterator[str]]
RULES: dict[str, Rule] = {}
DIGEST = re.compile(r"[\w.:/-]+@sha256:[0-9a-f]{64}")
SECRET_NAME = re.compile(r"TOKEN|PASSWORD|SECRET|CREDENTIAL|_KEY\b|_URI\b")
CREDENTIALS = re.compile(r"://[^/\s]*:[^/\s]*@")
CLUSTER_WIDE = ("Namespace",)
PRIVATE = {
    "0.0.0.0/0": {"10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"},
    "::/0": {"fc00::/7", "fe80::/10"},
}
"""Addresses of no public machine, by the block that holds them."""
ROLE_AGENT = {"ipBlock": {"cidr": "169.254.170.23/32"}}
"""Where EKS hands a pod its role's credentials."""


def rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


def problems(documents: list[Document]) -> dict[str, list[str]]:
    """Return what each rule finds wrong, by its name; rules that find nothing are left out."""
    found = {name: list(check(documents)) for name, check in RULES.items()}
    return {name: texts for name, texts in found.items() if texts}


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def pods(documents: list[Document]) -> Iterator[tuple[str, str, Document]]:
    """Yield a name for messages, the role and the spec of every pod."""
    for document in documents:
        for role, template in pod_templates(document):
            yield f"{document['metadata']['name']}/{role}", role, template["spec"]


def containers(documents: list[Document]) -> Iterator[tuple[str, Document, Document]]:
    """Yield a name for messages, the container and the pod's spec."""
    for name, _, spec in pods(documents):
        for container in spec.get("initContainers", []) + spec["containers"]:
            yield f"{name}/{container['name']}", container, spec


def policies(documents: list[Document]) -> list[tuple[str, Document]]:
    return [(item["metadata"]["name"], item["spec"]) for item in of_kind(documents, "NetworkPolicy")]


@rule
def images_are_by_digest(documents: list[Document]) -> Iterator[str]:
    for name, container, _ in containers(documents):
        if not DIGEST.fullmatch(container.get("image", "")):
            yield f"{name}: {container.get('image')}"


@rule
def no_secret_is_in_a_file(documents: list[Document]) -> Iterator[str]:
    yield from (f"Secret {item['metadata']['name']}" for item in of_kind(documents, "Secret"))
    for name, container, _ in containers(documents):
        for variable in container.get("env", []):
            value = str(variable.get("value", ""))
            literal = SECRET_NAME.search(variable["name"]) and value and not value.startswith(("http://", "https://"))
            if literal or CREDENTIALS.search(value):
                yield f"{name}: {variable['name']}"
    for item in of_kind(documents, "ConfigMap"):
        for key, value in item.get("data", {}).items():
            if SECRET_NAME.search(key.upper()) or CREDENTIALS.search(value):
                yield f"ConfigMap {item['metadata']['name']}: {key}"


def security_rule(name: str, holds: Callable[[Document, Document], bool]) -> None:
    """Register a rule about each container's own security context and its pod's."""

    def check(documents: list[Document]) -> Iterator[str]:
        for where, container, spec in containers(documents):
            if not holds(container.get("securityContext", {}), spec.get("securityContext", {})):
                yield where
        for item in of_kind(documents, "RayCluster"):  # the operator puts the autoscaler into the head's pod
            head = item["spec"]["headGroupSpec"]["template"]["spec"].get("securityContext", {})
            if not holds(item["spec"].get("autoscalerOptions", {}).get("securityContext", {}), head):
                yield f"{item['metadata']['name']}/autoscaler"

    RULES[name] = check


security_rule("no_container_is_privileged", lambda own, _: not own.get("privileged", False))
security_rule("no_container_gains_privileges", lambda own, _: own.get("allowPrivilegeEscalation") is False)
security_rule("no_container_has_capabilities", lambda own, _: own.get("capabilities", {}) == {"drop": ["ALL"]})
security_rule("root_file_systems_are_read_only", lambda own, _: own.get("readOnlyRootFilesystem") is True)
security_rule(
    "no_container_runs_as_root",
    lambda own, pod: {**pod, **own}.get("runAsNonRoot") is True and {**pod, **own}.get("runAsUser", 0) > 0,
)
security_rule(
    "system_calls_are_filtered", lambda own, pod: {**pod, **own}.get("seccompProfile") == {"type": "RuntimeDefault"}
)


@rule
def nothing_of_the_host_is_shared(documents: list[Document]) -> Iterator[str]:
    for name, _, spec in pods(documents):
        yield from (f"{name}: {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))
        yield from (f"{name}: hostPath" for volume in spec.get("volumes", []) if "hostPath" in volume)
    for name, container, _ in containers(documents):
        yield from (f"{name}: hostPort" for port in container.get("ports", []) if "hostPort" in port)


@rule
def every_container_has_requests_and_limits(documents: list[Document]) -> Iterator[str]:
    found = [(name, container.get("resources", {})) for name, container, _ in containers(documents)]
    for item in of_kind(documents, "RayCluster"):
        found.append(("autoscaler", item["spec"].get("autoscalerOptions", {}).get("resources", {})))
    for name, resources in found:
        for part in ("requests", "limits"):
            yield from (f"{name}: {part}.{key}" for key in ("cpu", "memory") if key not in resources.get(part, {}))


@rule
def scratch_space_is_bounded(documents: list[Document]) -> Iterator[str]:
    for name, _, spec in pods(documents):
        for volume in spec.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{name}: {volume['name']}"


@rule
def only_the_head_may_ask_kubernetes(documents: list[Document]) -> Iterator[str]:
    for name, role, spec in pods(documents):
        if role != "head" and spec.get("automountServiceAccountToken") is not False:
            yield name


@rule
def namespaces_refuse_what_is_not_restricted(documents: list[Document]) -> Iterator[str]:
    for item in of_kind(documents, "Namespace"):
        if item["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield item["metadata"]["name"]


@rule
def everything_has_a_namespace(documents: list[Document]) -> Iterator[str]:
    for item in documents:
        if item["kind"] not in CLUSTER_WIDE and "namespace" not in item["metadata"]:
            yield f"{item['kind']} {item['metadata']['name']}"


@rule
def traffic_is_denied_by_default(documents: list[Document]) -> Iterator[str]:
    denied = {
        item["metadata"].get("namespace")
        for item in of_kind(documents, "NetworkPolicy")
        if item["spec"]["podSelector"] == {}
        and sorted(item["spec"].get("policyTypes", [])) == ["Egress", "Ingress"]
        and not {"ingress", "egress"} & set(item["spec"])
    }
    for item in of_kind(documents, "Namespace"):
        if item["metadata"]["name"] not in denied:
            yield item["metadata"]["name"]


@rule
def traffic_comes_from_named_pods_or_namespaces(documents: list[Document]) -> Iterator[str]:
    for name, spec in policies(documents):
        for entry in spec.get("ingress", []):
            peers = entry.get("from", [])
            if not peers or any("ipBlock" in peer or not any(peer.values()) for peer in peers):
                yield name


@rule
def only_the_head_and_tls_to_public_addresses_leave_the_cluster(documents: list[Document]) -> Iterator[str]:
    for name, spec in policies(documents):
        head = spec["podSelector"].get("matchLabels", {}).get("ray.io/node-type") == "head"
        for entry in spec.get("egress", []):
            anywhere = not entry.get("to") or any("ipBlock" in peer or not any(peer.values()) for peer in entry["to"])
            ports = {port["port"] for port in entry.get("ports", [])}
            allowed = head and ports and ports <= {443, 6443}
            public = ports == {443} and all(public_only(peer.get("ipBlock", {})) for peer in entry.get("to", [{}]))
            agent = ports == {80} and entry["to"] == [ROLE_AGENT]
            if anywhere and not (allowed or public or agent):
                yield name


def public_only(block: Document) -> bool:
    """Say whether a block of addresses leaves out the private, link-local and carrier ranges of its kind."""
    without = set(block.get("except", []))
    return any(block.get("cidr") == cidr and private <= without for cidr, private in PRIVATE.items())


@rule
def no_service_is_open_to_the_world(documents: list[Document]) -> Iterator[str]:
    for item in of_kind(documents, "Service"):
        if item["spec"].get("type", "ClusterIP") != "ClusterIP" or item["spec"].get("externalIPs"):
            yield item["metadata"]["name"]
    yield from (f"Ingress {item['metadata']['name']}" for item in of_kind(documents, "Ingress"))
    for item in of_kind(documents, "RayCluster"):
        head = item["spec"]["headGroupSpec"]
        if head.get("enableIngress") or head.get("serviceType", "ClusterIP") != "ClusterIP" or "headService" in head:
            yield item["metadata"]["name"]


@rule
def the_ray_client_port_is_closed(documents: list[Document]) -> Iterator[str]:
    for name, container, _ in containers(documents):
        yield from (name for port in container.get("ports", []) if port["containerPort"] == 10001)


@rule
def ray_asks_for_the_token_of_a_secret(documents: list[Document]) -> Iterator[str]:
    for item in of_kind(documents, "RayCluster"):
        options = item["spec"].get("authOptions", {})
        if options.get("mode") != "token" or not options.get("secretName"):
            yield item["metadata"]["name"]
    for name, container, _ in containers(documents):
        yield from (name for variable in container.get("env", []) if variable["name"] == "RAY_AUTH_MODE")


@rule
def ray_is_the_version_that_is_tested(documents: list[Document]) -> Iterator[str]:
    (tested,) = pins()["ray"]
    for item in of_kind(documents, "RayCluster"):
        if item["spec"].get("rayVersion") != tested:
            yield f"{item['spec'].get('rayVersion')}, not {tested}"


@rule
def the_cluster_scales(documents: list[Document]) -> Iterator[str]:
    for item in of_kind(documents, "RayCluster"):
        spec = item["spec"]
        if not spec.get("enableInTreeAutoscaling") or spec.get("autoscalerOptions", {}).get("version") != "v2":
            yield "no autoscaler"
        for group in spec["workerGroupSpecs"]:
            if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
                yield group["groupName"]


def gpus_of(template: Document) -> int:
    limits = template["spec"]["containers"][0]["resources"]["limits"]
    return int(limits.get("nvidia.com/gpu", 0))


@rule
def jobs_ask_for_no_more_gpus_than_there_can_be(documents: list[Document]) -> Iterator[str]:
    sizes = [item for item in of_kind(documents, "ConfigMap") if item["metadata"]["name"] == "clarep-size"]
    for cluster in of_kind(documents, "RayCluster"):
        groups = cluster["spec"]["workerGroupSpecs"]
        most = sum(group["maxReplicas"] * gpus_of(group["template"]) for group in groups)
        yield from (f"{item['data']} of {most}" for item in sizes if item["data"]["num_gpus"] != str(most))


@rule
def the_head_works_on_nothing_and_is_not_drained(documents: list[Document]) -> Iterator[str]:
    for item in of_kind(documents, "RayCluster"):
        name = item["metadata"]["name"]
        if item["spec"]["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
            yield f"{name}: num-cpus"
        wanted = {"ray.io/cluster": name, "ray.io/node-type": "head"}
        budgets = [budget["spec"] for budget in of_kind(documents, "PodDisruptionBudget")]
        kept = [budget for budget in budgets if budget["selector"].get("matchLabels") == wanted]
        if [budget.get("minAvailable") for budget in kept] != [1]:
            yield f"{name}: PodDisruptionBudget"


@rule
def inputs_are_read_only_and_outputs_are_shared(documents: list[Document]) -> Iterator[str]:
    for name, container, _ in containers(documents):
        for mount in container.get("volumeMounts", []):
            if mount["name"] == "inputs" and mount.get("readOnly") is not True:
                yield name
    for item in of_kind(documents, "PersistentVolumeClaim"):
        if item["metadata"]["name"].startswith("clarep-") and item["spec"]["accessModes"] != ["ReadWriteMany"]:
            yield item["metadata"]["name"]


def paths_of(entrypoint: str) -> list[tuple[str, str]]:
    """Return (option, value) of a command line's options that are paths."""
    words = shlex.split(entrypoint)
    pairs: list[tuple[str, str]] = list(itertools.pairwise(words))
    return [(option, value) for option, value in pairs if re.search(r"path$|output$|weights$", option)]


@rule
def jobs_write_to_the_shared_folder_or_a_bucket(documents: list[Document]) -> Iterator[str]:
    for item in of_kind(documents, "RayJob"):
        entrypoint = item["spec"]["entrypoint"]
        shared = ("/outputs/", "s3://") if "/extract.py" in entrypoint else ("/outputs/",)
        written = [value for option, value in paths_of(entrypoint) if "output" in option]
        if entrypoint.endswith("/benchmark.py size"):
            continue  # it prints
        if len(written) != 1 or not written[0].startswith(shared):
            yield f"{item['metadata']['name']}: {written}"
        for option, value in paths_of(entrypoint):
            if "output" not in option and not value.startswith(("/inputs/", "/outputs/")):
                yield f"{item['metadata']['name']}: {option} {value}"


@rule
def jobs_go_to_the_cluster_as_it_is(documents: list[Document]) -> Iterator[str]:
    """No second cluster, no packages installed at run time, nothing that the operator forbids with a selector."""
    for item in of_kind(documents, "RayJob"):
        spec: Any = item["spec"]
        forbidden = {"rayClusterSpec", "runtimeEnvYAML", "backoffLimit", "suspend", "shutdownAfterJobFinishes"}
        if spec.get("clusterSelector") != {"ray.io/cluster": "clarep"} or forbidden & set(spec):
            yield item["metadata"]["name"]
        if "restartPolicy" not in spec["submitterPodTemplate"]["spec"]:
            yield f"{item['metadata']['name']}: restartPolicy"
