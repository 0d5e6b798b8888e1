"""docs/why.md, made by running what it shows: ``python -m tests.planning.why_page`` writes it anew."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.checkpoints import make
from tests.planning.published import pretend_run, stores
from tests.run.jobs import job_dict, make_job, write_rows
from tests.sounds import tone, write_sound
from wanflow import keys, plan
from wanflow.cli import main
from wanflow.model import Cause
from wanflow.planning.changes import Change, Reason
from wanflow.records import remember_failure
from wanflow.timings import save_timings

PAGE = Path(__file__).parents[2] / "docs/why.md"

_TEXT = """# What `wanflow plan --why` says

Every line below was printed by `wanflow plan`; a test prints them again and compares, digests apart.
`python -m tests.planning.why_page` writes this page. What was published before is read from the plan of the run that
published it, so the old value is the one that the video shows, however many quiet nights lie between.

## A morning of changed rows

Last night six videos were published. Since then a prompt was rewritten (ann), a packshot replaced in place (bob), a
headline changed (cem), a row added (dan), a video deleted by hand (eve), a prompt rewritten whose clip came out
black in a run of some rows (fay), and a row taken away (gus).

    $ wanflow plan job.json --why
{rows}

## Changes of the job, or of wanflow

The same videos, one change at a time, and what `--why` says of ann:

| change | says |
|---|---|
{changes}

## A plan that goes too far

With `limits: {{max_changed: 20%}}` the same morning's run is refused before any GPU, with exit code 5:

    $ wanflow run job.json
{refusal}

## What changed since a run

    $ wanflow plan job.json --diff {run}
{diff}

## What it costs, and what sharing and holding saved

With `resources.gpu_hour: 2.50`, and eight seconds a clip measured in runs before.

    $ wanflow plan job.json --cost
{cost}
"""


def _rows() -> list[dict[str, Any]]:
    prompts = {"ann": "waves", "bob": "", "cem": "waves", "eve": "waves", "fay": "fog", "gus": "waves"}
    return [
        {"variant_id": name, "prompt": prompt, "headline": f"Hello {name.title()}", "segment": "gold"}
        | {"image": "shot.png" if name == "bob" else ""}
        for name, prompt in prompts.items()
    ]


def _shot(folder: Path, grey: int) -> None:
    Image.new("RGB", (64, 64), (grey, grey, grey)).save(folder / "shot.png")


def _print(*words: str, verb: str = "plan", exit_code: int = 0) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        assert main([verb, *words]) == exit_code, out.getvalue()
    return out.getvalue()


def _block(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.strip().splitlines())


def _of_ann(*words: str) -> str:
    facts = json.loads(_print(*words, "--why", "--json").splitlines()[-1])
    (why,) = [why for why in facts["why"] if why["id"] == "ann"]
    return "; ".join(str(Change(**{**c, "reason": Reason(c["reason"])})) for c in why["changes"])


@contextlib.contextmanager
def _raised(stage: str) -> Iterator[None]:
    """A wanflow that renders ``stage`` otherwise."""
    versions = dict(keys.VERSIONS) | {stage: keys.VERSIONS[stage] + 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wanflow.keys.VERSIONS", versions)
        patch.setattr("wanflow.planning.changes.VERSIONS", versions)
        keys.stages.cache_clear()
        try:
            yield
        finally:
            keys.stages.cache_clear()


def make_page(folder: Path, checkpoint: str) -> str:
    """The page, with a job in ``folder``."""
    _shot(folder, 9)
    job = make_job(folder, checkpoint, _rows())
    run_id = pretend_run(job)
    path = folder / "job.json"

    def write(**changes: Any) -> None:
        path.write_text(json.dumps(job_dict(checkpoint, **changes)))

    write()
    given = ("--set clip.seed=7", "--set engine.steps=3", "--force base")
    said = [(f"`{words}`", _of_ann(str(path), *words.split())) for words in given]
    write(cascade=[{"refine": {"scale": 2, "strength": 0.3}}])
    said.append(("a cascade: `refine: {scale: 2, strength: 0.3}`", _of_ann(str(path))))
    write_sound(folder / "bed.wav", tone(1.0))
    write(sound={"music": "bed.wav"})
    said.append(("`sound.music: bed.wav`", _of_ann(str(path))))
    write(outputs=[{"name": "square", "preset": "instagram-square", "width": 320}])
    said.append(("`outputs.0.width: 320`", _of_ann(str(path))))
    write()
    with _raised("base"):
        said.append(("an upgrade of wanflow that denoises otherwise", _of_ann(str(path))))

    _shot(folder, 200)
    ann, bob, cem, eve, fay, _ = _rows()
    dan = ann | {"variant_id": "dan", "headline": "Hello Dan"}
    changed = [
        ann | {"prompt": "stars"},
        bob,
        cem | {"headline": "Bye Cem"},
        dan,
        eve,
        fay | {"prompt": "mist"},
    ]
    write_rows(folder, changed)
    workspace, target = stores(job)
    target.delete("eve/square.mp4")
    [clip] = [clip for clip in plan(job).to_render if clip.task.clip.prompt == "mist"]
    save_timings(workspace, [(planned.task.clip, 8.0) for planned in plan(job).to_render])
    remember_failure(workspace, clip.task.key, Cause.BAD_OUTPUT, "all frames are black")
    rows = _print(str(path), "--why")
    write(limits={"max_changed": "20%"})
    refused = _print(str(path), verb="run", exit_code=5).splitlines()
    return _TEXT.format(
        rows=_block(rows),
        refusal=_block("\n".join(refused[next(i for i, line in enumerate(refused) if "error" in line) :])),
        changes="\n".join(f"| {what} | `{words}` |" for what, words in said),
        run=run_id,
        diff=_block(_print(str(path), "--diff", run_id)),
        cost=_block(_print(str(path), "--cost")),
    )


def without_digests(page: str) -> str:
    """``page`` with what depends on the checkpoint's bytes, PNG's and the run's name left out, and spaces as one."""
    page = re.sub(r"\b[0-9a-f]{8,12}\b|\b\d{8}T[\w.-]+\b", "…", page)
    return re.sub(r" +", " ", page)


def write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(make_page(Path(folder), str(make("pocket", Path(folder, "checkpoint")))))


if __name__ == "__main__":
    write()
