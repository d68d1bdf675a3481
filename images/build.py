"""`make images`: build, push and record the images with docker (and buildx), podman or buildah, whichever is there.

    python images/build.py [cpu] [gpu] [mlflow] [--base IMAGE] [--wheels FOLDER] [--torch cpu|default]
                           [--registry HOST/PATH] [--engine ENGINE]

Writes beside this file, for each image:

- `digests.json`: `cpu`, `gpu` or `mlflow` -> NAME@sha256:..., what SLIMREC_IMAGE takes and a cluster requires. With --registry the
  image is pushed and that is its name there; without, it is the name in this machine's own store. It is the record of a
  build and not part of the source: a commit cannot hold the digest of an image that holds the commit.
- `cpu.sbom.json`: all that is in the image, Python and operating system packages, as CycloneDX.

pip's settings PIP_CERT, PIP_INDEX_URL and PIP_EXTRA_INDEX_URL hold in the build too where they are set. The CPU build of
torch is fetched before anything is built, by the pip of this machine and as that is configured: where there is none, one
learns it at once, and what to do.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from urllib.parse import quote

HERE = Path(__file__).parent
ROOT = HERE.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
NAMES = {"cpu": f"slimrec:{VERSION}", "gpu": f"slimrec:{VERSION}-gpu", "mlflow": f"slimrec-mlflow:{VERSION}"}
CPU_LOCK, PYTHON = "requirements-cpu.lock", "3.11"  # of the images
NO_TORCH = """images: pip finds no CPU build of torch here ({lock}, `+cpu` in its version). It said:
  {said}
One of these gives it:
  PIP_EXTRA_INDEX_URL=URL   an index that has it: PyTorch's for CPU, or a mirror of it
  make images WHEELS=FOLDER the wheels of {lock}, brought from elsewhere
  make images TORCH=default the default build in its place: it runs on processors too, and brings gigabytes of CUDA along"""
PROBES = {"docker": (("docker", "buildx", "version"), ("docker", "info")), "podman": (("podman", "info"),),
          "buildah": (("buildah", "info"),)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the images of slimrec")
    parser.add_argument("kinds", nargs="*", metavar="cpu|gpu|mlflow", help="images to build; cpu by default")
    parser.add_argument("--base", default="", help="image with python3 and venv, in place of the public one")
    parser.add_argument("--wheels", default="", help="folder of wheels that no package index in reach has")
    parser.add_argument("--torch", default="cpu", choices=["cpu", "default"], help="which build the image `cpu` gets")
    parser.add_argument("--registry", default="", help="where to push to; without it nothing is pushed")
    parser.add_argument("--engine", default="", choices=["", *PROBES], help="what builds; by default what is there")
    given = parser.parse_args()
    kinds = given.kinds or ["cpu"]
    if unknown := set(kinds) - set(NAMES):
        parser.error(f"there is no image {', '.join(sorted(unknown))}; allowed: {', '.join(NAMES)}")
    engine = given.engine or find_engine()
    with tempfile.TemporaryDirectory() as scratch:
        torch_wheels = fetch_torch(given.wheels, scratch) if "cpu" in kinds and given.torch == "cpu" else given.wheels
        for kind in kinds:
            wheels = torch_wheels if kind == "cpu" else given.wheels
            name = f"{given.registry.rstrip('/') or 'localhost'}/{NAMES[kind]}"
            build(engine, kind, name, given.base, wheels, given.torch)
            report(engine, kind, name, pushed=bool(given.registry))


def report(engine: str, kind: str, name: str, pushed: bool) -> None:
    """Push where asked to; write the bill of materials and the digest of what was built."""
    write(HERE / f"{kind}.sbom.json", bill_of_materials(engine, name))
    if digest := push(engine, name) if pushed else stored_digest(engine, name):
        reference = f"{name.rpartition(':')[0]}@{digest}"
        record(kind, reference)
        print(f"{kind}: {reference}")
    else:
        print(f"{kind}: {name}; {engine} knows digests of pushed images only: give --registry to get one")


def fetch_torch(given: str, scratch: str) -> str:
    """A folder with the wheels of the CPU build of torch, and with those of the folder `given`; ends where there are none."""
    own = ROOT / ".venv" / "bin" / "python"
    pip = [str(own) if own.exists() else sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    pip += ["--require-hashes", "--only-binary=:all:", "--python-version", PYTHON, "--dest", scratch, "-r", CPU_LOCK]
    pip += ["--find-links", given] if given else []
    done = subprocess.run(pip, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-300:]]
        sys.exit(NO_TORCH.format(lock=CPU_LOCK, said=errors[0]))
    for wheel in Path(given).glob("*.whl") if given else ():
        if not Path(scratch, wheel.name).exists():
            shutil.copy(wheel, scratch)
    return scratch


def find_engine() -> str:
    """The first engine that answers."""
    for engine, probes in PROBES.items():
        if shutil.which(engine) and all(answers(probe) for probe in probes):
            return engine
    sys.exit("images: neither docker with buildx, nor podman, nor buildah answers; install one of them")


def answers(words: tuple[str, ...]) -> bool:
    """Whether a program ends well."""
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def build(engine: str, kind: str, name: str, base: str, wheels: str, torch: str) -> None:
    """Build one Dockerfile of this folder."""
    settings = {"VERSION": VERSION, "REVISION": revision(), "BASE": base}
    settings |= {"TORCH": "gpu"} if kind == "cpu" and torch == "default" else {}
    settings |= {key: os.environ.get(key, "") for key in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")}
    words = [
        engine,
        *{"docker": ["buildx", "build", "--load"], "podman": ["build"], "buildah": ["build", "--layers"]}[engine],
    ]
    words += ["--file", f"images/{kind}.Dockerfile", "--tag", name]
    if wheels:
        words += ["--build-context", f"wheels={Path(wheels).resolve()}"]
    if certificates := os.environ.get("PIP_CERT"):
        words += ["--secret", f"id=certificates,src={certificates}"]
        settings["PIP_CERT"] = "/run/secrets/certificates"
    for key, value in settings.items():
        words += ["--build-arg", f"{key}={value}"] if value else []
    run(*words, ".", show=True)


def push(engine: str, name: str) -> str:
    """Push; returns the digest that the registry knows the image by."""
    if engine == "docker":
        run("docker", "push", name, show=True)
        return stored_digest(engine, name)
    with tempfile.TemporaryDirectory() as folder:
        run(engine, "push", "--digestfile", f"{folder}/digest", name, show=True)
        return Path(folder, "digest").read_text(encoding="utf-8").strip()


def stored_digest(engine: str, name: str) -> str:
    """The digest in the engine's own store, "" if it keeps none."""
    if engine == "buildah":
        return run("buildah", "inspect", "--type", "image", "--format", "{{.FromImageDigest}}", name).strip()
    known = json.loads(run(engine, "image", "inspect", "--format", "{{json .RepoDigests}}", name)) or []
    mine = [each.partition("@")[2] for each in known if each.partition("@")[0] == name.rpartition(":")[0]]
    return mine[0] if mine else ""


