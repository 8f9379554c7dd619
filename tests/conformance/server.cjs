// A server with everything that the conformance suite asks for, on the official TypeScript SDK.
//
//   node server.cjs --port PORT [--era legacy|modern|dual]     serves http://127.0.0.1:PORT/mcp, /healthz, /seen
//
// It speaks both eras, or one alone: legacy with sessions, as most servers in the field do, and modern. In the legacy
// era it asks for input by requests of its own, in the modern one by its results. `/seen` says which
// messages have arrived, so that an answer which somebody else gave in its place can be told from its own.
//
// These files are CommonJS because only `require` finds packages through NODE_PATH, and the packages are
// installed outside of the repository.
'use strict';

const { randomBytes, randomUUID } = require('node:crypto');
const http = require('node:http');
const { parseArgs } = require('node:util');
const {
  NodeStreamableHTTPServerTransport,
  localhostHostValidation,
  localhostOriginValidation,
  toNodeHandler,
  toWebRequest,
} = require('@modelcontextprotocol/node');
const {
  McpServer,
  createMcpHandler,
  createRequestStateCodec,
  isInitializeRequest,
  isLegacyRequest,
} = require('@modelcontextprotocol/server');

const catalogue = require('./catalogue.cjs');
const questions = require('./questions.cjs');
const tools = require('./tools.cjs');

const state = createRequestStateCodec({ key: randomBytes(32) });
const capabilities = {
  completions: {},
  logging: {},
  prompts: { listChanged: true },
  resources: { listChanged: true, subscribe: true },
  tools: { listChanged: true },
};

function build(changed) {
  const server = new McpServer(
    { name: 'throughline-conformance', version: '1.0.0' },
    { capabilities, requestState: { verify: state.verify } },
  );
  tools.register(server, changed(server));
  questions.register(server, payload => state.mint(payload));
  catalogue.register(server);
  return server;
}

const modern = createMcpHandler(
  () => build(() => ({ tools: () => modern.notify.toolsChanged(), prompts: () => modern.notify.promptsChanged() })),
  { legacy: 'reject' },
);
const serveModern = toNodeHandler(modern);

/** The transports of legacy sessions, by session id. */
const sessions = new Map();

async function serveLegacy(request, response, body) {
  const id = request.headers['mcp-session-id'];
  if (id !== undefined) {
    const transport = sessions.get(id);
    if (!transport) return refuse(response, 404, -32001, 'Session not found');
    return transport.handleRequest(request, response, body);
  }
  if (!isInitializeRequest(body)) return refuse(response, 400, -32000, 'Bad Request: No valid session ID provided');
  const transport = new NodeStreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: id => sessions.set(id, transport),
    onsessionclosed: id => sessions.delete(id),
  });
  const server = build(server => ({
    tools: () => server.sendToolListChanged(),
    prompts: () => server.sendPromptListChanged(),
  }));
  await server.connect(transport);
  return transport.handleRequest(request, response, body);
}

function refuse(response, status, code, message) {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ jsonrpc: '2.0', error: { code, message }, id: null }));
}

/** How often each message has arrived, by method and what it names. */
const seen = {};

function note(message) {
  if (typeof message?.method !== 'string') return;
  const what = [message.method, message.params?.name ?? message.params?.uri].filter(Boolean).join(' ');
  seen[what] = (seen[what] ?? 0) + 1;
}

async function read(request) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  try {
    return JSON.parse(Buffer.concat(pieces).toString());
  } catch {
    return undefined;
  }
}

const allowedHost = localhostHostValidation();
const allowedOrigin = localhostOriginValidation();

async function serve(request, response) {
  if (!allowedHost(request, response) || !allowedOrigin(request, response)) return;
  const { pathname } = new URL(request.url, 'http://localhost');
  if (pathname === '/healthz') return response.end('ok');
  if (pathname === '/seen') return response.end(JSON.stringify(seen));
  if (pathname !== '/mcp') return refuse(response, 404, -32601, 'Not found');
  const body = request.method === 'POST' ? await read(request) : undefined;
  note(body);
  const legacy =
    values.era === 'dual' ? await isLegacyRequest(await toWebRequest(request, body), body) : values.era === 'legacy';
  if (legacy) {
    await serveLegacy(request, response, body);
  } else {
    await serveModern(request, response, body);
  }
}

const { values } = parseArgs({ options: { port: { type: 'string' }, era: { type: 'string', default: 'dual' } } });
http
  .createServer((request, response) => {
    serve(request, response).catch(error => {
      console.error(error);
      if (response.headersSent) response.destroy();
      else refuse(response, 500, -32603, 'Internal error');
    });
  })
  .listen(Number(values.port), '127.0.0.1');
