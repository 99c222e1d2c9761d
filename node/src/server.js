/**
 * The worker's shell: take, dispatch, reply, beat, recover, stop (sections 9 to 14 and 16 of the specification).
 *
 * Three connections: one that waits for elements, one for replies, one for heartbeats (SABIR-TRANSPORT-3). Handlers run side by
 * side on the event loop; one that holds it for more than 7 s loses the worker's lease, because nothing else can run (SABIR-LEASE-1).
 */

import {
  askAttempts, giveBack, goodbye, heartbeat, HEARTBEAT_MS, inFull, LEASE_MS, readHand, settle, take, TAKE_MS, takeMore,
} from './commands.js';
import { backoff, Clock, Context, Link, LONGEST_TIMER_MS, noop, pause, running, settled, turn, uniqueName, withSource } from './connection.js';
import {
  ApplicationError, classFor, DeadlineExceeded, InternalError, InvalidParams, isReserved, MethodNotFound, SabirError, WorkerLost,
} from './errors.js';
import { check } from './keys.js';
import { decodeRequest, encodeDeadLetter, encodeError, encodeResult, LIMITS, shortest, unwritable } from './messages.js';

/** @typedef {import('./messages.js').Params} Params */
/** @typedef {import('./messages.js').Failure} Failure */

/**
 * @typedef {object} ServerOptions
 * @property {string} [url] where Redis is. Default: `redis://127.0.0.1:6379/0`
 * @property {import('./connection.js').Source['redis']} [redis] a client of the `redis` package, to take its options instead
 * @property {string} [namespace] the first part of every key. Default: `sabir`
 * @property {string} [name] the first part of the worker's id. Default: `worker`
 * @property {number} [concurrency] how many handlers may run at once. Default: 100
 * @property {number} [handlerTimeoutMs] how long a handler may run, in ms. Default: no limit
 * @property {boolean} [traces] whether internal errors carry a stack trace, and are logged with it. Default: false
 * @property {{ warn(message: string): void }} [logger] default: `console`
 * @property {number} [maxBytes] the largest element, in bytes. Default: 1,048,576
 * @property {number} [maxDepth] the deepest nesting of an element. Default: 64
 */

/**
 * What becomes of an element: a reply, a dead letter, or nothing more.
 * @typedef {{ token?: string, reply?: string | Buffer, letter?: Buffer }} Answer
 */

/**
 * An element of the hand that is run, or answered.
 * @typedef {object} Work
 * @property {string | Buffer} element as it is quickest to send; a Buffer would keep all that was read with it
 * @property {Answer} answer when it has been run
 * @property {number} at where it stands among what was started
 */

/** @typedef {(...params: any[]) => unknown} Handler May return a promise. */

/**
 * When an element was taken.
 * @typedef {object} Taken
 * @property {number} at when the take was sent, by `performance.now()`
 * @property {number} epoch how often the lease had been lost before
 */

/** How long two heartbeats that were answered may lie apart, for a worker that recovers, in ms (SABIR-RECOVER-7). */
const GAP_MS = 4_000;
/** The next heartbeat after one that left something to recover, in ms (SABIR-RECOVER-9). */
const MORE_MS = 50;
/** A heartbeat that comes later than this is warned of, in ms. */
const LATE_MS = 4_000;
/** The most that is sent in front of a take, in bytes: beyond a limit the stream writes in several parts (HIGH_WATER_BYTES). */
const ALONG_BYTES = 200_000;
/** The most that one transaction answers, in bytes, unless it is one element alone. */
const APART_BYTES = 65_536;
/** How long a handler that has run too long may take to heed its signal before it counts as one that hangs, in ms. */
const HEED_MS = 100;

/** Whether a worker may recover what others left behind (SABIR-RECOVER-7). Pure: moments, in ms of one monotonic clock, are arguments. */
export class Steadiness {
  #since = Infinity;
  #last = -Infinity;

  /** Notes that a heartbeat was answered. @param {number} sent when it was sent @param {boolean} isLost whether the worker's own lease had ended */
  answered(sent, isLost) {
    if (isLost || sent - this.#last > GAP_MS) this.#since = sent;
    this.#last = sent;
  }

  /** Tells whether a heartbeat may recover. @param {number} now when it is sent */
  mayRecover(now) {
    return now - this.#last <= GAP_MS && now - this.#since >= LEASE_MS;
  }
}

/** A declared signature, and what checks parameters against it before the handler starts (SABIR-BODY-4). */
class Signature {
  #names;
  #required;
  #rest;

