"""The Kubernetes manifests: valid, restricted, in agreement with each other, and without a secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from saltctl.cli.app import build
from saltctl.deployment.kubernetes import IMAGE, manifests
from saltctl.errors import UsageError
from saltctl.settings import SPECS, Settings

yaml = pytest.importorskip("yaml", reason="there is no YAML parser: moto brings one")
SETTINGS = Settings(redis_url="redis://:hunter2@cache:6379/0", backup_table="mine", key_prefix="on", buckets=64)


@pytest.fixture
def documents() -> dict[str, Any]:
    """The documents by kind and name."""
    found = list(yaml.safe_load_all(manifests(SETTINGS, "registry.example/saltctl:1.0")))
    return {f"{document['kind']}/{document['metadata']['name']}": document for document in found}


def pods_of(documents: dict[str, Any]) -> dict[str, Any]:
    """Return the specification of each pod."""
    jobs = {name: spec["spec"]["jobTemplate"] for name, spec in documents.items() if name.startswith("CronJob/")}
    workloads = jobs | {"Deployment/saltctl-service": documents["Deployment/saltctl-service"]}
    return {name: found["spec"]["template"]["spec"] for name, found in workloads.items()}


def test_what_there_is(documents: dict[str, Any]) -> None:
    """The service, and the jobs that run once at a time."""
    assert list(documents) == [
        *("ConfigMap/saltctl", "ServiceAccount/saltctl", "Deployment/saltctl-service"),
        *("CronJob/saltctl-rebuild", "CronJob/saltctl-stream", "CronJob/saltctl-compare"),
        *("ServiceAccount/saltctl-canary", "CronJob/saltctl-canary"),
        *("ServiceAccount/saltctl-audit", "CronJob/saltctl-audit"),
    ]
    deployment = documents["Deployment/saltctl-service"]["spec"]
    assert deployment["replicas"] == 2
    assert deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"]
    for name in ("rebuild", "stream", "compare", "canary", "audit"):
        assert documents[f"CronJob/saltctl-{name}"]["spec"]["concurrencyPolicy"] == "Forbid"


def test_settings_are_strings_and_the_url_is_a_secret(documents: dict[str, Any]) -> None:
    """``on`` and 64 would be a truth value and a number. Every name is that of a setting."""
    data = documents["ConfigMap/saltctl"]["data"]
    assert (data["SALTCTL_KEY_PREFIX"], data["SALTCTL_BUCKETS"], data["SALTCTL_BACKUP_TABLE"]) == ("on", "64", "mine")
    assert set(data) <= {spec.environment[0] for spec in SPECS} - {"SALTCTL_REDIS_URL"}
    for name, pod in pods_of(documents).items():
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": "saltctl"}}]
        url = {"secretKeyRef": {"name": "saltctl-redis", "key": "url"}}
        assert {"name": "SALTCTL_REDIS_URL", "valueFrom": url} in container["env"], name


@pytest.mark.parametrize("url", ["redis://:hunter2@cache:6379/0", "redis://cache:6379/0", None])
def test_no_secret_is_printed(url: str | None) -> None:
    """Not even a URL without a password: the place for it is the Secret."""
    text = manifests(Settings(redis_url=url, redis_password_file=Path("/run/hunter2")))
    assert "hunter2" not in text
    assert "cache:6379" not in text
    assert "kind: Secret" not in text


def test_pods_are_restricted(documents: dict[str, Any]) -> None:
    """As the Pod Security Standard "restricted" wants it, with a read-only root, and memory that is limited."""
    for pod in pods_of(documents).values():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"] == "registry.example/saltctl:1.0"
        assert container["resources"]["limits"]["memory"]
        assert pod["terminationGracePeriodSeconds"] > 30


def test_files_are_in_a_volume(documents: dict[str, Any]) -> None:
    """The root is read-only; the health file that is written is the one that is probed, and the ports agree."""
    (container,) = pods_of(documents)["Deployment/saltctl-service"]["containers"]
    (mount,) = container["volumeMounts"]
    (file,) = [word.partition("=")[2] for word in container["args"] if word.startswith("--health-file=")]
    assert Path(file).parent == Path(mount["mountPath"])
    assert file in container["livenessProbe"]["exec"]["command"][-1]
    (port,) = container["ports"]
    assert f"--metrics-port={port['containerPort']}" in container["args"]
    assert container["readinessProbe"]["httpGet"]["port"] == port["name"]
    declared = {variable["name"] for variable in container["env"]}
    assert {word[word.index("$(") + 2 : -1] for word in container["args"] if "$(" in word} <= declared


@pytest.mark.parametrize(("age", "alive"), [(0, True), (50, True), (90, False), (None, False)])
def test_the_liveness_probe_judges_the_age_of_the_health_file(
    documents: dict[str, Any], age: int | None, alive: bool, tmp_path: Path
) -> None:
    """A file that was not touched for a minute, or that does not exist, is a service without progress."""
    (container,) = pods_of(documents)["Deployment/saltctl-service"]["containers"]
    python, *words = container["livenessProbe"]["exec"]["command"]
    file = tmp_path / "health"
    if age is not None:
        file.touch()
        os.utime(file, (time.time() - age,) * 2)
    assert python == "python3"
    code = words.pop().replace("/run/saltctl/health", str(file))
    done = subprocess.run([sys.executable, *words, code], capture_output=True, check=False)
    assert (done.returncode == 0) is alive


def test_the_commands_exist(documents: dict[str, Any], tmp_path: Path) -> None:
    """Each is one that this saltctl parses; the comparison's is what its script starts."""
    tree = build()
    for pod in pods_of(documents).values():
        (container,) = pod["containers"]
        words = [*container["command"], *container.get("args", ())]
        if words[0] == "python3":
            words = started_by(words[-1], tmp_path)
            part, _, parts = words[-1].removeprefix("--sample=").partition("/")
            assert 1 <= int(part) <= int(parts) == 24
        assert words.pop(0) == "saltctl"
        context, command = tree.make_context("saltctl", list(words)), tree
        while hasattr(command, "resolve_command"):
            name, command, words = command.resolve_command(context, words)
            context = command.make_context(name, list(words), parent=context, resilient_parsing=True)
        assert context.info_name in ("run", "rebuild", "setup", "compare", "canary", "audit")
        assert not context.args


