// A tour of what a client can do, against an example worker of any language: `node client.js [service]`.

import { ApplicationError, Client, MethodNotFound, named } from '../src/index.js';

class DivisionByZero extends ApplicationError {
  static code = 1001;
}

const { REDIS_URL: url, SABIR_NAMESPACE: namespace } = process.env;
const service = process.argv[2] ?? 'calc';
const client = new Client({ url, namespace, name: 'tour', timeoutMs: 5_000, errors: [DivisionByZero] });
const calc = client.service(service);

try {
  await client.waitForService(service); // the worker may start later
  console.log('positional      add(1, 2) =', await calc.add(1, 2));
  console.log('named           add(a: 1, b: 2) =', await calc.add(named({ a: 1, b: 2 })));
  console.log('any value       echo(...) =', await calc.echo({ greeting: 'šabïr 🎏', list: [1, null, true] }));
  console.log('who answers     whoami() =', await calc.whoami());
  console.log('many at once    ', await client.many(service, [['add', [1, 1]], ['add', [2, 2]], ['divide', [1, 4]]]));
  console.log('a notification  ', await client.notify(service, 'note', ['from the tour']));
  await calc.divide(1, 0).catch((error) => {
    if (!(error instanceof DivisionByZero)) throw error;
    console.log('its own error   ', error.name, error.code, error.message, error.data);
  });
  await calc.nothing().catch((error) => {
    if (!(error instanceof MethodNotFound)) throw error;
    console.log('a protocol error', error.name, error.code, error.message, `(${error.outcome})`);
  });
} finally {
  await client.close();
}
