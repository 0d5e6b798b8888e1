"""What servers answer to a lost condition, and how the client library dresses it up: all of it is one Conflict."""

from __future__ import annotations

import errno

import pytest

from wanflow.errors import Conflict, StoreAway, StoreError
from wanflow.storage.retry import call


class _ClientError(Exception):
    """The client library's own error: it carries the answer."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}


def dressed(number: int, status: int, code: str) -> OSError:
    """As s3fs raises it: an OSError whose cause is the client's error."""
    error = OSError(number, code)
    error.__cause__ = _ClientError(status, code)
    return error


class Action:
    """Always fails with ``error``, and counts."""

    def __init__(self, error: Exception) -> None:
        self.error, self.tries = error, 0

    def __call__(self) -> None:
        self.tries += 1
        raise self.error


def try_it(action: Action) -> None:
    call(action, "write s3://b/x", sleep=lambda seconds: None)


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (FileExistsError("PreconditionFailed"), 1),
        (dressed(errno.EINVAL, 412, "PreconditionFailed"), 1),
        (dressed(errno.EIO, 412, "412"), 1),
        (dressed(errno.EBUSY, 409, "ConditionalRequestConflict"), 5),
        (dressed(errno.EINVAL, 409, "OperationAborted"), 5),
    ],
    ids=["S3", "Swift and radosgw", "a code that is a number", "409 of S3", "409 of others"],
)
def test_a_lost_condition_is_a_conflict_however_it_is_dressed(error: Exception, tries: int) -> None:
    """412 at once; 409 means that another write is under way, and is asked again first."""
    action = Action(error)
    with pytest.raises(Conflict):
        try_it(action)
    assert action.tries == tries


@pytest.mark.parametrize("status", [500, 502, 503, 504, 507, 429, 408])
def test_a_busy_server_is_away_not_broken(status: int) -> None:
    """Whoever waits for the store needs to know that waiting may help."""
    with pytest.raises(StoreAway):
        try_it(Action(dressed(errno.EIO, status, "SlowDown")))


@pytest.mark.parametrize(
    ("status", "code"), [(400, "InvalidRequest"), (403, "AccessDenied"), (501, "NotImplemented")]
)
def test_what_waiting_cannot_help_is_no_outage(status: int, code: str) -> None:
    """And is asked once."""
    action = Action(dressed(errno.EINVAL, status, code))
    with pytest.raises(StoreError) as caught:
        try_it(action)
    assert not isinstance(caught.value, StoreAway)
    assert action.tries == 1
