/**
 * Every Redis key, one function each, and the grammar of every name (section 3 of the specification).
 *
 * Pure. Nobody else spells a key.
 */

/**
 * @typedef {object} Place Where a service lives. Never changed.
 * @property {string} namespace the first part of every key
 * @property {string} service the service's name
 */

/** @typedef {keyof typeof GRAMMAR} Kind What a name names. */

const TOKEN = /^[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{1,63}$/;

const GRAMMAR = {
  namespace: /^[A-Za-z0-9_.-]{1,128}$/,
  service: /^[A-Za-z0-9_-]{1,128}$/,
  name: /^[A-Za-z0-9_-]{1,64}$/, // of a client or a worker: what stands before the dot of a token
  token: TOKEN,
  worker: TOKEN,
  id: /^[0-9a-f]{32}$/,
  method: /^[!-~]{1,128}$/,
};

/**
 * Tells whether a value is a name of this kind.
 *
 * @param {Kind} kind
 * @param {unknown} value
 * @returns {value is string}
 */
export function is(kind, value) {
  return typeof value === 'string' && GRAMMAR[kind].test(value);
}

/**
 * Returns a name as it is, or refuses it (SABIR-KEY-2).
 *
 * @param {Kind} kind
 * @param {unknown} value
 * @returns {string}
 * @throws {TypeError} it is no string
 * @throws {RangeError} it is outside the grammar
 */
export function check(kind, value) {
  if (typeof value !== 'string') throw new TypeError(`${kind}: expected a string, got ${typeof value}`);
  if (!is(kind, value)) throw new RangeError(`${kind}: expected ${GRAMMAR[kind].source}, got ${JSON.stringify(value)}`);
  return value;
}

/** What all keys of a place begin with: its names are checked once. @type {WeakMap<Place, string>} */
const prefixes = new WeakMap();

/** @param {Place} place @param {string} rest */
function key(place, rest) {
  let prefix = prefixes.get(place);
  if (prefix === undefined) {
    prefix = `${check('namespace', place.namespace)}:{${check('service', place.service)}}:`;
    prefixes.set(place, prefix);
  }
  return prefix + rest;
}

/** The list of waiting elements. @param {Place} place */
export const requests = (place) => key(place, 'requests');

/** A worker's hand. @param {Place} place @param {string} worker */
export const active = (place, worker) => key(place, `active:${check('worker', worker)}`);

/** The list of replies to one token (SABIR-TOKEN-2). @param {Place} place @param {string} token */
export const reply = (place, token) => key(place, `reply:${check('token', token)}`);

/** Exists while at least one worker serves. @param {Place} place */
export const alive = (place) => key(place, 'alive');

/** The sorted set of the workers' leases. @param {Place} place */
export const leases = (place) => key(place, 'leases');

/** The list of dead letters. @param {Place} place */
export const dead = (place) => key(place, 'dead');

/** How many deliveries of a request were lost with their worker. @param {Place} place @param {string} id */
export const attempts = (place, id) => key(place, `attempts:${check('id', id)}`);
