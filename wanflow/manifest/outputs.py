"""A row's outputs: which apply to its aspects, and the path under which each is published, safe and unique."""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Iterator, Mapping

from wanflow.errors import JobError
from wanflow.job import Job
from wanflow.model import Output
from wanflow.storage import check_publish_path, is_local
from wanflow.storage.paths import folds_case, local_path
from wanflow.templates import compile_template

SUFFIX = ".mp4"
POSTER = ".jpg"


class OutputMaker:
    """Outputs and paths of one job; remembers who has which path."""

    def __init__(self, job: Job) -> None:
        self._sections = job.outputs
        self._template = compile_template(job.publish.path)
        self._url = job.publish.url
        self._inside = _inside(job.publish.url, job.workspace)
        self._folds_case = is_local(job.publish.url) and folds_case(local_path(job.publish.url))
        self._applying: dict[tuple[str, ...], tuple[Output, ...] | str] = {}
        self._numbers = {section.name: number for number, section in enumerate(job.outputs)}
        #: path -> whose it is: number of the variant times number of outputs, plus number of the output
        self._owners: dict[str, int] = {}
        #: first row of each variant, as far as they have come
        self._rows = array("q")

    def applying(self, aspects: tuple[str, ...]) -> tuple[Output, ...]:
        """The outputs whose aspect is among ``aspects``; ValueError when none is."""
        if aspects not in self._applying:
            self._applying[aspects] = self._find(aspects)
        found = self._applying[aspects]
        if isinstance(found, str):
            raise ValueError(found)
        return found

    def applying_always(self, aspects: tuple[str, ...]) -> tuple[Output, ...]:
        """The same where every row has ``aspects``. JobError that names each output which is made from none of them."""
        needs = {section.name: section.source_aspect() or aspects[0] for section in self._sections}
        if lacking := {name: aspect for name, aspect in needs.items() if aspect not in aspects}:
            never = ", ".join(f"{name} needs {aspect}" for name, aspect in lacking.items())
            all_aspects = ", ".join(dict.fromkeys([*aspects, *lacking.values()]))
            raise JobError(
                f"outputs: {never}, but clip.aspect is {', '.join(aspects)}, for every row; set `clip.aspect: "
                f"[{all_aspects}]`, change the output's `from`, or leave the output out"
            )
        try:
            return self.applying(aspects)
        except ValueError as exc:
            raise JobError(f"clip.aspect and outputs: {exc}") from None

    def never_applied(self) -> Iterator[tuple[str, str]]:
        """(name, aspect that it is made from) of the outputs that no row had so far; none where no row had any."""
        applied = {
            output.name for found in self._applying.values() if not isinstance(found, str) for output in found
        }
        for section in self._sections:
            if applied and section.name not in applied and (aspect := section.source_aspect()):
                yield section.name, aspect

    def path(self, output: Output, values: Mapping[str, object], row: int, variant: int) -> str:
        """Where the row's file of ``output`` is published; ValueError when it is unsafe or another one has it.

        ``variant`` numbers the variants of a run: with a matrix, a row has several; the rows of a group have one.
        """
        try:
            path = self._template.render({**values, "output": output.name, "aspect": output.aspect})
            check_publish_path(path)
            *folders, file_name = path.split("/")
            if not file_name.endswith(SUFFIX) or file_name == SUFFIX:
                raise ValueError(f"{path!r} must end with a name and {SUFFIX}")
            for folder in folders:
                if folder.lower().endswith((SUFFIX, POSTER)):
                    raise ValueError(
                        f"{path!r} has a folder that is called like a video; it may be another row's file"
                    )
            if file_name.startswith("."):
                raise ValueError(f"{path!r} is a hidden file; begin its name with another character")
            if self._inside and f"{path}/".startswith(f"{self._inside}/"):
                raise ValueError(f"{path!r} lies in the workspace ({self._inside}/ below publish.url)")
        except ValueError as exc:
            raise ValueError(f"publish.path of output {output.name}: {exc}") from None
        # the same letters, however they are composed; and on such file systems the same letters in another case
        name = unicodedata.normalize("NFC", path)
        if variant >= len(self._rows):
            self._rows.extend([row] * (variant + 1 - len(self._rows)))
        number = variant * len(self._sections) + self._numbers[output.name]
        owner = self._owners.setdefault(name.casefold() if self._folds_case else name, number)
        if owner != number:
            whose = self._whose(owner, variant)
            raise ValueError(f"publish.path: {whose} is published at {path} too; make the path differ")
        return path

    def _whose(self, owner: int, variant: int) -> str:
        its_variant, its_output = divmod(owner, len(self._sections))
        if its_variant == variant:
            return f"output {self._sections[its_output].name} of the same row"
        its_row = self._rows[its_variant]
        return (
            f"row {its_row}"
            if its_row != self._rows[variant]
            else "the same row with other values of the matrix"
        )

    def _find(self, aspects: tuple[str, ...]) -> tuple[Output, ...] | str:
        found, problems, wanted = [], [], []
        for section in self._sections:
            aspect = section.source_aspect() or (aspects[0] if len(aspects) == 1 else None)
            if aspect is None:
                problems.append(
                    f"output {section.name}: say which of {', '.join(aspects)} it is made from: `from: {aspects[0]}`"
                )
            elif aspect in aspects:
                try:
                    found.append(section.resolve(aspect))
                except JobError as exc:
                    problems.append(str(exc))
            else:
                wanted.append(f"{section.name} needs {aspect}")
        if problems:
            return "; ".join(problems)
        if not found:
            have = f"no output is made from {', '.join(aspects)} ({', '.join(wanted)})"
            return f"aspect: {have}; change the aspect, or the outputs' `from`"
        return tuple(found)


def _inside(url: str, workspace: str) -> str:
    """The workspace's path below the publish URL, or nothing."""
    prefix = url.rstrip("/") + "/"
    return workspace.rstrip("/")[len(prefix) :] if workspace.startswith(prefix) else ""
