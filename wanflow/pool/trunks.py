"""Trunks in the store: where the clips of a group part, with the whole memory of the schedule.

A trunk has a record like any stage. One that is gone, damaged, or of another release of what made it is nobody's
failure: it is made again, and takes its place. Knows the store and the engine's protocol.
"""

from __future__ import annotations

from wanflow.engines import Engine, Unfinished, dump_unfinished, load_fitting
from wanflow.errors import EngineError
from wanflow.model import Attempt, Clip, Record, Scalar
from wanflow.records import file_of, forget_clip, put_clip
from wanflow.storage import Store

TRUNK = "trunk.safetensors"


def load_trunk(store: Store, engine: Engine, clip: Clip, record: Record) -> Unfinished | None:
    """What ``record`` names, if ``engine`` can go on from there with ``clip``; else None, and the record is
    forgotten.
    """
    assert clip.branch is not None
    try:
        data = store.read(file_of(record, TRUNK).path)
        state = load_fitting(data, engine.maker(clip), clip.num_steps)
        if state.step == clip.branch.steps:
            return state
    except (FileNotFoundError, KeyError, EngineError):
        pass
    forget_clip(store, record.key)
    return None


def put_trunk(
    store: Store, engine: Engine, clip: Clip, key: str, attempt: Attempt, state: Unfinished
) -> Unfinished:
    """Put ``state`` on record. Returns the trunk to go on from: another attempt's where that was first, so that all
    clips of a group descend from the one on record.
    """
    info: dict[str, Scalar] = {"stage": "trunk", "step": state.step, "maker": state.maker}
    record, is_mine = put_clip(store, key, attempt, {TRUNK: dump_unfinished(state)}, info)
    return state if is_mine else load_trunk(store, engine, clip, record) or state
