# The MLflow server of manifests/: log-in, PostgreSQL, artifacts in an object store. Built as cpu.Dockerfile is.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM scratch AS wheels

FROM ${BASE} AS packages
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY images/build.lock images/mlflow.lock /opt/slimrec/locks/
RUN --mount=type=bind,from=wheels,target=/mnt/wheels --mount=type=secret,id=certificates \
    python3 -m venv /mnt/build && python3 -m venv --without-pip /opt/slimrec \
    && export PIP_NO_CACHE_DIR=1 PIP_FIND_LINKS=/mnt/wheels \
    && /mnt/build/bin/pip install --quiet --require-hashes --no-deps -r /opt/slimrec/locks/build.lock \
    && PIP_PYTHON=/opt/slimrec/bin/python \
    /mnt/build/bin/pip install --quiet --require-hashes --no-deps -r /opt/slimrec/locks/mlflow.lock \
    && rm -rf /opt/slimrec/lib/python3*/site-packages/pyarrow/include \
    && /mnt/build/bin/cyclonedx-py environment --output-reproducible --output-file /opt/slimrec/sbom.json \
    /opt/slimrec/bin/python && rm -rf /mnt/build

FROM packages
ARG BASE
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="slimrec-mlflow" \
      org.opencontainers.image.description="The MLflow server that slimrec's audits are kept in" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
ENV PATH=/opt/slimrec/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp TMPDIR=/tmp XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib USER=slimrec
WORKDIR /tmp
USER 65532:65532
