"""LangChain's MCP adapter, driven line by line from a test; driver.py says what it understands.

    langchain_client.py URL [--answer TEXT] [--each-call]

Tools are called as an agent calls them. The adapter's way is to open a session for each call (--each-call);
without that, one session is held open and the tools are loaded from it. Runs on langchain-mcp-adapters 0.3.
"""

import asyncio
from typing import Any

import httpx
from driver import Driver, options, plain
from langchain_mcp_adapters.callbacks import Callbacks
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from mcp.types import ElicitResult

SERVER = "server"


class LangChainDriver(Driver):
    held: Any = None
    tools: dict[str, Any] = {}

    async def connect(self) -> Any:
        connection = {
            "transport": "streamable_http",
            "url": self.options.url,
            "httpx_client_factory": self.http,
        }
        callbacks = Callbacks(on_logging_message=self.heard_log, on_progress=self.heard_progress)
        if self.options.answer is not None:
            callbacks.on_elicitation = self.elicited
        self.client = MultiServerMCPClient({SERVER: connection}, callbacks=callbacks)
        if self.options.each_call:
            tools = await self.client.get_tools()
        else:
            self.held = await self.stack.enter_async_context(self.client.session(SERVER))
            tools = await load_mcp_tools(self.held, callbacks=callbacks, server_name=SERVER)
        self.tools = {tool.name: tool for tool in tools}
        return sorted(self.tools)

    def http(self, headers: Any = None, timeout: Any = None, auth: Any = None) -> Any:
        hooks = {"response": [self.saw_response]}
        return httpx.AsyncClient(headers=headers, timeout=timeout, auth=auth, event_hooks=hooks)

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        call = {"type": "tool_call", "id": "1", "name": name, "args": arguments}
        message = await self.tools[name].ainvoke(call)
        structured = (message.artifact or {}).get("structured_content")
        return {"structuredContent": structured, "isError": message.status == "error"}

    async def list(self) -> Any:
        if self.held is None:
            return [tool.name for tool in await self.client.get_tools()]
        return [tool.name for tool in (await self.held.list_tools()).tools]

    async def level(self, level: str) -> Any:
        return plain(await self.held.set_logging_level(level))

    async def heard_log(self, params: Any, _: Any) -> None:
        self.heard("notifications/message", plain(params))

    async def elicited(self, _: Any, params: Any, __: Any) -> Any:
        self.heard("elicitation/create", plain(params))
        return ElicitResult(action="accept", content={"answer": self.options.answer})


if __name__ == "__main__":
    parser = options(__doc__)
    parser.add_argument("--each-call", action="store_true")
    asyncio.run(LangChainDriver(parser.parse_args()).drive())