def bill_of_materials(engine: str, name: str) -> dict:
    """The image's own list of Python packages, with the packages of its operating system added."""
    bill = json.loads(inside(engine, name, "cat", "/opt/slimrec/sbom.json"))
    lines = inside(engine, name, "dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n")
    for package, version, architecture in sorted(line.split() for line in lines.splitlines()):
        purl = f"pkg:deb/debian/{package}@{quote(version, safe='')}?arch={architecture}"
        bill["components"].append(
            {"type": "library", "bom-ref": purl, "name": package, "version": version, "purl": purl}
        )
    return bill


def inside(engine: str, name: str, *command: str) -> str:
    """What a command in the image prints."""
    if engine != "buildah":
        return run(engine, "run", "--rm", "--network", "none", "--memory", "256m", name, *command)
    container = run("buildah", "from", name).strip()
    try:
        return run("buildah", "run", container, "--", *command)
    finally:
        run("buildah", "rm", container)


def record(kind: str, reference: str) -> None:
    """Put one image's name into digests.json, whole or not at all."""
    path = HERE / "digests.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write(path, {**known, kind: reference})


def write(path: Path, values: dict) -> None:
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    scratch.replace(path)


def revision() -> str:
    """The commit that the image is built from; "" outside a checkout, with a mark where there is more than the commit."""
    words = ("git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    return said.stdout.strip() if said.returncode == 0 else ""


def run(*words: str, show: bool = False) -> str:
    """A program's output; what it says goes to the screen if asked for. Ends this program where that one fails."""
    done = subprocess.run(words, cwd=ROOT, text=True, check=False, stdout=None if show else subprocess.PIPE)
    if done.returncode:
        sys.exit(f"images: {words[0]} {words[1]} ended with {done.returncode}")
    return done.stdout or ""


if __name__ == "__main__":
    main()
