// The suite's tools, and its prompt, that ask the client something before they answer.
//
// Each is written once, as the modern era has it: a result that says which input is missing, and a second call
// that brings it. Toward a legacy client the SDK asks by requests of its own and calls again itself; what each request
// is about then stands in its `_meta`, since a legacy request has no key.
'use strict';

const { CLIENT_CAPABILITIES_META_KEY, acceptedContent, inputRequired } = require('@modelcontextprotocol/server');
const { z } = require('zod');
const { text } = require('./content.cjs');

const form = (message, properties, required = Object.keys(properties)) =>
  inputRequired.elicit({ message, requestedSchema: { type: 'object', properties, required } });

const sampling = (prompt, maxTokens = 100) =>
  inputRequired.createMessage({ messages: [{ role: 'user', content: text(prompt) }], maxTokens });

const askName = () => form('What is your name?', { name: { type: 'string' } });

const options = (...names) => names.map(([value, title]) => ({ const: value, title }));

/** One field for each primitive type, with a default. */
const DEFAULTS = {
  name: { type: 'string', default: 'John Doe' },
  age: { type: 'integer', default: 30 },
  score: { type: 'number', default: 95.5 },
  status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
  verified: { type: 'boolean', default: true },
};

/** One field for each way to write a choice. */
const CHOICES = {
  untitledSingle: { type: 'string', enum: ['option1', 'option2', 'option3'] },
  titledSingle: {
    type: 'string',
    oneOf: options(['value1', 'First Option'], ['value2', 'Second Option'], ['value3', 'Third Option']),
  },
  legacyEnum: {
    type: 'string',
    enum: ['opt1', 'opt2', 'opt3'],
    enumNames: ['Option One', 'Option Two', 'Option Three'],
  },
  untitledMulti: { type: 'array', items: { type: 'string', enum: ['option1', 'option2', 'option3'] } },
  titledMulti: {
    type: 'array',
    items: { anyOf: options(['value1', 'First Choice'], ['value2', 'Second Choice'], ['value3', 'Third Choice']) },
  },
};

/** The text that the client's model wrote, or undefined. */
const sampled = answer => answer?.content?.text;

/** What a form was answered with, whichever way; undefined if it was not answered. */
const answered = answer =>
  answer && `action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`;

/** A result that asks for input, for the era of the request that it answers. */
const forEra = (result, request) => {
  if (!request.envelope) {
    for (const [key, asked] of Object.entries(result.inputRequests ?? {})) {
      asked.params = { ...asked.params, _meta: { 'throughline/inputKey': key } };
    }
  }
  return result;
};

