"""The official Python SDK's client, driven line by line from a test; driver.py says what it understands.

    client.py URL [--mode auto|legacy] [--answer TEXT]

Runs on mcp 1.30 and 2.3; --mode is for 2.3, where `auto` (the SDK's default) asks for the modern era first.
"""

import asyncio
from typing import Any

import mcp.types as types
from driver import Driver, options, plain
from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

try:
    import httpx2 as httpx
    from mcp import Client

    SDK = 2
except ImportError:
    import httpx

    SDK = 1


class SdkDriver(Driver):
    client: Any = None

    async def connect(self) -> Any:
        """Opens the transport and shakes hands, in whichever way this SDK does."""
        transport = await self.transport()
        callbacks: dict[str, Any] = {"message_handler": self.heard_message}
        if self.options.answer is not None:
            callbacks |= {"elicitation_callback": self.elicited, "sampling_callback": self.sampled}
        if SDK == 2:
            client = Client(transport, mode=self.options.mode, **callbacks)
            self.client = await self.stack.enter_async_context(client)
            return {"protocolVersion": client.protocol_version, "serverInfo": plain(client.server_info)}
        read, write, *_ = await self.stack.enter_async_context(transport)
        self.client = await self.stack.enter_async_context(ClientSession(read, write, **callbacks))
        return plain(await self.client.initialize())

    async def transport(self) -> Any:
        """HTTP with SSE where the URL is one of that, else Streamable HTTP."""
        if self.options.url.endswith("/sse"):
            return sse_client(self.options.url, httpx_client_factory=self.http)
        return streamable_http_client(
            self.options.url, http_client=await self.stack.enter_async_context(self.http())
        )

    def http(self, **settings: Any) -> Any:
        settings = {"timeout": httpx.Timeout(30, read=300), **settings}
        return httpx.AsyncClient(event_hooks={"response": [self.saw_response]}, **settings)

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        return plain(await self.client.call_tool(name, arguments, progress_callback=self.heard_progress))

    async def list(self) -> Any:
        return [tool.name for tool in (await self.client.list_tools()).tools]

    async def read(self, uri: str) -> Any:
        return plain(await self.client.read_resource(uri))["contents"]

    async def subscribe(self, uri: str) -> Any:
        return plain(await self.client.subscribe_resource(uri))

    async def level(self, level: str) -> Any:
        return plain(await self.client.set_logging_level(level))

    async def heard_message(self, message: Any) -> None:
        if isinstance(message, Exception):
            return self.heard("exception", {"message": str(message)})
        # mcp 1 wraps notifications, and hands over requests too, which have callbacks of their own.
        message = plain(getattr(message, "root", message)) if hasattr(message, "model_dump") else {}
        if message.get("method", "notifications/progress") != "notifications/progress":
            self.heard(message["method"], message.get("params"))

    async def elicited(self, _: Any, params: Any) -> Any:
        self.heard("elicitation/create", plain(params))
        return types.ElicitResult(action="accept", content={"answer": self.options.answer})

    async def sampled(self, _: Any, params: Any) -> Any:
        self.heard("sampling/createMessage", plain(params))
        text = types.TextContent(type="text", text=self.options.answer)
        return types.CreateMessageResult(role="assistant", content=text, model="test")


if __name__ == "__main__":
    parser = options(__doc__)
    parser.add_argument("--mode", default="legacy", choices=["auto", "legacy"])
    asyncio.run(SdkDriver(parser.parse_args()).drive())
