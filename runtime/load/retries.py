"""Which errors are worth a retry within the run, and how long to wait."""

import errno
import re
from collections.abc import Callable, Iterator

from dagster import Backoff, RetryPolicy
from dlt.common.destination.exceptions import SchemaUpdateError
from dlt.common.exceptions import TerminalException, TransientException
from dlt.destinations.exceptions import DestinationConnectionError
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import HTTPError, Timeout
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random_exponential,
)

MAX_WAIT_SECONDS = 30.0
# For asset checks: they only read, so Dagster's own retries are enough. They wait 75 s in total, like a load.
CHECK_RETRIES = RetryPolicy(max_retries=4, delay=5, backoff=Backoff.EXPONENTIAL)
# Drivers raise the same exception for a server that is down and for one that rejects this user.
REFUSAL = re.compile(r"authentication failed|(role|database) .* does not exist")
TRANSIENT = (TransientException, DestinationConnectionError, RequestsConnectionError, Timeout, OSError)


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed a moment later.

    The first exception in the chain of causes that dlt or requests classifies decides. A failed schema change is
    transient: runs that create the same table at the same time make each other's DDL fail, and a retry applies only
    what is still missing.
    """
    if any(_is_operational(cause) and REFUSAL.search(str(cause)) for cause in causes(error)):
        return False
    for cause in causes(error):
        if isinstance(cause, SchemaUpdateError):
            return True
        if isinstance(cause, TerminalException):
            return False
        if isinstance(cause, HTTPError) and cause.response is not None:
            return cause.response.status_code == 429 or cause.response.status_code >= 500
        if isinstance(cause, TRANSIENT):
            return not isinstance(cause, FileNotFoundError | PermissionError)
        if _is_operational(cause):
            return True
    return False


def disk_is_full(error: BaseException) -> bool:
    """Whether a file could not be written because the disk is full."""
    return any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes(error))


def retrying(attempts: int, seconds: float, log: Callable[[str], None]) -> Retrying:
    """Up to `attempts` tries with exponential back-off, half of it random. The first wait is at most `seconds`.

    A schema change that fails three times with the same message is no race: it is not retried further.
    """
    messages: list[str] = []

    def is_worth_a_retry(error: BaseException) -> bool:
        messages.append(str(getattr(error, "exception", error)))
        unchanged = len(messages) > 2 and len(set(messages[-3:])) == 1
        is_schema_update = any(isinstance(cause, SchemaUpdateError) for cause in causes(error))
        return is_transient(error) and not (unchanged and is_schema_update)

    def announce(state: RetryCallState) -> None:
        wait = state.next_action.sleep if state.next_action else 0
        log(f"Attempt {state.attempt_number} of {attempts} failed, retrying in {wait:.1f} s: {messages[-1]}")

    return Retrying(
        retry=retry_if_exception(is_worth_a_retry),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=seconds / 2, max=MAX_WAIT_SECONDS / 2)
        + wait_random_exponential(multiplier=seconds / 2, max=MAX_WAIT_SECONDS / 2),
        before_sleep=announce,
        reraise=True,
    )


def _is_operational(error: BaseException) -> bool:
    """PEP 249's name, in any driver, for errors of the database's operation: disconnects, deadlocks, …"""
    return any(kind.__name__ == "OperationalError" for kind in type(error).__mro__)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause, the cause of that, and so on."""
    while error:
        yield error
        error = error.__cause__ or error.__context__
