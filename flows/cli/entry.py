"""The entry point `main`: runs the command, and turns its outcome into one line and an exit code.

Every mistake of the user is one line and exit code 2; a failed stage is exit code 1.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from functools import cache

import typer
from rich.text import Text

from flows.cli.commands import command_line
from flows.cli.output import err
from model.zoo.errors import ZooError
from storage.errors import InputError
from storage.files import shell_word
from storage.store import StoreError
from tasks.display import Waiting
from tasks.engine.jobs import StageFailed
from tasks.engine.own_server import ServerFailed
from tasks.engine.stopping import Stopped, handling_signals
from tasks.terminal import clean

TALKING = (["chat"], ["serve"])
"""Commands that hold conversations, which end with them."""
BEGINS_ANEW = "begins anew, without the conversations of before"


def main() -> None:
    """Entry point: one line and an exit code for every known mistake, a traceback only for a defect.

    0 done, 1 failed or damaged, 2 a mistake of the user's; 128 and a signal's number where one ended it, and as for
    SIGTERM where Prefect cancelled the run.
    """
    with handling_signals(_last_words) as handler:
        try:
            code = _run_command()
        except Stopped as stopped:
            code = 128 + signal.SIGTERM
            if handler.code is None:
                _last_words(str(stopped))
        except BaseException:
            if handler.code is None:
                raise
        if handler.code is not None:  # whatever came of the command: why it ended, and how to go on
            _last_words(handler.why)
            code = handler.code
        sys.exit(code)


def _run_command() -> int:
    """Run the command of this process's arguments; returns its exit code."""
    try:
        code = command_line()(standalone_mode=False)
        return code if isinstance(code, int) else 0  # the code of typer.Exit, which typer turns into a result
    except typer.Abort:
        err.print("stopped: the question was not answered")
        return 130
    except InputError as error:
        return _failed(error, 2)
    except StageFailed as error:
        return _failed(error, 2 if error.usage else 1)
    except (StoreError, ServerFailed) as error:
        return _failed(error, 1)
    except Stopped:
        raise
    except ZooError as error:  # an unknown name, or weights that cannot be fetched: as with `fetch`
        return _failed(error, 2)
    except Exception as error:
        if hasattr(
            error, "format_message"
        ):  # click's usage errors; one without a message has printed the help
            return _failed(error.format_message(), 2) if error.format_message().strip() else 2
        Waiting.end()
        err.say_traceback(error)
        return 1


def _failed(message, code: int) -> int:
    Waiting.end()
    err.print(Text.assemble(("error:", "red"), f" {clean(str(message))}"), soft_wrap=True)
    return code


@cache  # said once, either at the command's own end or when its time is up
def _last_words(why: str) -> None:
    Waiting.end()
    command = " ".join(map(shell_word, ["empamba", *sys.argv[1:]]))
    with contextlib.suppress(OSError):  # a terminal that has hung up
        err.say(f"{why}; `{command}` {BEGINS_ANEW if sys.argv[1:2] in TALKING else 'goes on from here'}")
