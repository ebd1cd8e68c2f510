"""A call to a monitor outside while the daemon works. The monitor reports when the calls stop."""

import logging
import os
import time
from collections.abc import Iterator

import dagster as dg
import requests

INTERVAL_SECONDS = 60
SILENT_SECONDS = 300  # a part of the daemon that has not been at work for so long has died or hangs
TIMEOUT_SECONDS = 10

logger = logging.getLogger(__name__)


@dg.sensor(
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Every minute: calls HEARTBEAT_URL, unless a part of the daemon has stopped. On from the first start.",
)
def heartbeat(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Calls the monitor in the evaluation itself: a schedule would need a job, and leave a run per minute.

    The address is a secret, so no message shows it. A call that fails stops nothing else: the monitor notices.
    """
    url = os.environ.get("HEARTBEAT_URL", "").strip()
    if not url:
        return dg.SkipReason("HEARTBEAT_URL is not set in .env: nobody notices when the daemon stops.")
    if silent := list(silent_parts(context.instance)):
        return _not_sent(f"The daemon's {' and '.join(silent)} did not work for {SILENT_SECONDS} s")
    try:
        requests.get(url, timeout=TIMEOUT_SECONDS).raise_for_status()
    except requests.HTTPError as error:
        return _not_sent(f"HEARTBEAT_URL answers {error.response.status_code}")
    except ValueError:  # requests derives its errors about addresses from it
        return _not_sent("HEARTBEAT_URL has to be an address such as https://hc-ping.com/<id>")
    except requests.RequestException as error:
        return _not_sent(f"HEARTBEAT_URL cannot be reached: {type(error).__name__}")
    return dg.SkipReason("Sent.")


def silent_parts(instance: dg.DagsterInstance) -> Iterator[str]:
    """The parts of the daemon that have not reported for a while. Some run while this sensor is evaluated: the queue.

    A part that has never reported may not have started yet.
    """
    seen = instance.get_daemon_heartbeats()
    for part in instance.get_required_daemon_types():
        if part in seen and time.time() - seen[part].timestamp > SILENT_SECONDS:
            yield part.lower()


def _not_sent(reason: str) -> dg.SkipReason:
    logger.warning("No heartbeat: %s.", reason)  # `context.log` would leave a file per tick
    return dg.SkipReason(f"Not sent. {reason}.")


defs = dg.Definitions(sensors=[heartbeat])
