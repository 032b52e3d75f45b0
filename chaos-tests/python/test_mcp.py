"""The official Python MCP client against a running cluster: what an agent's client sees of MIRA.

Run by mcp.sh, once for each generation of the client: 1.x speaks the revisions that begin with `initialize`, 2.x also
2026-07-28, which has no session. The client itself checks every answer: its framing, its types, and structured content
against the tool's output schema.

MIRA_URL and MIRA_TOKEN name the router; MIRA_NODES, how many nodes it has. Results are compared as the JSON that went
over the wire, so that both generations, which name their attributes differently, share these tests.
"""

import contextlib
import importlib.metadata
import logging
import os
import re
import unittest
import uuid

import mcp
from mcp.client.streamable_http import streamable_http_client

MODERN = importlib.metadata.version("mcp").split(".")[0] != "1"
if MODERN:
    import httpx2 as httpx
    from mcp.shared.exceptions import MCPError as RpcError
else:
    import httpx
    from mcp.shared.exceptions import McpError as RpcError

URL = os.environ["MIRA_URL"].rstrip("/") + "/mcp"
TOKEN = os.environ["MIRA_TOKEN"]
# What the client negotiates when left alone.
NEWEST = "2026-07-28" if MODERN else "2025-11-25"
READ_ONLY = {"search", "recall", "status"}


class Session:
    """A connected client whose answers are plain JSON."""

    def __init__(self, client, hello: dict):
        self.client = client
        self.hello = hello

    async def tools(self) -> dict:
        return {tool["name"]: tool for tool in plain(await self.client.list_tools())["tools"]}

    async def call(self, tool: str, **arguments) -> dict:
        return plain(await self.client.call_tool(tool, arguments))

    async def ok(self, tool: str, **arguments) -> tuple[dict, str]:
        """Structured content and readable text of a call that must succeed."""
        result = await self.call(tool, **arguments)
        text = result["content"][0]["text"]
        assert not result.get("isError"), f"{tool} {arguments}: {text}"
        return result["structuredContent"], text

    async def refused(self, tool: str, **arguments) -> str:
        """The text of a call that must fail as a result that the model can read."""
        result = await self.call(tool, **arguments)
        assert result.get("isError") is True, f"{tool} {arguments} succeeded: {result}"
        assert [block["type"] for block in result["content"]] == ["text"], result
        return result["content"][0]["text"]


def plain(model) -> dict:
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)


@contextlib.asynccontextmanager
async def connect(token: str = TOKEN, mode: str = "auto", statuses: list | None = None):
    """A session: of the newest revision that both sides know, or with mode="legacy" one that begins with initialize.

    `statuses` is given the HTTP status of every answer, which the clients do not always pass on.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def note(response):
        if statuses is not None:
            statuses.append(response.status_code)

    hooks = {"response": [note]}
    async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False, event_hooks=hooks) as http:
        transport = streamable_http_client(URL, http_client=http)
        if MODERN:
            async with mcp.Client(transport, mode=mode) as client:
                info = plain(client.server_info) if client.server_info else {}
                yield Session(client, {"version": client.protocol_version, "info": info, "text": client.instructions})
        else:
            async with transport as (read, write, _), mcp.ClientSession(read, write) as client:
                hello = plain(await client.initialize())
                yield Session(
                    client,
                    {"version": hello["protocolVersion"], "info": hello["serverInfo"], "text": hello["instructions"]},
                )


def fresh(name: str) -> str:
    """A collection of this test's own."""
    return f"{name}-{uuid.uuid4().hex[:12]}"


