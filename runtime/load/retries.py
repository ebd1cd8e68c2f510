"""Which errors are worth a retry within the run, and how long to wait."""

import errno
import re
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import suppress

from dagster import Backoff, OpExecutionContext, RetryPolicy
from dlt.common.destination.exceptions import SchemaUpdateError
from dlt.common.exceptions import DltException, TerminalException, TransientException
from dlt.destinations.exceptions import DestinationConnectionError
from dlt.load.exceptions import LoadClientJobException
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import HTTPError, SSLError, TooManyRedirects
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random_exponential,
)

RETRY_ON_FAILURE_TAG = "dagster/retry_on_asset_or_op_failure"
MAX_WAIT_SECONDS = 30.0
# For asset checks: they only read, so Dagster's own retries are enough. They wait for 130 s in total.
CHECK_RETRIES = RetryPolicy(max_retries=4, delay=5, backoff=Backoff.EXPONENTIAL)
# Drivers raise the same exception for a server that is down and for one that rejects this user. In Postgres' words.
REFUSAL = re.compile(r"authentication failed|(role|database) .* does not exist")
# PEP 249's names for values that do not fit and constraints, in any driver, and Postgres' for a missing permission.
REFUSED_BY_DATABASE = ("DataError", "IntegrityError", "NotSupportedError", "InsufficientPrivilege")
# An HTTP client has tried for half a minute by then. The host's name is wrong, or the container is offline.
UNRESOLVED = re.compile(r"Failed to resolve '([^']+)'")
# dlt's two mix-ins derive from BaseException, as the interrupts do that end a run.
ERRORS = (Exception, TerminalException, TransientException)
TRANSIENT = (TransientException, DestinationConnectionError, OSError)
# `requests` derives all its errors from OSError. A wrong URL, a wrong certificate and an answer that is no JSON stay.
PERMANENT = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    TooManyRedirects,
    ValueError,
)


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed a moment later.

    The first exception in the chain of causes that dlt or requests classifies decides. A failed schema change is
    transient: runs that create the same table at the same time make each other's DDL fail, and a retry applies only
    what is still missing. An interrupt is not transient, whatever it interrupted.
    """
    if not isinstance(error, ERRORS):
        return False
    if any(is_operational(cause) and REFUSAL.search(str(cause)) for cause in causes(error)) or unresolved_host(error):
        return False
    if any(isinstance(cause, SchemaUpdateError) for cause in causes(error)):
        return True
    if any(_is_of(cause, *REFUSED_BY_DATABASE) for cause in causes(error)):
        return False
    for cause in causes(error):
        if isinstance(cause, TerminalException):
            return False
        if status := _http_status(cause):
            return status == 429 or status >= 500
        if isinstance(cause, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(cause):
            return False
        if isinstance(cause, TRANSIENT):
            return not isinstance(cause, PERMANENT)
        if is_operational(cause):
            return True
    return False


def unresolved_host(error: BaseException) -> str | None:
    """The name of the host whose address could not be found, if that is the cause."""
    found = (UNRESOLVED.search(str(cause)) for cause in causes(error) if isinstance(cause, RequestsConnectionError))
    return next((match[1] for match in found if match), None)


def disk_is_full(error: BaseException) -> bool:
    """Whether a file could not be written because the disk is full."""
    return any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes(error))


def retrying(
    attempts: int, seconds: float, log: Callable[[str], None], unless: Callable[[], bool] = lambda: False
) -> Retrying:
    """Up to `attempts` tries with exponential back-off, half of it random. The first wait is at most `seconds`.

    No further try follows once `unless` is true.
    A schema change that fails three times with the same message is not a race, so it fails at once.
    """
    messages: list[str] = []

    def is_worth_a_retry(error: BaseException) -> bool:
        messages.append(str(getattr(error, "exception", error)))
        unchanged = len(messages) > 2 and len(set(messages[-3:])) == 1
        is_schema_update = any(isinstance(cause, SchemaUpdateError) for cause in causes(error))
        return is_transient(error) and not (unchanged and is_schema_update) and not unless()

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


def disable_run_retries(context: OpExecutionContext) -> None:
    """Keeps Dagster from restarting a run whose load failed: everything worth a retry was retried within the run."""
    with suppress(Exception):  # Dagster's own database is away, so a restart of the run is right
        context.instance.add_run_tags(context.run.run_id, {RETRY_ON_FAILURE_TAG: "false"})


def record_append(context: OpExecutionContext) -> None:
    """Records that this step of the run begins to append. Whoever starts the run again must know it."""
    context.instance.add_run_tags(context.run.run_id, {append_tag(context): context.run.run_id})


def append_tag(context: OpExecutionContext) -> str:
    """The tag of a run that has begun to append. Its value is the run's id: a re-execution inherits tags."""
    return f"dlt/appends.{str(context.op_handle)[-40:]}"


def is_operational(error: BaseException) -> bool:
    """Whether a database or the way to it failed, and not a statement: disconnects, deadlocks, …"""
    return _is_of(error, "OperationalError")


def _is_of(error: BaseException, *names: str) -> bool:
    """Whether the error's class or one of its bases has one of these names, for example those of PEP 249."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _http_status(error: BaseException) -> int | None:
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code
    return error.code if isinstance(error, urllib.error.HTTPError) else None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause, the cause of that, and so on.

    An error that dlt raises while it handles another one is caused by it. In a source it may be a bug of its own.
    """
    seen = set[int]()  # `raise error from error` makes a circle
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        of_job = error.client_exception if isinstance(error, LoadClientJobException) else None
        handled = error.__context__ if isinstance(error, DltException) else None
        error = of_job or error.__cause__ or handled
