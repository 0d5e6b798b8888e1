"""A row's layers: the job's entries with the row's values in them, checked. Equal texts give the same layer back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from wanflow.captions import short
from wanflow.errors import InputError, JobError
from wanflow.inputs import Inputs
from wanflow.job.layers import PARSERS, LayerEntry
from wanflow.model import BoxLayer, CaptionsLayer, Cue, ImageLayer, Layer, Placement, TextLayer
from wanflow.storage import redact
from wanflow.templates import Template, compile_template

MAX_REMEMBERED = 50_000

#: the field without which a layer is left out
_ESSENCE = {"image": "url", "text": "value", "captions": "url", "box": "color"}
#: what its placement is made of
_PLACED = frozenset({"at", "width", "height", "margin", "opacity", "start", "end", "fade"})
#: a line of a video; longer texts are a mistake in the data
MAX_TEXT_CHARS = 2000


class LayerMaker:
    """Makes one entry of ``layers`` for each row."""

    def __init__(self, place: str, entry: LayerEntry, inputs: Inputs) -> None:
        """Raises JobError when a file that every row would use is missing or broken."""
        self._kind = entry.kind
        self._place = f"{place}.{entry.kind}"
        self._inputs = inputs
        body = entry.body
        fields = type(body).model_fields.items()
        self._defaults = {name: field.default for name, field in fields if not field.is_required()}
        given = {name: compile_template(text) for name, text in body.model_dump(exclude_none=True).items()}
        self._varying = [(name, template) for name, template in given.items() if template.constant is None]
        constant = {name: t.constant for name, t in given.items() if t.constant is not None}
        self._fixed, reasons = self._parse(constant)
        if reasons:
            raise JobError("\n".join(reasons))
        self._known: dict[tuple[str, ...], Layer | list[str] | None] = {}
        #: where no row decides it, the placement of all
        self._placed: Placement | None = None
        self._is_placed_alike = _PLACED.isdisjoint(name for name, _ in self._varying)
        #: template of a file's place, for reading ahead
        self._url = given.get("url")
        self.image: Template | None = self._url if entry.kind == "image" else None
        self.captions: Template | None = self._url if entry.kind == "captions" else None

    def check_start(self, clip_s: float) -> None:
        """JobError when no row decides the start, and it is not before the end of a clip of ``clip_s`` seconds."""
        reason = ""
        if "start" not in self._fixed:
            return
        if self.captions is None:
            reason = self._too_late(self._fixed["start"], clip_s)
        elif cues := self._fixed.get("url"):
            reason = self._late_cue(_shifted(cues, self._fixed["start"]), clip_s, {})
        if reason:
            raise JobError(reason)

    def make(self, values: Mapping[str, Any], clip_s: float) -> Layer | list[str] | None:
        """The layer over clips of which the shortest lasts ``clip_s`` seconds, None when this row has none, or every
        reason why it cannot be made.
        """
        try:
            texts = tuple([template.render(values) for _, template in self._varying])
        except ValueError as exc:
            return [f"{self._place}: {exc}"]
        if texts not in self._known:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[texts] = self._build({n: t for (n, _), t in zip(self._varying, texts, strict=True)})
        found = self._known[texts]
        if found is None or isinstance(found, list):
            return found
        if isinstance(found, CaptionsLayer):
            reason = self._late_cue(found.cues, clip_s, values)
        else:
            reason = self._too_late(found.place.start_s, clip_s)
        return [reason] if reason else found

    def _too_late(self, start_s: float, clip_s: float) -> str:
        if start_s < clip_s:
            return ""
        return f"{self._place}.start: {start_s:g} s is not before the end of the clip ({clip_s:g} s)"

    def _late_cue(self, cues: Sequence[Cue], clip_s: float, values: Mapping[str, Any]) -> str:
        """``cues`` in the order of their start; one that only ends after the clip is cut with it."""
        if cues[-1].start_s < clip_s:
            return ""
        late = next(cue for cue in cues if cue.start_s >= clip_s)
        assert self.captions is not None
        return (
            f"{self._place}.url: {redact(self.captions.render(values).strip())}: the cue {short(late.text)} begins "
            f"at {late.start_s:g} s, which is not before the end of the clip ({clip_s:g} s); take it out, or make the "
            "clip longer (seconds)"
        )

    def _parse(self, texts: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
        """Each field's value, and what is wrong with the others."""
        fields, reasons = {}, []
        for name, text in texts.items():
            try:
                fields[name] = self._field(name, text)
            except (ValueError, InputError) as exc:
                reasons.append(f"{self._place}.{name}: {exc}")
        return fields, reasons

    def _build(self, texts: dict[str, str]) -> Layer | list[str] | None:
        essence = _ESSENCE[self._kind]
        if essence in texts and not texts[essence].strip():
            return None
        varying, reasons = self._parse(texts)
        fields = {**self._fixed, **varying}
        if fields.get(essence, "") is None:
            return None
        start, end = fields.get("start") or 0.0, fields.get("end")
        if self._kind == "captions" and not reasons:
            fields["url"], start = _shifted(fields["url"], start), 0.0
        if end is not None and end <= start:
            reasons.append(f"{self._place}.end: {end:g} s is not after start ({start:g} s)")
        if reasons:
            return reasons
        place = self._placed or Placement(
            at=fields["at"],
            width=fields.get("width"),
            height=fields.get("height"),
            margin=fields["margin"],
            opacity=fields["opacity"],
            start_s=start,
            end_s=end,
            fade_s=fields.get("fade") or 0.0,
        )
        if self._is_placed_alike:
            self._placed = place
        if self._kind == "image":
            return ImageLayer(fields["url"], place)
        if self._kind == "box":
            return BoxLayer(fields["color"], place)
        look: dict[str, Any] = {
            name: fields.get(name) for name in ("style", "color", "background", "font", "size")
        }
        if self._kind == "captions":
            return CaptionsLayer(fields["url"], place, **look)
        return TextLayer(fields["value"], place, **look)

    def _field(self, name: str, text: str) -> Any:
        """A field's value; an empty text is the field's default."""
        if name == "value":
            if len(text) > MAX_TEXT_CHARS:
                raise ValueError(f"has {len(text):,} characters; at most {MAX_TEXT_CHARS:,} fit on a picture")
            return text.strip() or None
        text = text.strip() or self._defaults.get(name) or ""
        if not text:
            return None
        if name == "url":
            return self._inputs.captions(text) if self._kind == "captions" else self._inputs.image(text)
        if name == "font":
            return self._inputs.font(text)
        return PARSERS[name](text)


def _shifted(cues: tuple[Cue, ...], seconds: float) -> tuple[Cue, ...]:
    """``cues`` by so much later."""
    if not seconds:
        return cues
    return tuple(replace(cue, start_s=cue.start_s + seconds, end_s=cue.end_s + seconds) for cue in cues)
