"""The one binary. Each sub-command is a typed dataclass ``Command`` in its own file; its docstrings are the help."""

import ast
import shutil
import sys
import textwrap
from abc import abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from gleanseg import __version__
from gleanseg.errors import UserError, nearest

COMMANDS = {
    "demo": "demo",
    "import": "import_",
    "doctor": "doctor",
    "prepare": "prepare",
    "train": "train",
    "predict": "predict",
    "evaluate": "evaluate",
    "report": "report",
    "picture": "picture",
    "presence": "presence",
    "text": "text",
    "bench": "bench",
}
"""Sub-command -> file in this folder, in the order of use."""


class Runnable(Protocol):
    """A parsed sub-command."""

    @abstractmethod
    def run(self) -> int:
        """Do it; the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run one sub-command.

    Returns:
        0; 1 when something examined is wrong; 2 for a mistake of the user; 75 for a run that was asked to stop.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--version"], ["-V"]):
        print(f"gleanseg {__version__}")
        return 0
    if not arguments or arguments[0] in ("--help", "-h"):
        print(_overview(min(100, shutil.get_terminal_size().columns)))
        return 0 if arguments else 2
    if arguments[0] not in COMMANDS:
        close = nearest(arguments[0], COMMANDS) or "; gleanseg --help lists them"
        print(f"gleanseg: no such command: {arguments[0]!r}{close}", file=sys.stderr)
        return 2
    import tyro  # here, as importing it takes longer than the overview does

    command: Runnable = tyro.cli(
        _command(arguments[0]),
        prog=f"gleanseg {arguments[0]}",
        args=arguments[1:],
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        return command.run()
    except UserError as error:
        print(f"gleanseg: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("gleanseg: stopped", file=sys.stderr)
        return 130


def _overview(width: int) -> str:
    """Help with one line or two on each sub-command."""
    indent = max(map(len, COMMANDS)) + 4
    briefs = [
        textwrap.fill(_brief(file), width, initial_indent=f"  {name}".ljust(indent), subsequent_indent=" " * indent)
        for name, file in COMMANDS.items()
    ]
    return "\n".join(
        [
            f"gleanseg {__version__}",
            "Train 3D medical image segmentation from scarce, partial and missing labels, and run it.",
            "",
            "usage: gleanseg COMMAND [options]",
            "       gleanseg COMMAND --help",
            "",
            *briefs,
        ]
    )


def _command(name: str) -> Callable[..., Runnable]:
    found: Callable[..., Runnable] = import_module(f"gleanseg.cli.{COMMANDS[name]}").Command
    return found


def _brief(file: str) -> str:
    """The first paragraph of a sub-command's help, on one line; read from the file, as importing all takes longer."""
    code = ast.parse(Path(__file__).with_name(f"{file}.py").read_text(encoding="utf-8"))
    (command,) = (node for node in code.body if isinstance(node, ast.ClassDef) and node.name == "Command")
    return " ".join((ast.get_docstring(command) or "").partition("\n\n")[0].split())


if __name__ == "__main__":
    sys.exit(main())
