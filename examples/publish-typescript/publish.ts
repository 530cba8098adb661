// Publishes one event with the CloudEvents SDK, and sends it again until the gateway has an answer that is final.
//
// usage: node build/publish.js GATEWAY TOKEN_FILE TYPE DATA

import { readFile } from "node:fs/promises";
import { setTimeout } from "node:timers/promises";
import { CloudEvent, HTTP } from "cloudevents";

/** Longer than the gateway's own deadline of 10 s, so that its answer is heard. */
const ATTEMPT_MS = 15_000;
/** Then the caller keeps the event, or gives up. */
const DEADLINE_MS = 60_000;
/** What is worth sending again; 0 is no answer. Of a 5xx, too, nobody knows what came of it. */
const isPassing = (status: number) => status === 0 || status === 408 || status === 429 || status >= 500;

interface Answer {
  status: number;
  text: string;
  waitMs: number;
}

const [gateway, tokenFile, type, data] = process.argv.slice(2);
if (!gateway || !tokenFile || !type || !data) {
  throw new Error("usage: publish.js GATEWAY TOKEN_FILE TYPE DATA");
}
// The SDK gives the event an id and a time. The id is its identity everywhere: whoever sends it again keeps both.
const event = new CloudEvent({ type, source: "/examples/typescript", data: JSON.parse(data) });
const answer = await publish(event, (await readFile(tokenFile, "utf8")).trim());
console.log(answer.text);
if (isPassing(answer.status)) {
  console.error(`${event.id} may be in the log or not: whoever sends it again keeps this id and the time`);
}
process.exitCode = answer.status === 202 ? 0 : 1;

async function publish(event: CloudEvent<unknown>, token: string): Promise<Answer> {
  const { headers, body } = HTTP.structured(event);
  const sent = { "content-type": String(headers["content-type"]), authorization: `Bearer ${token}` };
  const request = { method: "POST", headers: sent, body: String(body) };
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    const answer = await attempt(request);
    if (!isPassing(answer.status) || Date.now() + answer.waitMs > deadline) {
      return answer;
    }
    await setTimeout(answer.waitMs);
  }
}

async function attempt(request: RequestInit): Promise<Answer> {
  try {
    const answer = await fetch(`${gateway}/v1/events`, { ...request, signal: AbortSignal.timeout(ATTEMPT_MS) });
    const seconds = Number.parseInt(answer.headers.get("retry-after") ?? "", 10); // a proxy may send a date
    const waitMs = 1000 * (seconds > 0 ? seconds : 1);
    return { status: answer.status, text: await answer.text(), waitMs };
  } catch (broken) {
    return { status: 0, text: `no answer: ${broken}`, waitMs: 1000 };
  }
}
