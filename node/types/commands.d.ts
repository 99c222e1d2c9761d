/**
 * The Redis commands of each step, as data: arrays of arrays of arguments (sections 9 to 14 of the specification).
 *
 * Pure. Times are in ms; the commands of one step go out in one write.
 */
export type Place = import('./keys.js').Place;
export type Argument = string | Buffer;
export type Command = Argument[];
/** @typedef {import('./keys.js').Place} Place */
/** @typedef {string | Buffer} Argument */
/** @typedef {Argument[]} Command */
export declare const REPLY_EXPIRES_MS = 60000;
export declare const LEASE_MS = 10000;
export declare const HEARTBEAT_MS = 3000;
export declare const TAKE_MS = 2000;
export declare const DEAD_LETTERS = 1000;
/** Appends requests to the queue (SABIR-CALL-1). @param {Place} place @param {Argument[]} elements @returns {Command[]} */
export declare const push: (place: Place, elements: Argument[]) => Command[];
/** Waits for a reply. @param {Place} place @param {string} token @param {number} blockMs @returns {Command[]} */
export declare const wait: (place: Place, token: string, blockMs: number) => Command[];
/**
 * Reads what has gathered behind a reply, without waiting.
 *
 * @param {Place} place @param {string} token @param {number} count @returns {Command[]}
 */
export declare const drain: (place: Place, token: string, count: number) => Command[];
/** Asks for Redis's time. @returns {Command[]} */
export declare const clock: () => Command[];
/**
 * Says that the worker lives (section 10).
 *
 * @param {Place} place @param {string} worker @param {number} leaseEnds ms of Redis's clock @returns {Command[]}
 */
export declare const heartbeat: (place: Place, worker: string, leaseEnds: number) => Command[];
/**
 * Takes one element, waiting for it, the lease renewed in front (SABIR-WORKER-2, SABIR-LEASE-2).
 *
 * @param {Place} place @param {string} worker @param {number} leaseEnds ms of Redis's clock @param {number} blockMs
 * @returns {Command[]}
 */
export declare const take: (place: Place, worker: string, leaseEnds: number, blockMs: number) => Command[];
/** Takes one more element, if there is one. @param {Place} place @param {string} worker @returns {Command[]} */
export declare const takeMore: (place: Place, worker: string) => Command[];
/**
 * Removes an element, the bytes as they were read, from the hand (SABIR-TRANSPORT-4).
 *
 * @param {Place} place @param {string} worker @param {Argument} element @returns {Command[]}
 */
export declare const acknowledge: (place: Place, worker: string, element: Argument) => Command[];
/**
 * Answers and acknowledges, together or not at all (SABIR-REPLY-3).
 *
 * @param {Place} place @param {string} worker @param {string} token @param {Argument} reply @param {Argument} element
 * @returns {Command[]}
 */
export declare function reply(place: Place, worker: string, token: string, reply: Argument, element: Argument): Command[];
/**
 * Keeps a dead letter and acknowledges its element (SABIR-DEAD-3).
 *
 * @param {Place} place @param {string} worker @param {Argument} letter @param {Argument} element @returns {Command[]}
 */
export declare function bury(place: Place, worker: string, letter: Argument, element: Argument): Command[];
/** Reads the hand (SABIR-LOST-3). @param {Place} place @param {string} worker @returns {Command[]} */
export declare const readHand: (place: Place, worker: string) => Command[];
/** Gives the last element of the hand back (SABIR-STOP-3). @param {Place} place @param {string} worker @returns {Command[]} */
export declare const giveBack: (place: Place, worker: string) => Command[];
/** Ends the lease (SABIR-STOP-4). @param {Place} place @param {string} worker @returns {Command[]} */
export declare const goodbye: (place: Place, worker: string) => Command[];
