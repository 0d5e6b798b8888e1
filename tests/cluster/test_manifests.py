"""The Kubernetes files, checked offline: core kinds against Kubernetes's own schemas, the RayJob against KubeRay's CRD.

Nothing here was applied to an API server: what only a live cluster can tell is listed in cluster/README.md.
"""

from __future__ import annotations

import copy
import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from wanflow.job import load_job

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
CRDS = ROOT.parent / "shared" / "crds"
CORE_KINDS = {"ServiceAccount", "Role", "RoleBinding", "CronJob", "ConfigMap"}

needs_crds = pytest.mark.skipif(
    not CRDS.is_dir(), reason=f"KubeRay's CRD schemas are not beside this checkout ({CRDS.name}/)"
)


def documents(name: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all((CLUSTER / name).read_text()) if document]


def rayjob() -> dict[str, Any]:
    (document,) = documents("rayjob.yaml")
    return document


def cronjob() -> dict[str, Any]:
    (document,) = documents("cronjob.yaml")
    return document


def closed(schema: Any) -> Any:
    """An OpenAPI v3 schema of a CRD as a JSON Schema that refuses unknown fields, as the API server prunes them."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        kept = {"pattern": schema["pattern"]} if "pattern" in schema else {}
        return {"type": ["integer", "string"], **kept}
    result = {
        key: closed(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-") and key != "default"
    }
    if "properties" in schema:
        # a field that is called "default" or "properties" is a field, not a keyword
        result["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            result["additionalProperties"] = False
    if result.pop("nullable", False) and isinstance(result.get("type"), str):
        result["type"] = [result["type"], "null"]
    return result


@pytest.fixture(scope="module")
def rayjob_schema() -> dict[str, Any]:
    crd = yaml.load(
        (CRDS / "ray.io_rayjobs.yaml").read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    (version,) = [version for version in crd["spec"]["versions"] if version["name"] == "v1"]
    schema: dict[str, Any] = closed(version["schema"]["openAPIV3Schema"])
    # the CRD leaves apiVersion, kind and metadata to the API server
    schema["properties"]["metadata"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string"},
            "generateName": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return schema


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, pod spec) of every pod that our files make."""
    cluster = rayjob()["spec"]["rayClusterSpec"]
    yield "head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]
    yield "launcher", cronjob()["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", ["cronjob.yaml", "rbac.yaml"])
def test_core_kinds_satisfy_the_schemas_of_kubernetes(name: str) -> None:
    """A misspelt field is dropped by the API server without a word; the strict schema sees it here."""
    for document in documents(name):
        assert document["kind"] in CORE_KINDS
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda spec: spec.update(concurencyPolicy="Forbid"),
        lambda spec: spec.update(schedule=1),
        lambda spec: spec["jobTemplate"]["spec"]["template"]["spec"]["containers"][0].update(img="x"),
        lambda spec: spec["jobTemplate"]["spec"].update(backoffLimit="two"),
    ],
)
def test_planted_errors_in_the_cronjob_are_found(spoil: Callable[[dict[str, Any]], None]) -> None:
    """A check that never fails proves nothing."""
    document = copy.deepcopy(cronjob())
    spoil(document["spec"])
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@needs_crds
def test_rayjob_satisfies_the_crd_of_kuberay(rayjob_schema: dict[str, Any]) -> None:
    """A field that KubeRay does not know would be pruned: a deadline that never comes, a cluster that never ends."""
    jsonschema.Draft202012Validator.check_schema(rayjob_schema)
    errors = [
        f"{error.json_path}: {error.message}"
        for error in jsonschema.Draft202012Validator(rayjob_schema).iter_errors(rayjob())
    ]
    assert errors == []


