/**
 * The client's shell: call, wait, time out (sections 9, 10, 13 and 16 of the specification).
 *
 * All calls of one service that are in flight share one token and one connection, its inbox, that waits for replies and looks
 * whether somebody serves. Requests leave over it too when no wait blocks it: one after another, a call is one write. All others leave
 * over one other connection, which never blocks.
 */

import { askAlive, drain, forget, forgetFirst, judge, lookAlive, push, REPLY_EXPIRES_MS, takeBack, unwatch, wait } from './commands.js';
import { backoff, Clock, context, Link, LONGEST_TIMER_MS, noop, pause, randomHex, settled, turn, uniqueName, withSource } from './connection.js';
import {
  ApplicationError, CallTimeout, classFor, ConnectionLost, DeadlineExceeded, InvalidReply, NotQueued, Overloaded, SabirError,
  ServiceUnavailable, WorkerLost,
} from './errors.js';
import { check } from './keys.js';
import { decodeReply, LIMITS, requestWriter } from './messages.js';

/** @typedef {import('./keys.js').Place} Place */
/** @typedef {import('./messages.js').Params} Params */

/**
 * @typedef {object} ClientOptions
 * @property {string} [url] where Redis is. Default: `redis://127.0.0.1:6379/0`
 * @property {import('./connection.js').Source['redis']} [redis] a client of the `redis` package, to take its options instead
 * @property {string} [namespace] the first part of every key. Default: `sabir`
 * @property {string} [name] the client's name, which confines it to its own replies in Redis's ACLs. Default: `client`
 * @property {number} [timeoutMs] how long a call may take, in ms. Default: 30,000
 * @property {(typeof ApplicationError)[]} [errors] classes with a `static code`, which stand for their codes: they are made as
 *   `new Class(message, { code, data })`
 * @property {number | null} [maxQueue] how many elements the queue may hold when a request is added; null: no bound. Default: 100,000
 * @property {number} [maxBytes] the largest request, in bytes. Default: 1,048,576
 * @property {number} [maxDepth] the deepest nesting of a request. Default: 64
 */

/**
 * @typedef {object} CallOptions
 * @property {number} [timeoutMs] how long it may take, in ms. Default: the service's, the client's
 * @property {boolean} [idempotent] whether running it more than once does no harm: it is delivered again when its worker is lost. Default: false
 * @property {string} [traceparent] the trace (W3C). Default: that of the handler that is running
 */

/** @typedef {(...params: any[]) => Promise<any>} RemoteMethod */

/** How often a client that waits asks whether somebody serves (SABIR-ALIVE-3). */
const ASK_MS = 3_000;
/** For how long after an interruption no call is given up for lost (SABIR-ALIVE-5). */
const CALM_MS = 10_000;
const MAX_QUEUE = 100_000;
/** The longest queue in which a client that waits searches its elements. */
const LONGEST_SEARCH = 10_000;
/** How many replies are read behind the first at once. */
const DRAINED = 999;
/** For how long what was read is known to lie at the head of its list: half of the list's expiry. */
const TRUST_MS = REPLY_EXPIRES_MS / 2;
/** The pause between two looks at a list from which nothing is removed. */
const POLL_MS = 50;
/** How late a time-out may be, in ms: those that pass within this time end together, and what is called then leaves together. */
const GRAIN_MS = 10;
/** What an attempt of `retry` has at least: one that is too short says less than the error before it. */
const ATTEMPT_MS = 50;
const LONGEST_TIMEOUT_MS = 1e12;
/** Error replies after which the same command may soon succeed. */
const TRANSIENT = /^(LOADING|BUSY|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOREPLICAS)\b/;
/** Names that JavaScript itself asks any object for. */
const NEVER_REMOTE = new Set(['then', 'toJSON']);

class Named {
  /** @param {Record<string, unknown>} params */
  constructor(params) {
    this.params = params;
  }
}

/**
 * Marks an object as named parameters: `calc.add(named({ a: 1, b: 2 }))`. Unmarked, it is one positional parameter.
 *
 * @param {Record<string, unknown>} params
 */
export const named = (params) => new Named(params);

/** Refuses what is no time (SABIR-CALL-4). @param {unknown} ms @param {string} what @returns {number} */
function checkTime(ms, what) {
  if (typeof ms !== 'number') throw new TypeError(`${what}: expected a number of ms, got ${typeof ms}`);
  if (!(ms > 0 && ms <= LONGEST_TIMEOUT_MS)) {
    throw new RangeError(`${what}: expected more than 0 and at most ${LONGEST_TIMEOUT_MS} ms, got ${ms}`);
  }
  return ms;
}

