# The image of a step, with the CPU build of torch. `make images` builds it; images/build.py says what it may be given.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# Wheels that no package index in reach has: `--build-context wheels=FOLDER` takes the place of this empty stage.
FROM scratch AS wheels

# What the library needs, locked by hash, in a virtual environment of its own; nothing large is copied from stage to stage.
# The first and largest layer is torch with what is linked with it: it changes with its lock alone. The image holds no
# compiler: what of torch and CUDA serves compiling and testing C++ stays out, and the pip that installs.
FROM ${BASE} AS torch
ARG TORCH=cpu
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements-cpu.lock requirements-gpu.lock /opt/slimrec/locks/
RUN --mount=type=bind,from=wheels,target=/mnt/wheels --mount=type=secret,id=certificates \
    python3 -m venv /mnt/build && python3 -m venv --without-pip /opt/slimrec \
    && PIP_NO_CACHE_DIR=1 PIP_FIND_LINKS=/mnt/wheels PIP_PYTHON=/opt/slimrec/bin/python \
    /mnt/build/bin/pip install --quiet --require-hashes --no-deps -r /opt/slimrec/locks/requirements-${TORCH}.lock \
    && rm -rf /mnt/build && cd /opt/slimrec/lib/python3*/site-packages \
    && rm -rf torch/include torch/test torch/bin/test_* torch/bin/*Test torch/bin/protoc* \
    && find . -path '*nvidia/*' \( -name include -o -name '*.a' \) -prune -exec rm -rf {} +

FROM torch AS packages
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY images/requirements.lock /opt/slimrec/locks/
RUN --mount=type=bind,from=wheels,target=/mnt/wheels --mount=type=secret,id=certificates \
    python3 -m venv /mnt/build \
    && PIP_NO_CACHE_DIR=1 PIP_FIND_LINKS=/mnt/wheels PIP_PYTHON=/opt/slimrec/bin/python \
    /mnt/build/bin/pip install --quiet --require-hashes --no-deps -r /opt/slimrec/locks/requirements.lock \
    && rm -rf /mnt/build /opt/slimrec/lib/python3*/site-packages/pyarrow/include

# The library itself and the list of all that is in the image, to be the last layer: a change of code is a small one.
FROM packages AS library
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY images/build.lock /locks/
RUN --mount=type=bind,from=wheels,target=/mnt/wheels --mount=type=secret,id=certificates \
    python3 -m venv /opt/build && PIP_NO_CACHE_DIR=1 PIP_FIND_LINKS=/mnt/wheels \
    /opt/build/bin/pip install --quiet --require-hashes --no-deps -r /locks/build.lock
COPY . /source
RUN PIP_NO_CACHE_DIR=1 PIP_PYTHON=/opt/slimrec/bin/python \
    /opt/build/bin/pip install --quiet --no-deps --no-build-isolation --prefix /library /source \
    && /opt/build/bin/cyclonedx-py environment --pyproject /source/pyproject.toml --output-reproducible \
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
