"""Clips that share their first steps, through whole runs in one process: what is taken, what is kept, what is told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make
from tests.run.jobs import make_job, write_rows
from wanflow import Job, Outcome, plan, run
from wanflow.cli import main
from wanflow.engines import Keep, OnStep
from wanflow.errors import EngineError
from wanflow.gc import collect
from wanflow.model import Clip, EngineSpec
from wanflow.planning.cost import cost_of
from wanflow.planning.why import explain
from wanflow.report import results
from wanflow.schedule.events import Event, StepDone
from wanflow.storage import Store
from wanflow.testing import FakeEngine
from wanflow.timings import load_timings, save_timings, shape_key
from wanflow.verify import verify
from wanflow.view import View

STEPS, TRUNK = 6, 4
ENGINE = {"steps": STEPS, "flow_shift": 5.0}
CLIP = {"aspect": "1x1", "seconds": 0.5, "branch": {"at": 0.6, "on": "{{ base_prompt }}"}}
ROWS: list[dict[str, Any]] = [
    {
        "variant_id": f"{base}-{colour}",
        "prompt": f"a {colour} {base}",
        "base_prompt": f"an orange {base}",
        "headline": f"Hello {colour}",
        "segment": "gold",
    }
    for base in ("star", "heart")
    for colour in ("red", "green", "blue")
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


def branched(folder: Path, checkpoint: str, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Job:
    sections = {"clip": CLIP, "engine": {"checkpoint": checkpoint, **ENGINE}} | changes
    return make_job(folder, checkpoint, ROWS if rows is None else rows, **sections)


@dataclass
class Counting(View):
    """Counts the steps that were taken, by stage: the first news of a stage tells where it begins."""

    taken: Counter[str] = field(default_factory=Counter)
    _begun: set[tuple[object, str]] = field(default_factory=set)

    def event(self, event: Event) -> None:
        if isinstance(event, StepDone) and event.stage in ("trunk", "denoise"):
            mark = (event.attempt, event.stage)
            self.taken[event.stage] += mark in self._begun
            self._begun.add(mark)


class Fake:
    """A ``load_engine`` of fake engines, and what they made. ``before`` is called in front of each base stage."""

    def __init__(self, before: Callable[[Clip], object] = lambda clip: None) -> None:
        self.trunks: list[str] = []
        self.rendered: list[str] = []
        self.before = before

    def __call__(self, spec: EngineSpec, device: str | None, num_threads: int | None) -> FakeEngine:
        outer = self

        class Told(FakeEngine):
            def generate(
                self, clip: Clip, images: Sequence[bytes], on_step: OnStep, keep: Keep | None = None
            ) -> Any:
                outer.before(clip)
                return super().generate(clip, images, on_step, keep)

        engine = Told(spec)
        engine.trunks, engine.rendered = self.trunks, self.rendered
        return engine


def render(job: Job, fake: Fake | None = None, **options: Any) -> tuple[Outcome, Counter[str]]:
    view = Counting()
    loaded = {"load_engine": fake} if fake else {}
    return run(job, inline=True, view=view, **loaded, **options), view.taken


def whys(job: Job) -> list[str]:
    return sorted(str(why) for why in explain(plan(job), Store(str(job.workspace))) if why.kind == "clip")


def test_a_group_costs_one_trunk_and_the_rest_of_each_clip(tmp_path: Path, checkpoint: str) -> None:
    """Two compositions for three customers each: 2 x 4 + 6 x 2 steps instead of 36, and the whole store in order."""
    job = branched(tmp_path, checkpoint)
    made = plan(job)
    assert (made.num_trunks, made.num_steps, made.num_steps_shared) == (2, 20, 16)
    outcome, taken = render(job)
    assert outcome.exit_code == 0
    assert outcome.counts["published"] == 6
    assert taken == {"trunk": 2 * TRUNK, "denoise": 6 * (STEPS - TRUNK)}
    rows = results(Store(str(job.workspace))).to_pylist()
    assert all(row["seconds_denoise"] > 0 for row in rows)
    assert sum(row["gpu_seconds"] for row in rows) == pytest.approx(outcome.gpu_seconds, rel=0.01)
    workspace = Store(str(job.workspace))
    assert len([s for s in workspace.list("clips") if s.path.endswith("trunk.safetensors")]) == 2
    assert verify(workspace, [job.publish.url], deep=True).is_clean
    assert not any(s.path for s in workspace.list("steps"))
    assert not collect(workspace, keep_days=0, now_s=lambda: 4e9).waste, "pinned, and so kept"
    again, taken = render(job)
    assert again.counts["unchanged"] == 6
    assert not taken


def test_the_first_night_teaches_what_a_branched_clip_takes(tmp_path: Path, checkpoint: str) -> None:
    """Makers of trunks and the others are two kinds: both are measured."""
    job = branched(tmp_path, checkpoint)
    clip = plan(job).to_render[0].task.clip
    render(job)
    timings = load_timings(Store(str(job.workspace)))
    assert {shape_key(clip, makes_trunk=True), shape_key(clip, makes_trunk=False)} <= set(timings)


def test_a_plan_is_priced_with_one_trunk_a_group(tmp_path: Path, checkpoint: str) -> None:
    job = branched(tmp_path, checkpoint)
    clip = plan(job).to_render[0].task.clip
    save_timings(Store(str(job.workspace)), [(clip, 12.0)], [(clip, 5.0)])
    made = plan(job)
    cost = cost_of(made, job)
    assert [c.makes_trunk for c in made.to_render] == [True, True] + 4 * [False], "makers come first"
    assert [c.expected_s for c in made.to_render] == pytest.approx(2 * [12.0] + 4 * [5.0])
    assert cost.num_never_measured == 0
    assert cost.gpu_s == pytest.approx(44.0)
    assert cost.saved_by_branching_s == pytest.approx(4 * 7.0)
    assert (cost.saved_by_sharing_s, cost.saved_by_holding_s) == pytest.approx((0.0, 0.0))


def test_changed_prompt_renders_the_steps_behind_the_trunk(tmp_path: Path, checkpoint: str) -> None:
    """One customer's words change: two steps, on the composition that everybody has already."""
    job = branched(tmp_path, checkpoint)
    render(job)
    write_rows(tmp_path, [ROWS[0] | {"prompt": "a pink star"}, *ROWS[1:]])
    made = plan(job)
    assert [(c.decision.value, c.reason) for c in made.to_render] == [("resume", "trunk is in the store")]
    assert (made.num_trunks, made.num_steps, made.num_steps_shared) == (0, 2, 4)
    assert whys(job) == [
        "prompt changed: 'a red star' -> 'a pink star'; "
        "takes 2 of 6 steps, behind a trunk which the store holds"
    ]
    outcome, taken = render(job)
    assert outcome.counts["published"] == 1
    assert taken == {"denoise": STEPS - TRUNK}


