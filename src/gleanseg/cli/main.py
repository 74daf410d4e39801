"""The one binary. Each sub-command is a typed dataclass ``Command`` in its own file; its docstrings are the help."""

import sys
from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

import tyro

from gleanseg import __version__
from gleanseg.errors import UserError

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
    commands = {name: import_module(f"gleanseg.cli.{file}").Command for name, file in COMMANDS.items()}
    command: Runnable = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="gleanseg",
        description="Train 3D medical image segmentation from scarce, partial and missing labels, and run it.",
        args=arguments,
    )
    try:
        return command.run()
    except UserError as error:
        print(f"gleanseg: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("gleanseg: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
