"""Starts a RayJob, waits for its end, and ends with the exit code of the ``wanflow run`` inside it.

Runs in the CronJob's pod (cronjob.yaml) with the standard library alone and speaks to the Kubernetes API itself: the
image then needs no kubectl, and the service account no right beyond RayJobs of its namespace.

- A RayJob with the selector's labels that has not ended is followed instead of starting a second one: this pod may be
  the replacement of one that was evicted while it waited.
- KubeRay tells the exit code only in ``status.message`` ("Job entrypoint command failed with exit code 3, ..."). What
  never came to an exit code ends with 1 (broken, a retry helps), or with 5 (work left) when a deadline or a person
  ended it.
- Finished RayJobs beyond ``--keep`` are deleted; their clusters are gone already (``shutdownAfterJobFinishes``).

It does not know what the job does, and stops nothing when it is stopped itself.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TERMINAL = ("Complete", "Failed", "ValidationFailed")
EXIT_CODE = re.compile(r"Job entrypoint command failed with exit code (\d+)\b")


class Api:
    """RayJobs of one namespace."""

    def __init__(self, server: str, namespace: str, account: Path, patience_s: float, poll_s: float) -> None:
        self.url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self.account = account
        self.patience_s = patience_s
        self.poll_s = poll_s
        ca = account / "ca.crt"
        self.tls = (
            ssl.create_default_context(cafile=str(ca))
            if server.startswith("https:") and ca.exists()
            else None
        )

    def call(self, method: str, path: str = "", body: bytes | None = None) -> dict[str, Any]:
        """The answer. HTTPError for what asking again does not mend; a silent server is asked for ``patience_s``."""
        give_up = time.monotonic() + self.patience_s
        while True:
            # the token is read anew each time: Kubernetes replaces it every hour
            token = (self.account / "token").read_text().strip()
            headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
            if body is not None:
                headers["Content-Type"] = "application/yaml"
            request = urllib.request.Request(self.url + path, data=body, method=method, headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=30, context=self.tls) as answer:
                    found: dict[str, Any] = json.load(answer)
                    return found
            except urllib.error.HTTPError as error:
                # A lost answer to a POST may have created the RayJob: starting over (and finding it) is the caller's.
                if method == "POST" or not (error.code == 429 or error.code >= 500):
                    raise
                reason = f"HTTP {error.code}"
            except (urllib.error.URLError, OSError) as error:
                if method == "POST":
                    raise
                reason = str(error)
            if time.monotonic() > give_up:
                raise TimeoutError(f"the Kubernetes API did not answer for {self.patience_s:.0f} s: {reason}")
            say(waiting_for="the Kubernetes API", reason=reason)
            time.sleep(self.poll_s)


def say(**facts: object) -> None:
    """One JSON line, as wanflow itself logs outside a terminal."""
    print(json.dumps({"launcher": "wanflow", **facts}), flush=True)


def ended(rayjob: Mapping[str, Any]) -> bool:
    return rayjob.get("status", {}).get("jobDeploymentStatus", "") in TERMINAL


def exit_code(status: Mapping[str, Any]) -> int:
    """wanflow's exit code, from the status of a RayJob that has ended."""
    if status.get("jobDeploymentStatus") == "Complete":
        return 0 if status.get("jobStatus") == "SUCCEEDED" else 5
    if status.get("reason") == "DeadlineExceeded":
        return 5
    if status.get("jobDeploymentStatus") == "ValidationFailed":
        return 2
    said = EXIT_CODE.match(status.get("message", ""))
    code = int(said.group(1)) if said else 1
    return code if code in (1, 2, 3, 4, 5) else 1


def start_or_find(api: Api, template: bytes, query: str) -> str:
    """The name of the RayJob to follow."""
    running = [item for item in api.call("GET", query).get("items", []) if not ended(item)]
    if running:
        name = str(running[0]["metadata"]["name"])
        say(event="found", rayjob=name)
        return name
    name = str(api.call("POST", body=template)["metadata"]["name"])
    say(event="created", rayjob=name)
    return name


def follow(api: Api, name: str) -> int:
    before = None
    while True:
        try:
            status = api.call("GET", f"/{name}").get("status", {})
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            say(event="ended", rayjob=name, exit_code=5, reason="somebody deleted the RayJob")
            return 5
        now = (status.get("jobDeploymentStatus", ""), status.get("jobStatus", ""))
        if ended({"status": status}):
            code = exit_code(status)
            reason = str(status.get("message", ""))[-2000:]
            say(
                event="ended",
                rayjob=name,
                exit_code=code,
                status=now,
                why=status.get("reason", ""),
                reason=reason,
            )
            return code
        if now != before:
            say(event="waiting", rayjob=name, status=now)
            before = now
        time.sleep(api.poll_s)


def clear_away(api: Api, query: str, keep: int) -> None:
    finished = [item["metadata"] for item in api.call("GET", query).get("items", []) if ended(item)]
    finished.sort(key=lambda metadata: str(metadata["creationTimestamp"]), reverse=True)
    for metadata in finished[keep:]:
        try:
            api.call("DELETE", f"/{metadata['name']}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
        say(event="deleted", rayjob=metadata["name"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Start a RayJob, wait, end with wanflow's exit code.")
    parser.add_argument("rayjob", type=Path, help="the RayJob's file, with generateName")
    parser.add_argument("--selector", required=True, help="labels of this job's RayJobs, as in the file")
    parser.add_argument("--keep", type=int, default=14, help="finished RayJobs to keep (default %(default)s)")
    parser.add_argument(
        "--poll", type=float, default=15.0, metavar="S", help="seconds between looks (%(default)s)"
    )
    parser.add_argument(
        "--patience", type=float, default=900.0, metavar="S", help="API silence to bear (%(default)s)"
    )
    parser.add_argument("--server", default="", help="the Kubernetes API; default: the pod's own cluster")
    parser.add_argument(
        "--account", type=Path, default=ACCOUNT, help="where the service account's token is mounted"
    )
    args = parser.parse_args()

    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    if not (args.server or host):
        print("launch.py runs in a pod of the cluster (KUBERNETES_SERVICE_HOST is not set)", file=sys.stderr)
        return 2
    address = f"[{host}]" if ":" in host else host
    server = args.server or f"https://{address}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"
    namespace = (args.account / "namespace").read_text().strip()
    api = Api(server, namespace, args.account, args.patience, args.poll)
    query = "?labelSelector=" + urllib.parse.quote(args.selector)
    try:
        code = follow(api, start_or_find(api, args.rayjob.read_bytes(), query))
    except urllib.error.HTTPError as error:
        # 4xx: our RayJob, our rights or the CRD; the same request will not fare better in a minute
        say(event="refused", http=error.code, reason=error.read().decode(errors="replace")[:2000])
        return 2 if 400 <= error.code < 500 and error.code not in (409, 429) else 1
    except (urllib.error.URLError, OSError) as error:
        say(event="lost", reason=str(error))
        return 1
    try:
        clear_away(api, query, args.keep)
    except (urllib.error.URLError, OSError) as error:
        # the night's result stands; old RayJobs go next time
        say(event="not cleared away", reason=str(error))
    return code


if __name__ == "__main__":
    sys.exit(main())
