// The AsyncAPI document, as this page reads it.

const nameOf = (reference) => reference.$ref.split("/").at(-1);

export class Document {
  /** `place` is the URL that the document was loaded from. */
  constructor(value, place) {
    this.value = value;
    this.place = place;
  }

  get servers() {
    return Object.values(this.value.servers ?? {});
  }

  get security() {
    return Object.entries(this.value.components?.securitySchemes ?? {});
  }

  /** All channels that have an address, and the calls behind them: `{id, channel, isCall}`. */
  get parts() {
    return Object.entries(this.value.channels ?? {})
      .map(([id, channel]) => ({ id, channel, isCall: channel["x-tidewire-rpc"] !== undefined }))
      .sort((a, b) => Number(a.isCall) - Number(b.isCall));
  }

  /** The WebSocket that a page may try things with; undefined: the application has none. */
  get socket() {
    return this.servers.find(({ protocol }) => protocol.startsWith("ws"));
  }

  operations(id, action) {
    const all = Object.values(this.value.operations ?? {}).filter(({ channel }) => nameOf(channel) === id);
    return action ? all.filter((operation) => operation.action === action) : all;
  }

  /** The messages of an operation, or of its reply: `{name, schema, examples}`. */
  messages({ messages }) {
    return messages.map((reference) => {
      const message = this.value.components.messages[nameOf(reference)];
      return { name: message.title ?? message.name, schema: message.payload, examples: message.examples ?? [] };
    });
  }

  /** A schema with its references replaced. */
  resolved(schema) {
    return schema?.$ref ? { title: nameOf(schema), ...this.value.components.schemas[nameOf(schema)] } : (schema ?? {});
  }

  /** The first example of a message that clients send to a channel, or to a call. */
  example(id) {
    const sent = this.operations(id, "receive").flatMap((operation) => this.messages(operation));
    const example = sent.flatMap(({ examples }) => examples)[0];
    return JSON.stringify(example?.payload ?? { text: "Hello" }, null, 2);
  }
}
