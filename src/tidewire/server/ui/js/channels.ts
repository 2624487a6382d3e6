// Written by `tidewire types`; change the models of the application, and write it again.

/** Earlier messages, oldest first, after joining. */
export interface ShownHistory {
  type: "history";
  epoch: string;
  recovered?: boolean;
  room?: string;
  messages: Array<ShownMessage | System | ShownForeign>;
}

/** A message that a user has published in a room. */
export interface ShownMessage {
  type: "chat_message";
  sender: string;
  content: string;
  id?: string | number | null;
  room?: string;
  timestamp: string;
  offset: number;
}

/** A notice of the server. */
export interface System {
  type: "system";
  content: string;
  timestamp?: string | null;
  id?: string | number | null;
  room?: string;
}

/** Something else that was published in a room; `data` is a text, or JSON. */
export interface ShownForeign {
  type: "publication";
  timestamp: string;
  offset: number;
  room?: string;
  data: unknown;
}

/** Private messages that were missed, and the position from which the inbox is live. */
export interface ShownInbox {
  type: "inbox";
  offset: number;
  epoch: string;
  recovered?: boolean;
  more?: boolean;
  messages: Array<ShownPrivateMessage>;
}

/** A message to one user, on the devices of both. */
export interface ShownPrivateMessage {
  type: "private_chat_message";
  sender: string;
  target: string;
  content: string;
  id?: string | number | null;
  timestamp: string;
  offset: number;
}

/** The users in a room. */
export interface OnlineUsers {
  type: "online";
  users: Array<string>;
  room?: string;
}

/** The messages before another one, oldest first; `more`: there are still older ones. */
export interface ShownEarlier {
  type: "earlier";
  epoch: string;
  more?: boolean;
  room?: string;
  messages: Array<ShownMessage | System | ShownForeign>;
}

/** All rooms. */
export interface RoomList {
  type: "rooms";
  rooms: Array<RoomEntry>;
}

/** One room, and how many users are in it. */
export interface RoomEntry {
  name: string;
  online: number;
}

/** The client has left the room. */
export interface Left {
  type: "left";
  room: string;
}

/** The answer to a ping. */
export interface Pong {
  type: "pong";
}

/** An error; with the `id` of the message that was not delivered, where it had one. */
export interface Error {
  type: "error";
  code: string;
  content: string;
  id?: string | number | null;
  room?: string;
}

/** Publish a message in a room; `id` makes a repetition harmless. */
export interface Chat {
  type: "chat";
  message: string;
  id?: string | number | null;
  room?: string;
}

/** Send a message to one user; `keep`: also to a user who is away, and to all devices of the sender. */
export interface PrivateChat {
  type: "private_chat";
  target_user: string;
  message: string;
  id?: string | number | null;
  keep?: boolean;
}

/** Ask for a pong. */
export interface Ping {
  type: "ping";
}

/** Present a token, as the first message. */
export interface Auth {
  type: "auth";
  token: string;
}

/** Ask for the users in a room. */
export interface Online {
  type: "online";
  room?: string;
}

/** Subscribe to one more room, from a position if there is one. */
export interface Join {
  type: "join";
  room: string;
  since?: number | null;
  epoch?: string;
}

/** Unsubscribe from a room. */
export interface Leave {
  type: "leave";
  room: string;
}

/** Ask for the messages of a room before one of them. */
export interface Earlier {
  type: "earlier";
  before: number;
  epoch?: string;
  room?: string;
}

/** Ask for the list of rooms. */
export interface Rooms {
  type: "rooms";
}

/** The channels: their parameters, what subscribers are shown, what clients publish. */
export interface Channels {
  chat: { parameters: Record<string, never>; published: ShownHistory | ShownInbox | OnlineUsers | ShownEarlier | ShownForeign | ShownMessage | ShownPrivateMessage | System | RoomList | Left | Pong | Error; accepted: Chat | PrivateChat | Ping | Auth | Online | Join | Leave | Earlier | Rooms };
  playground_name: { parameters: { name: string }; published: unknown; accepted: unknown };
  name: { parameters: { name: string }; published: unknown; accepted: unknown };
}

/** The calls: what they take, and what they return. */
export interface Calls {
}

const addresses: Record<keyof Channels, string> = {
  chat: "/ws/auth",
  playground_name: "playground:{name}",
  name: "{name}",
};

type TypedPublication<N extends keyof Channels> = { data: Channels[N]["published"]; offset?: number; tags?: Record<string, string> };

/** A subscription that knows its messages; all else is as in the client's own. */
type TypedSubscription<S, N extends keyof Channels> = Omit<S, "on" | "publish"> & {
  on(event: "publication", listener: (message: TypedPublication<N>) => void): unknown;
  on(event: "subscribing" | "subscribed" | "unsubscribed" | "join" | "leave" | "error" | "state", listener: (context: any) => void): unknown;
  publish(data: Channels[N]["accepted"]): Promise<unknown>;
};

/** The part of a client of tidewire.js that this module needs. */
interface TidewireLike {
  subscribe(channel: string, listener?: (message: any) => void, options?: any): any;
  publish(channel: string, data: any): Promise<any>;
  rpc(method: string, data?: any): Promise<any>;
}

/** The part of a client of the package `centrifuge` that this module needs. */
interface CentrifugeLike {
  newSubscription(channel: string, options?: any): any;
  publish(channel: string, data: any): Promise<any>;
  rpc(method: string, data: any): Promise<{ data: any }>;
}

/** The name of a channel. */
export function channel<N extends keyof Channels>(name: N, parameters: Channels[N]["parameters"]): string {
  return addresses[name].replace(/\{(\w+)\}/g, (_, key: string) => String((parameters as Record<string, unknown>)[key]));
}

/** A client of tidewire.js that knows the channels and calls. */
export function typedClient<C extends TidewireLike>(client: C) {
  return {
    client,
    subscribe<N extends keyof Channels>(
      name: N,
      parameters: Channels[N]["parameters"],
      listener?: (message: TypedPublication<N>) => void,
      options?: Parameters<C["subscribe"]>[2],
    ): TypedSubscription<ReturnType<C["subscribe"]>, N> {
      return client.subscribe(channel(name, parameters), listener, options);
    },
    publish<N extends keyof Channels>(name: N, parameters: Channels[N]["parameters"], data: Channels[N]["accepted"]): Promise<unknown> {
      return client.publish(channel(name, parameters), data);
    },
    rpc<N extends keyof Calls>(name: N, data: Calls[N]["takes"]): Promise<Calls[N]["returns"]> {
      return client.rpc(name as string, data);
    },
  };
}

/** A client of the package `centrifuge` that knows the channels and calls. */
export function typedCentrifuge<C extends CentrifugeLike>(client: C) {
  return {
    client,
    newSubscription<N extends keyof Channels>(
      name: N,
      parameters: Channels[N]["parameters"],
      options?: Parameters<C["newSubscription"]>[1],
    ): TypedSubscription<ReturnType<C["newSubscription"]>, N> {
      return client.newSubscription(channel(name, parameters), options);
    },
    publish<N extends keyof Channels>(name: N, parameters: Channels[N]["parameters"], data: Channels[N]["accepted"]): Promise<unknown> {
      return client.publish(channel(name, parameters), data);
    },
    async rpc<N extends keyof Calls>(name: N, data: Calls[N]["takes"]): Promise<Calls[N]["returns"]> {
      return (await client.rpc(name as string, data)).data;
    },
  };
}
