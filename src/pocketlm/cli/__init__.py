"""The command line: verbs to calls. The only package that prints or exits.

Results go to stdout, progress to stderr. Exit 0 made, 1 failed, 2 your input, 75 interrupted and
resumable.
"""

import os
import signal
import sys
from types import FrameType
from typing import Any

import typer

from pocketlm.cli.corpus import corpus
from pocketlm.cli.evaluate import evaluate
from pocketlm.cli.options import printable
from pocketlm.cli.verbs import app
from pocketlm.errors import Interrupted, PocketLMError
from pocketlm.hardware import PROCESS_SETTINGS, ranks, restart_with

# Typer carries its own click; this is the public way to the class of wrong words and options.
UsageError: Any = typer.BadParameter.__bases__[0]

app.command()(corpus)
app.command()(evaluate)

_TYPER_INTERRUPTED = 130  # what it makes of a KeyboardInterrupt inside a verb, without a word


def main() -> None:
    """Entry point of the `pocketlm` command."""
    verb, *rest = sys.argv[1:] or [""]
    times = verb == "show" and rest[:1] == ["this-machine"]
    if rest and (times or verb not in ("plan", "show", "new", "doctor")):
        restart_with(PROCESS_SETTINGS)  # verbs that compute, or time how fast they would
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Do what `arguments` say and return the exit code: errors are one line, no traceback."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # parents are folders: nothing is ever fetched
    if ranks().count > 1 and arguments[:1] != ["train"]:
        return _fail("torchrun starts `pocketlm train` and nothing else; run the rest alone", 2)
    try:
        code = int(app(arguments, prog_name="pocketlm", standalone_mode=False) or 0)
        return _interrupted() if code == _TYPER_INTERRUPTED else code
    except UsageError as error:
        return _fail(error.format_message(), error.exit_code)
    except PocketLMError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # no space left, no permission: the system's words say which file
        return _fail(str(error), 1)


def _interrupted() -> int:
    kept = "interrupted; finished stages are kept, the same command continues"
    return _fail(kept, Interrupted.exit_code)


def _fail(message: str, exit_code: int) -> int:
    if exit_code in (2, Interrupted.exit_code) and ranks().number_here:
        return exit_code  # the first process of this machine says the same
    typer.echo(f"pocketlm: {printable(' '.join(message.split()))}", err=True)
    return exit_code


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
