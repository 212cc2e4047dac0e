"""The examples for clusters in configs/ fit Ray, Kubernetes, this package and each other."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml  # type: ignore[import-untyped]
from ray.autoscaler._private.util import prepare_config, validate_config

from chutes_opencode.opencode.binary import TESTED_VERSION
from chutes_opencode.settings import Settings
from chutes_opencode.settings_sources import ENVIRONMENT_NAMES, ENVIRONMENT_PREFIX

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
RAY_VERSION = re.search(
    r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
)[1]  # type: ignore[index]
OUR_NAMES = {name for names in ENVIRONMENT_NAMES.values() for name in names} | {
    ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields
}


def cluster() -> dict[str, Any]:
    text = (CONFIGS / "ray-cluster.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def documents() -> dict[str, dict[str, Any]]:
    text = (CONFIGS / "kuberay.yaml").read_text(encoding="utf-8")
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def pod_templates() -> list[dict[str, Any]]:
    spec = documents()["RayCluster"]["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def dockerfile() -> str:
    return (CONFIGS / "ray-worker.Dockerfile").read_text(encoding="utf-8")


# --- ray up --------------------------------------------------------------------------------------


def test_ray_up_takes_the_cluster_file() -> None:
    prepared = prepare_config(cluster())

    validate_config(prepared)

    assert prepared["setup_commands"] == cluster()["setup_commands"]
    assert prepared["worker_setup_commands"] == cluster()["setup_commands"]


@pytest.mark.parametrize(("field", "value"), [("setup_command", []), ("max_workers", "many")])
def test_rays_check_is_a_check(field: str, value: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**prepare_config(cluster()), field: value})


def test_machines_of_ones_own_are_a_change_of_provider() -> None:
    own = copy.deepcopy(cluster())
    del own["available_node_types"], own["head_node_type"], own["max_workers"]
    own["provider"] = {"type": "local", "head_ip": "10.0.0.10", "worker_ips": ["10.0.0.11"]}

    validate_config(prepare_config(own))


def test_ray_starts_with_the_key_as_a_file_and_our_python_first() -> None:
    config = cluster()

    for start in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "CHUTES_API_TOKEN_FILE=$HOME/.chutes-token" in config[start][-1]
        assert "PATH=$HOME/chutes-opencode/venv/bin:$PATH" in config[start][-1]
    assert config["file_mounts"]["~/.chutes-token"] == "~/.chutes-token"


def test_doctor_finds_the_key_and_every_node_the_storage() -> None:
    text = (CONFIGS / "ray-cluster.yaml").read_text(encoding="utf-8")
    [doctor] = re.findall(r"'(.*chutes-opencode doctor)'", text)
    assert doctor.startswith("CHUTES_API_TOKEN_FILE=~/.chutes-token ")
    mounts = [each for each in cluster()["initialization_commands"] if " mount -t nfs4" in each]
    assert [each.rpartition(" ")[2] for each in mounts] == ["/shared"]
    assert " /shared/" in (CONFIGS / "ray_job.py").read_text(encoding="utf-8")


# --- Kubernetes ----------------------------------------------------------------------------------


def test_kubernetes_gets_a_cluster_a_claim_and_a_job() -> None:
    found = documents()

    assert {kind: each["apiVersion"] for kind, each in found.items()} == {
        "RayCluster": "ray.io/v1",
        "RayJob": "ray.io/v1",
        "PersistentVolumeClaim": "v1",
    }
    assert all(each["metadata"]["name"] for each in found.values())


def test_the_cluster_has_what_its_crd_requires() -> None:
    spec = documents()["RayCluster"]["spec"]

    assert {"rayStartParams", "template"} <= set(spec["headGroupSpec"])
    required = {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    assert all(required <= set(group) for group in spec["workerGroupSpecs"])
    parameters = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert all(
        isinstance(value, str) for group in parameters for value in group["rayStartParams"].values()
    )


def test_each_pod_has_the_key_as_a_file_and_the_shared_storage() -> None:
    claim = documents()["PersistentVolumeClaim"]["metadata"]["name"]

    for pod in pod_templates():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["key"]["secret"]["secretName"] == "chutes"
        assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim
        [container] = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        variables = {each["name"]: each["value"] for each in container["env"]}
        assert variables["CHUTES_API_TOKEN_FILE"] == mounts["key"] + "/token"
        assert set(variables) <= OUR_NAMES


def test_the_job_s_items_come_to_where_it_reads_them() -> None:
    text = (CONFIGS / "kuberay.yaml").read_text(encoding="utf-8")
    [copied] = re.findall(r"kubectl cp (\S+) HEAD_POD:/runs/", text)

    assert f"batch run /runs/{copied} " in documents()["RayJob"]["spec"]["entrypoint"]


def test_the_job_asks_the_cluster_and_writes_to_the_shared_storage() -> None:
    found = documents()
    job = found["RayJob"]["spec"]

    assert job["clusterSelector"] == {"ray.io/cluster": found["RayCluster"]["metadata"]["name"]}
    words = job["entrypoint"].split()
    assert words[:3] == ["chutes-opencode", "batch", "run"]
    assert words[words.index("--out") + 1].startswith("/runs/")


# --- versions ------------------------------------------------------------------------------------


def test_the_image_has_the_tested_opencode() -> None:
    assert re.findall(r"^ARG OPENCODE_VERSION=(.*)$", dockerfile(), re.MULTILINE) == [
        TESTED_VERSION
    ]


def test_one_ray_in_the_image_the_cluster_and_our_constraints() -> None:
    assert re.findall(r"^ARG RAY_VERSION=(.*)$", dockerfile(), re.MULTILINE) == [RAY_VERSION]
    assert documents()["RayCluster"]["spec"]["rayVersion"] == RAY_VERSION


def test_the_image_is_the_one_that_the_pods_run() -> None:
    [name] = re.findall(r"--tag (\S+)", dockerfile())

    assert {pod["containers"][0]["image"] for pod in pod_templates()} == {name}


def test_no_cluster_file_names_a_key_or_a_registry() -> None:
    for name in ("ray-cluster.yaml", "kuberay.yaml", "ray-worker.Dockerfile", "ray_job.py"):
        text = (CONFIGS / name).read_text(encoding="utf-8")
        assert not re.search(r"CHUTES_API_(TOKEN|KEY)\s*[:=]\s*\S", text)
        assert not re.search(r"cpk_|registry|index-url|pypi|\.io/(?!v1|cluster)", text)
