/**
 * The Redis commands of each step, as data: arrays of arrays of arguments (sections 9 to 14 and 16 of the specification).
 *
 * Pure. Times are in ms; the commands of one step go out in one write.
 */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
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

/** Reads a script of the protocol, and the digest that Redis knows it by. @param {string} name */
function load(name) {
  const text = readFileSync(new URL(`./scripts/${name}.lua`, import.meta.url), 'utf8');
  return { text, digest: createHash('sha1').update(text).digest('hex') };
}

const HEARTBEAT = load('heartbeat');
const GOODBYE = load('goodbye');

/** @param {typeof HEARTBEAT} script @param {string[]} keys @param {string[]} args @returns {Command[]} */
const evaluate = ({ digest }, keys, args) => [['EVALSHA', digest, String(keys.length), ...keys, ...args]];

/**
 * Makes the same of an EVALSHA with the script's text, for a Redis that does not know it (SABIR-SCRIPT-1).
 *
 * @param {Command} command @returns {Command}
 */
export const inFull = ([, digest, ...rest]) => ['EVAL', (digest === GOODBYE.digest ? GOODBYE : HEARTBEAT).text, ...rest];

/** @param {Command[]} commands @returns {Command[]} */
const transaction = (...commands) => [['MULTI'], ...commands, ['EXEC']];

/** Appends requests to the queue (SABIR-CALL-1). @param {Place} place @param {Argument[]} elements @returns {Command[]} */
export const push = (place, elements) => [['RPUSH', keys.requests(place), ...elements]];

/**
 * Waits for a reply: a look that leaves it where it is (SABIR-WAIT-1).
 *
 * @param {Place} place @param {string} token @param {number} blockMs @returns {Command[]}
 */
export function wait(place, token, blockMs) {
  const key = keys.reply(place, token);
  return [['BLMOVE', key, key, 'LEFT', 'LEFT', seconds(blockMs)]];
}

/** Reads the replies behind the first, without waiting. @param {Place} place @param {string} token @param {number} count @returns {Command[]} */
export const drain = (place, token, count) => [['LRANGE', keys.reply(place, token), '1', String(count)]];

/** Removes all replies to a token (SABIR-WAIT-2). @param {Place} place @param {string} token @returns {Command[]} */
export const forget = (place, token) => [['DEL', keys.reply(place, token)]];

/** Removes one reply that was read. @param {Place} place @param {string} token @param {Argument} reply @returns {Command[]} */
export const forgetOne = (place, token, reply) => [['LREM', keys.reply(place, token), '1', reply]];

/** Removes the first replies, which were read. @param {Place} place @param {string} token @param {number} count @returns {Command[]} */
export const forgetFirst = (place, token, count) => [['LTRIM', keys.reply(place, token), String(count), '-1']];

/** Asks whether anybody serves (SABIR-ALIVE-1). @param {Place} place @returns {Command[]} */
export const askAlive = (place) => [['EXISTS', keys.alive(place)]];

/** @param {Place} place @param {Argument} element */
const removeRequest = (place, element) => ['LREM', keys.requests(place), '-1', element];

/** @param {Place} place @param {string} id */
const askDelivered = (place, id) => ['EXISTS', keys.attempts(place, id)];

/**
 * Takes a request out of the queue again (SABIR-ALIVE-2, SABIR-QUEUE-1).
 *
 * @param {Place} place @param {Argument} element
 * @param {string} [id] of an idempotent request: whether it was delivered before is asked behind; undefined: any other
 * @returns {Command[]}
 */
export const takeBack = (place, element, id) => [removeRequest(place, element), ...(id === undefined ? [] : [askDelivered(place, id)])];

/** Begins to judge: does anybody serve, and how long is the queue (SABIR-ALIVE-4)? @param {Place} place @returns {Command[]} */
export const lookAlive = (place) => [['WATCH', keys.alive(place)], ...askAlive(place), ['LLEN', keys.requests(place)]];

/** Ends a look that found somebody. @returns {Command[]} */
export const unwatch = () => [['UNWATCH']];

