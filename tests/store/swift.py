"""OpenStack Swift with its S3 door, for tests: four processes on ports that the system picks, one device in a folder.

Swift is no dependency of wanflow. Install it anywhere (``python -m venv swift && swift/bin/pip install swift==2.38.3``)
and name its ``bin`` folder in ``WANFLOW_SWIFT``; without it the tests that need it skip.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

KEY, SECRET = "wanflow:s3", "swift-secret"

_SWIFT = "[swift-hash]\nswift_hash_path_prefix = wanflow\nswift_hash_path_suffix = tests\n"

_BACKEND = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
devices = {folder}/devices
mount_check = false
disable_fallocate = true
swift_dir = {folder}
user = {user}
log_name = {kind}
log_address = {folder}/none
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

_PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
user = {user}
log_name = proxy
log_address = {folder}/none
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:9
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_wanflow_s3 = {secret} .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


def swift_bin() -> Path | None:
    """The folder with Swift's commands, or None where there is no Swift."""
    named = os.environ.get("WANFLOW_SWIFT", "")
    found = shutil.which("swift-proxy-server", path=named or None)
    return Path(found).parent if found else None


@contextmanager
def running(folder: Path, commands: Path) -> Iterator[str]:
    """Run it in ``folder``; gives the endpoint of its S3 door."""
    ports = dict(zip(("account", "container", "object", "proxy"), _free_ports(4), strict=True))
    (folder / "devices/d1").mkdir(parents=True)
    (folder / "swift.conf").write_text(_SWIFT)
    facts = {"folder": folder, "user": _user(), "secret": SECRET}
    for kind in ("account", "container", "object"):
        builder = str(folder / f"{kind}.builder")
        for words in (
            ("create", "4", "1", "1"),
            ("add", f"r1z1-127.0.0.1:{ports[kind]}/d1", "1"),
            ("rebalance",),
        ):
            subprocess.run(
                [commands / "swift-ring-builder", builder, *words], check=True, capture_output=True
            )
        (folder / f"{kind}.conf").write_text(_BACKEND.format(kind=kind, port=ports[kind], **facts))
    (folder / "proxy.conf").write_text(_PROXY.format(port=ports["proxy"], **facts))
    endpoint = f"http://127.0.0.1:{ports['proxy']}"
    with ExitStack() as stack:
        for kind in ports:
            log = stack.enter_context(open(folder / f"{kind}.log", "wb"))
            server = subprocess.Popen(
                [commands / f"swift-{kind}-server", folder / f"{kind}.conf", "verbose"],
                stdout=log, stderr=log, env={**os.environ, "SWIFT_DIR": str(folder)},
            )  # fmt: skip
            stack.callback(server.wait)
            stack.callback(server.kill)
        _wait_until_healthy(endpoint, folder)
        yield endpoint


def _wait_until_healthy(endpoint: str, folder: Path) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{endpoint}/healthcheck", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError(f"Swift did not come up: {(folder / 'proxy.log').read_text()[-2000:]}")


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