  /** @param {string} method @param {string[]} declared `b?` may be left out; a last `...c` takes what is left over, by position */
  constructor(method, declared) {
    if (!Array.isArray(declared) || !declared.every((name) => typeof name === 'string')) {
      throw new TypeError(`${method}: expected an array of parameter names`);
    }
    this.#rest = declared.at(-1)?.startsWith('...') ?? false;
    const names = this.#rest ? declared.slice(0, -1) : declared;
    const isOptional = names.map((name) => name.endsWith('?'));
    this.#names = names.map((name) => name.replace(/\?$/, ''));
    this.#required = isOptional.includes(true) ? isOptional.indexOf(true) : names.length;
    if (isOptional.lastIndexOf(false) >= this.#required) {
      throw new TypeError(`${method}: expected optional parameters behind the others, got ${declared.join(', ')}`);
    }
    if (names.some((name) => name.startsWith('...'))) {
      throw new TypeError(`${method}: expected ... at the last parameter only, got ${declared.join(', ')}`);
    }
    if (new Set(this.#names).size < names.length) {
      throw new TypeError(`${method}: expected each name once, got ${declared.join(', ')}`);
    }
  }

  /** Puts parameters in order. @param {Params} params @returns {unknown[]} @throws {InvalidParams} */
  bind(params) {
    const names = this.#names;
    if (Array.isArray(params)) {
      if (params.length >= this.#required && (this.#rest || params.length <= names.length)) return params;
      const most = this.#rest ? ' or more' : names.length > this.#required ? ` to ${names.length}` : '';
      throw new InvalidParams(`expected ${this.#required}${most} parameters (${names.join(', ')}), got ${params.length}`);
    }
    const unknown = Object.keys(params).find((name) => !names.includes(name));
    if (unknown !== undefined) {
      throw new InvalidParams(`expected the names ${names.join(', ')}, got ${JSON.stringify(unknown.slice(0, 60).toWellFormed())}`);
    }
    const missing = names.slice(0, this.#required).find((name) => !Object.hasOwn(params, name));
    if (missing !== undefined) throw new InvalidParams(`expected the parameter ${missing}`);
    return names.map((name) => (Object.hasOwn(params, name) ? params[name] : undefined));
  }
}

/** Serves one service: takes requests, runs handlers, sends replies. */
export class Server {
  #place;
  #clock = new Clock();
  #logger;
  #limits;
  #concurrency;
  #traces;
  #handlerTimeoutMs;
  #links;
  /** @type {Map<string, { signature: Signature, handler: Handler }>} a Map: a name from the wire finds nothing else (SABIR-BODY-3) */
  #methods = new Map();
  /** @type {Work[]} what the hand holds and is being run or answered, in no order */
  #started = [];
  /** @type {Work[]} what of it has been run, and is to be answered */
  #ended = [];
  /** Whether the next take is about to be sent: it takes along what has ended. */
  #takesAlong = false;
  /** @type {Set<Promise<void>>} handlers that have run longer than the limit, and hold their place */
  #overdue = new Set();
  /** How often the lease was lost. */
  #epoch = 0;
  /** @internal tests replace it */
  _steadiness = new Steadiness();
  /** @type {Map<string, string>} what does not work, and why: logged once */
  #troubles = new Map();
  #stopping = new AbortController();
  #ending = new AbortController();
  #freed = noop;
  /** Why the worker stopped by itself; undefined: it did not. @type {Error | undefined} */
  #hung;
  /** @type {Promise<void> | undefined} */ #start;
  /** @type {Promise<void> | undefined} */ #stop;
  /** @type {Promise<void> | undefined} */ #taking;
  /** @type {Promise<void> | undefined} */ #beating;

  /**
   * @param {string} service
   * @param {ServerOptions | string} [options] options, or a url alone. Nothing is connected before `start` or `run`
   * @throws {TypeError} an option of the wrong type
   * @throws {RangeError} a name outside its grammar
   */
  constructor(service, options = {}) {
    const given = withSource(options);
    this.#place = { namespace: check('namespace', given.namespace ?? 'sabir'), service: check('service', service) };
    this.#concurrency = given.concurrency ?? 100;
    if (!(Number.isSafeInteger(this.#concurrency) && this.#concurrency > 0)) {
      throw new RangeError(`concurrency: expected an integer > 0, got ${this.#concurrency}`);
    }
    this.#handlerTimeoutMs = given.handlerTimeoutMs ?? Infinity;
    if (!(this.#handlerTimeoutMs > 0 && (this.#handlerTimeoutMs <= LONGEST_TIMER_MS || this.#handlerTimeoutMs === Infinity))) {
      throw new RangeError(`handlerTimeoutMs: expected more than 0 and at most ${LONGEST_TIMER_MS} ms, got ${this.#handlerTimeoutMs}`);
    }
    this.#traces = given.traces ?? false;
    this.#logger = given.logger ?? console;
    this.#limits = { maxBytes: given.maxBytes ?? LIMITS.maxBytes, maxDepth: given.maxDepth ?? LIMITS.maxDepth };
    /** This worker's id, new for each Server (SABIR-WORKER-1). */
    this.worker = uniqueName(check('name', given.name ?? 'worker'));
    const link = () => new Link(given, this.#clock, TAKE_MS + 1_000);
    this.#links = { take: link(), reply: link(), beat: link() };
  }

  /**
   * Registers a method. The names of its parameters are declared, never guessed: `b?` may be left out, a last `...c` takes the rest.
   *
   * @param {string} method
   * @param {string[]} params
   * @param {Handler} handler
   * @returns {this}
   * @throws {TypeError} an argument of the wrong type
   * @throws {RangeError} a name outside its grammar, reserved (`rpc.`), or registered already
   */
  register(method, params, handler) {
    check('method', method);
    if (method.startsWith('rpc.')) throw new RangeError(`method: names with rpc. are reserved, got ${method}`);
    if (this.#methods.has(method)) throw new RangeError(`method: ${method} is registered already`);
    if (typeof handler !== 'function') throw new TypeError(`${method}: expected a function, got ${typeof handler}`);
    this.#methods.set(method, { signature: new Signature(method, params), handler });
    return this;
  }

  /**
   * Registers methods of an object; only those that are listed.
   *
   * @param {object} object
   * @param {Record<string, string[]>} methods the names of the parameters by the name of the method
   * @returns {this}
   */
  expose(object, methods) {
    for (const [method, params] of Object.entries(methods)) {
      const handler = /** @type {Record<string, Handler>} */ (object)[method];
      this.register(method, params, typeof handler === 'function' ? handler.bind(object) : handler);
    }
    return this;
  }

  /**
   * Starts to serve. A Redis that cannot be reached is waited for.
   *
   * @returns {Promise<void>} when the first heartbeat was answered
   */
  start() {
    if (this.#stop) return Promise.reject(new Error('a server that was stopped does not start again'));
    this.#start ??= /** @type {Promise<void>} */ (new Promise((resolve) => {
      const begun = () => resolve(undefined);
      this.#stopping.signal.addEventListener('abort', begun);
      this.#beating = this.#beat(begun);
    })).then(() => {
      if (!this.#stopping.signal.aborted) this.#taking = this.#take();
    });
    return this.#start;
  }

  /**
   * Takes nothing more, finishes what was started, gives back the rest, and says goodbye (section 14).
   *
   * @returns {Promise<void>} when that is done and all connections are closed
   */
  stop() {
    this.#stop ??= this.#leave();
    return this.#stop;
  }

  /**
   * Starts, and serves until SIGTERM or SIGINT; a second signal ends the process at once.
   *
   * @param {() => void} [ready] called when the first heartbeat was answered
   * @returns {Promise<void>} when it has stopped
   * @throws {Error} it stopped by itself, because all handlers that may run at once have run longer than the limit (SABIR-RUN-2)
   */
  async run(ready = noop) {
    let signals = 0;
    const { promise, resolve } = withResolvers();
    const onSignal = () => (signals++ ? process.exit(1) : resolve());
    process.on('SIGTERM', onSignal).on('SIGINT', onSignal);
    this.#stopping.signal.addEventListener('abort', () => resolve());
    try {
      await Promise.race([this.start().then(ready), promise]);
      await promise;
      await this.stop();
      if (this.#hung) throw this.#hung;
    } finally {
      process.off('SIGTERM', onSignal).off('SIGINT', onSignal);
    }
  }

  /**
   * Decides what becomes of a request, and runs it if it is to be run.
   *
   * @internal the in-process double calls it too
   * @param {string | Buffer} element
   * @param {Clock} [clock]
   * @param {ReturnType<typeof decodeRequest>} [request] what the element says
   * @param {number} [attempts] how often it was delivered before
   * @returns {Answer | Promise<Answer>} a promise only where the handler returned one
   */
  _handle(element, clock = this.#clock, request = decodeRequest(Buffer.from(element), this.#limits), attempts = 0) {
    if (request.kind === 'rejected') return this.#refuse(element, clock, request, request);
    const { id, replyTo } = request;
    /** @param {unknown} result @returns {Answer} */
    const answer = (result) => {
      if (replyTo === undefined) return {}; // nobody waits for the result
      try {
        return { token: replyTo, reply: encodeResult({ id, worker: this.worker, result }, this.#limits) };
      } catch (error) {
        return refuse(error);
      }
    };
    /** @param {unknown} error @returns {Answer} */
    const refuse = (error) => {
      /** @type {Failure & { cause?: unknown }} */
      let failure = error instanceof SabirError ? error : new InternalError(describe(error)[1], { cause: error });
      if (attempts && error instanceof SabirError && error.outcome === 'never started') { // SABIR-ATTEMPT-1: here; there it may have run
        failure = new WorkerLost(`delivered before, to a worker that was lost; this time: ${error.message}`);
      }
      return this.#refuse(element, clock, request, failure);
    };
    try {
      const result = this.#run(request, clock, attempts);
      return result instanceof Promise ? result.then(answer, refuse) : answer(result);
    } catch (error) {
      return refuse(error);
    }
  }

  /**
   * Answers with an error, or keeps as a dead letter.
   *
   * @param {string | Buffer} element
   * @param {Clock} clock
   * @param {{ id?: string, replyTo?: string }} request
   * @param {Failure & { cause?: unknown }} failure
   * @returns {Answer}
   */
  #refuse(element, clock, { id, replyTo }, failure) {
    const { code, message, data, cause } = failure;
    const isAnswered = id !== undefined && replyTo !== undefined;
    if (!isAnswered || !(failure instanceof ApplicationError)) {
      const [kind, , trace] = describe(cause); // SABIR-SECURITY-1: not its text, which may hold parameters
      const raised = cause === undefined ? '' : `, a handler raised ${kind}${this.#traces ? `\n${trace}` : ''}`;
      this.#warn(`${id ?? 'an element without an id'}: ${classFor(code).name}${isAnswered ? '' : ', kept as a dead letter'}${raised}`);
    }
    if (isAnswered) return { token: replyTo, reply: this.#error({ id, code, message, data }) };
    return { letter: encodeDeadLetter({ at: Math.floor(clock.now()), worker: this.worker, element: Buffer.from(element), code, message, data }) };
  }

  /**
   * Finds a method and runs it. What its handler throws becomes an application error (SABIR-ERROR-2) or an internal error.
   *
   * @param {import('./messages.js').ReceivedCall | import('./messages.js').ReceivedNotification} request
   * @param {Clock} clock
   * @param {number} attempts
   * @returns {unknown} the handler's result; a promise only where it returned one
   */
  #run(request, clock, attempts) {
    if (request.deadline !== undefined && request.deadline <= clock.now()) {
      throw new DeadlineExceeded('the deadline had come'); // SABIR-TIME-4
    }
    const method = this.#methods.get(request.method);
    if (!method) throw new MethodNotFound(`no method ${JSON.stringify(request.method)}`); // SABIR-BODY-2
    const params = method.signature.bind(request.params ?? []);
    try {
      const context = new Context(request, this.#place.service, this.worker, clock, attempts + 1);
      const start = () => running.run(context, method.handler, ...params);
      const result = this.#handlerTimeoutMs === Infinity ? start() : this.#limited(start, context);
      if (!isThenable(result)) return result;
      return Promise.resolve(result).catch((thrown) => {
        throw this.#errorOf(thrown);
      });
    } catch (thrown) {
      throw this.#errorOf(thrown);
    }
  }

  /** What is said of something that a handler has thrown. @param {unknown} thrown @returns {SabirError} */
  #errorOf(thrown) {
    if (thrown instanceof ApplicationError) {
      const { code, message, data } = thrown;
      const fault = data === undefined ? undefined : unwritable(data, this.#limits.maxDepth - 3)?.what;
      if (Number.isSafeInteger(code) && !isReserved(code) && !fault) return new ApplicationError(String(message), { code, data });
      return new InternalError(`an application error that cannot be sent: ${fault ?? `code ${code}`}`, { cause: thrown }); // SABIR-ERROR-3
    }
    const [kind, text, trace] = describe(thrown);
    const data = this.#traces ? { trace: trace.split('\n') } : undefined; // SABIR-WORKER-7
    return new InternalError(`${kind}: ${text}`.slice(0, 1000), { data, cause: thrown }); // SABIR-ERROR-1
  }

  /**
   * Waits for a handler, but no longer than the limit (SABIR-RUN-1).
   *
   * @param {() => unknown} start
   * @param {Context} context
   */
  async #limited(start, context) {
    const limitMs = this.#handlerTimeoutMs;
    const begin = performance.now();
    let isDue = false;
    /** @type {NodeJS.Timeout | undefined} */
    let timer;
    const due = new Promise((resolve) => (timer = setTimeout(() => resolve((isDue = true)), limitMs)));
    const work = (async () => start())();
    await Promise.race([work, due]).catch(noop);
    clearTimeout(timer);
    if (!isDue && performance.now() - begin <= limitMs) return work;
    const late = new DOMException(`ran longer than ${limitMs / 1000} s`, 'TimeoutError');
    const held = work.then(noop, noop).finally(() => {
      this.#overdue.delete(held);
      this.#freed();
    });
    this.#overdue.add(held);
    setTimeout(() => this.#checkPlaces(), HEED_MS);
    context._abort(late);
    throw late;
  }

  /** Stops when no handler can be started any more (SABIR-RUN-2). */
  #checkPlaces() {
    if (this.#overdue.size < this.#concurrency || this.#stop) return;
    this.#hung = new Error(`stopped: all ${this.#concurrency} handlers have run longer than ${this.#handlerTimeoutMs / 1000} s`);
    this.#warn(this.#hung.message);
    void this.stop();
  }

  /** Writes an error; one that is too large becomes an internal error. @param {{ id: string } & Failure} error */
  #error(error) {
    try {
      return encodeError({ ...error, worker: this.worker }, this.#limits);
    } catch (fault) {
      this.#warn(`${error.id}: an error too large to be sent`);
      return encodeError({ id: error.id, worker: this.worker, code: InternalError.code, message: describe(fault)[1] });
    }
  }

  /**
   * Takes elements until told to stop (SABIR-STOP-1). While handlers run, nothing blocks: what has ended by the time of the next take
   * is answered in the same write, in front of it. So a call that ends at once costs one write.
   */
  async #take() {
    const { take: link } = this.#links;
    const { signal } = this.#stopping;
    let delay = backoff();
    let known = 0; // the connection whose hand was read
    let more = 0; // how many to ask for behind the first: more where there were more, so that a full queue costs few round trips
    while (!signal.aborted) {
      const room = this.#room();
      if (room <= 0) {
        this.#takeNothingAlong();
        this.#takesAlong = true; // what frees a place
        await new Promise((resolve) => (this.#freed = () => resolve(undefined)));
        continue;
      }
      try {
        if (!link.isOpen) {
          this.#takeNothingAlong();
          await link.open();
        }
        const taken = this.#now();
        if (known !== link.made) {
          const { made } = link;
          const unseen = await this.#unseen(link); // SABIR-LOST-3
          known = made;
          if (!signal.aborted) for (const element of unseen) this.#begin(element, taken);
          continue;
        }
        const extra = Math.min(more, room - 1);
        const [lease, ...moves] = take(this.#place, this.worker, this.#leaseEnds(), TAKE_MS);
        for (let i = 0; i < extra; i++) moves.push(...takeMore(this.#place, this.worker));
        this.#answerAlong(link);
        let waited = false; // whether the queue was empty when the take came
        const leased = () => process.nextTick(() => (waited = true));
        const answers = await link.send([lease, ...moves], TAKE_MS, leased);
        const elements = answers.filter((answer) => answer instanceof Buffer);
        if (signal.aborted) break; // #leave gives it back
        this.#takesAlong = true;
        for (const element of elements) this.#begin(element, taken);
        more = elements.length > extra && !waited ? Math.max(1, more * 2) : Math.max(0, elements.length - 1);
        const refused = answers.find((answer) => answer instanceof Error);
        if (refused) throw refused;
        this.#works('take');
        delay = backoff();
        await settled(); // what ends at once, has ended
      } catch (error) {
        this.#takeNothingAlong();
        if (!signal.aborted) this.#fails('take', error);
        await pause(delay(), signal); // SABIR-WORKER-6
      }
    }
    this.#takeNothingAlong();
  }

  /** How many handlers can be started (SABIR-WORKER-3). */
  #room() {
    return this.#concurrency - (this.#started.length - this.#ended.length) - this.#overdue.size;
  }

  /**
   * Reads the hand and returns what is not being run or answered (SABIR-LOST-3).
   *
   * @param {Link} link
   * @returns {Promise<Buffer[]>}
   */
  async #unseen(link) {
    const seen = this.#started.map(({ element }) => Buffer.from(element)); // before the hand is read: what is finished meanwhile is still in the answer
    const [hand] = await ask(link, readHand(this.#place, this.worker));
    return hand.filter((/** @type {Buffer} */ element) => {
      const index = seen.findIndex((started) => started.equals(element));
      if (index >= 0) seen.splice(index, 1);
      return index < 0;
    });
  }

  /** Runs and answers an element of the hand. @param {Buffer} bytes @param {Taken} taken */
  #begin(bytes, taken) {
    const element = shortest(bytes);
    /** @type {Work} */
    const work = { element, answer: {}, at: this.#started.length };
    this.#started.push(work);
    try {
      const request = decodeRequest(bytes, this.#limits, element);
      const isAsked = request.kind !== 'rejected' && request.idempotent;
      const answer = isAsked || !this.#isHeld(taken) ? this.#prepare(element, request, taken) : this._handle(element, this.#clock, request);
      if (answer instanceof Promise) answer.then((given) => this.#end(work, given)).catch((error) => this.#abandon(work, error));
      else this.#end(work, answer);
    } catch (error) {
      this.#abandon(work, error);
    }
  }

  /** Whether what was taken is still in the hand, as far as the clock and the heartbeats tell (SABIR-LEASE-3). @param {Taken} taken */
  #isHeld({ at, epoch }) {
    return performance.now() - at <= LEASE_MS && epoch === this.#epoch;
  }

  /**
   * Runs what may have been delivered before, or recovered by another worker.
   *
   * @param {string | Buffer} element
   * @param {ReturnType<typeof decodeRequest>} request
   * @param {Taken} taken
   * @returns {Promise<Answer | undefined>} undefined: it is not in the hand any more
   */
  async #prepare(element, request, taken) {
    const attempts = request.kind !== 'rejected' && request.idempotent ? await this.#attempts(request.id) : 0;
    while (!this.#isHeld(taken)) {
      taken = this.#now();
      const [hand] = await this.#patiently('read the hand', () => ask(this.#links.reply, readHand(this.#place, this.worker)));
      if (holds(hand, element)) continue;
      this.#warn(`${request.id ?? 'an element without an id'}: another worker recovered it before it was started`);
      return undefined;
    }
    return this._handle(element, this.#clock, request, attempts);
  }

  /** @returns {Taken} */
  #now() {
    return { at: performance.now(), epoch: this.#epoch };
  }

  /** Notes what becomes of an element; it is answered with the next take, or soon over the other connection. @param {Work} work @param {Answer | undefined} answer */
  #end(work, answer) {
    if (answer === undefined) return this.#release(work);
    work.answer = answer;
    if (this.#ended.push(work) === 1 && !this.#takesAlong) process.nextTick(() => this.#answerApart());
    this.#freed();
  }

  /** Leaves an element in the hand: one too large for a dead letter. @param {Work} work @param {unknown} error */
  #abandon(work, error) {
    this.#warn(`an element stays in the hand: ${describe(error)[1]}`);
    this.#release(work);
  }

  /** @param {Work} work */
  #release(work) {
    const last = /** @type {Work} */ (this.#started.pop());
    if (last !== work) this.#started[(last.at = work.at)] = last;
    this.#freed();
  }

  /** Asks how often a request was delivered before (SABIR-ATTEMPT-1). @param {string} id @returns {Promise<number>} */
  async #attempts(id) {
    const { reply: link } = this.#links;
    const [attempts] = await this.#patiently('ask for attempts', async () => {
      await link.open();
      const answers = await link.send(askAttempts(this.#place, id));
      if (answers[0] instanceof Error && !answers[0].message.startsWith('WRONGTYPE')) throw answers[0];
      return answers;
    });
    return Number(attempts) || 0;
  }

  /** Answers what has ended, in front of a take that is sent in the same turn, unless it is so much that the two might not leave together (SABIR-LEASE-2). @param {Link} link */
  #answerAlong(link) {
    this.#takesAlong = false;
    if (!this.#ended.length) return;
    const size = this.#ended.reduce((sum, work) => sum + sizeOf(work), 0);
    if (size > ALONG_BYTES) return this.#answerApart();
    void this.#answer(this.#ended, link);
    this.#ended = [];
  }

  /** Lets nothing wait for the next take. */
  #takeNothingAlong() {
    this.#takesAlong = false;
    this.#answerApart();
  }

  /** Answers what has ended over the connection on which nothing blocks. */
  #answerApart() {
    if (this.#takesAlong) return;
    for (let ended = this.#ended.splice(0); ended.length;) {
      let count = 1;
      for (let size = sizeOf(ended[0]); count < ended.length && (size += sizeOf(ended[count])) <= APART_BYTES;) count++;
      void this.#answer(ended.splice(0, count), this.#links.reply);
    }
  }

  /**
   * Sends answers and removes their elements from the hand, in one transaction. Where it is unsure whether that was executed, each
   * goes on by itself.
   *
   * @param {Work[]} ended
   * @param {Link} link
   */
  async #answer(ended, link) {
    try {
      await this.#settle(ended, link);
    } catch (error) {
      this.#fails('reply', error);
      for (const work of ended) void this.#answerAgain(work, link);
    }
  }

  /** Sends an answer again, if the hand still holds the element, however long that takes (SABIR-LOST-4). @param {Work} work @param {Link} link */
  async #answerAgain(work, link) {
    const { reply } = this.#links;
    for (const delay = backoff(); ;) {
      await pause(delay());
      try {
        if (!link.isOpen) await link.open(); // then the old connection has ended
        link = reply;
        const [hand] = await ask(reply, readHand(this.#place, this.worker));
        return holds(hand, work.element) ? await this.#settle([work], reply) : this.#release(work);
      } catch (error) {
        this.#fails('reply', error);
      }
    }
  }

  /** @param {Work[]} ended @param {Link} link */
  async #settle(ended, link) {
    if (!link.isOpen) await link.open();
    const commands = settle(this.#place, this.worker, ended.map(({ element, answer }) => ({ element, ...answer })));
    const done = (await link.send(commands)).at(-1);
    if (done instanceof Error) throw done; // an EXEC that is refused ends the transaction: a take behind it is none of it
    this.#works('reply');
    const refused = Array.isArray(done) && done.find((answer) => answer instanceof Error);
    if (refused) this.#warn(`Redis refused a part of an acknowledgement: ${refused.message}`);
    for (const work of ended) this.#release(work);
  }

  /** Says that the worker lives, every 3 s until it has nothing left (SABIR-LEASE-1), and recovers. @param {() => void} begun */
  async #beat(begun) {
    const { beat: link } = this.#links;
    const { signal } = this.#ending;
    let delay = backoff(1_000);
    for (let isFirst = true; !signal.aborted;) {
      try {
        await link.open();
        const sent = performance.now();
        const judges = this._steadiness.mayRecover(sent);
        const [seconds, microseconds, isLost, recovered, more] = await execute(link, heartbeat(this.#place, this.worker, judges));
        this.#clock.set([seconds, microseconds], sent);
        this._steadiness.answered(sent, isLost === 1);
        this.#works('beat');
        if (recovered) this.#warn(`recovered from workers that were lost: ${recovered}`);
        if (isFirst) {
          begun();
          void this.#checkEviction(link);
        } else if (isLost) {
          this.#epoch++;
          this.#warn('the lease had ended: what was not started is looked for in the hand again');
        }
        isFirst = false;
        delay = backoff(1_000);
        const due = sent + (more ? MORE_MS : HEARTBEAT_MS); // SABIR-RECOVER-9
        await pause(due - performance.now(), signal);
        const lateMs = performance.now() - due;
        if (lateMs > LATE_MS) this.#warn(`a heartbeat comes ${Math.round(lateMs)} ms late: what held the event loop cost the lease, or nearly`);
      } catch (error) {
        if (!signal.aborted && !this.#stopping.signal.aborted) this.#fails('beat', error);
        await pause(delay(), signal);
      }
    }
  }

  /** Warns of a Redis that may evict the queue (SABIR-TRANSPORT-5). @param {Link} link */
  async #checkEviction(link) {
    const [memory] = await link.send([['INFO', 'memory']]).catch(() => []);
    const policy = /^maxmemory_policy:(\S+)/m.exec(String(memory))?.[1] ?? 'noeviction';
    if (policy !== 'noeviction') this.#warn(`Redis may evict the queue: expected the maxmemory_policy noeviction, got ${policy}`);
  }

  /** When a lease that begins now ends, in ms of Redis's clock. */
  #leaseEnds() {
    return Math.floor(this.#clock.now()) + LEASE_MS;
  }

  async #leave() {
    this.#stopping.abort(); // SABIR-STOP-1
    this.#freed();
    await this.#start;
    const { take: taking, reply: link, beat } = this.#links;
    if (this.#taking) {
      const isDone = this.#taking.then(() => true);
      do { // again and again, as it may come before the take that it is to end
        if (taking.id) await ask(link, [['CLIENT', 'UNBLOCK', taking.id]]).catch(noop);
      } while (!(await Promise.race([isDone, pause(50)])));
      await this.#patiently('stop', async () => {
        await taking.open(); // a lost connection could still take
        for (const _ of await this.#unseen(link)) await ask(link, giveBack(this.#place, this.worker)); // SABIR-STOP-3
      });
    }
    while (this.#started.length) await new Promise((resolve) => (this.#freed = () => resolve(undefined))); // SABIR-STOP-2
    this.#ending.abort();
    if (!this.#taking) beat.close(); // it never served: there is nothing to wait for
    await this.#beating;
    beat.close();
    if (this.#taking) await this.#patiently('stop', async () => {
      await link.open();
      if (await execute(link, goodbye(this.#place, this.worker))) return; // SABIR-STOP-5
      this.#warn('stopped with something in the hand: it is left to be recovered');
    });
    taking.close();
    link.close();
  }

  /**
   * Does something that may be done again, until it works.
   *
   * @template T
   * @param {string} what
   * @param {() => Promise<T>} step
   */
  async #patiently(what, step) {
    for (const delay = backoff(); ; await pause(delay())) {
      try {
        const done = await step();
        this.#works(what);
        return done;
      } catch (error) {
        this.#fails(what, error);
      }
    }
  }

  /** @param {string} message */
  #warn(message) {
    this.#logger.warn(`sabir ${this.#place.service} ${this.worker}: ${message}`);
  }

  /** Logs what does not work, once. @param {string} what @param {unknown} error */
  #fails(what, error) {
    const why = describe(error)[1];
    if (this.#troubles.get(what) !== why) this.#warn(`cannot ${what}, trying on: ${why}`);
    this.#troubles.set(what, why);
  }

  /** @param {string} what */
  #works(what) {
    if (this.#troubles.delete(what)) this.#warn(`can ${what} again`);
  }
}

/** Sends commands, of which none may be refused. @param {Link} link @param {import('./commands.js').Command[]} commands */
async function ask(link, commands) {
  await link.open();
  const answers = await link.send(commands);
  const refused = answers.find((answer) => answer instanceof Error);
  if (refused) throw refused;
  return answers;
}

/**
 * Runs a script; a Redis that does not know it gets its text (SABIR-SCRIPT-1).
 *
 * @param {Link} link
 * @param {import('./commands.js').Command[]} script
 */
async function execute(link, [script]) {
  let [answer] = await link.send([script]);
  if (answer instanceof Error && answer.message.startsWith('NOSCRIPT')) [answer] = await link.send([inFull(script)]);
  if (answer instanceof Error) throw answer;
  return answer;
}

/** @param {unknown} value @returns {value is PromiseLike<unknown>} */
const isThenable = (value) => value !== null && (typeof value === 'object' || typeof value === 'function') && 'then' in value && typeof value.then === 'function';

/** About how many bytes it takes to answer an element. @param {Work} work */
const sizeOf = ({ element, answer: { reply, letter } }) => 400 + element.length + (reply ?? letter ?? '').length;

/** @param {Buffer[]} hand @param {string | Buffer} element */
const holds = (hand, element) => hand.some((held) => held.equals(Buffer.from(element)));

/** Promise.withResolvers, which Node 20 lacks. @returns {{ promise: Promise<void>, resolve: () => void }} */
function withResolvers() {
  let resolve = noop;
  const promise = /** @type {Promise<void>} */ (new Promise((given) => (resolve = () => given(undefined))));
  return { promise, resolve };
}

/** Describes what was thrown, whatever it is: its kind, its text, its trace. @param {unknown} thrown @returns {[string, string, string]} */
function describe(thrown) {
  try {
    if (!(thrown instanceof Error)) return [typeof thrown, String(thrown), ''];
    return [String(thrown.name), String(thrown.message), String(thrown.stack)];
  } catch {
    return ['unknown', 'what was thrown cannot be described', ''];
  }
}
