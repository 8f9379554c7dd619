// A stateful MCP server on the official TypeScript SDK, for tests: the twin of `throughline reference`.
//
//     counter_server.cjs 1|2 --port N [--era modern]
//
// on version 1 of the SDK or on version 2, which serves the modern era too, or that alone. Streamable HTTP is at /mcp, and
// beside it `GET /healthz` and `POST /drop-sessions` (forgets every session, as an expiry would). Its `ask` has one
// more argument: with `aside` the question goes out on the standing stream, which in version 2 is the SDK's way.

'use strict';

const { randomBytes, randomUUID } = require('node:crypto');
const http = require('node:http');
const { setTimeout: pause } = require('node:timers/promises');
const { parseArgs } = require('node:util');
const { z } = require('zod');

const {
  values: { port, era },
  positionals: [sdk],
} = parseArgs({
  options: { port: { type: 'string', default: '0' }, era: { type: 'string', default: 'dual' } },
  allowPositionals: true,
});
const { McpServer, Transport, isModern, answerModern, inputRequired } = sdk === '1' ? version1() : version2();

const LONGEST_SLEEP_MS = 60_000;
const PROGRESS_EVERY_MS = 100;
const QUESTION = 'What is this counter counting?';
const ANSWER_SCHEMA = { type: 'object', properties: { answer: { type: 'string' } }, required: ['answer'] };

// What all sessions share, and lose with the process.
const shared = { instance: randomBytes(8).toString('hex'), initializes: 0, initialized: 0, total: 0 };
// The transport of each session, by its id.
const sessions = new Map();

function version1() {
  return {
    McpServer: require('@modelcontextprotocol/sdk/server/mcp.js').McpServer,
    Transport: require('@modelcontextprotocol/sdk/server/streamableHttp.js').StreamableHTTPServerTransport,
    isModern: () => false,
  };
}

function version2() {
  const { McpServer, createMcpHandler, inputRequired, isLegacyRequest } = require('@modelcontextprotocol/server');
  const { NodeStreamableHTTPServerTransport, toNodeHandler, toWebRequest } = require('@modelcontextprotocol/node');
  return {
    McpServer,
    inputRequired,
    Transport: NodeStreamableHTTPServerTransport,
    isModern: async (request, body) => !(await isLegacyRequest(await toWebRequest(request, body), body)),
    answerModern: toNodeHandler(createMcpHandler(() => counterServer(), { legacy: 'reject' })),
  };
}

// What a tool needs of its request, which the versions keep in different places.
function context(extra) {
  const request = extra.mcpReq;
  return {
    session: extra.sessionId,
    requestId: request?.id ?? extra.requestId,
    progressToken: (request ?? extra)._meta?.progressToken,
    notify: request?.notify ?? extra.sendNotification,
    answers: request?.inputResponses,
  };
}

function structured(value) {
  return { content: [{ type: 'text', text: JSON.stringify(value) }], structuredContent: value };
}

// A server of one session, with the tools of the Rust one; a modern request has one to itself, and so no state.
function counterServer() {
  const server = new McpServer({ name: 'counter', version: '0' }, { capabilities: { logging: {} } });
  const readOnly = (name, description, schema, run) => tool(name, description, schema, { readOnlyHint: true }, run);
  const tool = (name, description, schema, annotations, run) => {
    const config = { description, inputSchema: z.object(schema), annotations };
    server.registerTool(name, config, async (input, extra) => {
      const result = await run(input, context(extra));
      return result.resultType === undefined ? structured(result) : result;
    });
  };

  let counter = 0;
  const by = z.number().int().default(1);
  tool('increment', 'Adds to the counter of this session and returns its new value.', { by }, {}, ({ by }) => {
    shared.total += 1;
    counter += by;
    return { value: counter };
  });
  readOnly('value', 'Returns the counter of this session.', {}, () => ({ value: counter }));
  readOnly('total', 'Returns how many increments this process has executed, in all of its sessions.', {}, () => {
    return { total: shared.total };
  });
  readOnly('session', 'Tells which process answers and how many handshakes it has seen.', {}, (_, { session }) => {
    const { instance, initializes, initialized } = shared;
    return { pid: process.pid, instance, initializes, initialized, session: session ?? null };
  });
  const ms = z.number();
  readOnly('sleep', 'Waits, and tells every 100 ms how long if the caller gave a progress token.', { ms }, sleep);
  const question = { question: z.string().default(QUESTION), aside: z.boolean().default(false) };
  readOnly('ask', 'Asks the client in the middle of the call and returns its answer.', question, (input, context) => {
    return context.session === undefined ? askModern(input, context) : ask(server, input, context);
  });
  const message = { text: z.string(), level: z.string().default('info') };
  readOnly('log', 'Sends a log message to the client.', message, async ({ text, level }, { session }) => {
    await server.sendLoggingMessage({ level, data: text, logger: 'counter' }, session);
    return { sent: true };
  });
  return server;
}

async function sleep({ ms }, { progressToken, notify }) {
  const whole = Math.min(ms, LONGEST_SLEEP_MS);
  for (let slept = 0; slept < whole; ) {
    const step = Math.min(PROGRESS_EVERY_MS, whole - slept);
    await pause(step);
    slept += step;
    if (progressToken !== undefined) {
      await notify({ method: 'notifications/progress', params: { progressToken, progress: slept, total: whole } });
    }
  }
  return { slept: whole };
}

async function ask(server, { question, aside }, { requestId }) {
  const related = aside ? undefined : { relatedRequestId: requestId };
  const params = { message: question, requestedSchema: ANSWER_SCHEMA };
  const { action, content } = await server.server.elicitInput(params, related);
  return { action, content: content ?? null };
}

// Not by a request but by a result that asks for more; with that, the client calls again.
function askModern({ question }, { answers }) {
  if (answers?.answer === undefined) {
    const answer = inputRequired.elicit({ message: question, requestedSchema: ANSWER_SCHEMA });
    return inputRequired({ inputRequests: { answer } });
  }
  const { action, content } = answers.answer;
  return { action, content: content ?? null };
}

async function legacy(request, response, body) {
  const id = request.headers['mcp-session-id'];
  let transport = sessions.get(id);
  if (transport === undefined && id !== undefined) {
    return refuse(response, 404, -32001, 'Session not found');
  }
  if (transport === undefined) {
    // Whatever else comes without an id is refused by the transport itself.
    transport = new Transport({
      sessionIdGenerator: randomUUID,
      onsessioninitialized: (id) => void sessions.set(id, transport),
      onsessionclosed: (id) => void sessions.delete(id),
    });
    await counterServer().connect(transport);
  }
  await transport.handleRequest(request, response, body);
}

function refuse(response, status, code, message) {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ jsonrpc: '2.0', error: { code, message } }));
}

async function read(request) {
  const text = Buffer.concat(await request.toArray()).toString();
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

async function dropSessions() {
  const dropped = [...sessions.values()];
  sessions.clear();
  await Promise.all(dropped.map((transport) => transport.close()));
}

const server = http.createServer(async (request, response) => {
  if (request.url === '/healthz') return response.end('ok\n');
  if (request.url === '/drop-sessions') {
    await dropSessions();
    return response.writeHead(204).end();
  }
  if (request.url !== '/mcp') return response.writeHead(404).end();
  const body = request.method === 'POST' ? await read(request) : undefined;
  if (era === 'modern' || (await isModern(request, body))) return answerModern(request, response, body);
  if (body?.method === 'initialize') shared.initializes += 1;
  if (body?.method === 'notifications/initialized') shared.initialized += 1;
  await legacy(request, response, body);
});
server.listen(Number(port), '127.0.0.1');
