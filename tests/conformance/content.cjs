// What tools, resources and prompts answer with.
'use strict';

/** An image of one red pixel. */
const PNG =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==';

/** A sound of no length: the header of a WAV file alone. */
const WAV = 'UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA=';

const text = text => ({ type: 'text', text });
const image = () => ({ type: 'image', data: PNG, mimeType: 'image/png' });
const audio = () => ({ type: 'audio', data: WAV, mimeType: 'audio/wav' });
const resource = (uri, mimeType, text) => ({ type: 'resource', resource: { uri, mimeType, text } });

const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));

module.exports = { PNG, audio, image, pause, resource, text };
