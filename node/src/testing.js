/** For an application's own tests: the same calls, checks and errors in one process, without a Redis. */

import { Client } from './client.js';
import { Clock } from './connection.js';
import { ServiceUnavailable } from './errors.js';

/** A client whose services are servers of this process, never started. Each request is written, read, run, and answered as over Redis. */
export class TestClient extends Client {
  #servers;
  #clock = new Clock();
  /** @type {any[]} the dead letters, read as JSON, the newest last */
  dead = [];

  /**
   * @param {Record<string, import('./server.js').Server>} servers by the name of the service
   * @param {import('./client.js').ClientOptions} [options] `url` and `redis` are not used
   */
  constructor(servers, options) {
    super(options);
    this.#servers = new Map(Object.entries(servers));
  }

  /** @override @protected @param {import('./keys.js').Place} place @param {import('./client.js').Batch} batch */
  async _push(place, batch) {
    batch.sent = true;
    const server = this.#servers.get(place.service);
    if (!server) batch.end(() => (batch.inbox.token ? new ServiceUnavailable(`no worker serves ${place.service}`) : undefined));
    if (!server) return true;
    await Promise.all(batch.write().map(async (element) => {
      const answer = await server._handle(element, this.#clock);
      if ('reply' in answer) this._deliver(batch.inbox, answer.reply);
      if ('letter' in answer) this.dead.push(JSON.parse(String(answer.letter)));
    }));
    return true;
  }

  /** @override @protected @param {import('./keys.js').Place} _ @param {import('./client.js').Inbox} inbox */
  async _read(_, inbox) {
    inbox.isRead = true; // _push delivers
  }

  /** @override @protected @param {import('./keys.js').Place} place */
  async _isServed(place) {
    return this.#servers.has(place.service);
  }
}
