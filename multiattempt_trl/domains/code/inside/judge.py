"""The judge's process: runs the tests, and has the program's process answer what they call."""

from __future__ import annotations

import json
import os

from .process import describe, limit_process, line_in, take_pipes
from .wire import TEXT, Channel, pack, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from .wire import Plain

BEGAN = b"began\n"
"""What a judge says before it lets the program do anything."""
FOREIGN = "the program's process answered by itself"


class Stop(BaseException):
    """The program's own failure. No `Exception`: a test must not swallow it, nor a `map` take it for its end."""

    def __init__(self, outcome: str, text: str = "") -> None:
        self.outcome, self.text = outcome, text


def judge(job: Mapping[str, Any], channel: Channel) -> Plain:
    """Runs the tests: the outcome, the line of the tests that was running when it failed, and what was raised."""
    try:
        begin(job, channel)
        namespace: dict[str, Any] = {"__name__": "tests"}
        exec(compile(job["given"], "given.py", "exec", dont_inherit=True), namespace)
        namespace |= {name: remote(name, channel) for name in job["calls"]}
        exec(compile(job["tests"], "tests.py", "exec", dont_inherit=True, optimize=0), namespace)
    except Stop as stop:
        return {"outcome": stop.outcome, "line": line_in("tests.py", stop.__traceback__), "error": stop.text}
    except BaseException as error:  # of a test, most often that it does not hold
        text = "" if isinstance(error, AssertionError) else describe(error)
        return {"outcome": "failed", "line": line_in("tests.py", error.__traceback__), "error": text}
    return {"outcome": "passed", "line": None, "error": ""}


def begin(job: Mapping[str, Any], channel: Channel) -> None:
    """Has the program loaded. Raises `Stop` where it is none, or fails before it is called."""
    ask(channel, "no start")
    channel.send({"given": job["given"], "program": job["program"]})
    ask(channel, "unparsed")  # a parser that dies over a text has not parsed it
    ask(channel, "ended")


def ask(channel: Channel, when_gone: str) -> Plain:
    """The program's next message, if it is no failure. Raises `Stop`."""
    try:
        message = channel.receive()
    except (EOFError, OSError):
        raise Stop(when_gone) from None
    except Exception as error:  # not JSON, or too deep or too large for us
        raise Stop("failed", FOREIGN) from error
    if not isinstance(message, dict):
        raise Stop("failed", FOREIGN)
    for failure in ("raised", "unparsed"):
        # Only our own code speaks before the program has run; later it may say anything.
        if failure in message and failure in ("raised", when_gone):
            raise Stop(failure, str(message[failure])[: 2 * TEXT])
    return message


def remote(name: str, channel: Channel) -> Callable[..., Any]:
    """The program's function of that name, as a test may call it."""

    def call(*args: Any, **named: Any) -> Any:
        try:
            channel.send({"call": name, "args": pack(list(args)), "named": pack(named)})
        except BrokenPipeError:
            raise Stop("ended") from None
        reply = ask(channel, "ended")
        try:
            return unpack(reply["value"])
        except Exception as error:  # written by something else than `pack`
            raise Stop("failed", FOREIGN) from error

    return call


def main(reads: int, writes: int) -> NoReturn:
    """Reads its job from standard input, writes what it found to standard output, and talks to the program by the
    descriptors `reads` and `writes`.
    """
    limit_process()
    asked, answered = take_pipes()
    with os.fdopen(asked, "rb") as requests:
        job = json.load(requests)
    os.write(answered, BEGAN)
    found = judge(job, Channel(reads, writes))
    with os.fdopen(answered, "wb") as reply:
        reply.write(json.dumps(found).encode("ascii"))
    os._exit(0)
