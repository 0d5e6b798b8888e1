"""What differs between what was asked for before and now, in words: old -> new. Pure; see ``rows`` for descriptions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest
from typing import Any

from wanflow.keys import VERSIONS

#: versions of what had none yet in the first plans, but was there
_FIRST = {"picture": 0}
#: characters of a value that are shown
_SHOWN = 60


class Reason(StrEnum):
    """Kinds of reasons, in the words that the command line shows."""

    NEW = "new"
    PROMPT = "prompt changed"
    IMAGE = "image"
    VIDEO = "video"
    ENGINE = "engine"
    #: seed, size, length
    CLIP = "clip"
    CASCADE = "cascade"
    LORA = "lora"
    LAYERS = "layers"
    SOUND = "sound"
    OUTPUT = "output"
    FAILED_BEFORE = "failed before"
    MISSING = "missing in the store"
    FORCED = "forced"
    VERSION = "stage version"
    #: what it was before is not known any more
    CHANGED = "changed"
    #: only against a given run
    GONE = "no longer asked for"


@dataclass(frozen=True, slots=True)
class Change:
    """One reason, with what was and what is to be where there is such a thing."""

    reason: Reason
    what: str = ""
    old: str = ""
    new: str = ""

    def __str__(self) -> str:
        is_told = self.reason in (Reason.FAILED_BEFORE, Reason.MISSING)  # in a sentence, not by a name
        what = f"{':' if is_told else ''} {self.what}" if self.what else ""
        arrow = f": {self.old or 'none'} -> {self.new or 'none'}" if self.old or self.new else ""
        return f"{self.reason}{what}{arrow}"


def compare_clips(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """What differs between two descriptions of clips."""
    for name in differing(old, new):
        match name:
            case "prompt":
                yield change(Reason.PROMPT, "", old, new, name)
            case "negative_prompt":
                yield change(Reason.PROMPT, "negative", old, new, name)
            case "image" | "last_image":
                was, now = old.get(name) or {}, new.get(name) or {}
                if was.get("digest") != now.get("digest"):
                    what = "of the last frame" if name == "last_image" else ""
                    yield Change(Reason.IMAGE, what, _source(was), _source(now))
            case "video":
                was, now = old.get(name) or {}, new.get(name) or {}
                sources = was.get("source") or {}, now.get("source") or {}
                if sources[0].get("digest") != sources[1].get("digest"):
                    yield Change(Reason.VIDEO, "", *map(_source, sources))
                if was and now and was.get("steps") != now.get("steps"):
                    yield change(Reason.VIDEO, "steps", was, now)
            case "weights":
                yield Change(Reason.ENGINE, "weights", str(old.get(name))[:12], str(new.get(name))[:12])
            case "sampling":
                was, now = old.get(name) or {}, new.get(name) or {}
                yield from (change(Reason.ENGINE, field, was, now) for field in differing(was, now))
            case "cascade":
                yield Change(Reason.CASCADE, "", _steps(old.get(name)), _steps(new.get(name)))
            case "branch":
                yield from _branches(old.get(name), new.get(name))
            case "loras":
                yield Change(Reason.LORA, "", _loras(old.get(name)), _loras(new.get(name)))
            case "mode":  # follows from the image
                continue
            case _:
                yield change(Reason.CLIP, name, old, new)


def _branches(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Iterator[Change]:
    """The trunk's own prompt, or where it is left; or that there is one now, or no more."""
    if not old or not new:
        yield Change(Reason.CLIP, "branch", _branch(old), _branch(new))
        return
    if old.get("prompt") != new.get("prompt"):
        yield Change(Reason.PROMPT, "of the trunk", _shown(old.get("prompt")), _shown(new.get("prompt")))
    if old.get("steps") != new.get("steps"):
        yield Change(Reason.CLIP, "steps of the trunk", str(old.get("steps")), str(new.get("steps")))


def _branch(branch: Mapping[str, Any] | None) -> str:
    return f"after {branch.get('steps')} steps of {_shown(branch.get('prompt'))}" if branch else ""


