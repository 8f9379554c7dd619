// The suite's resources and prompts.
'use strict';

const { ResourceTemplate, completable } = require('@modelcontextprotocol/server');
const { z } = require('zod');
const { PNG, image, resource, text } = require('./content.cjs');

/** Words that an argument of a prompt is completed to. */
const WORDS = ['paris', 'park', 'party', 'test', 'testing'];

const user = content => ({ role: 'user', content });

/** Registers them. */
exports.register = server => {
  resources(server);
  prompts(server);
};

function resources(server) {
  const entry = (name, uri, mimeType, body) =>
    server.registerResource(name, uri, { description: `The resource ${uri}`, mimeType }, () => ({
      contents: [{ uri, mimeType, ...body }],
    }));
  entry('static-text', 'test://static-text', 'text/plain', {
    text: 'This is the content of the static text resource.',
  });
  entry('static-binary', 'test://static-binary', 'image/png', { blob: PNG });
  entry('watched', 'test://watched-resource', 'text/plain', { text: 'This one can be watched.' });

  server.registerResource(
    'template',
    new ResourceTemplate('test://template/{id}/data', { list: undefined }),
    { description: 'Data of an id', mimeType: 'application/json' },
    (uri, { id }) => {
      const data = { id, templateTest: true, data: `Data for ID: ${id}` };
      return { contents: [{ uri: uri.href, mimeType: 'application/json', text: JSON.stringify(data) }] };
    },
  );

  const watched = new Set();
  server.server.setRequestHandler('resources/subscribe', ({ params }) => {
    watched.add(params.uri);
    return {};
  });
  server.server.setRequestHandler('resources/unsubscribe', ({ params }) => {
    watched.delete(params.uri);
    return {};
  });
}

function prompts(server) {
  const prompt = (name, argsSchema, messages) =>
    server.registerPrompt(name, { description: `The prompt of ${name}`, argsSchema }, args => ({
      messages: messages(args),
    }));
  prompt('test_simple_prompt', undefined, () => [user(text('This is a simple prompt for testing.'))]);
  prompt(
    'test_prompt_with_arguments',
    z.object({
      arg1: completable(z.string(), begun => WORDS.filter(word => word.startsWith(begun))),
      arg2: z.string(),
    }),
    ({ arg1, arg2 }) => [user(text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`))],
  );
  prompt('test_prompt_with_embedded_resource', z.object({ resourceUri: z.string() }), ({ resourceUri }) => [
    user(resource(resourceUri, 'text/plain', 'Embedded resource content for testing.')),
    user(text('Please process the embedded resource above.')),
  ]);
  prompt('test_prompt_with_image', undefined, () => [
    user(image()),
    user(text('Please analyze the image above.')),
  ]);
}
