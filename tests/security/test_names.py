"""Rows that name what they should not: files of this machine, hosts of this network. Through plan, as a row would."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.security.attacks import Target, png, redirects, sends, web
from wanflow.allowed import Allowed
from wanflow.errors import InputError
from wanflow.inputs import Inputs
from wanflow.storage import web as web_module


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "../../../../etc/passwd",
        "~/.aws/credentials",
        "local:///etc/passwd",
        "file://localhost/etc/passwd",
        "file:/etc/passwd",
        "/proc/self/environ",
    ],
)
def test_files_of_the_machine_are_not_read(target: Target, name: str) -> None:
    """The planner's disk has keys on it; an error message that quotes a file would publish it."""
    words = target.refused_image(name)
    assert "outside of the folders" in words or "not below" in words or "does not exist" in words


def test_parent_folders_are_refused_also_when_the_file_is_a_picture(target: Target) -> None:
    (target.folder.parent / "private.png").write_bytes(png())
    assert "outside of the folders" in target.refused_image("../private.png")


def test_a_link_that_leaves_the_folder_is_refused(target: Target) -> None:
    """Whoever may write into the pictures' folder may not read the rest with it."""
    (target.folder.parent / "private.png").write_bytes(png())
    (target.folder / "a.png").symlink_to(target.folder.parent / "private.png")
    assert "a link to" in target.refused_image("a.png")
    (target.folder / "d").symlink_to(target.folder.parent)
    assert "outside of the folders" in target.refused_image("d/private.png")


def test_a_link_that_is_changed_between_check_and_open_is_noticed(tmp_path: Path) -> None:
    """The open file is asked where it lies, not its name."""
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "private.png").write_bytes(png())
    (inside / "a.png").write_bytes(png())

    class Late(Allowed):
        def check(self, place: str) -> None:
            super().check(place)
            if not (inside / "a.png").is_symlink():
                (inside / "a.png").unlink()
                (inside / "a.png").symlink_to(tmp_path / "private.png")

    with pytest.raises(InputError, match="outside of the folders"):
        Inputs(inside, allowed=Late([str(inside)])).image("a.png")


