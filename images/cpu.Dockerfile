# The image of a step, with the CPU build of torch. `make images` builds it; images/build.py says what it may be given.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# Wheels that no package index in reach has: `--build-context wheels=FOLDER` takes the place of this empty stage.
FROM scratch AS wheels

# The locks, apart from each other: a change of one makes no layer anew that comes of the other.
FROM scratch AS torch-locks
COPY requirements-*.lock /
FROM scratch AS locks
COPY images/build.lock images/requirements.lock /

# pip and what lists packages: mounted below /mnt where they are needed, part of no image.
FROM ${BASE} AS tools
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=bind,from=wheels,target=/mnt/wheels --mount=type=bind,from=locks,target=/mnt/locks \
    --mount=type=secret,id=certificates \
    python3 -m venv /mnt/build && PIP_NO_CACHE_DIR=1 PIP_FIND_LINKS=/mnt/wheels \
    /mnt/build/bin/python -m pip install --quiet --require-hashes --no-deps -r /mnt/locks/build.lock

# What the library needs, locked by hash, in a virtual environment of its own. Nothing is copied from stage to stage: each
# layer is written once. The first and largest is torch with what is linked with it; it changes with its lock alone. The
# image holds no compiler: what of torch and CUDA serves compiling and testing C++ stays out.
FROM ${BASE} AS torch
ARG TORCH=cpu
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=bind,from=tools,source=/mnt/build,target=/mnt/build \
    --mount=type=bind,from=wheels,target=/mnt/wheels --mount=type=bind,from=torch-locks,target=/mnt/locks \
    --mount=type=secret,id=certificates \
    python3 -m venv --without-pip /opt/slimrec \
    && PIP_NO_CACHE_DIR=1 PIP_FIND_LINKS=/mnt/wheels PIP_PYTHON=/opt/slimrec/bin/python \
    /mnt/build/bin/python -m pip install --quiet --require-hashes --no-deps -r /mnt/locks/requirements-${TORCH}.lock \
    && cd /opt/slimrec/lib/python3*/site-packages \
    && rm -rf torch/include torch/test torch/bin/test_* torch/bin/*Test torch/bin/protoc* \
    && find . -path '*nvidia/*' \( -name include -o -name '*.a' \) -prune -exec rm -rf {} +

FROM torch AS packages
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=bind,from=tools,source=/mnt/build,target=/mnt/build \
    --mount=type=bind,from=wheels,target=/mnt/wheels --mount=type=bind,from=locks,target=/mnt/locks \
    --mount=type=secret,id=certificates \
    PIP_NO_CACHE_DIR=1 PIP_FIND_LINKS=/mnt/wheels PIP_PYTHON=/opt/slimrec/bin/python \
    /mnt/build/bin/python -m pip install --quiet --require-hashes --no-deps -r /mnt/locks/requirements.lock \
    && rm -rf /opt/slimrec/lib/python3*/site-packages/pyarrow/include

# The library itself, in the last layer: a change of code is small.
FROM tools AS library
COPY . /source
RUN --mount=type=bind,from=packages,source=/opt/slimrec,target=/opt/slimrec \
    PIP_PYTHON=/opt/slimrec/bin/python PIP_NO_CACHE_DIR=1 \
    /mnt/build/bin/python -m pip install --quiet --no-deps --no-build-isolation --prefix /library /source \
    && /mnt/build/bin/cyclonedx-py environment --pyproject /source/pyproject.toml --output-reproducible \
    --output-file /library/sbom.json /opt/slimrec/bin/python

FROM packages
ARG BASE
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="slimrec" \
      org.opencontainers.image.description="One step of an audit of a CTR model's input fields, on CPU" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=library /library /opt/slimrec
# Nothing but /tmp is written to, and Python's compiled files are there already: the root may be read-only.
ENV PATH=/opt/slimrec/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp TMPDIR=/tmp XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib USER=slimrec
WORKDIR /tmp
USER 65532:65532
