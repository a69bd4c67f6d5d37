/**
 * MQTT sessions that outlive the agent: what one life leaves, the next takes over when its settings are the same.
 *
 * Kept is, between `hold` and `settle`, the session that was closed meanwhile, by the settings it was opened with.
 * Whoever opens one with the same settings gets it as it stands, with its own handlers; the broker notices nothing.
 * What nobody takes over is closed with the farewell that it was left with. What arrives while nobody has the
 * session is not kept: the next life asks for what is remembered anyhow.
 */

import type { Mqtt, MqttHandlers, MqttOptions, System } from "../system/system.ts";

type Machine = Pick<System, "mqtt" | "after">;

/** What a session tells is for whoever has it now; nobody has it while it is left. */
interface Standing {
  readonly settings: string;
  readonly session: Mqtt;
  handlers: MqttHandlers | undefined;
  farewell?: { topic: string; payload: string };
}

export class Sessions {
  readonly #system: Machine;
  #holds = false;
  #left: Standing | undefined;

  constructor(system: Machine) {
    this.#system = system;
  }

  /** From now on a session that is closed is left standing for the next. */
  hold(): void {
    this.#holds = true;
  }

  /** The next life has what it wants: closes what it left. */
  async settle(): Promise<void> {
    this.#holds = false;
    const left = this.#left;
    this.#left = undefined;
    await left?.session.close(left.farewell);
  }

  /** `System.mqtt`, for a session that `settings` says everything about. */
  open(settings: string, options: MqttOptions, handlers: MqttHandlers): Mqtt {
    const left = this.#left;
    if (left?.settings === settings) {
      this.#left = undefined;
      left.handlers = handlers;
      // As with a new session, nothing is told before the caller has it.
      this.#system.after(0, () => {
        if (left.handlers === handlers && left.session.connected) handlers.onConnect();
      });
      return this.#given(left, handlers);
    }
    const standing: Standing = {
      settings,
      handlers,
      session: this.#system.mqtt(options, {
        onConnect: () => standing.handlers?.onConnect(),
        onDisconnect: (reason) => standing.handlers?.onDisconnect(reason),
        onMessage: (topic, payload, retained) => standing.handlers?.onMessage(topic, payload, retained),
        onRefusal: (topic, reason) => standing.handlers?.onRefusal?.(topic, reason),
      }),
    };
    return this.#given(standing, handlers);
  }

  /** The session as its present owner sees it; once closed it is nobody's, whoever has it next. */
  #given(standing: Standing, handlers: MqttHandlers): Mqtt {
    const { session } = standing;
    const isOurs = () => standing.handlers === handlers;
    return {
      get connected() {
        return isOurs() && session.connected;
      },
      get queuedBytes() {
        return session.queuedBytes;
      },
      get maxMessageBytes() {
        return session.maxMessageBytes;
      },
      publish: (topic, payload, options) => isOurs() && session.publish(topic, payload, options),
      subscribe: (topic) => {
        if (isOurs()) session.subscribe(topic);
      },
      unsubscribe: (topic) => {
        if (isOurs()) session.unsubscribe(topic);
      },
      close: async (farewell) => {
        if (!isOurs()) return;
        standing.handlers = undefined;
        if (!this.#holds || this.#left) return session.close(farewell);
        this.#left = standing;
        if (farewell) standing.farewell = farewell;
      },
    };
  }
}
