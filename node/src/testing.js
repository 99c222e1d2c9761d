/** For an application's own tests: the same calls, checks and errors in one process, without a Redis. */

import { Client, settle } from './client.js';
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

  /**
   * @override @protected
   * @param {import('./client.js').Inbox} inbox
   * @param {import('./client.js').Pending[]} requests
   * @param {(request: import('./client.js').Pending) => number | undefined} deadline
   */
  async _push(inbox, requests, deadline) {
    const { service } = inbox.place;
    const server = this.#servers.get(service);
    await Promise.all(requests.map(async (request) => {
      request.sent = true;
      const nobody = () => (inbox.token ? new ServiceUnavailable(`no worker serves ${service}`) : undefined);
      if (!server) return settle(inbox, request.id, nobody);
      const answer = await server._handle(Buffer.from(request.write(deadline(request))), this.#clock);
      if (answer.reply !== undefined) this._deliver(inbox, Buffer.from(answer.reply));
      if (answer.letter !== undefined) this.dead.push(JSON.parse(String(answer.letter)));
    }));
    return true;
  }

  /** @override @protected @param {import('./client.js').Inbox} inbox */
  async _read(inbox) {
    inbox.isRead = true; // _push delivers
  }

  /** @override @protected @param {import('./keys.js').Place} place */
  async _isServed(place) {
    return this.#servers.has(place.service);
  }
}
