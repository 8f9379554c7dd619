// The suite's tools that answer by themselves.
'use strict';

const { audio, image, pause, resource, text } = require('./content.cjs');

const INSTANT = {
  test_simple_text: () => [text('This is a simple text response for testing.')],
  test_image_content: () => [image()],
  test_audio_content: () => [audio()],
  test_embedded_resource: () => [
    resource('test://embedded-resource', 'text/plain', 'This is an embedded resource content.'),
  ],
  test_multiple_content_types: () => [
    text('Multiple content types test:'),
    image(),
    resource('test://mixed-content-resource', 'application/json', '{"test":"data","value":123}'),
  ],
  test_error_handling: () => {
    throw new Error('This tool intentionally returns an error for testing');
  },
};

/** Registers them; `changed` tells clients that a list is another now. */
exports.register = (server, changed) => {
  const tool = (name, description, run) =>
    server.registerTool(name, { description }, async ctx => ({ content: await run(ctx.mcpReq) }));

  for (const [name, content] of Object.entries(INSTANT)) {
    tool(name, `Answers at once, for the scenario of ${name}`, content);
  }

  tool('test_tool_with_logging', 'Sends three log messages while it runs', async request => {
    await request.log('info', 'Tool execution started');
    await pause(50);
    await request.log('info', 'Tool processing data');
    await pause(50);
    await request.log('info', 'Tool execution completed');
    return [text('Three messages were logged.')];
  });

  tool('test_logging_tool', 'Logs, which a client hears only if it asked for logs', async request => {
    await request.log('info', 'Nobody asked for this');
    return [text('A message was logged.')];
  });

  tool('test_tool_with_progress', 'Reports progress three times', async request => {
    const progressToken = request._meta?.progressToken;
    for (const progress of [0, 50, 100]) {
      if (progress > 0) await pause(50);
      if (progressToken === undefined) continue;
      await request.notify({
        method: 'notifications/progress',
        params: { progressToken, progress, total: 100 },
      });
    }
    return [text('Progress was reported.')];
  });

  tool('test_trigger_tool_change', 'Says that the list of tools has changed', () => {
    changed.tools();
    return [text('The tools have changed.')];
  });

  tool('test_trigger_prompt_change', 'Says that the list of prompts has changed', () => {
    changed.prompts();
    return [text('The prompts have changed.')];
  });
};
