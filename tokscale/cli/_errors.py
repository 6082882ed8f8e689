"""How a command ends: one line for a user's mistake, the code for an interruption, a traceback for a defect of ours."""

from __future__ import annotations

import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from ..errors import TokscaleError

show_traceback = False  # set by --debug


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command with errors turned into exit codes, and warnings into one line on stderr."""

    @functools.wraps(command)
    def run(*args: Any, **keywords: Any) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _say_warning
            try:
                return command(*args, **keywords)
            except TokscaleError as error:
                if show_traceback:
                    traceback.print_exc()
                print(f"tokscale: {type(error).__name__}: {_one_line(error)}", file=sys.stderr)
                raise SystemExit(2) from None
            except KeyboardInterrupt:
                print("tokscale: interrupted", file=sys.stderr)  # a sweep has said what is on disk
                raise SystemExit(130) from None
            except BrokenPipeError:  # the reader of our output has gone, as `head` does
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise SystemExit(0) from None
            except OSError as error:
                if error.filename is None:
                    raise
                print(f"tokscale: InputError: {error.filename}: {error.strerror}; name another path", file=sys.stderr)
                raise SystemExit(2) from None
            except Exception as error:
                if type(error).__module__.startswith(("typer", "click")):  # usage errors and exits are typer's own
                    raise
                from .. import __version__

                traceback.print_exc()
                defect = f"This is a defect in tokscale {__version__}. Please report it with the lines above."
                print(defect, file=sys.stderr)
                raise SystemExit(70) from None

    return run


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _say_warning(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"tokscale: {category.__name__}: {_one_line(message)}", file=sys.stderr)