/** Registers them; `seal` makes state that the client cannot change unnoticed. */
exports.register = (server, seal) => {
  // `run` gives the text of the answer, or the result that asks for what it still needs.
  const tool = (name, description, run, inputSchema) => {
    const callback = async (args, ctx) => {
      const result = await run(ctx.mcpReq, ctx.mcpReq.inputResponses ?? {}, args);
      return typeof result === 'string' ? { content: [text(result)] } : forEra(result, ctx.mcpReq);
    };
    server.registerTool(
      name,
      { description, inputSchema },
      inputSchema ? callback : ctx => callback(undefined, ctx),
    );
  };
  const ask = (inputRequests, requestState) => inputRequired({ inputRequests, requestState });

  tool(
    'test_sampling',
    'Has the client sample a prompt',
    (_, { sample }, { prompt }) =>
      sampled(sample) ? `LLM response: ${sampled(sample)}` : ask({ sample: sampling(prompt) }),
    z.object({ prompt: z.string() }),
  );
  tool(
    'test_elicitation',
    'Asks the user for name and address',
    (_, { user }, { message }) => {
      if (answered(user)) return `User response: ${answered(user)}`;
      const username = { type: 'string', description: "User's response" };
      const email = { type: 'string', description: "User's email address" };
      return ask({ user: form(message, { username, email }) });
    },
    z.object({ message: z.string() }),
  );
  for (const [name, fields] of [
    ['test_elicitation_sep1034_defaults', DEFAULTS],
    ['test_elicitation_sep1330_enums', CHOICES],
  ]) {
    tool(name, `Asks the user to fill in: ${Object.keys(fields).join(', ')}`, (_, { filled }) =>
      answered(filled)
        ? `Elicitation completed: ${answered(filled)}`
        : ask({ filled: form('Please fill this in', fields, []) }),
    );
  }
  tool('test_streaming_elicitation', 'Asks the user in the middle of a stream', (_, responses) => {
    const name = acceptedContent(responses, 'user_name')?.name;
    return name ? `Hello, ${name}!` : ask({ user_name: askName() });
  });
  tool('test_missing_capability', 'Cannot work without sampling', (request, { sample }) => {
    const { method, params } = sampling('Say something');
    // Like many a legacy server, it asks without a look at what the client has declared; the SDK would not.
    if (!request.envelope) return request.send({ method, params }).then(sampled);
    return sampled(sample) ?? ask({ sample: sampling('Say something') });
  });

  tool('test_input_required_result_elicitation', 'Needs a name', (_, responses) => {
    const name = acceptedContent(responses, 'user_name')?.name;
    return name ? `Hello, ${name}!` : ask({ user_name: askName() });
  });
  tool('test_input_required_result_sampling', 'Needs a capital', (_, { capital_question }) =>
    sampled(capital_question) ?? ask({ capital_question: sampling('What is the capital of France?') }),
  );
  tool('test_input_required_result_list_roots', 'Needs the roots', (_, { client_roots }) =>
    client_roots?.roots
      ? `Roots: ${client_roots.roots.map(root => root.uri).join(', ')}`
      : ask({ client_roots: inputRequired.listRoots() }),
  );
  tool('test_input_required_result_multiple_inputs', 'Needs three things at once', async (_, responses) => {
    const name = acceptedContent(responses, 'user_name')?.name;
    const greeting = sampled(responses.greeting);
    const roots = responses.client_roots?.roots;
    if (name && greeting && roots) return `${greeting} ${name} has ${roots.length} root(s).`;
    const inputRequests = {
      user_name: askName(),
      greeting: sampling('Generate a greeting', 50),
      client_roots: inputRequired.listRoots(),
    };
    return ask(inputRequests, await seal({ tool: 'multiple_inputs' }));
  });
  tool('test_input_required_result_multi_round', 'Asks twice', async (request, responses) => {
    const state = request.requestState();
    const name = acceptedContent(responses, 'step1')?.name ?? state?.name;
    if (!name) {
      const step1 = form('Step 1: What is your name?', { name: { type: 'string' } });
      return ask({ step1 }, await seal({ round: 1 }));
    }
    const color = acceptedContent(responses, 'step2')?.color;
    if (color) return `${name} likes ${color}.`;
    const step2 = form('Step 2: What is your favorite color?', { color: { type: 'string' } });
    return ask({ step2 }, await seal({ round: 2, name }));
  });
  // State that was tampered with never gets here: the server's `requestState.verify` refuses it.
  for (const name of ['request_state', 'tampered_state']) {
    tool(`test_input_required_result_${name}`, 'Needs a confirmation and its state', async (request, responses) => {
      const confirmed = acceptedContent(responses, 'confirm');
      if (confirmed && request.requestState()?.tool === name) return `state-ok: ${confirmed.ok}`;
      return ask({ confirm: form('Please confirm', { ok: { type: 'boolean' } }) }, await seal({ tool: name }));
    });
  }
  tool('test_input_required_result_capabilities', 'Asks only what the client can be asked', (request, responses) => {
    if (Object.keys(responses).length > 0) return `Answered: ${Object.keys(responses).join(', ')}`;
    const known = request.envelope
      ? request.envelope[CLIENT_CAPABILITIES_META_KEY]
      : server.server.getClientCapabilities();
    const inputRequests = {};
    if (known?.elicitation) inputRequests.user_name = askName();
    if (known?.sampling) inputRequests.greeting = sampling('Generate a greeting', 50);
    return Object.keys(inputRequests).length > 0 ? ask(inputRequests) : 'There is nothing to ask this client.';
  });

  server.registerPrompt(
    'test_input_required_result_prompt',
    { description: 'A prompt that needs its context from the user' },
    ctx => {
      const context = acceptedContent(ctx.mcpReq.inputResponses ?? {}, 'user_context')?.context;
      if (context) return { messages: [{ role: 'user', content: text(`Use this context: ${context}`) }] };
      const user_context = form('What context should the prompt use?', { context: { type: 'string' } });
      return forEra(ask({ user_context }), ctx.mcpReq);
    },
  );
};
