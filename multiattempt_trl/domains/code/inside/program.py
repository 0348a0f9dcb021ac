"""The program's process: loads what a model wrote, and answers the judge's calls to it."""

from __future__ import annotations

import builtins
import json
import os
import sys

from .process import describe, limit_process, take_pipes
from .wire import Channel, pack, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .wire import Plain


def run_program(channel: Channel) -> None:
    """Compiles the program, then runs it, then answers calls until nobody asks any more."""
    channel.send({"ready": True})
    job = channel.receive()
    try:
        code = compile(job["program"], "program.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        return channel.send({"unparsed": describe(error)})
    channel.send({"parsed": True})
    module = type(sys)("program")
    sys.modules["program"] = module  # dataclasses look their own module up

    def load() -> None:
        exec(compile(job["given"], "given.py", "exec", dont_inherit=True), vars(module))
        exec(code, vars(module))

    channel.send(attempt(load))
    while True:
        call = channel.receive()

        def answer(call: Plain = call) -> Any:
            return vars(module)[call["call"]](*unpack(call["args"]), **unpack(call["named"]))

        channel.send(attempt(answer))


def attempt(action: Callable[[], Any]) -> Plain:
    """What an action of the program's returned, or how it failed."""
    try:
        value = pack(action())
        json.dumps(value)
        return {"value": value}
    except BaseException as error:  # SystemExit too: a program that ends has not passed
        return {"raised": describe(error)}


def main() -> NoReturn:
    """The whole life of the process; nothing of the program's, such as `atexit`, runs after it."""
    limit_process()
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # what `site` would bring
    try:
        run_program(Channel(*take_pipes()))
    except (EOFError, OSError):  # the judge is done
        pass
    finally:
        os._exit(0)