@needs_crds
@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda spec: spec.update(shutdownAfterJobFinish=True), "shutdownAfterJobFinish"),
        (lambda spec: spec.update(backoffLimit="none"), "backoffLimit"),
        (lambda spec: spec["rayClusterSpec"].pop("headGroupSpec"), "headGroupSpec"),
        (lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].pop("groupName"), "groupName"),
        (lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].update(maxReplica=3), "maxReplica"),
        (
            lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-gpus": 0}),
            "num-gpus",
        ),
        (lambda spec: containers(spec)[0]["resources"]["limits"].update(memory=[1]), "memory"),
        (lambda spec: containers(spec)[0]["resources"]["limits"].update(memory="64 GB"), "memory"),
        (lambda spec: containers(spec)[0].update(volumeMount=[]), "volumeMount"),
    ],
)
def test_planted_errors_in_the_rayjob_are_found(
    rayjob_schema: dict[str, Any], spoil: Callable[[dict[str, Any]], None], where: str
) -> None:
    """Typos, wrong types, missing groups, quantities that are none: each must be seen before a night is lost to it."""
    document = copy.deepcopy(rayjob())
    spoil(document["spec"])
    errors = [
        f"{error.json_path} {error.message}"
        for error in jsonschema.Draft202012Validator(rayjob_schema).iter_errors(document)
    ]
    assert errors
    assert any(where in error for error in errors), errors


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spec["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"][
        "containers"
    ]
    return found


def test_rayjob_keeps_the_rules_that_kuberays_operator_checks_itself() -> None:
    """Not in the CRD, but in the operator's code: a RayJob that breaks them fails its validation at one at night."""
    document = rayjob()
    spec = document["spec"]
    assert spec["shutdownAfterJobFinishes"] or not spec.get("ttlSecondsAfterFinished")
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["preRunningDeadlineSeconds"] > 0
    # its name, with the five characters that the server adds, must leave room for those of its cluster and services
    assert len(document["metadata"]["generateName"]) + 5 <= 47
    assert re.fullmatch(r"[a-z]([-a-z0-9]*)", document["metadata"]["generateName"])
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_a_quiet_night_needs_no_gpu() -> None:
    """The run asks for replicas when there is something to render; a fixed group would pay for nights without any."""
    spec = rayjob()["spec"]
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        if "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]:
            assert group["replicas"] == group["minReplicas"] == 0
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]


def test_every_mount_has_its_volume_and_every_volume_a_mount() -> None:
    for where, pod in pods():
        volumes = [volume["name"] for volume in pod.get("volumes", [])]
        mounts = [
            mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])
        ]
        assert sorted(volumes) == sorted(mounts), where


def test_config_maps_and_accounts_that_are_named_exist() -> None:
    """A ConfigMap under another name leaves pods waiting in ContainerCreating until a deadline ends them."""
    kustomization = documents("kustomization.yaml")[0]
    made = {entry["name"]: set(entry["files"]) for entry in kustomization["configMapGenerator"]}
    wanted = {
        volume["configMap"]["name"] for _, pod in pods() for volume in pod["volumes"] if "configMap" in volume
    }
    assert wanted == set(made)
    assert kustomization["generatorOptions"]["disableNameSuffixHash"] is True

    accounts = {
        document["metadata"]["name"]
        for document in documents("rbac.yaml")
        if document["kind"] == "ServiceAccount"
    }
    assert {pod["serviceAccountName"] for _, pod in pods() if "serviceAccountName" in pod} == accounts
    (binding,) = [document for document in documents("rbac.yaml") if document["kind"] == "RoleBinding"]
    (role,) = [document for document in documents("rbac.yaml") if document["kind"] == "Role"]
    assert {subject["name"] for subject in binding["subjects"]} == accounts
    assert binding["roleRef"]["name"] == role["metadata"]["name"]

    # the paths in the commands are those of the mounts
    (launcher,) = [pod["containers"][0] for where, pod in pods() if where == "launcher"]
    assert launcher["args"][0] == f"{launcher['volumeMounts'][0]['mountPath']}/rayjob.yaml"
    assert "rayjob.yaml" in made["wanflow-nightly-launch"]
    head = dict(pods())["head"]["containers"][0]
    paths = [mount["mountPath"] for mount in head["volumeMounts"] if mount["name"] == "job"]
    assert paths == ["/job"]
    assert rayjob()["spec"]["entrypoint"] == "wanflow run /job/job.yaml --address auto"
    assert "job.yaml" in made["wanflow-nightly-job"]


