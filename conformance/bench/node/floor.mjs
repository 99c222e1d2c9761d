/**
 * The floor: what a call over Redis lists costs at least in Node, with the package redis and JSON.
 *
 * The client pushes and pops; the worker moves to its hand, replies and acknowledges: nothing is checked, nothing survives.
 */

import { randomBytes } from 'node:crypto';
import { createRequire } from 'node:module';
import { orders, pause, PLACE, ready, ROLE, untilTheEnd } from './bench.mjs';

const { createClient, RESP_TYPES } = createRequire(new URL('../../../node/package.json', import.meta.url))('redis');

const INBOX = `${PLACE.service}:reply.${randomBytes(4).toString('hex')}`;
const REQUESTS = `${PLACE.service}:requests`;
const HAND = `${PLACE.service}:hand`;

/** Opens a connection: bytes in and out, without the timer that the package gives each command by default. */
const commandOptions = { timeout: undefined, typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } };
const open = () => createClient({ url: PLACE.redis, RESP: 2, commandOptions }).connect();

async function worker() {
  const redis = await open();
  const take = ['BLMOVE', REQUESTS, HAND, 'LEFT', 'RIGHT', '0'];
  let taken = redis.sendCommand(take);
  untilTheEnd();
  ready();
  for (;;) {
    const element = await taken;
    const { id, reply_to: inbox, body } = JSON.parse(element);
    await pause(PLACE.wait_ms);
    const reply = { v: 1, id, worker: 'floor', body: { jsonrpc: '2.0', id, result: body.params[0] } };
    redis.sendCommand(['RPUSH', inbox, JSON.stringify(reply)]);
    redis.sendCommand(['PEXPIRE', inbox, '60000']);
    redis.sendCommand(['LREM', HAND, '1', element]);
    taken = redis.sendCommand(take);
  }
}

async function client() {
  const [one, other] = await Promise.all([open(), open()]);
  /** Calls that wait, by their ids. @type {Map<string, (result: string) => void>} */
  const waiting = new Map();

  /** One after another goes over one connection; else what is pushed would have to wait behind what blocks. */
  const call = (text, inFlight) => new Promise((resolve) => {
    const id = randomBytes(16).toString('hex');
    const body = { jsonrpc: '2.0', id, method: 'echo', params: [text] };
    waiting.set(id, resolve);
    one.sendCommand(['RPUSH', REQUESTS, JSON.stringify({ v: 1, id, reply_to: INBOX, body })]);
    (inFlight > 1 ? other : one).sendCommand(['BLPOP', INBOX, '0']).then(([, element]) => {
      const reply = JSON.parse(element);
      waiting.get(reply.id)(reply.body.result);
      waiting.delete(reply.id);
    });
  });

  await orders(call);
}

await { worker, client }[ROLE]();
