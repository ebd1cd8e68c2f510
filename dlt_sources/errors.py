"""Why a source cannot be read, and whether the same load may succeed later."""

from dlt.common.exceptions import TerminalException, TransientException
from dlt.extract.exceptions import DltSourceException


class SourceError(DltSourceException):
    """A source cannot be read. dlt does not wrap its own exceptions: `PipelineStepFailed.__cause__` is this one."""


class TransientSourceError(SourceError, TransientException):
    """The same load may succeed later."""


class PermanentSourceError(SourceError, TerminalException):
    """The same load fails until somebody changes what the message names."""
