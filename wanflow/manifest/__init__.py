"""The manifest: tables in, Variants out.

``table`` reads rows from files, ``columns`` says which columns are known, ``rows`` turns a row into a Variant or
the reasons why it cannot be one, ``groups`` joins those of several rows, ``notes`` counts what the plan tells of them.
"""

from __future__ import annotations

from wanflow.manifest.columns import COLUMNS, manifest_schema
from wanflow.manifest.notes import Notes
from wanflow.manifest.prompts import clean_prompt
from wanflow.manifest.rows import read_variants, template_columns

__all__ = ["COLUMNS", "Notes", "clean_prompt", "manifest_schema", "read_variants", "template_columns"]
