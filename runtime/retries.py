"""What is worth another try inside a run, and how long to wait for it."""

from collections.abc import Callable, Iterator

from dlt.common.destination.exceptions import SchemaUpdateError
from dlt.common.exceptions import TerminalException, TransientException
from dlt.destinations.exceptions import DestinationConnectionError
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import HTTPError, Timeout
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

MAX_WAIT_SECONDS = 30.0
TRANSIENT = (TransientException, DestinationConnectionError, RequestsConnectionError, Timeout, OSError)


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed a moment later.

    The first exception in the chain of causes that dlt or requests has an opinion on decides. A failed change of the
    schema counts: runs that create the same table at once make each other's DDL fail, and dlt, asked again, applies
    only what is still missing.
    """
    for cause in _causes(error):
        if isinstance(cause, SchemaUpdateError):
            return True
        if isinstance(cause, TerminalException):
            return False
        if isinstance(cause, HTTPError) and cause.response is not None:
            return cause.response.status_code == 429 or cause.response.status_code >= 500
        if isinstance(cause, TRANSIENT):
            return not isinstance(cause, FileNotFoundError | PermissionError)
        # PEP 249's name for what is not the programmer's fault, whatever the driver: disconnects, deadlocks, …
        if any(kind.__name__ == "OperationalError" for kind in type(cause).__mro__):
            return True
    return False


def retrying(attempts: int, seconds: float, log: Callable[[str], None]) -> Retrying:
    """Up to `attempts` tries with exponential back-off and jitter: the first wait is at most `seconds`.

    Gives up early on an error that comes back unchanged twice: that is no race.
    """
    messages: list[str] = []

    def worth_it(error: BaseException) -> bool:
        messages.append(str(getattr(error, "exception", error)))
        unchanged = len(messages) > 2 and len(set(messages[-3:])) == 1
        is_schema_update = any(isinstance(cause, SchemaUpdateError) for cause in _causes(error))
        return is_transient(error) and not (unchanged and is_schema_update)

    def announce(state: RetryCallState) -> None:
        wait = state.next_action.sleep if state.next_action else 0
        log(f"Attempt {state.attempt_number} of {attempts} failed, next in {wait:.1f} s: {messages[-1]}")

    return Retrying(
        retry=retry_if_exception(worth_it),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=seconds, max=MAX_WAIT_SECONDS),
        before_sleep=announce,
        reraise=True,
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__
