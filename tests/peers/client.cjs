// The official TypeScript SDK's client, driven line by line from a test; the twin of tests/python/client.py,
// which says what it understands.
//
//     client.cjs 1|2 URL [--mode auto|legacy] [--answer TEXT] [--via PROGRAM]
//
// on version 1 of the SDK or on version 2; --mode is for version 2, where `auto` asks for the modern era first.
// With --via it does not speak HTTP but starts PROGRAM, a script such as mcp-remote's that does, and talks to
// that over stdio: then it sees neither sessions nor statuses.
'use strict';

const readline = require('node:readline');
const { parseArgs } = require('node:util');

const { values: options, positionals } = parseArgs({
  options: { mode: { type: 'string' }, answer: { type: 'string' }, via: { type: 'string' } },
  allowPositionals: true,
});
const [version, url] = positionals;
const sdk = version === '1' ? version1() : version2();

let client;
let transport;
let session = null;
let statuses = [];

function version1() {
  const types = require('@modelcontextprotocol/sdk/types.js');
  const schemas = {
    'elicitation/create': types.ElicitRequestSchema,
    'sampling/createMessage': types.CreateMessageRequestSchema,
  };
  return {
    ...require('@modelcontextprotocol/sdk/client/index.js'),
    ...require('@modelcontextprotocol/sdk/client/streamableHttp.js'),
    ...require('@modelcontextprotocol/sdk/client/sse.js'),
    ...require('@modelcontextprotocol/sdk/client/stdio.js'),
    answer: (client, method, handler) => client.setRequestHandler(schemas[method], handler),
    call: (client, params, onprogress) => client.callTool(params, undefined, { onprogress }),
  };
}

function version2() {
  return {
    ...require('@modelcontextprotocol/client'),
    ...require('@modelcontextprotocol/client/stdio'),
    answer: (client, method, handler) => client.setRequestHandler(method, handler),
    call: (client, params, onprogress) => client.callTool(params, { onprogress }),
  };
}

const emit = line => process.stdout.write(`${JSON.stringify(line)}\n`);
const heard = (method, params) => emit({ event: { method, params } });

/** `fetch`, and what was seen of its answer. */
async function watchedFetch(input, init) {
  const response = await fetch(input, init);
  statuses.push(response.status);
  session = response.headers.get('mcp-session-id') ?? session;
  return response;
}

function overHttp() {
  if (url.endsWith('/sse')) return new sdk.SSEClientTransport(new URL(url), { fetch: watchedFetch });
  return new sdk.StreamableHTTPClientTransport(new URL(url), { fetch: watchedFetch });
}

function overStdio() {
  const args = [options.via, url];
  return new sdk.StdioClientTransport({ command: process.execPath, args, env: process.env });
}

async function connect() {
  const capabilities = options.answer === undefined ? {} : { elicitation: {}, sampling: {} };
  const versionNegotiation = options.mode === undefined ? undefined : { mode: options.mode };
  client = new sdk.Client({ name: 'throughline-tests', version: '0' }, { capabilities, versionNegotiation });
  client.fallbackNotificationHandler = async ({ method, params }) => heard(method, params);
  client.onerror = error => heard('exception', { message: String(error) });
  if (options.answer !== undefined) answerQuestions();
  transport = options.via === undefined ? overHttp() : overStdio();
  await client.connect(transport);
  return { serverInfo: client.getServerVersion(), protocolVersion: transport.protocolVersion };
}

function answerQuestions() {
  sdk.answer(client, 'elicitation/create', async ({ params }) => {
    heard('elicitation/create', params);
    return { action: 'accept', content: { answer: options.answer } };
  });
  sdk.answer(client, 'sampling/createMessage', async ({ params }) => {
    heard('sampling/createMessage', params);
    return { role: 'assistant', content: { type: 'text', text: options.answer }, model: 'test' };
  });
}

const commands = {
  connect,
  call: command =>
    sdk.call(client, { name: command.name, arguments: command.arguments }, progress =>
      heard('notifications/progress', progress),
    ),
  list: async () => (await client.listTools()).tools.map(tool => tool.name),
  read: async ({ uri }) => (await client.readResource({ uri })).contents,
  subscribe: ({ uri }) => client.subscribeResource({ uri }),
  level: ({ level }) => client.setLoggingLevel(level),
  close: async () => {
    await transport.terminateSession?.();
    await client.close();
    session = null;
    return null;
  },
};

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    const outcome = await commands[command.do](command).then(
      done => ({ done: done ?? null }),
      ({ name, code, message }) => ({ failed: { type: name, code: code ?? null, message } }),
    );
    emit({ ...outcome, session, statuses });
    statuses = [];
  }
  await client?.close();
}

main();
