"""The official Python SDK's client, driven line by line from a test.

    client.py URL [--mode auto|legacy] [--answer TEXT]

Reads one JSON command a line from stdin and prints one JSON line for each when it is done:

    {"do": "connect"}                                         -> {"done": {serverInfo, protocolVersion, ...}, ...}
    {"do": "call", "name": NAME, "arguments": {...}}          -> {"done": {the tool's result}, ...}
    {"do": "list"}                                            -> {"done": [tool names], ...}
    {"do": "subscribe", "uri": URI}, {"do": "level", "level": LEVEL}, {"do": "close"}

or {"failed": {"type", "code", "message"}, ...}. Either also carries "session", the session id that the client
holds, and "statuses", the HTTP statuses that it saw since the last one. With --answer it declares elicitation
and sampling and answers every question so. What the server sends unasked is printed as it comes:
{"event": {"method", "params"}}. Runs on mcp 1.30 and 2.3; --mode is for 2.3, where `auto` (the SDK's default)
asks for the modern era first.
"""

import argparse
import asyncio
import json
import sys
import warnings
from contextlib import AsyncExitStack
from typing import Any

import mcp.types as types
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

try:
    import httpx2 as httpx
    from mcp import Client

    SDK = 2
except ImportError:
    import httpx

    SDK = 1

# What 2026-07-28 deprecates is just what is driven here.
warnings.simplefilter("ignore")


def emit(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def plain(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


class Driver:
    """One connection at a time, and what was seen on it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.stack = AsyncExitStack()
        self.client: Any = None
        self.session: str | None = None
        self.statuses: list[int] = []

    async def connect(self) -> Any:
        """Opens the transport and shakes hands, in whichever way this SDK does."""
        http = httpx.AsyncClient(
            timeout=httpx.Timeout(30, read=300), event_hooks={"response": [self.saw_response]}
        )
        await self.stack.enter_async_context(http)
        transport = streamable_http_client(self.options.url, http_client=http)
        callbacks: dict[str, Any] = {"message_handler": self.saw_message}
        if self.options.answer is not None:
            callbacks |= {"elicitation_callback": self.elicited, "sampling_callback": self.sampled}
        if SDK == 2:
            client = Client(transport, mode=self.options.mode, **callbacks)
            self.client = await self.stack.enter_async_context(client)
            return {"protocolVersion": client.protocol_version, "serverInfo": plain(client.server_info)}
        read, write, _ = await self.stack.enter_async_context(transport)
        self.client = await self.stack.enter_async_context(ClientSession(read, write, **callbacks))
        return plain(await self.client.initialize())

    async def run(self, command: dict[str, Any]) -> Any:
        match command:
            case {"do": "connect"}:
                return await self.connect()
            case {"do": "call", "name": name, "arguments": arguments}:
                result = await self.client.call_tool(name, arguments, progress_callback=self.saw_progress)
                return plain(result)
            case {"do": "list"}:
                return [tool.name for tool in (await self.client.list_tools()).tools]
            case {"do": "subscribe", "uri": uri}:
                return plain(await self.client.subscribe_resource(uri))
            case {"do": "level", "level": level}:
                return plain(await self.client.set_logging_level(level))
            case {"do": "close"}:
                await self.stack.aclose()
                self.session = None
                return None
        raise ValueError(f"not a command: {command}")

    async def saw_response(self, response: Any) -> None:
        self.statuses.append(response.status_code)
        self.session = response.headers.get("mcp-session-id", self.session)

    async def saw_message(self, message: Any) -> None:
        if isinstance(message, Exception):
            emit(event={"method": "exception", "params": {"message": str(message)}})
            return
        # mcp 1 wraps notifications, and hands over requests too, which have callbacks of their own.
        message = plain(getattr(message, "root", message)) if hasattr(message, "model_dump") else {}
        if message.get("method", "notifications/progress") != "notifications/progress":
            emit(event={"method": message["method"], "params": message.get("params")})

    async def saw_progress(self, progress: float, total: float | None, _: str | None) -> None:
        emit(event={"method": "notifications/progress", "params": {"progress": progress, "total": total}})

    async def elicited(self, _: Any, params: Any) -> Any:
        emit(event={"method": "elicitation/create", "params": plain(params)})
        return types.ElicitResult(action="accept", content={"answer": self.options.answer})

    async def sampled(self, _: Any, params: Any) -> Any:
        emit(event={"method": "sampling/createMessage", "params": plain(params)})
        text = types.TextContent(type="text", text=self.options.answer)
        return types.CreateMessageResult(role="assistant", content=text, model="test")

    def finish(self, **line: Any) -> None:
        emit(**line, session=self.session, statuses=self.statuses)
        self.statuses = []


def failure(error: BaseException) -> dict[str, Any]:
    """The innermost error of a group, with its JSON-RPC code if it has one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    code = getattr(getattr(error, "error", error), "code", None)
    return {"type": type(error).__name__, "code": code, "message": str(error)}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--mode", default="legacy", choices=["auto", "legacy"])
    parser.add_argument("--answer")
    driver = Driver(parser.parse_args())
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            driver.finish(done=await driver.run(json.loads(line)))
        except Exception as error:
            driver.finish(failed=failure(error))
    await driver.stack.aclose()


if __name__ == "__main__":
    asyncio.run(main())
