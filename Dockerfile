# host           webserver and daemon: Dagster and the run launcher, without the code of any location. `--build-arg GROUP=…`
#                adds what starts a pod (`kubernetes`) or a container (`docker`) per run
# code-location  one location: `--build-arg LOCATION=<folder in code_locations>`
# metrics        what Dagster knows of itself, for Prometheus
# sandbox        the fake SaaS APIs; never deployed

FROM python:3.13-slim-trixie AS uv
# The root filesystem is read-only in a container, so bytecode must be compiled in the build.
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never PIP_CACHE_DIR=/cache/pip UV_CACHE_DIR=/cache/uv
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/cache pip install uv==0.13.9

FROM uv AS requirements
# Only these lists go on to the next stages: another edit of pyproject.toml does not install the packages again.
RUN --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    --mount=type=bind,source=uv.lock,target=uv.lock \
    mkdir /groups && export="uv export --quiet --locked --no-emit-project" \
 && $export --no-default-groups --group verified --output-file /dagster.txt \
 && $export --only-group sandbox --output-file /sandbox.txt \
 && $export --only-group analytics --output-file /groups/analytics.txt \
 && $export --only-group platform --output-file /groups/platform.txt \
 && $export --only-group metrics --output-file /groups/metrics.txt \
 && $export --only-group kubernetes --output-file /groups/kubernetes.txt \
 && $export --only-group docker --output-file /groups/docker.txt

FROM uv AS packages
COPY --from=requirements /dagster.txt /
RUN --mount=type=cache,target=/cache \
    uv venv --quiet /app/.venv && uv pip sync --python /app/.venv --require-hashes /dagster.txt

FROM uv AS sandbox-packages
COPY --from=requirements /sandbox.txt /
RUN --mount=type=cache,target=/cache \
    uv venv --quiet /app/.venv && uv pip sync --python /app/.venv --require-hashes /sandbox.txt

FROM python:3.13-slim-trixie AS base
# Numeric, so that Kubernetes can verify runAsNonRoot. Volumes take over the owner of the folder they are mounted on.
RUN groupadd --gid 10001 dagster && useradd --uid 10001 --gid 10001 --no-create-home dagster \
 && install -d -o 10001 -g 10001 /var/dlt /dagster/storage /app/data /files /backups
ENV PATH=/app/.venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 HOME=/tmp
WORKDIR /app

FROM base AS dagster
COPY --from=packages /app/.venv /app/.venv
# DAGSTER_HOME holds dagster.yaml and workspace.yaml, which are mounted, never baked in.
# DAGSTER_EVENT_BATCH_SIZE: a run over many days writes an event for each day. Batches make that faster.
ENV DAGSTER_HOME=/dagster DAGSTER_EVENT_BATCH_SIZE=1000

FROM dagster AS host
# What another launcher needs: the group `kubernetes` or `docker` (docs/scaling.md).
ARG GROUP
RUN --mount=type=bind,from=uv,source=/usr/local/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,from=requirements,source=/groups,target=/groups \
    --mount=type=cache,target=/cache \
    test -z "${GROUP}" || \
    UV_CACHE_DIR=/cache/uv uv pip install --python /app/.venv --compile-bytecode --link-mode copy \
        --no-deps --require-hashes -r /groups/${GROUP}.txt
COPY runtime/__init__.py runtime/
COPY runtime/instance runtime/instance
RUN python -m compileall -q runtime
USER 10001:10001
CMD ["dagster-webserver", "--host", "0.0.0.0", "--port", "3000", "--workspace", "/dagster/workspace.yaml"]

FROM dagster AS metrics
RUN --mount=type=bind,from=uv,source=/usr/local/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,from=requirements,source=/groups,target=/groups \
    --mount=type=cache,target=/cache \
    UV_CACHE_DIR=/cache/uv uv pip install --python /app/.venv --compile-bytecode --link-mode copy \
        --no-deps --require-hashes -r /groups/metrics.txt
COPY runtime/__init__.py runtime/
COPY runtime/instance runtime/instance
RUN python -m compileall -q runtime
USER 10001:10001
CMD ["python", "-m", "runtime.instance.metrics", "--host", "0.0.0.0", "--webserver", "http://webserver:3000"]

FROM uv AS code
# Docker compares what this stage leaves in /code. An edit that does not change it does not change the image either.
ARG LOCATION
RUN --mount=type=bind,target=/src python /src/scripts/location_code.py "${LOCATION}" /code

FROM dagster AS code-location
ARG LOCATION
# What only this location imports: the group of its name in pyproject.toml, if there is one. The list is complete.
RUN --mount=type=bind,from=uv,source=/usr/local/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,from=requirements,source=/groups,target=/groups \
    --mount=type=cache,target=/cache \
    test ! -f /groups/${LOCATION}.txt || \
    UV_CACHE_DIR=/cache/uv uv pip install --python /app/.venv --compile-bytecode --link-mode copy \
        --no-deps --require-hashes -r /groups/${LOCATION}.txt
# pg_dump for backups, no older than the servers: Debian 13 has version 17, as docker-compose.yml.
# hadolint ignore=DL3008
RUN test "${LOCATION}" != platform || { apt-get update && \
    apt-get install -y --no-install-recommends postgresql-client-17 && rm -rf /var/lib/apt/lists/*; }
COPY runtime runtime
RUN python -m compileall -q runtime
# DAGSTER_LAZY_LOAD_USER_CODE: a location whose import fails stays up and shows its error in the UI.
ENV DLT_DATA_DIR=/var/dlt LOAD__DELETE_COMPLETED_JOBS=true RUNTIME__DLTHUB_TELEMETRY=false \
    DAGSTER_GRPC_HOST=0.0.0.0 DAGSTER_GRPC_PORT=4000 DAGSTER_LAZY_LOAD_USER_CODE=1
ENV DAGSTER_MODULE_NAME=code_locations.${LOCATION}.definitions
COPY --from=code /code .
RUN python -m compileall -q code_locations dlt_sources \
 && if [ -f code_locations/${LOCATION}/prepare.py ]; then python -m code_locations.${LOCATION}.prepare; fi
USER 10001:10001
# `dagster api grpc` that drains runs on SIGTERM
CMD ["python", "-m", "runtime.instance.server"]

FROM base AS sandbox
COPY --from=sandbox-packages /app/.venv /app/.venv
COPY sandbox sandbox
RUN python -m compileall -q sandbox
USER 10001:10001
CMD ["python", "-m", "sandbox", "--host", "0.0.0.0", "--port", "8000", "--files", "/files"]
