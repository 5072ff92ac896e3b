"""`blip3v data check|convert|unpack|pack|rephrase`: data sets, before a run."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from blip3v.errors import UserError

ACTIONS = {
    "check": "read everything that a run would read; say what is kept, and what is not and why",
    "convert": "write a mixture as records in our own format, for example to rephrase their answers",
    "unpack": "turn published .tar.gz chunks of frames into plain .tar files, which are read in place",
    "pack": "decode every video once into tars of sampled frames, which training reads without decoding",
    "rephrase": "rewrite short answers as sentences, or captions, with a language model behind an address",
}


def usage() -> str:
    lines = [f"  {name:<10} {text}" for name, text in ACTIONS.items()]
    first = "usage: blip3v data ACTION [options]     (blip3v data ACTION --help lists the options)"
    return "\n".join([first, "", *lines])


def data(args: Sequence[str]) -> None:
    """Calls the function `ACTION` of `blip3v.cli.data_ACTION` with the arguments that tyro reads.

    Args:
        args: the action and its options, as on the command line.
    """
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return
    name = args[0]
    if name not in ACTIONS:
        raise UserError(f"no action {name!r}: choose one of {', '.join(ACTIONS)}")
    import tyro

    action = getattr(importlib.import_module(f"blip3v.cli.data_{name}"), name)
    tyro.cli(action, prog=f"blip3v data {name}", args=list(args[1:]))
