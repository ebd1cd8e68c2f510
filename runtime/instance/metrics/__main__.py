"""`python -m runtime.instance.metrics`: serves /metrics for the instance in DAGSTER_HOME until it is stopped."""

import argparse
import logging

from dagster import DagsterInstance
from prometheus_client import disable_created_metrics, start_http_server

from runtime.instance.metrics.exporter import Exporter


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m runtime.instance.metrics")
    parser.add_argument("--port", type=int, default=9101)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--webserver", default="http://127.0.0.1:3000", help="the address of Dagster's webserver")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter
    with DagsterInstance.get() as instance:
        exporter = Exporter(instance, options.webserver)
        _, thread = start_http_server(options.port, options.host, exporter.registry)
        thread.join()


if __name__ == "__main__":
    main()
