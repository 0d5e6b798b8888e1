"""Coming up on a machine that is busy."""

from __future__ import annotations

import pytest
import ray

from wanflow.errors import UsageError
from wanflow.pool.joining import init_ray

#: what Ray 2 says; the second from a head node's log, by way of its client server
SLOW = [
    "The current node timed out during startup. This could happen because some of the Ray processes failed to startup.",
    "Initialization failure from server: Starting Ray client server failed. See ray_client_server_23000.err",
]


@pytest.mark.parametrize(("address", "said"), [(None, SLOW[0]), ("ray://head:10001", SLOW[1])])
def test_a_busy_machine_is_given_a_second_chance(
    monkeypatch: pytest.MonkeyPatch, address: str | None, said: str
) -> None:
    tries: list[str] = []

    def init(address: str, **_: object) -> None:
        tries.append(address)
        if len(tries) == 1:
            raise ConnectionAbortedError(said)

    monkeypatch.setattr(ray, "init", init)
    init_ray(address)
    assert tries == [address or "local"] * 2


@pytest.mark.parametrize(("said", "number"), [(SLOW[0], 2), ("connection refused", 1)])
def test_what_does_not_pass_is_an_error_that_names_the_address(
    monkeypatch: pytest.MonkeyPatch, said: str, number: int
) -> None:
    tries: list[str] = []

    def init(address: str, **_: object) -> None:
        tries.append(address)
        raise ConnectionError(said)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UsageError, match=r"ray://head:10001"):
        init_ray("ray://head:10001")
    assert len(tries) == number
