"""A result file: machine, ceilings and rows, written after every row: a kill loses the current one only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blip3v.errors import UserError
from blip3v.files import written_aside

IDENTITY = ("level", "op", "case", "dtype", "direction", "backend")
"""What tells one row from another; in two files, rows with the same identity are compared."""


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in IDENTITY)


def read(path: Path) -> dict[str, Any]:
    """The file's content.

    Raises:
        UserError: it does not exist, or is no result file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; `blip3v bench` writes such files") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); give a file that `blip3v bench` wrote") from error
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "op" in row for row in rows):
        raise UserError(f"{path} holds no rows of `blip3v bench`; give a file that it wrote")
    return content


class ResultFile:
    """A file that grows row by row.

    Args:
        resume: keep the rows that are there, if they come from the same device kind and commit.

    Raises:
        UserError: `resume` and the rows there are another machine's or another commit's.
    """

    def __init__(
        self, path: Path, machine: dict[str, Any], ceilings: dict[str, Any], resume: bool = False
    ) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "machine": machine,
            "ceilings": ceilings,
            "rows": [],
            "done": [],
        }
        if resume and path.exists():
            before = read(path)
            for name in ("kind", "commit", "torch"):
                if before["machine"].get(name) != machine.get(name):
                    raise UserError(
                        f"{path} was measured with {name} {before['machine'].get(name)}, now it is "
                        f"{machine.get(name)}; leave --resume out, or give another --out"
                    )
            self.content = {"done": [], **before}
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self.content["rows"])

    def done(self, part: str) -> bool:
        """Whether this part was measured to its end by an earlier run."""
        return part in self.content["done"]

    def finish(self, part: str) -> None:
        self.content["done"].append(part)
        self._write()

    def add(self, row: dict[str, Any]) -> None:
        """Take a row, in place of one with the same identity, and write the file whole."""
        kept = [known for known in self.content["rows"] if identity(known) != identity(row)]
        self.content["rows"] = [*kept, row]
        self._write()

    def _write(self) -> None:
        with written_aside(self.path) as aside:
            aside.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")
