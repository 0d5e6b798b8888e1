"""The manifest: tables in, Variants out.

``table`` reads rows from files, ``columns`` says which columns are known, ``rows`` turns a row into a Variant or
the reasons why it cannot be one, ``sharing`` counts what multiplies clips.
"""

from __future__ import annotations

from wanflow.manifest.columns import COLUMNS, manifest_schema
from wanflow.manifest.prompts import clean_prompt
from wanflow.manifest.rows import read_variants, template_columns
from wanflow.manifest.sharing import Sharing

__all__ = ["COLUMNS", "Sharing", "clean_prompt", "manifest_schema", "read_variants", "template_columns"]
