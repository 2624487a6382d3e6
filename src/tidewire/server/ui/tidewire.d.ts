// The declarations of tidewire.js. `tidewire types app:app --typescript` writes those of an application's messages.

export interface Position { offset: number; epoch: string }
export interface Member { client: string; user: string; connInfo?: any; chanInfo?: any }
export interface Publication<T = any> { channel: string; data: T; offset?: number; info?: Member; tags?: Record<string, string> }
/** `wasRecovering` is false after a call of `getState`, whose state is fresh. */
export interface Subscribed { channel: string; wasRecovering: boolean; recovered: boolean; position?: Position; data?: any }
export interface Ending { code: number; reason: string }

export interface Options {
  /** Says who connects. */
  token?: string;
  /** Fetches a token: at first, and before one ends; "" ends it all. */
  getToken?: () => string | Promise<string>;
  /** Goes to the server with each connect. */
  data?: any;
  /** The application's name, for the server's statistics. */
  name?: string;
  /** Milliseconds for an answer. */
  timeout?: number;
  /** Where there is none, as in Node 20. */
  WebSocket?: typeof globalThis.WebSocket;
}

export interface ChannelOptions {
  /** Lets a client into a private channel. */
  token?: string;
  /** Fetches such a token. */
  getToken?: (channel: string) => string | Promise<string>;
  /** Goes to the server with each subscribe. */
  data?: any;
  /** Publications after this position come first. */
  since?: Position;
  /** Loads the application's state, and returns the position from which to go on: at first, and whenever missed
   * publications cannot be recovered. */
  getState?: (channel: string, signal: AbortSignal) => Position | Promise<Position>;
  /** Ask for the publications that were missed while away; the server may decide so by itself. */
  recoverable?: boolean;
  /** Joins and leaves of others are asked for. */
  joinLeave?: boolean;
}

export interface PollOptions extends ChannelOptions {
  /** Signs keys, and leaves out those that this user may not track. */
  getSignature?: (keys: string[]) => Promise<{ keys: string[]; signature: string }>;
}

export interface HistoryOptions { limit?: number; since?: Position; reverse?: boolean }
export interface History<T = any> { publications: Publication<T>[]; position: Position }

export interface ClientEvents {
  connecting: Ending;
  connected: { client: string; data?: any };
  disconnected: Ending;
  error: TidewireError;
  message: { data: any };
  publication: Publication;
  join: Member & { channel: string };
  leave: Member & { channel: string };
  subscribed: Subscribed;
  unsubscribed: Ending & { channel: string };
}

export interface SubscriptionEvents<T = any> {
  publication: Publication<T>;
  subscribed: Subscribed;
  unsubscribed: Ending;
  join: Member;
  leave: Member;
  error: TidewireError;
}

export interface EntryMapEvents<T = any> extends SubscriptionEvents {
  /** All entries, and the keys of those that changed. */
  change: { entries: Map<string, T>; keys: string[] };
}

export interface PolledValuesEvents<T = any> extends SubscriptionEvents {
  /** All values, and the keys of those that changed. */
  change: { values: Map<string, T>; keys: string[] };
}

/** A refusal of the server: `code` is a number of the protocol (below 100: never answered). */
export class TidewireError extends Error {
  constructor(code: number, message: string, temporary?: boolean);
  code: number;
  temporary: boolean;
}

/** One connection, which comes back by itself. */
export class Client {
  constructor(url?: string, options?: Options);
  readonly state: "disconnected" | "connecting" | "connected";
  /** The connection's id while it is connected. */
  readonly id: string | null;
  /** Listen; returns a function that stops it. */
  on<E extends keyof ClientEvents>(event: E, listener: (value: ClientEvents[E]) => void): () => void;
  connect(): void;
  disconnect(): void;
  subscribe<T = any>(channel: string, listener?: (publication: Publication<T>) => void, options?: ChannelOptions): Subscription<T>;
  /** Subscribe to a channel that is a map. */
  map<T = any>(channel: string, listener?: (entries: Map<string, T>, keys: string[]) => void, options?: ChannelOptions): EntryMap<T>;
  /** Track keys of a channel's polled values. */
  poll<T = any>(channel: string, keys: string[], listener?: (values: Map<string, T>, keys: string[]) => void, options?: PollOptions): PolledValues<T>;
  publish(channel: string, data: any): Promise<void>;
  presence(channel: string): Promise<Member[]>;
  presenceStats(channel: string): Promise<{ clients: number; users: number }>;
  history<T = any>(channel: string, options?: HistoryOptions): Promise<History<T>>;
  rpc<T = any>(method: string, data?: any): Promise<T>;
  send(data: any): Promise<void>;
  /** Wait until it is connected. */
  ready(): Promise<void>;
}

/** One channel. */
export class Subscription<T = any> {
  protected constructor();
  readonly channel: string;
  readonly state: "subscribing" | "subscribed" | "unsubscribed";
  /** Where the channel was left: give it to another `subscribe` as `since`. */
  readonly position: Position | null;
  /** Listen; returns a function that stops it. */
  on<E extends keyof SubscriptionEvents>(event: E, listener: (value: SubscriptionEvents<T>[E]) => void): () => void;
  unsubscribe(): void;
  publish(data: any): Promise<void>;
  presence(): Promise<Member[]>;
  presenceStats(): Promise<{ clients: number; users: number }>;
  history(options?: HistoryOptions): Promise<History<T>>;
}

/** A channel that is a map. */
export class EntryMap<T = any> extends Subscription {
  protected constructor();
  readonly entries: Map<string, T>;
  on<E extends keyof EntryMapEvents>(event: E, listener: (value: EntryMapEvents<T>[E]) => void): () => void;
  set(key: string, value: T): Promise<void>;
  remove(key: string): Promise<void>;
}

/** Polled values of a channel. */
export class PolledValues<T = any> extends Subscription {
  protected constructor();
  readonly values: Map<string, T>;
  on<E extends keyof PolledValuesEvents>(event: E, listener: (value: PolledValuesEvents<T>[E]) => void): () => void;
  track(keys: string[]): void;
  untrack(keys: string[]): void;
}

/** A text that a server writes into a channel, as far as it has grown. */
export interface GrowingText { stream: string; text: string; end: "" | "done" | "stopped" | "aborted" }

/** Read the texts that a server writes into a channel (`hub.stream`). */
export function readTexts(
  subscription: { on(event: any, listener: any): any; history(options: any): Promise<any>; state: string },
  listener: (text: GrowingText) => void,
): void;

/** Make a client that connects at once. `url` may be relative to the page. */
export function connect(url?: string, options?: Options): Client;
/** Milliseconds before an attempt (0: the first after a loss). */
export function delay(attempt: number, random?: () => number, seen?: boolean): number;
/** Whether a code of the server ends a client for good. */
export function isFinal(code: number): boolean;
