"""The command line: `python -m pipelines --help`. The stages' commands are what dvc.yaml calls."""

import logging
import os
import sys
from io import TextIOWrapper

import typer
from rich.console import Console
from rich.logging import RichHandler

from befa.errors import BefaError, first_line
from pipelines.commands import flows, results, stages

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
for commands in (stages, results, flows):
    app.add_typer(commands.app)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main() -> int:
    """Runs the command line; the exit code is 1 after an error a user can mend, printed in one line."""
    handler = RichHandler(console=Console(stderr=True), show_path=False)
    for name in ("befa", "pipelines"):  # not the root: other libraries' logs are theirs to configure
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal of another encoding: a title is shown as far as it can
    for argument in sys.argv:
        try:
            argument.encode()
        except UnicodeEncodeError:
            return _told(f"the argument {argument!r} is not text in UTF-8; write it in UTF-8")
    try:
        app()
    except BefaError as error:
        return _told(str(error))
    except SystemExit as end:
        if end.code == INTERRUPTED:
            Console(stderr=True).print("interrupted", style="bold red")
        raise
    except BrokenPipeError:  # what this is piped into has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RuntimeError as error:
        if "OutOfMemoryError" not in type(error).__name__:  # torch's, which is not loaded here; Ray adds to its name
            raise
        mend = "make batch_size smaller (`training` or `encoders` in params.yaml), or take the device cpu"
        return _told(f"the GPU has too little memory ({first_line(error)}); {mend}")
    except OSError as error:
        where = f" in {error.filename}" if error.filename else ""
        return _told(f"{error.strerror or error}{where}; see to the disk, the path and its rights")
    return 0


def _told(error: str) -> int:
    Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="bold red", markup=False, highlight=False)
    return 1


if __name__ == "__main__":
    sys.exit(main())
