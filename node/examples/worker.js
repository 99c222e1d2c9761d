// Serves the service that all examples call: `node worker.js`. Where: REDIS_URL, SABIR_NAMESPACE, SABIR_SERVICE.

import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationError, Server } from '../src/index.js';

class DivisionByZero extends ApplicationError {
  static code = 1001;
}

const { REDIS_URL: url, SABIR_NAMESPACE: namespace, SABIR_SERVICE: service = 'calc' } = process.env;
const server = new Server(service, { url, namespace });
/** @type {string[]} */
const notes = [];

server.register('add', ['a', 'b'], (a, b) => a + b);
server.register('echo', ['value'], (value) => value);
server.register('divide', ['a', 'b'], (a, b) => {
  if (b === 0) throw new DivisionByZero('division by zero', { data: { a } });
  return a / b;
});
server.register('note', ['text'], (text) => {
  notes.push(text);
  return null;
});
server.register('notes', [], () => notes);
server.register('whoami', [], () => ({ language: 'node', worker: server.worker }));
server.register('boom', [], () => {
  throw new Error('something that nobody thought of');
});
server.register('sleep_ms', ['ms'], async (ms) => {
  await sleep(ms);
  return ms;
});

await server.run(() => console.log(`ready ${service} ${server.worker}`));
