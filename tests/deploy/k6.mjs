// As much of k6's interface as deploy/k6/mcp.js uses: k6.mjs SCRIPT ITERATIONS
//
// Calls setup, then the default function so often, one after the other, over real HTTP; prints what was counted as
// JSON. Thresholds are not computed, only handed on.
import { register } from 'node:module';
import { spawnSync } from 'node:child_process';
import { pathToFileURL } from 'node:url';

const [script, iterations] = process.argv.slice(2);
const counted = { requests: [], checks: {}, counters: {}, tags: {}, logged: [] };

// k6's requests block. Node's do not, so another Node makes each.
const request = `
  const [url, options] = JSON.parse(require('fs').readFileSync(0, 'utf8'));
  fetch(url, options).then(async (r) => {
    console.log(JSON.stringify({ status: r.status, headers: [...r.headers], body: await r.text() }));
  }, () => console.log(JSON.stringify({ status: 0, headers: [], body: null })));`;

// Header names as k6 has them.
const canonical = (name) => name.replace(/(^|-)[a-z]/g, (letter) => letter.toUpperCase());

globalThis.__ENV = { ...process.env };
globalThis.k6 = {
  http: {
    post(url, body, { headers, tags }) {
      counted.requests.push({ url, headers, tags });
      const input = JSON.stringify([url, { method: 'POST', body, headers }]);
      const made = spawnSync(process.execPath, ['-e', request], { input, encoding: 'utf8' });
      if (made.status !== 0) throw new Error(made.stderr);
      const response = JSON.parse(made.stdout);
      response.headers = Object.fromEntries(response.headers.map(([name, value]) => [canonical(name), value]));
      return response;
    },
  },
  check(value, checks) {
    return Object.entries(checks).every(([name, holds]) => {
      const of = (counted.checks[name] ??= { passes: 0, fails: 0 });
      const good = Boolean(holds(value));
      of[good ? 'passes' : 'fails'] += 1;
      return good;
    });
  },
  fail(message) {
    throw new Error(message);
  },
  Counter: class {
    constructor(name) {
      this.name = name;
    }
    add(by, tags) {
      counted.counters[this.name] = (counted.counters[this.name] ?? 0) + by;
      const of = (counted.tags[this.name] ??= {});
      of[tags.instance] = (of[tags.instance] ?? 0) + by;
    }
  },
};

const modules = {
  'k6/http': 'export default globalThis.k6.http;',
  k6: 'export const { check, fail } = globalThis.k6;',
  'k6/metrics': 'export const { Counter } = globalThis.k6;',
};
const entry = pathToFileURL(script).href;
const hooks = `
  const modules = ${JSON.stringify(modules)};
  export async function resolve(specifier, context, next) {
    if (specifier in modules) {
      return { url: 'data:text/javascript,' + encodeURIComponent(modules[specifier]), shortCircuit: true };
    }
    if (specifier === ${JSON.stringify(entry)}) return { url: specifier, format: 'module', shortCircuit: true };
    return next(specifier, context);
  }`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);

console.log = (text) => counted.logged.push(text);
const test = await import(entry);
const data = JSON.parse(JSON.stringify(test.setup()));
counted.requests = [];
for (let i = 0; i < Number(iterations); i += 1) test.default(data);
process.stdout.write(`${JSON.stringify({ ...counted, options: test.options })}\n`);