def test_the_nightly_job_is_a_job_that_a_cluster_can_run() -> None:
    """It lies in a ConfigMap: a path of somebody's laptop in it would mean nothing there."""
    job = load_job(CLUSTER / "job.yaml")
    urls = [job.manifest.url, job.publish.url, str(job.workspace)]
    assert [url for url in urls if not url.startswith("s3://")] == []
    (group,) = rayjob()["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert job.resources.replicas.max == group["maxReplicas"]
    assert job.resources.gpus_per_replica == 1


def test_the_launcher_finds_the_rayjobs_that_it_creates() -> None:
    """Its selector against the labels of the file: a mismatch would start a second RayJob beside a running one."""
    (selector,) = [
        argument.removeprefix("--selector=")
        for argument in cronjob()["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"]
        if argument.startswith("--selector=")
    ]
    labels = rayjob()["metadata"]["labels"]
    assert dict(pair.split("=") for pair in selector.split(",")) == labels


def test_the_launcher_may_touch_rayjobs_and_nothing_else() -> None:
    (role,) = [document for document in documents("rbac.yaml") if document["kind"] == "Role"]
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list", "delete"]}
    ]


def test_only_exit_codes_that_a_retry_helps_are_retried() -> None:
    """Exit 3 (too many failures) at two in the morning, retried twice, is three times the bill for the same answer."""
    spec = cronjob()["spec"]["jobTemplate"]["spec"]
    assert cronjob()["spec"]["concurrencyPolicy"] == "Forbid"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    (fail,) = [rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert fail["onExitCodes"]["values"] == [2, 3, 4, 5]
    assert fail["onExitCodes"]["containerName"] in {
        container["name"] for container in spec["template"]["spec"]["containers"]
    }
    assert rayjob()["spec"]["backoffLimit"] == 0


def test_no_pod_runs_as_root_or_may_become_it() -> None:
    for where, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True, where
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, where
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, where


def test_ray_is_the_same_version_everywhere() -> None:
    """Ray refuses to join nodes of two versions, and KubeRay believes what rayVersion says."""
    tested = importlib.metadata.version("ray")
    assert f"\nray=={tested}\n" in (ROOT / "constraints.txt").read_text()
    assert rayjob()["spec"]["rayClusterSpec"]["rayVersion"] == tested
    images = {container["image"] for _, pod in pods() for container in pod["containers"]}
    assert len(images) == 1
    assert images.pop().endswith(f"-ray{tested}")
    assert f"-ray{tested} ." in (CLUSTER / "Dockerfile").read_text()


def test_dockerfile_copies_what_exists_and_ends_unprivileged() -> None:
    lines = re.sub(r"\\\n", " ", (CLUSTER / "Dockerfile").read_text()).splitlines()
    instructions = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in (part for name, rest in instructions if name == "COPY" for part in rest.split()[:-1]):
        assert (ROOT / source).exists(), source
        assert source in allowed, f"{source} is not let through by .dockerignore"
    users = [rest for name, rest in instructions if name == "USER"]
    assert users[-1] == "1000"
    workdir = "/opt/wanflow"
    assert ["WORKDIR", workdir] in instructions
    assert cronjob()["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["command"] == [
        "python",
        f"{workdir}/launch.py",
    ]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_renders_the_folder_into_valid_objects() -> None:
    """What ``kubectl apply -k cluster/`` would send: every object in the namespace, valid, with the files inside."""
    done = subprocess.run(["kubectl", "kustomize", str(CLUSTER)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    assert sorted(item["kind"] for item in objects) == sorted(
        ["ServiceAccount", "Role", "RoleBinding", "CronJob", "ConfigMap", "ConfigMap"]
    )
    for item in objects:
        assert item["metadata"]["namespace"] == "wanflow"
        kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
    (binding,) = [item for item in objects if item["kind"] == "RoleBinding"]
    assert binding["subjects"][0]["namespace"] == "wanflow"
    (launch,) = [item for item in objects if item["metadata"]["name"] == "wanflow-nightly-launch"]
    assert yaml.safe_load(launch["data"]["rayjob.yaml"]) == rayjob()
