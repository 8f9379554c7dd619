"""What the clients here have in common: they are driven from a test, line by line.

A driver reads one JSON command a line from stdin and prints one JSON line for each when it is done:

    {"do": "connect"}                                         -> {"done": what the server says of itself, ...}
    {"do": "call", "name": NAME, "arguments": {...}}          -> {"done": {the tool's result}, ...}
    {"do": "list"}                                            -> {"done": [tool names], ...}
    {"do": "read", "uri": URI}                                -> {"done": [the resource's contents], ...}
    {"do": "subscribe", "uri": URI}, {"do": "level", "level": LEVEL}, {"do": "close"}

or {"failed": {"type", "code", "message"}, ...}. Either also carries "session", the session id that the client
holds, and "statuses", the HTTP statuses that it saw since the last one. With --answer it declares that it can be
asked (by elicitation, and by sampling where the client has that) and answers every question so. What the server
sends unasked is printed as it comes: {"event": {"method", "params"}}.
"""

import argparse
import asyncio
import json
import sys
import warnings
from contextlib import AsyncExitStack
from typing import Any

# What 2026-07-28 deprecates is just what is driven here.
warnings.simplefilter("ignore")


def emit(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def plain(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


class Driver:
    """One connection at a time, and what was seen on it. A command is run by the method of its name."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.stack = AsyncExitStack()
        self.session: str | None = None
        self.statuses: list[int] = []

    async def close(self) -> None:
        await self.stack.aclose()
        self.session = None

    async def saw_response(self, response: Any) -> None:
        """A hook for the HTTP client."""
        self.statuses.append(response.status_code)
        self.session = response.headers.get("mcp-session-id", self.session)

    def heard(self, method: str, params: Any) -> None:
        emit(event={"method": method, "params": params})

    async def heard_progress(self, progress: float, total: float | None, *_: Any) -> None:
        self.heard("notifications/progress", {"progress": progress, "total": total})

    def finish(self, **line: Any) -> None:
        emit(**line, session=self.session, statuses=self.statuses)
        self.statuses = []

    async def drive(self) -> None:
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            try:
                run = getattr(self, command.pop("do"))
                self.finish(done=await run(**command))
            except Exception as error:
                self.finish(failed=failure(error))
        await self.stack.aclose()


def failure(error: BaseException) -> dict[str, Any]:
    """The innermost error of a group, with its JSON-RPC code if it has one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    code = getattr(getattr(error, "error", error), "code", None)
    return {"type": type(error).__name__, "code": code, "message": str(error)}


def options(description: str | None) -> argparse.ArgumentParser:
    """The arguments that all of them take."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--answer")
    return parser
