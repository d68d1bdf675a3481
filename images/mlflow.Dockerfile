# The MLflow server of manifests/: log-in, PostgreSQL, artifacts in an object store. Built as cpu.Dockerfile is.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM scratch AS wheels

FROM ${BASE} AS packages
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_FIND_LINKS=/wheels PIP_PYTHON=/opt/slimrec/bin/python
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/slimrec
COPY images/build.lock images/mlflow.lock /locks/
RUN --mount=type=bind,from=wheels,target=/wheels --mount=type=secret,id=certificates \
    PIP_PYTHON=/opt/build/bin/python /opt/build/bin/pip install --quiet --require-hashes --no-deps -r /locks/build.lock \
    && /opt/build/bin/pip install --quiet --require-hashes --no-deps -r /locks/mlflow.lock \
    && rm -rf /opt/slimrec/lib/python3*/site-packages/pyarrow/include \
    && /opt/build/bin/cyclonedx-py environment --output-reproducible --output-file /opt/slimrec/sbom.json \
    /opt/slimrec/bin/python

FROM ${BASE}
ARG BASE
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="slimrec-mlflow" \
      org.opencontainers.image.description="The MLflow server that slimrec's audits are kept in" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=packages /opt/slimrec /opt/slimrec
ENV PATH=/opt/slimrec/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp TMPDIR=/tmp XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib USER=slimrec
WORKDIR /tmp
USER 65532:65532
