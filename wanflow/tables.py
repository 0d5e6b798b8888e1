"""Tables for terminals and logs: plain columns, nothing of a cell taken for markup."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

#: rows of a table or list that a terminal gets; files and --json have all of them
MAX_ROWS = 40


def print_table(head: tuple[str, ...], rows: Sequence[tuple[Any, ...]], most: int = MAX_ROWS) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows[:most]:
        table.add_row(*(Text(str(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    if len(rows) > most:
        console.print(f"... and {len(rows) - most:,} more")
