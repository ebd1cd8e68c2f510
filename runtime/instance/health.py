"""`python -m runtime.instance.health`: exits with 0 if this container's gRPC server serves.

It asks what `dagster api grpc-health-check` asks, without importing Dagster.
"""

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def is_serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service="DagsterApi")
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(not is_serving(f"{os.environ['DAGSTER_GRPC_HOST']}:{os.environ['DAGSTER_GRPC_PORT']}"))
