/** For an application's own tests: the same calls, checks and errors in one process, without a Redis. */
import { Client } from './client.js';
/** A client whose services are servers of this process, never started. Each request is written, read, run, and answered as over Redis. */
export declare class TestClient extends Client {
    #private;
    /** @type {any[]} the dead letters, read as JSON, the newest last */
    dead: any[];
    /**
     * @param {Record<string, import('./server.js').Server>} servers by the name of the service
     * @param {import('./client.js').ClientOptions} [options] `url` and `redis` are not used
     */
    constructor(servers: Record<string, import('./server.js').Server>, options?: import('./client.js').ClientOptions);
    /**
     * @override @protected
     * @param {import('./client.js').Inbox} inbox
     * @param {import('./client.js').Pending[]} requests
     * @param {(request: import('./client.js').Pending) => number | undefined} deadline
     */
    protected _push(inbox: import('./client.js').Inbox, requests: import('./client.js').Pending[], deadline: (request: import('./client.js').Pending) => number | undefined): Promise<boolean>;
    /** @override @protected @param {import('./client.js').Inbox} inbox */
    protected _read(inbox: import('./client.js').Inbox): Promise<void>;
    /** @override @protected @param {import('./keys.js').Place} place */
    protected _isServed(place: import('./keys.js').Place): Promise<boolean>;
}
