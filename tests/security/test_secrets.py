"""Credentials stay where they are: a run leaves no trace of them, in good nights and in bad ones.

The canaries are what a cloud's usual chain reads from the environment. After runs that end well, that fail and that
break, every file that wanflow wrote or printed is searched for them.
"""

from __future__ import annotations

import os
import pickle
import secrets
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.checkpoints import make
from tests.run.jobs import ROWS, job_dict, write_logo, write_rows
from tests.store.conftest import Network
from wanflow import Outcome, run
from wanflow.cli import main
from wanflow.errors import ManifestError, StoreError
from wanflow.job import load_job
from wanflow.parquet import load_table
from wanflow.storage import Store, fetch_url, read_url
from wanflow.testing import load_fake_engine
from wanflow.view import JsonView

#: variables that carry a secret, each with a canary of its own
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY", "GOOGLE_API_KEY", "HF_TOKEN")


@pytest.fixture
def canaries(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Each secret's variable, set to a word that nothing else contains."""
    found = {name: f"canary{secrets.token_hex(12)}" for name in SECRETS}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


def everything_in(url: str) -> dict[str, bytes]:
    """Every file of the store; tables as text, because a compressed canary does not sing."""
    store = Store(url)
    found = {stat.path: store.read(stat.path) for stat in store.list()}
    tables = {path: load_table(data) for path, data in found.items() if path.endswith(".parquet")}
    texts = {path: f"{table.schema.metadata} {table.to_pylist()}".encode() for path, table in tables.items()}
    return found | texts


def traces(canaries: dict[str, str], texts: dict[str, bytes]) -> list[str]:
    return [
        f"{name} in {where}"
        for where, text in texts.items()
        for name, canary in canaries.items()
        if canary.encode() in text
    ]


def write_job(folder: Path, url: str, checkpoint: str) -> Path:
    write_rows(folder, [ROWS[0], ROWS[1] | {"image": f"{url}/missing.png"}])
    write_logo(folder)
    publish = {"url": f"{url}/out", "path": "{{ variant_id }}/{{ output }}.mp4"}
    path = folder / "job.yaml"
    YAML(typ="safe").dump(job_dict(checkpoint, publish=publish), path)
    return path


def test_no_run_leaves_a_secret_in_the_store_its_output_or_its_errors(
    network: Network,
    canaries: dict[str, str],
    s3_url: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Bad rows, a good run, every verb that reads the store, a store that refuses: nowhere a canary."""
    path = write_job(tmp_path, s3_url, str(make("pocket", tmp_path / "checkpoint")))
    texts: dict[str, bytes] = {}

    def note(where: str, *words: object) -> None:
        out, err = capfd.readouterr()
        texts[where] = " ".join([out, err, *map(str, words), *map(repr, words)]).encode()

    def render() -> Outcome:
        return run(load_job(path), inline=True, load_engine=load_fake_engine, view=JsonView())

    with pytest.raises(ManifestError) as bad:
        render()
    note("bad row", bad.value)
    write_rows(tmp_path, ROWS[:2])
    outcome = render()
    assert outcome.exit_code == 0
    note("good run", outcome)
    for verb in (
        "plan",
        "plan --why --cost",
        f"plan --diff {outcome.run_id}",
        "status",
        "results",
        "verify",
        "gc",
    ):
        name, *flags = verb.split()
        assert main([name, str(path), *flags, "--json"]) == 0
        note(verb)
    texts |= everything_in(s3_url)
    assert any(name.endswith("results.parquet") for name in texts)
    network.rule = lambda method, path: "403"
    assert main(["verify", str(path)]) == 1
    note("refused")
    assert b"access denied" in texts["refused"]
    network.rule = lambda method, path: "503"
    assert main(["status", str(path)]) == 1
    note("away")
    assert traces(canaries, texts) == []


def test_errors_of_the_store_never_quote_a_secret_of_a_url(
    network: Network, canaries: dict[str, str], s3_url: str, tmp_path: Path
) -> None:
    """Signed URLs carry their secret in the query, some people put theirs before the host."""
    secret = canaries["AWS_SECRET_ACCESS_KEY"]
    network.rule = lambda method, path: "403"
    host = network_host()
    actions = (
        lambda: Store(s3_url).read("a.json"),
        lambda: Store(s3_url).write("a.json", b"x"),
        lambda: read_url(f"http://{host}/a.png?X-Amz-Signature={secret}", 10),
        lambda: fetch_url(f"http://user:{secret}@{host}/a.png", tmp_path / "a"),
        lambda: Store(f"s3://user:{secret}@bucket/x"),
    )
    for action in actions:
        with pytest.raises((StoreError, FileNotFoundError)) as caught:
            action()
        shown = f"{caught.value} {caught.value!r}".encode() + pickle.dumps(caught.value)
        assert traces(canaries, {"the error": shown}) == []


def network_host() -> str:
    return os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
