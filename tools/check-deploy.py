"""Compares docker-compose.yml and deploy/Dockerfile with the tree and with the binary, which no schema can.

Needs no Docker: it says nothing about whether the images can be pulled or built.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "millrace"
CAPTURED = {"capture_output": True, "text": True, "timeout": 60}
# What compose would read from .env. Where it has a default, that; otherwise any value will do here.
VARIABLE = re.compile(r"\$\{\w+(?::-([^}]*)|:\?[^}]*)?\}")


def main():
    compose = YAML(typ="safe").load(ROOT / "docker-compose.yml")
    services = compose["services"]
    found = [
        *copied_paths_are_there(),
        *copied_paths_make_a_workspace(),
        *images_are_pinned(services),
        *variables_have_no_default(services),
        *variables_are_told(),
        *dependencies_are_services(services),
        *mounted_paths_are_there(services),
        *commands_are_known(services),
        *settings_are_known(services),
    ]
    for line in found:
        print(line, file=sys.stderr)
    sys.exit(1 if found else 0)


def copied_paths_are_there():
    """Also with what .dockerignore leaves of the tree."""
    ignored = [name.strip("/") for name in (ROOT / ".dockerignore").read_text().split()]
    for source in copied_paths():
        if not (ROOT / source).exists():
            yield f"deploy/Dockerfile copies {source}, which is not there"
        if source in ignored:
            yield f"deploy/Dockerfile copies {source}, which .dockerignore leaves out"


def copied_paths_make_a_workspace():
    """Cargo misses nothing that a manifest names: a crate, a test, a bench."""
    with tempfile.TemporaryDirectory() as build:
        for source in copied_paths():
            if (ROOT / source).exists():
                (Path(build) / source).symlink_to(ROOT / source)
        said = subprocess.run(["cargo", "metadata", "--format-version=1", "--no-deps"], cwd=build, **CAPTURED)
        if said.returncode != 0:
            yield f"what deploy/Dockerfile copies is no workspace: {said.stderr.strip()}"


def copied_paths():
    for line in (ROOT / "deploy/Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            yield from (path.rstrip("/") for path in line.split()[1:-1])


def images_are_pinned(services):
    bases = re.findall(r"^FROM (\S+)", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    images = [("deploy/Dockerfile", base) for base in bases]
    images += [(name, service["image"]) for name, service in services.items() if not is_ours(service)]
    for where, image in images:
        if not re.search(r":[^:@]*\d+\.\d+", image):
            yield f"{where}: {image} is not pinned to a version"


def variables_have_no_default(services):
    for name, service in services.items():
        for key, value in (service.get("environment") or {}).items():
            is_secret = re.search("PASSWORD|SECRET|TOKEN|AUTH", key)
            if is_secret and not re.fullmatch(r".*\$\{\w+:\?[^}]*\}.*", str(value)):
                yield f"{name}: {key} must come from outside, without a default"


def variables_are_told():
    """What compose asks for stands in its example, and CI sets it."""
    asked = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    for where in ("deploy/compose.env.example", ".github/workflows/ci.yml"):
        for name in sorted(asked - set(re.findall(r"\b(\w+)[:=]", (ROOT / where).read_text()))):
            yield f"docker-compose.yml asks for {name}, which {where} does not have"


def dependencies_are_services(services):
    for name, service in services.items():
        for other, how in (service.get("depends_on") or {}).items():
            if other not in services:
                yield f"{name} depends on {other}, which is no service"
            elif how["condition"] == "service_healthy" and "healthcheck" not in services[other]:
                yield f"{name} waits until {other} is healthy, which nothing checks"


def mounted_paths_are_there(services):
    """Docker makes an empty directory of a file that isn't."""
    for name, service in services.items():
        for source in (volume.partition(":")[0] for volume in service.get("volumes") or []):
            if source.startswith("./") and not (ROOT / source).exists():
                yield f"{name} mounts {source}, which is not there"


def commands_are_known(services):
    """`--help` after the arguments: the binary reads them all and does nothing."""
    for name, service in services.items():
        if is_ours(service):
            said = run(*service["command"], "--help")
            if said.returncode != 0:
                yield f"{name}: `millrace {' '.join(service['command'])}`: {said.stderr.strip()}"


def settings_are_known(services):
    """`millrace config` refuses a key that nobody knows."""
    for name, service in services.items():
        if is_ours(service):
            settings = {key: VARIABLE.sub(lambda found: found[1] or "x", str(value)) for key, value in service["environment"].items()}
            said = run("config", environment=settings)
            if said.returncode != 0:
                yield f"{name}: {said.stderr.strip()}"


def is_ours(service):
    return service["image"].partition(":")[0] == IMAGE


def run(*arguments, environment=None):
    """The binary that was given, or else the one that `cargo build` leaves."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = sys.argv[1] if len(sys.argv) > 1 else target / "debug/millrace"
    return subprocess.run([binary, *arguments], env=environment or {}, cwd="/", **CAPTURED)


if __name__ == "__main__":
    main()
