"""The words after an unknown name: ``did you mean ...?`` or the list of what there is.

One place, so that keys of a job, columns of a manifest and names of presets are answered in the same way. Standard
library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

#: longer lists are cut: an error message is read in a terminal
MAX_LISTED = 12


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """A sentence that helps with ``word``: the nearest of ``options``, else the options themselves, else nothing."""
    known = {option.casefold(): option for option in options}
    near = get_close_matches(word.casefold(), known, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{known[near[0]]}`?"
    if not known:
        return ""
    names = sorted(known.values())
    rest = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"there are: {', '.join(names[:MAX_LISTED])}{rest}"
