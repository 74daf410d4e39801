"""The one binary. Each sub-command is a typed dataclass ``Command`` in its own file; its docstrings are the help."""

import inspect
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
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
    if not arguments or arguments[0] not in COMMANDS:
        return _overview(arguments)
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


def _overview(arguments: Sequence[str]) -> int:
    """Help with one line on each sub-command, or what is wrong with the arguments; tyro exits."""
    tyro.extras.subcommand_cli_from_dict(
        {name: _brief(_command(name)) for name in COMMANDS},
        prog="gleanseg",
        description="Train 3D medical image segmentation from scarce, partial and missing labels, and run it.",
        args=arguments,
    )
    return 2


def _command(name: str) -> Callable[..., Runnable]:
    found: Callable[..., Runnable] = import_module(f"gleanseg.cli.{COMMANDS[name]}").Command
    return found


def _brief(command: Callable[..., Runnable]) -> Callable[[], None]:
    """Stands for a sub-command in the overview, with the first paragraph of its help."""

    def stand_in() -> None:
        pass

    stand_in.__doc__ = inspect.cleandoc(command.__doc__ or "").partition("\n\n")[0]
    return stand_in


if __name__ == "__main__":
    sys.exit(main())