def compare_layers(old: list[Mapping[str, Any]], new: list[dict[str, Any]]) -> Iterator[Change]:
    if [layer.get("layer") for layer in old] != [layer["layer"] for layer in new]:
        yield Change(
            Reason.LAYERS,
            "",
            ", ".join(str(layer.get("layer")) for layer in old),
            ", ".join(layer["layer"] for layer in new),
        )
        return
    for was, now in zip(old, new, strict=True):
        for name in differing(was, now):
            if name == "cues":
                yield _cues(was.get(name) or [], now.get(name) or [])
            elif isinstance(was.get(name), Mapping) and isinstance(now.get(name), Mapping):
                if "digest" in now[name]:
                    if was[name].get("digest") != now[name]["digest"]:
                        yield Change(
                            Reason.LAYERS, f"{now['layer']} {name}", _source(was[name]), _source(now[name])
                        )
                    continue
                for part in differing(was[name], now[name]):
                    yield change(Reason.LAYERS, f"{now['layer']} {part}", was[name], now[name], part)
            else:
                yield change(Reason.LAYERS, f"{now['layer']} {name}", was, now, name)


def compare_sounds(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """What differs between two descriptions of what is heard; an empty one is silence."""
    voices = old.get("voices") or [], new.get("voices") or []
    tracks = [("music", old.get("music"), new.get("music"))]
    for i, (was, now) in enumerate(zip_longest(*voices), 1):
        tracks.append(("voice" if max(map(len, voices)) == 1 else f"voice of scene {i}", was, now))
    for what, was, now in tracks:
        was, now = was or {}, now or {}
        files = was.get("source") or {}, now.get("source") or {}
        if files[0].get("digest") != files[1].get("digest"):
            yield Change(Reason.SOUND, what, *map(_source, files))
        elif was and now:
            for name in differing(was, now):
                if name not in ("source", "seconds"):
                    yield change(Reason.SOUND, f"{what} {name}", was, now, name)
    if old and new and old.get("loudness") != new.get("loudness"):
        yield change(Reason.SOUND, "loudness", old, new)


def _cues(old: list[Mapping[str, Any]], new: list[Mapping[str, Any]]) -> Change:
    """The first cue that differs, and how many more do; where there are more or fewer of them, only from where on."""
    differ = [i for i, (was, now) in enumerate(zip(old, new, strict=False)) if was != now]
    first = differ[0] if differ else min(len(old), len(new))
    if len(old) != len(new):
        what = f"captions from cue {first + 1} on"
        return Change(Reason.LAYERS, what, f"{len(old)} cues", f"{len(new)} cues")
    was, now = old[first], new[first]
    what = f"captions cue {first + 1}" + (f" and {len(differ) - 1} more" if len(differ) > 1 else "")
    if was.get("text") != now.get("text"):
        return change(Reason.LAYERS, what, was, now, "text")
    times = (f"{cue.get('start_s'):g} to {cue.get('end_s'):g} s" for cue in (was, now))
    return Change(Reason.LAYERS, what, *times)


def compare_versions(then: Mapping[str, int], names: Iterable[str]) -> list[Change]:
    """What was raised since ``then``; nothing where that is empty, because it is not known."""
    then = {**_FIRST, **then} if then else {}
    return [
        Change(Reason.VERSION, name, str(then[name]), str(VERSIONS[name]))
        for name in dict.fromkeys(names)
        if name in then and then[name] != VERSIONS[name]
    ]


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]


def change(
    reason: Reason, what: str, old: Mapping[str, Any], new: Mapping[str, Any], name: str = ""
) -> Change:
    return Change(reason, what, _shown(old.get(name or what)), _shown(new.get(name or what)))


def _shown(value: object) -> str:
    text = f"'{value}'" if isinstance(value, str) else "none" if value is None else str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _source(source: Mapping[str, Any]) -> str:
    if not source:
        return "none"
    name = str(source.get("url", "")).rpartition("/")[2]
    return f"{name} ({str(source.get('digest', ''))[:8]})"


def _loras(loras: list[Mapping[str, Any]] | None) -> str:
    shown = (f"{_source(lora['source'])} at {lora['scale']:g}, {lora['expert']}" for lora in loras or ())
    return "; ".join(shown) or "none"


def _steps(steps: list[Mapping[str, Any]] | None) -> str:
    return ", ".join(map(_step, steps or ())) or "none"


def _step(step: Mapping[str, Any]) -> str:
    return " ".join(str(value) if name == "method" else f"{name}={value}" for name, value in step.items())
