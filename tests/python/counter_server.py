"""A stateful MCP server on the official Python SDK, for tests: the Python twin of `throughline reference`.

    counter_server.py --port N [--json] [--idle-timeout SECONDS]

Serves Streamable HTTP at /mcp, and beside it `GET /healthz`, `GET /sessions` (how many are open) and
`POST /drop-sessions` (forgets every one, as an expiry would). Prints one line, `ready URL`, once it listens.
Runs on mcp 1.30 and 2.3.
"""

import argparse
import asyncio
import os
import re
import secrets
import socket
from collections import defaultdict
from typing import Any

import uvicorn
from mcp.types import ToolAnnotations
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

try:
    from mcp.server.mcpserver import Context, MCPServer

    SDK = 2
except ImportError:
    from mcp.server.fastmcp import Context, FastMCP as MCPServer

    SDK = 1

READ_ONLY = ToolAnnotations.model_validate({"readOnlyHint": True})
LONGEST_SLEEP_MS = 60_000
PROGRESS_EVERY_MS = 100


class Process:
    """What all sessions share, and lose with the process."""

    def __init__(self) -> None:
        self.instance = secrets.token_hex(8)
        self.handshakes = {b"initialize": 0, b"notifications/initialized": 0}
        self.total = 0
        self.counters: defaultdict[str | None, int] = defaultdict(int)


class Answer(BaseModel):
    """What `ask` wants to be told."""

    answer: str


def session_id(ctx: Context) -> str | None:
    """The id that the client sent; a modern request has none, and so no state."""
    return ctx.request_context.request.headers.get("mcp-session-id")


def add_tools(server: MCPServer, process: Process) -> None:
    """The tools of the counter, with the names, arguments and structured results of the Rust one."""

    @server.tool()
    async def increment(ctx: Context, by: int = 1) -> dict[str, int]:
        """Adds to this session's counter and returns its new value."""
        process.total += 1
        if (session := session_id(ctx)) is None:
            return {"value": by}
        process.counters[session] += by
        return {"value": process.counters[session]}

    @server.tool(annotations=READ_ONLY)
    async def value(ctx: Context) -> dict[str, int]:
        """Returns this session's counter."""
        return {"value": process.counters[session_id(ctx)]}

    @server.tool(annotations=READ_ONLY)
    async def total() -> dict[str, int]:
        """Returns how many increments this process has executed, in all of its sessions."""
        return {"total": process.total}

    @server.tool(annotations=READ_ONLY)
    async def sleep(ctx: Context, ms: int) -> dict[str, int]:
        """Waits, and tells every 100 ms how long it has been waiting if the caller gave a progress token."""
        whole, slept = min(ms, LONGEST_SLEEP_MS), 0
        while slept < whole:
            step = min(PROGRESS_EVERY_MS, whole - slept)
            await asyncio.sleep(step / 1000)
            slept += step
            await ctx.report_progress(slept, whole)
        return {"slept": slept}

    @server.tool(annotations=READ_ONLY)
    async def session(ctx: Context) -> dict[str, Any]:
        """Tells which process answers, how many handshakes it has seen, and the id of this session in it."""
        return {
            "pid": os.getpid(),
            "instance": process.instance,
            "initializes": process.handshakes[b"initialize"],
            "initialized": process.handshakes[b"notifications/initialized"],
            "session": session_id(ctx),
        }

    @server.tool(annotations=READ_ONLY)
    async def ask(ctx: Context, question: str = "What is this counter counting?") -> dict[str, Any]:
        """Asks the client in the middle of the call, by elicitation, and returns its answer."""
        reply = await ctx.elicit(question, Answer)
        data = getattr(reply, "data", None)
        return {"action": reply.action, "content": data.model_dump() if data else None}

    @server.tool(annotations=READ_ONLY)
    async def log(ctx: Context, text: str, level: str = "info") -> dict[str, bool]:
        """Sends a log message to the client."""
        await ctx.session.send_log_message(level=level, data=text, logger="counter")
        return {"sent": True}


def add_routes(server: MCPServer) -> None:
    """What is there beside the protocol."""

    @server.custom_route("/healthz", methods=["GET"])
    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    # The SDKs have no public way to list sessions, nor to end one except to wait for its expiry.

    @server.custom_route("/sessions", methods=["GET"])
    async def sessions(_: Request) -> Response:
        return PlainTextResponse(str(len(server.session_manager._server_instances)))

    @server.custom_route("/drop-sessions", methods=["POST"])
    async def drop_sessions(_: Request) -> Response:
        manager = server.session_manager
        for session, transport in list(manager._server_instances.items()):
            await manager._discard_session(session, transport)
        return Response(status_code=204)


def counting_handshakes(app: Any, process: Process) -> Any:
    """Counts handshakes on their way in: the SDKs have no hook for them in common."""
    method = re.compile(rb'"method"\s*:\s*"(initialize|notifications/initialized)"')

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        async def counted() -> Any:
            message = await receive()
            if found := method.search(message.get("body", b"")):
                process.handshakes[found[1]] += 1
            return message

        await app(scope, counted, send)

    return counting


class Uvicorn(uvicorn.Server):
    """Says when it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets
        print("ready http://127.0.0.1:%d/mcp" % sockets[0].getsockname()[1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="answer with JSON instead of event streams")
    parser.add_argument("--idle-timeout", type=float, help="seconds until an idle session expires")
    options = parser.parse_args()

    transport: dict[str, Any] = {"json_response": options.json}
    if options.idle_timeout is not None:
        transport["session_idle_timeout"] = options.idle_timeout
    process = Process()
    # mcp 1 takes the transport's settings with the server, mcp 2 with the application made of it.
    server = MCPServer("counter", log_level="WARNING", **(transport if SDK == 1 else {}))
    add_tools(server, process)
    add_routes(server)
    app = server.streamable_http_app(**(transport if SDK == 2 else {}))

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", options.port))
    config = uvicorn.Config(counting_handshakes(app, process), log_level="warning")
    Uvicorn(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