def test_changed_base_prompt_renders_its_group_anew(tmp_path: Path, checkpoint: str) -> None:
    job = branched(tmp_path, checkpoint)
    render(job)
    write_rows(tmp_path, [row | {"base_prompt": "a gold star"} for row in ROWS[:3]] + ROWS[3:])
    assert {c.decision.value for c in plan(job).to_render} == {"render"}
    changed = "prompt changed of the trunk: 'an orange star' -> 'a gold star'"
    others = f"{changed}; takes 2 of 6 steps, behind a trunk which another clip makes"
    assert whys(job) == [others, others, f"{changed}; takes 6 steps, the first 4 as the trunk of its group"]
    outcome, taken = render(job)
    assert outcome.counts["published"] == 3
    assert taken == {"trunk": TRUNK, "denoise": 3 * (STEPS - TRUNK)}


def test_another_branch_point_is_told(tmp_path: Path, checkpoint: str) -> None:
    job = branched(tmp_path, checkpoint)
    render(job, Fake())
    later = branched(tmp_path, checkpoint, clip=CLIP | {"branch": {"at": 0.5, "on": "{{ base_prompt }}"}})
    assert "clip steps of the trunk: 4 -> 3" in whys(later)[0]
    none = branched(tmp_path, checkpoint, clip={"aspect": "1x1", "seconds": 0.5})
    assert "clip branch: after 4 steps of 'an orange heart' -> none" in "\n".join(whys(none))


class Crash(BaseException):
    """The process is gone."""


def test_crash_between_trunk_and_base_costs_no_step_of_the_trunk(tmp_path: Path, checkpoint: str) -> None:
    job = branched(tmp_path, checkpoint, ROWS[:3])

    def crash(clip: Clip) -> None:
        raise Crash

    with pytest.raises(Crash):
        render(job, Fake(crash))
    assert {c.reason for c in plan(job).to_render} == {"trunk is in the store"}
    fake = Fake()
    outcome, taken = render(job, fake)
    assert outcome.counts["published"] == 3
    assert (fake.trunks, taken) == ([], {"denoise": 3 * (STEPS - TRUNK)})


