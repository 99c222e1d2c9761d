/**
 * The Redis commands of each step, as data: arrays of arrays of arguments (sections 9 to 14 of the specification).
 *
 * Pure. Times are in ms; the commands of one step go out in one write.
 */

import * as keys from './keys.js';

/** @typedef {import('./keys.js').Place} Place */
/** @typedef {string | Buffer} Argument */
/** @typedef {Argument[]} Command */

export const REPLY_EXPIRES_MS = 60_000;
export const LEASE_MS = 10_000;
export const HEARTBEAT_MS = 3_000;
export const TAKE_MS = 2_000;
export const DEAD_LETTERS = 1_000;

/**
 * Writes a block time in seconds, as Redis wants it; zero would be "for ever" (SABIR-TRANSPORT-1).
 *
 * @param {number} ms
 */
function seconds(ms) {
  if (!(ms >= 1)) throw new RangeError(`block time: expected at least 1 ms, got ${ms}`);
  return String(ms / 1000);
}

/** @param {Command[]} commands @returns {Command[]} */
const transaction = (...commands) => [['MULTI'], ...commands, ['EXEC']];

/** Appends requests to the queue (SABIR-CALL-1). @param {Place} place @param {Argument[]} elements @returns {Command[]} */
export const push = (place, elements) => [['RPUSH', keys.requests(place), ...elements]];

/** Waits for a reply. @param {Place} place @param {string} token @param {number} blockMs @returns {Command[]} */
export const wait = (place, token, blockMs) => [['BLPOP', keys.reply(place, token), seconds(blockMs)]];

/**
 * Reads what has gathered behind a reply, without waiting.
 *
 * @param {Place} place @param {string} token @param {number} count @returns {Command[]}
 */
export const drain = (place, token, count) => [['LPOP', keys.reply(place, token), String(count)]];

/** Asks for Redis's time. @returns {Command[]} */
export const clock = () => [['TIME']];

/** @param {Place} place @param {string} worker @param {number} leaseEnds */
const lease = (place, worker, leaseEnds) => ['ZADD', keys.leases(place), String(leaseEnds), worker];

/**
 * Says that the worker lives (section 10).
 *
 * @param {Place} place @param {string} worker @param {number} leaseEnds ms of Redis's clock @returns {Command[]}
 */
export const heartbeat = (place, worker, leaseEnds) =>
  transaction(['TIME'], lease(place, worker, leaseEnds), ['SET', keys.alive(place), '1', 'PX', String(LEASE_MS)]);

/**
 * Takes one element, waiting for it, the lease renewed in front (SABIR-WORKER-2, SABIR-LEASE-2).
 *
 * @param {Place} place @param {string} worker @param {number} leaseEnds ms of Redis's clock @param {number} blockMs
 * @returns {Command[]}
 */
export const take = (place, worker, leaseEnds, blockMs) => [
  lease(place, worker, leaseEnds),
  ['BLMOVE', keys.requests(place), keys.active(place, worker), 'LEFT', 'RIGHT', seconds(blockMs)],
];

/** Takes one more element, if there is one. @param {Place} place @param {string} worker @returns {Command[]} */
export const takeMore = (place, worker) => [['LMOVE', keys.requests(place), keys.active(place, worker), 'LEFT', 'RIGHT']];

/**
 * Removes an element, the bytes as they were read, from the hand (SABIR-TRANSPORT-4).
 *
 * @param {Place} place @param {string} worker @param {Argument} element @returns {Command[]}
 */
export const acknowledge = (place, worker, element) => [['LREM', keys.active(place, worker), '1', element]];

/**
 * Answers and acknowledges, together or not at all (SABIR-REPLY-3).
 *
 * @param {Place} place @param {string} worker @param {string} token @param {Argument} reply @param {Argument} element
 * @returns {Command[]}
 */
export function reply(place, worker, token, reply, element) {
  const key = keys.reply(place, token);
  return transaction(['RPUSH', key, reply], ['PEXPIRE', key, String(REPLY_EXPIRES_MS)], ...acknowledge(place, worker, element));
}

/**
 * Keeps a dead letter and acknowledges its element (SABIR-DEAD-3).
 *
 * @param {Place} place @param {string} worker @param {Argument} letter @param {Argument} element @returns {Command[]}
 */
export function bury(place, worker, letter, element) {
  const key = keys.dead(place);
  return transaction(['RPUSH', key, letter], ['LTRIM', key, String(-DEAD_LETTERS), '-1'], ...acknowledge(place, worker, element));
}

/** Reads the hand (SABIR-LOST-3). @param {Place} place @param {string} worker @returns {Command[]} */
export const readHand = (place, worker) => [['LRANGE', keys.active(place, worker), '0', '-1']];

/** Gives the last element of the hand back (SABIR-STOP-3). @param {Place} place @param {string} worker @returns {Command[]} */
export const giveBack = (place, worker) => [['LMOVE', keys.active(place, worker), keys.requests(place), 'RIGHT', 'LEFT']];

/** Ends the lease (SABIR-STOP-4). @param {Place} place @param {string} worker @returns {Command[]} */
export const goodbye = (place, worker) => [['ZREM', keys.leases(place), worker]];