/**
 * Where the replies to one token arrive.
 * @typedef {object} Inbox
 * @property {string} token
 * @property {Place} place
 * @property {Waiting} waiting the requests without an outcome
 * @property {Pending[]} unsent those that leave when all that could go on at once has
 * @property {number} until when the last of them times out, by `performance.now()`
 * @property {NodeJS.Timeout} [timer] one for all: when the next of them may time out
 * @property {number} firesAt when it fires, by `performance.now()`
 * @property {number} asked when it was asked last whether somebody serves, and somebody did
 * @property {boolean} isRead whether somebody reads it
 * @property {boolean} isLooking whether its connection is blocked by a look
 * @property {boolean} isTidied whether what was read is about to be removed, unless the next call takes it along
 * @property {Promise<void>} [tidying] who removes what was read
 * @property {boolean} isLost whether its connection is away
 * @property {boolean} isRetired whether its connection was lost before: no new call gets this token
 * @property {number} read how many replies at the head of the list were read and are to be removed
 * @property {number} readAt when they were read, by `performance.now()`
 * @property {Link} link
 */

/** @param {string} token @param {Place} place @param {Link} link @returns {Inbox} */
const newInbox = (token, place, link) => ({
  token, place, link, waiting: new Waiting(), unsent: [], until: 0, firesAt: Infinity, asked: 0, read: 0, readAt: 0,
  isRead: false, isLooking: false, isTidied: false, isLost: false, isRetired: false,
});

/** How many are added to a Map before it is made anew. */
const RENEWED = 1_000;

/**
 * Requests without an outcome, by their ids. V8 lets each table that a Map has outgrown point to the next one, so that one of them which
 * has grown old keeps all that ever came behind it, for the collector to copy: that was a fifth of a client's time. So no Map lives long.
 */
class Waiting {
  /** @type {Map<string, Pending>} */
  #map = new Map();
  #added = 0;

  get size() {
    return this.#map.size;
  }

  /** @param {string} id */
  get(id) {
    return this.#map.get(id);
  }

