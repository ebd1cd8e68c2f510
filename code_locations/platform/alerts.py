"""Messages about what is wrong in any location, to Slack, e-mail, Teams and whatever else Apprise knows."""

import hashlib
import logging
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import dagster as dg
from apprise import Apprise, NotifyBase, NotifyFormat

from code_locations.platform.problems import Look, Message, State

KEY = "platform/alerts"
MOST_WAITING = 100  # messages. While so many wait, what happens stays in Dagster's records
MOST_AT_ONCE = 20  # messages in one notification
SEND_SECONDS = 20

logger = logging.getLogger(__name__)
_one_look = threading.Lock()


class Receiver(NamedTuple):
    """One of ALERT_URLS. Its address is a secret: messages and the state know its place in the list and a digest."""

    id: str
    name: str
    service: NotifyBase | None  # None if Apprise does not understand the address


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Every 30 seconds: sends failed runs, checks, backfills, sensors and schedules of all locations, and "
    "assets that are not fresh, and locations that do not load, to ALERT_URLS. On from the first start.",
)
def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """One sensor for all kinds of problems, which keeps what it knows in Dagster's database.

    A `run_failure_sensor` marks a failure as seen although its function raised: what a receiver did not take would be
    lost. It knows nothing of what succeeded either. The state is not the sensor's cursor, because Dagster keeps a copy
    of the cursor for each tick.
    """
    if not _one_look.acquire(blocking=False):
        return dg.SkipReason("The last look has not ended.")
    try:
        return _look(context.instance)
    finally:
        _one_look.release()


def _look(instance: dg.DagsterInstance) -> dg.SkipReason:
    state = load(instance)
    if len(state.outbox) < MOST_WAITING:
        Look(instance, state, webserver_url(), os.environ.get("WEBSERVER_INTERNAL_URL", "")).gather()
    receivers = configured()
    hand_out(state, receivers)
    save(instance, state)  # before anything is sent: a crash then sends a message twice rather than never
    if not receivers:
        return _log_instead(instance, state)
    usable = [receiver for receiver in receivers if receiver.service]
    with ThreadPoolExecutor(len(usable) or 1) as threads:  # one that is slow does not delay the others
        sent = dict(zip(usable, threads.map(lambda receiver: send(receiver, state.outbox), usable), strict=True))
    for receiver, messages in sent.items():
        for message in messages or ():
            message.to.remove(receiver.id)
            message.sent = True
    refused = [receiver.name for receiver, messages in sent.items() if messages is None]
    forget_sent(state)
    save(instance, state)
    wrong = [f"{receiver.name} is no address that Apprise knows" for receiver in receivers if not receiver.service]
    wrong += [f"{name} did not take the alerts, which will be sent again" for name in refused]
    if wrong:
        raise RuntimeError(f"{'; '.join(wrong)}. {len(state.outbox)} messages wait.")
    waiting = f", {len(state.outbox)} wait" if state.outbox else ""
    return dg.SkipReason(f"{sum(map(len, filter(None, sent.values())))} messages sent{waiting}.")


def load(instance: dg.DagsterInstance) -> State:
    text = instance.daemon_cursor_storage.get_cursor_values({KEY}).get(KEY)
    return State.from_json(text) if text else State.at_first(instance)


def save(instance: dg.DagsterInstance, state: State) -> None:
    instance.daemon_cursor_storage.set_cursor_values({KEY: state.to_json()})


def webserver_url() -> str:
    port = os.environ.get("WEBSERVER_PORT") or "3000"
    return (os.environ.get("WEBSERVER_URL") or f"http://127.0.0.1:{port}").rstrip("/")


def configured() -> list[Receiver]:
    urls = re.split(r"[\s,]+(?=[\w+.-]+://)", os.environ.get("ALERT_URLS", "").strip(" ,\n"))
    return [
        Receiver(
            hashlib.sha256(url.encode()).hexdigest()[:12],
            f"Number {number} of ALERT_URLS ({url.partition(':')[0] if '://' in url else 'without ://'})",
            service_of(url),
        )
        for number, url in enumerate(dict.fromkeys(filter(None, urls)), 1)
    ]


def service_of(url: str) -> NotifyBase | None:
    """Without Apprise's log of it, which shows a wrong address, and the tokens in it."""
    log = logging.getLogger("apprise")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        return Apprise.instantiate(url)
    finally:
        log.setLevel(level)


def hand_out(state: State, receivers: list[Receiver]) -> None:
    """Addresses new messages, and takes those back that are for a receiver which is no longer configured."""
    usable = [receiver.id for receiver in receivers if receiver.service]
    for message in state.outbox:
        message.to = [one for one in message.to if one in usable] or ([] if message.sent else list(usable))
    if usable:
        forget_sent(state)


def forget_sent(state: State) -> None:
    """Removes what everybody has got. If too much waits, also what somebody has got: one that is down holds up none."""
    state.outbox = [message for message in state.outbox if message.to or not message.sent]
    too_many = max(0, len(state.outbox) - MOST_WAITING)
    known = [message for message in state.outbox if message.sent][:too_many]
    if known:
        logger.warning("%d alerts are not sent again to the receivers that have not taken them for long", len(known))
        state.outbox = [message for message in state.outbox if message not in known]


def send(receiver: Receiver, outbox: list[Message]) -> list[Message] | None:
    """Sends what waits for a receiver in one notification. Returns what it has taken, None if it did not answer."""
    assert receiver.service is not None
    waiting = [message for message in outbox if receiver.id in message.to][:MOST_AT_ONCE]
    while len(waiting) > 1 and len(text(waiting)) > receiver.service.body_maxlen:
        waiting.pop()
    if not waiting:
        return []
    types = {message.type for message in waiting}
    worst = next(kind for kind in ("failure", "warning", "success") if kind in types)
    apprise = Apprise()
    apprise.add(receiver.service)
    title, body = (waiting[0].title, waiting[0].body) if len(waiting) == 1 else (subject(waiting), text(waiting))
    taken = apprise.notify(body, title, worst, body_format=NotifyFormat.TEXT, timeout=SEND_SECONDS)
    return waiting if taken else None


def subject(messages: list[Message]) -> str:
    return f"{len(messages)} messages from Dagster"


def text(messages: list[Message]) -> str:
    return "\n\n".join(f"{message.title}\n{message.body}" for message in messages)


def _log_instead(instance: dg.DagsterInstance, state: State) -> dg.SkipReason:
    for message in state.outbox:
        logger.warning("Not sent, because ALERT_URLS is not set: %s. %s", message.title, message.body.splitlines()[0])
    state.outbox = []
    save(instance, state)
    return dg.SkipReason("ALERT_URLS is not set in .env: alerts are only in this container's log.")


defs = dg.Definitions(sensors=[alerts])
