"""Coming up on a machine that is busy, and where there is no Ray."""

from __future__ import annotations

import pytest
import ray

from wanflow.errors import UsageError, WanflowError
from wanflow.pool import joining
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
    """The head restarts, or a machine is busy: a retry helps, so cron must not take it for wrong usage."""
    tries: list[str] = []

    def init(address: str, **_: object) -> None:
        tries.append(address)
        raise ConnectionError(said)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(WanflowError, match=r"ray://head:10001") as raised:
        init_ray("ray://head:10001")
    assert raised.value.exit_code == 1
    assert len(tries) == number


@pytest.mark.parametrize("address", ["head", "head:port", "http://head:8265", "foo://head:1"])
def test_an_address_that_is_none_is_wrong_usage(address: str) -> None:
    """Ray's own words for it, without anything on the network: no retry makes an address of it."""
    with pytest.raises(UsageError, match=address):
        init_ray(address)


def test_a_cluster_of_another_version_is_wrong_usage() -> None:
    """In the words of Ray's own check, which its client and its nodes share."""
    from ray._private.utils import check_version_info

    with pytest.raises(RuntimeError) as raised:
        check_version_info({"ray_version": "1.0.0", "python_version": "3.8.0"}, "here")
    assert joining._is_wrong("ray://head:10001", raised.value)


def test_a_machine_without_room_for_ray_is_no_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray says ValueError for too little free memory; on a machine that others use, that passes."""

    def init(address: str, **_: object) -> None:
        raise ValueError(
            "the amount of memory on this node available for tasks and actors is less than -1.0%"
        )

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(WanflowError, match="on this machine") as raised:
        init_ray(None)
    assert raised.value.exit_code == 1
