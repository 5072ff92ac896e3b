"""`blip3v COMMAND ...`: finds the command, lets tyro read its arguments, turns errors into one line.

Only the module of the command that was asked for is imported, so help is fast.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from blip3v.errors import UserError

COMMANDS = {
    "demo": "train a small model on made clips, then answer questions about held-out ones",
    "train": "train with a named recipe",
    "export": "write a model folder from a checkpoint of a training run",
    "data": "check, convert, unpack and rephrase data sets",
    "generate": "answer a question about a video",
    "stream": "answer questions about a video while it runs: a file, a camera, a pipe",
    "bench": "measure kernels, stages, tokens against latency, training, decoding",
    "profile": "say where the time of an op, a stage or a training step goes",
    "doctor": "say what this machine can run, and why not",
}
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def usage() -> str:
    lines = [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: blip3v COMMAND [options]     (blip3v COMMAND --help lists the options)",
            "",
            *lines,
            "",
            "  --version  print the version",
            "  BLIP3V_DEBUG=1 in the environment shows the traceback of an error",
        ]
    )


def run_command(name: str, args: Sequence[str]) -> None:
    """Calls the function `name` of `blip3v.cli.<name>` with the arguments that tyro reads from `args`."""
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}: choose one of {', '.join(COMMANDS)}")
    module = importlib.import_module(f"blip3v.cli.{name}")
    if name == "data":
        module.data(list(args))  # it has actions of its own, each with its options
        return
    import tyro

    tyro.cli(getattr(module, name), prog=f"blip3v {name}", args=list(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; exit code 0, 2 for what the user can repair, 130 after Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else EXIT_USAGE
    if args[0] in ("-V", "--version"):
        import blip3v

        print(f"blip3v {blip3v.__version__}")
        return 0
    try:
        run_command(args[0], args[1:])
    except UserError as error:
        if os.environ.get("BLIP3V_DEBUG") == "1":
            raise
        print(f"blip3v: error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("blip3v: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`blip3v ... | head`): silence the flush at exit too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
