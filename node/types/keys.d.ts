/**
 * Every Redis key, one function each, and the grammar of every name (section 3 of the specification).
 *
 * Pure. Nobody else spells a key.
 */
export type Place = {
    /**
     * the first part of every key
     */
    namespace: string;
    /**
     * the service's name
     */
    service: string;
};
export type Kind = keyof typeof GRAMMAR;
declare const GRAMMAR: {
    namespace: RegExp;
    service: RegExp;
    name: RegExp;
    token: RegExp;
    worker: RegExp;
    id: RegExp;
    method: RegExp;
};
/**
 * Tells whether a value is a name of this kind.
 *
 * @param {Kind} kind
 * @param {unknown} value
 * @returns {value is string}
 */
export declare function is(kind: Kind, value: unknown): value is string;
/**
 * Returns a name as it is, or refuses it (SABIR-KEY-2).
 *
 * @param {Kind} kind
 * @param {unknown} value
 * @returns {string}
 * @throws {TypeError} it is no string
 * @throws {RangeError} it is outside the grammar
 */
export declare function check(kind: Kind, value: unknown): string;
/** The list of waiting elements. @param {Place} place */
export declare const requests: (place: Place) => string;
/** A worker's hand. @param {Place} place @param {string} worker */
export declare const active: (place: Place, worker: string) => string;
/** The list of replies to one token (SABIR-TOKEN-2). @param {Place} place @param {string} token */
export declare const reply: (place: Place, token: string) => string;
/** Exists while at least one worker serves. @param {Place} place */
export declare const alive: (place: Place) => string;
/** The sorted set of the workers' leases. @param {Place} place */
export declare const leases: (place: Place) => string;
/** The list of dead letters. @param {Place} place */
export declare const dead: (place: Place) => string;
/** How many deliveries of a request were lost with their worker. @param {Place} place @param {string} id */
export declare const attempts: (place: Place, id: string) => string;
export {};
