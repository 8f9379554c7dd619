"""FastMCP's client, driven line by line from a test; driver.py says what it understands.

    fastmcp_client.py URL [--mode auto|legacy] [--answer TEXT]

Runs on fastmcp 4.1, where `auto` (its default) asks for the modern era first.
"""

import asyncio
from typing import Any

import httpx2
from driver import Driver, options, plain
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from fastmcp.client.transports import StreamableHttpTransport


class FastMcpDriver(Driver):
    client: Any = None

    async def connect(self) -> Any:
        transport = StreamableHttpTransport(self.options.url, httpx_client_factory=self.http)
        callbacks: dict[str, Any] = {
            "log_handler": self.heard_log,
            "progress_handler": self.heard_progress,
        }
        if self.options.answer is not None:
            callbacks |= {"elicitation_handler": self.elicited}
        self.client = Client(transport, mode=self.options.mode, **callbacks)
        await self.stack.enter_async_context(self.client)
        return {"name": self.client.name}

    def http(self, **arguments: Any) -> Any:
        return httpx2.AsyncClient(**arguments, event_hooks={"response": [self.saw_response]})

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        result = await self.client.call_tool(name, arguments, raise_on_error=False)
        return {"structuredContent": result.structured_content, "isError": result.is_error}

    async def list(self) -> Any:
        return [tool.name for tool in await self.client.list_tools()]

    async def read(self, uri: str) -> Any:
        return [plain(content) for content in await self.client.read_resource(uri)]

    async def level(self, level: str) -> None:
        await self.client.set_logging_level(level)

    async def heard_log(self, message: Any) -> None:
        self.heard("notifications/message", {"level": message.level, "data": message.data})

    async def elicited(self, message: str, *_: Any) -> Any:
        self.heard("elicitation/create", {"message": message})
        return ElicitResult(action="accept", content={"answer": self.options.answer})


if __name__ == "__main__":
    parser = options(__doc__)
    parser.add_argument("--mode", default="legacy", choices=["auto", "legacy"])
    asyncio.run(FastMcpDriver(parser.parse_args()).drive())
