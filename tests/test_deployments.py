"""deployments/: prefect.yaml, the work pool, and what containers are made of, as far as it can be told without an engine."""

import importlib
import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from prefect import Flow
from prefect.settings.models.server.services import ServerServicesDBVacuumSettings

from tasks.engine.run import RunRequest
from tasks.orchestration.deploy import deployed_for, pool
from tasks.orchestration.ops import LEASES, RETENTION
from tasks.orchestration.watch import EVENT

ROOT = Path(__file__).resolve().parents[1]
CONTAINERS = ROOT / "deployments" / "containers"
PREFECT = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
COMPOSE = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?")


@pytest.mark.parametrize("one", PREFECT["deployments"], ids=lambda one: one["name"])
def test_every_deployment_is_a_flow_of_one_request(one):
    file, name = one["entrypoint"].split(":")
    flow = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(flow, Flow) and list(flow.parameters.properties) == ["request"]
    RunRequest.model_validate(one["parameters"]["request"])
    assert one["work_pool"]["name"] == pool()["name"]
    assert one["work_pool"]["work_queue_name"] in pool()["queues"]
    assert one["description"].endswith(".")


def test_the_automation_waits_for_what_watch_emits():
    by_name = {one["name"]: one for one in PREFECT["deployments"]}
    (trigger,) = by_name["refresh"]["triggers"]
    assert trigger["expect"] == [EVENT] and trigger["match"] == {"prefect.resource.id": "empamba.store.*"}
    # Each event is judged by itself: within a time, one of a machine whose clock is behind would count as late, and start nothing.
    assert (trigger["within"], trigger["threshold"]) == (0, 1)
    assert by_name["watch"]["schedules"] and by_name["refresh"]["schedules"]
    # Both look at the same data, or the one would start the other for nothing.
    assert by_name["watch"]["parameters"] == by_name["refresh"]["parameters"]


def test_every_deployment_gets_the_request_of_ops_up():
    wanted = RunRequest(profile="paper", raw="/data", store="/store", changes=("epo.gamma=0.4",))
    for one in yaml.safe_load(deployed_for(wanted))["deployments"]:
        assert RunRequest.model_validate(one["parameters"]["request"]) == wanted


