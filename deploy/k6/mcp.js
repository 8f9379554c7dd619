// A load test of an MCP server of revision 2026-07-28 for k6, which counts the hits of each instance.
//
//   BASE_URL=https://app.azurewebsites.net k6 run deploy/k6/mcp.js
//   BASE_URL=... VUS=50 DURATION=1m P99_MS=500 k6 run --out json=hits.json deploy/k6/mcp.js
//
// BASE_URL may end in a path; without one it is /mcp. BEARER is sent as a token. The counter `hits` is tagged with the
// instance that answered, for outputs; for the summary, which shows no tags, instance_1, instance_2 ... count the
// instances that were found at the start, and instance_other those that came later.
//
// Every call has a connection of its own (NEW_CONNECTIONS=0: each user keeps one), so that the load balancer chooses
// each time. `throughline load` does the same without k6.
import http from 'k6/http';
import { check, fail } from 'k6';
import { Counter } from 'k6/metrics';

const base = (__ENV.BASE_URL || 'http://127.0.0.1:3000').replace(/\/+$/, '');
const url = /^https?:\/\/[^/]+$/.test(base) ? `${base}/mcp` : base;
const VERSION = '2026-07-28';
// As many as the templates for Azure allow.
const MOST = 10;
// How many calls in a row that find no new instance end the search.
const QUIET = 20;

export const options = {
  vus: Number(__ENV.VUS || 10),
  duration: __ENV.DURATION || '30s',
  noConnectionReuse: __ENV.NEW_CONNECTIONS !== '0',
  thresholds: {
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
    http_req_duration: [`p(99)<${Number(__ENV.P99_MS || 1000)}`],
  },
};

const hits = new Counter('hits');
const byInstance = Array.from({ length: MOST }, (_, i) => new Counter(`instance_${i + 1}`));
const other = new Counter('instance_other');

const headers = {
  'Content-Type': 'application/json',
  Accept: 'application/json, text/event-stream',
  'MCP-Protocol-Version': VERSION,
  'Mcp-Method': 'tools/call',
  'Mcp-Name': 'whoami',
};
if (__ENV.BEARER) headers.Authorization = `Bearer ${__ENV.BEARER}`;

const body = JSON.stringify({
  jsonrpc: '2.0',
  id: 1,
  method: 'tools/call',
  params: {
    name: 'whoami',
    arguments: {},
    _meta: {
      'io.modelcontextprotocol/protocolVersion': VERSION,
      'io.modelcontextprotocol/clientInfo': { name: 'k6', version: '1' },
      'io.modelcontextprotocol/clientCapabilities': {},
    },
  },
});

// The answer to the request: the body, or in an event stream the last message of it. Null if there is none.
function answer(response) {
  const text = String(response.body || '');
  const type = response.headers['Content-Type'] || '';
  const messages = type.startsWith('text/event-stream')
    ? text.split(/\r?\n/).filter((line) => /^data: ?\S/.test(line)).map((line) => line.slice(5))
    : [text];
  try {
    return JSON.parse(messages.pop());
  } catch (_) {
    return null;
  }
}

function call() {
  const response = http.post(url, body, { headers, tags: { name: 'tools/call whoami' } });
  const message = response.status === 200 ? answer(response) : null;
  const result = message && message.result;
  const ok = Boolean(result && !result.isError && result.structuredContent);
  // What the tool says is the server's instance; the header is that of whoever answered, a gateway perhaps.
  const instance = (ok && result.structuredContent.instance) || response.headers['Throughline-Instance'] || 'unknown';
  return { status: response.status, ok, instance };
}

export function setup() {
  const instances = [];
  for (let quiet = 0; quiet < QUIET && instances.length < MOST; ) {
    const { status, ok, instance } = call();
    if (!ok) fail(`${url} does not answer whoami (HTTP status ${status}): is BASE_URL right?`);
    if (instances.includes(instance)) {
      quiet += 1;
    } else {
      instances.push(instance);
      quiet = 0;
    }
  }
  instances.forEach((name, i) => console.log(`instance_${i + 1} is ${name}`));
  return { instances };
}

export default function (found) {
  const { status, ok, instance } = call();
  check(null, { 'status is 200': () => status === 200, 'the tool answered': () => ok });
  hits.add(1, { instance });
  (byInstance[found.instances.indexOf(instance)] || other).add(1, { instance });
}