  /** @param {Pending} request */
  add(request) {
    if (++this.#added === RENEWED) [this.#map, this.#added] = [new Map(this.#map), 0];
    this.#map.set(request.id, request);
  }

  /** @param {string} id */
  delete(id) {
    this.#map.delete(id);
  }

  /** All of them, as they are now. */
  list() {
    return [...this.#map.values()];
  }
}

/** A request, until it has an outcome: a result, or an error. */
export class Pending {
  /** Whether Redis may have got it. */
  sent = false;
  /** From when on it can be given up for lost, by `performance.now()`. */
  judgedFrom = Infinity;
  /** @type {unknown} what went wrong last */
  trouble;
  /** @type {(result: unknown) => void} */
  #resolve = noop;
  /** @type {(error: SabirError) => void} */
  #reject = noop;
  /** The moment that it was written with, in ms since 1970. @type {number | undefined} */
  #deadline;
  #writer;

  /**
   * @param {string} id
   * @param {(deadline?: number) => string | Buffer} writer writes the element
   * @param {boolean} idempotent
   * @param {number} timeoutMs
   * @param {number} until when that passes, by `performance.now()`
   */
  constructor(id, writer, idempotent, timeoutMs, until) {
    this.id = id;
    this.#writer = writer;
    this.idempotent = idempotent;
    this.timeoutMs = timeoutMs;
    this.until = until;
    /** As it was written last. @type {string | Buffer} */
    this.element = '';
    /** @type {Promise<any>} rejected with a SabirError */
    this.outcome = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  /** @param {unknown} outcome a result, or an error */
  end(outcome) {
    if (outcome instanceof SabirError) this.#reject(outcome);
    else this.#resolve(outcome);
  }

  /** Writes the element, as it is to be sent now. @param {number} [deadline] undefined: it never expires */
  write(deadline) {
    if (this.element === '' || deadline !== this.#deadline) this.element = this.#writer(deadline);
    this.#deadline = deadline;
    return this.element;
  }

  /** What it ends with when its time-out passes. @param {Inbox} inbox */
  expired({ isLost }) {
    const { trouble: cause, timeoutMs } = this;
    if (!this.sent) return new NotQueued(`could not be sent within ${timeoutMs} ms: ${text(cause)}`, { cause }); // SABIR-LOST-5
    if (isLost) return new ConnectionLost(`the connection was lost, and did not come back within ${timeoutMs} ms`, { cause }); // SABIR-LOST-2
    return new CallTimeout(`no reply within ${timeoutMs} ms`, { cause }); // SABIR-CALL-6
  }
}

/** Begins to wait for a request. @param {Inbox} inbox @param {Pending} request */
function expect(inbox, request) {
  inbox.waiting.add(request);
  inbox.until = Math.max(inbox.until, request.until);
  if (inGrains(request.until) < inbox.firesAt) fireAt(inbox, inGrains(request.until));
  else if (inbox.waiting.size === 1) inbox.timer?.ref();
}

/** When what passes at a moment is ended, both by `performance.now()`. @param {number} until */
const inGrains = (until) => Math.ceil(until / GRAIN_MS) * GRAIN_MS;

/** @param {Inbox} inbox @param {number} at by `performance.now()` */
function fireAt(inbox, at) {
  clearTimeout(inbox.timer);
  inbox.firesAt = at;
  inbox.timer = setTimeout(expire, Math.min(Math.ceil(at - performance.now()), LONGEST_TIMER_MS), inbox);
}

/** Ends what has no outcome in time (SABIR-CALL-2). @param {Inbox} inbox */
function expire(inbox) {
  inbox.firesAt = Infinity;
  const now = performance.now();
  let next = Infinity;
  for (const request of inbox.waiting.list()) {
    if (request.until <= now) settle(inbox, request.id, () => request.expired(inbox));
    else next = Math.min(next, request.until);
  }
  if (next < Infinity) fireAt(inbox, inGrains(next));
}

/** @param {unknown} error */
const text = (error) => (error instanceof Error ? error.message : 'no connection');

/** @param {Place} place */
const unavailable = ({ service }) => new ServiceUnavailable(`no worker serves ${service}`);
const workerLost = () => new WorkerLost('the worker that had the request was lost');

/** Ends a request, if it waits. @param {Inbox} inbox @param {string} id @param {() => unknown} outcome */
export function settle(inbox, id, outcome) {
  const request = inbox.waiting.get(id);
  if (!request) return;
  inbox.waiting.delete(id);
  if (!inbox.waiting.size) inbox.timer?.unref(); // it keeps no program that waits for nothing
  request.end(outcome());
}

/** Calls methods of services. Any number of calls can be in flight at once. */
export class Client {
  #source;
  #namespace;
  #name;
  #timeoutMs;
  #limits;
  #maxQueue;
  /** @type {Map<number, typeof ApplicationError>} */
  #errors = new Map();
  #clock = new Clock();
  #link;
  #isClosed = false;
  /** @internal tests shorten them */
  _paces = { askMs: ASK_MS, calmMs: CALM_MS };
  /** @type {Map<string, Inbox>} by service */
  #inboxes = new Map();
  /** @type {Set<Inbox>} all of them, those too whose connection was lost */
  #allInboxes = new Set();

  /**
   * @param {ClientOptions | string} [options] options, or a url alone. Nothing is connected before the first call
   * @throws {TypeError} an option of the wrong type
   * @throws {RangeError} a name outside its grammar, a time-out that is not positive, or a bound below 1
   */
  constructor(options = {}) {
    const given = withSource(options);
    this.#source = given;
    this.#namespace = check('namespace', given.namespace ?? 'sabir');
    this.#name = check('name', given.name ?? 'client');
    this.#timeoutMs = checkTime(given.timeoutMs ?? 30_000, 'timeoutMs'); // SABIR-CALL-3
    this.#limits = { maxBytes: given.maxBytes ?? LIMITS.maxBytes, maxDepth: given.maxDepth ?? LIMITS.maxDepth };
    const { maxQueue = MAX_QUEUE } = given;
    if (maxQueue !== null && !(Number.isSafeInteger(maxQueue) && maxQueue >= 1)) {
      throw new RangeError(`maxQueue: expected an integer >= 1 or null, got ${maxQueue}`);
    }
    this.#maxQueue = maxQueue ?? Infinity;
    this.#link = new Link(given, this.#clock);
    for (const type of given.errors ?? []) {
      if (!(type.prototype instanceof ApplicationError)) {
        throw new TypeError(`errors: expected subclasses of ApplicationError, got ${type.name}`);
      }
      this.#errors.set(type.code, type);
    }
  }

  /**
   * Makes a stand-in for a service, whose methods are the remote ones: `await calc.add(1, 2)`.
   *
   * @template {object} [T=Record<string, RemoteMethod>]
   * @param {string} service
   * @param {CallOptions} [options] for every call of it
   * @returns {T}
   */
  service(service, options) {
    check('service', service);
    if (options?.timeoutMs !== undefined) checkTime(options.timeoutMs, 'timeoutMs');
    return /** @type {T} */ (new Proxy(Object.freeze(Object.create(null)), {
      get: (_, method) => {
        if (method === Symbol.toPrimitive) return () => `[sabir service ${service}]`;
        if (typeof method !== 'string' || NEVER_REMOTE.has(method)) return undefined;
        return (/** @type {unknown[]} */ ...params) => {
          const [first] = params;
          if (params.length === 1 && first instanceof Named) return this.call(service, method, first.params, options);
          return this.call(service, method, params.length ? params : undefined, options);
        };
      },
    }));
  }

  /**
   * Calls a method by any legal name and waits for its result.
   *
   * @param {string} service
   * @param {string} method
   * @param {Params | null} [params] an array (positional) or an object (named); undefined or null: none
   * @param {CallOptions} [options]
   * @returns {Promise<any>}
   * @throws {SabirError} what the call ended with: see `errors.js`
   * @throws {TypeError} what JSON can't hold, or an argument of the wrong type
   * @throws {RangeError} a name outside its grammar, or a time-out that is not positive
   */
  call(service, method, params, options) {
    try {
      return this.#begin(service, [[method, params]], options)[0].outcome;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Makes many calls at once; the workers share them.
   *
   * @param {string} service
   * @param {[method: string, params?: Params | null][]} calls
   * @param {CallOptions} [options] for all of them
   * @returns {Promise<any[]>} the results in order; a call that failed has its SabirError there
   * @throws {TypeError} @throws {RangeError} @throws {SabirError} one of the requests can't be sent at all, and none was
   */
  async many(service, calls, options) {
    const asValue = (/** @type {SabirError} */ error) => error;
    return Promise.all(this.#begin(service, calls, options).map(({ outcome }) => outcome.catch(asValue)));
  }

  /**
   * Makes requests, which leave when all that could go on at once has: the calls of one turn go out in one RPUSH.
   *
   * @param {string} service
   * @param {[method: string, params?: Params | null][]} calls
   * @param {CallOptions} [options]
   */
  #begin(service, calls, { timeoutMs = this.#timeoutMs, idempotent = false, traceparent } = {}) {
    const inbox = this.#inbox(service);
    const handled = context();
    const limitMs = Math.min(checkTime(timeoutMs, 'timeoutMs'), handled?.timeLeftMs ?? Infinity); // SABIR-TIME-5
    const until = performance.now() + limitMs;
    const replyTo = inbox.token;
    traceparent ??= handled?.traceparent;
    const deadline = this.#deadline(until);
    const requests = calls.map(([method, params]) => {
      const id = newId();
      const writer = requestWriter({ id, replyTo, idempotent, traceparent, method, params: params ?? undefined }, this.#limits);
      const request = new Pending(id, writer, idempotent, limitMs, until);
      request.write(deadline); // SABIR-LIMIT-1: what is too large is refused before anything is sent
      return request;
    });
    if (limitMs <= 0) {
      for (const request of requests) request.end(new DeadlineExceeded('the deadline of the request that is being handled has come'));
    } else if (requests.length) {
      if (!inbox.unsent.length) process.nextTick(() => this.#flush(inbox));
      inbox.unsent.push(...requests);
    }
    return requests;
  }

  /** What passes at a moment by `performance.now()`, by Redis's clock (SABIR-CALL-5). @param {number} until */
  #deadline(until) {
    return Math.floor(this.#clock.at(until));
  }

  /** Sends what was called, and sees to it that somebody reads the replies. @param {Inbox} inbox */
  #flush(inbox) {
    const requests = inbox.unsent;
    if (!requests.length) return;
    inbox.unsent = [];
    for (const request of requests) expect(inbox, request);
    void this._push(inbox, requests, ({ until }) => this.#deadline(until));
    if (!inbox.isRead) void this._read(inbox);
  }

  /**
   * Sends a notification: a request that nobody answers (SABIR-CALL-7).
   *
   * @param {string} service
   * @param {string} method
   * @param {Params | null} [params]
   * @param {object} [options]
   * @param {number} [options.expiresMs] how long it may wait in the queue, in ms; undefined: for ever
   * @param {number} [options.timeoutMs] how long to wait for Redis to have it, in ms. Default: the client's
   * @param {boolean} [options.idempotent] whether running it more than once does no harm: then it is delivered again when its worker
   *   is lost. Default: false
   * @param {string} [options.traceparent] the trace (W3C). Default: that of the handler that is running
   * @returns {Promise<string>} its id, when Redis has it
   * @throws {NotQueued} Redis does not have it
   * @throws {Overloaded} the queue is longer than its bound: it was taken back
   * @throws {ConnectionLost} nobody knows whether Redis has it
   * @throws {TypeError} @throws {RangeError} @throws {SabirError} it can't be sent at all
   */
  async notify(service, method, params, options = {}) {
    const { expiresMs, timeoutMs = this.#timeoutMs, idempotent = false, traceparent = context()?.traceparent } = options;
    const place = this.#place(service);
    checkTime(timeoutMs, 'timeoutMs');
    if (expiresMs !== undefined) checkTime(expiresMs, 'expiresMs');
    const id = newId();
    const writer = requestWriter({ id, method, params: params ?? undefined, idempotent, traceparent }, this.#limits);
    const request = new Pending(id, writer, idempotent, timeoutMs, performance.now() + timeoutMs);
    const deadline = () => expiresMs && Math.floor(this.#clock.now() + expiresMs);
    request.write(deadline());
    const inbox = { ...newInbox('', place, this.#link), isLost: true }; // for its own outcome only
    expect(inbox, request);
    const lost = () => new ConnectionLost('the connection was lost before Redis answered', { cause: request.trouble });
    void this._push(inbox, [request], deadline).then((isQueued) => settle(inbox, id, isQueued ? noop : lost));
    try {
      await request.outcome;
    } finally {
      clearTimeout(inbox.timer);
    }
    return id;
  }

  /**
   * Makes a call, and makes it again, with growing pauses and within the time-out of the whole, when it ended with an error that lets
   * it (SABIR-RETRY-1): one after which it may be sent again, or, if it is idempotent, may have run.
   *
   * @param {string} service
   * @param {string} method
   * @param {Params | null} [params]
   * @param {CallOptions} [options]
   * @returns {Promise<any>}
   * @throws {SabirError} what the last call ended with
   * @throws {TypeError} @throws {RangeError} as `call`
   */
  async retry(service, method, params, { timeoutMs = this.#timeoutMs, ...options } = {}) {
    const until = performance.now() + Math.min(checkTime(timeoutMs, 'timeoutMs'), context()?.timeLeftMs ?? Infinity);
    const delay = backoff();
    for (let leftMs = timeoutMs; ;) {
      try {
        return await this.call(service, method, params, { ...options, timeoutMs: leftMs });
      } catch (error) {
        const mayRepeat = error instanceof SabirError && (error.retryable || (options.idempotent && error.outcome === 'may have run'));
        leftMs = until - performance.now();
        if (!mayRepeat || leftMs < 2 * ATTEMPT_MS) throw error;
        await pause(Math.min(delay() * (1 + Math.random() / 2), 5_000, leftMs / 2));
        leftMs = Math.max(until - performance.now(), 1);
      }
    }
  }

  /**
   * Waits until somebody serves, for programs that start in any order.
   *
   * @param {string} service
   * @param {object} [options]
   * @param {number} [options.timeoutMs] how long, in ms. Default: the client's
   * @returns {Promise<void>}
   * @throws {ServiceUnavailable} nobody does within the time
   * @throws {NotQueued} Redis could not be asked
   * @throws {TypeError} @throws {RangeError} an argument is wrong
   */
  async waitForService(service, { timeoutMs = this.#timeoutMs } = {}) {
    const place = this.#place(service);
    const until = performance.now() + checkTime(timeoutMs, 'timeoutMs');
    /** @param {number} ms */
    const left = (ms) => Math.min(ms, Math.max(0, until - performance.now()));
    let trouble = /** @type {unknown} */ (new Error('no answer'));
    for (let pauseMs = 20; ; pauseMs = Math.min(pauseMs * 2, 250)) {
      const late = new AbortController();
      try {
        const isServed = await Promise.race([this._isServed(place), pause(left(LONGEST_TIMER_MS), late.signal)]);
        if (isServed) return;
        if (isServed === false) trouble = undefined;
      } catch (error) {
        trouble = error;
      } finally {
        late.abort();
      }
      if (!this.#isClosed) await pause(left(pauseMs));
      if (left(1) && !this.#isClosed) continue;
      if (trouble) throw new NotQueued(`could not be asked within ${timeoutMs} ms: ${text(trouble)}`, { cause: trouble });
      throw new ServiceUnavailable(`no worker serves ${service}, after ${timeoutMs} ms`);
    }
  }

  /** Asks whether somebody serves. @protected @param {Place} place @returns {Promise<boolean>} */
  async _isServed(place) {
    await this.#link.open();
    const [alive] = await this.#link.send(askAlive(place));
    if (alive instanceof Error && TRANSIENT.test(alive.message)) throw alive;
    return alive !== 0; // where Redis's ACL does not let us ask, a call will show it
  }

  /** Ends all connections; calls in flight end with ConnectionLost or NotQueued. */
  async close() {
    this.#isClosed = true;
    this.#link.close();
    await turn(); // what is being written, leaves
    await Promise.all([...this.#allInboxes].map(async (inbox) => {
      await inbox.tidying;
      await this.#tidy(inbox); // SABIR-WAIT-2
      inbox.link.close();
    }));
    for (const { waiting, timer } of this.#allInboxes) {
      clearTimeout(timer);
      for (const request of waiting.list()) {
        waiting.delete(request.id);
        request.end(new ConnectionLost('the client was closed'));
      }
    }
  }

  /** @param {string} service @returns {Place} */
  #place(service) {
    return { namespace: this.#namespace, service: check('service', service) };
  }

  /** Returns where the replies of a service arrive. @param {string} service */
  #inbox(service) {
    let inbox = this.#inboxes.get(service);
    if (!inbox || (!inbox.isRead && !inbox.link.isOpen && !inbox.unsent.length)) { // none, or one whose connection was lost while nobody waited
      const place = this.#place(service);
      if (inbox) this.#drop(inbox);
      inbox = newInbox(uniqueName(this.#name), place, new Link(this.#source, this.#clock)); // SABIR-TOKEN-1
      this.#inboxes.set(service, inbox);
      this.#allInboxes.add(inbox);
    }
    return inbox;
  }

  /**
   * Puts requests into the queue, once (SABIR-LOST-1), and asks behind it whether somebody serves (SABIR-ALIVE-1). A notification
   * is left there in any case (SABIR-ALIVE-7). Where nothing blocks the connection on which the replies are waited for, all leaves
   * over that, in one write with the look that follows.
   *
   * @protected
   * @param {Inbox} inbox
   * @param {Pending[]} requests
   * @param {(request: Pending) => number | undefined} deadline tells it at the moment of sending
   * @returns {Promise<boolean>} whether Redis has it for sure
   */
  async _push(inbox, requests, deadline) {
    const { place, waiting } = inbox;
    const isCall = inbox.token !== ''; // a notification has no token
    const left = () => {
      const now = performance.now();
      return requests.filter(({ id, until }) => waiting.get(id) && now < until);
    };
    for (let delay; ; delay ??= backoff(), await pause(delay())) {
      if (delay) requests = left();
      if (!requests.length) return false;
      const isFree = isCall && !inbox.isLooking && inbox.link.isOpen && !this.#clock.isStale;
      const link = isFree ? inbox.link : this.#link;
      try {
        if (!isFree) {
          if (!link.isOpen) await link.open();
          if (this.#clock.isStale) await link.askTime(); // SABIR-TIME-2
        }
      } catch (error) {
        for (const request of requests) request.trouble = error; // nothing was sent
        if (this.#isClosed) for (const { id } of requests) settle(inbox, id, () => new NotQueued('the client is closed'));
        continue;
      }
      if (!isFree) requests = left();
      if (!requests.length) return false;
      const now = performance.now();
      const elements = requests.map((request) => request.write(deadline(request)));
      for (const request of requests) request.sent = true;
      try {
        const [length, alive] = await link.send([...push(place, elements), ...(isCall ? askAlive(place) : [])]);
        if (!(length instanceof Error)) {
          if (alive !== 0) inbox.asked = Math.max(inbox.asked, now); // an error: Redis's ACL does not let us ask; then as if somebody did
          if (length > this.#maxQueue) {
            await this.#takeBack(inbox, requests, () => new Overloaded(`the queue of ${place.service} is longer than ${this.#maxQueue}`));
          } else if (alive === 0) {
            await this.#takeBack(inbox, requests, () => unavailable(place));
          }
          for (const request of requests) request.judgedFrom = 0;
          return true;
        }
        const isTransient = TRANSIENT.test(length.message);
        for (const request of requests) {
          request.trouble = length;
          request.sent = false; // an error reply: not executed
          if (!isTransient) settle(inbox, request.id, () => new NotQueued(length.message, { cause: length })); // SABIR-LOST-5
        }
      } catch (error) {
        for (const request of requests) {
          request.trouble = error;
          request.judgedFrom = performance.now() + this._paces.calmMs; // SABIR-ALIVE-5
        }
        return false;
      }
    }
  }

  /**
   * Takes requests out of the queue again: what was still there ends (SABIR-QUEUE-1, SABIR-ALIVE-2), the rest a worker has.
   *
   * @param {Inbox} inbox
   * @param {Pending[]} requests
   * @param {() => SabirError} refusal what those end with that nobody can have started
   */
  async #takeBack(inbox, requests, refusal) {
    const backwards = requests.toReversed(); // then each is at the tail when it is searched
    try {
      if (!this.#link.isOpen) await this.#link.open();
      const answers = await this.#link.send(backwards.flatMap(({ element, id, idempotent }) => takeBack(inbox.place, element, idempotent ? id : undefined)));
      let at = 0;
      for (const { id, idempotent } of backwards) {
        const removed = answers[at++];
        const isDelivered = idempotent ? answers[at++] : 0;
        if (removed === 1) settle(inbox, id, isDelivered === 0 ? refusal : workerLost);
      }
    } catch (cause) {
      const lost = () => new ConnectionLost('the connection was lost while the request was taken back', { cause });
      for (const { id } of requests) settle(inbox, id, lost); // SABIR-ALIVE-6
    }
  }

  /**
   * Reads an inbox for as long as a call waits on it. When its connection is lost it goes on with a new one, and the next call
   * gets a token of its own (SABIR-LOST-2, SABIR-TOKEN-1).
   *
   * @protected
   * @param {Inbox} inbox
   */
  async _read(inbox) {
    const { link, waiting } = inbox;
    inbox.isRead = true;
    inbox.asked = performance.now(); // the push asks
    let delay;
    while (waiting.size) {
      try {
        if (!link.isOpen && (await link.open())) inbox.read = 0; // the list may be another one by now: it is read from its head again
        inbox.isLost = false;
        const now = performance.now();
        const askInMs = inbox.asked + this._paces.askMs - now;
        if (askInMs > 0) await this.#look(inbox, Math.ceil(Math.max(1, Math.min(askInMs, inbox.until - now))));
        else await this.#ask(inbox);
        delay = undefined;
        if (!waiting.size) break;
        await settled();
        this.#flush(inbox); // what was called meanwhile, in one write with the next look
      } catch {
        inbox.isLost = !link.isOpen;
        this.#retire(inbox);
        delay ??= backoff();
        await pause(delay());
      }
    }
    inbox.isRead = false;
    if (inbox.isRetired) {
      if (inbox.read && link.isOpen) await this.#forget(inbox).catch(noop);
      this.#retire(inbox);
    } else if (inbox.read && !inbox.isTidied) {
      inbox.isTidied = true;
      setImmediate(() => (inbox.tidying = this.#tidy(inbox))); // the next call may take them along
    }
  }

  /** Lets no new call have the token; nobody reads it any more. @param {Inbox} inbox */
  #retire(inbox) {
    inbox.isRetired = true;
    inbox.read = 0; // what was removed, nobody knows
    if (this.#inboxes.get(inbox.place.service) === inbox) this.#inboxes.delete(inbox.place.service);
    if (inbox.isRead) return;
    inbox.link.close();
    this.#drop(inbox);
  }

  /** @param {Inbox} inbox */
  #drop(inbox) {
    clearTimeout(inbox.timer);
    this.#allInboxes.delete(inbox);
  }

  /** Removes what was read, when no call waits. @param {Inbox} inbox */
  async #tidy(inbox) {
    inbox.isTidied = false;
    if (!inbox.read || inbox.isRead || !inbox.link.isOpen) return;
    await this.#forget(inbox).catch(() => this.#retire(inbox));
  }

  /**
   * Removes what was read (SABIR-WAIT-2), waits for a reply, and reads it and those behind it, which stay (SABIR-WAIT-1).
   *
   * @param {Inbox} inbox
   * @param {number} blockMs
   */
  async #look(inbox, blockMs) {
    const { link, place, token, waiting } = inbox;
    const forgetting = this.#forgetting(inbox);
    const more = waiting.size > 1 || link.hasGhost ? drain(place, token, link.hasGhost ? -1 : DRAINED) : [];
    inbox.read = 0;
    let answers;
    try {
      inbox.isLooking = true;
      answers = await link.send([...forgetting, ...wait(place, token, blockMs), ...more], blockMs);
    } finally {
      inbox.isLooking = false;
    }
    const [first, others] = answers.slice(forgetting.length);
    if (first instanceof Buffer) this.#receive(inbox, [first, ...(Array.isArray(others) ? others : [])]); // else the others begin in front
    const refused = answers.slice(0, forgetting.length + 1).find((answer) => answer instanceof Error);
    if (refused) throw refused;
    if (inbox.read && link.hasGhost) await pause(POLL_MS); // the look does not wait for what is behind those
  }

  /** Ends the calls that replies, from the head of the list on, belong to. @param {Inbox} inbox @param {Buffer[]} replies */
  #receive(inbox, replies) {
    inbox.read = replies.length;
    inbox.readAt = performance.now();
    for (const reply of replies) this._deliver(inbox, reply);
  }

  /**
   * Removes by position, unless that may go wrong: a connection that was lost may still be removing what it had read, or, after a
   * long pause, the list may have expired, and another begun. Then nothing is removed: what was read is read again.
   *
   * @param {Inbox} inbox
   */
  #forgetting({ place, link, token, read, readAt }) {
    return read && !link.hasGhost && performance.now() - readAt < TRUST_MS ? forgetFirst(place, token, read) : [];
  }

  /** Removes what was read, when no call waits. @param {Inbox} inbox */
  async #forget(inbox) {
    const { place, link, token } = inbox;
    const commands = link.hasGhost ? forget(place, token) : this.#forgetting(inbox);
    inbox.read = 0;
    const [answer] = await link.send(commands);
    if (answer instanceof Error) throw answer;
  }

  /**
   * Asks whether somebody serves (SABIR-ALIVE-3); where nobody does, ends the calls that wait (SABIR-ALIVE-4).
   *
   * @param {Inbox} inbox
   */
  async #ask(inbox) {
    const { link, place, token, waiting } = inbox;
    const now = (inbox.asked = performance.now());
    const [alive] = await link.send(askAlive(place));
    const judged = waiting.list().filter(({ judgedFrom }) => judgedFrom <= now).reverse();
    if (alive !== 0 || !judged.length || now - link.cameBack < this._paces.calmMs) return; // SABIR-ALIVE-5
    const [watched, isServed, length] = await link.send(lookAlive(place));
    if (isServed !== 0 || watched instanceof Error || length instanceof Error) return void (await link.send(unwatch()));
    const searches = length <= LONGEST_SEARCH;
    const answers = await link.send(judge(place, token, judged, searches)).catch((cause) => {
      const lost = () => new ConnectionLost('the connection was lost while the request was taken back', { cause });
      if (searches) for (const { id } of judged) settle(inbox, id, lost); // SABIR-ALIVE-6
      throw cause;
    });
    const results = answers.at(-1);
    if (!Array.isArray(results)) return; // somebody serves again
    const replies = results.pop();
    if (Array.isArray(replies)) this.#receive(inbox, replies);
    for (const [index, { id }] of judged.entries()) {
      const [removed, isDelivered] = searches ? results.slice(2 * index, 2 * index + 2) : [0, results[index]];
      settle(inbox, id, removed === 1 && isDelivered === 0 ? () => unavailable(place) : workerLost);
    }
  }

  /** Ends the call that a reply belongs to; all others are late (SABIR-REPLY-4). @protected @param {Inbox} inbox @param {Buffer} element */
  _deliver(inbox, element) {
    const reply = decodeReply(element);
    if (!reply) return;
    settle(inbox, reply.id, () => {
      if (reply.kind === 'result') return reply.result;
      if (reply.kind === 'invalid') return new InvalidReply(reply.message); // SABIR-REPLY-5
      const { code, message, data } = reply;
      try {
        return new (classFor(code, this.#errors))(message, { code, data }); // SABIR-ERROR-4, SABIR-ERROR-5
      } catch (cause) { // the application's own constructor
        return new ApplicationError(message, { code, data, cause });
      }
    });
  }
}

const newId = () => randomHex(16); // SABIR-ENVELOPE-2