@pytest.mark.parametrize("file", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_images_are_pinned_and_nobody_is_root_in_them(file):
    lines = (CONTAINERS / file).read_text().replace("\\\n", " ").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    assert all(PINNED.fullmatch(line[1]) for line in words if line[0] == "FROM")
    last_stage = words[max(i for i, line in enumerate(words) if line[0] == "FROM") :]
    assert [line for line in last_stage if line[0] == "USER"] == [["USER", "10001"]]
    # What is installed has a lock with hashes; torch has its version.
    installs = [" ".join(line) for line in words if "pip install" in " ".join(line) and "-r" in line]
    assert installs and all("--require-hashes -r requirements" in line for line in installs)
    for line in words:
        if line[0] == "COPY" and not line[1].startswith("--from"):
            assert all((ROOT / source).exists() for source in line[1:-1])
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored and {
        f"!{name}" for name in ("flows", "tasks", "model", "storage", "deployments")
    } <= set(ignored)


def test_compose_starts_what_depends_on_what_is_well():
    services = COMPOSE["services"]
    assert set(services) == {"database", "server", "deploy", "worker", "vllm"}
    for name, service in services.items():
        assert PINNED.fullmatch(service["image"]) or service["image"] == "empamba:cpu", name
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[needed]
    ours = [service for service in services.values() if service["image"] == "empamba:cpu"]
    build = ours[0]["build"]
    dockerfile = (ROOT / build["dockerfile"]).read_text()
    for name, value in build["args"].items():
        assert f"ARG {name}=" in dockerfile and f"${{{name}:+" in dockerfile and value == f"${{{name}:-}}"
    assert "TORCH_INDEX" in build["args"]
    assert all(service["cap_drop"] == ["ALL"] and service["read_only"] for service in ours)
    assert services["server"]["ports"] == ["127.0.0.1:4200:4200"]  # it asks nobody who they are
    server = services["server"]["environment"]
    assert server["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == LEASES  # in Prefect's home:
    assert server.items() >= RETENTION.items()
    assert f"places:{server['PREFECT_HOME']}" in services["server"]["volumes"]
    # Where the image can be written by nobody Prefect serves no UI, unless it may write that elsewhere.
    assert Path(server["PREFECT_UI_STATIC_DIRECTORY"]).parent == Path(server["PREFECT_HOME"])
    # A volume that is new gets its owner from the image's folder.
    (made,) = re.findall(r"install -d -o empamba (.+)", (CONTAINERS / "Dockerfile.cpu").read_text())
    mounted = {v.split(":")[1] for s in ours for v in s.get("volumes", ()) if not v.startswith("$")}
    assert mounted <= set(made.split())
    named = {
        v.split(":")[0] for s in services.values() for v in s.get("volumes", []) if not v.startswith("$")
    }
    assert named == set(COMPOSE["volumes"])
    text = (CONTAINERS / "compose.yaml").read_text()
    assert "${POSTGRES_PASSWORD:?" in text and "PASSWORD: prefect" not in text


def filled(text: str, **given: str) -> str:
    """A text of the compose file with its variables, as Compose fills them in."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: given.get(found[1]) or found[2], text)


def test_store_profile_and_keys_reach_what_needs_them():
    """A store in a bucket, with a profile: by variables, and a file of keys that the server is not shown."""
    services = COMPOSE["services"]
    told = {"EMPAMBA_STORE": "s3://bucket/prefix", "EMPAMBA_PROFILE": "paper"}
    for given, store, profile in (({}, "/store", "cpu"), (told, "s3://bucket/prefix", "paper")):
        words = [filled(word, **given) for word in services["deploy"]["command"]]
        assert words[:3] == ["empamba", "ops", "deploy"]
        assert {"--raw=/data", f"--store={store}", f"--profile={profile}"} < set(words)
    (keys,) = services["deploy"]["env_file"]
    assert services["worker"]["env_file"] == [keys] and "env_file" not in services["server"]
    assert keys["required"] is False and filled(keys["path"], EMPAMBA_ENV_FILE="/keys") == "/keys"
    # It is neither committed nor copied into an image.
    assert "*.env" in (ROOT / ".gitignore").read_text().split()
    assert (ROOT / ".dockerignore").read_text().split()[-1] == "**/*.env"


def test_a_worker_that_is_made_anew_is_the_machine_of_before():
    """Its name is that of a dead run's mark (tasks/engine/run_marks.py), which is judged on its own machine alone."""
    assert COMPOSE["services"]["worker"]["hostname"] == "worker"


def test_a_server_forgets_runs_after_ninety_days(monkeypatch):
    """As Prefect reads the settings that it is started with."""
    for name, value in RETENTION.items():
        monkeypatch.setenv(name, value)
    found = ServerServicesDBVacuumSettings()
    assert found.enabled_vacuum_types == {"events", "flow_runs"}
    assert found.retention_period == timedelta(days=90)


def test_the_kubernetes_template_has_a_variable_for_all_it_names():
    template = json.loads((CONTAINERS / "kubernetes-job.json").read_text())
    named = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    variables = template["variables"]["properties"]
    assert named == set(variables)
    job = template["job_configuration"]["job_manifest"]["spec"]
    pod = job["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    # Keys come from a secret, not in plain text from the pool's "env"; without one a run starts too.
    (from_,) = pod["containers"][0]["envFrom"]
    assert from_ == {"secretRef": {"name": "{{ secret }}", "optional": True}}
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    # Prefect starts a cancelled or lost run again by its own rules, never Kubernetes.
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"


def test_the_kubernetes_worker_that_the_docs_install_speaks_the_servers_version():
    docs = (ROOT / "docs" / "operations.md").read_text()
    (told,) = re.findall(r"pip install prefect==([\d.]+) prefect-kubernetes==[\d.]+", docs)
    for lock in ("requirements.lock", "requirements-gpu.lock"):
        assert f"\nprefect=={told} " in (ROOT / lock).read_text()
    assert f"prefect worker start --pool {pool()['name']} --type kubernetes" in docs