def started_by(script: str, folder: Path) -> list[str]:
    """Run a script whose saltctl prints its arguments; return them, with the name."""
    fake = folder / "saltctl"
    fake.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(['saltctl', *sys.argv[1:]]))\n")
    fake.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PATH": str(folder)}
    )
    words: list[str] = json.loads(done.stdout)
    return words


def test_an_image_is_a_name() -> None:
    """What is none is refused; the default is a placeholder."""
    for image in ("", "a b", "a\nb: c", "UPPER", "-x", "x" * 501):
        with pytest.raises(UsageError):
            manifests(SETTINGS, image)
    for image in ("saltctl", IMAGE, "localhost:5000/x/saltctl@sha256:" + "0" * 64):
        assert f"image: {json.dumps(image)}\n" in manifests(SETTINGS, image)


def test_kubernetes_accepts_the_manifests(documents: dict[str, Any]) -> None:
    """By the schemas of Kubernetes, which know every field; an unknown one is refused, so the check is one."""
    reason = "python3 -m pip install kubernetes-validate (22 MB of schemas)"
    schemas: Any = pytest.importorskip("kubernetes_validate", reason=reason)
    for document in documents.values():
        schemas.validate(document, "1.29", strict=True)
    documents["ConfigMap/saltctl"]["datum"] = {}
    with pytest.raises(schemas.ValidationError):
        schemas.validate(documents["ConfigMap/saltctl"], "1.29", strict=True)
