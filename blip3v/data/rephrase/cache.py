"""Every reply, kept the moment it comes: a run that was killed goes on and pays for nothing twice."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from blip3v.data.rephrase.prompts import VERSION, Messages


@dataclass(frozen=True)
class Reply:
    """text: as it came. cut: it ended at the largest number of tokens. tokens_*: as the endpoint counts."""

    text: str
    cut: bool = False
    tokens_in: int = 0
    tokens_out: int = 0


def key_of(model: str, parameters: dict[str, Any], messages: Messages) -> str:
    """Digest of all that decides a reply."""
    asked = json.dumps([VERSION, model, parameters, messages], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(asked.encode(errors="surrogatepass")).hexdigest()


class ReplyCache:
    """A JSON lines file, key and reply in each line, only ever appended to.

    Only the places of the lines are held in memory. Bad replies are kept too: they were paid for, and the
    checks may change. A last line that a killed run left half-written is ignored and closed.

    Use it in a `with` block. Two runs must not write to one file at the same time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[bytes, tuple[int, int]] = {}

    def __enter__(self) -> ReplyCache:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._end = 0
        with self.path.open("rb") as file:
            for line in file:
                self._remember(line, self._end)
                self._end += len(line)
                complete = line.endswith(b"\n")
        if self._end and not complete:
            self._append(b"\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._places

    def get(self, key: str) -> Reply | None:
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        fields = json.loads(os.pread(self._file, place[1], place[0]))
        return Reply(**{name: fields[name] for name in Reply.__dataclass_fields__})

    def put(self, key: str, reply: Reply) -> None:
        line = json.dumps({"key": key, **asdict(reply)}).encode() + b"\n"
        self._places[bytes.fromhex(key)] = (self._end, len(line))
        self._append(line)

    def _remember(self, line: bytes, begin: int) -> None:
        try:
            fields = json.loads(line)
            Reply(**{name: fields[name] for name in Reply.__dataclass_fields__})
            self._places[bytes.fromhex(fields["key"])] = (begin, len(line))
        except (ValueError, KeyError, TypeError):
            return  # a killed run's half line, or somebody's editor

    def _append(self, line: bytes) -> None:
        """One write per line: the system has it all, or none of it but for a full disk."""
        self._end += os.write(self._file, line)
