// Checks services of any language and prints one JSON line for each check: `node demo.js SERVICE...`. Exit 0: all is well.

import { isDeepStrictEqual } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationError, Client, MethodNotFound, named } from '../src/index.js';

class DivisionByZero extends ApplicationError {
  static code = 1001;
}

const { REDIS_URL: url, SABIR_NAMESPACE: namespace } = process.env;
const client = new Client({ url, namespace, name: 'demo', timeoutMs: 10_000, errors: [DivisionByZero] });

/** @param {unknown} got @param {unknown} expected */
function same(got, expected) {
  if (!isDeepStrictEqual(got, expected)) throw new Error(`expected ${JSON.stringify(expected)}, got ${JSON.stringify(got)}`);
}

/** @param {Promise<unknown>} call @param {new (...given: any[]) => any} type */
const raised = (call, type) => call.then(
  (result) => { throw new Error(`expected ${type.name}, got ${JSON.stringify(result)}`); },
  (error) => { if (error instanceof type) return error; throw error; },
);

/** @type {Record<string, (service: string) => Promise<number | void>>} a number: the ms to print instead of the time taken */
const checks = {
  positional: async (service) => same(await client.service(service).add(1, 2), 3),
  named: async (service) => same(await client.service(service).add(named({ b: 'b', a: 'a' })), 'ab'),
  unicode: async (service) => {
    const text = 'šabïr 🎏 \u0000 \u2028 "\\" ‏صبر';
    same(await client.service(service).echo(text), text);
  },
  nested: async (service) => {
    const value = JSON.parse('{"a":[1,{"b":[[],{},null,true,false,""]}],"":{"__proto__":{"constructor":1}}}');
    same(await client.service(service).echo(value), value);
  },
  numbers: async (service) => {
    const numbers = [0, -1, 2 ** 53 - 1, -(2 ** 53 - 1), 0.5, -1.25e-3, 1e300];
    same(await client.service(service).echo(numbers), numbers);
  },
  application_error: async (service) => {
    const { code, data } = await raised(client.service(service).divide(7, 0), DivisionByZero);
    same({ code, data }, { code: 1001, data: { a: 7 } });
  },
  unknown_method: async (service) => void (await raised(client.service(service).__proto__(), MethodNotFound)),
  notification: async (service) => {
    const text = `demo-${process.pid}-${performance.now()}`;
    await client.notify(service, 'note', [text]);
    for (const end = performance.now() + 2_000; !(await client.service(service).notes()).includes(text); await sleep(20)) {
      if (performance.now() > end) throw new Error('the notification did not run within 2 s');
    }
  },
  latency: async (service) => {
    const times = [];
    for (let i = 0; i < 50; i++) {
      const begin = performance.now();
      same(await client.service(service).add(i, 1), i + 1);
      times.push(performance.now() - begin);
    }
    return times.sort((a, b) => a - b)[25];
  },
};

let allOk = true;
for (const service of process.argv.slice(2)) {
  await client.waitForService(service).catch(() => {}); // where nobody comes, the checks say so
  for (const [check, run] of Object.entries(checks)) {
    const begin = performance.now();
    let [ok, detail, ms] = /** @type {[boolean, string, number | void]} */ ([true, '', undefined]);
    try {
      ms = await run(service);
    } catch (error) {
      ok = allOk = false;
      detail = String(error);
    }
    console.log(JSON.stringify({ service, check, ok, ms: Number((ms ?? performance.now() - begin).toFixed(3)), detail }));
  }
}
await client.close();
process.exitCode = allOk ? 0 : 1;
