/** Moleculer, with its Redis transporter. */

import { ServiceBroker } from 'moleculer';
import { orders, pause, PLACE, ready, ROLE, untilTheEnd } from './bench.mjs';

const broker = new ServiceBroker({ namespace: PLACE.service, nodeID: ROLE, transporter: PLACE.redis, logger: false });

async function worker() {
  const echo = async ({ params }) => {
    if (PLACE.wait_ms) await pause(PLACE.wait_ms);
    return params.text;
  };
  broker.createService({ name: 'bench', actions: { echo } });
  await broker.start();
  untilTheEnd();
  ready();
}

async function client() {
  await broker.start();
  await broker.waitForServices('bench');
  await orders((text) => broker.call('bench.echo', { text }));
}

await { worker, client }[ROLE]();
