# host           webserver and daemon: Dagster and the launcher, no location's code
# code-location  every location: same image, one container each
# sandbox        the stand-ins for the SaaS APIs; never deployed

FROM python:3.13-slim-trixie AS build
# Compiled bytecode: without it every process start costs 2.4 times as much, and the root filesystem is read-only.
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN --mount=type=cache,target=/root/.cache pip install uv==0.13.9
WORKDIR /app
RUN --mount=type=cache,target=/root/.cache \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    --mount=type=bind,source=uv.lock,target=uv.lock \
    uv sync --locked --no-dev --no-install-project

FROM python:3.13-slim-trixie AS base
# Numeric, so that Kubernetes can verify runAsNonRoot. The folders become volumes, which take over this owner.
RUN groupadd --gid 10001 dagster && useradd --uid 10001 --gid 10001 --no-create-home dagster \
 && install -d -o 10001 -g 10001 /var/dlt /var/log/dagster /dagster /app/data /files
COPY --from=build /app/.venv /app/.venv
# A run over many days writes an event for each: in batches that is thirty times as fast.
# DAGSTER_HOME holds dagster.yaml and workspace.yaml, which are mounted, never baked in.
ENV PATH=/app/.venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 \
    DAGSTER_HOME=/dagster DAGSTER_COMPUTE_LOGS_DIR=/var/log/dagster HOME=/tmp \
    DAGSTER_EVENT_BATCH_SIZE=1000
WORKDIR /app

FROM base AS host
COPY runtime runtime
RUN python -m compileall -q runtime
USER 10001:10001
CMD ["dagster-webserver", "--host", "0.0.0.0", "--port", "3000", "--workspace", "/dagster/workspace.yaml"]

FROM base AS code-location
COPY runtime runtime
COPY dlt_sources dlt_sources
COPY code_locations code_locations
RUN python -m compileall -q runtime dlt_sources code_locations
# Lazy: a location whose import fails stays up and shows its error in the UI, instead of restarting for ever.
ENV DLT_DATA_DIR=/var/dlt LOAD__DELETE_COMPLETED_JOBS=true RUNTIME__DLTHUB_TELEMETRY=false \
    DAGSTER_GRPC_HOST=0.0.0.0 DAGSTER_GRPC_PORT=4000 DAGSTER_LAZY_LOAD_USER_CODE=1
USER 10001:10001
# `dagster api grpc` with patience; DAGSTER_MODULE_NAME says which location.
CMD ["python", "-m", "runtime.server"]

FROM base AS sandbox
COPY sandbox sandbox
RUN python -m compileall -q sandbox
USER 10001:10001
CMD ["python", "-m", "sandbox", "--host", "0.0.0.0", "--port", "8000", "--files", "/files"]
