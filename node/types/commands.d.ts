/**
 * The Redis commands of each step, as data: arrays of arrays of arguments (sections 9 to 14 and 16 of the specification).
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
/**
 * Makes the same of an EVALSHA with the script's text, for a Redis that does not know it (SABIR-SCRIPT-1).
 *
 * @param {Command} command @returns {Command}
 */
export declare const inFull: ([, digest, ...rest]: Command) => Command;
/** Appends requests to the queue (SABIR-CALL-1). @param {Place} place @param {Argument[]} elements @returns {Command[]} */
export declare const push: (place: Place, elements: Argument[]) => Command[];
/**
 * Waits for a reply: a look that leaves it where it is (SABIR-WAIT-1).
 *
 * @param {Place} place @param {string} token @param {number} blockMs @returns {Command[]}
 */
export declare function wait(place: Place, token: string, blockMs: number): Command[];
/** Reads the replies behind the first, without waiting. @param {Place} place @param {string} token @param {number} count @returns {Command[]} */
export declare const drain: (place: Place, token: string, count: number) => Command[];
/** Removes all replies to a token (SABIR-WAIT-2). @param {Place} place @param {string} token @returns {Command[]} */
export declare const forget: (place: Place, token: string) => Command[];
/** Removes one reply that was read. @param {Place} place @param {string} token @param {Argument} reply @returns {Command[]} */
export declare const forgetOne: (place: Place, token: string, reply: Argument) => Command[];
/** Removes the first replies, which were read. @param {Place} place @param {string} token @param {number} count @returns {Command[]} */
export declare const forgetFirst: (place: Place, token: string, count: number) => Command[];
/** Asks whether anybody serves (SABIR-ALIVE-1). @param {Place} place @returns {Command[]} */
export declare const askAlive: (place: Place) => Command[];
/**
 * Takes a request out of the queue again (SABIR-ALIVE-2, SABIR-QUEUE-1).
 *
 * @param {Place} place @param {Argument} element
 * @param {string} [id] of an idempotent request: whether it was delivered before is asked behind; undefined: any other
 * @returns {Command[]}
 */
export declare const takeBack: (place: Place, element: Argument, id?: string) => Command[];
/** Begins to judge: does anybody serve, and how long is the queue (SABIR-ALIVE-4)? @param {Place} place @returns {Command[]} */
export declare const lookAlive: (place: Place) => Command[];
/** Ends a look that found somebody. @returns {Command[]} */
export declare const unwatch: () => Command[];
/**
 * Takes back all calls that wait, unless somebody serves again, and reads all replies (SABIR-ALIVE-4).
 *
 * @param {Place} place @param {string} token @param {{ id: string, element: Argument }[]} calls
 * @param {boolean} searches whether the queue is short enough to be searched
 * @returns {Command[]}
 */
export declare const judge: (place: Place, token: string, calls: {
    id: string;
    element: Argument;
}[], searches: boolean) => Command[];
/** Asks for Redis's time. @returns {Command[]} */
export declare const clock: () => Command[];
/**
 * Says that the worker lives, and recovers what others left behind (SABIR-RECOVER-1).
 *
 * @param {Place} place @param {string} worker @param {boolean} judges whether it may recover @returns {Command[]}
 */
export declare const heartbeat: (place: Place, worker: string, judges: boolean) => Command[];
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
 * Answers, keeps as dead letters, and acknowledges, together or not at all (SABIR-REPLY-3, SABIR-DEAD-3): replies to one token in one
 * RPUSH. One element that has neither reply nor letter needs no transaction.
 *
 * @param {Place} place @param {string} worker
 * @param {{ element: Argument, token?: string, reply?: Argument, letter?: Argument }[]} ended
 * @returns {Command[]}
 */
export declare function settle(place: Place, worker: string, ended: {
    element: Argument;
    token?: string;
    reply?: Argument;
    letter?: Argument;
}[]): Command[];
/**
 * Answers one element. @see settle
 *
 * @param {Place} place @param {string} worker @param {string} token @param {Argument} reply @param {Argument} element
 * @returns {Command[]}
 */
export declare const reply: (place: Place, worker: string, token: string, reply: Argument, element: Argument) => Command[];
/**
 * Keeps one dead letter. @see settle
 *
 * @param {Place} place @param {string} worker @param {Argument} letter @param {Argument} element @returns {Command[]}
 */
export declare const bury: (place: Place, worker: string, letter: Argument, element: Argument) => Command[];
/** Reads the hand (SABIR-LOST-3). @param {Place} place @param {string} worker @returns {Command[]} */
export declare const readHand: (place: Place, worker: string) => Command[];
/** Gives the last element of the hand back (SABIR-STOP-3). @param {Place} place @param {string} worker @returns {Command[]} */
export declare const giveBack: (place: Place, worker: string) => Command[];
/** Asks how often a request was delivered before (SABIR-ATTEMPT-1). @param {Place} place @param {string} id @returns {Command[]} */
export declare const askAttempts: (place: Place, id: string) => Command[];
/** Ends the lease, if the hand is empty (SABIR-STOP-5). @param {Place} place @param {string} worker @returns {Command[]} */
export declare const goodbye: (place: Place, worker: string) => Command[];