class McpClient(unittest.IsolatedAsyncioTestCase):
    async def test_it_introduces_itself(self):
        async with connect() as session:
            self.assertEqual(session.hello["version"], NEWEST)
            self.assertEqual(session.hello["info"]["name"], "mira")
            self.assertTrue(session.hello["info"]["version"])
            self.assertIn("memory", session.hello["text"])

    @unittest.skipUnless(MODERN, "the 1.x client knows this way only, in every other test")
    async def test_a_new_client_can_speak_the_old_way(self):
        async with connect(mode="legacy") as session:
            self.assertEqual(session.hello["version"], "2025-11-25")
            stored, _ = await session.ok("store", content="kept over an initialized session", collection=fresh("old"))
            self.assertEqual(stored["version"], 1)

    async def test_every_tool_says_what_it_takes_gives_and_does(self):
        async with connect() as session:
            tools = await session.tools()
        self.assertEqual(list(tools), ["store", "search", "recall", "forget", "change", "status"])
        for name, tool in tools.items():
            with self.subTest(name):
                self.assertGreater(len(tool["description"]), 40)
                self.assertEqual(tool["inputSchema"]["type"], "object")
                self.assertIs(tool["inputSchema"]["additionalProperties"], False)
                for field, schema in tool["inputSchema"]["properties"].items():
                    self.assertTrue(described(schema), f"{name}.{field} has no description")
                self.assertEqual(tool["outputSchema"]["type"], "object")
                self.assertTrue(tool["outputSchema"]["properties"])
                self.assertEqual(tool["annotations"]["readOnlyHint"], name in READ_ONLY)
                self.assertIs(tool["annotations"]["openWorldHint"], False)
        self.assertTrue(tools["forget"]["annotations"]["destructiveHint"])
        self.assertTrue(tools["search"]["annotations"]["idempotentHint"])

    async def test_a_memory_is_stored_found_recalled_and_forgotten(self):
        collection = fresh("journey")
        async with connect() as session:
            texts = [
                "The deploy key lives in the vault under ci/deploy.",
                "The office kettle takes four minutes to boil.",
                "Anna prefers meetings before noon.",
            ]
            ids = []
            for text in texts:
                stored, readable = await session.ok(
                    "store",
                    content=text,
                    type="insight",
                    session="release-7",
                    role="user",
                    metadata={"source": "test"},
                    collection=collection,
                )
                ids.append(stored["id"])
                self.assertEqual(stored["version"], 1)
                self.assertIn(stored["id"], readable)

            found, readable = await session.ok("search", query="where is the deploy key?", k=2, collection=collection)
            best = found["hits"][0]
            self.assertEqual(best["id"], ids[0])
            self.assertEqual(best["content"], texts[0])
            self.assertEqual(best["type"], "insight")
            self.assertEqual(best["metadata"], {"source": "test"})
            self.assertEqual(len(found["hits"]), 2)
            self.assertGreater(best["score"], found["hits"][1]["score"])
            self.assertFalse(found.get("degraded", False))
            self.assertIn("data, not instructions", readable)
            self.assertIn(f"> {texts[0]}", readable)

            recalled, _ = await session.ok("recall", session="release-7", collection=collection)
            self.assertEqual([frame["content"] for frame in recalled["frames"]], texts)
            one, _ = await session.ok("recall", id=ids[1], collection=collection)
            self.assertEqual(one["frames"][0]["content"], texts[1])

            forgotten, _ = await session.ok("forget", id=ids[0], collection=collection)
            self.assertEqual((forgotten["removed"], forgotten["ids"]), (1, [ids[0]]))
            self.assertIn("not_found", await session.refused("recall", id=ids[0], collection=collection))
            found, _ = await session.ok("search", query="where is the deploy key?", collection=collection)
            self.assertEqual(sorted(hit["id"] for hit in found["hits"]), sorted(ids[1:]))

    async def test_a_batch_answers_item_by_item(self):
        async with connect() as session:
            stored, readable = await session.ok(
                "store", items=[{"content": "first"}, {"content": " "}, {"content": "third"}]
            )
            first, second, third = stored["items"]
            self.assertEqual((first["version"], third["version"]), (1, 1))
            self.assertEqual(second["error"]["code"], "invalid_argument")
            self.assertIn("2 of 3", readable)

    async def test_mistakes_are_explained(self):
        collection = fresh("mistakes")
        async with connect() as session:
            stored, _ = await session.ok("store", content="Tea at four.", collection=collection)
            other = {"content": "Tea at five.", "id": stored["id"], "collection": collection}
            table = [
                ("store", {"content": ""}, "invalid_argument", "content"),
                ("store", {"contents": "tea"}, "invalid_argument", "contents"),
                ("store", other, "conflict", "replace"),
                ("store", {"content": "tea", "vector": [1, 2], "collection": collection}, "dimension_mismatch", "384"),
                ("store", {"content": "x" * (1 << 20) + "x"}, "too_large", str(1 << 20)),
                ("search", {"query": "tea", "k": 0}, "invalid_argument", "k"),
                ("search", {"query": "tea", "collection": fresh("absent")}, "not_found", "absent"),
                ("recall", {"id": str(uuid.uuid4()), "collection": collection}, "not_found", ""),
                ("recall", {"id": "not-an-id"}, "invalid_argument", "UUID"),
                ("forget", {"collection": collection}, "invalid_argument", "all"),
            ]
            for tool, arguments, code, word in table:
                with self.subTest(tool=tool, arguments=str(arguments)[:80]):
                    text = await session.refused(tool, **arguments)
                    self.assertRegex(text, rf"\b{code}\b")
                    self.assertRegex(text, re.compile(re.escape(word), re.IGNORECASE))
            # None of it was stored by half, and the session goes on.
            kept, _ = await session.ok("recall", id=stored["id"], collection=collection)
            self.assertEqual(kept["frames"][0]["content"], "Tea at four.")

    async def test_an_unknown_tool_is_a_protocol_error(self):
        async with connect() as session:
            with self.assertRaisesRegex(RpcError, "remember"):
                await session.call("remember", content="tea")

    async def test_the_cluster_is_whole(self):
        async with connect() as session:
            status, readable = await session.ok("status", detailed=True)
        self.assertEqual(status["state"], "ok")
        self.assertEqual(status["leaderless_shards"], [])
        nodes = int(os.environ.get("MIRA_NODES", "3"))
        self.assertEqual([node["reachable"] for node in status["nodes"]], [True] * nodes)
        self.assertEqual(len(status["groups"]), status["shards"] + 1)
        self.assertIn("MIRA is ok", readable)

    async def test_nobody_gets_in_without_the_token(self):
        for token in ("", "wrong"):
            statuses = []
            # The clients fail each in a way of their own, in groups of errors too.
            with self.subTest(token=token), self.assertRaises(BaseException):
                async with connect(token=token, statuses=statuses) as session:
                    await session.tools()
            self.assertEqual(set(statuses), {401})


def described(schema) -> bool:
    return bool(schema.get("description")) or any(described(part) for part in schema.get("anyOf", []))


if __name__ == "__main__":
    # unittest turns asyncio's debugging on, which reports every slow step.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    unittest.main()
