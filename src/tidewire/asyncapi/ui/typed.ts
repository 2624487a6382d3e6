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
