/** The lines that a contestant in Node speaks with the runner: see ../README.md. */

import { createInterface } from 'node:readline';

/**
 * @typedef {object} Place What the runner tells a contestant.
 * @property {string} redis
 * @property {string | null} nats
 * @property {number} port
 * @property {string} service
 * @property {number} wait_ms
 * @property {number} concurrency
 */

export const [, , ROLE] = process.argv;
/** @type {Place} */
export const PLACE = JSON.parse(process.argv[3]);
/** How long a call may take, in ms. */
export const TIMEOUT_MS = 30_000;
/** How long the handler of a call that is to time out waits, in ms; the call's own time-out is half of it. */
export const SLOW_MS = 40;

/** One order of the runner: when to stop, and what came of it. */
class Tally {
  #timeOuts;
  #left;
  #keeps;
  /** @type {number[]} The time of each call, in ms; where memory is measured it would be our own. */
  #took = [];
  #answered = 0;
  #timedOut = 0;
  #wrong = 0;
  #began = performance.now();
  #ends;

  /** @param {{ in_flight: number, bytes: number, seconds?: number, calls?: number, time_outs?: number }} order */
  constructor(order) {
    this.inFlight = order.in_flight;
    this.text = 'x'.repeat(order.bytes);
    this.#timeOuts = order.time_outs ?? 0;
    this.#left = order.calls ?? Number.MAX_SAFE_INTEGER;
    this.#keeps = order.seconds !== undefined;
    this.#ends = this.#began + (order.seconds ?? 1e6) * 1e3;
  }

  /** Gives one for each call of a lane, until it is time to stop; true where the call is to time out. */
  *turns() {
    while (this.#left > 0 && performance.now() < this.#ends) {
      this.#left--;
      yield this.#timeOuts > 0 && this.#left % this.#timeOuts === 0;
    }
  }

  /** Counts a call that has ended with a result. @param {number} begin by `performance.now()` @param {unknown} result */
  took(begin, result) {
    this.#answered++;
    if (this.#keeps) this.#took.push(performance.now() - begin);
    if (result !== this.text) this.#wrong++;
  }

  timedOut() {
    this.#timedOut++;
  }

  told() {
    const seconds = (performance.now() - this.#began) / 1e3;
    const took = Float64Array.from(this.#took).sort();
    const [p50, p99] = [0.5, 0.99].map((share) => (took.length ? took[Math.floor(took.length * share)] * 1e3 : null));
    const calls = this.#answered + this.#timedOut;
    return JSON.stringify({ calls, seconds, p50_us: p50, p99_us: p99, timed_out: this.#timedOut, wrong: this.#wrong });
  }
}

/** To be called when the worker serves, or the client has had its first answer. */
export const ready = () => console.log('ready');

/** Waits, if there is anything to wait for. @param {number} ms @returns {Promise<void> | undefined} */
export const pause = (ms) => (ms ? new Promise((resolve) => setTimeout(resolve, ms)) : undefined);

/** Ends this process when the runner closes its input, whatever else it is doing. */
export const untilTheEnd = () => process.stdin.on('end', () => process.exit()).resume();

/**
 * A client: carries out the runner's orders.
 *
 * @param {(text: string, inFlight: number) => Promise<unknown>} call returns what it was given, from the worker
 * @param {() => Promise<void>} [late] makes a call that times out
 */
export async function orders(call, late) {
  await call('x'.repeat(100), 1);
  const lines = createInterface({ input: process.stdin });
  ready();
  for await (const line of lines) {
    const tally = new Tally(JSON.parse(line));
    const lane = async () => {
      for (const timesOut of tally.turns()) {
        if (timesOut) {
          await late?.();
          tally.timedOut();
        } else {
          const begin = performance.now();
          tally.took(begin, await call(tally.text, tally.inFlight));
        }
      }
    };
    await Promise.all(Array.from({ length: tally.inFlight }, lane));
    console.log(tally.told());
  }
  process.exit();
}
