// Uses a gateway as applications do, and prints what came of it as one JSON object.
// "small" calls tools (tests/tool_engine.py), "scripted" behaves as `scripted` in a request says (tests/scripted_engine.py).
import OpenAI, { APIConnectionError, APIError, APIUserAbortError } from "openai";

const options = { baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY ?? "none" };
const client = new OpenAI({ ...options, maxRetries: 0 });
const hello = [{ role: "user", content: "Say hello." }];
const ask = (more, how) => client.chat.completions.create({ model: "scripted", messages: hello, ...more }, how);

async function failure(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return {
      kind: error.constructor.name, status: error.status ?? null, code: error.code ?? null,
      known: error instanceof APIError, param: error.param ?? null, message: error.message,
    };
  }
}

async function text(stream) {
  let all = "";
  for await (const part of stream) all += part.choices[0]?.delta?.content ?? "";
  return all;
}

const tests = {
  async chat() {
    const { data, response } = await client.chat.completions.create({ model: "small", messages: hello, max_tokens: 8 }).withResponse();
    return { text: data.choices[0].message.content, tokens: data.usage.completion_tokens, job: response.headers.get("x-hocket-job") };
  },

  async stream() {
    const stream = await client.chat.completions.create({
      model: "small", messages: hello, max_tokens: 8, stream: true, stream_options: { include_usage: true },
    });
    let all = "", usage = null;
    for await (const part of stream) {
      all += part.choices[0]?.delta?.content ?? "";
      usage = part.usage ?? usage;
    }
    return { text: all, tokens: usage.completion_tokens };
  },

  async completion() {
    return (await client.completions.create({ model: "small", prompt: "One, two,", max_tokens: 4 })).choices[0].text;
  },

  async models() {
    const names = [];
    for await (const model of await client.models.list()) names.push(model.id);
    return names;
  },

  async tools() {
    const found = [];
    const search = {
      name: "search", description: "Look it up.", parse: JSON.parse, function: async ({ q }) => { found.push(q); return `found ${q}`; },
      parameters: { type: "object", properties: { q: { type: "string" } } },
    };
    const answers = [];
    for (const stream of [false, true]) {
      const runner = client.chat.completions.runTools({
        model: "small", stream, tools: [{ type: "function", function: search }],
        messages: [{ role: "user", content: 'script: search {"q": "a"} search {"q": "b"} | search {"q": "c"} | say Done.' }],
      });
      answers.push(await runner.finalContent());
    }
    return { found, answers };
  },

  async responses() {
    const first = await client.responses.create({ model: "small", input: "script: say One. | say Two." });
    const second = await client.responses.create({ model: "small", input: "Go on.", previous_response_id: first.id });
    let streamed = "";
    for await (const event of await client.responses.create({ model: "small", input: "script: say Three.", stream: true }))
      if (event.type === "response.output_text.delta") streamed += event.delta;
    return [first.output_text, second.output_text, streamed];
  },

  async embeddings() {
    const { data } = await client.embeddings.create({ model: "small", input: ["a", "b"], encoding_format: "float" });
    return data.map((one) => one.embedding);
  },

  async errors() {
    return {
      model: await failure(ask({ model: "none" })),
      identity: await failure(ask({}, { headers: { "x-hocket-urgency": "9" } })),
      engine: await failure(ask({ scripted: { do: "status", status: 422 } })),
      cut: await failure(ask({ stream: true, scripted: { do: "cut" } }).then(text)),
      nobody: (await failure(new OpenAI({ ...options, baseURL: "http://127.0.0.1:9/v1", maxRetries: 0 }).models.list())).kind,
    };
  },

  async retries() {
    const patient = new OpenAI({ ...options, maxRetries: 2 });
    const scripted = { do: "status", status: 429, retry_after: "0.01" };
    return failure(patient.chat.completions.create({ model: "scripted", messages: hello, scripted }));
  },

  // one slot: a call that is not over keeps the next one waiting
  async abort() {
    const came = {};
    for (const stream of [true, false]) {
      const controller = new AbortController();
      const call = ask({ stream, scripted: { chunks: 5000, gap_s: 0.01, first_s: stream ? 0 : 30 } }, { signal: controller.signal });
      if (stream) {
        const parts = (await call)[Symbol.asyncIterator]();
        await parts.next();
        controller.abort();
        await failure(parts.next());
      } else {
        setTimeout(() => controller.abort(), 100);
        came.error = (await failure(call)).kind;
      }
      const began = Date.now();
      came[stream ? "streamed" : "whole"] = (await ask({ scripted: {} }, { timeout: 5000 })).choices[0].message.content;
      came.waited = Math.max(came.waited ?? 0, Date.now() - began);
    }
    const parts = await ask({ stream: true, scripted: { chunks: 5000, gap_s: 0.01 } });
    for await (const part of parts) if (part) break; // leaving a loop aborts as well
    came.left = (await ask({ scripted: {} }, { timeout: 5000 })).choices[0].message.content;
    return came;
  },
};

const names = process.argv.slice(2);
const out = {};
for (const name of names) out[name] = await tests[name]();
console.log(JSON.stringify(out));
if (!(APIUserAbortError.prototype instanceof APIError) || !(APIConnectionError.prototype instanceof APIError)) process.exit(1);
