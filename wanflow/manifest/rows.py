"""From a row's values to a Variant, or to every reason why it cannot be one.

What is wrong with the job as a whole (a template that names no column, an output that no preset knows) is raised
before the first row; what is wrong with a row is a :class:`BadRow` a reason, and the rest goes on. A row's own
``seed``, ``aspect`` and ``seconds`` come before the job's. A null value is the empty text: an image or
captions layer without URL, a text layer without words and a box without colour are left out of that variant.

Nothing is rendered or published here, and the store is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from wanflow.errors import BadRow, ManifestError
from wanflow.inputs import Inputs
from wanflow.job import BUILT_INS, CLIP_TEXTS, Job
from wanflow.manifest.clips import ClipMaker, default_templates
from wanflow.manifest.groups import MadeRow, NumberedRow, gather, join, whole_variants
from wanflow.manifest.layers import LayerMaker
from wanflow.manifest.notes import Notes
from wanflow.manifest.outputs import OutputMaker
from wanflow.manifest.sounds import SoundMaker
from wanflow.manifest.table import Table
from wanflow.manifest.values import aspects_of, carried, identity, is_null, priority_of
from wanflow.model import EngineSpec, Layer, Mode, Output, Scalar, Scene, Variant
from wanflow.storage.paths import shown
from wanflow.suggest import did_you_mean
from wanflow.templates import Template, compile_template, opaque_names, unknown_names

#: rows whose images are read ahead together
CHUNK_ROWS = 1024


def read_variants(
    job: Job,
    engines: Mapping[Mode, EngineSpec],
    inputs: Inputs,
    only: str | None = None,
    limit: int | None = None,
    notes: Notes | None = None,
) -> Iterator[Variant | BadRow]:
    """Each row of the job's manifest (times its matrix) as a Variant, or as one BadRow a reason, in their order. With a
    matrix a BadRow comes once a video; all of them are equal.

    With ``manifest.group`` a Variant has the rows of a group as its scenes. ``only`` is a condition beside
    ``manifest.where``, which must hold for one row of a group; ``limit`` ends after so many videos, good or bad;
    ``notes`` counts along. Raises ManifestError (table, columns, templates, conditions), JobError and EngineError (what
    would be wrong with every row) before the first row, and ManifestError when a file turns out broken on the way.
    """
    group = job.manifest.group
    table = Table(job.manifest.url, job.manifest.rename, group.by if group else None)
    columns = frozenset(table.columns) | frozenset(job.matrix)
    _check_names(job, table, columns)
    maker = _VariantMaker(job, engines, inputs, columns)
    where, chosen = ([text] if text else [] for text in (job.manifest.where, only))
    needed = maker.needed | frozenset(job.publish.carry)
    if notes is not None:
        notes.begin(template_columns(job), columns)
    is_whole = only is None and limit is None
    numbered: Iterator[NumberedRow]
    if group:
        rows, matrix = table.rows(needed, where, job.matrix), tuple(job.matrix)
        if chosen:
            rows = whole_variants(rows, table.rows({"variant_id"}, [*where, *chosen], job.matrix), matrix)
        numbered = gather(rows, matrix, limit)
    else:
        rows = table.rows(needed, [*where, *chosen], job.matrix)
        numbered = ((number, *row) for number, row in enumerate(islice(rows, limit)))
    return maker.variants(numbered, notes, is_whole)


def template_columns(job: Job) -> dict[str, frozenset[str]]:
    """Place (``clip.prompt``) to the names whose values decide a clip there; the manifest need not have them all."""
    given = job.clip_templates()
    found = {f"clip.{name}": {name} for name in (*CLIP_TEXTS, "seed", "aspect", "seconds")}
    # a template stands in for the column
    found.update({f"clip.{name}": set() for name in CLIP_TEXTS if f"clip.{name}" in given})
    for place, text in given.items():
        section = next((name for name in ("clip.aspect", "clip.lora") if place.startswith(name)), place)
        names = compile_template(text).names - ({"aspect"} if section != "clip.aspect" else set())
        found.setdefault(section, set()).update(names)
    return {place: frozenset(names) for place, names in found.items()}


def _check_names(job: Job, table: Table, columns: frozenset[str]) -> None:
    """ManifestError that lists every name which neither the table nor the matrix has, or no template can show."""
    both = sorted(set(job.matrix) & set(table.columns))
    problems = [
        f"matrix.{name}: the manifest has a column of this name; choose another, or rename the column"
        for name in both
    ]
    ways = table.ways_inside()
    for templates, built_ins in (
        ({**default_templates(columns), **job.clip_templates()}, {"variant_id", "row", "aspect"}),
        (job.layer_templates() | job.sound_templates(), {"variant_id", "row"}),
        ({"publish.path": job.publish.path}, set(BUILT_INS)),
    ):
        problems += unknown_names(templates, columns | built_ins)
        problems += opaque_names(templates, {n: way for n, way in ways.items() if n not in built_ins})
    problems += [
        f"publish.carry: there is no column `{name}`; {did_you_mean(name, columns)}"
        for name in job.publish.carry
        if name not in columns
    ]
    if job.manifest.group and (order := job.manifest.group.order) and order not in table.columns:
        problems.append(
            f"manifest.group.order: there is no column `{order}`; {did_you_mean(order, table.columns)}"
        )
    if "prompt" not in columns and job.clip.prompt is None:
        problems.append("there is no prompt: give clip.prompt, or a column prompt")
    if "strength" in job.clip.model_fields_set and "video" not in columns and job.clip.video is None:
        problems.append(
            "clip.strength: there is no video; give clip.video, or a column video, or leave it out"
        )
    if problems:
        raise ManifestError(
            "\n  ".join([f"{job.manifest.url}: the manifest and the job do not fit together", *problems])
        )


class _VariantMaker:
    """All that is worked out once for a run, so that a row costs little."""

    def __init__(
        self, job: Job, engines: Mapping[Mode, EngineSpec], inputs: Inputs, columns: frozenset[str]
    ) -> None:
        self._job = job
        self._inputs = inputs
        self._clips = ClipMaker(job, engines, inputs, columns)
        self._sounds = SoundMaker(job, inputs)
        self._layers = [LayerMaker(f"layers.{i}", entry, inputs) for i, entry in enumerate(job.layers)]
        self._outputs = OutputMaker(job)
        made_of = {
            **default_templates(columns),
            **job.clip_templates(),
            **job.layer_templates(),
            **job.sound_templates(),
            "": job.publish.path,
        }
        #: the columns that are read
        self.needed = frozenset({"variant_id", "seed", "aspect", "seconds", "priority"}).union(
            *(compile_template(text).names for text in made_of.values())
        )
        #: columns without which a sentence has a gap -> the places of those sentences
        self._gaps: dict[str, list[str]] = {}
        for place, text in made_of.items():
            if place in ("clip.prompt", "clip.branch.on") or place.endswith(".text.value"):
                for name in compile_template(text).embedded_names.difference(BUILT_INS):
                    self._gaps.setdefault(name, []).append(place)
        self._check_constants(columns)
        self._rows_by_id: dict[str, int] = {}
        self._group = job.manifest.group
        if self._group and self._group.order:
            self.needed |= {self._group.order}

    def _check_constants(self, columns: frozenset[str]) -> None:
        """What would be wrong with every row is told once."""
        outputs: tuple[Output, ...] = ()
        aspects = self._clips.constant_aspects
        if aspects is not None and "aspect" not in columns:
            outputs = self._outputs.applying_always(aspects)
        self._clips.check_constants(dict.fromkeys(output.aspect for output in outputs), columns)
        longest_s = self._clips.longest_s(columns)
        self._sounds.check_constants(longest_s)
        for maker in self._layers:
            maker.check_start(self._sounds.longest_s(longest_s))

    def variants(
        self,
        rows: Iterator[NumberedRow],
        notes: Notes | None,
        is_whole: bool,
    ) -> Iterator[Variant | BadRow]:
        """``is_whole`` says that these are all rows of the job, and not some that were asked for."""
        by, order = (self._group.by, self._group.order) if self._group else (None, None)
        yield from join(self._made(rows, notes), by, order)
        if notes is not None and is_whole:
            notes.unmade = tuple(self._outputs.never_applied())

    def _made(self, rows: Iterator[NumberedRow], notes: Notes | None) -> Iterator[MadeRow]:
        while chunk := list(islice(rows, CHUNK_ROWS)):
            self._prefetch([values for _, _, values, _ in chunk])
            for variant, row, values, problems in chunk:
                yield MadeRow(variant, row, values, self._make(variant, row, values, problems, notes))

    def _make(
        self,
        variant: int,
        row: int,
        values: dict[str, object],
        problems: Sequence[str],
        notes: Notes | None,
    ) -> Variant | list[BadRow]:
        """``variant`` numbers the variants of a run: the rows of a group have one number."""
        reasons = list(problems)
        variant_id, priority = "", 0
        outputs: tuple[Output, ...] = ()
        carry: tuple[tuple[str, Scalar], ...] = ()
        try:
            variant_id = identity(values["variant_id"], self._group.by if self._group else "variant_id")
        except ValueError as exc:
            reasons.append(str(exc))
        if not self._group and variant_id and (first := self._rows_by_id.setdefault(variant_id, row)) != row:
            reasons.append(
                f"variant_id: row {first} has it already; ids are unique; `manifest.group` makes such rows the scenes "
                "of one video"
            )
        values["variant_id"], values["row"] = variant_id, row
        try:
            aspects = aspects_of(values.get("aspect"), self._clips.aspects(values))
            outputs = self._outputs.applying(aspects) if aspects else ()
        except ValueError as exc:
            reasons.append(str(exc))
        clips = []
        for aspect in dict.fromkeys([output.aspect for output in outputs]):
            clip = self._clips.make(aspect, {**values, "aspect": aspect})
            if isinstance(clip, list):
                reasons += clip
            else:
                clips.append((aspect, clip))
        layers: list[Layer] = []
        voice, music = None, None
        shortest_s = min((clip.seconds for _, clip in clips), default=math.inf)
        try:
            voice = self._sounds.voice(values, shortest_s)
        except ValueError as exc:
            reasons.append(str(exc))
        if voice is not None and voice.extend:
            shortest_s = max(shortest_s, voice.end_s)
        try:
            # under a video of several scenes it may begin behind the first one
            music = self._sounds.music(values, math.inf if self._group else shortest_s)
        except ValueError as exc:
            reasons.append(str(exc))
        for maker in self._layers:
            layer = maker.make(values, shortest_s)
            if isinstance(layer, list):
                reasons += layer
            elif layer is not None:
                layers.append(layer)
        try:
            priority = priority_of(values.get("priority"))
        except ValueError as exc:
            reasons.append(str(exc))
        paths = []
        for output in outputs if variant_id else ():
            try:
                paths.append((output, self._outputs.path(output, values, row, variant)))
            except ValueError as exc:
                reasons.append(str(exc))
        try:
            carry = carried(self._job.publish.carry, values)
        except ValueError as exc:
            reasons.append(str(exc))
        if reasons:
            # a reason repeats what the row says, which a terminal should not obey
            return [BadRow(row, variant_id, reason) for reason in dict.fromkeys(map(shown, reasons))]
        if notes is not None:
            notes.add(values, clips)
            for name, places in self._gaps.items():
                if is_null(values.get(name)):
                    for place in places:
                        notes.gap(place, name, row)
        scene = Scene(tuple(clips), tuple(layers), voice)
        return Variant(variant_id, row, (scene,), tuple(paths), priority, carry, music, self._sounds.loudness)

    def _prefetch(self, chunk: list[dict[str, object]]) -> None:
        """Read the chunk's new files at once instead of one after another."""
        images = _filled(chunk, [*self._clips.images, *(layer.image for layer in self._layers)])
        self._inputs.prefetch_images(images)
        self._inputs.prefetch_captions(_filled(chunk, [layer.captions for layer in self._layers]))
        self._inputs.prefetch_sounds(_filled(chunk, self._sounds.urls))
        self._inputs.prefetch_videos(self._clips.videos(_different(chunk, self._clips.video_names)))


def _filled(chunk: list[dict[str, object]], templates: Iterable[Template | None]) -> list[str]:
    """What rows make of ``templates``, as far as it can be told before each of them."""
    found: set[str] = set()
    for template in templates:
        if template is None or template.constant is not None or "aspect" in template.names:
            continue
        for values in _different(chunk, template.names):
            try:  # noqa: SIM105 - a context manager would cost as much as the rendering
                found.add(template.render({**values, "row": 0} if "row" in template.names else values))
            except ValueError:  # told with its row
                pass
    return sorted(found)


def _different(chunk: list[dict[str, object]], names: Collection[str]) -> Collection[dict[str, object]]:
    """Of rows with the same values of ``names`` one."""
    try:
        return {tuple([values.get(name) for name in names]): values for values in chunk}.values()
    except TypeError:  # lists and structs cannot be told apart so
        return chunk
