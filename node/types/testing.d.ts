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
    /** @override @protected @param {import('./keys.js').Place} place @param {import('./client.js').Batch} batch */
    protected _push(place: import('./keys.js').Place, batch: import('./client.js').Batch): Promise<boolean>;
    /** @override @protected @param {import('./keys.js').Place} _ @param {import('./client.js').Inbox} inbox */
    protected _read(_: import('./keys.js').Place, inbox: import('./client.js').Inbox): Promise<void>;
    /** @override @protected @param {import('./keys.js').Place} place */
    protected _isServed(place: import('./keys.js').Place): Promise<boolean>;
}
