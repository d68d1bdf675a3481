#!/usr/bin/env bash
# For .ci/run: podman, a base made of the distribution's packages, our image on it. Needs root on Debian, and .venv.
# Usage: tests/engine.sh FOLDER; writes FOLDER/environment for tests/test_containers.py, the service's id to FOLDER/pid.
# Ends with a reason on its last line where any of that cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "$1"
folder=$(cd "$1" && pwd)
base=localhost/base:bookworm

if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "installing an engine needs root and apt-get"
    exit 1
fi
if ! command -v podman > /dev/null || ! command -v debootstrap > /dev/null || ! command -v runc > /dev/null; then
    timeout 120 apt-get update -qq || { echo "apt-get update failed"; exit 1; }
    timeout 300 apt-get install -qq --yes --no-install-recommends podman runc debootstrap > /dev/null \
        || { echo "apt-get cannot install podman, runc and debootstrap"; exit 1; }
fi

# runc with cgroups of its own kind, on the network of this machine: works without systemd and with old cgroups.
cat > "$folder/containers.conf" << 'END'
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=10000:10000"]
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
END
export CONTAINERS_CONF="$folder/containers.conf"

if ! podman image exists "$base"; then
    rm -rf "$folder/root"
    timeout 300 debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$folder/root" \
        > "$folder/debootstrap.log" || { echo "debootstrap failed: $(tail -1 "$folder/debootstrap.log")"; exit 1; }
    tar -C "$folder/root" --exclude=./var/cache/apt --exclude=./var/lib/apt/lists --exclude=./usr/share/doc -c . \
        | podman import - "$base" > /dev/null || { echo "podman cannot import the base"; exit 1; }
    rm -rf "$folder/root"
fi

timeout 1800 .venv/bin/python images/build.py cpu --engine podman --base "$base" \
    > "$folder/build.log" 2>&1 || { tail -5 "$folder/build.log"; echo "the image cannot be built"; exit 1; }

rm -f "$folder/podman.sock"
(cd "$folder" && exec podman system service --time=0 "unix://$folder/podman.sock") > "$folder/service.log" 2>&1 < /dev/null &
echo $! > "$folder/pid"
image=$(.venv/bin/python -c 'import json; print(json.load(open("images/digests.json"))["cpu"])')
printf 'export DOCKER_HOST=unix://%s/podman.sock SLIMREC_TEST_IMAGE=%s\n' "$folder" "$image" > "$folder/environment"