/**
 * Takes back all calls that wait, unless somebody serves again, and reads all replies (SABIR-ALIVE-4).
 *
 * @param {Place} place @param {string} token @param {{ id: string, element: Argument }[]} calls
 * @param {boolean} searches whether the queue is short enough to be searched
 * @returns {Command[]}
 */
export const judge = (place, token, calls, searches) => transaction(
  ...calls.flatMap(({ id, element }) => [...(searches ? [removeRequest(place, element)] : []), askDelivered(place, id)]),
  ['LRANGE', keys.reply(place, token), '0', '-1'],
);

/** Asks for Redis's time. @returns {Command[]} */
export const clock = () => [['TIME']];

/** @param {Place} place @param {string} worker @param {number} leaseEnds */
const lease = (place, worker, leaseEnds) => ['ZADD', keys.leases(place), String(leaseEnds), worker];

/**
 * Says that the worker lives, and recovers what others left behind (SABIR-RECOVER-1).
 *
 * @param {Place} place @param {string} worker @param {boolean} judges whether it may recover @returns {Command[]}
 */
export const heartbeat = (place, worker, judges) =>
  evaluate(HEARTBEAT, [keys.requests(place), keys.leases(place), keys.alive(place), keys.dead(place)], [worker, judges ? '1' : '0']);

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
 * Answers, keeps as dead letters, and acknowledges, together or not at all (SABIR-REPLY-3, SABIR-DEAD-3): replies to one token in one
 * RPUSH. One element that has neither reply nor letter needs no transaction.
 *
 * @param {Place} place @param {string} worker
 * @param {{ element: Argument, token?: string, reply?: Argument, letter?: Argument }[]} ended
 * @returns {Command[]}
 */
export function settle(place, worker, ended) {
  /** @type {Map<string, Command>} by token */
  const replies = new Map();
  /** @type {Argument[]} */
  const letters = [];
  const active = keys.active(place, worker);
  for (const { token, reply, letter } of ended) {
    if (letter !== undefined) letters.push(letter);
    if (token === undefined || reply === undefined) continue;
    const pushed = replies.get(token);
    if (pushed) pushed.push(reply);
    else replies.set(token, ['RPUSH', keys.reply(place, token), reply]);
  }
  /** @type {Command[]} */
  const commands = [];
  for (const pushed of replies.values()) commands.push(pushed, ['PEXPIRE', pushed[1], String(REPLY_EXPIRES_MS)]);
  if (letters.length) {
    const key = keys.dead(place);
    commands.push(['RPUSH', key, ...letters], ['LTRIM', key, String(-DEAD_LETTERS), '-1']);
  }
  for (const { element } of ended) commands.push(['LREM', active, '1', element]);
  return commands.length > 1 ? transaction(...commands) : commands;
}

/**
 * Answers one element. @see settle
 *
 * @param {Place} place @param {string} worker @param {string} token @param {Argument} reply @param {Argument} element
 * @returns {Command[]}
 */
export const reply = (place, worker, token, reply, element) => settle(place, worker, [{ element, token, reply }]);

/**
 * Keeps one dead letter. @see settle
 *
 * @param {Place} place @param {string} worker @param {Argument} letter @param {Argument} element @returns {Command[]}
 */
export const bury = (place, worker, letter, element) => settle(place, worker, [{ element, letter }]);

/** Reads the hand (SABIR-LOST-3). @param {Place} place @param {string} worker @returns {Command[]} */
export const readHand = (place, worker) => [['LRANGE', keys.active(place, worker), '0', '-1']];

/** Gives the last element of the hand back (SABIR-STOP-3). @param {Place} place @param {string} worker @returns {Command[]} */
export const giveBack = (place, worker) => [['LMOVE', keys.active(place, worker), keys.requests(place), 'RIGHT', 'LEFT']];

/** Asks how often a request was delivered before (SABIR-ATTEMPT-1). @param {Place} place @param {string} id @returns {Command[]} */
export const askAttempts = (place, id) => [['GET', keys.attempts(place, id)]];

/** Ends the lease, if the hand is empty (SABIR-STOP-5). @param {Place} place @param {string} worker @returns {Command[]} */
export const goodbye = (place, worker) =>
  evaluate(GOODBYE, [keys.leases(place), keys.alive(place), keys.active(place, worker)], [worker]);