@pytest.mark.parametrize("damage", ["deleted", "cut short", "of another release"])
def test_a_trunk_that_cannot_be_used_is_made_again(tmp_path: Path, checkpoint: str, damage: str) -> None:
    """Somebody tidied up, a disk lost a block, diffusers was upgraded: a render more, and nobody's failure."""
    job = branched(tmp_path, checkpoint, ROWS[:3])
    outcome, _ = render(job)
    write_rows(tmp_path, [ROWS[0] | {"prompt": "a pink star"}, ROWS[1] | {"prompt": "a tan star"}, ROWS[2]])
    made = plan(job)
    assert made.num_trunks == 0
    [path] = Path(job.workspace).glob("clips/*/*/*/trunk.safetensors")
    data = path.read_bytes()
    match damage:
        case "deleted":
            path.unlink()
        case "cut short":  # of the same length, as far as a listing can tell
            path.write_bytes(data[:100] + bytes(len(data) - 100))
        case _:
            path.write_bytes(data.replace(b"of diffusers ", b"of diffusors "))
    outcome, taken = render(job)
    assert outcome.exit_code == 0
    assert outcome.counts["published"] == 2
    assert taken == {"trunk": TRUNK, "denoise": 2 * (STEPS - TRUNK)}, "once, for both"
    assert verify(Store(str(job.workspace)), [job.publish.url], deep=True).is_clean


def test_a_trunk_that_vanishes_while_the_run_is_under_way_is_made_again(
    tmp_path: Path, checkpoint: str
) -> None:
    job = branched(tmp_path, checkpoint, ROWS[:3])

    def tidy(clip: Clip) -> None:
        for path in Path(job.workspace).glob("clips/*/*/*/trunk.safetensors"):
            path.unlink()

    fake = Fake(tidy)
    outcome, _ = render(job, fake)
    assert outcome.counts["published"] == 3
    assert len(fake.trunks) == 3


@pytest.mark.parametrize(("stage", "trunks"), [("trunk", 2), ("base", 0)])
def test_forced_stage_is_made_again_from_there(
    tmp_path: Path, checkpoint: str, stage: str, trunks: int
) -> None:
    job = branched(tmp_path, checkpoint)
    render(job, Fake())
    fake = Fake()
    outcome, taken = render(job, fake, force=stage)
    assert outcome.counts["published"] == 6
    assert len(fake.trunks) == trunks
    assert taken == Counter({"trunk": trunks * TRUNK, "denoise": 6 * (STEPS - TRUNK)}) - Counter()


def test_rows_without_a_branch_point_in_common_share_nothing(tmp_path: Path, checkpoint: str) -> None:
    """Another seed or aspect is another composition."""
    rows = [ROWS[0] | {"seed": 1}, ROWS[1] | {"seed": 2}, ROWS[2] | {"seed": 1}]
    made = plan(branched(tmp_path, checkpoint, rows))
    assert (made.num_trunks, made.num_steps_shared) == (2, TRUNK)


def test_plan_tells_what_branching_shares(
    tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    branched(tmp_path, checkpoint)
    branch = '"branch": {"at": "60%", "on": "{{ base_prompt }}"}'
    (tmp_path / "job.yaml").write_text(
        f"""{{wanflow: 1, name: small, manifest: manifest.parquet, publish: {{url: out}},
        engine: {{checkpoint: "{checkpoint}", steps: 6}}, clip: {{aspect: 1x1, seconds: 0.5, {branch}}},
        outputs: [{{name: square, preset: instagram-square, width: 256}}]}}"""
    )
    assert main(["plan", str(tmp_path / "job.yaml"), "--json", "--cost"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "branching    2 trunks to make; 20 base steps to take, 16 shared" in lines
    facts = json.loads(lines[-1])
    assert (facts["trunks_to_make"], facts["base_steps"], facts["base_steps_shared"]) == (2, 20, 16)


def test_a_branch_that_cannot_be_is_refused_before_any_gpu(tmp_path: Path, checkpoint: str) -> None:
    single = str(make("ti2v_5b", tmp_path / "single"))
    job = branched(
        tmp_path / "a",
        single,
        engine={"checkpoint": single, "steps": 6},
        clip=CLIP | {"branch": {"at": "boundary", "on": "{{ base_prompt }}"}},
    )
    with pytest.raises(EngineError, match="has one expert") as caught:
        run(job, inline=True, load_engine=Fake())
    assert caught.value.exit_code == 4
    job = branched(tmp_path / "b", checkpoint, clip=CLIP | {"branch": {"at": 0.01, "on": "x"}})
    with pytest.raises(EngineError, match="before the first step"):
        plan(job)
