"use strict";
// What comes from the server is shown as text only, never as markup.
const base = document.body.dataset.base;
const at = (id) => document.getElementById(id);
let tools = [];

function headers() {
  const key = at("key").value;
  return key ? { "content-type": "application/json", "x-api-key": key } : { "content-type": "application/json" };
}

async function ask(method, path, body) {
  at("status").textContent = "...";
  at("answer").textContent = "";
  try {
    const answer = await fetch(base + path, { method, headers: headers(), body });
    const text = await answer.text();
    at("status").textContent = answer.status + " " + answer.statusText;
    let shown = text;
    let value = null;
    try {
      value = JSON.parse(text);
      shown = JSON.stringify(value, null, 2);
    } catch { /* shown as it is */ }
    at("answer").textContent = shown;
    return answer.ok ? value : null;
  } catch (error) {
    at("status").textContent = "No answer: " + error.message;
    return null;
  }
}

function sample(schema) {
  if (!schema || typeof schema !== "object") return null;
  if ("default" in schema) return schema.default;
  if (Array.isArray(schema.enum)) return schema.enum[0];
  switch (Array.isArray(schema.type) ? schema.type[0] : schema.type) {
    case "string": return "";
    case "integer":
    case "number": return schema.minimum ?? 0;
    case "boolean": return false;
    case "array": return [];
    case "object": {
      const value = {};
      for (const name of schema.required ?? []) value[name] = sample((schema.properties ?? {})[name]);
      return value;
    }
    default: return null;
  }
}

function choose() {
  const tool = tools[at("tool").selectedIndex];
  if (!tool) return;
  at("about").textContent = tool.description ?? "";
  at("line").textContent = "POST " + base + "/tools/" + encodeURIComponent(tool.name);
  at("arguments").value = JSON.stringify(sample({ type: "object", ...tool.inputSchema }) ?? {}, null, 2);
}

async function load() {
  const list = await ask("GET", "/tools");
  if (!list) return;
  tools = list.tools;
  at("tool").replaceChildren(...tools.map((tool) => new Option(tool.name)));
  choose();
}

at("load").addEventListener("click", load);
at("tool").addEventListener("change", choose);
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const tool = tools[at("tool").selectedIndex];
  if (tool) ask("POST", "/tools/" + encodeURIComponent(tool.name), at("arguments").value);
});
load();
