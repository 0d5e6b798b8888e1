"""What the manifest asks for, with its keys, each worked out once.

Equal rows get the same Clip object from the manifest, so that a clip is known by its identity first and by its key
after: hashing a million clips field by field would cost more than reading them.
"""

from __future__ import annotations

from collections import Counter

from wanflow.keys import assembled_key, master_key
from wanflow.model import Clip, OutputFile, Variant


class WantedClips:
    """Collects the clips of all variants."""

    def __init__(self) -> None:
        #: by the key of the master
        self.clips: dict[str, Clip] = {}
        #: master -> how often it is shown, once a variant
        self.num_uses: Counter[str] = Counter()
        #: digests of what assembly shows and plays: pictures, fonts, sounds
        self.inputs: set[str] = set()
        #: id -> the clip, which is kept so that its id stays its own, and its key
        self._known: dict[int, tuple[Clip, str]] = {}

    def files_of(self, variant: Variant) -> list[OutputFile]:
        """Every file of ``variant`` with its keys; its clips are counted."""
        scenes = [{aspect: self.key_of(clip) for aspect, clip in scene.clips} for scene in variant.scenes]
        self.inputs.update(source.digest for source in variant.sources)
        for key in {key for masters in scenes for key in masters.values()}:
            self.num_uses[key] += 1
        files = []
        for output, path in variant.outputs:
            shown = tuple([masters[output.aspect] for masters in scenes])
            files.append(OutputFile(output, path, assembled_key(variant, shown, output), shown))
        return files

    def key_of(self, clip: Clip) -> str:
        """Key of the clip's master."""
        known = self._known.get(id(clip))
        if known is None:
            key = master_key(clip)
            self.clips.setdefault(key, clip)
            known = self._known[id(clip)] = clip, key
        return known[1]
