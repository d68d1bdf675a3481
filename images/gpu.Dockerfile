# The image of a step, with the CUDA build of torch. `make images` builds it; images/build.py says what it may be given.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# Wheels that no package index in reach has: `--build-context wheels=FOLDER` takes the place of this empty stage.
FROM scratch AS wheels

# What the library needs, locked by hash, in a virtual environment of its own.
FROM ${BASE} AS packages
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_FIND_LINKS=/wheels PIP_PYTHON=/opt/slimrec/bin/python
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/slimrec
COPY images/build.lock images/requirements.lock requirements-gpu.lock /locks/
# The image holds no compiler: what of torch serves compiling and testing C++ stays out.
RUN --mount=type=bind,from=wheels,target=/wheels --mount=type=secret,id=certificates \
    PIP_PYTHON=/opt/build/bin/python /opt/build/bin/pip install --quiet --require-hashes --no-deps -r /locks/build.lock \
    && /opt/build/bin/pip install --quiet --require-hashes --no-deps \
    -r /locks/requirements.lock -r /locks/requirements-gpu.lock \
    && cd /opt/slimrec/lib/python3*/site-packages \
    && rm -rf pyarrow/include torch/include torch/test torch/bin/test_* torch/bin/*Test torch/bin/protoc*

# The library itself, beside its packages: a change of code is a small layer.
FROM packages AS library
COPY . /source
RUN /opt/build/bin/pip install --quiet --no-deps --no-build-isolation --prefix /library /source \
    && /opt/build/bin/cyclonedx-py environment --pyproject /source/pyproject.toml --output-reproducible \
    --output-file /library/sbom.json /opt/slimrec/bin/python

FROM ${BASE}
ARG BASE
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="slimrec" \
      org.opencontainers.image.description="One step of an audit of a CTR model's input fields, on GPUs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=packages /opt/slimrec /opt/slimrec
COPY --from=library /library /opt/slimrec
# Nothing but /tmp is written to, and Python's compiled files are there already: the root may be read-only.
ENV PATH=/opt/slimrec/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp TMPDIR=/tmp XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib USER=slimrec \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /tmp
USER 65532:65532
