/** Sabir, with the Node port's client and worker. */

import { CallTimeout, Client, DeadlineExceeded, Server } from '../../../node/src/index.js';
import { orders, pause, PLACE, ready, ROLE, SLOW_MS, TIMEOUT_MS, untilTheEnd } from './bench.mjs';

async function worker() {
  const server = new Server(PLACE.service, { url: PLACE.redis, concurrency: PLACE.concurrency });
  server.register('echo', ['text'], PLACE.wait_ms ? (text) => pause(PLACE.wait_ms).then(() => text) : (text) => text);
  server.register('slow', ['text'], (text) => pause(SLOW_MS).then(() => text));
  untilTheEnd();
  await server.run(ready);
}

async function client() {
  const client = new Client({ url: PLACE.redis, timeoutMs: TIMEOUT_MS });
  const late = async () => {
    try {
      await client.call(PLACE.service, 'slow', ['x'], { timeoutMs: SLOW_MS / 2 });
    } catch (error) {
      if (!(error instanceof CallTimeout || error instanceof DeadlineExceeded)) throw error;
    }
  };
  await orders((text) => client.call(PLACE.service, 'echo', [text]), late);
}

await { worker, client }[ROLE]();
