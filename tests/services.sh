#!/usr/bin/env bash
# Installs what tests/test_server.py and tests/test_deployed_mlflow.py start: PostgreSQL. They skip where it is not there.
set -euo pipefail
if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests/services.sh: no PostgreSQL here, and no right to install it: the tests that need it are skipped" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends postgresql >/dev/null