def test_a_pipe_does_not_hang_the_planner(target: Target) -> None:
    os.mkfifo(target.folder / "pipe.png")
    assert "pipe or a device" in target.refused_image("pipe.png")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "10.0.0.8",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "255.255.255.255",
        "224.0.0.1",
    ],
)
def test_addresses_that_are_not_public_are_not_connected_to(
    target: Target, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloud's metadata service gives credentials to whoever asks from this machine."""
    monkeypatch.setattr(socket.socket, "connect", _never)
    words = target.refused_image(f"https://{host}/latest/meta-data/iam.png")
    assert "no public address" in words or "there is no host" in words


def _never(*_: object) -> None:
    raise AssertionError("connected")


def test_a_name_that_leads_to_a_private_address_is_refused(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cdn.evil.example has an A record of 169.254.169.254, beside an innocent one."""
    _resolve(monkeypatch, ["93.184.216.34", "169.254.169.254"])
    monkeypatch.setattr(socket.socket, "connect", _never)
    assert "169.254.169.254, which is no public" in target.refused_image("https://cdn.evil.example/a.png")


def test_a_name_that_changes_its_address_after_the_check_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rebinding: the first answer is public, the second is not. There is no second question."""
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    asked: list[str] = []
    connected: list[Any] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return _infos(answers[min(len(asked), 2) - 1], port)

    def connect(self: socket.socket, address: Any) -> None:
        connected.append(address)
        raise PermissionError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(InputError):
        Inputs(tmp_path).image("https://cdn.evil.example/a.png")
    assert {address[0] for address in connected} == {"93.184.216.34"}
    assert len(connected) == len(asked) == 1


def _resolve(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: _infos(addresses, port))


def _infos(addresses: list[str], port: int) -> list[Any]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]


def test_redirects_are_checked_at_each_hop(target: Target) -> None:
    """A server that the job allows sends on to one that it does not."""
    answers = {"/in/b.png": sends(png())}
    with web(answers) as (url, asked), web({"/secret.png": sends(png())}) as (inner, inner_asked):
        target.sections["inputs"] = {"allow": ["./", f"{url}/in/"], "networks": ["127.0.0.0/8"]}
        answers["/in/a.png"] = redirects(f"{inner}/secret.png")
        assert "is not below a place" in target.refused_image(f"{url}/in/a.png")
        answers["/in/a.png"] = redirects("/in/../secret.png")
        assert "is not below a place" in target.refused_image(f"{url}/in/a.png")
        answers["/in/a.png"] = redirects("file:///etc/passwd")
        assert "outside of the folders" in target.refused_image(f"{url}/in/a.png")
        answers["/in/a.png"] = redirects(f"file://{target.folder}/logo.png")
        assert "redirects to it" in target.refused_image(f"{url}/in/a.png")
        answers["/in/a.png"] = redirects("/in/b.png")
        target.plan()
        assert inner_asked == []
        assert "/in/b.png" in asked


def test_a_redirect_to_a_private_address_is_refused(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheme is allowed, the address is not: the second hop is looked up like the first."""
    answers = {}
    with web(answers) as (url, asked), web({"/a.png": sends(png())}) as (inner, inner_asked):
        answers["/a.png"] = redirects(inner.replace("127.0.0.1", "127.0.0.2") + "/a.png")
        target.sections["inputs"] = {"allow": ["http://", "./"], "networks": ["127.0.0.1/32"]}
        assert "127.0.0.2, which is no public address" in target.refused_image(f"{url}/a.png")
        assert inner_asked == []
        assert asked


def test_endless_redirects_and_endless_bodies_end(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"/large.png": sends(b"x" * 1000, claimed=10**12), "/lies.png": sends(b"x" * 10, claimed=1000)}
    with web(answers) as (url, asked):
        answers["/loop.png"] = redirects(f"{url}/loop.png")
        target.sections["inputs"] = {"allow": ["http://", "./"], "networks": ["127.0.0.1"]}
        assert "redirected more than" in target.refused_image(f"{url}/loop.png")
        assert asked.count("/loop.png") <= 4 * (web_module.MAX_HOPS + 1)
        assert "larger than" in target.refused_image(f"{url}/large.png")
        monkeypatch.setattr("wanflow.storage.retry.FIRST_WAIT_S", 0.0001)
        assert "cannot be read" in target.refused_image(f"{url}/lies.png")


def test_a_server_that_drips_is_cut_off(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte a second never times out by itself."""
    monkeypatch.setattr(web_module, "LIMIT_S", 0.3)
    monkeypatch.setattr("wanflow.storage.retry.FIRST_WAIT_S", 0.0001)

    def drip(request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000000")
        request.end_headers()
        request.connection.settimeout(20)
        request.connection.recv(1)  # until the other side goes

    with web({"/a.png": drip}) as (url, _):
        target.sections["inputs"] = {"allow": ["http://"], "networks": ["127.0.0.1"]}
        target.sections["layers"] = []
        assert "cannot be read" in target.refused_image(f"{url}/a.png")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://cdn.example.com/a.png", "not below"),
        ("ftp://cdn.example.com/a.png", "not below"),
        ("gopher://127.0.0.1:6379/_x", "not below"),
        ("data://image/png;base64,AAAA", "not below"),
        ("github://org:repo@/a.png", "credentials"),
        ("zip://a.png::https://cdn.example.com/a.zip", "control characters, backslashes or ::"),
        ("https://user:pw@cdn.example.com/a.png", "a user or a password"),
        ("s3://key:secret@bucket/a.png", "credentials"),
        ("https://cdn.example.com/a/%2e%2e/b.png", r"has \. or \.\."),
        ("s3://bucket/a/../b.png", r"has \. or \.\."),
        ("https://cdn.example.com\\@127.0.0.1/a.png", "backslashes"),
        ("https://cdn.example.com/\x1b[2J.png", "control characters"),
        ("https://[::1/a.png", "URL|IPv6"),
        ("https://" + "a" * 3000, "characters"),
    ],
)
def test_other_schemes_and_odd_spellings_are_refused(target: Target, url: str, words: str) -> None:
    import re

    found = target.refused_image(url)
    assert re.search(words, found), found
    assert "secret" not in found
    assert "pw@" not in found
    assert "\x1b" not in found


def test_a_home_of_nobody_is_refused(target: Target) -> None:
    """`~` and a NUL: asking the system for the home of such a user is an error of its own."""
    assert "control characters" in target.refused_image("~\x00/a.png")


@pytest.mark.parametrize(
    ("prefix", "url", "passes"),
    [
        ("https://cdn.example.com/img/", "https://cdn.example.com/img/a.png", True),
        ("https://cdn.example.com/img", "https://CDN.example.com:443/img/a.png", True),
        ("https://cdn.example.com/img", "https://cdn.example.com/imgevil/a.png", False),
        ("https://cdn.example.com", "https://cdn.example.com.evil.org/a.png", False),
        ("https://cdn.example.com", "https://cdn.example.com:8443/a.png", False),
        ("https://cdn.example.com", "http://cdn.example.com/a.png", False),
        ("s3://dwh/", "s3a://dwh/a.png", True),
        ("s3://dwh/logos/", "s3://dwh/secret/a.png", False),
        ("s3://dwh", "s3://dwh-private/a.png", False),
        ("s3://", "s3://any/a.png", True),
        ("s3://", "gs://any/a.png", False),
        ("abfs://c@account.dfs.core.windows.net/", "abfss://c@account.dfs.core.windows.net/a.png", True),
        ("abfs://c@account.dfs.core.windows.net/", "abfss://c@other.dfs.core.windows.net/a.png", False),
    ],
)
def test_a_prefix_covers_what_lies_below_it_and_nothing_else(prefix: str, url: str, passes: bool) -> None:
    allowed = Allowed([prefix])
    if passes:
        allowed.check(url)
    else:
        with pytest.raises(InputError, match="not below a place"):
            allowed.check(url)


def test_fonts_and_the_jobs_own_pictures_pass_the_same_door(target: Target) -> None:
    from wanflow.errors import JobError

    target.sections["layers"][1]["text"]["font"] = "/usr/share/fonts/a.ttf"
    with pytest.raises(JobError, match="outside of the folders"):
        target.plan()
    del target.sections["layers"][1]["text"]["font"]
    target.sections["inputs"] = {"allow": ["s3://dwh/"]}
    with pytest.raises(JobError, match=r"logo\.png: is outside of the folders"):
        target.plan()


def test_a_web_picture_is_copied_once_and_no_replica_asks_its_host(target: Target) -> None:
    """Replicas have no list of what is allowed, and need none: they read what was planned with."""
    with web({"/a.png": sends(png((64, 64)))}) as (url, asked):
        target.sections["inputs"] = {"allow": ["http://", "./"], "networks": ["127.0.0.1"]}
        target.rows[1]["image"] = f"{url}/a.png"
        outcome = target.run()
        assert outcome.exit_code == 0
        assert asked.count("/a.png") <= 3, "looked at and read while planning, read once to be staged"


def test_a_dead_host_costs_its_rows_and_not_the_batch(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wanflow.storage.retry.FIRST_WAIT_S", 0.0001)
    target.sections["inputs"] = {"allow": ["http://", "./"], "networks": ["127.0.0.1"]}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.png"
        assert "cannot be read" in target.refused_image(url)
