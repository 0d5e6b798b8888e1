"""What an error means does not depend on what its caller was handling when it came."""

from __future__ import annotations

from wanflow.errors import Conflict
from wanflow.storage.retry import call


class _PreconditionFailed(Exception):
    def __init__(self) -> None:
        super().__init__("412")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": 412}, "Error": {"Code": "PreconditionFailed"}}


def _refused() -> bytes:
    raise _PreconditionFailed


def test_connection_lost_while_a_conflict_is_handled_is_tried_again() -> None:
    """A writer that lost reads who won; a connection that breaks in that read is no second conflict."""
    answers = [ConnectionResetError("lost"), b"the winner's record"]

    def read() -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    try:
        call(_refused, "write x", sleep=lambda seconds: None)
    except Conflict:
        found = call(read, "read x", sleep=lambda seconds: None)
    assert found == b"the winner's record"
