/** NATS, request and reply, with its package for Node. */

import { connect, JSONCodec } from 'nats';
import { orders, pause, PLACE, ready, ROLE, TIMEOUT_MS, untilTheEnd } from './bench.mjs';

const SUBJECT = `${PLACE.service}.echo`;
const { encode, decode } = JSONCodec();

async function worker() {
  const nats = await connect({ servers: PLACE.nats });
  const handle = async (message) => {
    const [text] = decode(message.data);
    if (PLACE.wait_ms) await pause(PLACE.wait_ms);
    message.respond(encode(text));
  };
  nats.subscribe(SUBJECT, { queue: PLACE.service, callback: (_, message) => void handle(message) });
  await nats.flush();
  untilTheEnd();
  ready();
}

async function client() {
  const nats = await connect({ servers: PLACE.nats });
  const options = { timeout: TIMEOUT_MS };
  await orders(async (text) => decode((await nats.request(SUBJECT, encode([text]), options)).data));
}

await { worker, client }[ROLE]();
